"""REST: `/v1/api/*`, the methods as resources. Each row of the table names a method and says where its parameters come from.

Reads answer `{ok, data}`; writes also tell the number of the change frame that covers them, so that a client that holds
copies knows when its own write has arrived.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Final, cast
from uuid import uuid4

from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from smithers.asgi.routing import Call, Doc, Route
from smithers.control import run_lists
from smithers.errors import PayloadTooLarge
from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.scopes import require
from smithers.gateway.config import MONITOR_CONTROLS
from smithers.gateway.dispatch import Dispatcher, encoded
from smithers.gateway.frames import MAX_DEPTH, Request, check_depth, parse_json
from smithers.gateway.http import json_answer
from smithers.gateway.problems import RpcError, rpc_error_of
from smithers.gateway.rest.stream import answer_stream
from smithers.gateway.rpc.runs import TOUCHES_ALL
from smithers.store.sql import takeovers

if TYPE_CHECKING:
    from smithers.gateway.services import Services

_OBJECT: Final[dict[str, object]] = {"type": "object"}
Kinds = Mapping[str, str]
"""Query parameters by name: `int`, `bool`, `text` or, for repeated ones, `texts`."""


@dataclass(frozen=True, slots=True)
class Twin:
    """One route over one method.

    Attributes:
        query: what is taken from the query.
        nests: whether the query's parameters go below `filter`.
        reads_body: whether the body's keys are parameters.
        is_write: whether the answer tells the number of a change.
        path_params: the path's parameters by the name of the method's own.
    """

    verb: str
    path: str
    method: str
    query: Kinds = field(default_factory=dict[str, str])
    nests: bool = False
    reads_body: bool = False
    is_write: bool = False
    path_params: Mapping[str, str] = field(default_factory=dict[str, str])


_RUN: Final = {"runId": "runId"}
_NODE: Final = {"runId": "runId", "nodeId": "nodeId"}
_RUNS: Final = {
    "limit": "int",
    "offset": "int",
    "status": "text",
    "workflow": "text",
    "parentRunId": "text",
    "includeSystem": "bool",
    "cursor": "text",
}
_COMPARE: Final = {
    "runId": "texts",
    "nodeId": "text",
    "scorerId": "text",
    "scorerName": "text",
    "source": "text",
    "order": "text",
    "offset": "int",
    "limit": "int",
}


def _run(verb: str, path: str, method: str, **rest: object) -> Twin:
    return Twin(verb, f"/v1/api/runs/:runId{path}", method, path_params=_RUN, **rest)  # type: ignore[arg-type]


def _node(verb: str, path: str, method: str, **rest: object) -> list[Twin]:
    heads = ("/v1/api/nodes/:runId/:nodeId", "/v1/api/runs/:runId/nodes/:nodeId")
    return [Twin(verb, head + path, method, path_params=_NODE, **rest) for head in heads]  # type: ignore[arg-type]


TWINS: Final[tuple[Twin, ...]] = (
    Twin("GET", "/v1/api/runs", "listRuns", _RUNS, nests=True),
    Twin("POST", "/v1/api/runs", "launchRun", reads_body=True, is_write=True),
    _run("GET", "", "getRun"),
    _run("POST", "/cancel", "cancelRun", is_write=True),
    _run("POST", "/pause", "pauseRun", is_write=True),
    _run("POST", "/resume", "resumeRun", reads_body=True, is_write=True),
    _run("POST", "/rewind", "rewindRun", reads_body=True, is_write=True),
    _run("POST", "/hijack", "hijackRun", reads_body=True, is_write=True),
    _run("GET", "/node-states", "listNodeStates"),
    _run("GET", "/token-usage", "listRunTokenUsage"),
    _run("GET", "/descendants", "listRunDescendants", query={"limit": "int"}),
    _run("GET", "/tree", "getDevToolsSnapshot", query={"frameNo": "int"}),
    _run("GET", "/devtools", "getDevToolsSnapshot", query={"frameNo": "int"}),
    *_node("GET", "/output", "getNodeOutput", query={"iteration": "int"}),
    *_node("GET", "/diff", "getNodeDiff", query={"iteration": "int"}),
    *_node("POST", "/retry", "retryTask", reads_body=True, is_write=True),
    Twin(
        "GET", "/v1/api/approvals", "listApprovals", {"runId": "text", "workflow": "text", "limit": "int"}, nests=True
    ),
    Twin("POST", "/v1/api/approvals/:id", "submitApproval", reads_body=True, is_write=True),
    Twin("POST", "/v1/api/signals", "submitSignal", reads_body=True, is_write=True),
    Twin("GET", "/v1/api/workflows", "listWorkflows", {"hasUi": "bool", "includeSystem": "bool"}, nests=True),
    Twin(
        "GET",
        "/v1/api/docs",
        "listDocs",
        {"kind": "text", "includeDeleted": "bool", "updatedAfterMs": "int", "limit": "int"},
        nests=True,
    ),
    Twin("GET", "/v1/api/prompts", "listPrompts"),
    Twin("GET", "/v1/api/scores", "listScores", {"runId": "text", "nodeId": "text"}),
    Twin("GET", "/v1/api/scores/compare", "listScoresForRuns", _COMPARE),
    Twin(
        "GET",
        "/v1/api/scores/:runId/:scoreId",
        "getScoreDetail",
        path_params={"runId": "runId", "scoreId": "scoreId"},
    ),
    Twin("GET", "/v1/api/tickets", "listTickets", {"kind": "text"}),
    Twin("POST", "/v1/api/tickets", "createTicket", reads_body=True, is_write=True),
    Twin(
        "PATCH", "/v1/api/tickets/*path", "updateTicket", reads_body=True, is_write=True, path_params={"path": "path"}
    ),
    Twin("PUT", "/v1/api/tickets/*path", "updateTicket", reads_body=True, is_write=True, path_params={"path": "path"}),
    Twin("DELETE", "/v1/api/tickets/*path", "deleteTicket", is_write=True, path_params={"path": "path"}),
    Twin("GET", "/v1/api/memory-facts", "listMemoryFacts", {"namespace": "text"}),
    Twin("GET", "/v1/api/crons", "cronList", {"workflow": "text"}, nests=True),
    Twin("POST", "/v1/api/crons", "cronCreate", reads_body=True, is_write=True),
    Twin("POST", "/v1/api/crons/run", "cronRun", reads_body=True, is_write=True),
    Twin("DELETE", "/v1/api/crons/:cronId", "cronDelete", is_write=True, path_params={"cronId": "cronId"}),
    Twin("GET", "/v1/api/accounts", "listAccounts"),
    Twin("GET", "/v1/api/usage", "listUsageReports", {"fresh": "bool"}),
    Twin("GET", "/v1/api/schema-signature", "getSchemaSignature"),
)

_NODE_ID: Final = re.compile(r"[a-zA-Z0-9:_.\-]{1,160}")


class RestRoutes:
    """The routes over the methods.

    Args:
        identify: who asks; raises `RpcError`.
    """

    def __init__(self, services: Services, dispatcher: Dispatcher, identify: Callable[[Call], Identity]) -> None:
        self._services = services
        self._dispatcher = dispatcher
        self._identify = identify

    def table(self) -> list[Route]:
        """The rows of the route table."""
        routes = [
            Route(t.verb, t.path, partial(self._answer, partial(self._twin, t)), self._doc(t), access="open")
            for t in TWINS
        ]
        read = Doc("Stored events", "events", answer=_OBJECT, errors=(400, 401, 403, 404))
        own: list[tuple[str, str, Callable[[Call, Identity], Awaitable[str]]]] = [
            ("GET", "/v1/api/runs/:runId/events", self._events),
            ("GET", "/v1/api/events", self._events),
            ("GET", "/v1/api/runs/:runId/hijack-candidates", self._hijack_candidates),
            *(
                ("POST", f"/v1/api/runs/:runId/oneshot-monitor/{control}", partial(self._monitor, control))
                for control in MONITOR_CONTROLS
            ),
        ]
        routes += [Route(verb, path, partial(self._answer, answer), read, access="open") for verb, path, answer in own]
        stream = Doc("What may have changed", "events", media_type="text/event-stream", errors=(400, 401, 403, 429))
        routes.append(Route("GET", "/v1/api/stream", self._stream, stream, access="open"))
        return routes

    def _doc(self, twin: Twin) -> Doc:
        found = self._dispatcher.methods.find(twin.method)
        summary = twin.method if found is None else found[0].summary
        kinds: dict[str, Mapping[str, object]] = {
            name: {"type": {"int": "integer", "bool": "boolean"}.get(kind, "string")}
            for name, kind in twin.query.items()
        }
        return Doc(
            summary,
            "api",
            query=kinds,
            body=_OBJECT if twin.reads_body else None,
            answer=_OBJECT,
            errors=(400, 401, 403, 404, 409, 413),
        )

    async def _answer(self, answer: Callable[[Call, Identity], Awaitable[str]], call: Call) -> ASGIApp:
        try:
            return json_answer(await answer(call, self._identify(call)))
        except ClientDisconnect:
            raise
        except Exception as error:
            return rest_problem(error)

    async def refuse(self, call: Call) -> ASGIApp:
        """Answer a path below `/v1/api` that is not there; only to those who may ask."""
        try:
            self._identify(call)
            raise RpcError("NOT_FOUND", "Route not found")
        except RpcError as error:
            return rest_problem(error)

    # ── methods as resources ───────────────────────────────────────────────────────────────────────────────────────

    async def _twin(self, twin: Twin, call: Call, identity: Identity) -> str:
        params = await self._params(twin, call)
        request = Request(str(uuid4()), twin.method, params)
        payload = encoded(await self._dispatcher.call(request, identity))
        if not twin.is_write:
            return f'{{"ok":true,"data":{payload}}}'
        return f'{{"ok":true,"data":{payload},"seq":{await self._services.changes.settled()}}}'

    async def _params(self, twin: Twin, call: Call) -> dict[str, object]:
        params: dict[str, object] = dict(await read_body(call)) if twin.reads_body else {}
        if twin.method == "launchRun" and "workflow" not in params:
            for other in ("workflowKey", "workflowId"):
                if other in params:
                    params["workflow"] = params[other]
                    break
        if twin.method == "submitApproval":
            params = {**approval_of(call.params["id"]), **params}
        asked = query_of(call, twin.query)
        if twin.method == "listScoresForRuns":
            asked["runIds"] = asked.pop("runId", [])
        if twin.nests:
            params["filter"] = asked
        else:
            params |= asked
        for name, own in twin.path_params.items():
            params[own] = call.params[name]
        return params

    async def _events(self, call: Call, identity: Identity) -> str:
        require(identity, "listEvents", "run:read")
        asked = query_of(call, {"runId": "text", "afterSeq": "int", "limit": "int", "nodeId": "text"})
        run_id = call.params.get("runId") or asked.get("runId")
        if not isinstance(run_id, str):
            raise RpcError("INVALID_INPUT", "runId must be given", field="runId")
        after, limit, node = asked.get("afterSeq"), asked.get("limit"), asked.get("nodeId")
        if limit == 0:
            raise RpcError("INVALID_INPUT", "limit must be a whole number above 0", field="limit")
        if isinstance(node, str) and not _NODE_ID.fullmatch(node):
            raise RpcError(
                "INVALID_INPUT", "nodeId must have 1 to 160 letters, digits, or characters of :_.-", field="nodeId"
            )
        place = await self._services.hosting.find(run_id)
        rows = await run_lists.stored_events(
            place.control,
            run_id,
            after=after if isinstance(after, int) else -1,
            limit=limit if isinstance(limit, int) else 100,
            node_id=node if isinstance(node, str) else None,
        )
        return f'{{"ok":true,"data":{encoded(rows)}}}'

    async def _hijack_candidates(self, call: Call, identity: Identity) -> str:
        require(identity, "hijackCandidates", "run:read")
        run_id = call.params["runId"]
        place = await self._services.hosting.find(run_id)
        found = await place.store.aread(partial(takeovers.sessions, run_id=run_id))
        names = ("nodeId", "engine", "mode", "iteration", "attempt", "startedAtMs")
        candidates = [dict(zip(names, session, strict=True)) for session in found]
        return f'{{"ok":true,"data":{encoded({"runId": run_id, "candidates": candidates})}}}'

    async def _monitor(self, control: str, call: Call, identity: Identity) -> str:
        require(identity, f"oneshotMonitor{control.title()}", "run:write")
        monitor = self._services.options.oneshot_monitor
        if monitor is None:
            raise RpcError("InvalidInput", "no oneshot monitor is configured")
        run_id = call.params["runId"]
        await self._services.hosting.find(run_id)
        given = {**await read_body(call), "runId": run_id}
        message = given.get("message")
        if control == "steer" and not (isinstance(message, str) and message.strip()):
            raise RpcError("InvalidInput", "message must be a string that is not blank", field="message")
        found = monitor[control](given)
        payload = encoded(await found if isawaitable(found) else found)
        self._services.changes.note(*TOUCHES_ALL)
        return f'{{"ok":true,"data":{payload},"seq":{await self._services.changes.settled()}}}'

    async def _stream(self, call: Call) -> ASGIApp:
        try:
            identity = self._identify(call)
            require(identity, "stream", "run:read")
            return answer_stream(self._services, call, identity)
        except RpcError as error:
            return rest_problem(error)


def rest_problem(error: Exception) -> ASGIApp:
    """An error in the envelope of these routes."""
    problem = rpc_error_of(error)
    headers = {"www-authenticate": "Bearer"} if problem.http_status == 401 else None
    body = to_json({"ok": False, "error": problem.body()}, inf_nan_mode="null", fallback=str)
    return json_answer(body, problem.http_status, headers)


async def read_body(call: Call) -> dict[str, object]:
    """The body's JSON object; an empty one for any other value. Raises `RpcError`."""
    try:
        data = await call.body()
    except PayloadTooLarge as error:
        raise RpcError("PayloadTooLarge", error.summary, error.details) from error
    value: object = parse_json(data) if data.strip() else None
    check_depth(value, MAX_DEPTH)
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def query_of(call: Call, kinds: Kinds) -> dict[str, object]:
    """The query's parameters by kind; empty ones count as absent. Raises `RpcError` (`INVALID_INPUT`) naming the one that
    does not fit."""
    found: dict[str, object] = {}
    for name, kind in kinds.items():
        if kind == "texts":
            found[name] = call.query_all(name)
            continue
        text = call.query.get(name, "")
        if not text:
            continue
        if kind == "bool":
            found[name] = text == "true"
        elif kind == "int":
            if not (text.isascii() and text.isdigit() and len(text) < 17):
                raise RpcError("INVALID_INPUT", f"{name} must be a whole number, 0 or more", field=name)
            found[name] = int(text)
        else:
            found[name] = text
    return found


def approval_of(text: str) -> dict[str, object]:
    """The approval that `runId:nodeId:iteration` names; node ids and run ids may hold colons of their own."""
    head, colon, last = text.rpartition(":")
    if not colon or not (last.isascii() and last.isdigit() and len(last) < 10):
        raise RpcError("INVALID_REQUEST", "an approval is named runId:nodeId:iteration", field="id")
    run_id, colon, node_id = head.partition(":")
    if not colon or not run_id or not node_id:
        raise RpcError("INVALID_REQUEST", "an approval is named runId:nodeId:iteration", field="id")
    return {"runId": run_id, "nodeId": node_id, "iteration": int(last)}
