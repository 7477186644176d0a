"""Routes of runs: start, list, look, resume, cancel, events, frames."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping

from starlette.types import ASGIApp

from smithers.asgi.answers import cursor_of
from smithers.asgi.bodies import limit_param, number_param
from smithers.asgi.openapi import TEXT, ref, shape
from smithers.asgi.problems import json_response
from smithers.asgi.routing import Call, Doc, Route
from smithers.asgi.sse import EventStream
from smithers.control import listing
from smithers.control.hosting import Hosting, Place
from smithers.control.requests import cancel_run
from smithers.errors import DbNotConfigured, InvalidRequest, NotFound, RunIdRequired, RunNotActive, RunNotFound
from smithers.jsons import object_of
from smithers.observability.context import launched_by

MAX_RUN_ID = 256

_LAUNCH_FIELDS: dict[str, object] = {
    "input": {"type": "object"},
    "config": {"type": "object", "properties": {"maxConcurrency": {"type": "number", "exclusiveMinimum": 0}}},
}
_START_BODY = shape(
    {"workflowPath": {"type": "string", "minLength": 1}},
    {
        **_LAUNCH_FIELDS,
        "runId": {"type": "string", "minLength": 1, "maxLength": MAX_RUN_ID},
        "resume": {"type": "boolean"},
    },
)
_RESUME_BODY = shape({"workflowPath": {"type": "string", "minLength": 1}}, _LAUNCH_FIELDS)
_LIMIT: dict[str, Mapping[str, object]] = {"limit": {"type": "number", "exclusiveMinimum": 0, "default": 50}}


def found(handle: Callable[[Call], Awaitable[ASGIApp]]) -> Callable[[Call], Awaitable[ASGIApp]]:
    """A handler that tells of an unknown run as routes do that look at one."""

    async def handler(call: Call) -> ASGIApp:
        try:
            return await handle(call)
        except RunNotFound as error:
            raise NotFound("Run not found") from error

    return handler


class RunRoutes:
    """Handlers over the hosted runs."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting

    def table(self) -> list[Route]:
        """The rows of the route table."""
        after: dict[str, Mapping[str, object]] = {"afterSeq": {"type": "number", "default": -1}}
        frames: dict[str, Mapping[str, object]] = {**_LIMIT, "afterFrameNo": {"type": "number"}}
        one = "/v1/runs/:runId"
        return [
            Route(
                "POST",
                "/v1/runs",
                self.start,
                Doc("Start or resume a run", body=_START_BODY, answer=ref("Started"), errors=(404, 409)),
            ),
            Route(
                "GET",
                "/v1/runs",
                self.list,
                Doc(
                    "List runs, newest first",
                    query={**_LIMIT, "status": TEXT, "workflow": TEXT},
                    answer={"type": "array", "items": ref("RunRow")},
                    errors=(400,),
                ),
            ),
            Route("GET", one, found(self.look), Doc("A run's status", answer=ref("RunStatus"), errors=(404,))),
            Route(
                "POST",
                f"{one}/resume",
                self.resume,
                Doc("Resume a run", body=_RESUME_BODY, answer=ref("Started"), errors=(404, 409)),
            ),
            Route(
                "POST",
                f"{one}/cancel",
                found(self.cancel),
                Doc("Cancel a run", answer=ref("Cancellation"), errors=(404, 409)),
            ),
            Route(
                "GET",
                f"{one}/events",
                found(self.events),
                Doc(
                    "Follow a run's events",
                    query=after,
                    answer=ref("StreamEvent"),
                    media_type="text/event-stream",
                    errors=(400, 404),
                ),
            ),
            Route(
                "GET",
                f"{one}/frames",
                found(self.frames),
                Doc(
                    "A run's frames, newest first",
                    query=frames,
                    answer={"type": "array", "items": ref("Frame")},
                    errors=(400, 404),
                ),
            ),
        ]

    # ── starting ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, call: Call) -> ASGIApp:
        """`POST /v1/runs`."""
        body = await call.object()
        path, input, limit = _launch_fields(body)
        run_id = body.get("runId")
        if run_id is not None and (not isinstance(run_id, str) or not 1 <= len(run_id) <= MAX_RUN_ID):
            raise InvalidRequest(f"runId must be a string of 1 to {MAX_RUN_ID} characters", {"field": "runId"})
        if body.get("resume"):
            if run_id is None:
                self._hosting.files.find(path)
                raise RunIdRequired("runId is required to resume a run")
            return await self._resume(path, run_id, limit)
        with launched_by(call.header("traceparent")):
            started = await self._hosting.launch(path, input, run_id=run_id, max_concurrency=limit)
        return json_response({"runId": started})

    async def resume(self, call: Call) -> ASGIApp:
        """`POST /v1/runs/:runId/resume`."""
        path, _, limit = _launch_fields(await call.object())
        return await self._resume(path, call.params["runId"], limit)

    async def _resume(self, path: str, run_id: str, limit: int | None) -> ASGIApp:
        is_resumed = await self._hosting.resume(path, run_id, max_concurrency=limit)
        return json_response({"runId": run_id} if is_resumed else {"runId": run_id, "status": "running"})

    # ── looking ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def list(self, call: Call) -> ASGIApp:
        """`GET /v1/runs`."""
        query = call.query
        limit = limit_param(query)
        server = await self._hosting.shown()
        if server is None:
            raise DbNotConfigured("the server was started without a database of its own")
        runs = await listing.run_list(
            server.control, status=query.get("status"), workflow=query.get("workflow"), limit=limit
        )
        return json_response(runs)

    async def look(self, call: Call) -> ASGIApp:
        """`GET /v1/runs/:runId`."""
        place, run_id = await self._place(call)
        return json_response(listing.run_status(place.control, run_id).wire())

    async def frames(self, call: Call) -> ASGIApp:
        """`GET /v1/runs/:runId/frames`."""
        limit = limit_param(call.query)
        number = number_param(call.query, "afterFrameNo")
        after = None if number is None or number < 0 else int(min(number, 2**53))
        place, run_id = await self._place(call)
        await place.control.run(run_id)
        return json_response(await listing.frame_list(place.control, run_id, after=after, limit=limit))

    async def events(self, call: Call) -> ASGIApp:
        """`GET /v1/runs/:runId/events`."""
        number = number_param(call.query, "afterSeq")
        after = cursor_of(call, None if number is None else math.floor(number))
        place, run_id = await self._place(call)
        return EventStream(place.stream(run_id, after), call.drain)

    # ── ending ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def cancel(self, call: Call) -> ASGIApp:
        """`POST /v1/runs/:runId/cancel`."""
        place, run_id = await self._place(call)
        try:
            outcome = await cancel_run(place.control, run_id, source="http")
        except RunNotActive as error:
            raise _not_active(error, run_id) from error
        place.hub.touch(run_id)
        return json_response(outcome.wire())

    async def _place(self, call: Call) -> tuple[Place, str]:
        run_id = call.params["runId"]
        return await self._hosting.find(run_id), run_id


def _not_active(error: RunNotActive, run_id: str) -> RunNotActive:
    """The contract's words for it."""
    found = RunNotActive(run_id, str(error.details.get("status")))
    found.summary = "Run is not currently active"
    return found


def _launch_fields(body: Mapping[str, object]) -> tuple[str, dict[str, object], int | None]:
    path = body.get("workflowPath")
    if not isinstance(path, str) or not path:
        raise InvalidRequest("workflowPath must be a string", {"field": "workflowPath"})
    if not isinstance(body.get("input", {}), dict):
        raise InvalidRequest("input must be a JSON object", {"field": "input"})
    if not isinstance(body.get("config") or {}, dict):
        raise InvalidRequest("config must be a JSON object", {"field": "config"})
    limit = _concurrency(object_of(body.get("config")).get("maxConcurrency"))
    return path, object_of(body.get("input")), limit


def _concurrency(value: object) -> int | None:
    """`config.maxConcurrency`, which may come as text; rounded down, and at least 1."""
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number <= 0:
        raise InvalidRequest("config.maxConcurrency must be a number above 0", {"field": "config.maxConcurrency"})
    return max(1, int(min(number, 2**31 - 1)))
