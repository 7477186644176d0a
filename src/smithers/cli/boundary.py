"""Boundary: what tasks have done outside and would stay done, shown before history is changed."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from smithers.cli.arguments import as_list, as_object
from smithers.cli.output import Output, printable, shortened
from smithers.cli.progress import node_name
from smithers.errors import SideEffectBlocked

_KINDS = (
    ("blocking", "stays done", "red"),
    ("revertible", "is undone", "green"),
    ("warnings", "may repeat", "yellow"),
)
MAX_SHOWN = 20


def tell_effects(out: Output, report: Mapping[str, object], where: str) -> None:
    """Show an effect boundary report; a line if there is nothing in it.

    Args:
        where: which effects were looked at, in words.
    """
    rows: list[tuple[str, ...]] = []
    for name, word, style in _KINDS:
        for found in as_list(report.get(name)):
            effect = as_object(found)
            iteration = effect.get("iteration")
            place = node_name(str(effect.get("nodeId")), iteration if isinstance(iteration, int) else 0)
            rows.append(
                (
                    out.style(word, style),
                    printable(str(effect.get("toolName"))),
                    printable(place),
                    str(effect.get("attempt")),
                    str(effect.get("effectStatus")),
                    shortened(str(effect.get("reason") or ""), 80),
                )
            )
    if not rows:
        out.line(f"effects outside {where}: none")
        return
    out.line(f"effects outside {where}:")
    out.table(("", "TOOL", "STEP", "ATTEMPT", "STATUS", ""), rows[:MAX_SHOWN], indent="  ")
    if len(rows) > MAX_SHOWN:
        out.line(f"  and {len(rows) - MAX_SHOWN} more; all with --format json")


@contextmanager
def crossing(out: Output) -> Generator[None]:
    """Shows the report of a change of history that is refused for its effects, before the refusal."""
    try:
        yield
    except SideEffectBlocked as error:
        if out.is_text:
            tell_effects(out, as_object(error.details.get("report")), "of the steps that would be done again")
        raise
