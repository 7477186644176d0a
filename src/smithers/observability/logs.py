"""Logs: one line a record, with what the code that logs works for, and without credentials.

For programs that want it: `configure_logging` is called by the command line where the environment asks for it, and by
whoever embeds a server. It serves all loggers, so an author's own calls within a task carry the run and the task too.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO, cast

from smithers.observability.context import current_run, current_task
from smithers.observability.redaction import scrub_value
from smithers.settings import Settings

log = logging.getLogger(__name__)

LEVELS: Final = {
    "all": 1,
    "trace": 5,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "none": logging.CRITICAL + 1,
}
FORMATS: Final = ("string", "json", "logfmt", "pretty")
MAX_FIELDS: Final = 50
_NAMES: Final = {logging.CRITICAL: "fatal", logging.WARNING: "warning", 5: "trace"}
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLOURS: Final = {"fatal": "31;1", "error": "31", "warning": "33", "info": "32", "debug": "2", "trace": "2"}


def correlation() -> dict[str, object]:
    """The run, node, iteration and attempt that the calling code works for, as far as it does."""
    found: dict[str, object] = {}
    run, task = current_run.get(), current_task()
    if run is not None:
        found |= {"run_id": run.run_id, "workflow_name": run.workflow_name}
        if run.parent_run_id is not None:
            found["parent_run_id"] = run.parent_run_id
    if task is not None and (run is None or task.run_id == run.run_id):
        found |= {
            "run_id": task.run_id,
            "node_id": task.node_id,
            "iteration": task.iteration,
            "attempt": task.attempt,
        }
    return found


def record_fields(record: logging.LogRecord) -> dict[str, object]:
    """A record as plain fields: `timestamp`, `level`, `message`, `logger`, what it works for, its own fields, and its
    exception as `{type, message, stack}`. Without credentials; never raises."""
    try:
        message = record.getMessage()
    except Exception:  # arguments that do not fit: the record must not be lost
        message = str(record.msg)
    found: dict[str, object] = {
        "timestamp": datetime.fromtimestamp(record.created, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z"),
        "level": _level_name(record),
        "message": message,
        "logger": record.name,
    }
    given: Mapping[str, object] = getattr(record, "smithers", {})
    own = {
        name: value
        for name, value in list(vars(record).items())
        # an underscore begins what a library notes for itself: Ray adds such a field to every record of the process
        if name not in _STANDARD and name != "smithers" and not name.startswith("_")
    }
    for name, value in [*given.items(), *list(own.items())[:MAX_FIELDS]]:
        found[f"{name}_" if name in ("timestamp", "level", "message", "logger") else name] = value
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        stack = "".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-30))
        found["exception"] = {"type": type(error).__name__, "message": _text(error), "stack": stack}
    if record.stack_info:
        found["stack"] = record.stack_info
    shown = scrub_value(found)
    assert isinstance(shown, dict)
    return cast("dict[str, object]", shown)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _level_name(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno) or record.levelname.lower()


class Correlated(logging.Filter):
    """Notes, where and when a record is made, what the code works for; the handler may be elsewhere."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets everything through."""
        if not hasattr(record, "smithers"):
            record.smithers = correlation()
        return True


class JsonFormatter(logging.Formatter):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return json.dumps(record_fields(record), ensure_ascii=False, default=str)


class LogfmtFormatter(logging.Formatter):
    """`name=value` pairs; values quoted where they must be."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return _pairs(record_fields(record))


class TextFormatter(logging.Formatter):
    """For people: the level, the message, its fields, and the traceback below.

    Args:
        is_pretty: begins with the time, and the level is coloured.
    """

    def __init__(self, *, is_pretty: bool = False) -> None:
        super().__init__()
        self._is_pretty = is_pretty

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines."""
        fields = record_fields(record)
        at, level, message = (str(fields.pop(name)) for name in ("timestamp", "level", "message"))
        del fields["logger"]
        exception = fields.pop("exception", None)
        if self._is_pretty:
            level = f"{at[11:23]} \x1b[{_COLOURS.get(level, '0')}m{level}\x1b[0m"
        message = _printable(message)
        line = f"{level}: {message}{' ' if fields else ''}{_pairs(fields)}"
        if isinstance(exception, dict):
            line += "\n" + str(cast("dict[str, object]", exception).get("stack", "")).rstrip()
        return line


def _pairs(fields: Mapping[str, object]) -> str:
    return " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    is_plain = text and text.isprintable() and not any(c in ' "=' for c in text)
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def make_formatter(name: str) -> logging.Formatter:
    """The formatter of this name; `string` for one that is not known."""
    match name:
        case "json":
            return JsonFormatter()
        case "logfmt":
            return LogfmtFormatter()
        case _:
            return TextFormatter(is_pretty=name == "pretty")


def configure_logging(settings: Settings | None = None, *, stream: TextIO | None = None) -> logging.Handler:
    """Have all loggers of this process write lines in the format and from the level that the settings say.

    Replaces what an earlier call has set up, and leaves handlers of others alone.

    Args:
        settings: from the environment by default; `string` and `info` for what they do not say.
        stream: standard error by default.

    Returns:
        The handler, for whoever wants to take it away again.
    """
    settings = settings or Settings.from_environment()
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(old)
    handler = _Handler(stream or sys.stderr)
    handler.addFilter(Correlated())
    handler.setFormatter(make_formatter(settings.log_format or "string"))
    root.addHandler(handler)
    root.setLevel(LEVELS.get(settings.log_level or "info", logging.INFO))
    if settings.log_format not in (None, "text", *FORMATS):
        log.warning(f"SMITHERS_LOG_FORMAT must be one of {', '.join(FORMATS)}")
    if settings.log_level is not None and settings.log_level not in LEVELS:
        log.warning(f"SMITHERS_LOG_LEVEL must be one of {', '.join(LEVELS)}")
    return handler


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that a second call finds it."""
