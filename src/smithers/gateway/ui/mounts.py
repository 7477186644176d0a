"""Mounts: which page is served where, and to whom. How a page begins is in `shell.py`, what paths may be in `paths.py`."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Final

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp

from smithers.asgi.routing import Call
from smithers.errors import InvalidInput
from smithers.gateway.auth.identity import Identity
from smithers.gateway.config import GatewayOptions, UiConfig
from smithers.gateway.entries import Entries, Entry
from smithers.gateway.http import HEADERS, frame_problem, json_answer
from smithers.gateway.problems import API_VERSION, RpcError
from smithers.gateway.ui.paths import ASSETS, CLIENT, Segments, mount_segments, request_segments, workflow_path
from smithers.gateway.ui.shell import Page, asset, render

log = logging.getLogger(__name__)

CONSOLE_PATH: Final = "/console"
MODULES: Final = frozenset((file.name,) for file in (files(__package__) / "console").iterdir())
"""The modules of the built-in console, as they are asked for."""
_NOT_FOUND: Final = b'{"error":{"code":"NOT_FOUND","message":"Route not found"}}'


@dataclass(frozen=True, slots=True)
class Mount:
    """A page at a path; without an entry it is the console."""

    page: Page
    entry: Path | None

    @property
    def path(self) -> str:
        """Where it is, percent-encoded."""
        return self.page.mount_path


def check_mounts(options: GatewayOptions, entries: Iterable[Entry] = ()) -> None:
    """That no two pages have one path. Raises `InvalidInput` naming it."""
    seen: dict[Segments, str] = {}
    owned = [(mount, "ui" if mount.page.kind == "gateway" else "operator_ui") for mount in _general(options)]
    for entry in entries:
        if entry.ui is not None:
            owned.append((_of_workflow(entry, entry.ui), f"workflow {entry.key!r}"))
    for mount, owner in owned:
        place = mount_segments(mount.path)
        if place in seen:
            raise InvalidInput(
                f"the page of {owner} would be at {mount.path!r}, where that of {seen[place]} is: give one another path",
                {"path": mount.path},
            )
        seen[place] = owner


def _general(options: GatewayOptions) -> list[Mount]:
    """The pages that belong to no workflow."""
    found: list[Mount] = []
    own, operator = options.ui, options.operator_ui
    if own is not None and own.entry is not None:
        page = Page("gateway", own.path or "/", own.title or "Smithers", False, props=own.props)
        found.append(Mount(page, Path(own.entry)))
    elif own is not None:
        found.append(_console(own))
    if operator is not None:
        console = _console(operator)
        if not any(mount.page.kind == "operator" and mount.path == console.path for mount in found):
            found.append(console)
    return found


def _console(config: UiConfig) -> Mount:
    entry = None if config.entry is None else Path(config.entry)
    title = config.title or "Smithers console"
    return Mount(Page("operator", config.path or CONSOLE_PATH, title, entry is None, props=config.props), entry)


def _of_workflow(entry: Entry, config: UiConfig) -> Mount:
    path = config.path or workflow_path(entry.key)
    script = None if config.entry is None else Path(config.entry)
    page = Page("workflow", path, config.title or entry.key, script is None, entry.key, config.props)
    return Mount(page, script)


class UiMounts:
    """The pages of a gateway.

    Args:
        options: as the gateway was made with; its `ui` and `operator_ui` are mounted.
        entries: the registered workflows; each may have a page.
    """

    def __init__(self, options: GatewayOptions, entries: Entries) -> None:
        self._options = options
        self._entries = entries

    @cached_property
    def _fixed(self) -> list[Mount]:
        return _general(self._options)

    @cached_property
    def _ancestors(self) -> tuple[str, ...]:
        """The origins that may embed pages: those that may use the gateway."""
        auth = self._options.auth
        return () if auth is None else (*self._options.allowed_origins, *auth.allowed_origins)

    @property
    def console_path(self) -> str | None:
        """Where the console is."""
        return next((mount.path for mount in self._fixed if mount.page.kind == "operator"), None)

    def path_of(self, key: str) -> str | None:
        """Where a workflow's page is."""
        entry = self._entries.get(key)
        mount = None if entry is None else _page_of(entry)
        return None if mount is None else mount.path

    def paths(self) -> list[str]:
        """All mounted paths."""
        pages = [*self._fixed, *(mount for entry in self._entries.now() if (mount := _page_of(entry)) is not None)]
        return sorted(mount.path for mount in pages)

    async def answer(self, call: Call, identify: Callable[[Call], Identity]) -> ASGIApp | None:
        """The answer to a request for a page; None if there is none at this path.

        Pages and their scripts are for those who could use the gateway: a refusal is an RPC error frame.
        """
        method = call.scope["method"]
        segments = request_segments(call.scope)
        if method not in ("GET", "HEAD") or segments is None:
            return None
        key = segments[1] if len(segments) >= 2 and segments[0] == "workflows" else None
        mount = self._match(segments, key)
        if mount is None and key is None:
            return None
        try:
            identify(call)
        except RpcError as error:
            return frame_problem(error)
        if key is not None:
            if self._entries.get(key) is None:
                await self._entries.find(key)
                mount = self._match(segments, key)
            elsewhere = self._elsewhere(key, segments)
            if elsewhere is not None:
                return _redirect(elsewhere, call)
        if mount is None:
            return None
        below = segments[len(mount_segments(mount.path)) :]
        if below[:1] == (ASSETS,):
            return await self._asset(mount, below[1:], call)
        text, headers = render(mount.page, _theme(call), self._ancestors)
        return _sent(call, text.encode(), headers, "text/html; charset=utf-8")

    def _match(self, segments: Segments, key: str | None) -> Mount | None:
        """The page with the longest path that a request's path begins with; files are looked for only for its own key."""
        candidates = [*self._fixed, *(_of_workflow(e, e.ui) for e in self._entries.now() if e.ui is not None)]
        entry = None if key is None else self._entries.get(key)
        if entry is not None and entry.ui is None and (beside := _page_of(entry)) is not None:
            candidates.append(beside)
        found: tuple[int, Mount] | None = None
        for mount in candidates:
            place = mount_segments(mount.path)
            if segments[: len(place)] == place and (found is None or len(place) > found[0]):
                found = len(place), mount
        return None if found is None else found[1]

    def _elsewhere(self, key: str, segments: Segments) -> str | None:
        """Where a workflow's page is, if it was asked for at its usual path and is at another."""
        path = self.path_of(key) if len(segments) == 2 else None
        return None if path is None or mount_segments(path) == segments else path

    async def _asset(self, mount: Mount, name: Segments, call: Call) -> ASGIApp:
        if name != (CLIENT,) and (mount.entry is not None or name not in MODULES):
            return json_answer(_NOT_FOUND, 404)
        try:
            body = await asyncio.to_thread(_script, mount.entry, name[0])
        except OSError:
            log.warning("a page's script cannot be read", extra={"path": mount.path}, exc_info=True)
            return json_answer(_NOT_FOUND, 404)
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {
            "cache-control": "private, no-cache",  # asked for each time: it may have been replaced, or the grant ended
            "etag": tag,
            "x-content-type-options": "nosniff",
            "cross-origin-resource-policy": "same-origin",
            "x-smithers-api-version": API_VERSION,
        }
        known = [each.strip().removeprefix("W/") for each in (call.header("if-none-match") or "").split(",")]
        if tag in known or known == ["*"]:
            return Response(status_code=304, headers=headers)
        return _sent(call, body, headers, "text/javascript; charset=utf-8")


def _page_of(entry: Entry) -> Mount | None:
    """A workflow's page: as registered, else `../ui/<key>.js` beside the folder of its file, looked for each time."""
    if entry.ui is not None:
        return _of_workflow(entry, entry.ui)
    if entry.entry_file is None:
        return None
    script = entry.entry_file.parent.parent / "ui" / f"{entry.key}.js"
    if not script.is_file():
        return None
    page = Page("workflow", workflow_path(entry.key), entry.key, False, entry.key)
    return Mount(page, script)


def _script(entry: Path | None, name: str) -> bytes:
    return asset(f"console/{name}").encode() if entry is None else entry.read_bytes()


def _theme(call: Call) -> str | None:
    return next(iter(call.query_all("theme")), None)


def _redirect(path: str, call: Call) -> ASGIApp:
    query = bytes(call.scope.get("query_string", b"")).decode("latin-1")
    return RedirectResponse(f"{path}?{query}" if query else path, 302, HEADERS)


def _sent(call: Call, body: bytes, headers: dict[str, str], media_type: str) -> Response:
    if call.scope["method"] == "HEAD":
        return Response(b"", 200, {**headers, "content-length": str(len(body))}, media_type)
    return Response(body, 200, headers, media_type)
