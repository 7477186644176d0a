"""`init`: a starter project that runs as it is, without a network or a model. Its workflow is a copy of `starter.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from smithers.cli.common import Common
from smithers.cli.options import Option
from smithers.cli.output import printable
from smithers.errors import InvalidInput, StorageError

README = """# A Smithers project

`workflow.py` counts the words of some files, waits for your go-ahead, and stores a report. No network, no model.

    smithers check workflow.py             # look for mistakes, run nothing
    smithers graph workflow.py             # draw its tree
    smithers up workflow.py -r first       # run it until it waits for you (exit code 3)
    smithers inspect first                 # what has happened, what it waits for
    smithers approve first --note "go"     # decide
    smithers resume first                  # go on: the files are not counted again
    smithers output first report           # the result

Kill `smithers up` at any moment: `smithers resume` goes on from what was stored in `smithers.db`.
To let it go on by itself, keep `smithers supervise --all` running, or start with `smithers up workflow.py --wait`.
"""
IGNORE = "smithers.db\nsmithers.db-*\n.smithers/\n__pycache__/\n"


def init(
    folder: Path = Path(),
    /,
    *,
    force: Annotated[bool, Option(is_switch=True)] = False,
    common: Common | None = None,
) -> int:
    """Write a starter project that runs offline.

    Parameters
    ----------
    folder
        Where to; the current folder by default.
    force
        Write over files that are there.
    """
    out = (common or Common()).output
    workflow = Path(__file__).with_name("starter.py").read_text(encoding="utf-8")
    files = {"workflow.py": workflow, "README.md": README, ".gitignore": IGNORE}
    there = [name for name in files if (folder / name).exists()]
    if there and not force:
        raise InvalidInput(f"{folder / there[0]} exists already; choose another folder, or write over it with --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror}") from error
    if not out.is_text:
        out.document({"folder": str(folder.resolve()), "files": list(files)})
        return 0
    for name in files:
        out.line(f"wrote {printable(str(folder / name))}")
    out.line("next:")
    if folder != Path():
        out.line(f"  cd {printable(str(folder))}")
    out.line("  smithers up workflow.py")
    return 0
