"""Errors of whoever writes a workflow or brings a value from outside."""

from __future__ import annotations

from smithers.errors.base import SmithersError

# ── authoring ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── values from outside ───────────────────────────────────────────────────────────────────────────────────────────────


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
