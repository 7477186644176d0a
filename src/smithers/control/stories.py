"""Stories: a run's or a node's story in a few sentences, one line a topic. The same rows give the same text.

Who tells it, and what is remembered, is in `narrating.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from pydantic_core import from_json

from smithers.control import blockers, explaining
from smithers.control.blockers import Blocker, error_text
from smithers.durations import duration
from smithers.events import EventRow
from smithers.jsons import int_of, object_of, text_of
from smithers.store.interface import TIMED_OUT, ApprovalRow, AttemptRow, NodeRow, RunRow
from smithers.store.sql import narration, pages, reads, run_pages
from smithers.store.sql.lineage import TERMINAL
from smithers.store.sql.run_pages import ListedRun

MAX_REPORTS: Final = 20_000
"""So many reports of tokens are added up; the newest count."""
MAX_EVENTS: Final = 500
SHOWN: Final = 3
_TOLD: Final = (
    "RunStarted",
    "RunAutoResumed",
    "RunForked",
    "TimeTravelJumped",
    "RetryTaskStarted",
    "TimeTravelStarted",
    "SideEffectBoundaryCrossed",
    "WorkflowReloaded",
    "SignalReceived",
)


def summary(c: reads.Session, run_id: str, node_id: str | None, iteration: int | None, now: int) -> str:
    """What has happened to a run, or to a node of it that is there, up to `now` (ms). One line a topic."""
    if node_id is None:
        return "\n".join(line for line in _run_lines(c, run_id, now) if line)
    node = run_pages.node_row(c, run_id, node_id, iteration or 0)
    assert node is not None
    return "\n".join(line for line in _node_lines(c, run_id, node, now) if line)


# ── a run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _run_lines(c: reads.Session, run_id: str, now: int) -> list[str]:
    listed = run_pages.listed_run(c, run_id)
    run, told = listed.run, narration.events_of(c, run_id, _TOLD, MAX_EVENTS)
    waits = blockers.run_blockers(c, run, now)
    counts = pages.node_counts(c, run_id)
    return [
        _headline(c, run, waits, counts, now),
        _beginning(listed, told, now),
        _work(c, run, counts),
        _under_way(waits, run, now),
        _failures(c, run),
        _decisions(c, run_id),
        _history(told),
        _children(c, run_id),
        _tokens(narration.events_of(c, run_id, ("TokenUsageReported",), MAX_REPORTS)),
    ]


def _headline(c: reads.Session, run: RunRow, waits: Sequence[Blocker], counts: Mapping[str, int], now: int) -> str:
    begun = run.started_at_ms or run.created_at_ms
    took = duration((run.finished_at_ms or now) - begun)
    name = f"Run {run.run_id} of {run.workflow_name or 'its workflow'}"
    match run.status:
        case "finished":
            failed = counts.get("failed", 0)
            but = f", although {_count(failed, 'step')} failed, which it allows" if failed else ""
            return f"{name} finished after {took}{but}."
        case "failed":
            reason = waits[0].text if waits else "no reason is on record"
            return f"{name} failed after {took}: {reason}."
        case "cancelled":
            by = f" by {run.cancel_request_source}" if run.cancel_request_source else ""
            return f"{name} was cancelled{by} after {took}."
        case "continued":
            return f"{name} went on as another run after {took}: {reads.successor(c, run.run_id)}."
        case "paused":
            since = narration.changed_at(c, run.run_id)
            return f"{name} is paused" + (f", for {duration(now - since)} now." if since is not None else ".")
        case "running":
            state, _ = blockers.run_standing(c, run, now)
            if state != "running":
                silent = duration(now - max(run.heartbeat_at_ms or 0, begun))
                return f"{name} is marked as running, but nobody drives it: it was last seen alive {silent} ago."
            return f"{name} has been running for {took}."
        case _:
            return f"{name} waits for {_listed(_reasons(waits, run.run_id))}."


def _reasons(waits: Sequence[Blocker], run_id: str) -> list[str]:
    """What is waited for, in words, the same things once."""
    below = [b for b in waits if b.kind not in ("child", "working", "interrupted")]
    found: list[str] = []
    for blocker in below or waits:
        where = "" if blocker.run_id == run_id else f" in {blocker.run_id}"
        at = f" (step {blocker.place}{where})" if blocker.node_id is not None else ""
        until = f" until {_moment(blocker.until_ms)}" if blocker.until_ms is not None else ""
        found.append(f"{blocker.text}{at}{until}")
    return found


def _beginning(listed: ListedRun, told: Sequence[EventRow], now: int) -> str:
    run, config = listed.run, object_of(from_json(listed.config_json))
    by = object_of(from_json(listed.started_by_json)) if listed.started_by_json is not None else {}
    who = text_of(object_of(config.get("auth")).get("triggeredBy"))
    program = text_of(by.get("harness"))
    names = " with ".join(name for name in (who, program) if name)
    starts = [row for row in told if row.type == "RunStarted"]
    moment = _moment(run.created_at_ms)
    line = f"{names} started it on {moment}" if names else f"It was started on {moment}"
    forked = next((object_of(from_json(r.payload or "{}")) for r in told if r.type == "RunForked"), None)
    if forked is not None:
        label = f' as "{forked.get("branchLabel")}"' if forked.get("branchLabel") else ""
        line += f", as a fork of {forked.get('parentRunId')} at frame {forked.get('parentFrameNo')}{label}"
    elif run.parent_run_id is not None:
        line += (
            f", by the run {run.parent_run_id}" if ":child:" in run.run_id else f", after the run {run.parent_run_id}"
        )
    if starts[1:]:
        last = text_of(object_of(_payload(starts[-1]).get("resumedBy")).get("triggeredBy"))
        resumer = "" if last is None else f" by {last}" if len(starts) == 2 else f", last by {last}"
        line += f", and it was resumed {_times(len(starts) - 1)} since{resumer}"
    return line + "."


def _work(c: reads.Session, run: RunRow, counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    if not total:
        return "No step has been reached yet." if run.status == "running" else "No step was reached."
    states = {
        "finished": "finished",
        "in-progress": "under way",
        "failed": "failed",
        "skipped": "skipped",
        "cancelled": "cancelled",
        "pending": "not begun",
    }
    parts = [f"{counts[s]} {text}" for s, text in states.items() if counts.get(s)]
    waiting = sum(n for state, n in counts.items() if state.startswith("waiting-"))
    parts += [f"{waiting} waiting"] if waiting else []
    if len(parts) == 1 and counts.get("finished"):
        line = "Its only step has finished" if total == 1 else f"All {total:,} steps have finished"
    else:
        line = f"Of {_count(total, 'step')}: {', '.join(parts)}"
    numbers = narration.totals(c, run.run_id)
    if numbers.repeated:
        line += f", with {_retries(numbers.repeated)}"
    if numbers.cached:
        line += f"; {_count(numbers.cached, 'result')} came from the cache"
    line += "."
    longest = [
        f"{_place(node, iteration)} ({duration(took)})"
        for node, iteration, took, meta in narration.longest(c, run.run_id, 4 * SHOWN)
        if took >= 1000 and not meta.startswith(('{"waitForEvent"', '{"timer"'))
    ]
    return line + (f" The longest took {_listed(longest[:SHOWN])}." if longest and total > 1 else "")


_TOLD_APART: Final = (
    "working", "interrupted", "child", "ready", "owner-dead", "owner-silent", "unowned", "rewound", "reset"
)  # fmt: skip


def _under_way(waits: Sequence[Blocker], run: RunRow, now: int) -> str:
    if run.status != "running":
        return ""
    at_work = [b for b in waits if b.kind == "working" and b.run_id == run.run_id]
    lines: list[str] = []
    if at_work:
        shown = [f"{b.place} for {duration(now - (b.since_ms or now))}" for b in at_work[:SHOWN]]
        more = len(at_work) - SHOWN
        lines.append(f"At work now: {_listed(shown + ([f'{more} more'] if more > 0 else []))}.")
    cut_off = [b.place for b in waits if b.kind == "interrupted" and b.run_id == run.run_id]
    if cut_off:
        more = len(cut_off) - SHOWN
        lines.append(
            f"Cut off, and to begin anew: {_listed(cut_off[:SHOWN] + ([f'{more} more'] if more > 0 else []))}."
        )
    others = [b for b in waits if b.kind not in _TOLD_APART]
    if others:
        lines.append(f"It also waits for {_listed(_reasons(others, run.run_id))}.")
    return " ".join(lines)


def _failures(c: reads.Session, run: RunRow) -> str:
    found = blockers.failed_nodes(c, run.run_id, SHOWN + 2)
    if run.status == "failed":
        found = found[1:]  # the first is in the headline
    if not found:
        return ""
    shown = [f"{_place(n.node_id, n.iteration)} ({error_text(error)})" for n, error in found[:SHOWN]]
    return (
        f"Failed{' too' if run.status == 'failed' else ''}: {'; '.join(shown)}{'; and more' if found[SHOWN:] else ''}."
    )


def _decisions(c: reads.Session, run_id: str, of: tuple[str, int] | None = None) -> str:
    told: list[str] = []
    asked = narration.decided(c, run_id, 2 * SHOWN + 1) if of is None else _decided(c, run_id, *of)
    for row in asked:
        at = _place(row.node_id, row.iteration)
        note = f' ("{row.note}")' if row.note else ""
        took = duration((row.decided_at_ms or row.requested_at_ms) - row.requested_at_ms)
        if row.auto_approved:
            told.append(f"{at} was approved without anybody's help")
        elif row.decided_by == TIMED_OUT:
            told.append(f"nobody decided {at} in time")
        elif row.decided_by == "smithers:cancel":
            told.append(f"{at} was open when the run was cancelled")
        else:
            told.append(f"{row.decided_by or 'somebody'} {row.status} {at} after {took}{note}")
    answers = narration.answered(c, run_id, 2 * SHOWN + 1)
    for human in [h for h in answers if of in (None, (h.node_id, h.iteration))]:
        took = duration((human.answered_at_ms or human.requested_at_ms) - human.requested_at_ms)
        told.append(f"{human.answered_by or 'somebody'} answered {_place(human.node_id, human.iteration)} after {took}")
    if not told:
        return ""
    more = "; and more" if len(told) > 2 * SHOWN else ""
    text = "; ".join(told[: 2 * SHOWN]) + more + "."
    return text[0].upper() + text[1:] if told[0].startswith("nobody") else text


def _decided(c: reads.Session, run_id: str, node_id: str, iteration: int) -> list[ApprovalRow]:
    row = reads.approval(c, run_id, node_id, iteration)
    return [] if row is None or row.status == "requested" else [row]


def _history(told: Sequence[EventRow]) -> str:
    lines: list[str] = []
    takeovers = sum(row.type == "RunAutoResumed" for row in told)
    if takeovers:
        lines.append(f"{_times(takeovers).capitalize()} another process took it over because its owner was gone.")
    signals = Counter(str(_payload(row).get("signalName")) for row in told if row.type == "SignalReceived")
    if signals:
        names = [f"{name} ({n} times)" if n > 1 else name for name, n in list(signals.items())[:SHOWN]]
        lines.append(f"It received {'a signal' if signals.total() == 1 else 'signals'}: {', '.join(names)}.")
    jumps = [_payload(row) for row in told if row.type == "TimeTravelJumped"]
    if jumps:
        last = jumps[-1]
        by = f" by {last.get('caller')}" if text_of(last.get("caller")) else ""
        lines.append(f"It was taken back {_times(len(jumps))}, last from frame {last.get('fromFrameNo')} "
                     f"to frame {last.get('toFrameNo')}{by}.")  # fmt: skip
    again = [row for row in told if row.type in ("RetryTaskStarted", "TimeTravelStarted")]
    if again:
        names = list(dict.fromkeys(_place(row.node_id or "", row.iteration or 0) for row in again))
        lines.append(f"Somebody had {_listed(names[:SHOWN])} done again.")
    crossed = [_payload(row) for row in told if row.type == "SideEffectBoundaryCrossed"]
    if any(row.get("lateCompletion") for row in crossed):
        lines.append("A call of a tool ended after its effect was undone.")
    if any(not row.get("lateCompletion") and not row.get("warningOnly") for row in crossed):
        lines.append("Its history was changed although effects outside stand.")
    reloads = sum(row.type == "WorkflowReloaded" for row in told)
    if reloads:
        lines.append(f"Its workflow was changed {_times(reloads)} on the way.")
    return " ".join(lines)


def _children(c: reads.Session, run_id: str) -> str:
    counts = narration.child_counts(c, run_id)
    if not counts:
        return ""
    total = sum(counts.values())
    parts = ", ".join(f"{n} {status}" for status, n in counts.items())
    return f"It has {_count(total, 'run')} of subflows below it: {parts}." if total > 1 else (
        f"It has a run of a subflow below it, which is {next(iter(counts))}."
    )  # fmt: skip


def _tokens(reports: Sequence[EventRow]) -> str:
    if not reports:
        return ""
    given, got, models, cost = 0, 0, Counter[str](), 0.0
    for row in reports:
        payload = _payload(row)
        given += int_of(payload.get("inputTokens")) or 0
        got += int_of(payload.get("outputTokens")) or 0
        models[text_of(payload.get("model")) or "an unnamed model"] += 1
        spent = payload.get("costUsd")
        cost += spent if isinstance(spent, (int, float)) else 0.0
    least = "At least " if len(reports) == MAX_REPORTS else ""
    by = _listed([name for name, _ in models.most_common(SHOWN)])
    price = f", for ${cost:.2f}" if cost else ""
    line = f"{given:,} tokens went in and {got:,} came out, with {by}{price}."
    return f"{least}{line}"


# ── a node ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _node_lines(c: reads.Session, run_id: str, node: NodeRow, now: int) -> list[str]:
    tried = run_pages.attempts_of_node(c, run_id, node.node_id, node.iteration, limit=SHOWN + 1)
    return [
        _node_headline(c, run_id, node, tried, now),
        _decisions(c, run_id, (node.node_id, node.iteration)),
        _attempts(node, tried),
        _calls(narration.called(c, run_id, node.node_id, node.iteration)),
        _node_tokens(c, run_id, node),
    ]


def _node_headline(c: reads.Session, run_id: str, node: NodeRow, tried: Sequence[AttemptRow], now: int) -> str:
    name = f"Step {_place(node.node_id, node.iteration)} of run {run_id}"
    first = tried[-1].started_at_ms if tried else None
    lasted = 0 if first is None else (tried[0].finished_at_ms or node.updated_at_ms) - first
    took = f" after {duration(lasted)}" if lasted else ""
    if node.label and node.label != node.node_id:
        name += f' ("{node.label}")'
    match node.state:
        case "finished":
            row = f", and its row is in the table {node.output_table}" if node.output_table else ""
            cached = " from the cache" if tried and tried[0].cached else ""
            return f"{name} finished{cached}{took}{row}."
        case "failed":
            reason = object_of(from_json(tried[0].error_json or "{}")) if tried else {}
            return f"{name} failed{took}: {error_text(reason)}."
        case "skipped":
            return f"{name} was skipped."
        case "cancelled":
            return f"{name} was cancelled{took}."
        case _:
            found = explaining.of_node(c, run_id, node.node_id, node.iteration, now)
            since = f", for {duration(now - found.since_ms)} now" if found.since_ms is not None else ""
            texts = list(dict.fromkeys(b.text for b in found.blockers))
            if found.run.status in TERMINAL:
                ended = {"cancelled": "was cancelled", "continued": "went on as another run"}
                return f"{name} was not reached: its run {ended.get(found.run.status, found.run.status)}."
            if texts and found.blockers[0].kind in ("order", "dependency", "failed-dependency", "room") and texts[1:]:
                return f"{name} waits for {texts[0]}, which waits for {_listed(texts[1 : SHOWN + 1])}{since}."
            return f"{name} waits for {_listed(texts[:SHOWN]) or 'its turn'}{since}."


def _attempts(node: NodeRow, tried: Sequence[AttemptRow]) -> str:
    if (node.last_attempt or 0) <= 1:
        return ""
    told: list[str] = []
    for row in reversed(tried):
        took = duration((row.finished_at_ms or node.updated_at_ms) - row.started_at_ms)
        error = f": {error_text(object_of(from_json(row.error_json)))}" if row.error_json else ""
        told.append(f"attempt {row.attempt} {row.state.replace('-', ' ')} after {took}{error}")
    return f"It took {_count(node.last_attempt or 0, 'attempt')}: {'; '.join(told)}."


def _calls(found: Sequence[tuple[str, str, int]]) -> str:
    if not found:
        return ""
    by_name: dict[str, list[str]] = {}
    for name, status, count in found:
        bad = {"failed": " failed", "started": " unanswered"}.get(status, "")
        by_name.setdefault(name, []).append(f"{count}{bad}" if bad or count > 1 else "")
    parts = [f"{n} ({', '.join(p for p in texts if p)})" if any(texts) else n for n, texts in by_name.items()]
    return f"It called {_listed(parts)}."


def _node_tokens(c: reads.Session, run_id: str, node: NodeRow) -> str:
    found = narration.events_of(c, run_id, ("TokenUsageReported",), MAX_REPORTS, node.node_id)
    return _tokens([row for row in found if (row.iteration or 0) == node.iteration])


# ── words ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _payload(row: EventRow) -> dict[str, object]:
    return object_of(from_json(row.payload or "{}"))


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d at %H:%M:%S UTC")


def _place(node_id: str, iteration: int) -> str:
    return node_id if not iteration else f"{node_id} (iteration {iteration})"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _retries(number: int) -> str:
    return "1 retry" if number == 1 else f"{number:,} retries"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def _listed(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
