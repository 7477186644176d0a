"""`logs` and `events`: what happened in a run, in words and in full."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import positive, read_duration
from smithers.cli.common import Common, open_control
from smithers.cli.options import Option
from smithers.cli.output import Output, clock_time, printable
from smithers.cli.progress import Wire, words

if TYPE_CHECKING:
    from smithers.control.control import Control
    from smithers.events import EventRow

PAGE = 1000
MAX_EVENTS = 100_000


async def logs(
    run: str,
    /,
    *,
    follow: Annotated[bool, Option("--follow", "-f")] = False,
    from_seq: int | None = None,
    lines: Annotated[int, Option("--lines", "-n")] = 50,
    common: Common | None = None,
) -> int:
    """Show what happened in a run, one line an event.

    Parameters
    ----------
    run
        The run's id.
    follow
        Stay, and show what happens until the run has ended.
    from_seq
        Everything after the event of this number, instead of the last lines.
    lines
        So many of the last lines.
    """
    common = common or Common()
    positive(lines, "--lines")
    out = common.output
    with open_control(common) as control:
        if from_seq is not None:
            found = [(row, told) async for row, told in _told(control, run, from_seq)]
        else:
            found = await _last(control, run, lines)
        if out.format == "json" and not follow:
            out.document({"runId": run, "lines": [_line(row, told) for row, told in found]})
            return 0
        for row, told in found:
            _write(out, row, told)
        if follow:
            last = found[-1][0].seq if found else -1 if from_seq is None else from_seq
            async for row in control.follow(run, last):
                text = words(_wire(run, row))
                if text is not None:
                    _write(out, row, text)
    return 0


def _wire(run_id: str, row: EventRow) -> Wire:
    from smithers.events import wire_object

    return wire_object(run_id, row)


def _numbered(run_id: str, row: EventRow) -> dict[str, object]:
    """An event with its number in the log; that of the tool call that it tells of, if any, is `callSeq`."""
    told = dict(_wire(run_id, row))
    call = {"callSeq": told.pop("seq")} if "seq" in told else {}
    return {"seq": row.seq, **told, **call}


def _line(row: EventRow, told: str) -> dict[str, object]:
    return {"seq": row.seq, "timestampMs": row.timestamp_ms, "type": row.type, "text": told}


def _write(out: Output, row: EventRow, told: str) -> None:
    if out.is_text:
        out.line(f"{clock_time(row.timestamp_ms)}  {told}")
    else:
        out.record(_line(row, told))


async def _last(control: Control, run_id: str, count: int) -> list[tuple[EventRow, str]]:
    """The last `count` events that have words, found from the end: a long log is not read whole."""
    end = (await control.run(run_id)).next_seq
    found: list[tuple[EventRow, str]] = []
    while end > 0 and len(found) < count:
        start = max(0, end - PAGE)
        rows = await control.events(run_id, start - 1, end - start)
        told = [(row, text) for row in rows if (text := words(_wire(run_id, row))) is not None]
        found = told + found
        end = start
    return found[-count:]


async def _told(control: Control, run_id: str, after: int) -> AsyncIterator[tuple[EventRow, str]]:
    async for row in _rows(control, run_id, after, None):
        told = words(_wire(run_id, row))
        if told is not None:
            yield row, told


async def _rows(control: Control, run_id: str, after: int, node: str | None) -> AsyncIterator[EventRow]:
    while rows := await control.events(run_id, after, PAGE, node):
        for row in rows:
            yield row
        after = rows[-1].seq


async def events(
    run: str,
    /,
    *,
    node: Annotated[str | None, Option("--node", "-n")] = None,
    type: Annotated[str | None, Option("--type", "-t")] = None,
    since: Annotated[str | None, Option("--since", "-s")] = None,
    limit: Annotated[int, Option("--limit", "-l")] = 1000,
    watch: Annotated[bool, Option("--watch", "-w", is_switch=True)] = False,
    common: Common | None = None,
) -> int:
    """Show the events of a run in full, oldest first.

    Parameters
    ----------
    run
        The run's id.
    node
        Only events of this node.
    type
        Only events of this category (run, node, approval, agent, token, timer, signal, …) or of this type.
    since
        Only events of this last while: 30s, 5m, 2h.
    limit
        At most so many events, at most 100000.
    watch
        Stay, and show what happens until the run has ended.
    """
    common = common or Common()
    positive(limit, "--limit")
    out = common.output
    with open_control(common) as control:
        earliest = 0 if since is None else control.clock.now_ms() - read_duration(since, "--since")
        last = -1
        found: list[EventRow] = []
        async for row in _rows(control, run, -1, node):
            last = row.seq
            if _fits(row, node, type, earliest):
                found.append(row)
                if len(found) == min(limit, MAX_EVENTS):
                    break
        if out.format == "json" and not watch:
            out.document({"runId": run, "events": [_numbered(run, row) for row in found]})
            return 0
        for row in found:
            _write_full(out, run, row)
        if watch:
            async for row in control.follow(run, last):
                if _fits(row, node, type, earliest):
                    _write_full(out, run, row)
    return 0


def _fits(row: EventRow, node: str | None, type: str | None, earliest: int) -> bool:
    from smithers.events import category

    return (
        row.timestamp_ms >= earliest
        and node in (None, row.node_id)
        and (type is None or type == row.type or type == category(row.type))
    )


def _write_full(out: Output, run_id: str, row: EventRow) -> None:
    if not out.is_text:
        out.record(_numbered(run_id, row))
        return
    node = "" if row.node_id is None else f"  {row.node_id}" + (f" #{row.iteration}" if row.iteration else "")
    payload = "" if row.payload in (None, "{}") else f"  {row.payload}"
    out.line(printable(f"{row.seq:>6}  {clock_time(row.timestamp_ms)}  {row.type}{node}{payload}"))
