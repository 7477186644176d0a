"""A gateway reduced to its pages, asked in process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Message

from smithers import Workflow, create_smithers
from smithers.asgi.guards import Guard
from smithers.asgi.routing import Call, HttpApp
from smithers.components.context import Context
from smithers.components.workflow import SmithersWorkflow
from smithers.gateway.auth.identity import Identity
from smithers.gateway.config import GatewayOptions, UiConfig
from smithers.gateway.entries import Entries, Entry
from smithers.gateway.http import json_answer
from smithers.gateway.ui.mounts import UiMounts


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def workflow(db: Path) -> SmithersWorkflow:
    """A workflow that is never run."""
    smithers, _ = create_smithers({}, db=db)

    @smithers
    def any_flow(ctx: Context[object]) -> Workflow:
        return Workflow("any")[[]]

    return any_flow


@dataclass
class Site:
    """A gateway's pages. `identify` may raise, as for somebody without a credential."""

    folder: Path
    options: GatewayOptions = field(default_factory=GatewayOptions)
    refresh: Callable[[str], Awaitable[object]] | None = None
    identify: Callable[[Call], Identity] = lambda _call: Identity()

    def __post_init__(self) -> None:
        self.entries = Entries(self.refresh)
        self.mounts = UiMounts(self.options, self.entries)

    def add(self, key: str, ui: UiConfig | None = None, entry_file: Path | None = None) -> None:
        """Register a workflow."""
        self.entries.add(Entry(key, workflow(self.folder / "site.db"), ui=ui, entry_file=entry_file))

    def script(self, text: str = "export {};", name: str = "page.js") -> Path:
        """A page's script."""
        path = self.folder / name
        path.write_text(text)
        return path

    def ask(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """Ask for a path as it is written, percent signs and all; 404 with an empty body if there is no page."""
        raw, _, query = path.partition("?")
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": unquote_to_bytes(raw).decode("utf-8", "replace"),
            "raw_path": raw.encode(),
            "query_string": query.encode(),
            "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
        }
        sent: list[Message] = []

        async def fallback(call: Call) -> ASGIApp:
            return await self.mounts.answer(call, self.identify) or json_answer(b"", 404)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        app = HttpApp([], Guard(), max_body_bytes=1_000, fallback=fallback)
        asyncio.run(app(scope, receive, send))
        found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return Answer(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))
