"""Reads what an external program prints: JSON lines as they come, or one JSON document. Pure, knows no program by name.

The names of keys and events are those that the usual agent programs share; what is not recognised is text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from pydantic_core import from_json

from smithers.agents.calls import Usage
from smithers.agents.usage import read_usage

_ANSWER_KEYS = ("answer", "result", "text", "content", "message", "output", "item")
_FINAL = frozenset({"completed", "result", "turn.completed", "final"})
_OURS = frozenset({"started", "action", "completed"})
_MAX_DEPTH = 6
_MAX_LINE = 4_000_000


@dataclass(slots=True)
class Answer:
    """What was read so far: the final answer, else the last text; the usage; an error that the program reported."""

    final: object | None = None
    last_text: str = ""
    usage: Usage = field(default_factory=Usage)
    error: str | None = None
    model: str | None = None


@dataclass(slots=True)
class JsonLines:
    """Takes output in pieces, reads it line by line; a line that is no JSON object is left alone."""

    on_event: Callable[[Mapping[str, object]], None]
    engine: str
    answer: Answer = field(default_factory=Answer)
    _pieces: list[str] = field(default_factory=list[str])
    _held: int = 0

    def feed(self, text: str) -> None:
        """Take the next piece of output."""
        *complete, rest = text.split("\n")
        for part in complete:
            line = "".join([*self._pieces, part])
            self._pieces, self._held = [], 0
            self._read(line)
        self._held += len(rest)
        if self._held <= _MAX_LINE:  # of a longer line nothing is kept: its end will be no JSON
            self._pieces.append(rest)
        else:
            self._pieces = []

    def close(self) -> Answer:
        """The last line may have no line break."""
        self._read("".join(self._pieces))
        self._pieces = []
        return self.answer

    def _read(self, line: str) -> None:
        event = parse_object(line)
        if event is None:
            return
        kind = event.get("type")
        name = kind if isinstance(kind, str) else ""
        if usage := find_usage(event):
            self.answer.usage = usage
        if isinstance(event.get("model"), str):
            self.answer.model = str(event["model"])
        if (error := find_error(event, name)) is not None:
            self.answer.error = error
        elif name in _FINAL:
            found = final_answer(event)
            self.answer.final = self.answer.final if found is None else found
        elif text := text_of(event):
            self.answer.last_text = text
        self.on_event({**event, "engine": self.engine} if name in _OURS else self._note(name))

    def _note(self, name: str) -> dict[str, object]:
        action = {"id": name or "line", "kind": "note", "title": name or "output"}
        return {"type": "action", "engine": self.engine, "phase": "updated", "action": action}


def parse_object(text: str) -> dict[str, object] | None:
    """`text` as a JSON object, or None."""
    stripped = text.strip().lstrip("\ufeff")
    if not stripped.startswith("{"):
        return None
    try:
        value: object = from_json(stripped, allow_inf_nan=False)
    except ValueError:
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def final_answer(document: Mapping[str, object]) -> object | None:
    """What a final event or document gives as answer: a structured value, or text."""
    for key in ("answer", "structured_output", "result"):
        if isinstance(document.get(key), dict):
            return document[key]
    return text_of(document) or None


def text_of(value: object, depth: int = 0) -> str:
    """The text that a message holds, however it is wrapped; "" if there is none."""
    if isinstance(value, str):
        return value
    if depth >= _MAX_DEPTH:
        return ""
    if isinstance(value, list):
        return "".join(text_of(part, depth + 1) for part in cast("list[object]", value))
    if isinstance(value, Mapping):
        found = cast("Mapping[str, object]", value)
        for key in _ANSWER_KEYS:
            if key in found and (text := text_of(found[key], depth + 1)):
                return text
    return ""


def find_usage(event: Mapping[str, object]) -> Usage:
    """The usage that an event tells of, at its top or in its message."""
    if usage := read_usage(event.get("usage")):
        return usage
    message = event.get("message")
    return read_usage(cast("Mapping[str, object]", message).get("usage")) if isinstance(message, Mapping) else Usage()


def find_error(event: Mapping[str, object], kind: str) -> str | None:
    """What an event reports as failure of the whole run, or None. Failed actions inside a run are no such failure."""
    if kind == "rate_limit_event":
        info = event.get("rate_limit_info", event)
        rejected = isinstance(info, Mapping) and cast("Mapping[str, object]", info).get("status") == "rejected"
        return f"rate_limit_event rejected: {_message(event) or ''}".strip() if rejected else None
    failed = kind in ("error", "turn.failed") or event.get("is_error") is True
    if kind == "completed" and event.get("ok") is False:
        failed = True
    return (_message(event) or f"the program reported {kind or 'an error'}") if failed else None


def _message(event: Mapping[str, object]) -> str:
    error = event.get("error")
    if isinstance(error, Mapping):
        nested = cast("Mapping[str, object]", error)
        return " ".join(str(nested[key]) for key in ("type", "code", "message") if isinstance(nested.get(key), str))
    return error if isinstance(error, str) else text_of(event)
