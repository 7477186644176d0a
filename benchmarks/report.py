"""Report: what was measured, as one table with median and spread, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TypeAlias

from benchmarks.cases import SUBJECTS, Case, Figure, Medians, Target

Key: TypeAlias = tuple[str, int, str]
"""Case, size and subject."""

Samples: TypeAlias = dict[Key, list[Mapping[str, float]]]
"""The figures of every repeat."""


@dataclass
class Line:
    """One row of the table."""

    case: str
    title: str
    n: str
    figure: Figure
    values: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    @property
    def medians(self) -> Medians:
        """The middle of each subject's repeats."""
        return {subject: median(values) for subject, values in self.values.items()}

    @property
    def target(self) -> Target | None:
        """What this project wants to reach here."""
        target = self.figure.target
        if target is None or (target.sizes and int(self.n) not in target.sizes):
            return None
        return target

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None without a target or a measurement."""
        target = self.target
        return target.is_met(self.medians) if target is not None and "smithers" in self.values else None


def lines_of(case: Case, sizes: tuple[int, ...], samples: Samples) -> list[Line]:
    """The rows of a case."""
    found: list[Line] = []
    for n in sizes:
        for figure in case.figures:
            if figure.largest_only and n != sizes[-1]:
                continue
            line = Line(case.name, case.title, str(n), figure)
            for subject in case.functions:
                if values := [sample[figure.key] for sample in samples.get((case.name, n, subject), [])]:
                    line.values[subject] = values
            found.append(line)
    if case.grows is not None and len(sizes) > 1:
        found.append(_growth(case, case.grows, sizes, samples))
    return [line for line in found if line.values]


def _growth(case: Case, figure: Figure, sizes: tuple[int, ...], samples: Samples) -> Line:
    line = Line(case.name, case.title, f"{sizes[-1]} / {sizes[0]}", figure)
    for subject in case.functions:
        small = samples.get((case.name, sizes[0], subject), [])
        large = samples.get((case.name, sizes[-1], subject), [])
        if small and large:
            line.values[subject] = [b[figure.key] / a[figure.key] for a, b in zip(small, large, strict=True)]
    return line


def table(lines: Iterable[Line]) -> str:
    """The lines as an aligned Markdown table."""
    lines = list(lines)
    subjects = [subject for subject in SUBJECTS if any(subject in line.values for line in lines)]
    rows = [["case", "n", "figure", *(SUBJECTS[subject] for subject in subjects), "target", ""]]
    for line in lines:
        verdict = {None: "", True: "pass", False: "MISS"}[line.is_met]
        cells = [_cell(line.values.get(subject)) for subject in subjects]
        target = line.target.text if line.target else ""
        rows.append([line.title, line.n, line.figure.title, *cells, target, verdict])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def as_json(lines: Iterable[Line]) -> list[dict[str, object]]:
    """The lines with every repeat's value."""
    return [
        {
            "case": line.case,
            "n": line.n,
            "figure": line.figure.key,
            "unit": line.figure.title,
            "values": line.values,
            "medians": line.medians,
            "target": line.target.text if line.target else None,
            "isMet": line.is_met,
        }
        for line in lines
    ]


def _cell(values: list[float] | None) -> str:
    if not values:
        return ""
    low, middle, high = (_number(value) for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
