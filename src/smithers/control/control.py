"""Control: the one way from a door to the store. CLI, servers and gateway call this and add only their framing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress

from pydantic_core import from_json, to_json

from smithers.components.waits import correlation
from smithers.control import views
from smithers.control.caller import Caller
from smithers.control.decisions import judge_answer, judge_decision
from smithers.engine import leases
from smithers.engine.clock import Clock, SystemClock
from smithers.engine.hub import Hub, follow
from smithers.errors import InvalidInput, NodeNotFound
from smithers.events import EventRow
from smithers.records import dataclass
from smithers.store.calls import ToolCallRow
from smithers.store.interface import ApprovalRow, AttemptRow, HumanRow, NodeRow, RunRow, StoredSignal
from smithers.store.sql import calls, lineage, reads
from smithers.store.sql.store import SqlStore

MAX_SIGNAL_BYTES = 1_048_576
MAX_NAME = 256
STATUSES = (
    "running",
    "waiting-approval",
    "waiting-event",
    "waiting-timer",
    "waiting-quota",
    "paused",
    "finished",
    "failed",
    "cancelled",
    "continued",
)


@dataclass(frozen=True, slots=True)
class RunReport:
    """Everything that `inspect` shows of a run, read in one snapshot."""

    run: RunRow
    state: dict[str, object]
    input: object
    config: dict[str, object]
    nodes: list[NodeRow]
    attempts: list[AttemptRow]
    approvals: list[ApprovalRow]
    humans: list[HumanRow]
    timers: list[dict[str, object]]
    loops: list[dict[str, object]]
    children: list[str]


class Control:
    """Requests to runs of one store, from whoever may make them.

    Args:
        store: where the runs live.
        hub: wakes readers in this process; an engine's own, if there is one.
    """

    def __init__(self, store: SqlStore, *, clock: Clock | None = None, hub: Hub | None = None) -> None:
        self.store = store
        self.clock: Clock = clock or SystemClock()
        self._hub = hub

    # ── decisions, answers, signals ────────────────────────────────────────────────────────────────────────────────

    async def decide(
        self,
        run_id: str,
        node_id: str | None = None,
        iteration: int | None = None,
        *,
        approved: bool,
        caller: Caller,
        note: str | None = None,
        decision: Mapping[str, object] | None = None,
    ) -> ApprovalRow:
        """Decide an approval, once. Durable on return; the run goes on through whoever owns or can claim it.

        Args:
            node_id: may be left out when exactly one approval is open.
            decision: `{selected: key}` or `{ranked: [key, …]}` for approvals that offer a choice.

        Raises:
            RunNotFound, RunNotActive, NodeNotFound, AlreadyDecided, InvalidInput, Forbidden.
        """
        node, number = await self._open_approval(run_id, node_id, iteration)
        return await self.store.decide(
            run_id,
            node,
            number,
            self.clock.now_ms(),
            lambda row: judge_decision(row, caller, approved=approved, note=note, decision=decision),
        )

    async def _open_approval(self, run_id: str, node_id: str | None, iteration: int | None) -> tuple[str, int]:
        await self.run(run_id)
        rows = await self.store.aread(lambda c: reads.approvals(c, run_id))
        found = [r for r in rows if node_id in (None, r.node_id) and iteration in (None, r.iteration)]
        if len(found) == 1:
            return found[0].node_id, found[0].iteration
        if node_id is not None and not found:
            return node_id, iteration or 0  # the store tells decided ones from unknown ones
        listed = ", ".join(f"{r.node_id} (iteration {r.iteration})" for r in rows)
        if not found:
            raise NodeNotFound(f"run {run_id!r} has no open approval", {"runId": run_id})
        raise InvalidInput(
            f"several approvals are open; name one of: {listed}", {"candidates": [r.node_id for r in rows]}
        )

    async def answer(
        self, run_id: str, node_id: str | None, value: object, *, caller: Caller, iteration: int | None = None
    ) -> HumanRow:
        """Answer a human task. Raises `NodeNotFound`, `InvalidInput` (naming the field), `AlreadyDecided` or `RunNotActive`."""
        await self.run(run_id)
        rows = await self.store.aread(lambda c: reads.human_requests(c, run_id))
        found = [r for r in rows if node_id in (None, r.node_id) and iteration in (None, r.iteration)]
        if not found:
            raise NodeNotFound(
                f"run {run_id!r} asks nobody" + (f" at {node_id!r}" if node_id else ""), {"runId": run_id}
            )
        if len(found) > 1:
            listed = ", ".join(f"{r.node_id} (iteration {r.iteration})" for r in found)
            raise InvalidInput(f"several questions are open; name one of: {listed}")
        return await self.store.answer(
            found[0].request_id, self.clock.now_ms(), lambda row: judge_answer(row, caller, value)
        )

    async def signal(
        self,
        run_id: str,
        name: str,
        payload: object = None,
        *,
        correlation_id: str | None = None,
        caller: Caller | None = None,
        idempotency_key: str | None = None,
    ) -> StoredSignal:
        """Deliver a signal to a run and its live descendants. Durable on return; queued if nobody waits for it yet.

        Raises:
            RunNotFound, RunNotActive, InvalidInput (name, size, not JSON, key used for another signal).
        """
        name = name.strip() if isinstance(name, str) else ""
        if not name or len(name) > MAX_NAME:
            raise InvalidInput(f"signal name must have 1 to {MAX_NAME} characters")
        try:
            text = to_json({} if payload is None else payload, inf_nan_mode="constants")
            from_json(text, allow_inf_nan=False)
        except Exception as error:
            raise InvalidInput(f"signal payload is not JSON: {error}") from error
        if len(text) > MAX_SIGNAL_BYTES:
            raise InvalidInput(f"signal payload has {len(text)} bytes; at most {MAX_SIGNAL_BYTES} are allowed")
        by = None if caller is None else caller.user
        return await self.store.signal(
            run_id, name, correlation(correlation_id), text.decode(), self.clock.now_ms(), by, idempotency_key
        )

    # ── requests ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def cancel(self, run_id: str, *, source: str, patience_s: float = 0.0) -> RunRow:
        """Cancel a run and its children. Durable on return: a live owner ends it in a moment, else it is ended here.

        Args:
            source: who asks, for the record.
            patience_s: how long to wait for a live owner, in seconds.

        Raises:
            RunNotFound, RunNotActive.
        """
        row = await self.store.request_cancel(run_id, self.clock.now_ms(), source)
        fence = None if row.runtime_owner_id is None else (row.runtime_owner_id, row.epoch)
        if row.status != "running" or leases.may_take_over(row, self.clock.now_ms()):
            await self.store.finalize_cancel(run_id, self.clock.now_ms(), fence)
        return await self._until(run_id, lambda r: r.status == "cancelled", patience_s)

    async def pause(self, run_id: str, *, patience_s: float = 0.0) -> RunRow:
        """Ask a live run, and the runs of its subflows, to finish what is under way and pause; resuming the run resumes
        those. Raises `RunNotFound` or `RunNotActive`."""
        await self.store.request_pause(run_id, self.clock.now_ms())
        return await self._until(run_id, lambda r: r.status != "running", patience_s)

    async def _until(self, run_id: str, is_there: Callable[[RunRow], bool], patience_s: float) -> RunRow:
        row = await self.run(run_id)
        if is_there(row) or patience_s <= 0:
            return row
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop = self.store.watch(_in_loop(loop, changed.set))
        try:
            async with asyncio.timeout(patience_s):
                while not is_there(row := await self.run(run_id)):
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            return row
        finally:
            stop()
        return row

    # ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, run_id: str) -> RunRow:
        """One run. Raises `RunNotFound`."""
        return await self.store.aread(lambda c: reads.run(c, run_id))

    async def runs(self, statuses: Sequence[str] = (), limit: int = 100) -> list[RunRow]:
        """Runs, newest first. Raises `InvalidInput` for an unknown status."""
        _require_known(statuses)
        return await self.store.aread(lambda c: reads.runs(c, statuses, limit))

    async def overview(self, statuses: Sequence[str] = (), limit: int = 100) -> list[tuple[RunRow, dict[str, object]]]:
        """Runs, newest first, each with its derived state. Raises `InvalidInput` for an unknown status."""
        _require_known(statuses)
        now = self.clock.now_ms()

        def query(c: reads.Session) -> list[tuple[RunRow, dict[str, object]]]:
            found: list[tuple[RunRow, dict[str, object]]] = []
            for run in reads.runs(c, statuses, limit):
                is_parked = run.status.startswith("waiting-")
                nodes = reads.nodes(c, run.run_id) if is_parked else []
                timers = reads.timers(c, run.run_id) if is_parked else []
                asked = lineage.asked(c, run.run_id) if run.status == "waiting-approval" else []
                found.append((run, views.run_state(run, nodes=nodes, asked=asked, timers=timers, now_ms=now)))
            return found

        return await self.store.aread(query)

    async def inspect(self, run_id: str) -> RunReport:
        """Everything about a run. Raises `RunNotFound`."""
        now = self.clock.now_ms()

        def query(c: reads.Session) -> RunReport:
            run = reads.run(c, run_id)
            input_json, config_json = reads.spec(c, run_id)
            nodes = reads.nodes(c, run_id)
            approvals = reads.approvals(c, run_id, only_open=False)
            timers = reads.timers(c, run_id)
            asked = lineage.asked(c, run_id) if run.status == "waiting-approval" else []
            return RunReport(
                run=run,
                state=views.run_state(run, nodes=nodes, asked=asked, timers=timers, now_ms=now),
                input=from_json(input_json),
                config=from_json(config_json),
                nodes=nodes,
                attempts=reads.attempts(c, run_id),
                approvals=approvals,
                humans=reads.human_requests(c, run_id, only_open=False),
                timers=[t._asdict() for t in timers],
                loops=[loop._asdict() for loop in reads.loops(c, run_id)],
                children=[child.run_id for child in reads.runs(c, (), 1000, parent=run_id)],
            )

        return await self.store.aread(query)

    async def output(self, run_id: str, node_id: str, iteration: int | None = None) -> tuple[int, dict[str, object]]:
        """A node's output row: (iteration, fields). The newest iteration if none is given. Raises `NodeNotFound`."""

        def query(c: reads.Session) -> tuple[int, dict[str, object]] | None:
            reads.run(c, run_id)
            table = next(
                (n.output_table for n in reads.nodes(c, run_id) if n.node_id == node_id and n.output_table), None
            )
            if table is None:
                return None
            found = reads.output(c, table, run_id, node_id, iteration)
            kinds = reads.column_kinds(c, table)
            return None if found is None else (found[0], {k: _decoded(v, kinds.get(k)) for k, v in found[1].items()})

        row = await self.store.aread(query)
        if row is None:
            at = "" if iteration is None else f" (iteration {iteration})"
            raise NodeNotFound(
                f"node {node_id!r}{at} of run {run_id!r} has no output", {"runId": run_id, "nodeId": node_id}
            )
        return row

    async def open_approvals(self, run_id: str | None = None) -> list[ApprovalRow]:
        """Open approvals, oldest first."""
        return await self.store.aread(lambda c: reads.approvals(c, run_id))

    async def events(
        self, run_id: str, after: int = -1, limit: int = 1000, node_id: str | None = None
    ) -> list[EventRow]:
        """Events with a number above `after`. Raises `RunNotFound`."""

        def query(c: reads.Session) -> list[EventRow]:
            reads.run(c, run_id)
            return reads.events(c, run_id, after, limit, node_id=node_id)

        return await self.store.aread(query)

    async def tool_calls(
        self,
        run_id: str,
        node_id: str | None = None,
        *,
        iteration: int | None = None,
        attempt: int | None = None,
        limit: int = 1000,
    ) -> list[ToolCallRow]:
        """Calls of tools in a run, or in a node, an iteration or an attempt of it, in the order in which they began; the
        newest `limit`. One whose attempt is over before it ended has the status `unknown`. Raises `RunNotFound`."""

        def query(c: reads.Session) -> list[ToolCallRow]:
            is_live = reads.run(c, run_id).status == "running"
            found = calls.tool_calls(c, run_id, node_id, iteration, attempt, limit)
            if not any(call.status == "started" for call in found):
                return found
            attempts = reads.attempts(c, run_id, node_id)
            at_work = {(a.node_id, a.iteration, a.attempt) for a in attempts if a.finished_at_ms is None}
            return [
                call._replace(status="unknown")
                if call.status == "started" and not (is_live and call[1:4] in at_work)
                else call
                for call in found
            ]

        return await self.store.aread(query)

    async def follow(self, run_id: str, after: int = -1) -> AsyncIterator[EventRow]:
        """Events after a number, then each as it is committed by whichever process, until the run has ended."""
        await self.run(run_id)
        hub = self._hub or Hub()
        loop = asyncio.get_running_loop()
        stop = self.store.watch(_in_loop(loop, lambda: hub.wake(run_id))) if self._hub is None else None
        try:
            async for row in follow(hub, self.store, run_id, after):
                yield row
        finally:
            if stop is not None:
                stop()

    async def usage(self, run_id: str) -> dict[tuple[str, int], tuple[int, int]]:
        """Reported tokens of a run's nodes: (input, output) by (node, iteration). Raises `RunNotFound`."""
        found: dict[tuple[str, int], tuple[int, int]] = {}
        after = -1
        while rows := await self.events(run_id, after, 5000):
            for row in rows:
                if row.type == "TokenUsageReported" and row.payload is not None:
                    payload: dict[str, int] = from_json(row.payload)
                    key = (row.node_id or "", row.iteration or 0)
                    before = found.get(key, (0, 0))
                    found[key] = (before[0] + payload.get("inputTokens", 0), before[1] + payload.get("outputTokens", 0))
            after = rows[-1].seq
        return found

    async def changes(self) -> AsyncIterator[None]:
        """Yields at once, and soon after anybody has committed anything, in whichever process; several commits may share one."""
        changed = asyncio.Event()
        changed.set()
        stop = self.store.watch(_in_loop(asyncio.get_running_loop(), changed.set))
        try:
            while True:
                await changed.wait()
                changed.clear()
                yield None
        finally:
            stop()


def _in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Callable[[], None]:
    """A callback for another thread that has this one called in the loop; nothing once the loop is closed."""

    def call() -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(callback)

    return call


def _require_known(statuses: Sequence[str]) -> None:
    unknown = [s for s in statuses if s not in STATUSES]
    if unknown:
        raise InvalidInput(f"unknown status {unknown[0]!r}; known: {', '.join(STATUSES)}")


def _decoded(value: object, kind: str | None) -> object:
    if value is None:
        return None
    if kind == "boolean":
        return bool(value)
    if kind == "json" and isinstance(value, (str, bytes)):
        return from_json(value)
    return value
