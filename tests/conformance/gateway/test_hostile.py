"""Requests that nobody means well with: other hosts' pages, broken HTTP, path tricks, bombs, and 3,000 at random."""

from __future__ import annotations

import json
import os
import socket as sockets
import threading
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.conformance.gateway.contract import LATER, METHODS, SCOPES_BY_NAME, hold_frame
from tests.conformance.gateway.support import House, Socket, check_headers, tokens
from tests.conformance.gateway.test_rest import ROWS
from tests.conformance.gateway.world import World
from websockets.exceptions import InvalidStatus

EXAMPLES = 3_000


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    origins = ("https://app.example",)
    with House(tmp_path_factory.mktemp("guarded"), auth=tokens({}), allowed_origins=origins) as found:
        yield found


def raw(house: House, data: bytes, *, half_close: bool = False) -> bytes:
    """What comes back for bytes on a connection of their own, until the other side ends it."""
    at = urlsplit(house.url)
    with sockets.create_connection((at.hostname or "", at.port or 0), timeout=60) as connection:
        found = b""
        try:
            connection.sendall(data)
            if half_close:
                connection.shutdown(sockets.SHUT_WR)
            while chunk := connection.recv(65_536):
                found += chunk
        except ConnectionError:
            pass  # it has hung up while more was sent
        return found


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


LAUNCH = b'{"workflow":"one"}'


def post(extra: bytes = b"", body: bytes = LAUNCH, path: bytes = b"/v1/rpc/launchRun") -> bytes:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return head + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


# ── other hosts, other pages ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:7331"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost.evil.example"},
        {"host": "localhost@evil.example"},
        {"host": "192.168.1.7"},
        {"host": "0.0.0.0"},
        {"host": "[::2]"},
        {"origin": "https://evil.example"},
        {"origin": "http://localhost.evil.example"},
        {"origin": "http://evil.example:80"},
        {"origin": "null"},
        {"origin": "file://"},
        {"origin": "localhost"},
        {"origin": "http://127.0.0.1@evil.example"},
        {"origin": "http://127.0.0.1\\@evil.example"},
        {"origin": "https://evil.example", "content-type": "text/plain"},
        {"origin": "null", "content-type": "application/x-www-form-urlencoded"},
    ],
    ids=str,
)
def test_an_open_gateway_is_for_this_machine_only(house: House, headers: dict[str, str]) -> None:
    before = house.stored()
    for path in ("/v1/rpc/launchRun", "/rpc", "/v1/electric/write", "/v1/api/runs"):
        body = json.dumps({"workflow": "one", "method": "launchRun", "params": {"workflow": "one"}})
        answer = house.http.post(path, content=body, headers=headers)
        assert answer.status_code == 401, path
        assert answer.json().get("error", answer.json())["code"] == "UNAUTHORIZED"
        assert "access-control-allow-origin" not in answer.headers
    for path in ("/v1/api/runs", "/v1/api/stream", "/workflows"):
        assert house.http.get(path, headers=headers).status_code == 401, path
    with pytest.raises(InvalidStatus) as refused:
        Socket(house.url, **({"origin": headers["origin"]} if "origin" in headers else {"additional_headers": headers}))
    assert refused.value.response.status_code in (400, 403)  # two Host headers are no HTTP
    assert house.changes_since(before) == {}


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "a.localhost", "127.0.0.1", "127.9.9.9:1", "[::1]:7331"])
def test_names_of_this_machine_are_answered(house: House, host: str) -> None:
    assert house.http.post("/v1/rpc/health", headers={"host": host}).status_code == 200
    assert house.http.post("/v1/rpc/health", headers={"host": host, "origin": f"http://{host}"}).status_code == 200


def test_with_tokens_only_listed_pages_are_answered(guarded: House) -> None:
    for origin, code in (
        ("https://app.example", 200),
        ("https://app.example.evil.example", 401),
        ("http://app.example", 401),
        ("https://APP.example", 401),
        ("null", 401),
    ):
        assert guarded.http.post("/v1/rpc/health", headers={"origin": origin}).status_code == code, origin
        if code == 200:
            Socket(guarded.url, origin=origin).raw.close()
            continue
        with pytest.raises(InvalidStatus) as refused:
            Socket(guarded.url, origin=origin)
        assert refused.value.response.status_code == 403
    assert guarded.http.post("/v1/rpc/health", headers={"host": "any.example"}).status_code == 200


