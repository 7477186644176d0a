"""Applies a unified diff of one file to a text. Pure; reading and writing the file is `files.py`'s."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from smithers.errors import ToolPatchFailed

_HEADER = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_NO_NEWLINE = "\\"


@dataclass(slots=True)
class _Hunk:
    number: int
    start: int
    """Line of the old text that it begins at, from 0."""
    old: list[str] = field(default_factory=list[str])
    new: list[str] = field(default_factory=list[str])


def apply_patch(text: str, patch: str) -> str:
    """The text with a patch applied.

    A hunk whose lines are not where its header says goes to the nearest place below the hunk before it where all its
    context and removed lines are found exactly. File names are ignored. A patch with bare line feeds fits a text whose
    lines all end in CR LF.

    Raises:
        ToolPatchFailed: not a unified diff of one file, or a hunk that fits nowhere.
    """
    hunks = list(_hunks(patch))
    if not hunks:
        raise ToolPatchFailed("the patch has no hunk; it must be a unified diff with @@ lines")
    lines = _lines(text)
    if lines and all(line.endswith("\r\n") for line in lines) and "\r" not in patch:
        for hunk in hunks:
            hunk.old = [line.replace("\n", "\r\n") for line in hunk.old]
            hunk.new = [line.replace("\n", "\r\n") for line in hunk.new]
    out: list[str] = []
    taken = shift = 0
    for hunk in hunks:
        at = _find(lines, hunk, taken, hunk.start + shift)
        shift = at - hunk.start
        out += lines[taken:at]
        out += hunk.new
        taken = at + len(hunk.old)
    return "".join(out + lines[taken:])


def _lines(text: str) -> list[str]:
    parts = text.split("\n")
    last = parts.pop()
    return [part + "\n" for part in parts] + ([last] if last else [])


def _find(lines: list[str], hunk: _Hunk, lowest: int, expected: int) -> int:
    highest = len(lines) - len(hunk.old)
    expected = min(max(expected, lowest), max(highest, lowest))
    if not hunk.old:  # nothing to find it by
        return expected
    for distance in range(max(highest - lowest, 0) + 1):
        for at in {expected + distance, expected - distance}:
            if lowest <= at <= highest and lines[at : at + len(hunk.old)] == hunk.old:
                return at
    raise ToolPatchFailed(
        f"hunk {hunk.number} (line {hunk.start + 1}) does not fit the file: its context is not there",
        {"hunk": hunk.number, "line": hunk.start + 1},
    )


def _hunks(patch: str) -> Iterator[_Hunk]:
    rows = _lines(patch if patch.endswith("\n") else patch + "\n")
    at = names = number = 0
    while at < len(rows):
        row = rows[at]
        at += 1
        found = _HEADER.match(row)
        if found is not None:
            number += 1
            start, old, _, new = (int(text) if text is not None else 1 for text in found.groups())
            # A hunk with no old lines names the line that it comes after.
            hunk = _Hunk(number, max(start - 1, 0) if old else start)
            at = _fill(hunk, rows, at, old, new)
            yield hunk
            continue
        names += row.startswith("--- ")
        if names > 1 or (number and row.startswith(("--- ", "diff "))):
            raise ToolPatchFailed(f"line {at} of the patch begins another file; a patch must be of one file")
        if number and row.strip():
            raise ToolPatchFailed(f"line {at} of the patch belongs to no hunk; do the numbers in @@ add up?")


def _fill(hunk: _Hunk, rows: list[str], at: int, old: int, new: int) -> int:
    """Take as many rows as the header says, with the notes about missing line ends; returns where the next row is."""
    kind = " "
    while at < len(rows):
        row = rows[at]
        if row.startswith(_NO_NEWLINE):
            _strip_end(hunk, kind)
            at += 1
            continue
        if len(hunk.old) == old and len(hunk.new) == new:
            return at
        # An empty row is an empty line of context whose space an editor took away.
        kind, line = (row[0], row[1:]) if row not in ("\n", "\r\n") else (" ", row)
        if kind not in " -+":
            raise ToolPatchFailed(
                f"line {at + 1} of the patch begins with {kind!r}; hunk {hunk.number} is not complete"
            )
        if kind in " -":
            hunk.old.append(line)
        if kind in " +":
            hunk.new.append(line)
        if len(hunk.old) > old or len(hunk.new) > new:
            break
        at += 1
    if len(hunk.old) != old or len(hunk.new) != new:
        raise ToolPatchFailed(
            f"hunk {hunk.number} does not have the {old} old and {new} new lines that its @@ line says",
            {"hunk": hunk.number},
        )
    return at


def _strip_end(hunk: _Hunk, kind: str) -> None:
    for lines, kinds in ((hunk.old, " -"), (hunk.new, " +")):
        if kind in kinds and lines:
            lines[-1] = lines[-1].removesuffix("\n")
