"""Every REST route of the contract: a good request, its envelope and data, who may ask, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx2
import pytest
from tests.conformance.gateway.contract import CONTRACT, LATER, METHODS, hold, hold_frame, status_of
from tests.conformance.gateway.support import House, bearer, check_headers, tokens
from tests.conformance.gateway.test_later import GOOD as LATER_GOOD
from tests.conformance.gateway.world import World

ROWS: list[dict[str, Any]] = [row for row in CONTRACT["rest"] if row["path"] != "/v1/api/stream"]
IDS = [f"{row['method']}-{row['path']}" for row in ROWS]


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, Any]
    body: dict[str, Any] | None

    def send(self, house: House, **headers: str) -> httpx2.Response:
        found = house.http.request(
            self.method,
            self.path,
            params=self.query,
            content=None if self.body is None else json.dumps(self.body),
            headers={"content-type": "application/json", **headers},
        )
        check_headers(found)
        hold_frame(found.json(), "restOk" if found.status_code == 200 else "restError")
        return found


def is_later(row: dict[str, Any]) -> bool:
    return row.get("rpc") in LATER


def request_of(row: dict[str, Any], world: World) -> Request:
    """A good request for a route: its method's parameters, laid out as rpc.md section 8 says."""
    method = row.get("rpc")
    if method is None:
        params: dict[str, Any] = {"runId": world.done, "afterSeq": 0, "limit": 5, "nodeId": "a", "message": "m"}
    elif method in LATER:
        params = LATER_GOOD[method](world.done)
    else:
        params = world.good(method)
    params |= params.pop("filter", {})
    path = row["path"]
    if "{approvalId}" in path:
        path = path.replace("{approvalId}", "{runId}:{nodeId}:{iteration}")
    in_path = [name for name in params if f"{{{name}}}" in path]
    for name in in_path:
        path = path.replace(f"{{{name}}}", quote(str(params[name]), safe=""))
    query = {name: params.get(name, params.get(name + "s")) for name in row.get("query", {})}
    sent = {
        k: str(v).lower() if isinstance(v, bool) else v for k, v in query.items() if v is not None and k not in in_path
    }
    body = {k: v for k, v in params.items() if k not in in_path} if "body" in row else None
    return Request(row["method"], path, sent, body)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_a_good_request_gets_its_data(world: World, row: dict[str, Any]) -> None:
    answer = request_of(row, world).send(world.house)
    body = answer.json()

    if is_later(row):
        assert (answer.status_code, body["error"]["code"]) == (501, "NotAvailable")
        return
    if "oneshot-monitor" in row["path"]:
        assert (answer.status_code, body["error"]["code"]) == (400, "InvalidInput")  # no host has injected one
        return
    assert answer.status_code == 200, body
    hold(body["data"], row.get("data") or METHODS[row["rpc"]].payload, row["path"])
    assert ("seq" in body) == bool(row.get("write"))
    assert "txid" not in body


@pytest.mark.parametrize("row", [r for r in ROWS if "{runId}" in r["path"]], ids=lambda r: f"{r['method']}-{r['path']}")
def test_an_unknown_run_is_not_found(world: World, row: dict[str, Any]) -> None:
    if "oneshot-monitor" in row["path"]:
        return
    request = request_of(row, world)
    unknown = request.path.split("/")
    unknown[unknown.index("scores" if "scores" in unknown else "nodes" if unknown[3] == "nodes" else "runs") + 1] = (
        "none"
    )
    answer = request._replace(path="/".join(unknown)).send(world.house)
    assert (answer.status_code, answer.json()["error"]["code"] in ("NOT_FOUND", "RunNotFound")) == (404, True)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    scopes = CONTRACT["scopes"]
    grants = tokens({f"t:{s}": [s] for s in scopes}, role="admin")  # a rewind asks for the role beside the scope
    with House(tmp_path_factory.mktemp("guarded"), auth=grants) as found:
        yield World(found)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_its_scope_is_needed_and_enough(guarded: World, row: dict[str, Any]) -> None:
    needed = row["scope"]
    request = request_of(row, guarded)
    before = guarded.stored()
    implied = {s for s, brings in CONTRACT["scopeImplies"].items() if needed in brings}
    for scope in CONTRACT["scopes"]:
        if scope != needed and scope not in implied:
            answer = request.send(guarded.house, **bearer(f"t:{scope}"))
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN"), scope
            assert answer.json()["error"]["requiredScope"] == needed
    for headers in ({"authorization": ""}, bearer("wrong")):
        answer = request.send(guarded.house, **headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHORIZED")
    assert guarded.changes_since(before) == {}
    assert request.send(guarded.house, **bearer(f"t:{needed}")).status_code not in (401, 403)


def test_a_path_that_is_not_there_is_told_to_those_who_may_ask_only(guarded: World) -> None:
    for method, path in (
        ("GET", "/v1/api"),
        ("GET", "/v1/api/nothing"),
        ("DELETE", "/v1/api/runs"),
        ("POST", "/v1/api/"),
    ):
        request = Request(method, path, {}, None)
        answer = request.send(guarded.house)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")
        assert request.send(guarded.house, authorization="").status_code == 401


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/api/runs?limit=0", "INVALID_INPUT"),
        ("/v1/api/runs?limit=-1", "INVALID_INPUT"),
        ("/v1/api/runs?limit=x", "INVALID_INPUT"),
        ("/v1/api/runs?offset=-1", "INVALID_INPUT"),
        ("/v1/api/runs?offset=9007199254740991", "INVALID_REQUEST"),
        ("/v1/api/runs?limit=1e3", "INVALID_INPUT"),
        ("/v1/api/runs?limit=٣", "INVALID_INPUT"),
        ("/v1/api/runs?limit=99999999999999999999999", "INVALID_INPUT"),
        ("/v1/api/events", "INVALID_INPUT"),
        ("/v1/api/events?runId=&afterSeq=0", "INVALID_INPUT"),
        ("/v1/api/events?runId={done}&afterSeq=-1", "INVALID_INPUT"),
        ("/v1/api/events?runId={done}&limit=0", "INVALID_INPUT"),
        ("/v1/api/events?runId={done}&nodeId=a%20b", "INVALID_INPUT"),
        ("/v1/api/events?runId={done}&nodeId=" + "x" * 161, "INVALID_INPUT"),
        ("/v1/api/docs?limit=0", "INVALID_INPUT"),
        ("/v1/api/docs?updatedAfterMs=x", "INVALID_INPUT"),
        ("/v1/api/tickets?kind=novel", "INVALID_INPUT"),
        ("/v1/api/scores", "INVALID_REQUEST"),
        ("/v1/api/scores/compare?runId={done}&limit=501", "INVALID_REQUEST"),
        ("/v1/api/scores/compare?runId={done}&order=up", "INVALID_REQUEST"),
        ("/v1/api/nodes/{done}/a/output?iteration=-1", "INVALID_INPUT"),
        ("/v1/api/nodes/UPPER/a/output", "InvalidRunId"),
        ("/v1/api/runs?" + "&".join(f"a{i}=1" for i in range(200)), "INVALID_REQUEST"),
    ],
)
def test_a_bad_query_is_refused(world: World, path: str, code: str) -> None:
    answer = world.house.http.get(path.format(done=world.done))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert status_of(code) == 400