def test_no_page_may_ask_for_permission(house: House, guarded: House) -> None:
    for found in (house, guarded):
        preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        answer = found.http.options("/v1/rpc/launchRun", headers=preflight)
        assert answer.status_code in (401, 404, 405)
        assert not [name for name in answer.headers if name.startswith("access-control")]


# ── broken HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "extra",
    [
        b"Host: evil.example\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 1e3\r\n",
        b"Content-Length: 0x10\r\n",
        b"Content-Length: +18\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: identity, chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b" folded: yes\r\n",
        b"Bad Name: x\r\n",
        b"X: a\x00b\r\n",
        b"X-Long: " + b"x" * 200_000 + b"\r\n",
        b"".join(b"X-%d: y\r\n" % i for i in range(20_000)),
    ],
    ids=range(14),
)
def test_http_that_can_be_read_two_ways_is_refused(house: House, extra: bytes) -> None:
    before = house.stored()
    answer = raw(house, post(extra))
    assert not answer or 400 <= status(answer) < 500
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert house.changes_since(before) == {}


def test_two_tokens_are_none(guarded: House) -> None:
    twice = b"Authorization: Bearer root-token\r\nAuthorization: Bearer wrong\r\n"
    assert status(raw(guarded, post(twice))) in (400, 401)
    twice = b"X-Smithers-Key: wrong\r\nX-Smithers-Key: root-token\r\n"
    assert status(raw(guarded, post(twice))) in (400, 401)
    assert guarded.ok("listRuns") == []


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(house: House) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\n"
    for path in (b"/v1/rpc/health", b"/rpc", b"/v1/api/runs", b"/v1/electric/write"):
        announced = raw(house, head % path + b"Content-Length: 99999999999\r\n\r\n{")
        assert (status(announced), b"P" in announced) == (413, True), path
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        streamed = raw(house, head % path + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 20 + b"0\r\n\r\n")
        assert not streamed or status(streamed) == 413, path


def test_a_chunked_body_is_read(house: House) -> None:
    body = b"12\r\n" + LAUNCH + b"\r\n0\r\n\r\n"
    head = (
        b"POST /v1/rpc/launchRun HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert status(raw(house, head + body)) == 200
    assert not raw(house, head + b"zz\r\n{}\r\n0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_body_that_ends_early_does_nothing(house: House) -> None:
    before = house.stored()
    head = b"POST /v1/rpc/launchRun HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    assert not raw(house, head + LAUNCH, half_close=True).startswith(b"HTTP/1.1 2")
    assert house.changes_since(before) == {}


# ── paths ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    [
        "/v1/rpc/%2e%2e",
        "/v1/rpc/..",
        "/v1/rpc/%2e%2e%2fapi%2fruns",
        "/v1/rpc/launchRun/",
        "/v1/rpc//launchRun",
        "/v1/rpc/",
        "/v1/rpc/launchRun%00",
        "/v1/rpc/%FF",
        "/v1/rpc/launchRun;x",
        "/V1/RPC/launchRun",
        "//v1/rpc/launchRun",
        "/rpc/",
        "/workflows/..%2f",
        "/workflows/..%2f..%2fetc%2fpasswd",
        "/workflows/%2e%2e/%2e%2e/etc/passwd",
        "/workflows/one/__smithers_ui/..%2f..%2fclient.js",
        "/console/__smithers_ui/%2e%2e/%2e%2e/%2e%2e/pyproject.toml",
        "/v1/api/../rpc/launchRun",
        "/v1/api/runs/%2e%2e/cancel",
        "/v1/api/runs//cancel",
        "/webhooks/../rpc",
        "/%",
        "/%zz",
        "/\u00e9",
        "/" + "a" * 10_000,
        "/" + "a/" * 2_000,
    ],
)
def test_paths_that_go_elsewhere_go_nowhere(house: House, path: str) -> None:
    before = house.stored()
    for verb in (b"POST", b"GET"):
        head = verb + b" " + path.encode("latin-1") + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        answer = raw(house, head + b"Content-Length: %d\r\n\r\n" % len(LAUNCH) + LAUNCH)
        assert 300 <= status(answer) < 500 or b"text/html" in answer, answer[:300]
        assert b"root:" not in answer
        assert b"[project]" not in answer
    assert house.changes_since(before) == {}


