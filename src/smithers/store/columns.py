"""From a Pydantic model to the columns of its table, and from an instance to a row and back. Knows no database.

A field of a plain type has a column of that type; everything else is JSON text in a column of its own. Rows keep what
the model holds, by field names: aliases, computed fields and serializers of plain fields leave no trace in them. Making
the table is the work of the store's `tables.py`.

Two values do not fit their columns and are stored as text there: integers beyond 64 bits (as a JSON string, so that no
database takes them for a number), and the float NaN.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from enum import Enum
from typing import Annotated, Any, Literal, NewType, TypeAlias, Union, cast, get_args, get_origin

import typing_extensions
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    PlainSerializer,
    PydanticUserError,
    RootModel,
    ValidationError,
    WrapSerializer,
    WrapValidator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreConfig, PydanticSerializationError, SchemaSerializer, to_json

from smithers.errors import InvalidElement, InvalidOutput
from smithers.records import dataclass

Kind: TypeAlias = Literal["boolean", "number-int", "number-real", "text", "json"]
SqlValue: TypeAlias = int | float | str | bytes | None
"""What a row holds; the same in every database."""

KEY_COLUMNS = ("run_id", "node_id", "iteration")
EXTRA_COLUMN = "_extra"
"""Where a model with `extra="allow"` keeps what it has no field for."""

ROOT_COLUMN = "value"
MAX_IDENTIFIER_BYTES = 63
"""PostgreSQL cuts longer names off silently."""

_Encoder: TypeAlias = Callable[[object], SqlValue]
_Decoder: TypeAlias = Callable[[SqlValue], object]


@dataclass(frozen=True)
class Column:
    """One column of an output table.

    `field` is the model's field, None for the column of extras. `takes_none` says that None is a value of the field, so
    that an empty cell means None and not "written before the field existed".
    """

    name: str
    field: str | None
    kind: Kind
    takes_none: bool = True


@dataclass(frozen=True)
class TableDef:
    """The table of one registered output. Make it with `table_def`.

    Two are equal if they are the same table with the same columns, whatever model its rows are made into.
    """

    name: str
    key: str
    model: type[BaseModel] = field(compare=False)
    columns: tuple[Column, ...]
    _plain: tuple[tuple[str, _Encoder], ...] = field(init=False, repr=False, compare=False)
    _decoders: tuple[tuple[str, bool, _Decoder], ...] = field(init=False, repr=False, compare=False)
    _is_plain: bool = field(init=False, repr=False, compare=False)
    _json_fields: frozenset[str] = field(init=False, repr=False, compare=False)
    _serializer: SchemaSerializer = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        plain = [c for c in self.columns if c.field is not None and c.kind != "json"]
        annotations = {name: info.annotation for name, info in self.model.model_fields.items()}
        json_fields = frozenset(c.field for c in self.columns if c.field is not None and c.kind == "json")
        is_plain = len(plain) == len(self.columns)
        decoders = [
            (c.field, c.takes_none, _decoder(c.kind, annotations[c.field])) for c in plain if c.field is not None
        ]
        object.__setattr__(self, "_plain", tuple((c.field, _ENCODERS[c.kind]) for c in plain))
        object.__setattr__(self, "_decoders", tuple(decoders))
        object.__setattr__(self, "_is_plain", is_plain)
        object.__setattr__(self, "_json_fields", json_fields)
        object.__setattr__(self, "_serializer", _serializer(self.model))

    def encode(self, instance: BaseModel) -> tuple[SqlValue, ...]:
        """The row of an instance, in the order of `columns`.

        Raises:
            InvalidOutput: a field cannot be stored; the message names it.
        """
        if not isinstance(instance, self.model):
            raise InvalidOutput(f"{self.key} takes a {self.model.__name__}, not a {type(instance).__name__}")
        try:
            values = instance.__dict__
            if self._is_plain:
                return tuple([encode(values.get(name)) for name, encode in self._plain])
            return self._encode_mixed(instance)
        except (TypeError, ValueError, OverflowError, PydanticSerializationError, RecursionError) as exc:
            raise self._refusal(instance, exc) from exc

    def decode(self, values: Sequence[SqlValue]) -> BaseModel:
        """The validated instance of a row. Raises InvalidOutput if the row does not fit the model (any more)."""
        try:
            if self._is_plain:
                data = {
                    name: decode(value)
                    for (name, takes_none, decode), value in zip(self._decoders, values, strict=True)
                    if takes_none or value is not None
                }
                return self.model.model_validate(data, by_alias=False, by_name=True)
            return self._decode_mixed(values)
        except (ValidationError, ValueError) as exc:
            raise InvalidOutput(f"a stored row of {self.name!r} does not fit {self.model.__name__}: {exc}") from exc

    def translate(self, instance: BaseModel, other: TableDef) -> BaseModel:
        """The instance as one of another model for the same table. Raises InvalidOutput if it does not fit that."""
        stored = dict(zip((column.name for column in self.columns), self.encode(instance), strict=True))
        return other.decode([stored.get(column.name) for column in other.columns])

    def _encode_mixed(self, instance: BaseModel) -> tuple[SqlValue, ...]:
        dumped = self._dump(instance, self._json_fields)
        plain = dict(self._plain)
        row: list[SqlValue] = []
        for column in self.columns:
            if column.field is None:
                row.append(self._encode_extra(instance))
            elif column.kind != "json":
                row.append(plain[column.field](instance.__dict__.get(column.field)))
            elif (value := dumped.get(column.field)) is None and column.takes_none:
                row.append(None)
            else:
                row.append(to_json(value, inf_nan_mode="constants").decode())
        return tuple(row)

    def _dump(self, instance: BaseModel, names: frozenset[str]) -> dict[str, object]:
        """The named fields as JSON values, by field name, without what is computed."""
        if issubclass(self.model, RootModel):
            return {
                "root": self._serializer.to_python(
                    instance, mode="json", by_alias=False, round_trip=True, warnings=False
                )
            }
        if self.model.__pydantic_decorators__.model_serializers:  # its shape is the author's, not that of the fields
            return {name: instance.__dict__.get(name) for name in names}
        dumped: dict[str, object] = self._serializer.to_python(
            instance, mode="json", include=set(names), by_alias=False, round_trip=True, warnings=False
        )
        for name in names - dumped.keys():  # excluded from dumps, yet part of the value
            dumped[name] = instance.__dict__.get(name)
        return dumped

    def _encode_extra(self, instance: BaseModel) -> str | None:
        extra = instance.__pydantic_extra__
        if not extra:
            return None
        if clash := sorted(extra.keys() & self.model.model_fields.keys()):
            raise ValueError(f"extra values have names of fields: {', '.join(clash)}")
        return to_json(extra, by_alias=False, round_trip=True, inf_nan_mode="constants").decode()

    def _decode_mixed(self, values: Sequence[SqlValue]) -> BaseModel:
        # As one JSON text, so that Pydantic reads dates, sets, decimals, … in its JSON mode, in strict models too.
        decoders = iter(self._decoders)
        parts: list[str] = []
        for column, value in zip(self.columns, values, strict=True):
            if column.kind != "json":
                name, takes_none, decode = next(decoders)
                if takes_none or value is not None:
                    plain = decode(value)
                    parts.append(to_json({name: plain}, inf_nan_mode="constants").decode()[1:-1])
            elif column.field is None:
                if value is not None:
                    parts.append(str(value)[1:-1])
            elif value is not None or column.takes_none:
                text = "null" if value is None else str(value)
                parts.append(text if self._is_root else f'"{column.field}":{text}')
        text = parts[0] if self._is_root and parts else "{" + ",".join(parts) + "}"
        return self.model.model_validate_json(text, by_alias=False, by_name=True)

    @property
    def _is_root(self) -> bool:
        return issubclass(self.model, RootModel)

    def _refusal(self, instance: BaseModel, cause: BaseException) -> InvalidOutput:
        """Finds the field at fault by encoding one at a time; only reached once encoding has failed."""
        plain = dict(self._plain)
        at_fault: list[str] = []
        for column in self.columns:
            try:
                if column.field is None:
                    self._encode_extra(instance)
                elif column.kind != "json":
                    plain[column.field](instance.__dict__.get(column.field))
                else:
                    to_json(self._dump(instance, frozenset({column.field})), inf_nan_mode="constants")
            except (TypeError, ValueError, OverflowError, PydanticSerializationError, RecursionError) as exc:
                at_fault.append(column.field or EXTRA_COLUMN)
                cause = exc
        names = ", ".join(repr(name) for name in at_fault) or "the value"
        return InvalidOutput(
            f"{self.model.__name__}: {names} cannot be stored: {_printable(cause)}", {"fields": at_fault}
        )


def table_def(key: str, model: type[BaseModel]) -> TableDef:
    """The table for the outputs of `model` registered under `key`; the same object each time.

    Raises:
        InvalidElement: the key or a field makes no usable name, or a name is taken; the message names them.
    """
    # kept by the model itself, so that the models of a module that was loaded anew go with it
    kept: dict[str, TableDef] | None = model.__dict__.get(_KEPT)
    if kept is None:
        kept = {}
        type.__setattr__(model, _KEPT, kept)
    if (known := kept.get(key)) is not None:
        return known
    name = snake_case(key)
    if not _is_identifier(name):
        raise InvalidElement(f"output {key!r} makes no table name; use letters, digits and '_'", {"key": key})
    if name.startswith(("_smithers_", "sqlite_", "pg_")):
        raise InvalidElement(f"output {key!r}: table names that begin like {name!r} are reserved", {"key": key})
    try:
        model.model_rebuild()
    except PydanticUserError as exc:
        raise InvalidElement(f"output {key!r}: {model.__name__} is not complete: {exc}", {"key": key}) from exc
    return kept.setdefault(key, TableDef(name, key, model, _columns(key, model)))


_KEPT = "__smithers_tables__"


def snake_case(name: str) -> str:
    """`fooBar`, `FooBar`, `foo-bar` and `foo bar` as `foo_bar`; `HTTPServer` as `http_server`."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"[\s\-.:/]+", "_", split).lower()


