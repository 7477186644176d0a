"""Errors of work: attempts of tasks, agents, tools, and version control."""

from __future__ import annotations

from smithers.errors.base import SmithersError
from smithers.errors.runs import RunError

# ── tasks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


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


class ReplayUnsafe(TaskError):
    """An earlier attempt may have had effects that must not be repeated, and its task says that there is to be no other."""

    code, retryable = "TASK_REPLAY_UNSAFE", False


class WaitTimeout(TaskError):
    """Nobody decided, answered or signalled in time."""

    code, retryable = "WAIT_TIMEOUT", False


class ForkError(TaskError):
    """The conversation that a task wants to go on with is not there."""

    code, retryable = "TASK_FORK_SOURCE_NOT_FOUND", False


class ExecutorUnavailable(TaskError):
    """Where a task is to be computed cannot be reached, or what it takes to reach it is not installed."""

    code, status = "EXECUTOR_UNAVAILABLE", 503


class TaskNotPortable(TaskError):
    """A task's function, what it is given or what it returns cannot be sent to another process."""

    code, retryable = "TASK_NOT_PORTABLE", False


class WorkerLost(TaskError):
    """The worker that computed a task is gone, and the result with it."""

    code = "WORKER_LOST"


# ── agents ────────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── tools ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── version control ───────────────────────────────────────────────────────────────────────────────────────────────────


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
