"""What the reference says that the code has no place for. See `generate.py`."""

# ruff: noqa: INP001 - read by a script beside it

from __future__ import annotations

COMPONENTS = """\
Calls set properties, brackets set children: `Sequence(id="a")[first, second]`. A component without properties takes its
children directly: `Sequence[first, second]`. A child is an element, a list or generator of them, or `None` or `False`,
which add nothing. Every mistake is an error with the element's name, raised where it is written."""

API = "What a program imports from `smithers`, beside the [components](components.md), and the modules named below."

MORE = {
    "smithers.agents": ["AgentCall", "AgentResponse", "Usage"],
    "smithers.control.control": ["Control"],
    "smithers.control.caller": ["Caller"],
    "smithers.store": ["open_store"],
    "smithers.testing": ["example", "ScriptedAgent"],
}

ERRORS = """\
Every error of this package is a `SmithersError` (in `smithers.errors`) with a `code`, an HTTP `status`, a `summary` for
the person who has to act, and `details` for a program. Errors of a run are stored as objects
`{name, code, message, summary, details?, cause?, docsUrl}`; an exception of a task's own keeps its class's name and its
traceback, and has no code."""

CODES = {
    "GATEWAY_ALREADY_RUNNING": "A gateway serves this workspace already; there is one at most.",
    "TASK_FORK_SESSION_UNAVAILABLE": "The task named by `fork` has not kept a conversation.",
    "WORKFLOW_PATH_OUTSIDE_ROOT": "The workflow file is not below the approved folder.",
}

EVENTS_HEAD = """\
Events are written in the transaction of the state that they tell of, and numbered per run from 0 without gaps. On the wire
each is one JSON object: `type`, `runId`, `timestampMs`, for events of a node `nodeId` and `iteration`, and the fields
below. `on_progress` of `run_workflow` gets the same objects."""

