"""Every error that this project raises: a code, an HTTP status and one sentence.

    SmithersError
    ├── AuthoringError           the workflow is written wrongly; names the element
    │   ├── InvalidElement, DuplicateId, TaskIdRequired, TaskMissingOutput, NestedLoop, …
    │   └── WorkflowRenderFailed, WorkflowLoadFailed
    ├── InvalidInput             a value from outside does not fit; names the field
    ├── RunError                 a run is not there, or not in a state that allows the request
    ├── OwnershipError           another process owns the run, or took it over
    ├── TaskError                one attempt of a task failed; says whether another try can help
    ├── AgentError               what an agent or its provider answered
    ├── ToolError                what a tool could not do
    ├── VcsError                 what git could not do
    └── StorageError             the database refused

Codes are part of the wire contract. `error_object` turns any exception into the persisted form and cannot fail.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Collection, Mapping
from typing import ClassVar, cast

DOCS = "docs/reference/errors.md"

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
"""What JSON can hold. A documentation alias: recursion in it is by forward reference."""


class SmithersError(Exception):
    """Base of all errors of this project.

    Args:
        summary: one sentence for the person who has to act on it.
        details: machine-readable context; must hold JSON values only.
        code: overrides the class's code, for errors that came from a store or a wire.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = True
    """Whether a task that failed with this error may be tried again."""

    def __init__(self, summary: str, details: Mapping[str, object] | None = None, *, code: str | None = None) -> None:
        super().__init__(summary)
        self.summary = summary
        self.details: dict[str, object] = dict(details) if details else {}
        self._code = code

    @property
    def error_code(self) -> str:
        """The wire code of this error."""
        return self._code or type(self).code

    @property
    def docs_url(self) -> str:
        """Where the error is explained."""
        return f"{DOCS}#{self.error_code.lower()}"

    @property
    def is_retryable(self) -> bool:
        """Whether another attempt may help: the class's rule unless `details["failure_retryable"]` says otherwise."""
        flag = self.details.get("failure_retryable")
        return flag if isinstance(flag, bool) else type(self).retryable


# ── authoring ──────────────────────────────────────────────────────────────────────────────────────────────────────


class AuthoringError(SmithersError):
    """The workflow is written wrongly."""

    code, status, retryable = "INVALID_INPUT", 400, False


class InvalidElement(AuthoringError):
    """A property or child of an element is not allowed; the message names the element."""


class DuplicateId(AuthoringError):
    """Two elements of one tree share an id."""

    code = "DUPLICATE_ID"

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(
            f"two {kind} elements have the id {id!r}; ids must be unique in a tree", {"kind": kind, "id": id}
        )


class TaskIdRequired(AuthoringError):
    """A leaf has no id."""

    code = "TASK_ID_REQUIRED"


class TaskMissingOutput(AuthoringError):
    """A task names no output."""

    code = "TASK_MISSING_OUTPUT"


class TaskEmptyPrompt(AuthoringError):
    """An agent task has nothing to say to its agent."""

    code = "TASK_EMPTY_PROMPT"


class NestedLoop(AuthoringError):
    """A loop is used in a way that loops do not allow."""

    code = "NESTED_LOOP"


class WorktreeEmptyPath(AuthoringError):
    """A Worktree has no path."""

    code = "WORKTREE_EMPTY_PATH"


class UnknownOutputSchema(AuthoringError):
    """An output is named that `create_smithers` does not know."""

    code = "UNKNOWN_OUTPUT_SCHEMA"


class ApprovalOptionsRequired(AuthoringError):
    """An approval to select or rank has nothing to choose from."""

    code = "APPROVAL_OPTIONS_REQUIRED"


class ContextOutsideWorkflow(AuthoringError):
    """`use_ctx()` was called while nothing renders."""

    code = "CONTEXT_OUTSIDE_WORKFLOW"


class TaskRuntimeUnavailable(AuthoringError):
    """`task_runtime()` was called outside a running task."""

    code = "TASK_RUNTIME_UNAVAILABLE"


