"""The journal: a record of each tool call, durable before the call runs, so that a crash leaves a trace of it.

`Journal` is implemented by the engine. What a tool is, and what it may do, is declared in `define.py` and `builtins.py`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import uuid4

from pydantic_core import to_json

from smithers.errors import error_object, json_safe
from smithers.tools.context import ToolContext, current_context

T = TypeVar("T")
_WARNED_CALLS = 5
_WARNED_CHARS = 200


class CallStatus(StrEnum):
    """How far a call has come. A record that a crash left at `INTENDED` counts as `UNKNOWN`."""

    INTENDED = "intended"
    SUCCEEDED = "succeeded"
    UNKNOWN = "unknown"
    """It failed or was stopped: its effect may have happened or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallRecord:
    """One call of a tool: a row of `_smithers_tool_calls`. `call_token` is unique; times are in ms since the epoch."""

    run_id: str
    node_id: str
    iteration: int
    attempt: int
    seq: int
    call_token: str
    tool_name: str
    input_json: str
    started_at_ms: int
    status: CallStatus = CallStatus.INTENDED
    finished_at_ms: int | None = None
    output_json: str | None = None
    error_json: str | None = None
    kind: str = "tool"
    side_effect: bool = False
    idempotent: bool = True
    accepts_idempotency_key: bool = False
    has_revert: bool = False
    idempotency_key: str | None = None
    is_output_cut: bool = False
    contained: bool = False
    """Whether it could change nothing but the folder that its task works in."""

    @property
    def is_unsafe(self) -> bool:
        """Whether a repetition may do harm that nobody could take notice of: then no other attempt begins unasked."""
        is_risky = self.side_effect and not self.idempotent
        return is_risky and not self.accepts_idempotency_key and not self.contained


class Journal(Protocol):
    """Keeps records of tool calls. Its methods are awaited in the loop that the tool was called in: the engine's for
    async work, another one's where a worker thread runs a loop of its own."""

    async def intended(self, record: ToolCallRecord) -> None:
        """Keep a record of a call that is about to run. If it has a side effect, the record is durable on return.
        Raising keeps the call from running."""
        ...

    async def finished(self, record: ToolCallRecord) -> None:
        """Complete the record with the same `call_token`: status, output or error, and the time. As durable as its
        beginning was."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """What is declared about a tool."""

    name: str
    description: str
    side_effect: bool = False
    idempotent: bool = True
    accepts_idempotency_key: bool = False
    has_revert: bool = False
    touches_files: bool = False
    contained: Callable[[ToolContext], bool] | None = None
    """Whether a call that is made in a context can change nothing but the folder that its task works in; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCtx:
    """What a tool's function may know about its call. `idempotency_key` is the same in every attempt, different for
    every call within one, and None outside a run."""

    tool_name: str
    root_dir: Path
    run_id: str | None = None
    node_id: str | None = None
    iteration: int = 0
    attempt: int = 0
    seq: int = 0
    idempotency_key: str | None = None
    aborted: threading.Event = field(default_factory=threading.Event)


async def recorded(spec: ToolSpec, arguments: object, call: Callable[[ToolCtx], Awaitable[T]]) -> T:
    """Carry out a call with a record of it before and after; without a journal, just carry it out.

    Raises:
        whatever the call raises, or the journal: then the call has not run, or its end is not recorded.
    """
    context = current_context()
    if spec.touches_files and context.on_touch is not None:
        await asyncio.to_thread(context.touch)
    seq, key = context.next_call(spec.name)
    ctx = ToolCtx(
        tool_name=spec.name,
        root_dir=context.root_dir,
        run_id=context.run_id,
        node_id=context.node_id,
        iteration=context.iteration,
        attempt=context.attempt,
        seq=seq,
        idempotency_key=key,
        aborted=context.aborted or threading.Event(),
    )
    journal = context.journal
    record = _record(spec, context, ctx, arguments) if journal is not None else None
    if journal is None or record is None:
        return await call(ctx)
    limit = context.max_output_bytes
    await journal.intended(record)
    try:
        value = await call(ctx)
    except BaseException as error:  # cancellation too: the effect may have happened
        text = _error(error, limit)
        done = replace(record, status=CallStatus.UNKNOWN, finished_at_ms=_now_ms(), error_json=text)
        await asyncio.shield(journal.finished(done))
        raise
    text, is_cut = _bounded_json(value, limit)
    done = replace(
        record, status=CallStatus.SUCCEEDED, finished_at_ms=_now_ms(), output_json=text, is_output_cut=is_cut
    )
    await asyncio.shield(journal.finished(done))
    return value


def _record(spec: ToolSpec, context: ToolContext, ctx: ToolCtx, arguments: object) -> ToolCallRecord | None:
    if context.run_id is None or context.node_id is None:
        return None
    return ToolCallRecord(
        run_id=context.run_id,
        node_id=context.node_id,
        iteration=context.iteration,
        attempt=context.attempt,
        seq=ctx.seq,
        call_token=uuid4().hex,
        tool_name=spec.name,
        input_json=_json(arguments, context.max_output_bytes),
        started_at_ms=_now_ms(),
        side_effect=spec.side_effect,
        idempotent=spec.idempotent,
        accepts_idempotency_key=spec.accepts_idempotency_key,
        has_revert=spec.has_revert,
        idempotency_key=ctx.idempotency_key,
        contained=spec.contained is not None and spec.contained(context),
    )


def retry_warning(earlier: Iterable[ToolCallRecord]) -> str | None:
    """What an agent is told before another attempt about effects that its earlier ones may have had; None if there
    were none. Names at most five calls.

    Args:
        earlier: records of the task's earlier attempts.
    """
    risky = [call for call in earlier if call.side_effect and not call.idempotent]
    if not risky:
        return None
    lines = [
        "An earlier attempt of this task has already called tools that must not be repeated blindly. Check what they "
        "did before you call them again:"
    ]
    for call in risky[:_WARNED_CALLS]:
        outcome = "succeeded" if call.status is CallStatus.SUCCEEDED else "may or may not have taken effect"
        shown = call.input_json
        shown = shown if len(shown) <= _WARNED_CHARS else shown[:_WARNED_CHARS] + "…"
        lines.append(f"- attempt {call.attempt}: {call.tool_name} {shown} {outcome}")
    if len(risky) > _WARNED_CALLS:
        lines.append(f"- and {len(risky) - _WARNED_CALLS} more")
    return "\n".join(lines)


def _json(value: object, limit: int) -> str:
    return _bounded_json(value, limit)[0]


def _bounded_json(value: object, limit: int) -> tuple[str, bool]:
    """JSON, and whether it was cut: of at most `limit` bytes or so; of more, an object with its size and its beginning."""
    try:
        text = to_json(value, inf_nan_mode="null")
    except Exception:  # what JSON cannot hold is kept as well as it can be
        text = to_json(json_safe(value))
    if len(text) > limit:
        head = text[: limit // 2].decode(errors="ignore")  # as a JSON string it may take twice its length
        return to_json({"truncated": True, "bytes": len(text), "head": head}).decode(), True
    return text.decode(), False


def _error(error: BaseException, limit: int) -> str:
    found = error_object(error, with_stack=False)
    text = to_json(found)
    if len(text) > limit:
        text = to_json(
            {name: str(found[name])[:_WARNED_CHARS] for name in ("name", "code", "message") if name in found}
        )
    return text.decode()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
