"""Routes by which people and other programs act on a run that waits: approvals and signals."""

from __future__ import annotations

from starlette.types import ASGIApp

from smithers.asgi.answers import answer_decision, answer_signal
from smithers.asgi.openapi import DECISION_BODY, SIGNAL_BODY, ref, shape
from smithers.asgi.problems import json_response
from smithers.asgi.routing import Call, Doc, Route
from smithers.control import listing
from smithers.control.hosting import Hosting
from smithers.errors import DbNotConfigured
from smithers.server.runs import found

LIST_PATHS = ("/v1/approvals", "/v1/approval/list", "/approval/list", "/approvals")
SIGNAL_PATHS = ("/v1/runs/:runId/signals/:signalName", "/signal/:runId/:signalName")


class PeopleRoutes:
    """Handlers over the hosted runs."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting

    def table(self) -> list[Route]:
        """The rows of the route table."""
        node = "/v1/runs/:runId/nodes/:nodeId"

        def decision(summary: str) -> Doc:
            return Doc(summary, "approvals", body=DECISION_BODY, answer=ref("Started"), errors=(400, 404, 409))

        listed = Doc(
            "List open approvals",
            tag="approvals",
            answer=shape({"approvals": {"type": "array", "items": ref("Approval")}}),
            errors=(400,),
        )
        signal = Doc("Send a signal", tag="signals", body=SIGNAL_BODY, answer=ref("Signal"), errors=(404, 409))
        return [
            Route("POST", f"{node}/approve", found(self.approve), decision("Approve a waiting node")),
            Route("POST", f"{node}/deny", found(self.deny), decision("Deny a waiting node")),
            *(Route("POST", path, found(self.signal), signal) for path in SIGNAL_PATHS),
            *(Route("GET", path, self.list, listed) for path in LIST_PATHS),
        ]

    async def approve(self, call: Call) -> ASGIApp:
        """`POST …/approve`."""
        return await self._decide(call, approved=True)

    async def deny(self, call: Call) -> ASGIApp:
        """`POST …/deny`."""
        return await self._decide(call, approved=False)

    async def _decide(self, call: Call, *, approved: bool) -> ASGIApp:
        run_id = call.params["runId"]
        place = await self._hosting.find(run_id)
        answer = await answer_decision(call, place.control, run_id, approved=approved)
        place.hub.touch(run_id)
        return answer

    async def signal(self, call: Call) -> ASGIApp:
        """`POST …/signals/:signalName`."""
        run_id = call.params["runId"]
        place = await self._hosting.find(run_id)
        answer = await answer_signal(call, place.control, run_id)
        place.hub.touch(run_id)
        return answer

    async def list(self, call: Call) -> ASGIApp:
        """`GET /v1/approvals`."""
        server = await self._hosting.shown()
        if server is None:
            raise DbNotConfigured("the server was started without a database of its own")
        return json_response({"approvals": await listing.approval_list(server.control)})
