"""Bundles: what differs between two stored states of a folder, as the wire has it.

A bundle is `{seq, baseRef, patches}`; each patch is what `git diff` writes of one path, complete enough for `git apply`,
and of a binary file its new content beside that.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic_core import to_json

from smithers.vcs.git import Scratch
from smithers.vcs.repository import Repository

MAX_BYTES: Final = 52_428_800
"""The most that a bundle may have, as JSON."""

Operation = Literal["add", "modify", "delete"]
_OPERATIONS: Final[dict[str, Operation]] = {"A": "add", "D": "delete"}
_SECTION: Final = re.compile(rb"^diff --git ", re.MULTILINE)
_ZERO: Final = re.compile(r"0+")
_ARGUMENTS: Final = (
    "diff-tree",
    "-r",
    "--no-renames",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--full-index",
)


@dataclass(frozen=True, slots=True)
class Patch:
    """What happened to one path. `binary` is a binary file's new content."""

    path: str
    operation: Operation
    diff: str
    binary: bytes | None = None

    def wire(self) -> dict[str, object]:
        """As it is sent."""
        found: dict[str, object] = {"path": self.path, "operation": self.operation, "diff": self.diff}
        if self.binary is not None:
            found["binaryContent"] = base64.b64encode(self.binary).decode()
        return found


@dataclass(frozen=True, slots=True)
class Oversized:
    """A difference that is larger than the limit: about how large, in bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class _Entry:
    path: bytes
    status: str
    mode: str
    blob: str


def patches_between(
    repository: Repository, folder: Path, base: str | None, target: str, *, below: str = "", max_bytes: int = MAX_BYTES
) -> list[Patch] | Oversized:
    """What to do to a folder as it was in `base` to have it as in `target`; paths are relative to the folder.

    Args:
        base: a commit or tree; None: the folder was empty.
        target: a commit or tree.
        below: put before all paths; a folder's name with a slash at its end.

    Raises:
        VcsError: one of them is not there, or git failed.
    """
    prefix = repository.prefix(folder)
    names = (f"--src-prefix=a/{below}", f"--dst-prefix=b/{below}")
    with Scratch(repository) as scratch:
        start = base or scratch.git("hash-object", "-t", "tree", "-w", "--stdin", paths=()).decode().strip()
        of = [*names, *([f"--relative={prefix}"] if prefix else []), start, target]
        entries = _entries(scratch.git(*_ARGUMENTS, "--raw", "-z", *of))
        if not entries:
            return []
        quoting = ("-c", "core.quotePath=false")
        done = scratch.measured(*quoting, *_ARGUMENTS, "-p", "--binary", *of, limit=max_bytes)
        if done.size > max_bytes:
            return Oversized(done.size)
        sections = _sections(done.stdout)
        found = _patches(scratch, entries, sections)
        if found is None:
            found = _ascii_patches(repository, entries, of, sections)
            assert found is not None
        contents = _contents(scratch, [entry.blob for entry, patch in found if _is_binary(patch)], max_bytes)
    if contents is None:
        return Oversized(max_bytes + 1)
    bundle = [
        Patch(below + patch.path, patch.operation, patch.diff, contents.get(entry.blob) if _is_binary(patch) else None)
        for entry, patch in found
    ]
    size = len(to_json([patch.wire() for patch in bundle]))
    return Oversized(size) if size > max_bytes else bundle


def wire_bundle(seq: int, base_ref: str, patches: Iterable[Patch]) -> dict[str, object]:
    """A bundle as it is sent."""
    return {"seq": seq, "baseRef": base_ref, "patches": [patch.wire() for patch in patches]}


def _entries(raw: bytes) -> list[_Entry]:
    words = raw.split(b"\0")
    found: list[_Entry] = []
    for meta, path in zip(words[::2], words[1::2], strict=False):
        _, mode, _, blob, status = meta.decode().split(" ")
        found.append(_Entry(path, status[0], mode, blob))
    return found


def _sections(output: bytes) -> list[bytes]:
    """The output, a part for each path. Lines of content begin with a sign of their own, so none looks like a header."""
    starts = [match.start() for match in _SECTION.finditer(output)]
    return [output[a:b] for a, b in zip(starts, [*starts[1:], len(output)], strict=True)]


def _patches(
    scratch: Scratch, entries: Sequence[_Entry], sections: Sequence[bytes]
) -> list[tuple[_Entry, Patch]] | None:
    """A patch for each section; None if a text among them is not UTF-8, which JSON could not hold."""
    found: list[tuple[_Entry, Patch]] = []
    todo = iter(sections)
    for entry in entries:
        path = entry.path.decode("utf-8", "backslashreplace")
        # a file that becomes a link, or the other way round, is taken away and added
        operations: tuple[Operation, ...] = (
            ("delete", "add") if entry.status == "T" else (_OPERATIONS.get(entry.status, "modify"),)
        )
        for operation in operations:
            try:
                text = next(todo).decode()
            except UnicodeDecodeError:
                return None
            found.append((entry, Patch(path, operation, text)))
    return found


def _ascii_patches(
    repository: Repository, entries: Sequence[_Entry], of: Sequence[str], sections: Sequence[bytes]
) -> list[tuple[_Entry, Patch]] | None:
    """The same, with what is not UTF-8 as if it were binary, and names in git's quotes: ASCII all of it."""
    with Scratch(repository, as_binary=True) as scratch:
        quoted = _sections(scratch.git("-c", "core.quotePath=true", *_ARGUMENTS, "-p", "--binary", *of))
        mixed = [section if _is_utf8(section) else other for section, other in zip(sections, quoted, strict=True)]
        return _patches(scratch, entries, mixed)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_binary(patch: Patch) -> bool:
    return patch.operation != "delete" and "\nGIT binary patch\n" in patch.diff[:4096]


def _contents(scratch: Scratch, blobs: Sequence[str], limit: int) -> dict[str, bytes] | None:
    """The contents of blobs; None if they are larger than `limit` together."""
    found: dict[str, bytes] = {}
    size = 0
    for blob in dict.fromkeys(blobs):
        if _ZERO.fullmatch(blob):
            continue
        done = scratch.measured("cat-file", "blob", blob, limit=limit)
        size += done.size
        if size > limit:
            return None
        found[blob] = done.stdout
    return found