@pytest.mark.parametrize("value", ["[1]", "7", "null", '"x"'])
def test_a_body_that_is_no_object_counts_as_empty(world: World, value: str) -> None:
    answer = world.house.http.post("/v1/api/runs", content=value)
    assert (answer.status_code, answer.json()["error"]["code"]) == (
        400,
        "INVALID_REQUEST",
    )  # because no workflow is named
    assert world.house.http.post(f"/v1/api/runs/{world.gate()}/cancel", content=value).status_code == 200


@pytest.mark.parametrize("value", ["{", "[" * 40 + "]" * 40, '{"workflow":"one","input":{"a":1e999}}', "\xff"])
def test_a_body_that_cannot_be_read_is_refused(world: World, value: str) -> None:
    before = world.stored()
    answer = world.house.http.post("/v1/api/runs", content=value.encode("latin-1"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_INPUT")
    assert world.changes_since(before) == {}


def test_a_launch_may_call_the_workflow_by_its_other_names(world: World) -> None:
    for name in ("workflow", "workflowKey", "workflowId"):
        assert world.house.http.post("/v1/api/runs", json={name: "one"}).json()["data"]["workflow"] == "one"


def test_an_approvals_id_holds_run_node_and_iteration(world: World) -> None:
    for bad in ("x", "x:y", "x:y:z", "x::0", ":y:0", "x:y:-1", "x:y:99999999999"):
        answer = world.house.http.post(f"/v1/api/approvals/{bad}", json={"approved": True})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_REQUEST"), bad
    run_id = world.gate()
    found = world.house.http.post(f"/v1/api/approvals/{run_id}%3Aship%3A0", json={"approved": False}).json()["data"]
    assert found == {"runId": run_id, "nodeId": "ship", "iteration": 0, "approved": False}
    again = world.house.http.post(f"/v1/api/approvals/{run_id}:ship:0", json={"approved": True})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "AlreadyDecided")


def test_a_tickets_path_may_hold_slashes_and_anything(world: World) -> None:
    for path in ("a/b/c.md", "ü/ ?#%.md", "..", "a//b"):
        assert world.house.http.post("/v1/api/tickets", json={"path": path, "content": "x"}).status_code == 200
        at = "/v1/api/tickets/" + quote(path, safe="" if path == ".." else "/")
        if path in ("..", "a//b"):
            at = "/v1/api/tickets/" + quote(path, safe="").replace(".", "%2E")
        found = world.house.http.put(at, json={"content": "y"})
        assert (found.status_code, found.json()["data"]["path"]) == (200, path)
        assert world.house.http.delete(at).json()["data"] == {"path": path, "deleted": True}
        assert world.house.http.delete(at).status_code == 404


def test_stored_events_are_read_in_order_from_where_one_was(world: World) -> None:
    def rows(query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = world.house.http.get(f"/v1/api/runs/{world.done}/events{query}").json()["data"]
        return found

    everything = rows("")
    assert [row["seq"] for row in everything] == list(range(len(everything)))
    assert rows("?afterSeq=2") == everything[3:]
    assert rows("?limit=2") == everything[:2]
    assert rows("?nodeId=a&limit=2") == [row for row in everything if row["payload"].get("nodeId") == "a"][-2:]
    assert rows("?nodeId=nobody") == []
    assert {row["event"] for row in everything} >= {"RunStarted", "NodeStarted", "NodeFinished", "RunFinished"}


def test_a_writes_seq_is_the_change_that_tells_of_it(world: World) -> None:
    first = world.house.http.post("/v1/api/tickets", json={"path": "seq.md", "content": "1"}).json()["seq"]
    second = world.house.http.post("/v1/api/tickets", json={"path": "seq.md", "content": "2"}).json()["seq"]
    assert 0 < first < second