class MissingOutput(AuthoringError):
    """`ctx.output` asked for a row that is not there yet."""

    code = "MISSING_OUTPUT"


class DepNotSatisfied(AuthoringError):
    """A typed dependency has no row."""

    code = "DEP_NOT_SATISFIED"


class WorkflowRenderFailed(AuthoringError):
    """The workflow function raised."""

    code = "WORKFLOW_RENDER_FAILED"


class WorkflowLoadFailed(AuthoringError):
    """A workflow file cannot be imported, or holds no workflow."""

    code = "WORKFLOW_MISSING_DEFAULT"


class DependencyDeadlock(AuthoringError):
    """Tasks wait for each other, or for ids that are never mounted or entered; the message names the arm that has them."""

    code = "DEPENDENCY_DEADLOCK"


# ── values from outside ────────────────────────────────────────────────────────────────────────────────────────────


class InvalidInput(SmithersError):
    """A value from outside does not fit; the message names the field."""

    code, status, retryable = "INVALID_INPUT", 400, False


class SuperviseRequiresDetachOrServe(InvalidInput):
    """A supervisor was asked for beside a run that ends with its process."""

    code = "SUPERVISE_REQUIRES_DETACH_OR_SERVE"


class InputMismatch(InvalidInput):
    """A resume or repeated launch brought another input than the stored one."""

    code, status = "INPUT_MISMATCH", 409


class InvalidContinuation(InvalidInput):
    """The state given to ContinueAsNew is not JSON, or too large."""

    code = "INVALID_CONTINUATION_STATE"


class ContinuationTooLarge(InvalidContinuation):
    """The state given to ContinueAsNew is too large."""

    code = "CONTINUATION_STATE_TOO_LARGE"


# ── runs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── time travel ────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── ownership ──────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── tasks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class TaskError(SmithersError):
    """An attempt of a task failed."""

    code = "SESSION_ERROR"


class TaskFailed(TaskError):
    """A task has used up its attempts; the cause is the last attempt's error."""

    retryable = False


class SchedulerError(TaskError):
    """A saga or try block ended the run."""

    code, retryable = "SCHEDULER_ERROR", False


class InvalidOutput(TaskError):
    """What a task returned does not fit its output schema."""

    code = "INVALID_OUTPUT"


class TaskTimeout(TaskError):
    """A task took longer than its timeout."""

    code = "TASK_TIMEOUT"


class TaskHeartbeatTimeout(TaskError):
    """A task was silent for longer than its heartbeat timeout."""

    code = "TASK_HEARTBEAT_TIMEOUT"


class TaskAborted(TaskError):
    """A task was stopped from outside."""

    code = "TASK_ABORTED"


class HeartbeatTooLarge(TaskError):
    """A checkpoint is larger than 1,000,000 bytes."""

    code, retryable = "HEARTBEAT_PAYLOAD_TOO_LARGE", False


class HeartbeatNotJson(TaskError):
    """A checkpoint cannot be written as JSON."""

    code, retryable = "HEARTBEAT_PAYLOAD_NOT_JSON_SERIALIZABLE", False


class LoopMaxReached(TaskError):
    """A loop with `on_max_reached="fail"` used up its iterations."""

    code, retryable = "RALPH_MAX_REACHED", False


class ApprovalDenied(TaskError):
    """A gate or approval was denied."""

    code, retryable = "APPROVAL_DENIED", False


class WaitTimeout(TaskError):
    """Nobody decided, answered or signalled in time."""

    code, retryable = "WAIT_TIMEOUT", False


class ForkError(TaskError):
    """The conversation that a task wants to go on with is not there."""

    code, retryable = "TASK_FORK_SOURCE_NOT_FOUND", False


# ── agents ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class AgentError(SmithersError):
    """An agent could not do its work."""

    code = "AGENT_CLI_ERROR"


