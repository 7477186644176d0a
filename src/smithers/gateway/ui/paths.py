"""Paths: which paths pages may be mounted at, and how a request's path is read. Pure.

A path is compared by its decoded segments, so that a mount cannot be reached, or slipped past, by spelling it otherwise.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from starlette.types import Scope

from smithers.errors import InvalidInput

Segments: TypeAlias = tuple[str, ...]

ASSETS: Final = "__smithers_ui"
"""The folder below a mount that holds its script; nothing else is in it."""
CLIENT: Final = "client.js"
SCRIPTS: Final = (".js", ".mjs")
_SOURCES: Final = (".ts", ".tsx", ".jsx", ".mts")
_MOUNT: Final = re.compile(r"/[A-Za-z0-9/_:.-]*")
_TAKEN: Final = ("health", "metrics", "rpc", "v1", "webhooks")
MAX_PATH: Final = 2_048


def checked_mount(path: object, where: str) -> str:
    """A path to mount a page at, with a slash in front and none behind. Raises `InvalidInput`."""
    if not isinstance(path, str):
        raise InvalidInput(f"{where}.path must be a string, not {type(path).__name__}", {"field": f"{where}.path"})
    found = "/" + path.removeprefix("/").rstrip("/")
    segments = found.split("/")[1:] if found != "/" else []
    problem = None
    if not _MOUNT.fullmatch(found) or len(found) > MAX_PATH:
        problem = "may hold letters, digits and / _ : . - only"
    elif any(segment in ("", ".", "..", ASSETS) for segment in segments):
        problem = f"may not hold empty segments, '.', '..' or {ASSETS!r}"
    elif segments and (segments[0] in _TAKEN or segments == ["workflows"]):
        problem = "is where the gateway itself answers; take another"
    if problem is not None:
        raise InvalidInput(f"{where}.path {path!r:.80} {problem}", {"field": f"{where}.path"})
    return found


def checked_entry(entry: object, where: str) -> Path:
    """A page's script as an absolute path: a JavaScript module that is there. Raises `InvalidInput`."""
    field = {"field": f"{where}.entry"}
    if not isinstance(entry, str | Path):
        raise InvalidInput(f"{where}.entry must be a file path, not {type(entry).__name__}", field)
    path = Path(entry).absolute()
    if path.suffix in _SOURCES:
        raise InvalidInput(
            f"{where}.entry {path.name!r} is source code that browsers do not understand: bundle it into one JavaScript "
            f"module first (for example: esbuild {path.name} --bundle --format=esm --outfile={path.stem}.js) and name that",
            field,
        )
    if path.suffix not in SCRIPTS:
        raise InvalidInput(f"{where}.entry must be a JavaScript module (.js or .mjs), not {path.name!r:.80}", field)
    if not path.is_file():
        raise InvalidInput(f"{where}.entry: there is no file {str(path)!r}", field)
    return path


def workflow_path(key: str) -> str:
    """Where a workflow's page is by default."""
    return f"/workflows/{quote(key, safe='')}"


def mount_segments(path: str) -> Segments:
    """The decoded segments of a mount."""
    return tuple(unquote_to_bytes(part).decode() for part in path.split("/") if part)


def request_segments(scope: Scope) -> Segments | None:
    """The decoded segments of a request's path, a trailing slash aside; None for a path that no page can have.

    Refused are dot segments, empty ones, and whatever decodes into something that would be read as a path once more: a
    slash, a backslash, a percent sign, a control character.
    """
    raw: bytes | None = scope.get("raw_path")
    text = raw.partition(b"?")[0] if raw is not None else quote(scope["path"]).encode()
    if len(text) > MAX_PATH or not text.startswith(b"/"):
        return None
    parts = text[1:].split(b"/")
    if parts[-1] == b"":
        parts.pop()
    found: list[str] = []
    for part in parts:
        try:
            segment = unquote_to_bytes(part).decode()
        except UnicodeDecodeError:
            return None
        if segment in ("", ".", "..") or not segment.isprintable() or any(sign in segment for sign in "/\\%"):
            return None
        found.append(segment)
    return tuple(found)
