"""Webhooks over a socket: what is signed is done once, and nothing else is done at all."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tests.conformance.gateway.contract import hold_frame
from tests.conformance.gateway.flows import workflows
from tests.conformance.gateway.support import House, check_headers, tokens

SECRET = "s3cret"  # of a test
SIGNAL = {"name": "ping", "correlationIdPath": "data.key", "payloadPath": "data"}


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("hooks")
    flows = workflows(folder / "gateway.db")
    hooks: dict[str, dict[str, Any]] = {
        "waiting": {"signal": SIGNAL, "run": {"enabled": False}, "deliveryHeader": "x-delivery"},
        "named": {"signal": {**SIGNAL, "runIdPath": "run"}, "run": {"enabled": True, "inputPath": "data"}},
        "fresh": {"run": {"enabled": True}, "deliveryHeader": "x-delivery"},
        "stamped": {"timestampHeader": "x-stamp", "toleranceS": 60, "signaturePrefix": "", "signatureHeader": "X-Sig"},
        "useless": {"run": {"enabled": False}},
        "blank": {"secret": "  "},
    }
    register: dict[str, dict[str, Any]] = {
        key: {
            "workflow": flows["one" if key in ("fresh", "stamped") else "waiting"],
            "webhook": {"secret": SECRET, **hook},
        }
        for key, hook in hooks.items()
    }
    register["bystander"] = {"workflow": flows["waiting"]}
    with House(folder, register=register, auth=tokens({})) as found:
        yield found


def signature(body: bytes, prefix: str = "sha256=") -> str:
    return prefix + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


def deliver(house: House, key: str, body: object, *, sign: bool = True, **headers: Any) -> httpx2.Response:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    signed = {"x-hub-signature-256": signature(text)} if sign else {}
    answer = house.http.post(f"/webhooks/{key}", content=text, headers={"authorization": "", **signed, **headers})
    check_headers(answer)
    if answer.status_code == 200:
        hold_frame(answer.json(), "webhookOk")
    return answer


def delivery(name: str) -> dict[str, Any]:
    """The header that names a delivery."""
    return {"x-delivery": name}


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    found = answer.json()
    assert found["ok"] is False
    assert set(found["error"]) == {"code", "message"}
    assert SECRET not in answer.text
    return answer.status_code, found["error"]["code"]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "sha256=",
        "sha256=" + "0" * 64,
        signature(b"{}", ""),
        signature(b"{}").upper(),
        signature(b"{}") + "x",
        signature(b"{} "),
        "sha1=" + hmac.new(SECRET.encode(), b"{}", hashlib.sha1).hexdigest(),
        "sha256=" + hmac.new(b"", b"{}", hashlib.sha256).hexdigest(),
        "é" * 71,
    ],
)
def test_a_forged_delivery_does_nothing(hooked: House, header: str | None) -> None:
    before = hooked.stored()
    signed: dict[str, Any] = {} if header is None else {"x-hub-signature-256": header.encode("latin-1")}
    assert refusal(deliver(hooked, "fresh", b"{}", sign=False, **signed)) == (401, "UNAUTHORIZED")
    assert hooked.changes_since(before) == {}


def test_a_body_that_was_changed_is_refused(hooked: House) -> None:
    good = json.dumps({"data": {"key": "k"}}).encode()
    for changed in (good + b" ", good.replace(b'"k"', b'"l"'), good[:-1], b""):
        answer = deliver(hooked, "fresh", changed, sign=False, **{"x-hub-signature-256": signature(good)})
        assert refusal(answer) == (401, "UNAUTHORIZED")


def test_a_delivery_reaches_those_that_wait_for_it_and_no_others(hooked: House) -> None:
    mine = [hooked.start("waiting", {"key": "k1"}, until="waiting-event") for _ in range(2)]
    other_key = hooked.start("waiting", {"key": "k2"}, until="waiting-event")
    other_workflow = hooked.start("bystander", {"key": "k1"}, until="waiting-event")

    answer = deliver(hooked, "waiting", {"data": {"key": "k1", "n": 7}}).json()

    assert sorted(answer["matchedRunIds"]) == sorted(d["runId"] for d in answer["delivered"]) == sorted(mine)
    for run_id in mine:
        hooked.until(run_id, "finished")
        assert hooked.ok("getNodeOutput", runId=run_id, nodeId="ping")["row"]["n"] == 7
    assert hooked.status(other_key) == hooked.status(other_workflow) == "waiting-event"


def test_a_delivery_that_names_a_run_reaches_that_run_only(hooked: House) -> None:
    wanted, other = (hooked.start("named", {"key": "k3"}, until="waiting-event") for _ in range(2))
    answer = deliver(hooked, "named", {"run": wanted, "data": {"key": "k3"}}).json()
    assert (answer["matchedRunIds"], answer["started"]) == ([wanted], None)
    hooked.until(wanted, "finished")
    assert hooked.status(other) == "waiting-event"
    nobody = deliver(hooked, "named", {"run": hooked.start("bystander", {"key": "k3"}), "data": {"key": "k3"}}).json()
    assert nobody["matchedRunIds"] == nobody["delivered"] == []
    assert nobody["started"]["workflow"] == "named"


def test_a_delivery_that_comes_again_does_nothing_new(hooked: House) -> None:
    first = deliver(hooked, "fresh", {"a": 1}, **delivery("d1"))
    hooked.until(first.json()["started"]["runId"], "finished")
    before = hooked.stored()
    again = deliver(hooked, "fresh", {"a": 1}, **delivery("d1"))
    assert again.json() == first.json()
    assert hooked.changes_since(before) == {}
    other = deliver(hooked, "fresh", {"a": 1}, **delivery("d2"))
    assert other.json()["started"]["runId"] != first.json()["started"]["runId"]


def test_a_signal_that_comes_again_is_not_given_to_another_run(hooked: House) -> None:
    run_id = hooked.start("waiting", {"key": "k4"}, until="waiting-event")
    first = deliver(hooked, "waiting", {"data": {"key": "k4"}}, **delivery("d3")).json()
    assert first["matchedRunIds"] == [run_id]
    later = hooked.start("waiting", {"key": "k4"}, until="waiting-event")
    assert deliver(hooked, "waiting", {"data": {"key": "k4"}}, **delivery("d3")).json() == first
    assert hooked.status(later) == "waiting-event"


def test_a_delivery_that_is_too_old_or_not_signed_with_its_time_is_refused(hooked: House) -> None:
    def send(stamp: str, signed_stamp: str | None = None) -> httpx2.Response:
        body = f"{stamp if signed_stamp is None else signed_stamp}.".encode() + b"{}"
        return deliver(hooked, "stamped", b"{}", sign=False, **{"x-sig": signature(body, ""), "x-stamp": stamp})

    now = int(time.time())
    before = hooked.stored()
    for stamp in (now - 120, now + 120, 0):
        assert refusal(send(str(stamp))) == (401, "UNAUTHORIZED")
    for text in ("", "soon", "-1", "1e9", "0x10", "9" * 40):
        assert refusal(send(text)) == (401, "UNAUTHORIZED")
    assert refusal(send(str(now), str(now - 1))) == (401, "UNAUTHORIZED")
    assert refusal(deliver(hooked, "stamped", b"{}", sign=False, **{"x-sig": signature(b"{}", "")})) == (
        401,
        "UNAUTHORIZED",
    )
    assert hooked.changes_since(before) == {}
    for stamp in (now, now * 1000):
        hooked.until(send(str(stamp)).json()["started"]["runId"], "finished")


def test_what_is_signed_but_makes_no_sense_is_refused(hooked: House) -> None:
    before = hooked.stored()
    bomb = b"[" * 100_000 + b"]" * 100_000
    for body in (b"{", b"\xff", b"NaN", b'{"a":1e999}', bomb, json.dumps({"a": ["x"] * 300}).encode()):
        assert refusal(deliver(hooked, "fresh", body)) == (400, "INVALID_INPUT"), body[:20]
    assert refusal(deliver(hooked, "fresh", {}, **delivery("x" * 257))) == (400, "INVALID_INPUT")
    assert refusal(deliver(hooked, "fresh", b"x" * 1_048_577)) == (413, "PayloadTooLarge")
    assert hooked.changes_since(before) == {}
    assert deliver(hooked, "fresh", b"").status_code == 200
    assert deliver(hooked, "fresh", b"[1]").status_code == 200


@pytest.mark.parametrize(
    ("key", "refused"),
    [
        ("nothing", (404, "NOT_FOUND")),
        ("bystander", (404, "NOT_FOUND")),
        ("..", (404, "NOT_FOUND")),
        ("useless", (400, "INVALID_REQUEST")),
        ("blank", (500, "SERVER_ERROR")),
    ],
)
def test_a_hook_that_is_not_there_or_cannot_work_says_so(hooked: House, key: str, refused: tuple[int, str]) -> None:
    assert refusal(deliver(hooked, key.replace(".", "%2e"), {})) == refused


def test_neither_tokens_nor_origins_count_for_webhooks(hooked: House) -> None:
    headers: dict[str, Any] = {
        "origin": "https://evil.example",
        "host": "evil.example",
        "authorization": "Bearer wrong",
    }
    assert deliver(hooked, "fresh", {}, **headers).status_code == 200
