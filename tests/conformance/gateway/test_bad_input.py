"""Everything that the schemas forbid is refused with a code that the method may answer with, and changes nothing.

The contract's two halves do not agree on two things, and the tests follow rpc.md: unknown keys are ignored unless the
parameters are closed, and what a schema calls required is not always enforced (`contract.UNCHECKED`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from tests.conformance.gateway.contract import BUILT, COMMON, LIMITS, Bad, Method, bad_params, status_of
from tests.conformance.gateway.support import TRANSPORTS, House, Json
from tests.conformance.gateway.world import World


def _placeholder(method: Method) -> Json:
    return {name: {} for name in method.params.get("properties", {})}


CASES = [
    pytest.param(method, bad.label, id=f"{method.name}-{bad.label}")
    for method in BUILT.values()
    for bad in bad_params(method, _placeholder(method))
]


@pytest.fixture(scope="module")
def bads(world: World) -> Mapping[str, Mapping[str, Bad]]:
    """What is wrong, by method and label. Nothing of it may change anything, so one good request serves a whole method."""
    return {m.name: {bad.label: bad for bad in bad_params(m, world.good(m.name))} for m in BUILT.values()}


@pytest.mark.parametrize(("method", "label"), CASES)
def test_what_the_schema_forbids_is_refused(
    world: World, bads: Mapping[str, Mapping[str, Bad]], method: Method, label: str
) -> None:
    bad = bads[method.name][label]
    before = world.stored()

    for transport in ("socket",) if method.is_socket_only else ("bare", "socket"):
        answer = world.house.call(method.name, transport=transport, text=bad.text)
        if bad.may_pass and answer.status == 200:
            return
        refusals = {*method.emits, *COMMON, *(("INVALID_REQUEST",) if label == "params-no-object" else ())}
        assert answer.code in refusals, answer.frame
        assert answer.status == status_of(str(answer.code)), answer.frame
        assert 400 <= answer.status < 500

    assert world.changes_since(before) == {}


def test_a_string_may_be_as_long_as_the_bound_and_a_tree_as_deep(house: House) -> None:
    longest = "x" * LIMITS["frameStringLength"]
    widest = [0] * LIMITS["frameArrayLength"]
    deepest: object = 1
    for _ in range(LIMITS["frameDepth"] - 3):  # the frame, its params and the value stand above and below
        deepest = [deepest]
    for transport in TRANSPORTS:
        for junk in (longest, widest, deepest):
            assert house.call("health", {"junk": junk}, transport).status == 200
        assert house.call("health", {"junk": [[deepest]]}, transport).code == "INVALID_INPUT"


def test_a_prompt_is_clipped_and_a_ticket_may_be_long(house: House) -> None:
    long = "é" * 100_000
    run_id = house.ok("launchRun", workflow="one", options={"startedBy": {"prompt": long}})["runId"]
    assert house.ok("getRun", runId=run_id)["startedBy"]["prompt"] == "é" * 8191 + "…"
    assert house.ok("createTicket", path="long.md", content=long)["content"] == long


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "INVALID_INPUT"),
        ("\ufeff{}", "INVALID_INPUT"),
        ("[]", "INVALID_REQUEST"),
        ("null", "INVALID_REQUEST"),
        ('"text"', "INVALID_REQUEST"),
        ("7", "INVALID_REQUEST"),
        ('{"id":7,"method":"health"}', "INVALID_INPUT"),
        ('{"id":"","method":"health"}', "INVALID_INPUT"),
        (json.dumps({"id": "x" * 129, "method": "health"}), "INVALID_INPUT"),
    ],
)
def test_a_body_that_is_no_frame_is_refused(house: House, text: str, code: str) -> None:
    for path in ("/rpc", "/v1/rpc/health"):
        answer = house.post(path, text)
        assert (answer.status, answer.code) == (400, code)


@pytest.mark.parametrize(
    "method", ["", "Health", "health!", "a..b", ".a", "a.", "a b", "x" * 65, "ext.", "__class__", "é", 7, None, [], {}]
)
def test_a_name_that_is_no_method_name_is_refused(house: House, method: object) -> None:
    answer = house.post("/rpc", json.dumps({"id": "1", "method": method}))
    assert (answer.status, answer.code) == (400, "INVALID_INPUT")
    assert answer.frame["id"] == "1"  # the body's id, because it could be read


def test_the_answer_has_the_bodys_id_whatever_goes_wrong(house: House) -> None:
    for body in (
        {"id": "mine", "method": "getRun", "params": {"runId": "none"}},
        {"id": "mine", "method": "getRun", "params": {"runId": 7}},
        {"id": "mine", "method": "getRun", "params": {"runId": "x" * 20_000}},
        {"id": "mine", "method": "no.such"},
    ):
        assert house.post("/rpc", json.dumps(body), {"x-request-id": "other"}).frame["id"] == "mine"
    assert house.post("/v1/rpc/health", "{}", {"x-request-id": "other"}).frame["id"] == "other"


def test_a_body_without_a_method_is_refused(house: House) -> None:
    assert house.post("/rpc", "{}").code == "INVALID_REQUEST"
    assert house.post("/rpc", "").code == "INVALID_REQUEST"
    assert house.post("/v1/rpc/health", "").status == 200


def test_frames_that_are_none_leave_the_socket_open(house: House) -> None:
    with house.socket() as socket:
        for text, frame_id in (
            ("{", "invalid"),
            ("[]", "invalid"),
            ('{"type":"req"}', "invalid"),
            ('{"type":"res","id":"a","method":"health"}', "a"),
            ('{"type":"req","id":"b"}', "b"),
            ('{"type":"req","id":"c","method":"Bad Name"}', "c"),
            ('{"type":"req","id":"d","method":"health","params":NaN}', "invalid"),
            (json.dumps({"type": "req", "id": "x" * 129, "method": "health"}), "invalid"),
        ):
            socket.raw.send(text)
            answer = socket.answer(frame_id)
            assert answer.code == "INVALID_INPUT", text
        socket.raw.send(b"\x00\x01")
        assert socket.answer("invalid").code == "INVALID_INPUT"
        assert socket.call("health").status == 200
