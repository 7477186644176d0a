"""`check`: loads a workflow and renders it twice, and tells what is wrong with it. Nothing is executed or stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import read_object
from smithers.cli.common import Common
from smithers.cli.options import Option
from smithers.cli.output import Output, printable
from smithers.errors import AuthoringError, InvalidInput, SmithersError

if TYPE_CHECKING:
    from smithers.control.preview import Preview


def check(
    workflow: Path,
    /,
    *,
    input: Annotated[str | None, Option("--input", "-i", takes_dashes=True)] = None,
    common: Common | None = None,
) -> int:
    """Load a workflow and look for mistakes, without running it. Exits with 1 when there are any.

    Parameters
    ----------
    workflow
        The workflow's file.
    input
        The input to render with: a JSON object, @FILE, or - for stdin.
    """
    common = common or Common()
    out = common.output
    given = None if input is None else read_object(input, "--input")
    if not workflow.is_file():
        raise InvalidInput(f"there is no workflow file {workflow}")
    try:
        found = _rendered_twice(workflow, given)
    except AuthoringError as error:
        _tell_problem(out, workflow, error)
        return 1
    _tell(out, workflow, found)
    return 0


def _rendered_twice(path: Path, given: dict[str, object] | None) -> Preview:
    """The tree, if two renders of the same state agree on it. Raises an authoring error."""
    from smithers.control.preview import preview
    from smithers.engine.loading import load_workflow
    from smithers.errors import InvalidElement
    from smithers.graph.tree import canonical

    workflow = load_workflow(path)
    first, second = preview(workflow, given), preview(workflow, given)
    one, other = canonical(first.tree), canonical(second.tree)
    if one != other:
        at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        raise InvalidElement(
            f"workflow {workflow.function_name!r} is not pure: two renders of the same state differ, "
            f"near {_around(one, at)!r} and {_around(other, at)!r}; "
            "let it depend on nothing but its context (no time, no randomness, no files)",
        )
    return first


def _around(text: str, place: int) -> str:
    return text[max(0, place - 20) : place + 20]


def _tell_problem(out: Output, path: Path, error: SmithersError) -> None:
    if not out.is_text:
        problem = {"code": error.error_code, "message": error.summary, "details": error.details}
        out.document({"ok": False, "workflow": str(path), "problems": [problem]})
        return
    at = error.details.get("at")
    place = f"{path.parent / at}" if isinstance(at, str) else str(path)
    out.line(f"{out.style('✗', 'red')} {printable(place)}: {printable(error.summary)} [{error.error_code}]")


def _tell(out: Output, path: Path, found: Preview) -> None:
    leaves = found.plan.leaves
    if not out.is_text:
        tasks = [{"nodeId": key[0], "iteration": key[1], "kind": leaf.kind.value} for key, leaf in leaves.items()]
        out.document({"ok": True, "workflow": str(path), "name": found.plan.name, "tasks": tasks, "problems": []})
        return
    count = len(leaves)
    out.line(
        f"{out.style('✓', 'green')} {printable(str(path))}: {printable(found.plan.name)}, "
        f"{count} task{'' if count == 1 else 's'} in the first render"
    )
    rows = [
        (printable(key[0]), leaf.kind.value, leaf.output.key if leaf.output else "") for key, leaf in leaves.items()
    ]
    if rows:
        out.table(("TASK", "KIND", "OUTPUT"), rows, indent="  ")