EVENTS = {
    "AgentEvent": "What an agent reports while it works: the call has begun, a tool is used, it has ended.",
    "ApprovalAutoApproved": "An approval needed nobody (`auto_approve`).",
    "ApprovalDenied": "A person said no.",
    "ApprovalGranted": "A person said yes.",
    "ApprovalRequested": "An approval or a human task was reached; it waits for a person.",
    "EffectRevertFailed": "Undoing an effect failed: it counts as standing.",
    "EffectRevertFinished": "An effect was undone.",
    "EffectRevertStarted": "An effect is about to be undone, before history is changed. Committed before its `revert` runs.",
    "FrameCommitted": "The tree differs from the one before; the new one is stored under this frame.",
    "NodeCancelled": "An attempt was stopped, or a wait given up; `reason` says why.",
    "NodeFailed": "An attempt failed.",
    "NodeFinished": "The node has its result, which is committed with this event.",
    "NodeOutput": "Text that an agent wrote while it worked.",
    "NodePending": "The node is mounted, or is to run again.",
    "NodeRetrying": "Another attempt follows, after a delay.",
    "NodeSkipped": "The node will not run.",
    "NodeStarted": "An attempt begins. Committed before the work is started.",
    "NodeWaitingApproval": "The node waits for a decision.",
    "NodeWaitingEvent": "The node waits for a signal.",
    "NodeWaitingQuota": "All agents of the task have used up their limits; it waits for the first to be reset.",
    "NodeWaitingTimer": "The node waits for a moment.",
    "ReplayStarted": "The run was forked to go on at once from `parentFrameNo` of another.",
    "RevertFinished": "Files were put back to what an attempt had left, or could not be; the run itself is as it was.",
    "RevertStarted": "Files are about to be put back to what an attempt had left: the commit `jjPointer`.",
    "RetryTaskFinished": "The nodes are pending again, and the run goes on.",
    "RetryTaskStarted": "A node is to be done again, with what was started after it had ended (`resetNodes`).",
    "RunAutoResumed": "A process took over a run whose owner was gone.",
    "RunAutoResumeSkipped": "A process saw a run without a living owner, and did not take it over.",
    "RunCancelled": "The run was cancelled. The last event of a run, unless somebody resumes it.",
    "RunContinuedAsNew": "The run ended and goes on as `newRunId`.",
    "RunFailed": "The run failed; `error` says why.",
    "RunFinished": "The run finished. `failedChildKeys` lists failures that were tolerated.",
    "RunForked": "The run begins as another was at `parentFrameNo`; what that had told of its nodes by then follows.",
    "RunHijackRequested": "Somebody has asked to take the run over; `target` is who or what, if they said.",
    "RunPauseRequested": "Somebody asked the run to pause.",
    "RunCancelRequested": "Somebody asked for the run to be cancelled.",
    "RunStarted": "A process begins to drive the run: at launch and at every resume.",
    "RunStatusChanged": "The run has another status.",
    "SideEffectBoundaryCrossed": "History was changed although effects stand (`report`): by force, in a fork "
    "(`warningOnly`), or because a call ended after its effect was undone (`lateCompletion`).",
    "SignalReceived": "A signal was accepted for the run.",
    "TaskHeartbeat": "A task said that it is alive, perhaps with a checkpoint.",
    "TaskWaitingForWorker": "A task computed elsewhere has waited long for a worker; `fits`: whether any node has what it takes.",
    "TimeTravelFinished": "The node is as before the attempt, and the run goes on.",
    "TimeTravelInterrupted": "The process that took the run back died over it. The run is as it was, but effects may have "
    "been undone.",
    "TimeTravelJumped": "The run was taken back to `toFrameNo`; what was told after that frame is not its history any more.",
    "TimeTravelStarted": "A node is to be taken back to before an attempt, with what was started after it had ended.",
    "TimerCancelled": "A timer will not fire: its node was unmounted, or the run ended.",
    "TimerCreated": "A timer, a timeout or a backoff is counted from now; it fires at `firesAtMs`.",
    "TimerFired": "The moment has come.",
    "ToolCallFinished": "A call of a tool has ended; `error`: it failed or was stopped, and its effect may have happened or not.",
    "ToolCallStarted": "A tool is called. Committed before the call runs, if the tool has a side effect.",
    "TokenUsageReported": "What a turn of an agent used.",
    "WorkflowPatchRecorded": "`is_patched` was decided for this run.",
    "WorkflowReloadDetected": "The workflow's source changed during the run (`up --hot`); the next event says what came of it.",
    "WorkflowReloaded": "The run goes on with changed source: loaded during the run, or accepted by whoever resumed it.",
    "WorkflowReloadFailed": "The changed source cannot be imported or rendered; the run goes on with what it had.",
    "WorkflowReloadUnsafe": "The changed source does not fit what is stored, as `reason` says; the run goes on with what it had.",
}

SETTINGS = """\
A process makes one `Settings` and passes it down; `Settings.from_environment()` takes what is set in the environment and
defaults for the rest. Nothing else in the package looks at the environment, but for agents, which read theirs when they
are called."""

VARIABLES = {
    "OPENAI_API_KEY": "the key for `openai_compatible(...)`, if none is given to it",
    "OPENAI_BASE_URL": "the endpoint for `openai_compatible(...)`, if none is given to it",
    "SMITHERS_MODEL": "the model's name for `openai_compatible(...)`, if none is given to it",
    "SMITHERS_GATEWAY_URL": "given to the command of `smithers token exec`: where the gateway is, if it runs",
    "SMITHERS_ROOT_DIR": "given to the commands of the `bash` tool: the folder that they may write in",
    "SMITHERS_RUN_ID": "given to the programs of `CommandAgent`: the run that they work for",
    "SMITHERS_NODE_ID": "given to the programs of `CommandAgent`: the task",
    "SMITHERS_ITERATION": "given to the programs of `CommandAgent`: the iteration of the task's loop",
    "SMITHERS_ATTEMPT": "given to the programs of `CommandAgent`: the number of the attempt, from 1",
}