def _is_identifier(name: str) -> bool:
    return name.isidentifier() and len(name.encode("utf-8", "replace")) <= MAX_IDENTIFIER_BYTES


def _columns(key: str, model: type[BaseModel]) -> tuple[Column, ...]:
    if issubclass(model, RootModel):
        return (Column(ROOT_COLUMN, "root", "json", _takes_none(model.model_fields["root"].annotation)),)
    columns: dict[str, Column] = {}
    for name, info in model.model_fields.items():
        column = snake_case(name)
        where = f"output {key!r}: field {name!r} of {model.__name__}"
        if column in KEY_COLUMNS:
            raise InvalidElement(
                f"{where} has a reserved name; reserved are {', '.join(KEY_COLUMNS)}", _details(key, [name])
            )
        if not _is_identifier(column):
            raise InvalidElement(f"{where} makes no column name", _details(key, [name]))
        if (other := columns.get(column)) is not None:
            raise InvalidElement(
                f"{where} and field {other.field!r} have the same column name {column!r}",
                _details(key, [str(other.field), name]),
            )
        columns[column] = Column(column, name, _kind(info), _takes_none(info.annotation))
    if model.model_config.get("extra") == "allow":
        columns[EXTRA_COLUMN] = Column(EXTRA_COLUMN, None, "json")
    return tuple(columns.values())