def test_other_verbs_do_nothing(house: House) -> None:
    before = house.stored()
    for verb in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECTED"):
        for path in ("/rpc", "/v1/rpc/launchRun", "/webhooks/one", "/v1/electric/write"):
            assert house.http.request(verb, path, content=LAUNCH).status_code in (400, 404, 405), (verb, path)
    assert house.changes_since(before) == {}


# ── bombs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

BOMBS = {
    "arrays": "[" * 200_000,
    "objects": '{"a":' * 150_000,
    "closed arrays": "[" * 100_000 + "]" * 100_000,
    "params": '{"method":"health","params":' + "[" * 100_000 + "]" * 100_000 + "}",
    "number": '{"method":"health","params":{"a":' + "9" * 500_000 + "}}",
    "exponent": '{"method":"health","params":{"a":1e999999999}}',
    "keys": "{" + ",".join(f'"k{i}":1' for i in range(60_000)) + "}",
    "same key": "{" + ",".join('"k":1' for _ in range(100_000)) + "}",
    "escapes": '{"method":"health","params":{"a":"' + "\\u0000" * 100_000 + '"}}',
    "surrogate": '{"method":"health","params":{"runId":"\\ud800"}}',
    "nul": '{"method":"getRun","params":{"runId":"\\u0000"}}',
}


@pytest.mark.parametrize("name", BOMBS)
def test_json_that_is_made_to_hurt_does_not(house: House, name: str) -> None:
    text = BOMBS[name]
    for path in ("/rpc", "/v1/rpc/listRuns", "/v1/electric/write", "/v1/api/runs"):
        answer = house.http.post(path, content=text)
        assert answer.status_code < 500, (path, answer.text[:300])
    with house.socket() as socket:
        socket.raw.send(text)
        assert socket.answer("invalid").code == "INVALID_INPUT"
        socket.raw.send('{"type":"req","id":"x",' + text[1:] if text.startswith("{") else text)
        assert socket.answer("x", "invalid")
        assert socket.answer(socket.send("health")).status == 200


def test_a_message_beyond_the_limit_closes_its_socket_only(house: House) -> None:
    with house.socket() as big, house.socket() as small:
        big.raw.send('{"type":"req","id":"1","method":"health","params":"' + "x" * 1_100_000 + '"}')
        assert big.until_closed() == 1009
        assert small.call("health").status == 200


def test_sockets_that_never_connect_are_bounded_and_hung_up_on(tmp_path_factory: pytest.TempPathFactory) -> None:
    limits: dict[str, Any] = {"max_pre_auth_connections": 3, "max_connections": 2, "auth_deadline_ms": 300}
    with House(tmp_path_factory.mktemp("limits"), **limits) as house:
        silent = [Socket(house.url) for _ in range(3)]
        with pytest.raises(InvalidStatus) as refused:
            Socket(house.url)
        assert refused.value.response.status_code == 503
        assert [socket.until_closed() for socket in silent] == [1006] * 3
        with house.socket(), house.socket() as second:
            with pytest.raises(InvalidStatus):
                Socket(house.url)
            assert second.call("health").status == 200


def test_who_sends_too_much_is_slowed_and_then_hung_up_on(tmp_path_factory: pytest.TempPathFactory) -> None:
    with House(tmp_path_factory.mktemp("rate"), max_frames_per_second=20) as house, house.socket() as socket:
        sent = [socket.send("health") for _ in range(180)]  # more than a slow machine lets in meanwhile
        codes = [socket.answer(request_id).code for request_id in sent]
        assert set(codes) == {None, "RateLimited"}
        assert house.call("health").status == 200


# ── at random ──────────────────────────────────────────────────────────────────────────────────────────────────────

texts = st.one_of(
    st.sampled_from(["", "a", "ship", "one", "ping", "*", "run:read", "gateway:one", "{done}", "{asking}", "{cron}"]),
    st.text(max_size=10),
)
numbers = st.one_of(st.integers(), st.sampled_from([0, -1, 2**31, 2**53, 2**63, 2**64, 10**30]), st.floats())
leaves = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.one_of(leaves, leaves, st.lists(leaves, max_size=3), st.dictionaries(texts, leaves, max_size=3))
FIELDS = sorted({name for method in METHODS.values() for name in method.params["properties"]} | {"filter"})