class AgentQuotaExceeded(AgentError):
    """The provider's limit is used up; costs no retry."""

    code = "AGENT_QUOTA_EXCEEDED"


class AgentConfigInvalid(AgentError):
    """The agent is set up wrongly (unknown model, bad key); trying again cannot help."""

    code, retryable = "AGENT_CONFIG_INVALID", False


class AgentAuthFailed(AgentConfigInvalid):
    """The provider refused the agent's credentials; the agent is left out for the rest of the run."""


class AgentSessionLost(AgentError):
    """The conversation that the agent was to go on with does not exist any more; another try starts a fresh one."""

    code = "AGENT_SESSION_LOST"


class ProcessTimeout(AgentError):
    """An external program took longer than its timeout and was killed with all its children."""

    code = "PROCESS_TIMEOUT"


class ProcessIdleTimeout(AgentError):
    """An external program wrote nothing for longer than its idle timeout and was killed with all its children."""

    code = "PROCESS_IDLE_TIMEOUT"


class ProcessSpawnFailed(AgentError):
    """An external program could not be started: not found, not executable, or its folder is missing."""

    code, retryable = "PROCESS_SPAWN_FAILED", False


# ── requests over HTTP ─────────────────────────────────────────────────────────────────────────────────────────────


class RequestError(SmithersError):
    """A request over HTTP cannot be answered as it was made."""

    code, status, retryable = "INVALID_REQUEST", 400, False


class InvalidRequest(RequestError):
    """A field, parameter or header of a request does not fit; the message names it."""


class InvalidJson(RequestError):
    """A request's body is not JSON."""

    code = "INVALID_JSON"


class RunIdRequired(RequestError):
    """A run is to be resumed, and none is named."""

    code = "RUN_ID_REQUIRED"


class DbNotConfigured(RequestError):
    """The server was started without a database of its own, which this route needs."""

    code = "DB_NOT_CONFIGURED"


class Unauthorized(RequestError):
    """A request carries no valid token or signature."""

    code, status = "UNAUTHORIZED", 401


class HostForbidden(RequestError):
    """A server without a token answers only requests that are addressed to, and come from, this machine."""

    code, status = "FORBIDDEN", 403


class NotFound(RequestError):
    """There is nothing at this path."""

    code, status = "NOT_FOUND", 404


class CronNotFound(NotFound):
    """No schedule with this id is stored."""


class TicketNotFound(NotFound):
    """No document is stored under this path, or it was deleted."""


class ScoreNotFound(NotFound):
    """The run has no score with this id."""

    code = "ScoreNotFound"


class AccountsFileInvalid(RequestError):
    """The file that lists agent accounts cannot be read as one."""

    code, status = "ACCOUNTS_FILE_INVALID", 500


class StateConflict(RequestError):
    """The request fits, but not the state that its object is in."""

    status = 409


class PayloadTooLarge(RequestError):
    """A request's body is larger than the server takes."""

    code, status = "PAYLOAD_TOO_LARGE", 413


class QueueFull(RequestError):
    """Too many accepted requests wait to be worked off."""

    code, status, retryable = "SERVER_ERROR", 503, True


class QuotaExceeded(RequestError):
    """There is no room for another run, and as many as may wait for room do so already."""

    code, status, retryable = "QUOTA_EXCEEDED", 429, True


class ServerInsecureBind(RequestError):
    """A server without a token was to listen beyond this machine."""

    code = "SERVER_INSECURE_BIND"


class ServeInsecureBind(ServerInsecureBind):
    """A run without a token was to be served beyond this machine."""

    code = "SERVE_INSECURE_BIND"


class GatewayInsecureBind(ServerInsecureBind):
    """A gateway without a token was to listen beyond this machine."""

    code = "GATEWAY_INSECURE_BIND"


class ServerIntegrationsRequireDb(RequestError):
    """Webhooks were configured for a server without a database of its own."""

    code = "SERVER_INTEGRATIONS_REQUIRE_DB"