def _details(key: str, fields: list[str]) -> dict[str, object]:
    return {"key": key, "fields": fields}


# ── types ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_HARMLESS = (AfterValidator, BeforeValidator, WrapValidator, PlainSerializer, WrapSerializer)
"""Annotations that leave the type of the stored value alone; others with a schema of their own may not."""


def _kind(info: FieldInfo) -> Kind:
    return "json" if _changes_type(info.metadata) else _kind_of(info.annotation)


def _kind_of(annotation: object) -> Kind:
    bare, metadata = _bare(annotation)
    if _changes_type(metadata):
        return "json"
    if get_origin(bare) in (Literal, typing_extensions.Literal):
        values: tuple[object, ...] = get_args(bare)
        kinds: set[Kind] = {_plain_kind(type(value)) for value in values if value is not None}
        return kinds.pop() if len(kinds) == 1 else "json"
    if (enum := _as_enum(bare)) is not None:
        return "text" if issubclass(enum, str) and all(type(m.value) is str for m in enum) else "json"
    return _plain_kind(bare)


def _as_enum(bare: object) -> type[Enum] | None:
    return bare if isinstance(bare, type) and issubclass(bare, Enum) else None


def _plain_kind(bare: object) -> Kind:
    if bare is bool:
        return "boolean"
    if bare is int:
        return "number-int"
    if bare is float:
        return "number-real"
    return "text" if bare is str else "json"


