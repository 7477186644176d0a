"""`snapshots`, `restore`, `revert` and `worktree …`: the files that a run's tasks have worked on. `diff` is in `differing.py`,
which shows patches with `tell_patches`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import as_list, as_object, read_duration
from smithers.cli.common import Common, open_control
from smithers.cli.options import Option
from smithers.cli.output import Output, moment, printable, shortened
from smithers.cli.progress import node_name

if TYPE_CHECKING:
    from smithers.control.checkpoints import PutBack
    from smithers.control.worktrees import Worktree

Force = Annotated[bool, Option(help="Also over files that no checkpoint holds; they are stored first.", is_switch=True)]
_STYLES = {"+": "green", "-": "red", "@": "cyan"}
_SHOWN_PATHS = 20


async def snapshots(
    run: str,
    node: str | None = None,
    /,
    *,
    forget: Annotated[bool, Option(help="Remove all checkpoints of the run, which has ended.", is_switch=True)] = False,
    common: Common | None = None,
) -> int:
    """Show the checkpoints of a run: what its tasks have left of the files that they worked on.

    Parameters
    ----------
    run
        The run's id.
    node
        Only those of this step.
    """
    common = common or Common()
    out = common.output
    from smithers.control import checkpoints

    with open_control(common) as control:
        if forget:
            count = await checkpoints.forget(control, run)
            if out.is_text:
                out.line(f"{count} removed")
            else:
                out.document({"runId": run, "removed": count})
            return 0
        rows = await checkpoints.snapshots(control, run, node)
    if not out.is_text:
        told = [
            {
                "nodeId": row.node_id or None,
                "iteration": row.iteration,
                "attempt": row.attempt,
                "seq": row.seq,
                "position": row.position,
                "frameNo": row.frame_no,
                "cwd": row.cwd,
                "commit": row.commit_id,
                "problem": row.problem,
                "source": row.source,
                "label": row.label,
                "createdAtMs": row.created_at_ms,
            }
            for row in rows
        ]
        out.document({"runId": run, "snapshots": told})
        return 0
    if not rows:
        out.line("no checkpoints: no task has used a tool that changes files")
        return 0
    out.table(
        ("#", "STEP", "ATTEMPT", "FRAME", "WHEN", "COMMIT", "FOLDER"),
        [
            (
                str(row.position),
                printable(node_name(row.node_id, row.iteration)) if row.node_id else row.label or "",
                str(row.attempt) if row.node_id else "",
                str(row.frame_no),
                moment(row.created_at_ms),
                row.commit_id[:12] if row.commit_id else out.style(shortened(row.problem or "", 60), "yellow"),
                printable(row.cwd),
            )
            for row in rows
        ],
    )
    return 0


async def restore(
    run: str,
    node: str,
    /,
    *,
    iteration: int = 0,
    attempt: int | None = None,
    force: Force = False,
    common: Common | None = None,
) -> int:
    """Put files back to what a step left of them. The run itself stays as it is, and so do branch and index.

    Parameters
    ----------
    run
        The run's id.
    node
        The step.
    iteration
        Which iteration of a loop.
    attempt
        Which attempt; the newest with a checkpoint by default.
    """
    return await _put_back(common or Common(), run, node, iteration, attempt, force, is_told=False)


async def revert(
    run: str,
    node: str,
    /,
    *,
    attempt: Annotated[int, Option("--attempt", "-a")] = 1,
    iteration: int = 0,
    force: Force = False,
    common: Common | None = None,
) -> int:
    """Put files back to what one attempt of a step left of them, and note it in the run's log.

    Parameters
    ----------
    run
        The run's id.
    node
        The step.
    attempt
        Which attempt.
    iteration
        Which iteration of a loop.
    """
    return await _put_back(common or Common(), run, node, iteration, attempt, force, is_told=True)


async def _put_back(
    common: Common, run: str, node: str, iteration: int, attempt: int | None, force: bool, *, is_told: bool
) -> int:
    from smithers.control import checkpoints

    with open_control(common) as control:
        done = await checkpoints.restore(
            control, run, node, iteration, attempt=attempt, is_forced=force, is_told=is_told
        )
    _tell_put_back(common.output, run, done)
    return 0


def _tell_put_back(out: Output, run: str, done: PutBack) -> None:
    if not out.is_text:
        out.document(
            {
                "runId": run,
                "cwd": done.cwd,
                "commit": done.commit,
                "changed": list(done.changed),
                "safetyCommit": done.safety,
            }
        )
        return
    if not done.changed:
        out.line(f"{printable(done.cwd)} is like that already")
        return
    out.line(f"{printable(done.cwd)} is as it was at {done.commit[:12]}: {len(done.changed)} changed")
    for path in done.changed[:_SHOWN_PATHS]:
        out.line(f"  {printable(path)}")
    if len(done.changed) > _SHOWN_PATHS:
        out.line(f"  and {len(done.changed) - _SHOWN_PATHS} more")
    if done.safety is not None:
        out.line(f"what was there is kept: git show {done.safety[:12]}")


# ── worktrees ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def worktree_list(
    *, run: Annotated[str | None, Option(help="Only those of this run.")] = None, common: Common | None = None
) -> int:
    """List the worktrees that runs have made and that are still there."""
    common = common or Common()
    out = common.output
    from smithers.control.worktrees import worktrees

    with open_control(common) as control:
        found = await worktrees(control, run_id=run)
    if not out.is_text:
        out.document({"worktrees": [_document(tree) for tree in found]})
    elif found:
        out.table(("PATH", "BRANCH", "RUN", "STATUS", "SINCE", "HOLDS"), [_row(out, tree) for tree in found])
    else:
        out.line("no worktrees")
    return 0


async def worktree_prune(
    *,
    run: Annotated[str | None, Option(help="Only those of this run.")] = None,
    older_than: Annotated[str | None, Option(help="Only those made longer ago than this: 2h, 7d.")] = None,
    dry_run: Annotated[bool, Option(help="Only tell what would be removed.", is_switch=True)] = False,
    force: Annotated[bool, Option(help="Also those that hold unsaved work.", is_switch=True)] = False,
    common: Common | None = None,
) -> int:
    """Remove worktrees of runs that have ended, but for those that hold work which no branch has."""
    common = common or Common()
    out = common.output
    age_ms = 0 if older_than is None else read_duration(older_than, "--older-than")
    from smithers.control.worktrees import prune

    with open_control(common) as control:
        done = await prune(control, run_id=run, older_than_ms=age_ms, is_forced=force, is_dry=dry_run)
    gone = [tree for tree in done if tree.unsaved is None]
    if not out.is_text:
        kept = [_document(tree) for tree in done if tree.unsaved is not None]
        out.document({"removed": [_document(tree) for tree in gone], "kept": kept, "dryRun": dry_run})
        return 0
    said = "would be removed" if dry_run else "removed"
    for tree in done:
        out.line(f"{printable(tree.path)}  {said if tree.unsaved is None else f'kept: {printable(tree.unsaved)}'}")
    if not done:
        out.line("nothing to remove")
    return 0


def _document(tree: Worktree) -> dict[str, object]:
    return {
        "path": tree.path,
        "branch": tree.branch,
        "runId": tree.run_id,
        "runStatus": tree.run_status,
        "createdAtMs": tree.created_at_ms,
        "unsaved": tree.unsaved,
    }


def _row(out: Output, tree: Worktree) -> tuple[str, ...]:
    return (
        printable(tree.path),
        printable(tree.branch or ""),
        printable(tree.run_id),
        out.state(tree.run_status),
        moment(tree.created_at_ms),
        "" if tree.unsaved is None else printable(tree.unsaved),
    )


# ── patches ────────────────────────────────────────────────────────────────────────────────────────────────────────


def tell_patches(out: Output, bundle: Mapping[str, object], *, is_stat: bool = False) -> None:
    """Show a `DiffBundle`: for a terminal in colours and made printable, else as it is, for `git apply`.

    Args:
        is_stat: only how much changed in which file.
    """
    if bundle.get("status") == "oversized":
        size, base, end = bundle.get("sizeBytes"), bundle.get("baseRef"), bundle.get("terminalRef")
        out.note(f"the difference has {size} bytes, too many to show; see it with: git diff {base} {end}")
        return
    patches = [as_object(patch) for patch in as_list(bundle.get("patches"))]
    if not patches and not is_stat:
        out.note("no files were changed")
    if is_stat:
        _tell_stat(out, patches)
        return
    for patch in patches:
        text = str(patch.get("diff") or "")
        if not out.is_terminal:
            out.line(text.removesuffix("\n"))
            continue
        if "\nGIT binary patch\n" in text:
            text = text.partition("\nGIT binary patch\n")[0] + f"\nbinary file: {patch.get('operation')}"
        for line in text.splitlines():
            style = "bold" if line.startswith(("+++", "---", "diff ")) else _STYLES.get(line[:1])
            shown = printable(line.expandtabs(4))
            out.line(shown if style is None else out.style(shown, style))


def _tell_stat(out: Output, patches: Sequence[Mapping[str, object]]) -> None:
    rows: list[tuple[str, ...]] = []
    for patch in patches:
        body = str(patch.get("diff") or "").partition("\n@@")[2]
        lines = body.splitlines()
        added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
        counts = (out.style(f"+{added}", "green"), out.style(f"-{removed}", "red"))
        if "binaryContent" in patch or not body:
            counts = ("", "")
        rows.append((str(patch.get("operation")), *counts, printable(str(patch.get("path")))))
    if rows:
        out.table(("", "ADDED", "REMOVED", "FILE"), rows)
    out.line(f"{len(rows)} {'file' if len(rows) == 1 else 'files'} changed")
