"""Node output: what a node has written, or why it has not, with the shape of its row; as a gateway sends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from pydantic import BaseModel, RootModel
from pydantic_core import PydanticUndefined, from_json

from smithers.control.control import Control
from smithers.errors import IterationNotFound, MalformedOutputRow, NodeHasNoOutput, NodeNotFound, PayloadTooLarge
from smithers.jsons import list_of, object_of, text_of
from smithers.store.columns import EXTRA_COLUMN, ROOT_COLUMN, snake_case
from smithers.store.interface import AttemptRow, NodeRow, SqlValue
from smithers.store.sql import reads, run_pages

MAX_OUTPUT_BYTES: Final = 104_857_600
MAX_MESSAGE: Final = 4_000
_PAYLOAD = "payload"
_TYPES: Final = {
    "boolean": "boolean",
    "number-int": "number",
    "number-real": "number",
    "text": "string",
    "json": "unknown",
}
_JSON_TYPES: Final = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "object": "object",
    "array": "array",
    "null": "null",
}

Wire = dict[str, object]


async def node_output(
    control: Control, run_id: str, node_id: str, iteration: int = 0, *, model: type[BaseModel] | None = None
) -> Wire:
    """A node's output: `{status, row, schema}`, and `partial` and `error` for a failed one.

    Args:
        model: the workflow's model of this output, for the names and types of its fields; what the store knows of the
            columns by default.

    Raises:
        RunNotFound, NodeNotFound, IterationNotFound, NodeHasNoOutput, PayloadTooLarge, MalformedOutputRow.
    """

    def query(c: reads.Session) -> tuple[NodeRow, dict[str, SqlValue] | None, dict[str, str], AttemptRow | None]:
        reads.run(c, run_id)
        node = _require_node(c, run_id, node_id, iteration)
        table = node.output_table
        if table is None:
            raise NodeHasNoOutput(f"node {node_id!r} writes no output", {"runId": run_id, "nodeId": node_id})
        found = reads.output(c, table, run_id, node_id, iteration)
        newest = run_pages.attempts_of_node(c, run_id, node_id, iteration, limit=1)
        return node, None if found is None else found[1], reads.column_kinds(c, table), newest[0] if newest else None

    node, stored, kinds, newest = await control.store.aread(query)
    shape = schema_of(model) if model is not None else _stored_schema(kinds)
    if stored is not None:
        size = sum(len(value) for value in stored.values() if isinstance(value, (str, bytes)))
        if size > MAX_OUTPUT_BYTES:
            raise PayloadTooLarge(
                f"the output of node {node_id!r} has {size} bytes; at most {MAX_OUTPUT_BYTES} are sent",
                {"maxBytes": MAX_OUTPUT_BYTES},
            )
        return {"status": "produced", "row": _row(stored, kinds, model, node_id), "schema": shape}
    is_failed = newest is not None and (newest.state == "failed" or newest.error_json is not None)
    if node.state != "failed" and not is_failed:
        return {"status": "pending", "row": None, "schema": shape}
    beat = None if newest is None else newest.heartbeat_data_json
    partial: object = None if beat is None else from_json(beat)
    return {
        "status": "failed",
        "row": None,
        "schema": shape,
        "partial": _object(partial),
        "error": None if newest is None else _error(newest),
    }


def _require_node(connection: reads.Session, run_id: str, node_id: str, iteration: int) -> NodeRow:
    node = run_pages.node_row(connection, run_id, node_id, iteration)
    if node is not None:
        return node
    if run_pages.has_node(connection, run_id, node_id):
        raise IterationNotFound(
            f"node {node_id!r} of run {run_id!r} has no iteration {iteration}",
            {"runId": run_id, "nodeId": node_id, "iteration": iteration},
        )
    raise NodeNotFound(f"run {run_id!r} has no node {node_id!r}", {"runId": run_id, "nodeId": node_id})


def _error(attempt: AttemptRow) -> Wire | None:
    if attempt.error_json is None:
        return None
    stored = object_of(from_json(attempt.error_json))
    found: Wire = {"message": (text_of(stored.get("summary")) or text_of(stored.get("message")) or "")[:MAX_MESSAGE]}
    found |= {key: stored[key] for key in ("name", "code") if isinstance(stored.get(key), str)}
    found["attempt"] = attempt.attempt
    return found


# ── rows ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _row(stored: Mapping[str, SqlValue], kinds: Mapping[str, str], model: type[BaseModel] | None, node_id: str) -> Wire:
    """The stored columns as the row that was written, under its own field names if the model is known."""
    try:
        values = {column: _value(value, kinds.get(column)) for column, value in stored.items()}
    except ValueError as error:
        raise MalformedOutputRow(f"the stored output of node {node_id!r} cannot be read: {error}") from error
    if model is not None and issubclass(model, RootModel):
        root = values.get(ROOT_COLUMN)
        found = _object(root)
        return {ROOT_COLUMN: root} if found is None else found
    if list(values) == [_PAYLOAD] and (payload := _object(values[_PAYLOAD])) is not None:
        return payload
    names = {} if model is None else {snake_case(name): name for name in model.model_fields}
    row: Wire = {names.get(column, column): value for column, value in values.items() if column != EXTRA_COLUMN}
    return {**object_of(values.get(EXTRA_COLUMN)), **row}


def _object(value: object) -> Wire | None:
    return cast("Wire", value) if isinstance(value, dict) else None


def _value(value: SqlValue, kind: str | None) -> object:
    if value is None:
        return None
    if kind == "boolean":
        return bool(value)
    if kind == "json" and isinstance(value, (str, bytes)):
        found: object = from_json(value)
        return found
    if kind == "number-int" and isinstance(value, str):
        return int(value.strip('"'))  # one that no column of integers holds
    return value


# ── shapes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _stored_schema(kinds: Mapping[str, str]) -> Wire | None:
    if not kinds:
        return None
    fields = [
        {"name": column, "type": _TYPES.get(kind, "unknown"), "optional": False, "nullable": True}
        for column, kind in kinds.items()
        if column != EXTRA_COLUMN
    ]
    return {"fields": fields}


def schema_of(model: type[BaseModel]) -> Wire | None:
    """The fields of a model: `{fields: [{name, type, optional, nullable, description?, enum?}]}`; None for one whose
    values are no objects, or that JSON Schema cannot tell of."""
    try:
        schema = model.model_json_schema(by_alias=False)
    except Exception:  # a field of a type that has no JSON form
        return None
    definitions = object_of(schema.get("$defs"))
    if not isinstance(schema.get("properties"), dict):
        return None
    required = {
        info for info, field in model.model_fields.items() if _is_required(field.default, field.default_factory)
    }
    properties = object_of(schema.get("properties"))
    return {
        "fields": [_field(name, object_of(each), name in required, definitions) for name, each in properties.items()]
    }


def _is_required(default: object, factory: object) -> bool:
    return default is PydanticUndefined and factory is None


def _field(name: str, schema: Wire, is_required: bool, definitions: Wire) -> Wire:
    variants = [_resolved(each, definitions) for each in list_of(schema.get("anyOf"))]
    if not variants:
        variants = [_resolved(schema, definitions)]
    types = [_JSON_TYPES.get(str(each.get("type")), "unknown") for each in variants]
    others = [each for each in types if each != "null"]
    found: Wire = {
        "name": name,
        "type": others[0] if len(set(others)) == 1 else "null" if not others else "unknown",
        "optional": not is_required,
        "nullable": "null" in types,
    }
    if (description := text_of(schema.get("description"))) is not None:
        found["description"] = description
    enum = [value for each in variants for value in [*list_of(each.get("enum")), *_constant(each)]]
    if enum:
        found["enum"] = enum
    return found


def _resolved(schema: object, definitions: Wire) -> Wire:
    found = object_of(schema)
    reference = text_of(found.get("$ref"))
    return found if reference is None else object_of(definitions.get(reference.rpartition("/")[2]))


def _constant(schema: Wire) -> list[object]:
    return [schema["const"]] if "const" in schema else []
