"""RPC: methods that have their place here and whose work is not built: browsers.

Each checks its parameters, so that a client sees the same refusals as later, and then says that it is not available.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from smithers.gateway.problems import RpcError
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.registry import Area, ClosedParams, Params
from smithers.gateway.rpc.runs import MAX_SAFE, NonEmpty

area = Area()
Seq = Annotated[int, Field(ge=0, le=MAX_SAFE)]
Object = dict[str, object]


# ── browsers ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Viewport(ClosedParams):
    """How large a page is, in CSS pixels."""

    width: Annotated[int, Field(ge=1, le=3840)]
    height: Annotated[int, Field(ge=1, le=2160)]


class NewBrowser(ClosedParams):
    """What to look at."""

    source: Object
    viewport: Viewport | None = None


class Browser(ClosedParams):
    """Names a browser session."""

    session_id: NonEmpty


class BrowserAct(Browser):
    """What to do."""

    action_id: NonEmpty
    action: Object
    expected_revision: Seq | None = None


Slice = Literal[
    "visible-text",
    "accessibility",
    "interactive-elements",
    "screenshot",
    "selections",
    "recent-actions",
    "console-summary",
    "network-summary",
]


class BrowserContext(Browser):
    """What to tell of a page."""

    since_revision: Seq | None = None
    include: list[Slice] | None = None


class Point(ClosedParams):
    """A place on a page, in CSS pixels."""

    x: float
    y: float


class BrowserPick(Browser):
    """Where to look."""

    point: Point


class NoBrowserParams(ClosedParams):
    """A method without parameters."""


# ── answers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _not_available(method: str) -> RpcError:
    return RpcError("NotAvailable", f"{method} is not available in this version", method=method)


async def _anything(call: RpcCall, params: Params) -> dict[str, object]:
    """Not available in this version."""
    raise _not_available(call.method)


for _name, _scope, _closed in (
    ("createBrowserSession", "run:write", NewBrowser),
    ("browserAct", "run:write", BrowserAct),
    ("browserContext", "run:read", BrowserContext),
    ("browserPick", "run:read", BrowserPick),
    ("closeBrowserSession", "run:write", Browser),
    ("listBrowserSessions", "run:read", NoBrowserParams),
):
    area.method(_name, scope=_scope, params=_closed, errors=("InvalidRequest", "NotAvailable"))(_anything)
