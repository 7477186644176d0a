"""Registry: every RPC method, declared once: name, scope, parameters, payload, errors, older names.

What calls methods (HTTP, WebSocket, REST), the OpenAPI document, the clients and the tests read these declarations.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, TypeVar, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from smithers.errors import SmithersError
from smithers.gateway.problems import RpcError
from smithers.gateway.rpc.call import RpcCall

COMMON_ERRORS: Final = ("UNAUTHORIZED", "FORBIDDEN", "INVALID_INPUT", "SERVER_ERROR")
_REFUSALS: Final = ("INVALID_REQUEST", "InvalidRequest")
"""What a method says of wrong parameters, if it declares that; else it says the common `INVALID_INPUT`."""


class Params(BaseModel):
    """Parameters of a method, camelCase on the wire. Keys that are not declared are ignored, wrong types are not.

    A model lists in `field_codes` the fields whose problems have a code of their own.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=False, extra="ignore", strict=True, allow_inf_nan=False
    )

    field_codes: ClassVar[Mapping[str, str]] = {}


class ClosedParams(Params):
    """Parameters of a method that refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid")


class NoParams(Params):
    """A method without parameters."""


Codes = Mapping[type[SmithersError], str]
"""The wire's spelling of errors."""
P = TypeVar("P", bound=Params)
Handler = Callable[[RpcCall, P], Awaitable[object]]
AnyHandler = Callable[[RpcCall, Params], Awaitable[object]]


class Encoded(str):
    """A payload that is JSON text already."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Method:
    """A method's declaration.

    Attributes:
        codes: the wire's spelling of errors, where this method's differ from the usual.
        errors: the codes that it answers with beside the common ones.
        touches: the collections that a call of it may have changed.
        aliases: older names, each with its scope.
    """

    name: str
    scope: str
    params: type[Params]
    handle: AnyHandler
    summary: str
    codes: Codes = field(default_factory=dict[type[SmithersError], str])
    errors: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    is_socket_only: bool = False
    is_published: bool = True

    @property
    def payload(self) -> object:
        """The type of what it answers, as its handler is annotated."""
        return get_type_hints(self.handle).get("return", object)


class Area:
    """The methods of one area; a module has one, `Methods` joins them."""

    def __init__(self) -> None:
        self.methods: list[Method] = []

    def method(
        self,
        name: str,
        *,
        scope: str,
        params: type[P],
        codes: Codes | None = None,
        errors: Iterable[str] = (),
        touches: Iterable[str] = (),
        aliases: Iterable[str] | Mapping[str, str] = (),
        is_socket_only: bool = False,
        is_published: bool = True,
    ) -> Callable[[Handler[P]], Handler[P]]:
        """Declare a method; its docstring's first line is its summary in the documents."""
        olds: dict[str, str] = dict.fromkeys(aliases, scope)
        if isinstance(aliases, Mapping):
            olds |= cast("Mapping[str, str]", aliases)

        def declare(handle: Handler[P]) -> Handler[P]:
            self.methods.append(
                Method(
                    name,
                    scope,
                    params,
                    cast("AnyHandler", handle),
                    (handle.__doc__ or name).strip().partition("\n")[0],
                    dict(codes or {}),
                    tuple(errors),
                    tuple(touches),
                    olds,
                    is_socket_only,
                    is_published,
                )
            )
            return handle

        return declare


class Methods:
    """All methods by name, older names included."""

    def __init__(self, areas: Iterable[Area]) -> None:
        self.declared: list[Method] = [method for area in areas for method in area.methods]
        self._by_name: dict[str, tuple[Method, str]] = {}
        for method in self.declared:
            for name, scope in {method.name: method.scope, **method.aliases}.items():
                if name in self._by_name:
                    raise ValueError(f"two methods are called {name!r}")
                self._by_name[name] = (method, scope)

    def find(self, name: str) -> tuple[Method, str] | None:
        """A method and the scope that calling it by this name needs."""
        return self._by_name.get(name)


def validated(method: Method, params: object) -> Params:
    """Parameters as the method's model. Raises `RpcError` that names the field."""
    try:
        return method.params.model_validate({} if params is None else params)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = [str(part) for part in first["loc"]]
        usual = next((code for code in _REFUSALS if code in method.errors), "INVALID_INPUT")
        code = method.params.field_codes.get(path[0] if path else "", usual)
        where = ".".join(path) or "params"
        raise RpcError(code, f"{where}: {first['msg']}", field=where) from error
