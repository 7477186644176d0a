"""Metrics: what events count, how it is shown, and that labels stay bounded."""

from __future__ import annotations

from smithers.events import event
from smithers.observability.catalogue import COUNTERS, GAUGES, HISTOGRAMS
from smithers.observability.metrics import Metrics


def numbers(text: str) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_the_whole_catalogue_is_shown_before_anything_has_happened() -> None:
    shown = numbers(Metrics().render())

    def clean(name: str) -> str:
        return "smithers_" + name.replace(".", "_")

    assert all(shown[clean(name)] == "0" for name in COUNTERS)
    assert all(clean(name) in shown for name in GAUGES)
    assert all(shown[f"{clean(name)}_count"] == "0" for name in HISTOGRAMS)


def test_replaying_a_log_gives_the_same_numbers() -> None:
    log = [
        event("RunStarted"),
        event("NodeFailed", "n", 0, attempt=1),
        event("TokenUsageReported", "n", 0, agent="a", model='m"\n\\', inputTokens=5, outputTokens=2),
        event("RunFailed"),
    ]
    shown: list[dict[str, str]] = []
    for _ in range(2):
        metrics = Metrics()
        for each in log:
            metrics.track_event(each)
        found = numbers(metrics.render())
        shown.append({k: v for k, v in found.items() if "process" not in k})

    assert shown[0] == shown[1]
    assert shown[0]["smithers_errors_total"] == "2"
    assert shown[0]["smithers_events_emitted_total"] == "4"
    assert shown[0]['smithers_tokens_input_total{agent="a",model="m\\"\\n\\\\"}'] == "5"


def test_labels_from_outside_are_bounded_and_ids_never_among_them() -> None:
    metrics = Metrics()
    for n in range(500):
        metrics.track_event(event("TokenUsageReported", f"node-{n}", 0, agent=f"a{n}", model="m", inputTokens=1))
        metrics.track_request("BREW" + str(n), "unmatched", 404, 1.0)
    text = metrics.render()

    assert text.count("smithers_tokens_input_total{") <= 65
    assert 'agent="other"' in text
    assert "node-" not in text
    assert text.count("smithers_http_requests{") == 1


def test_what_cannot_be_counted_harms_nobody() -> None:
    Metrics().track_event(event("TokenUsageReported", None, None, inputTokens="many")._replace(payload="{"))
