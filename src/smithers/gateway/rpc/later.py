"""RPC: methods that have their place here and whose work is not built: time travel, snapshots, diffs, browsers.

Each checks its parameters and the run that it names, so that a client sees the same refusals as later, and then says
that it is not available.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from smithers.errors import RunNotFound
from smithers.gateway.problems import RpcError
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.nodes import NodeId, RunId
from smithers.gateway.rpc.registry import Area, ClosedParams, Codes, Params
from smithers.gateway.rpc.runs import MAX_INT, MAX_SAFE, Iteration, NonEmpty

area = Area()
_NO_RUN: Final[Codes] = {RunNotFound: "RunNotFound"}
Seq = Annotated[int, Field(ge=0, le=MAX_SAFE)]
FrameNo = Annotated[int, Field(ge=0, le=MAX_INT)]
Object = dict[str, object]


class OfRun(Params):
    """Names a run, however strictly."""

    run_id: str


class AboutRun(OfRun):
    """Names a run."""

    field_codes: ClassVar[Mapping[str, str]] = {"runId": "InvalidRunId"}

    run_id: RunId


class Hijack(AboutRun):
    """Which run to take over."""

    options: Object = Field(default_factory=Object)


class Rewind(AboutRun):
    """Back to which frame, and that this is meant."""

    field_codes: ClassVar[Mapping[str, str]] = {
        "runId": "InvalidRunId",
        "frameNo": "InvalidFrameNo",
        "confirm": "ConfirmationRequired",
    }

    frame_no: FrameNo
    confirm: Literal[True]
    force: bool = False
    no_revert: bool = False


class Snapshot(AboutRun):
    """Of which frame; the newest by default."""

    field_codes: ClassVar[Mapping[str, str]] = {"runId": "InvalidRunId", "frameNo": "FrameOutOfRange"}

    frame_no: FrameNo | None = None


class StreamDevTools(AboutRun):
    """From which frame on; two names for one number."""

    field_codes: ClassVar[Mapping[str, str]] = {
        "runId": "InvalidRunId",
        "afterSeq": "SeqOutOfRange",
        "fromSeq": "SeqOutOfRange",
    }

    after_seq: Seq | None = None
    from_seq: Seq | None = None


class RunDiff(OfRun):
    """Of which run."""

    run_id: Annotated[str, Field(min_length=1, max_length=256)]


class WhatHappened(AboutRun):
    """To which run, or which node of it."""

    field_codes: ClassVar[Mapping[str, str]] = {
        "runId": "InvalidRunId",
        "nodeId": "InvalidNodeId",
        "iteration": "InvalidIteration",
    }

    node_id: NodeId | None = None
    iteration: Iteration | None = None


class NodeDiff(AboutRun):
    """Of which node."""

    field_codes: ClassVar[Mapping[str, str]] = WhatHappened.field_codes

    node_id: NodeId
    iteration: Iteration = 0


class Retry(OfRun):
    """Which node to do again."""

    run_id: NonEmpty
    node_id: NonEmpty
    iteration: Iteration = 0
    reset_dependents: bool = True


class RunsDiff(Params):
    """Which two runs."""

    left_run_id: NonEmpty
    right_run_id: NonEmpty


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


async def _about_run(call: RpcCall, params: OfRun) -> dict[str, object]:
    """Not available in this version."""
    await call.place(params.run_id)
    raise _not_available(call.method)


async def _anything(call: RpcCall, params: Params) -> dict[str, object]:
    """Not available in this version."""
    raise _not_available(call.method)


@area.method(
    "runs.diff",
    scope="run:read",
    params=RunsDiff,
    errors=("INVALID_REQUEST", "NOT_FOUND", "NotAvailable"),
    is_published=False,
)
async def runs_diff(call: RpcCall, params: RunsDiff) -> dict[str, object]:
    """Not available in this version."""
    for run_id in (params.left_run_id, params.right_run_id):
        await call.place(run_id)
    raise _not_available(call.method)


for _name, _scope, _params, _error, _aliases in (
    ("hijackRun", "run:admin", Hijack, "InvalidRunId", ()),
    ("rewindRun", "run:admin", Rewind, "InvalidRunId", ("jumpToFrame", "devtools.jumpToFrame")),
    ("getDevToolsSnapshot", "observability:read", Snapshot, "InvalidRunId", ()),
    ("getNodeDiff", "run:read", NodeDiff, "InvalidRunId", ("devtools.getNodeDiff",)),
    ("getRunDiff", "run:read", RunDiff, "InvalidRequest", ()),
    ("whatHappened", "run:read", WhatHappened, "InvalidRunId", ()),
):
    area.method(
        _name,
        scope=_scope,
        params=_params,
        codes=_NO_RUN,
        errors=(_error, "RunNotFound", "NotAvailable"),
        aliases=_aliases,
    )(_about_run)

area.method(
    "streamDevTools",
    scope="observability:read",
    params=StreamDevTools,
    codes=_NO_RUN,
    errors=("InvalidRunId", "SeqOutOfRange", "RunNotFound", "NotAvailable"),
    is_socket_only=True,
)(_about_run)

area.method(
    "retryTask",
    scope="run:write",
    params=Retry,
    errors=("INVALID_REQUEST", "NOT_FOUND", "NotAvailable"),
    is_published=False,
)(_about_run)

for _name, _scope, _closed in (
    ("createBrowserSession", "run:write", NewBrowser),
    ("browserAct", "run:write", BrowserAct),
    ("browserContext", "run:read", BrowserContext),
    ("browserPick", "run:read", BrowserPick),
    ("closeBrowserSession", "run:write", Browser),
    ("listBrowserSessions", "run:read", NoBrowserParams),
):
    area.method(_name, scope=_scope, params=_closed, errors=("InvalidRequest", "NotAvailable"))(_anything)