NOT_MADE_BY_USERS = {"Context", "Element", "Output", "Outputs", "SmithersWorkflow"}
"""Classes whose instances come from elsewhere; their constructors are left out."""

METHODS = {
    "Context": {
        *("output", "output_maybe", "latest", "outputs", "output_rows", "latest_array"),
        *("iteration_count", "prove", "signal_rows", "is_patched"),
    },
    "Engine": {"launch", "start", "attach", "resume", "close"},
    "Outputs": set[str](),
    "SmithersWorkflow": set[str](),
}
"""The methods that are for users, of classes that have others for the rest of the package."""

ATTRIBUTES = {
    "run_id": "The run.",
    "status": "Where it stands.",
    "node_id": "The task.",
    "iteration": "The iteration of the task's loop, from 0.",
    "output": "The structured answer.",
    "key": "The key in `create_smithers`.",
    "model": "The Pydantic model.",
    "usage": "The tokens that were used.",
    "input_tokens": "Tokens of the prompt.",
    "output_tokens": "Tokens of the answer.",
    "cache_read_tokens": "Of the prompt, read from the provider's cache.",
    "cache_write_tokens": "Of the prompt, written to the provider's cache.",
    "reasoning_tokens": "Of the answer, used for reasoning.",
    "user": "A name; compared with `allowed_users`.",
    "role": "For records.",
    "scopes": "What the caller may do; compared with `allowed_scopes`.",
}

SHARED = {
    "api_key": "The endpoint's key; the environment's if not given.",
    "base_url": "The endpoint; the environment's if not given.",
    "clock": "The time; the machine's by default.",
    "cwd": "The folder to work in; the task's if not given.",
    "data": "A checkpoint: any JSON value.",
    "db": "The database, instead of the workflow's own.",
    "input": "The input: a JSON object or an instance of the input model.",
    "instructions": "What the agent is told before every prompt.",
    "model": "The model's name.",
    "models": "Output key to Pydantic model.",
    "tools": "Functions that the model may call.",
    "parent_run_id": "The run that started this one.",
    "id": "Unique in the tree, the same in every render and after a restart.",
    "key": "Tells siblings without an id apart when elements are generated.",
    "label": "A name for people.",
    "meta": "Anything to be stored with the node.",
    "output": "The model, `outputs.<key>` or key whose table takes the result.",
    "output_schema": "Validates the result, where it is another model than the output's.",
    "skip_if": "For a Task: do not run, count as done, write no row. For everything else: mount nothing.",
    "depends_on": "Ids that must be done before.",
    "needs": "Name to node id: orders, and for a callable child hands over the row.",
    "continue_on_fail": "A final failure counts as done.",
    "failure_policy": "`quarantine` lets a failed leaf fail alone and skips what depends on it; inherited.",
    "priority": "Higher goes first among what waits for room.",
    "timeout_ms": "The longest time, in milliseconds.",
    "heartbeat_timeout_ms": "The longest silence, in milliseconds.",
    "retries": "Extra attempts.",
    "no_retry": "The same as `retries=0`.",
    "retry_policy": "How long to wait between attempts: a `RetryPolicy` or a mapping of its fields.",
    "wait_async": "Later siblings of a Sequence go on while this waits.",
    "on_timeout": "What a timeout does: `fail`, `skip` or `continue`.",
    "correlation_id": "Tells signals of one name apart.",
    "tagged": "Rows say whether a signal or a timeout came.",
    "max_concurrency": "At most so many leaves of the group at once.",
    "subtree_concurrency": "At most so many children with work begun and not ended.",
    "request": "`{title, summary, metadata}`, what the person sees.",
    "on_deny": "`fail`, `continue` or `skip`.",
    "when": "Whether a person is asked at all; computed at every render.",
    "state": "What the next run finds as `ctx.continuation`.",
}
