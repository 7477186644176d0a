"""Output: text, JSON documents and JSON lines on stdout, notes and errors on stderr. The only place that writes to either.

Kept light: every command imports it. Text that comes from runs is made printable first, so that no workflow, agent or
signal can send control sequences to a terminal.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Literal, TextIO, TypeAlias

from smithers.durations import duration as duration
from smithers.errors import SmithersError, json_safe

Format: TypeAlias = Literal["text", "json", "jsonl"]

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
STATE_STYLES: Mapping[str, str] = {
    "finished": "green",
    "succeeded": "green",
    "continued": "green",
    "failed": "red",
    "orphaned": "red",
    "stale": "red",
    "cancelled": "dim",
    "skipped": "dim",
    "pending": "dim",
    "running": "blue",
    "in-progress": "blue",
    "paused": "yellow",
}
"""How states of runs and nodes are coloured; waiting ones are yellow."""


_documents: TextIO | None = None
"""Where documents go, if that is not `sys.stdout`."""


def keep_documents_apart() -> None:
    """Have nothing but documents on this process's standard output: what workflows, tasks and programs that they start
    write there goes to standard error from now on. Once, at the start of a process whose documents a program reads."""
    global _documents
    with suppress(OSError, ValueError, AttributeError):  # nothing to keep apart where one of the two is closed
        sys.stdout.flush()
        own = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        _documents = open(own, "w", encoding=sys.stdout.encoding, errors="backslashreplace")  # noqa: PTH123, SIM115


def documents() -> TextIO:
    """Standard output, as far as commands themselves write to it."""
    return sys.stdout if _documents is None else _documents


class Output:
    """Where a command writes.

    Args:
        format: `text` for people; `json` for one document; `jsonl` for one object a line.
        has_color: whether a terminal may get colours.
    """

    def __init__(self, format: Format = "text", *, has_color: bool = True) -> None:
        self.format: Format = format
        self.is_terminal = documents().isatty()
        self.has_color = has_color and self.is_terminal and format == "text"
        self.is_closed = False
        """Whether the reader of stdout has gone."""

    @property
    def is_text(self) -> bool:
        """Whether a person reads this."""
        return self.format == "text"

    def line(self, text: str = "") -> None:
        """Write a line to stdout. Raises BrokenPipeError when nobody reads any more."""
        self._write(documents(), text)

    def clear(self) -> None:
        """Empty the screen before something is shown anew; in a pipe, leave a blank line."""
        if self.is_text:
            self.line("\x1b[H\x1b[2J\x1b[3J" if self.is_terminal else "")

    def note(self, text: str) -> None:
        """Write a line for a person to stderr."""
        self._write(sys.stderr, text)

    def document(self, value: Mapping[str, object]) -> None:
        """Write the one JSON document of a command."""
        self._write(documents(), to_text(value, indent=2 if self.format == "json" else None))

    def record(self, value: Mapping[str, object]) -> None:
        """Write one JSON line."""
        self._write(documents(), to_text(value))

    def _write(self, stream: TextIO, text: str) -> None:
        try:
            stream.write(text + "\n")
            stream.flush()
        except BrokenPipeError:
            self.is_closed = True
            raise

    def style(self, text: str, *styles: str) -> str:
        """`text` in a style, where colours are wanted."""
        if not self.has_color or not styles:
            return text
        return f"\x1b[{';'.join(_STYLES[s] for s in styles)}m{text}\x1b[0m"

    def state(self, name: str) -> str:
        """A state's name in its colour."""
        return self.style(name, STATE_STYLES.get(name, "yellow"))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "") -> None:
        """Write columns that are as wide as they need to be. Cells may hold styles."""
        listed = [list(row) for row in rows]
        heads = [self.style(name, "dim") for name in header]
        every = [heads, *listed]
        widths = [max(width(row[i]) for row in every) for i in range(len(header))]
        for row in every:
            cells = [cell + " " * (widths[i] - width(cell)) for i, cell in enumerate(row)]
            self.line(indent + "  ".join(cells).rstrip())

    def failure(self, error: SmithersError) -> None:
        """Tell of an error: a document on stdout for programs, one line on stderr for people."""
        if self.is_text:
            at = error.details.get("at")
            place = f" ({at})" if isinstance(at, str) and at not in error.summary else ""
            self.note(
                f"{self.style('error', 'red')}: {printable(error.summary)}{printable(place)} [{error.error_code}]"
            )
            return
        body: dict[str, object] = {"code": error.error_code, "message": error.summary, "details": error.details}
        self.document({"ok": False, "error": body})


def to_text(value: object, indent: int | None = None) -> str:
    """JSON text of anything; characters as they are, without what JSON cannot hold."""
    return json.dumps(json_safe(value), ensure_ascii=False, indent=indent)


def printable(text: str, *, keep_newlines: bool = False) -> str:
    """`text` without control characters: they are written as escapes, so that a terminal shows instead of obeying them."""
    if text.isprintable():
        return text
    return "".join(c if _is_shown(c) or (keep_newlines and c == "\n") else _escaped(c) for c in text)


def _is_shown(character: str) -> bool:
    # joiners and variation selectors make emoji; other invisible ones reorder or hide text
    return unicodedata.category(character)[0] != "C" or character == "\u200d"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


def shortened(text: str, limit: int = 120) -> str:
    """One printable line of at most `limit` columns."""
    line = printable(" ".join(text.split()))
    if width(line) <= limit:
        return line
    out, used = "", 1
    for character in line:
        used += _columns(character)
        if used > limit:
            break
        out += character
    return out + "…"


def width(text: str) -> int:
    """How many columns a terminal takes for `text`; styles take none."""
    if "\x1b" in text:
        parts = text.split("\x1b[")
        text = parts[0] + "".join(part.partition("m")[2] for part in parts[1:])
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def moment(milliseconds: int) -> str:
    """A moment for a person, in local time."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def clock_time(milliseconds: int) -> str:
    """The time of day of a moment, in local time, with milliseconds."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
