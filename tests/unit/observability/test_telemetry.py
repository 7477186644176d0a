"""Telemetry: what arrives at a collector of a run's life, whatever becomes of its processes and of the collector."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from pathlib import Path

import pytest
from pydantic import BaseModel
from tests.unit.observability.collector import Collector, attributes, collector

from smithers import Sequence, Task, Workflow, create_smithers
from smithers.components.gates import Approval
from smithers.components.workflow import SmithersWorkflow
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.engine.engine import Engine
from smithers.observability.context import RunInfo, launched_by, parse_traceparent, span_id_of, trace_id_of
from smithers.observability.spans import Span
from smithers.observability.telemetry import MAX_QUEUE, Telemetry, observe, open_telemetry
from smithers.settings import Settings
from smithers.store import open_store

SECRET = "QZX0123456789QZX"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Row(BaseModel):
    n: int = 1


class Verdict(BaseModel):
    approved: bool
    note: str | None = None


def review(*, asks: bool = False, fails: bool = False) -> SmithersWorkflow:
    smithers, outputs = create_smithers({"row": Row, "verdict": Verdict})
    calls: list[int] = []

    def work() -> Row:
        calls.append(1)
        if fails and len(calls) == 1:
            raise ValueError(f"cannot log in with password={SECRET}")
        return Row()

    @smithers
    def workflow(ctx: object) -> Workflow:
        del ctx
        return Workflow(name="review")[
            Sequence[
                Task(id="first", output=outputs.row, retries=1 if fails else 0)[work],
                asks and Approval(id="go", output=outputs.verdict, request={"title": "Go on?"}),
                Task(id="last", output=outputs.row)[work],
            ]
        ]

    return workflow


def settings_for(found: Collector, **more: object) -> Settings:
    values = {"SMITHERS_OTEL_ENABLED": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": found.url, "OTEL_SERVICE_NAME": "reviews"}
    return Settings.from_environment(values | {name: str(value) for name, value in more.items()})


async def drive(
    workflow: SmithersWorkflow, settings: Settings, db: Path, *, resume: bool = False, approve: bool = False
) -> str:
    """One process's part of the run `r`."""
    store = open_store(str(db))
    engine = Engine(store, settings)
    observation = observe(settings, store, engine.hub)
    try:
        if approve:
            await Control(store).decide("r", "go", approved=True, caller=Caller("me", scopes=("*",)))
        if resume:
            handle = await engine.resume("r", workflow)
        else:
            handle = await engine.launch(workflow, {}, run_id="r")
        return (await handle.result).status.value
    finally:
        await engine.close()
        await observation.close()
        store.close()


def test_a_run_is_a_trace_and_metrics_come_along(tmp_path: Path) -> None:
    with collector() as found:
        headers = {"OTEL_EXPORTER_OTLP_HEADERS": "x-team=a%20b,broken,=,x-key=k"}
        status = asyncio.run(drive(review(fails=True), settings_for(found, **headers), tmp_path / "s.db"))

    assert status == "finished"
    assert {span.trace_id.hex() for span in found.spans} == {trace_id_of("r")}
    (run,) = found.named("smithers.run")
    tasks, attempts = found.named("smithers.task"), found.named("smithers.attempt")
    assert not run.parent_span_id
    assert attributes(run.attributes)["smithers.status"] == "finished"
    assert [attributes(task.attributes)["smithers.node_id"] for task in tasks] == ["first", "last"]
    assert {task.parent_span_id for task in tasks} == {run.span_id}
    assert [attributes(each.attributes)["smithers.attempt"] for each in attempts] == ["1", "2", "1"]
    assert [each.parent_span_id for each in attempts] == [tasks[0].span_id, tasks[0].span_id, tasks[1].span_id]
    assert (attempts[0].status.code, attempts[1].status.code) == (2, 1)
    assert "exception.stacktrace" in attributes(attempts[0].events[0].attributes)
    assert all(run.start_time_unix_nano <= s.start_time_unix_nano <= s.end_time_unix_nano for s in found.spans)
    assert found.services == {"reviews"}
    assert all((h["x-team"], h["x-key"]) == ("a b", "k") for h in found.headers)
    assert found.metrics["smithers.runs.finished_total"].sum.data_points[0].as_double == 1
    assert found.metrics["smithers.attempt.duration_ms"].histogram.data_points[0].count == 3
    assert SECRET.encode() not in found.raw


