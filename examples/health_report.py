"""Ranks measured files and writes the report as Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from health_metrics import FileHealth, FunctionHealth
from pydantic import BaseModel

COMPLEX = 10
"""Functions with more ways through them than this are reported."""

DEEP = 4
"""Functions that nest deeper than this are reported."""


class Place(BaseModel):
    """Lines of a file."""

    path: str
    line: int
    end: int


class Ranked(BaseModel):
    """A file with its points: the more, the sooner it deserves a look."""

    path: str
    points: int
    lines: int
    complexity: int
    worst: FunctionHealth | None
    long: list[FunctionHealth]
    undocumented: int
    notes: list[str]
    duplicate_lines: int
    problem: str | None


class Ranking(BaseModel):
    """All files, most points first, and the blocks that occur more than once."""

    files: list[Ranked]
    duplicates: list[list[Place]]

    @property
    def findings(self) -> int:
        """How many single things the report points at."""
        files = sum(len(f.long) + f.undocumented + len(f.notes) + (f.problem is not None) for f in self.files)
        return files + len(self.duplicates)


class Advice(BaseModel):
    """What a model makes of the ranking."""

    summary: str
    suggestions: list[str]


def rank(files: Sequence[FileHealth]) -> Ranking:
    """Give every file its points and sort; ties go by path, so that the same tree gives the same report."""
    duplicates = find_duplicates(files)
    repeated: dict[str, int] = defaultdict(int)
    for places in duplicates:
        for place in places:
            repeated[place.path] += place.end - place.line + 1
    ranked = [_ranked(file, repeated[file.path]) for file in files]
    ranked.sort(key=lambda f: (-f.points, f.path))
    return Ranking(files=ranked, duplicates=duplicates)


def find_duplicates(files: Iterable[FileHealth]) -> list[list[Place]]:
    """Blocks that occur more than once, longest first; of nested ones only the outermost."""
    by_digest: dict[str, list[Place]] = defaultdict(list)
    for file in files:
        for block in file.blocks:
            by_digest[block.digest].append(Place(path=file.path, line=block.line, end=block.end))
    groups = [places for places in by_digest.values() if len(places) > 1]
    groups.sort(key=lambda places: (-(places[0].end - places[0].line), places[0].path, places[0].line))
    kept: list[list[Place]] = []
    covered: dict[str, list[Place]] = defaultdict(list)
    for places in groups:
        if all(any(o.line <= p.line and p.end <= o.end for o in covered[p.path]) for p in places):
            continue
        kept.append(places)
        for place in places:
            covered[place.path].append(place)
    return kept


def _ranked(file: FileHealth, duplicate_lines: int) -> Ranked:
    worst = file.worst
    points = 50 * (file.problem is not None)
    points += 5 * len(file.long) + len(file.undocumented) + 2 * len(file.notes) + duplicate_lines // 2
    points += max(0, file.lines - 400) // 20
    if worst is not None:
        points += 2 * max(0, worst.complexity - COMPLEX) + 3 * max(0, worst.nesting - DEEP)
    return Ranked(
        path=file.path,
        points=points,
        lines=file.lines,
        complexity=file.complexity,
        worst=worst,
        long=file.long,
        undocumented=len(file.undocumented),
        notes=[f"{note.line}: {note.text}" for note in file.notes],
        duplicate_lines=duplicate_lines,
        problem=file.problem,
    )


def advice_prompt(ranking: Ranking) -> str:
    """What the model is asked."""
    rows = "\n".join(
        f"{f.path}: {f.points} points, {f.lines} lines, complexity {f.complexity}, {len(f.long)} long functions, "
        f"{f.undocumented} undocumented, {f.duplicate_lines} duplicate lines"
        for f in ranking.files[:25]
    )
    return (
        "These are the measurements of a Python code base, worst file first. Summarise its state in two or three "
        f"sentences, then give at most five suggestions, most useful first, each naming a file.\n\n{rows}"
    )


def render_report(path: str, ranking: Ranking, advice: Advice | None, top: int) -> str:
    """The report as Markdown.

    Args:
        top: rows in each table.
    """
    files = ranking.files
    parts = [f"# Code health of `{path}`", _totals(files, ranking)]
    if advice is not None:
        suggestions = "\n".join(f"{n}. {text}" for n, text in enumerate(advice.suggestions, 1))
        parts += ["## What a model says", advice.summary, suggestions]
    parts += ["## Files, most deserving of a look first", _table(
        ("#", "file", "points", "lines", "complexity", "long functions", "no docstring", "notes", "duplicate lines"),
        [
            (n, f"`{f.path}`", f.points, f.lines, f.complexity, len(f.long), f.undocumented, len(f.notes), f.duplicate_lines)
            for n, f in enumerate(files[:top], 1)
        ],
    )]  # fmt: skip
    functions = [(f.path, f.worst) for f in files if f.worst is not None]
    functions.sort(key=lambda pair: (-pair[1].complexity, pair[0]))
    parts += ["## Most complex functions, one a file", _table(
        ("function", "where", "complexity", "nesting", "lines"),
        [(f"`{w.name}`", f"`{p}:{w.line}`", w.complexity, w.nesting, w.lines) for p, w in functions[:top]],
    )]  # fmt: skip
    long = sorted(
        ((f.path, g) for f in files for g in f.long), key=lambda pair: (-pair[1].lines, pair[0], pair[1].line)
    )
    if long:
        rows = [(f"`{g.name}`", f"`{p}:{g.line}`", g.lines) for p, g in long[:top]]
        parts += ["## Longest functions", _table(("function", "where", "lines"), rows)]
    if ranking.duplicates:
        listed = [
            f"- {places[0].end - places[0].line + 1} lines: "
            + ", ".join(f"`{place.path}:{place.line}`" for place in places)
            for places in ranking.duplicates[:top]
        ]
        parts += ["## Blocks that occur more than once", "\n".join(listed)]
    notes = [f"- `{f.path}:{note}`" for f in files for note in f.notes]
    if notes:
        parts += ["## Left to do, by the code's own words", "\n".join(notes[:top])]
    broken = [f"- `{f.path}`: {f.problem}" for f in files if f.problem]
    if broken:
        parts += ["## Could not be parsed", "\n".join(broken)]
    parts += ["## How points are given", _POINTS]
    return "\n\n".join(parts) + "\n"


def _totals(files: Sequence[Ranked], ranking: Ranking) -> str:
    lines = sum(f.lines for f in files)
    return (
        f"{len(files)} files, {lines} lines, {sum(len(f.long) for f in files)} long functions, "
        f"{sum(f.undocumented for f in files)} public names without a docstring, "
        f"{len(ranking.duplicates)} repeated blocks, {sum(len(f.notes) for f in files)} notes."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows])


_POINTS = f"""\
- 50 for a file that cannot be parsed
- 5 for each long function, 1 for each public name without a docstring, 2 for each note
- 1 for every 2 lines that also stand elsewhere, 1 for every 20 lines beyond 400
- 2 for each unit of the worst function's complexity beyond {COMPLEX}, 3 for each level that it nests beyond {DEEP}"""
