"""Spans: what the events of a run say about how long things took, in the form of a trace. Pure.

A drive of a run is a span; below it a task (a node's iteration, from its first start or wait to its end), its attempts, and
in an attempt the agents that were asked and the tools that were called. Metrics take durations from them, and
`export.py` sends them. Ids are made from names, so that each process that goes on with a run extends the same trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from pydantic_core import from_json

from smithers.events import TERMINAL_TYPES, EventRow
from smithers.jsons import object_of, text_of
from smithers.observability.context import RunInfo

MAX_RUNS: Final = 10_000
MAX_OPEN: Final = 20_000
"""Spans that may be open in one run; what begins beyond that is not traced."""

Key: TypeAlias = tuple[str | int, ...]
Kind: TypeAlias = Literal["run", "task", "attempt", "agent", "tool"]
Status: TypeAlias = Literal["unset", "ok", "error"]

_WAITS: Final = {
    "NodeWaitingApproval": "approval",
    "NodeWaitingTimer": "timer",
    "NodeWaitingEvent": "event",
    "NodeWaitingQuota": "quota",
}
_ENDS: Final = {
    "NodeFinished": "finished",
    "NodeFailed": "failed",
    "NodeCancelled": "cancelled",
    "NodeSkipped": "skipped",
}
_TOKENS: Final = (
    ("inputTokens", "input_tokens"),
    ("outputTokens", "output_tokens"),
    ("cacheReadTokens", "cache_read_tokens"),
    ("cacheWriteTokens", "cache_write_tokens"),
    ("reasoningTokens", "reasoning_tokens"),
)
_DETAILED: Final = frozenset({"NodeStarted", "AgentEvent", "TokenUsageReported", "ToolCallStarted", "ToolCallFinished"})
TOLD: Final = (
    _DETAILED
    | _WAITS.keys()
    | _ENDS.keys()
    | TERMINAL_TYPES
    | {
        "RunStarted",
        "RunStatusChanged",
        "NodePending",
        "NodeRetrying",
    }
)
"""The events that say anything about a duration."""
_SHORT: Final = 32
"""Payloads up to here are alike in most runs, and are kept as they were read."""


@dataclass(slots=True)
class Span:
    """Something that took time. Times in ms since the epoch; `key` names it within its run, `parent` what it lies in."""

    kind: Kind
    run: RunInfo
    key: Key
    parent: Key | None
    start_ms: int
    end_ms: int = 0
    attributes: dict[str, object] = field(default_factory=dict[str, object])
    status: Status = "unset"
    error: Mapping[str, object] | None = None

    @property
    def duration_ms(self) -> int:
        """How long it took."""
        return max(0, self.end_ms - self.start_ms)


@dataclass(slots=True)
class _Run:
    drive: Span | None = None
    open: dict[Key, Span] = field(default_factory=dict[Key, Span])
    inside: dict[Key, list[Key]] = field(default_factory=dict[Key, list[Key]])
    """What was begun within each attempt under way."""
    ending: tuple[Key, int] | None = None
    """A task that has failed or was stopped, and when: the next event says whether it is tried again."""


class Spans:
    """Follows the events of runs, each run's in order."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def take(self, info: RunInfo, row: EventRow) -> list[Span]:
        """Take an event in; the spans that it ends."""
        if row.type not in TOLD:
            return []
        state = self._runs.get(info.run_id)
        if state is None:
            if row.type != "RunStarted":
                return []
            state = self._runs[info.run_id] = _Run()
            if len(self._runs) > MAX_RUNS:
                del self._runs[next(iter(self._runs))]
        done: list[Span] = []
        if state.ending is not None:
            key, at = state.ending
            state.ending = None
            is_again = row.type in ("NodeRetrying", "NodePending") and key == ("task", row.node_id, row.iteration)
            if not is_again:
                _end(state, done, key, at)
        payload = _payload(row.payload)
        if row.node_id is None:
            self._of_run(state, done, info, row, payload)
        else:
            _of_node(state, done, info, row, (row.node_id, row.iteration or 0), payload)
        return done

    def close(self) -> list[Span]:
        """Spans that are still open, as far as they have come: the process ends."""
        done: list[Span] = []
        for state in self._runs.values():
            last = max((span.start_ms for span in state.open.values()), default=0)
            _end_all(state, done, max(last, state.drive.end_ms if state.drive else 0), "interrupted", only_drive=False)
        self._runs.clear()
        return done

    def _of_run(
        self, state: _Run, done: list[Span], info: RunInfo, row: EventRow, payload: Mapping[str, object]
    ) -> None:
        now = row.timestamp_ms
        if row.type == "RunStarted":
            if state.drive is not None:  # its process has died
                _end_all(state, done, now, "interrupted", only_drive=False)
            attributes: dict[str, object] = {} if info.parent_run_id is None else {"parent_run_id": info.parent_run_id}
            state.drive = Span("run", info, ("run", row.seq), None, now, now, attributes)
        elif row.type in TERMINAL_TYPES:
            if state.drive is not None:
                error = object_of(payload.get("error"))
                state.drive.error = error or None
                state.drive.status = "error" if row.type == "RunFailed" else "ok"
            status = row.type.removeprefix("Run").removesuffix("AsNew").lower()
            _end_all(state, done, now, status, only_drive=False)
            self._runs.pop(info.run_id, None)
        elif row.type == "RunStatusChanged":
            status = text_of(payload.get("status")) or ""
            if state.drive is not None and (status.startswith("waiting-") or status == "paused"):
                state.drive.attributes["wait_reason"] = status.removeprefix("waiting-")
                _end_all(state, done, now, status, only_drive=True)