def test_what_is_logged_is_sent_with_the_run_and_without_credentials(tmp_path: Path) -> None:
    smithers, outputs = create_smithers({"row": Row})
    log = logging.getLogger("reviews")

    def work() -> Row:
        log.warning("looking at %s", "it", extra={"files": ["a", "b"], "api_key": SECRET, "size": 3})
        try:
            raise ValueError(f"password={SECRET}")
        except ValueError:
            log.exception("that went wrong")
        return Row()

    @smithers
    def workflow(ctx: object) -> Workflow:
        del ctx
        return Workflow(name="review")[Task(id="look", output=outputs.row)[work]]

    with collector() as found:
        assert asyncio.run(drive(workflow, settings_for(found), tmp_path / "s.db")) == "finished"
        log.warning("after the end")

    first, second = (line for line in found.logs if attributes(line.attributes)["logger"] == "reviews")
    told = attributes(first.attributes)
    assert (first.body.string_value, first.severity_text, first.severity_number) == ("looking at it", "warning", 13)
    assert {name: told[name] for name in told if name.startswith("smithers.")} == {
        "smithers.run_id": "r",
        "smithers.workflow_name": "review",
        "smithers.node_id": "look",
        "smithers.iteration": "0",
        "smithers.attempt": "1",
    }
    assert (told["files"], told["size"], told["api_key"]) == ('["a","b"]', "3", "[redacted]")
    assert first.trace_id.hex() == trace_id_of("r")
    assert first.span_id == found.named("smithers.task")[0].span_id
    assert first.time_unix_nano <= second.time_unix_nano
    assert second.severity_number == 17
    assert "ValueError" in attributes(second.attributes)["exception.stacktrace"]
    assert SECRET.encode() not in found.raw
    assert not any(type(handler).__name__ == "Shipper" for handler in logging.getLogger().handlers)


def test_another_process_goes_on_with_the_launchers_trace(tmp_path: Path) -> None:
    workflow, db = review(asks=True), tmp_path / "s.db"

    async def launch(settings: Settings) -> str:
        with launched_by(PARENT):
            return await drive(workflow, settings, db)

    with collector() as found:
        settings = settings_for(found)
        assert asyncio.run(launch(settings)) == "waiting-approval"
        assert asyncio.run(drive(workflow, settings, db, resume=True, approve=True)) == "finished"

    assert {span.trace_id.hex() for span in found.spans} == {PARENT.split("-")[1]}
    runs = found.named("smithers.run")
    assert {span.parent_span_id.hex() for span in runs} == {PARENT.split("-")[2]}
    assert [attributes(span.attributes)["smithers.status"] for span in runs] == ["waiting-approval", "finished"]
    assert attributes(runs[0].attributes)["smithers.wait_reason"] == "approval"
    names = [attributes(span.attributes)["smithers.node_id"] for span in found.named("smithers.task")]
    assert {"first", "last"} <= set(names)
    assert len({span.span_id for span in found.spans}) == len(found.spans)
    assert found.metrics["smithers.runs.resumed_total"].sum.data_points[0].as_double == 1


def test_a_launcher_that_does_not_record_is_followed(tmp_path: Path) -> None:
    async def launch(settings: Settings) -> None:
        with launched_by(PARENT[:-2] + "00"):
            await drive(review(), settings, tmp_path / "s.db")

    with collector() as found:
        asyncio.run(launch(settings_for(found)))
    assert found.spans == []
    assert found.metrics


@pytest.mark.parametrize(
    "text",
    [None, "", "x", PARENT[:-1], PARENT.upper(), "ff" + PARENT[2:], PARENT + "-more", "00-" + "0" * 32 + PARENT[35:]],
)
def test_what_is_no_traceparent_is_ignored(text: str | None) -> None:
    assert parse_traceparent(text) is None


def test_ids_are_the_same_everywhere_and_of_the_right_length() -> None:
    assert (len(trace_id_of("r")), len(span_id_of("r", "task", "n", 0))) == (32, 16)
    assert span_id_of("r", "task", "n", 0) != span_id_of("r", "task", "n", 1)
    assert trace_id_of("r") != trace_id_of("s")


def some_span() -> Span:
    return Span("task", RunInfo("r"), ("task", "n", 0), None, 1, 2)


@pytest.mark.parametrize("trouble", ["refuses", "fails", "hangs"])
def test_a_collector_in_trouble_neither_holds_a_run_up_nor_its_end(tmp_path: Path, trouble: str) -> None:
    with collector() as found:
        settings = settings_for(found)
        if trouble == "refuses":
            settings = settings_for(found, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
        elif trouble == "fails":
            found.status = 400
        else:
            found.hold = threading.Event()
        began = time.monotonic()
        assert asyncio.run(drive(review(), settings, tmp_path / "s.db")) == "finished"
        assert time.monotonic() - began < 30


class Stuck:
    """An exporter that is stuck until it is told to abort."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.aborted = threading.Event()

    def send_spans(self, spans: object) -> bool:
        del spans
        self.entered.set()
        self.aborted.wait(30)
        return False

    def send_metrics(self, metrics: object, gauges: object) -> bool:
        del metrics, gauges
        return True

    def send_lines(self, lines: object) -> bool:
        del lines
        return True

    def abort(self) -> None:
        self.aborted.set()


def test_the_queue_is_bounded_and_handing_over_never_waits() -> None:
    exporter = Stuck()
    telemetry = Telemetry(exporter, metric_interval_s=60)
    for _ in range(1_000):
        telemetry.put(some_span())
    assert exporter.entered.wait(60)
    for _ in range(MAX_QUEUE + 5_000):
        telemetry.put(some_span())
    assert len(telemetry.queue) == MAX_QUEUE
    telemetry.close(deadline_s=0.05)
    assert exporter.aborted.is_set()


def test_without_the_extra_there_is_a_way_out_and_nothing_breaks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "smithers.observability.export", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert open_telemetry(Settings(otel_enabled=True)) is None
    assert "pip install 'smithers[otel]'" in caplog.text


def test_off_means_off() -> None:
    assert open_telemetry(Settings()) is None
    assert not Settings.from_environment({}).is_observed
