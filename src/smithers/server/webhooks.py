"""The webhook route: signed instead of tokened; the signature covers the raw bytes and is checked before anything else."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp

from smithers.asgi.bodies import parse_json
from smithers.asgi.openapi import shape
from smithers.asgi.problems import json_response
from smithers.asgi.routing import Call, Doc, Route
from smithers.control.webhooks import WebhookDesk, WebhookSource
from smithers.errors import InvalidJson, InvalidRequest, NotFound, Unauthorized


class WebhookRoutes:
    """The handler over the configured sources."""

    def __init__(self, sources: Sequence[WebhookSource], desk: WebhookDesk | None) -> None:
        self._sources = {source.id: source for source in sources}
        self._desk = desk

    def table(self) -> list[Route]:
        """The row of the route table."""
        doc = Doc(
            "Deliver to runs that wait",
            tag="webhooks",
            status=202,
            body={},
            answer=shape({"accepted": {"type": "boolean"}}),
            errors=(401, 404, 503),
        )
        return [Route("POST", "/v1/webhooks/:sourceId", self.deliver, doc, access="signed")]

    async def deliver(self, call: Call) -> ASGIApp:
        """`POST /v1/webhooks/:sourceId`."""
        source = self._sources.get(call.params["sourceId"])
        if source is None or self._desk is None:
            raise NotFound("Webhook source not found")
        body = await call.body()
        if not source.verifies(body, call.header(source.signature_header)):
            raise Unauthorized("the signature is missing or wrong")
        try:
            if not body.strip():
                raise InvalidRequest("the body is empty")
            parse_json(body)
        except InvalidJson as error:
            raise InvalidRequest(error.summary) from error
        await self._desk.accept(source.delivery(body), source.capacity)
        return json_response({"accepted": True}, 202)