def _payload(text: str | None) -> Mapping[str, object]:
    if not text:
        return {}
    return _short_payload(text) if len(text) <= _SHORT else object_of(from_json(text))


@lru_cache(maxsize=256)
def _short_payload(text: str) -> Mapping[str, object]:
    return object_of(from_json(text))


def _of_node(
    state: _Run, done: list[Span], info: RunInfo, row: EventRow, node: tuple[str, int], payload: Mapping[str, object]
) -> None:
    now, task = row.timestamp_ms, ("task", *node)
    number = payload.get("attempt")
    attempt: Key = ("attempt", *node, number if isinstance(number, int) else 0)
    match row.type:
        case "NodeStarted":
            _begin(state, "task", info, task, None if state.drive is None else state.drive.key, now, node)
            span = _begin(state, "attempt", info, attempt, task, now, node)
            if span is not None:
                span.attributes["attempt"] = attempt[-1]
                state.open[task].attributes["attempt"] = attempt[-1]
        case "NodeWaitingApproval" | "NodeWaitingTimer" | "NodeWaitingEvent" | "NodeWaitingQuota":
            reason = _WAITS[row.type]
            for key in (*state.inside.pop(attempt, ()), attempt):
                _end(state, done, key, now, f"waiting-{reason}")
            span = _begin(state, "task", info, task, None if state.drive is None else state.drive.key, now, node)
            if span is not None:
                span.attributes["wait_reason"] = reason
        case "NodeFinished" | "NodeFailed" | "NodeCancelled" | "NodeSkipped":
            status = _ENDS[row.type]
            error = object_of(payload.get("error")) or None
            outcome: Status = "error" if status == "failed" else "ok" if status == "finished" else "unset"
            for key in state.inside.pop(attempt, ()):
                _end(state, done, key, now, "interrupted")
            for key in (attempt, task):
                span = state.open.get(key)
                if span is not None:
                    span.status, span.error, span.attributes["status"] = outcome, error, status
            _end(state, done, attempt, now)
            if outcome == "ok" or status == "skipped":
                _end(state, done, task, now)
            else:
                state.ending = (task, now)
        case "ToolCallStarted" | "ToolCallFinished":
            _of_tool(state, done, info, row, attempt, payload)
        case "AgentEvent" | "TokenUsageReported":
            _of_agent(state, done, info, row, attempt, payload)
        case _:
            pass


