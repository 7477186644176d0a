"""Logs: one line a record, with the run and the task that code works for, and without credentials."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from smithers import Task, Workflow, create_smithers
from smithers.engine.engine import Engine
from smithers.observability.logs import FORMATS, configure_logging, make_formatter
from smithers.observability.telemetry import observe
from smithers.settings import Settings
from smithers.store import open_store

SECRET = "QZX0123456789QZX"


@contextmanager
def logged(format: str | None, level: str | None = None) -> Generator[io.StringIO]:
    stream, root = io.StringIO(), logging.getLogger()
    before = root.level
    handler = configure_logging(Settings(log_format=format, log_level=level), stream=stream)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def documents(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Row(BaseModel):
    n: int = 1


def test_an_authors_own_log_calls_carry_the_run_and_the_task(tmp_path: Path) -> None:
    smithers, outputs = create_smithers({"row": Row})
    author = logging.getLogger("author")

    def in_a_thread() -> Row:
        author.warning("from a thread", extra={"file": "a.py"})
        return Row()

    async def in_the_loop() -> Row:
        author.warning("from the loop")
        return Row()

    @smithers
    def workflow(ctx: object) -> Workflow:
        del ctx
        return Workflow(name="logs")[
            Task(id="one", output=outputs.row)[in_a_thread], Task(id="two", output=outputs.row)[in_the_loop]
        ]

    async def run() -> None:
        store = open_store(str(tmp_path / "s.db"))
        settings = Settings(log_format="json")
        engine = Engine(store, settings)
        observation = observe(settings, store, engine.hub)
        handle = await engine.launch(workflow, {}, run_id="r")
        await handle.result
        await engine.close()
        await observation.close()
        store.close()

    with logged("json") as stream:
        asyncio.run(run())

    found = documents(stream)
    common = {"run_id": "r", "workflow_name": "logs", "iteration": 0, "attempt": 1}
    (one,) = [d for d in found if d["message"] == "from a thread"]
    (two,) = [d for d in found if d["message"] == "from the loop"]
    assert one.items() >= (common | {"node_id": "one", "file": "a.py", "logger": "author", "level": "warning"}).items()
    assert two.items() >= (common | {"node_id": "two"}).items()
    told = [(d["message"], d.get("node_id")) for d in found if d["logger"] == "smithers.runs"]
    assert told == [
        ("run started", None),
        ("task started", "one"),
        ("task finished", "one"),
        ("task started", "two"),
        ("task finished", "two"),
        ("run finished", None),
    ]


def test_exceptions_are_fields() -> None:
    with logged("json") as stream:
        try:
            raise ValueError(f"password={SECRET}")
        except ValueError:
            logging.getLogger("x").exception("it broke")
    (found,) = documents(stream)
    exception = found["exception"]
    assert isinstance(exception, dict)
    assert exception["type"] == "ValueError"
    assert "Traceback" in exception["stack"]
    assert SECRET not in stream.getvalue()


@given(
    st.sampled_from(FORMATS),
    st.sampled_from(["token=%s", "Authorization: Bearer %s", "https://u:%s@host/"]),
    st.sampled_from(["message", "argument", "extra", "named", "nested", "exception"]),
)
def test_a_secret_reaches_no_line_in_any_format(format: str, shape: str, where: str) -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "fine", None, None)
    text = shape % SECRET
    if where == "message":
        record.msg = text
    elif where == "argument":
        record.msg, record.args = "got %s", (text,)
    elif where == "exception":
        error = ValueError(text)
        record.exc_info = (ValueError, error, None)
    else:
        value = {"extra": text, "named": SECRET, "nested": [{"headers": {"Authorization": SECRET}}]}[where]
        setattr(record, "api_key" if where == "named" else "about", value)
    line = make_formatter(format).format(record)
    assert SECRET not in line
    assert where == "exception" or "\n" not in line


@given(st.text(), st.dictionaries(st.text(min_size=1), st.one_of(st.text(), st.integers(), st.binary(), st.none())))
def test_a_record_is_one_json_line_whatever_it_holds(message: str, extra: dict[str, object]) -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, message, None, None)
    vars(record).update({f"f_{name}": value for name, value in extra.items()})
    line = make_formatter("json").format(record)
    assert "\n" not in line
    assert isinstance(json.loads(line), dict)


@pytest.mark.parametrize(("level", "expected"), [("error", 0), ("warn", 1), ("debug", 2), ("none", 0), (None, 1)])
def test_the_level_decides_what_is_logged(level: str | None, expected: int) -> None:
    with logged("logfmt", level) as stream:
        logging.getLogger("x").debug("small")
        logging.getLogger("x").warning("large")
    lines = [line for line in stream.getvalue().splitlines() if "logger=x" in line]
    assert len(lines) == expected


def test_a_wrong_format_or_level_is_told_and_the_usual_one_taken() -> None:
    with logged("xml", "loud") as stream:
        logging.getLogger("x").info("hello", extra={"count": 2})
    assert "SMITHERS_LOG_FORMAT must be one of" in stream.getvalue()
    assert "SMITHERS_LOG_LEVEL must be one of" in stream.getvalue()
    assert "info: hello count=2\n" in stream.getvalue()


def test_setting_up_twice_writes_once() -> None:
    with logged("string"):
        with logged("string") as stream:
            logging.getLogger("x").info("once")
        assert stream.getvalue() == "info: once\n"


def test_arguments_that_do_not_fit_lose_nothing() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "%d files", ("many",), None)
    assert json.loads(make_formatter("json").format(record))["message"] == "%d files"
