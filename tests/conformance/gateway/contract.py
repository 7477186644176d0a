"""The gateway's wire contract as data, and what follows from it: schemas to hold answers to, and every way to be wrong.

`contract.json` is the machine-readable half of the contract. Nothing here knows the gateway's own declarations: a method
that both forget is still missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from jsonschema import Draft202012Validator

Schema = Mapping[str, Any]
CONTRACT: dict[str, Any] = json.loads(Path(__file__).with_name("contract.json").read_text())
LIMITS: dict[str, Any] = CONTRACT["limits"]

COMMON = ("UNAUTHORIZED", "FORBIDDEN", "INVALID_INPUT", "PayloadTooLarge", "METHOD_NOT_FOUND")
"""Codes that any method may answer with."""


@dataclass(frozen=True)
class Method:
    """A method as the contract has it."""

    name: str
    scope: str
    params: Schema
    payload: Schema
    emits: Mapping[str, int]
    names: tuple[str, ...]
    is_closed: bool
    is_socket_only: bool


def _methods() -> dict[str, Method]:
    found: dict[str, Method] = {}
    for part in ("methods", "undeclaredMethods"):
        for name, spec in CONTRACT[part].items():
            olds = {old for old, new in CONTRACT["legacyMethods"].items() if new == name}
            found[name] = Method(
                name,
                spec["scope"],
                spec["params"],
                spec["payload"],
                spec["emits"],
                (name, *sorted(olds | set(spec.get("aliases", ())))),
                bool(spec.get("closedParams")),
                spec["transport"] == "websocket",
            )
    return found


METHODS = _methods()
SCOPES_BY_NAME = {name: method.scope for method in METHODS.values() for name in method.names}
"""The scope of every name that a method may be called by."""

LATER = frozenset(
    {
        "createBrowserSession",
        "browserAct",
        "browserContext",
        "browserPick",
        "closeBrowserSession",
        "listBrowserSessions",
    }
)
"""The one exception to the contract: methods that have their place and answer `NotAvailable`, 501. `test_later.py` holds
them to that; every other suite leaves them out. A method that is built leaves this set, and nothing else is to be done."""

BUILT = {name: method for name, method in METHODS.items() if name not in LATER}


def status_of(code: str) -> int:
    """The HTTP status of a code."""
    fixes, usual = CONTRACT["httpStatusFixes"], CONTRACT["httpStatusByCode"]
    return cast("int", fixes.get(code, usual.get(code, usual["*"])))


# ── schemas ────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _validator(text: str) -> Any:
    return Draft202012Validator({**json.loads(text), "$defs": CONTRACT["$defs"]})


def hold(value: object, schema: Schema, what: str) -> None:
    """Hold a value to a schema of the contract; says where it does not fit."""
    problems = sorted(_validator(json.dumps(schema)).iter_errors(value), key=lambda e: list(map(str, e.path)))
    told = [f"{'.'.join(map(str, e.absolute_path)) or '(all)'}: {e.message[:300]}" for e in problems[:5]]
    assert not told, f"{what}: {'; '.join(told)}"


def hold_frame(value: object, name: str) -> None:
    """Hold a value to one of the contract's frames: `responseOk`, `restError`, `hello`, …"""
    hold(value, CONTRACT["frames"][name], name)


# ── every way to be wrong ──────────────────────────────────────────────────────────────────────────────────────────


class Bad(NamedTuple):
    """Parameters that must be refused, or at least survived. `text` is their JSON, because some of it is none."""

    label: str
    text: str
    may_pass: bool = False