def _of_tool(
    state: _Run, done: list[Span], info: RunInfo, row: EventRow, attempt: Key, payload: Mapping[str, object]
) -> None:
    key: Key = ("tool", str(payload.get("toolCallId")))
    if row.type == "ToolCallStarted":
        agent = state.open.get(("agent", *attempt[1:]))
        parent = attempt if agent is None else agent.key
        span = _begin(state, "tool", info, key, parent, row.timestamp_ms, (str(row.node_id), row.iteration or 0))
        if span is not None:
            state.inside.setdefault(attempt, []).append(key)
            span.attributes |= {"attempt": attempt[-1], "tool_name": text_of(payload.get("toolName")) or "unknown"}
    elif (span := state.open.get(key)) is not None:
        span.status = "error" if payload.get("status") == "error" else "ok"
        _end(state, done, key, row.timestamp_ms, text_of(payload.get("status")))


def _of_agent(
    state: _Run, done: list[Span], info: RunInfo, row: EventRow, attempt: Key, payload: Mapping[str, object]
) -> None:
    """One agent at a time is asked in an attempt; a chain's next one begins when the one before has failed."""
    key: Key = ("agent", *attempt[1:])
    if row.type == "TokenUsageReported":
        span = state.open.get(key)
        if span is not None:
            for name in ("agent", "model"):
                span.attributes[name] = text_of(payload.get(name)) or "unknown"
            for field, name in _TOKENS:
                count, before = payload.get(field), span.attributes.get(name, 0)
                if isinstance(count, int) and isinstance(before, int):
                    span.attributes[name] = before + count
        return
    told = object_of(payload.get("event"))
    if told.get("type") == "started":
        _end(state, done, key, row.timestamp_ms, "interrupted")
        span = _begin(state, "agent", info, key, attempt, row.timestamp_ms, (str(row.node_id), row.iteration or 0))
        if span is not None:
            engine = text_of(payload.get("engine")) or "unknown"
            span.attributes |= {"attempt": attempt[-1], "agent": text_of(told.get("title")) or engine, "engine": engine}
            span.key = (*key, row.seq)
            state.inside.setdefault(attempt, []).append(key)
    elif told.get("type") == "completed" and (span := state.open.get(key)) is not None:
        is_ok = told.get("ok") is not False
        span.status = "ok" if is_ok else "error"
        if not is_ok:
            span.error = {"name": "AgentError", "message": text_of(told.get("error")) or "the agent failed"}
        _end(state, done, key, row.timestamp_ms, "finished" if is_ok else "failed")


def _begin(
    state: _Run, kind: Kind, info: RunInfo, key: Key, parent: Key | None, now: int, node: tuple[str, int]
) -> Span | None:
    """The open span of this key, begun now if need be; None where too many are open."""
    span = state.open.get(key)
    if span is None and len(state.open) < MAX_OPEN:
        span = state.open[key] = Span(kind, info, key, parent, now)
        span.attributes |= {"node_id": node[0], "iteration": node[1]}
    return span


def _end(state: _Run, done: list[Span], key: Key, now: int, status: str | None = None) -> None:
    span = state.open.pop(key, None)
    if span is not None:
        span.end_ms = now
        if status is not None:
            span.attributes["status"] = status
        done.append(span)


def _end_all(state: _Run, done: list[Span], now: int, status: str, *, only_drive: bool) -> None:
    if not only_drive:
        for key in list(state.open):
            _end(state, done, key, now, None if "status" in state.open[key].attributes else status)
    if state.drive is not None:
        state.drive.end_ms = max(now, state.drive.start_ms)
        state.drive.attributes["status"] = status
        done.append(state.drive)
        state.drive = None