@st.composite
def params_of(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """Parameters with the right names and any values, and some others."""
    method = next(m for m in METHODS.values() if name in m.names)
    known = list(method.params["properties"])
    chosen = draw(st.lists(st.sampled_from(known or FIELDS), max_size=4, unique=True))
    found = {key: draw(values) for key in {*chosen, *method.params.get("required", ())}}
    if draw(st.integers(0, 3)) == 0:
        found[draw(st.sampled_from(FIELDS))] = draw(values)
    return found


requests = st.sampled_from(sorted(SCOPES_BY_NAME)).flatmap(lambda name: st.tuples(st.just(name), params_of(name)))
routes = st.tuples(st.sampled_from(ROWS), st.dictionaries(st.sampled_from(FIELDS), leaves, max_size=5), values)
# The settings of a run on CI: the same requests every time.
random_requests = settings(
    max_examples=EXAMPLES // 3,
    derandomize="CI" in os.environ,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def filled(value: Any, world: World) -> Any:
    """Text that names what is there, where chance has put its placeholder."""
    if isinstance(value, str):
        named = {"{done}": world.done, "{asking}": world.asking, "{cron}": world.cron}
        return named.get(value, value)
    if isinstance(value, dict):
        fields = cast("dict[object, object]", value)
        return {str(key): filled(item, world) for key, item in fields.items()}
    return [filled(item, world) for item in cast("list[object]", value)] if isinstance(value, list) else value


def survived(name: str, answer: httpx2.Response) -> None:
    if answer.status_code >= 500:
        error: object = answer.json()["error"]
        code = cast("dict[str, object]", error)["code"] if isinstance(error, dict) else error
        assert is_typed(name, str(code)), (name, answer.text[:500])


def is_typed(name: str, code: str) -> bool:
    """Whether the contract has this as a 5xx: what is not built, or a difference of files of which nothing was stored."""
    return (code == "NotAvailable" and name in LATER_NAMES) or (code == "VcsError" and name in DIFF_NAMES)


DIFF_NAMES = {name for key in ("getNodeDiff", "getRunDiff") for name in METHODS[key].names}
LATER_NAMES = {name for key in LATER for name in METHODS[key].names}


@random_requests
@given(request=requests)
def test_any_call_over_http_is_answered_and_never_by_a_5xx(world: World, request: tuple[str, dict[str, Any]]) -> None:
    name, params = request
    answer = world.house.http.post(
        f"/v1/rpc/{name}", content=json.dumps({"method": name, "params": filled(params, world)})
    )
    check_headers(answer)
    hold_frame(answer.json(), "responseOk" if answer.json()["ok"] else "responseError")
    survived(name, answer)


@random_requests
@given(request=requests)
def test_any_call_over_a_socket_is_answered_and_leaves_it_open(
    world: World, request: tuple[str, dict[str, Any]]
) -> None:
    name, params = request
    answer = world.house.call(name, transport="socket", text=json.dumps(filled(params, world)))
    assert answer.status < 500 or is_typed(name, str(answer.code)), (name, params, answer.frame)


@random_requests
@given(route=routes)
def test_any_rest_request_is_answered_and_never_by_a_5xx(
    world: World, route: tuple[dict[str, Any], dict[str, Any], Any]
) -> None:
    row, given_params, body = route
    path = row["path"]
    for part in ("runId", "nodeId", "approvalId", "scoreId", "path", "cronId"):
        text = str(filled(given_params.get(part, "{done}"), world)).encode("utf-8", "replace")
        path = path.replace(f"{{{part}}}", "".join(f"%{byte:02x}" for byte in text) or "x")
    query = {k: str(filled(v, world)).encode("utf-8", "replace").decode() for k, v in given_params.items()}
    answer = world.house.http.request(row["method"], path, params=query, content=json.dumps(filled(body, world)))
    check_headers(answer)
    survived(row.get("rpc", "retryTask" if "candidates" in path else ""), answer)


def test_after_all_this_it_lives(world: World) -> None:
    assert world.house.ok("getRun", runId=world.done)["status"] == "finished"
    assert threading.active_count() < 100
    assert world.house.status(world.asking) in ("waiting-approval", "finished", "failed", "cancelled")
