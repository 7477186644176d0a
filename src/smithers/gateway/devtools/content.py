"""Content: what a node shows: its type, its properties, its task. Pure functions of the frame and of what is stored of the task.

The structure is that of a frame; states, attempts and what agents did are as they are stored now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from pydantic_core import from_json, to_json

from smithers.engine.retry import default_retries
from smithers.jsons import object_of, text_of
from smithers.observability.redaction import scrub

if TYPE_CHECKING:
    from smithers.store.sql.devtools import TaskRow

TYPES: Final = {
    "smithers:workflow": "workflow",
    "smithers:task": "task",
    "smithers:human": "task",
    "smithers:sequence": "sequence",
    "smithers:saga-step": "sequence",
    "smithers:parallel": "parallel",
    "smithers:merge-queue": "merge-queue",
    "smithers:branch": "branch",
    "smithers:ralph": "loop",
    "smithers:worktree": "worktree",
    "smithers:approval": "approval",
    "smithers:timer": "timer",
    "smithers:subflow": "subflow",
    "smithers:wait-for-event": "wait-for-event",
    "smithers:saga": "saga",
    "smithers:try-catch-finally": "try-catch",
    "smithers:fragment": "fragment",
}
"""How clients call what a frame calls otherwise; everything else is `unknown`."""

KINDS: Final = frozenset({"agent", "compute", "static", "human", "approval"})
"""The kinds that have a `task`. Waits, timers and subflows show their state among their properties."""
MAX_PROMPT: Final = 4_000
AGENTS: Final = "agentSummary"
"""A stored property that is shown in the task instead: the agents that it is given."""
_LOOKED_AT: Final = 2 * MAX_PROMPT
"""How much of a prompt is searched for credentials: one that the cut goes through would not be recognised."""


def type_of(tag: str) -> str:
    """A node's type."""
    return TYPES.get(tag, "unknown")


def props_text(tag: str, props: Mapping[str, str], row: TaskRow | None) -> str:
    """A node's properties as JSON."""
    if row is None or props.get("kind") in KINDS:
        return _text({name: text for name, text in props.items() if name != AGENTS} if AGENTS in props else props)
    shown: dict[str, object] = {**props, "state": row.state}
    if row.last_attempt is not None:
        shown["attempt"] = row.last_attempt
    return _text(shown)


def task_text(props: Mapping[str, str], children: Sequence[object], row: TaskRow | None) -> str | None:
    """A node's `task` as JSON; None where it has none."""
    kind = props.get("kind")
    if kind not in KINDS:
        return None
    iteration = props.get("iteration")
    task: dict[str, object] = {"nodeId": props.get("id", ""), "kind": kind, "iteration": int(iteration or 0)}
    prompt = next((child for child in children if isinstance(child, str)), None) if kind == "agent" else None
    label = props.get("label")
    if row is not None:
        label = row.label or label
        task["state"] = row.state
        if row.last_attempt is not None:
            task["attempt"] = row.last_attempt
        if row.output_table is not None:
            task["outputTableName"] = row.output_table
        if kind == "agent" and row.meta_json is not None:
            ran, sent = _ran(row.meta_json)
            prompt = sent or prompt
            if ran:
                task["agentRan"] = ran
                task["agent"] = ran.get("agentId") or ran.get("engine")
    if kind == "agent":
        summary = _declared(props.get(AGENTS))
        if summary:
            task["agentSummary"] = summary
            task.setdefault("agent", summary.get("label") or summary.get("engine"))
    task["maxAttempts"] = _max_attempts(kind, props.get("retries"))
    if label:
        task["label"] = label
    if prompt:
        task["prompt"] = _shown(prompt)
    return _text({name: value for name, value in task.items() if value is not None})


def _declared(text: str | None) -> dict[str, object]:
    """The agents that a task is given, as its frame tells."""
    if text is None:
        return {}
    try:
        return object_of(from_json(scrub(text)))
    except ValueError:
        return {}


def _max_attempts(kind: str, retries: str | None) -> int:
    """How often a task is tried at most."""
    return 1 + (int(retries) if retries is not None and retries.isdecimal() else default_retries(kind))


def _ran(meta_json: str) -> tuple[dict[str, object], str | None]:
    """Which agent has worked, and what it was asked; the text may end anywhere."""
    try:
        meta = object_of(from_json(meta_json, allow_partial="trailing-strings"))
    except ValueError:
        return {}, None
    names = {"agentId": "agentId", "engine": "agentEngine", "model": "agentModel"}
    ran: dict[str, object] = {
        name: scrub(text) for name, stored in names.items() if (text := text_of(meta.get(stored))) is not None
    }
    return ran, text_of(meta.get("prompt"))


def _shown(prompt: str) -> str:
    shown = scrub(prompt[:_LOOKED_AT])
    return shown if len(shown) <= MAX_PROMPT else shown[:MAX_PROMPT] + "…"


def _text(value: object) -> str:
    return to_json(value, inf_nan_mode="null").decode()
