"""The clients' methods are those that the gateway declares, with their parameters."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args, get_origin, get_type_hints

import pytest

from smithers.client.methods import Methods as AsyncMethods
from smithers.client.sync_methods import SyncMethods
from smithers.gateway.rpc.areas import AREAS
from smithers.gateway.rpc.registry import Method, Methods, Params

ROOT = Path(__file__).parents[3]
BY_HAND = {"health", "streamRunEvents", "unsubscribe", "streamDevTools"}
NESTED = ("options", "filter")
METHODS = [m for m in Methods(AREAS).declared if m.is_published and m.name not in BY_HAND]


def python_name(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name)


def declared(params: type[Params]) -> set[str]:
    """Names of the parameters on the wire, those of `options` and `filter` among them."""
    found: set[str] = set()
    for name, field in params.model_fields.items():
        wire = field.alias or name
        models = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
        group = next((m for m in models if issubclass(m, Params)), None)
        found |= declared(group) if wire in NESTED and group is not None else {wire}
    return found


def flat(sent: Mapping[str, object]) -> set[str]:
    """Names of the parameters that were sent."""
    found: set[str] = set()
    for key, value in sent.items():
        inner = cast("dict[str, object]", value) if key in NESTED and isinstance(value, dict) else {}
        found |= flat(inner) or {key}
    return found


def sample(hint: object) -> object:
    """A value of a client's parameter."""
    for member in get_args(hint) if get_origin(hint) is not None and type(None) in get_args(hint) else [hint]:
        if member is not type(None):
            hint = member
            break
    if str(get_origin(hint)) == "typing.Literal":
        return get_args(hint)[0]
    if get_origin(hint) is not None and "Sequence" in str(get_origin(hint)):
        return []
    if get_origin(hint) is not None and "Mapping" in str(get_origin(hint)):
        return {}
    return {str: "x", int: 1, float: 1.0, bool: True}.get(hint, "x")  # type: ignore[call-overload]


class Recorder(SyncMethods):
    def __init__(self) -> None:
        self.called: tuple[str, Mapping[str, object]] = ("", {})

    def call(self, method: str, params: Mapping[str, object] | None = None) -> object:
        self.called = (method, params or {})
        raise LookupError


def test_the_made_modules_are_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, "docs/make_client.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert (made.returncode, made.stderr) == (0, "")


def test_both_clients_have_a_method_for_each_published_one_and_no_others() -> None:
    wanted = {python_name(m.name) for m in METHODS} | {"call"}

    for client in (AsyncMethods, SyncMethods):
        assert {name for name in vars(client) if not name.startswith("_")} == wanted


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_method_sends_exactly_the_declared_parameters(method: Method) -> None:
    client = Recorder()
    ask = getattr(client, python_name(method.name))
    hints = get_type_hints(ask)
    names = list(inspect.signature(ask).parameters)
    with pytest.raises(LookupError):
        ask(**{name: sample(hints[name]) for name in names})

    name, sent = client.called

    assert name == method.name
    assert flat(sent) == declared(method.params)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_the_async_and_the_sync_method_take_the_same(method: Method) -> None:
    one, other = (getattr(client, python_name(method.name)) for client in (AsyncMethods, SyncMethods))

    assert inspect.signature(one) == inspect.signature(other)
    assert inspect.iscoroutinefunction(one)
    assert not inspect.iscoroutinefunction(other)