def _changes_type(metadata: Iterable[object]) -> bool:
    return any(hasattr(item, "__get_pydantic_core_schema__") and not isinstance(item, _HARMLESS) for item in metadata)


def _bare(annotation: object) -> tuple[object, list[object]]:
    """The type inside `Annotated`, aliases, `NewType` and `Optional`, and the metadata passed on the way."""
    metadata: list[object] = []
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata += [each for item in more for each in (item.metadata if isinstance(item, FieldInfo) else [item])]
        elif isinstance(annotation, typing_extensions.TypeAliasType) or type(annotation).__name__ == "TypeAliasType":
            annotation = cast("typing_extensions.TypeAliasType", annotation).__value__
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif get_origin(annotation) in (Union, types.UnionType):
            members = [each for each in get_args(annotation) if each is not type(None)]
            if len(members) != 1:
                return annotation, metadata
            annotation = members[0]
        else:
            return annotation, metadata


def _takes_none(annotation: object) -> bool:
    """Whether None is among the values of a type, as far as its annotation says."""
    if annotation in (None, type(None), Any, object):
        return True
    if get_origin(annotation) is Annotated:
        return _takes_none(get_args(annotation)[0])
    if get_origin(annotation) in (Literal, typing_extensions.Literal):
        return None in get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_takes_none(each) for each in get_args(annotation))
    if type(annotation).__name__ == "TypeAliasType":
        return _takes_none(cast("typing_extensions.TypeAliasType", annotation).__value__)
    return False


def _serializer(model: type[BaseModel]) -> SchemaSerializer:
    """The model's own serializer, except that it keeps NaN and infinity, which Pydantic writes as null by default."""
    config = CoreConfig(ser_json_inf_nan="constants")
    if (binary := model.model_config.get("ser_json_bytes")) is not None:
        config["ser_json_bytes"] = binary
    if (duration := model.model_config.get("ser_json_timedelta")) is not None:
        config["ser_json_timedelta"] = duration
    return SchemaSerializer(model.__pydantic_core_schema__, config)


# ── values ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _encode_boolean(value: object) -> SqlValue:
    if value is None:
        return None
    if value is True or value is False:
        return int(value)
    raise TypeError(f"{type(value).__name__} is not bool")


def _encode_int(value: object) -> SqlValue:
    if type(value) is int:
        return value if -(2**63) <= value < 2**63 else f'"{value}"'
    if value is None:
        return None
    if isinstance(value, int):
        return _encode_int(int(value))
    raise TypeError(f"{type(value).__name__} is not int")


def _encode_real(value: object) -> SqlValue:
    if type(value) is float:
        return value if value == value else "NaN"
    if value is None:
        return None
    if isinstance(value, (int, float)):
        return _encode_real(float(value))
    raise TypeError(f"{type(value).__name__} is not float")


def _encode_text(value: object) -> SqlValue:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        if not value.isascii():
            value.encode()  # raises on half a surrogate pair, which no database stores
        return value if type(value) is str else str.__str__(value)
    if value is None:
        return None
    raise TypeError(f"{type(value).__name__} is not str")


def _printable(cause: BaseException) -> str:
    return str(cause).encode("utf-8", "backslashreplace").decode()


_ENCODERS: dict[Kind, _Encoder] = {
    "boolean": _encode_boolean,
    "number-int": _encode_int,
    "number-real": _encode_real,
    "text": _encode_text,
}


def _decoder(kind: Kind, annotation: object) -> _Decoder:
    if kind == "boolean":
        return lambda value: None if value is None else bool(value)
    if kind == "number-int":
        return lambda value: int(value.strip('"')) if isinstance(value, str) else value
    if kind == "number-real":
        return lambda value: float(value) if isinstance(value, (str, int)) else value
    bare, _ = _bare(annotation)
    if (enum := _as_enum(bare)) is not None:
        members: dict[SqlValue, object] = {str(member.value): member for member in enum}
        return lambda value: members.get(value, value)  # an unknown one is the validation's to refuse
    return lambda value: value
