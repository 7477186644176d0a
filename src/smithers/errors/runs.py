"""Errors about runs: not there, not in a state that allows the request, somebody else's; and about their history."""

from __future__ import annotations

from smithers.errors.base import SmithersError

# ── runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class RunError(SmithersError):
    """A run is not there, or not in a state that allows the request."""

    status, retryable = 409, False


class RunNotFound(RunError):
    """No run with this id is stored here."""

    code, status = "RUN_NOT_FOUND", 404

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id!r} not found", {"runId": run_id})


class NodeNotFound(RunError):
    """The run has no node with this id."""

    code, status = "NODE_NOT_FOUND", 404


class IterationNotFound(RunError):
    """The node has no such iteration."""

    code, status = "IterationNotFound", 404


class AttemptNotFound(RunError):
    """The node has no attempt with this number."""

    code, status = "AttemptNotFound", 404


class NodeHasNoOutput(RunError):
    """The node writes no row, whatever becomes of it."""

    code, status = "NodeHasNoOutput", 404


class RunAlreadyExists(RunError):
    """A run with this id is stored already."""

    code = "RUN_ALREADY_EXISTS"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id!r} exists already; resume it, or choose another run id", {"runId": run_id})


class RunNotActive(RunError):
    """The run has ended, so it takes no more requests."""

    code = "RUN_NOT_ACTIVE"

    def __init__(self, run_id: str, status: str) -> None:
        super().__init__(f"run {run_id!r} is {status}", {"runId": run_id, "status": status})


class RunActive(RunError):
    """The run has not ended, and what was asked for is about runs that have."""

    code = "RUN_ACTIVE"


class RunNotResumable(RunError):
    """The run was continued as another run."""

    code = "RUN_NOT_RESUMABLE"


class ResumeMetadataMismatch(RunError):
    """The workflow's source or name differs from what the run recorded."""

    code = "RESUME_METADATA_MISMATCH"


class AlreadyDecided(RunError):
    """The approval was decided before, differently."""

    code = "AlreadyDecided"


class Forbidden(SmithersError):
    """The caller may not do this."""

    code, status, retryable = "FORBIDDEN", 403, False


class UnsafeReload(RunError):
    """Changed source cannot take over a run that goes on: what the run has stored would not fit it."""

    code = "SCHEMA_CHANGE_HOT"


class RunCancelled(RunError):
    """The run was cancelled."""

    code = "RUN_CANCELLED"


class WorkflowExecutionFailed(RunError):
    """A child run ended badly."""

    code, status = "WORKFLOW_EXECUTION_FAILED", 500


class SideEffectBlocked(RunError):
    """History cannot be changed: what tasks did outside after that moment would stay done, unknown to the run."""

    code = "TIME_TRAVEL_SIDE_EFFECT_BLOCKED"


class LateToolCompletion(RunError):
    """A tool call ended after its effect was reverted, so the effect stands although the run says that it does not."""

    code = "LateToolCompletion"


# ── time travel ───────────────────────────────────────────────────────────────────────────────────────────────────────


class TimeTravelError(RunError):
    """Going back in a run, or doing a part of it again, was refused or failed."""


class ConfirmationRequired(TimeTravelError):
    """A rewind destroys what came after; it must be confirmed."""

    code, status = "ConfirmationRequired", 400


class FrameOutOfRange(TimeTravelError):
    """The run has no frame of this number."""

    code, status = "FrameOutOfRange", 400


class NotRunOwner(TimeTravelError):
    """Only an administrator or whoever launched the run may take it back."""

    code, status = "Unauthorized", 401


class TravelBusy(TimeTravelError):
    """The history of the run is being changed by somebody else at this moment."""

    code, retryable = "Busy", True


class TravelRateLimited(TimeTravelError):
    """This caller has taken the run back too often within the last hour."""

    code, status, retryable = "RateLimited", 429, True


class UnsupportedSandbox(TimeTravelError):
    """A sandbox that the run uses cannot be put back to what it was."""

    code, status = "UnsupportedSandbox", 501


class RewindFailed(TimeTravelError):
    """A rewind broke off; effects may have been undone although the run is as it was."""

    code, status = "RewindFailed", 500


# ── ownership ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class OwnershipError(RunError):
    """Another process owns the run."""


class RunOwnerAlive(OwnershipError):
    """The owner of the run is alive on this machine."""

    code = "RUN_OWNER_ALIVE"


class RunStillRunning(OwnershipError):
    """The owner of the run has sent a heartbeat lately."""

    code = "RUN_STILL_RUNNING"


class LeaseLost(OwnershipError):
    """Another process took the run over; nothing of this commit was written."""

    code = "RUN_RESUME_CLAIM_LOST"


class AutoResumeGaveUp(OwnershipError):
    """The run was taken over several times without getting any further."""

    code = "AUTO_RESUME_GAVE_UP"