# ── tools ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class ToolError(SmithersError):
    """A tool could not do what it was asked for. An agent sees it as the tool's answer; a compute task fails with it."""

    code, status = "TOOL_COMMAND_FAILED", 422


class ToolPathInvalid(ToolError):
    """A path is empty, not text, or holds characters that no path can have."""

    code, status, retryable = "TOOL_PATH_INVALID", 400, False


class ToolPathEscape(ToolError):
    """A path leads out of the tool's root folder, by its text or through a symbolic link."""

    code, status, retryable = "TOOL_PATH_ESCAPE", 403, False


class ToolFileUnavailable(ToolError):
    """A file cannot be opened: it is missing, not a regular file, or its permissions forbid it."""

    code, status = "TOOL_FILE_UNAVAILABLE", 404


class ToolFileTooLarge(ToolError):
    """A file has more bytes than the tools may handle at once."""

    code, status, retryable = "TOOL_FILE_TOO_LARGE", 413, False


class ToolContentTooLarge(ToolError):
    """What is to be written has more bytes than the tools may handle at once."""

    code, status, retryable = "TOOL_CONTENT_TOO_LARGE", 413, False


class ToolPatchTooLarge(ToolError):
    """A patch has more bytes than the tools may handle at once."""

    code, status, retryable = "TOOL_PATCH_TOO_LARGE", 413, False


class ToolPatchFailed(ToolError):
    """A patch is not a unified diff of one file, or does not fit the file; nothing was changed."""

    code, status = "TOOL_PATCH_FAILED", 409


class ToolGrepFailed(ToolError):
    """A search could not be carried out, for instance because its pattern is no regular expression."""

    code = "TOOL_GREP_FAILED"


class ToolCommandFailed(ToolError):
    """A command ended with another exit code than 0, or was not found (127)."""

    code = "TOOL_COMMAND_FAILED"


class ToolNetworkDisabled(ToolError):
    """A command would need the network, which is off."""

    code, status, retryable = "TOOL_NETWORK_DISABLED", 403, False


class ToolGitRemoteDisabled(ToolError):
    """A git command would talk to a remote repository while the network is off."""

    code, status, retryable = "TOOL_GIT_REMOTE_DISABLED", 403, False


class ToolSandboxUnavailable(ToolError):
    """This machine cannot enforce the isolation that commands must run in, so nothing was run."""

    code, status, retryable = "TOOL_SANDBOX_UNAVAILABLE", 503, False


# ── version control ────────────────────────────────────────────────────────────────────────────────────────────────


class VcsError(SmithersError):
    """Version control could not do it: the folder is in no repository, or git failed. Says why, and the way out."""

    code = "VcsError"


class VcsNotFound(VcsError):
    """The program that would have to do it is not installed."""

    code = "VCS_NOT_FOUND"


class WorktreeCreateFailed(VcsError):
    """The working tree that tasks are to work in could not be made."""

    code = "WORKTREE_CREATE_FAILED"


class WorkingTreeDirty(VcsError):
    """Files were changed that no checkpoint of the run holds; going back would take them away."""

    code, status = "WorkingTreeDirty", 409


class AttemptNotFinished(RunError):
    """The attempt is still under way, or there is nothing on record that it could be compared by."""

    code = "AttemptNotFinished"


class DiffTooLarge(SmithersError):
    """The difference is larger than what is sent."""

    code, status, retryable = "DiffTooLarge", 413, False


# ── storage ────────────────────────────────────────────────────────────────────────────────────────────────────────


class StorageError(SmithersError):
    """The database refused; nothing of the request was written."""

    code, status = "STORAGE_ERROR", 500


class StorageBusy(StorageError):
    """Another process held the database's write lock for too long."""

    code, status = "DB_WRITE_FAILED", 503


class StorageSaturated(StorageError):
    """All connections to the database stayed in use for too long."""

    code, status = "STORAGE_ERROR", 503


class StorageUnreachable(StorageError):
    """The database server cannot be reached, or cut the connection; nothing of the request was written."""

    code, status = "STORAGE_ERROR", 503


