"""Every route of `start_server`: good, each bad input, unauthorized, wrong state; over a real socket."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx2
import pytest
from tests.conformance.http.support import HEADERS, Client, code

ROUTES = [
    ("GET", "/metrics"),
    ("POST", "/v1/runs"),
    ("GET", "/v1/runs"),
    ("GET", "/v1/runs/x"),
    ("POST", "/v1/runs/x/resume"),
    ("POST", "/v1/runs/x/cancel"),
    ("GET", "/v1/runs/x/events"),
    ("GET", "/v1/runs/x/frames"),
    ("POST", "/v1/runs/x/nodes/n/approve"),
    ("POST", "/v1/runs/x/nodes/n/deny"),
    ("POST", "/v1/runs/x/signals/s"),
    ("POST", "/signal/x/s"),
    ("GET", "/v1/approvals"),
    ("GET", "/v1/approval/list"),
    ("GET", "/approval/list"),
    ("GET", "/approvals"),
    ("GET", "/openapi.json"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_wants_the_token(client: Client, method: str, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"x-smithers-key": ""}, {"authorization": ""}):
        answer = client.http.request(method, path, headers={"authorization": "", **headers})
        assert code(answer) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer t0ken"},
        {"authorization": "bearer t0ken"},
        {"authorization": "t0ken"},
        {"authorization": "Bearer wrong", "x-smithers-key": "t0ken"},
        {"authorization": "", "x-smithers-key": "t0ken"},
    ],
)
def test_either_header_may_carry_the_token(client: Client, headers: dict[str, str]) -> None:
    assert client.http.get("/v1/runs", headers=headers).status_code == 200


def test_health_needs_neither_token_nor_host(client: Client) -> None:
    answer = client.http.get("/health", headers={"authorization": "", "host": "evil.example"})
    assert (answer.status_code, answer.json()) == (200, {"ok": True})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1/runs/"),
        ("DELETE", "/v1/runs"),
        ("POST", "/health"),
        ("GET", "/v2/runs"),
        ("HEAD", "/health"),
    ],
)
def test_an_unknown_path_or_method_is_not_found(client: Client, method: str, path: str) -> None:
    answer = client.http.request(method, path)
    assert answer.status_code == 404
    if method != "HEAD":
        assert answer.json()["error"] == {"code": "NOT_FOUND", "message": "Route not found"}


# ── starting ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_is_started_looked_at_and_listed(client: Client) -> None:
    run_id = client.start(run_id="a run/with ünusual id")
    quoted = "a%20run%2Fwith%20%C3%BCnusual%20id"

    assert run_id == "a run/with ünusual id"
    client.until(quoted, "finished")
    found = client.http.get(f"/v1/runs/{quoted}").json()
    assert found["summary"] == {"finished": 2}
    assert found["workflowName"] == "flow"
    assert found["startedAtMs"] <= found["finishedAtMs"]
    assert found["runState"]["state"] == "succeeded"
    listed = client.http.get("/v1/runs", params={"workflow": "flow", "status": "finished"}).json()
    assert run_id in [row["runId"] for row in listed]
    row = next(row for row in listed if row["runId"] == run_id)
    assert row["workflowPath"] == str(client.folder.workflow)
    assert row["runState"]["state"] == "succeeded"
    assert row["heartbeatAtMs"] is None


def bodies(client: Client) -> dict[str, tuple[object, tuple[int, str]]]:
    path = str(client.folder.workflow)
    (client.folder.path / "empty.py").write_text("x = 1\n")
    (client.folder.path / "raises.py").write_text("raise RuntimeError('on import')\n")
    outside = client.folder.path.parent / "outside.py"
    outside.write_text("x = 1\n")
    link = client.folder.path / "link.py"
    if not link.exists():
        link.symlink_to(outside)
    return {
        "no path": ({}, (400, "INVALID_REQUEST")),
        "empty path": ({"workflowPath": ""}, (400, "INVALID_REQUEST")),
        "path no string": ({"workflowPath": 7}, (400, "INVALID_REQUEST")),
        "array": ([], (400, "INVALID_REQUEST")),
        "null": (None, (400, "INVALID_REQUEST")),
        "input null": ({"workflowPath": path, "input": None}, (400, "INVALID_REQUEST")),
        "input array": ({"workflowPath": path, "input": []}, (400, "INVALID_REQUEST")),
        "concurrency 0": ({"workflowPath": path, "config": {"maxConcurrency": 0}}, (400, "INVALID_REQUEST")),
        "concurrency text": ({"workflowPath": path, "config": {"maxConcurrency": "x"}}, (400, "INVALID_REQUEST")),
        "config no object": ({"workflowPath": path, "config": 3}, (400, "INVALID_REQUEST")),
        "run id empty": ({"workflowPath": path, "runId": ""}, (400, "INVALID_REQUEST")),
        "run id long": ({"workflowPath": path, "runId": "x" * 257}, (400, "INVALID_REQUEST")),
        "run id number": ({"workflowPath": path, "runId": 3}, (400, "INVALID_REQUEST")),
        "missing file": ({"workflowPath": "nope.py"}, (400, "INVALID_REQUEST")),
        "no workflow": ({"workflowPath": "empty.py"}, (400, "INVALID_REQUEST")),
        "raises": ({"workflowPath": "raises.py"}, (500, "SERVER_ERROR")),
        "above root": ({"workflowPath": "../outside.py"}, (400, "WORKFLOW_PATH_OUTSIDE_ROOT")),
        "link out of root": ({"workflowPath": "link.py"}, (400, "WORKFLOW_PATH_OUTSIDE_ROOT")),
        "absolute": ({"workflowPath": "/etc/passwd"}, (400, "WORKFLOW_PATH_OUTSIDE_ROOT")),
        "nul": ({"workflowPath": "a\0b"}, (400, "INVALID_REQUEST")),
        "long name": ({"workflowPath": "x" * 5000}, (400, "INVALID_REQUEST")),
        "resume without id": ({"workflowPath": path, "resume": True}, (400, "RUN_ID_REQUIRED")),
        "resume unknown": ({"workflowPath": path, "resume": True, "runId": "nope"}, (404, "RUN_NOT_FOUND")),
    }


BAD_STARTS = [
    "no path",
    "empty path",
    "path no string",
    "array",
    "null",
    "input null",
    "input array",
    "concurrency 0",
    "concurrency text",
    "config no object",
    "run id empty",
    "run id long",
    "run id number",
    "missing file",
    "no workflow",
    "raises",
    "above root",
    "link out of root",
    "absolute",
    "nul",
    "long name",
    "resume without id",
    "resume unknown",
]


@pytest.mark.parametrize("name", BAD_STARTS)
def test_a_bad_start_is_refused_by_name(client: Client, name: str) -> None:
    body, expected = bodies(client)[name]
    before = len(client.http.get("/v1/runs", params={"limit": 1000}).json())

    assert code(client.http.post("/v1/runs", json=body)) == expected
    assert len(client.http.get("/v1/runs", params={"limit": 1000}).json()) == before


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", (400, "INVALID_JSON")),
        (b"\xff\xfe", (400, "INVALID_JSON")),
        (b'{"workflowPath": NaN}', (400, "INVALID_JSON")),
        (b'{"a":' * 40 + b"1" + b"}" * 40, (400, "INVALID_REQUEST")),
        (b"[" * 100_000, (400, "INVALID_REQUEST")),
        (b'{"x": "' + b"y" * 1_048_576 + b'"}', (413, "PAYLOAD_TOO_LARGE")),
        (b"", (400, "INVALID_REQUEST")),
    ],
)
def test_a_bad_body_is_refused(client: Client, body: bytes, expected: tuple[int, str]) -> None:
    assert code(client.http.post("/v1/runs", content=body)) == expected


def test_a_streamed_body_is_cut_off_at_the_cap(client: Client) -> None:
    answer = client.http.post("/v1/runs", content=(b"x" * 65_536 for _ in range(40)))
    assert code(answer) == (413, "PAYLOAD_TOO_LARGE")
    assert answer.json()["error"]["details"] == {"maxBytes": 1_048_576}


def test_the_deepest_allowed_body_is_taken(client: Client) -> None:
    deep = json.loads("[" * 28 + "]" * 28)
    answer = client.http.post("/v1/runs", json={"workflowPath": "nope.py", "input": {"x": deep}})
    assert code(answer) == (400, "INVALID_REQUEST")
    assert "maxDepth" not in answer.text
    too_deep = json.loads("[" * 31 + "]" * 31)
    answer = client.http.post("/v1/runs", json={"workflowPath": "nope.py", "input": {"x": too_deep}})
    assert answer.json()["error"]["details"] == {"maxDepth": 32}


def test_a_used_run_id_is_refused(client: Client) -> None:
    run_id = client.start()
    answer = client.http.post("/v1/runs", json={"workflowPath": "flow.py", "runId": run_id})
    assert code(answer) == (409, "RUN_ALREADY_EXISTS")


def test_of_simultaneous_starts_with_one_id_exactly_one_wins(client: Client) -> None:
    answers: list[int] = []

    def start() -> None:
        body = {"workflowPath": "flow.py", "runId": "contested"}
        answers.append(client.http.post("/v1/runs", json=body).status_code)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == [200, *[409] * 7]


# ── resuming and cancelling ────────────────────────────────────────────────────────────────────────────────────────


def test_a_failed_run_is_resumed_by_either_route(client: Client) -> None:
    run_id = client.start(fail=True)
    client.until(run_id, "failed")
    path = {"workflowPath": str(client.folder.workflow)}

    assert client.http.post(f"/v1/runs/{run_id}/resume", json=path).json() == {"runId": run_id}
    client.until(run_id, "failed")
    again = client.http.post("/v1/runs", json={**path, "runId": run_id, "resume": True})
    assert again.json() == {"runId": run_id}


def test_resuming_a_live_run_says_that_it_runs(client: Client) -> None:
    run_id = client.start(slow=True)

    answer = client.http.post(f"/v1/runs/{run_id}/resume", json={"workflowPath": "flow.py"})

    assert answer.json() == {"runId": run_id, "status": "running"}
    assert code(client.http.post(f"/v1/runs/{run_id}/resume", json={})) == (400, "INVALID_REQUEST")
    assert code(client.http.post("/v1/runs/nope/resume", json={"workflowPath": "flow.py"})) == (404, "RUN_NOT_FOUND")
    client.http.post(f"/v1/runs/{run_id}/cancel")


@pytest.mark.parametrize("input", [{"slow": True}, {"ask": True}, {"wait": True}, {"timer": "1h"}])
def test_a_run_is_cancelled_once_whatever_it_does(client: Client, input: dict[str, object]) -> None:
    run_id = client.start(input=input)
    if "slow" not in input:
        client.until(run_id, "waiting-approval", "waiting-event", "waiting-timer")

    first = client.http.post(f"/v1/runs/{run_id}/cancel").json()
    second = client.http.post(f"/v1/runs/{run_id}/cancel").json()

    assert first == {
        "runId": run_id,
        "won": True,
        "status": "cancelled",
        "terminalStatus": "cancelled",
        "repaired": False,
    }
    assert (second["won"], second["status"], second["terminalStatus"]) == (False, "already-terminal", "cancelled")
    types = [event["type"] for event in client.events(run_id)]
    assert types.count("RunCancelled") == 1


def test_an_ended_or_unknown_run_cannot_be_cancelled(client: Client) -> None:
    run_id = client.start()
    client.until(run_id, "finished")

    assert code(client.http.post(f"/v1/runs/{run_id}/cancel")) == (409, "RUN_NOT_ACTIVE")
    assert code(client.http.post("/v1/runs/nope/cancel")) == (404, "NOT_FOUND")


@pytest.mark.parametrize(("method", "path"), [row for row in ROUTES if "/x" in row[1] and "resume" not in row[1]])
def test_an_unknown_run_is_not_found(client: Client, method: str, path: str) -> None:
    answer = client.http.request(method, path)
    assert code(answer) == (404, "NOT_FOUND")
    assert answer.json()["error"]["message"] == "Run not found"


# ── lists ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "query",
    [
        "/v1/runs?limit=0",
        "/v1/runs?limit=-1",
        "/v1/runs?limit=x",
        "/v1/runs?limit=nan",
        "/v1/runs?limit=inf",
        "/v1/runs/nope/frames?limit=0",
        "/v1/runs/nope/frames?afterFrameNo=x",
        "/v1/runs/nope/events?afterSeq=x",
    ],
)
def test_a_bad_number_is_refused(client: Client, query: str) -> None:
    assert code(client.http.get(query)) == (400, "INVALID_REQUEST")


def test_of_repeated_query_keys_the_first_wins(client: Client) -> None:
    for _ in range(2):
        client.start()
    assert len(client.http.get("/v1/runs?limit=1&limit=x").json()) == 1
    assert len(client.http.get("/v1/runs?limit=1.9").json()) == 1


def test_frames_come_newest_first_with_their_whole_tree(client: Client) -> None:
    run_id = client.start(many=3)
    client.until(run_id, "finished")

    frames = client.http.get(f"/v1/runs/{run_id}/frames").json()

    numbers = [frame["frameNo"] for frame in frames]
    assert numbers == sorted(numbers, reverse=True)
    assert all(json.loads(frame["xmlJson"])["tag"] == "smithers:workflow" for frame in frames)
    after = client.http.get(f"/v1/runs/{run_id}/frames", params={"afterFrameNo": numbers[-1]}).json()
    assert [frame["frameNo"] for frame in after] == numbers[:-1]
    assert len(client.http.get(f"/v1/runs/{run_id}/frames?limit=1&afterFrameNo=-5").json()) == 1


# ── people ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("verb", "ends"), [("approve", "finished"), ("deny", "failed")])
def test_a_decision_wakes_the_run(client: Client, verb: str, ends: str) -> None:
    run_id = client.start(ask=True)
    client.until(run_id, "waiting-approval")
    open_ones = {row["runId"]: row for row in client.http.get("/v1/approvals").json()["approvals"]}
    assert open_ones[run_id]["requestTitle"] == "Ship it?"
    assert open_ones[run_id]["waitingMs"] >= 0

    answer = client.http.post(f"/v1/runs/{run_id}/nodes/ship%2Fit/{verb}", json={"note": "ok", "decidedBy": "ann"})

    assert answer.json() == {"runId": run_id}
    client.until(run_id, ends)
    again = client.http.post(f"/v1/runs/{run_id}/nodes/ship%2Fit/{verb}")
    assert code(again) == (409, "INVALID_REQUEST")


def test_of_racing_decisions_one_wins(client: Client) -> None:
    run_id = client.start(ask=True)
    client.until(run_id, "waiting-approval")
    answers: list[int] = []

    def decide(verb: str) -> None:
        answers.append(client.http.post(f"/v1/runs/{run_id}/nodes/ship%2Fit/{verb}").status_code)

    threads = [threading.Thread(target=decide, args=(verb,)) for verb in ("approve", "deny") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == [200, *[409] * 7]


def test_a_decision_that_does_not_fit_changes_nothing(client: Client) -> None:
    run_id = client.start(ask=True)
    client.until(run_id, "waiting-approval")
    node = f"/v1/runs/{run_id}/nodes/ship%2Fit/approve"

    misfits: list[dict[str, object]] = [
        {"iteration": "x"},
        {"iteration": -1},
        {"iteration": 1.5},
        {"note": 3},
        {"decidedBy": []},
        {"iteration": 10**30},
    ]
    for body in misfits:
        assert code(client.http.post(node, json=body)) == (400, "INVALID_REQUEST")
    assert code(client.http.post(f"/v1/runs/{run_id}/nodes/none/approve")) == (400, "INVALID_REQUEST")
    assert code(client.http.post(f"/v1/runs/{run_id}/nodes/first/approve")) == (409, "INVALID_REQUEST")
    assert client.status(run_id) == "waiting-approval"


@pytest.mark.parametrize("path", ["/v1/runs/{}/signals/{}", "/signal/{}/{}"])
def test_a_signal_wakes_the_run_that_waits_for_it(client: Client, path: str) -> None:
    run_id = client.start(wait=True, key="k1")
    client.until(run_id, "waiting-event")
    blocked = client.http.get(f"/v1/runs/{run_id}").json()["runState"]["blocked"]
    assert blocked == {"kind": "event", "nodeId": "ping", "correlationKey": "k1"}

    other = client.http.post(path.format(run_id, "ping"), json={"data": {"n": 1}, "correlationId": "other"})
    assert other.json()["correlationId"] == "other"
    answer = client.http.post(path.format(run_id, "%20ping%20"), json={"data": {"n": 2}, "correlationId": " k1 "})

    found = answer.json()
    assert (found["runId"], found["signalName"], found["correlationId"]) == (run_id, "ping", "k1")
    assert found["seq"] > other.json()["seq"]
    client.until(run_id, "finished")
    assert code(client.http.post(path.format(run_id, "ping"))) == (409, "RUN_NOT_ACTIVE")


@pytest.mark.parametrize("path", ["/v1/runs/{}/signals/{}", "/signal/{}/{}"])
def test_a_signal_with_a_key_is_delivered_once_whatever_has_become_of_its_run(client: Client, path: str) -> None:
    def send(name: str = "ping", **more: object) -> httpx2.Response:
        return client.http.post(path.format(run_id, name), json={"data": {"n": 2}, "idempotencyKey": "k", **more})

    run_id = client.start(wait=True)
    client.until(run_id, "waiting-event")
    first = send().json()
    assert (first["runId"], first["signalName"]) == (run_id, "ping")
    assert send().json() == first
    client.until(run_id, "finished")
    assert send().json() == first
    for again in (send("pong"), send(data={"n": 3}), send(correlationId="c")):
        assert code(again) == (400, "INVALID_REQUEST")
    assert code(send(idempotencyKey="k2")) == code(send(idempotencyKey=None)) == (409, "RUN_NOT_ACTIVE")


def test_a_signal_that_does_not_fit_is_refused(client: Client) -> None:
    run_id = client.start(wait=True)
    keys: list[object] = ["", "k" * 257, 3, True, [], {}]
    for key in keys:
        sent = client.http.post(f"/v1/runs/{run_id}/signals/x", json={"idempotencyKey": key})
        assert code(sent) == (400, "INVALID_REQUEST")
    assert code(client.http.post(f"/v1/runs/{run_id}/signals/%20")) == (400, "INVALID_REQUEST")
    assert code(client.http.post(f"/v1/runs/{run_id}/signals/x", json={"correlationId": 3})) == (400, "INVALID_REQUEST")
    client.http.post(f"/v1/runs/{run_id}/cancel")


def test_every_alias_lists_the_approvals(client: Client) -> None:
    shapes = [
        client.http.get(path).json().keys()
        for path in ("/v1/approvals", "/v1/approval/list", "/approval/list", "/approvals")
    ]
    assert all(shape == {"approvals"} for shape in shapes)


# ── operators ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_metrics_count_by_template_and_never_by_run(client: Client) -> None:
    run_id = client.start()
    client.until(run_id, "finished")
    client.http.get("/no/such/path")

    answer = client.http.get("/metrics")

    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert (
        'smithers_http_requests{method="GET",route="/v1/runs/:runId",status_code="200",status_class="2xx"}'
        in answer.text
    )
    assert 'route="unmatched"' in answer.text
    assert run_id not in answer.text
    assert "/no/such/path" not in answer.text
    numbers = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert int(numbers["smithers_runs_finished_total"]) >= 1
    assert numbers["smithers_timers_fired"] == "0"


def test_the_document_describes_every_route(client: Client) -> None:
    document = client.http.get("/openapi.json").json()
    listed = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    one = "/v1/runs/{runId}"
    wanted = {
        *((method, path) for method, path in ROUTES if "/x" not in path),
        *(("POST", f"{one}/{verb}") for verb in ("resume", "cancel", "signals/{signalName}")),
        *(("POST", f"{one}/nodes/{{nodeId}}/{verb}") for verb in ("approve", "deny")),
        *(("GET", f"{one}{part}") for part in ("", "/events", "/frames")),
        ("POST", "/signal/{runId}/{signalName}"),
    }
    assert wanted <= listed
    assert ("POST", "/v1/webhooks/{sourceId}") in listed
    assert ("GET", "/health") in listed


def test_lists_need_a_database_of_the_server(tmp_path: Path) -> None:
    from tests.conformance.http.support import Folder, client_of

    from smithers import start_server

    with start_server(port=0, auth_token="t0ken") as server, client_of(server.url, Folder(tmp_path), HEADERS) as client:
        assert code(client.http.get("/v1/runs")) == (400, "DB_NOT_CONFIGURED")
        assert code(client.http.get("/v1/approvals")) == (400, "DB_NOT_CONFIGURED")
        run_id = client.start(ask=True)
        client.until(run_id, "waiting-approval")
        assert client.http.post(f"/v1/runs/{run_id}/nodes/ship%2Fit/approve").status_code == 200
        client.until(run_id, "finished")


def test_a_run_belongs_to_its_launchers_trace(client: Client) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for sent, stored in ((parent, True), ("nonsense", False)):
        body = {"workflowPath": str(client.folder.workflow)}
        run_id = client.http.post("/v1/runs", json=body, headers={"traceparent": sent}).json()["runId"]
        client.until(run_id, "finished")
        row = next(row for row in client.http.get("/v1/runs").json() if row["runId"] == run_id)
        assert (parent in row["configJson"]) is stored


def test_an_answer_quotes_no_credentials(client: Client) -> None:
    secret = "QZX0123456789QZX"
    for path in (f"password={secret}.py", f"postgres://me:{secret}@host/x.py"):
        answer = client.http.post("/v1/runs", json={"workflowPath": path})
        assert answer.status_code >= 400
        assert secret not in answer.text


def test_a_question_is_answered_by_the_approve_route(client: Client) -> None:
    run_id = client.start(question=True)
    client.until(run_id, "waiting-approval", "waiting-event")
    node = f"/v1/runs/{run_id}/nodes/how-many"

    assert code(client.http.post(f"{node}/approve", json={})) == (400, "INVALID_REQUEST")
    assert code(client.http.post(f"{node}/approve", json={"value": {"n": "many"}})) == (400, "INVALID_REQUEST")
    assert code(client.http.post(f"{node}/deny", json={})) == (409, "INVALID_REQUEST")
    assert client.http.post(f"{node}/approve", json={"value": {"n": 4}, "decidedBy": "ann"}).status_code == 200
    assert code(client.http.post(f"{node}/approve", json={"value": {"n": 5}})) == (409, "INVALID_REQUEST")

    client.until(run_id, "finished")


def test_a_choice_is_made_by_the_approve_route(client: Client) -> None:
    run_id = client.start(choose=True)
    client.until(run_id, "waiting-approval")
    node = f"/v1/runs/{run_id}/nodes/pick"

    assert code(client.http.post(f"{node}/approve", json={"decision": "a"})) == (400, "INVALID_REQUEST")
    assert code(client.http.post(f"{node}/approve", json={"decision": {"selected": "c"}})) == (400, "INVALID_REQUEST")
    assert client.http.post(f"{node}/approve", json={"decision": {"selected": "b"}}).status_code == 200

    client.until(run_id, "finished")