_WRONG: dict[str, tuple[object, ...]] = {
    "string": (7, True, [], {}),
    "integer": ("seven", 1.5, [], {}),
    "number": ("seven", [], {}),
    "boolean": ("yes", 1, [], {}),
    "object": ("text", 7, []),
    "array": ("text", 7, {}),
}
FREE_TEXT = frozenset(
    {("createTicket", "content"), ("updateTicket", "content"), ("launchRun", "options.startedBy.prompt")}
)
"""Strings without the usual bound: a ticket's text may be as long as a body, a prompt is clipped."""
UNCHECKED = frozenset({("submitApproval", "decision"), ("submitSignal", "correlationKey")})
"""Declared as required and not enforced (rpc.md section 10)."""

LENIENT = frozenset({("frames.list", "afterFrameNo-below"), ("frames.get", "frameNo-below")})
"""Frame 0 may be asked for (rpc.md section 5), which the schemas do not know."""


def bad_params(method: Method, good: Mapping[str, object]) -> Iterator[Bad]:
    """Everything that the method's schema forbids, one mistake at a time, in parameters that are good otherwise."""
    for label, value in _mistakes(method, method.params, good, ""):
        may_pass = label.endswith("-huge") or (method.name, label) in LENIENT
        yield Bad(label, json.dumps(value), may_pass=may_pass)
    yield Bad("params-no-object", json.dumps([1]))
    yield Bad("params-too-deep", json.dumps({**good, "junk": _nested(LIMITS["frameDepth"])}))
    yield Bad("params-long-string", json.dumps({**good, "junk": "x" * (LIMITS["frameStringLength"] + 1)}))
    yield Bad("params-long-array", json.dumps({**good, "junk": [0] * (LIMITS["frameArrayLength"] + 1)}))
    for name in ("NaN", "Infinity", "-Infinity", "1e999"):
        yield Bad(f"params-{name}", json.dumps({**good, "junk": "@"}).replace('"@"', name))
    if method.is_closed:
        yield Bad("params-unknown-key", json.dumps({**good, "junk": 1}))


def _mistakes(
    method: Method, schema: Schema, good: Mapping[str, object], path: str
) -> Iterator[tuple[str, dict[str, object]]]:
    for name in schema.get("required", ()):
        if (method.name, path + name) not in UNCHECKED:
            yield f"{path}{name}-missing", {key: value for key, value in good.items() if key != name}
    for name, field in schema.get("properties", {}).items():
        for label, value in _wrong_values(method, field, path + name):
            yield f"{path}{name}-{label}", {**good, name: value}
        if field.get("properties"):
            below = cast("Mapping[str, object]", good.get(name, {}))
            for label, value in _mistakes(method, field, below, f"{path}{name}."):
                yield label, {**good, name: value}
        if path + name == "options.startedBy":
            yield f"{path}{name}-unknown-key", {**good, name: {"harness": "x", "junk": 1}}


def _wrong_values(method: Method, field: Schema, path: str) -> Iterator[tuple[str, object]]:
    kind = field.get("type")
    for index, value in enumerate(_WRONG.get(str(kind), ())):
        yield f"type{index}", value
    if "minimum" in field:
        yield "below", field["minimum"] - 1
    if "maximum" in field:
        yield "above", field["maximum"] + 1
    if kind == "integer" and "maximum" not in field:
        yield "huge", 10**400
    if "enum" in field or "const" in field:
        yield "choice", "no-such-choice" if kind in ("string", None) else not field["const"]
    if kind == "string" and (method.name, path) not in FREE_TEXT:
        yield "long", "x" * (LIMITS["frameStringLength"] + 1)
    if "maxLength" in field:
        yield "maxLength", "x" * (field["maxLength"] + 1)
    if field.get("minLength"):
        yield "minLength", ""
    if kind == "array":
        yield "long", ["x"] * (LIMITS["frameArrayLength"] + 1)
        if "maxItems" in field:
            yield "maxItems", [f"r{i}" for i in range(field["maxItems"] + 1)]
        for label, value in _wrong_values(method, field.get("items", {}), path + "[]"):
            yield f"item-{label}", [value]


def _nested(levels: int) -> object:
    found: object = 1
    for _ in range(levels):
        found = [found]
    return found