class OutcomeUnknown(StorageError):
    """The connection was cut while a commit was under way: the request was written wholly or not at all."""

    code, status = "STORAGE_ERROR", 503


class StorageReadOnly(StorageError):
    """The database file or its folder cannot be written."""

    code = "DB_WRITE_FAILED"


class StorageFull(StorageError):
    """The disk is full."""

    code, status = "DB_WRITE_FAILED", 507


class StorageCorrupt(StorageError):
    """The file is not a database, or is damaged."""

    code = "STORAGE_ERROR"


class StoreNotFound(StorageError):
    """There is no database at this place."""

    code, status = "CLI_DB_NOT_FOUND", 404


class MigrationRequired(StorageError):
    """The database was written by a newer version of this project."""

    code = "SMITHERS_MIGRATION_REQUIRED"


class MalformedOutputRow(StorageError):
    """A stored row holds something that its column cannot hold."""

    code = "MalformedOutputRow"


class IncompatibleSchema(StorageError):
    """An output table holds a column of another type than the model has now."""

    code, status = "DB_MISSING_COLUMNS", 409


# ── the persisted form ─────────────────────────────────────────────────────────────────────────────────────────────

_MAX_DEPTH = 32


def error_object(error: BaseException, *, with_stack: bool = True) -> dict[str, object]:
    """The stored and sent form of errors: `{name, code?, message, summary?, docsUrl?, details?, cause?, stack?}`.

    JSON-safe by construction: cycles become `"[Circular]"`, non-finite numbers null, integers beyond 64 bits strings.
    Without what looks like a credential, and with long texts cut. Never raises.
    """
    from smithers.observability.redaction import scrub_value  # nothing that goes well needs it

    return cast("dict[str, object]", scrub_value(_error_object(error, set(), with_stack)))


def _error_object(error: BaseException, seen: set[int], with_stack: bool) -> dict[str, object]:
    if id(error) in seen:
        return {"name": type(error).__name__, "message": "[Circular]"}
    seen = seen | {id(error)}
    out: dict[str, object] = {"name": type(error).__name__}
    if isinstance(error, SmithersError):
        out["code"] = error.error_code
        out["message"] = f"{error.summary} See {error.docs_url}"
        out["summary"] = error.summary
        out["docsUrl"] = error.docs_url
        if error.details:
            out["details"] = json_safe(error.details)
    else:
        try:
            out["message"] = str(error) or type(error).__name__
        except Exception:  # a broken __str__ must not hide the failure itself
            out["message"] = type(error).__name__
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and len(seen) < _MAX_DEPTH:
        out["cause"] = _error_object(cause, seen, False)
    if with_stack and not isinstance(error, SmithersError) and error.__traceback__ is not None:
        frames = traceback.format_exception(type(error), error, error.__traceback__, limit=-20, chain=False)
        out["stack"] = "".join(frames)
    return out


def json_safe(value: object, _seen: frozenset[int] = frozenset()) -> object:
    """A copy of `value` that JSON can hold; what it cannot hold becomes a string, null or `"[Circular]"`."""
    match value:
        case None | bool() | str():
            return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        case int():
            return value if -(2**63) <= value < 2**63 else str(value)
        case float():
            return value if math.isfinite(value) else None
        case BaseException():
            return error_object(value, with_stack=False)
        case Mapping() | list() | tuple() | set() | frozenset():
            if id(cast(object, value)) in _seen or len(_seen) >= _MAX_DEPTH:
                return "[Circular]"
            seen = _seen | {id(cast(object, value))}
            if isinstance(value, Mapping):
                items = cast("Mapping[object, object]", value).items()
                return {str(k): json_safe(v, seen) for k, v in items if not callable(v)}
            return [json_safe(v, seen) for v in cast("Collection[object]", value)]
        case _:
            try:
                return str(value)
            except Exception:
                return f"<{type(value).__name__}>"
