"""Metrics: what events count and measure, how it is shown, and that labels stay bounded."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from smithers.events import EventDraft, EventRow, event
from smithers.observability.catalogue import BY_EVENT, COUNTERS, GATEWAY_COUNTERS, GAUGES, HISTOGRAMS, MEASURED
from smithers.observability.context import RunInfo
from smithers.observability.metrics import MAX_TIMED, Metrics

RUN = RunInfo("run-1")

KINDS = ("input", "output", "cache_read", "cache_write", "reasoning", "total")


def clean(name: str) -> str:
    return "smithers_" + name.replace(".", "_")


def numbers(metrics: Metrics) -> dict[str, str]:
    lines = metrics.render().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#") and "process" not in line)


def rows(*drafts: EventDraft | tuple[int, EventDraft]) -> list[EventRow]:
    """Events ten milliseconds apart, or at the given times."""
    found: list[EventRow] = []
    for seq, each in enumerate(drafts):
        at, draft = (seq * 10, each) if isinstance(each, EventDraft) else each
        found.append(EventRow(seq, at, 0, *draft))
    return found


def tracked(log: Sequence[EventRow], run: RunInfo = RUN) -> Metrics:
    metrics = Metrics()
    for row in log:
        metrics.track_event(run, row)
    return metrics


def test_the_whole_catalogue_is_shown_before_anything_has_happened() -> None:
    shown = numbers(Metrics(is_gateway=True))

    assert all(shown[clean(name)] == "0" for name in COUNTERS | GATEWAY_COUNTERS)
    assert all(clean(name) in shown for name in GAUGES if "process" not in name and "|" not in name)
    assert shown['smithers_external_wait_async_pending{kind="approval"}'] == "0"
    assert all(shown[f"{clean(name)}_count"] == "0" for name in HISTOGRAMS)
    assert not any("gateway" in name for name in numbers(Metrics()))


def test_what_events_count_is_in_the_catalogue() -> None:
    assert {name for names in BY_EVENT.values() for name in names} <= COUNTERS.keys()
    assert {name for fields in MEASURED.values() for _, name in fields} <= HISTOGRAMS.keys()


def test_times_are_added_up_from_any_thread_and_not_lost_when_there_are_many() -> None:
    metrics = Metrics()

    def measure() -> None:
        for _ in range(MAX_TIMED):
            metrics.timed("db.query_ms", 1.5)

    threads = [threading.Thread(target=measure) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics.timed("db.transaction_ms", 3.0)
    shown = numbers(metrics)
    assert shown["smithers_db_query_ms_count"] == str(3 * MAX_TIMED)
    assert (shown["smithers_db_transaction_ms_count"], shown["smithers_db_transaction_ms_sum"]) == ("1", "3")


def test_sizes_the_cache_the_queue_and_scorers_are_counted_by_their_events() -> None:
    sizes = {"promptSizeBytes": 150, "responseSizeBytes": 3_000}
    shown = numbers(
        tracked(
            rows(
                event("RunStarted", queuedMs=700),
                event("NodeFinished", "a", 0, attempt=1),
                event("NodeFinished", "b", 0, attempt=1, cache="miss", **sizes),
                event("NodeFinished", "c", 0, attempt=1, cache="hit"),
                event("ScorerStarted", nodeId="a", scorerId="s"),
                event("ScorerFinished", nodeId="a", scorerId="s", score=1.0),
                event("ScorerFailed", nodeId="a", scorerId="s", error="e"),
            )
        )
    )
    assert (shown["smithers_cache_hits"], shown["smithers_cache_misses"]) == ("1", "1")
    assert (shown["smithers_prompt_size_bytes_sum"], shown["smithers_response_size_bytes_sum"]) == ("150", "3000")
    assert shown["smithers_prompt_size_bytes_count"] == "1"
    assert shown["smithers_scheduler_wait_duration_ms_sum"] == "700"
    assert [shown[f"smithers_scorers_{name}"] for name in ("started", "finished", "failed")] == ["1", "1", "1"]


def test_replaying_a_log_gives_the_same_numbers() -> None:
    log = rows(
        event("RunStarted"),
        event("NodeStarted", "n", 0, attempt=1),
        event("NodeFailed", "n", 0, attempt=1),
        event("TokenUsageReported", "n", 0, agent="a", model='m"\n\\', inputTokens=5, outputTokens=2),
        event("RunFailed"),
    )
    first, second = numbers(tracked(log)), numbers(tracked(log))

    assert first == second
    assert first["smithers_errors_total"] == "2"
    assert first["smithers_events_emitted_total"] == "5"
    assert first['smithers_tokens_input_total{agent="a",model="m\\"\\n\\\\"}'] == "5"
    assert first['smithers_tokens_context_window_bucket_total{agent="a",bucket="50k",model="m\\"\\n\\\\"}'] == "1"


def test_durations_come_from_the_times_of_events() -> None:
    shown = numbers(
        tracked(
            rows(
                (0, event("RunStarted")),
                (0, event("RunStatusChanged", status="running")),
                (100, event("NodeStarted", "n", 0, attempt=1)),
                (400, event("NodeFailed", "n", 0, attempt=1)),
                (400, event("NodeRetrying", "n", 0, attempt=2)),
                (1_000, event("NodeStarted", "n", 0, attempt=2)),
                (1_100, event("ToolCallStarted", "n", 0, attempt=2, toolCallId="t", toolName="bash")),
                (1_150, event("ToolCallFinished", "n", 0, attempt=2, toolCallId="t", toolName="bash", status="error")),
                (1_300, event("NodeFinished", "n", 0, attempt=2)),
                (1_300, event("ApprovalRequested", "go", 0)),
                (1_300, event("NodeWaitingApproval", "go", 0)),
                (9_300, event("ApprovalGranted", "go", 0)),
                (9_400, event("NodeFinished", "go", 0)),
                (9_500, event("RunFinished")),
            )
        )
    )

    assert shown["smithers_attempt_duration_ms_sum"] == "600"
    assert shown["smithers_attempt_duration_ms_count"] == "2"
    assert shown["smithers_node_duration_ms_sum"] == str(1_200 + 8_100)
    assert shown["smithers_run_duration_ms_sum"] == "9500"
    assert shown["smithers_tool_duration_ms_sum"] == "50"
    assert shown["smithers_tool_calls_errors_total"] == "1"
    assert shown["smithers_approval_wait_duration_ms_sum"] == "8000"


def test_agents_are_counted_by_engine_and_model() -> None:
    def told(**fields: object) -> EventDraft:
        return event("AgentEvent", "n", 0, attempt=1, engine="e", event={"engine": "e", **fields})

    shown = numbers(
        tracked(
            rows(
                event("RunStarted"),
                event("NodeStarted", "n", 0, attempt=1),
                told(type="started", title="writer"),
                told(type="action", phase="started", action={"kind": "tool", "title": "x", "id": "1"}),
                event("TokenUsageReported", "n", 0, attempt=1, agent="writer", model="m", inputTokens=70_000),
                told(type="completed", ok=False, error="no"),
            )
        )
    )

    assert shown['smithers_agent_invocations_total{engine="e",model="m"}'] == "1"
    assert shown['smithers_agent_errors_total{engine="e",model="m",reason="failed",source="event"}'] == "1"
    assert shown['smithers_agent_duration_ms_sum{engine="e",model="m"}'] == "30"
    assert any(name.startswith('smithers_agent_actions_total{action_kind="tool"') for name in shown)
    assert sum(name.startswith("smithers_agent_sessions_total{") for name in shown) == 2
    assert shown['smithers_tokens_context_window_bucket_total{agent="writer",bucket="100k",model="m"}'] == "1"


def test_tokens_are_counted_by_engine_and_kind_and_corrections_as_retries() -> None:
    def told(**fields: object) -> EventDraft:
        return event("AgentEvent", "n", 0, attempt=1, engine="e", event={"engine": "e", **fields})

    warning = {"kind": "warning", "title": "the answer does not fit the schema"}
    used = {"inputTokens": 70, "outputTokens": 5, "cacheReadTokens": 40, "reasoningTokens": 2}
    shown = numbers(
        tracked(
            rows(
                event("RunStarted"),
                event("NodeStarted", "n", 0, attempt=1),
                told(type="started", title="writer"),
                event("TokenUsageReported", "n", 0, attempt=1, agent="writer", model="m", **used),
                told(type="action", phase="completed", action={"id": "schema-1", **warning}),
                told(type="action", phase="completed", action={"id": "limits", **warning}),
                event("TokenUsageReported", "n", 0, attempt=1, agent="writer", model="m", **used),
                told(type="completed", ok=True),
            )
        )
    )

    tokens = {
        kind: f'smithers_agent_tokens_total{{engine="e",model="m",kind="{kind}",source="event"}}' for kind in KINDS
    }
    assert {kind: shown.get(name) for kind, name in tokens.items()} == {
        "input": "140",
        "output": "10",
        "cache_read": "80",
        "cache_write": None,
        "reasoning": "4",
        "total": "150",
    }
    assert shown['smithers_agent_retries_total{engine="e",model="unknown",reason="schema",source="event"}'] == "1"


def test_a_tools_output_that_was_cut_is_counted() -> None:
    def finished(id: str, **more: object) -> EventDraft:
        return event("ToolCallFinished", "n", 0, attempt=1, toolCallId=id, toolName="bash", status="success", **more)

    shown = numbers(tracked(rows(finished("a"), finished("b", truncated=True))))
    assert shown["smithers_tool_output_truncated_total"] == "1"


def test_only_a_start_after_the_first_counts_as_a_resume() -> None:
    shown = numbers(tracked(rows(event("RunStarted"), event("NodePending", "n", 0), event("RunStarted"))))
    assert (shown["smithers_runs_total"], shown["smithers_runs_resumed_total"]) == ("2", "1")


def test_labels_from_outside_are_bounded_and_ids_never_among_them() -> None:
    metrics = Metrics(is_gateway=True)
    for n in range(500):
        draft = event("TokenUsageReported", f"node-{n}", 0, agent=f"a{n}", model="m", inputTokens=1)
        metrics.track_event(RUN, EventRow(n, n, 0, *draft))
        metrics.track_request("BREW" + str(n), "unmatched", 404, 1.0)
        metrics.count("gateway.rpc_calls_total", f"method-{n}", "http")
        metrics.observe("gateway.rpc_duration_ms", 1.5, f"method-{n}", "http")
    text = metrics.render()

    assert text.count("smithers_tokens_input_total{") <= 65
    assert text.count("smithers_gateway_rpc_calls_total{") <= 65
    assert 'agent="other"' in text
    assert "node-" not in text
    assert "run-1" not in text
    assert text.count("smithers_http_requests{") == 1


def test_what_cannot_be_counted_harms_nobody() -> None:
    metrics = Metrics()
    metrics.track_event(RUN, EventRow(0, 0, 0, "TokenUsageReported", None, None, "{"))
    metrics.track_event(RUN, EventRow(0, 0, 0, "TimerFired", "t", 0, '{"delayMs":"long"}'))
    metrics.count("no.such.counter")
    metrics.observe("gateway.rpc_duration_ms", 1.0, "m", "http")
    assert numbers(metrics)["smithers_events_emitted_total"] == "2"
