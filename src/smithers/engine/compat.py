"""Compat: whether the rows and the input of a run fit changed models, as far as the models' JSON schemas tell.

Pure. A change is compatible if every value that the old model takes is one that the new model takes: fields with a default
may come, fields may go, alternatives may be added. Titles and descriptions do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard, cast

from pydantic import BaseModel, PydanticUserError

from smithers.components.workflow import SmithersWorkflow
from smithers.store.columns import TableDef

Schema = dict[str, object]
_REMARKS = frozenset({"title", "description", "examples", "deprecated", "$comment", "readOnly", "writeOnly"})


def refusal(old: SmithersWorkflow, new: SmithersWorkflow) -> str | None:
    """Why runs of a workflow cannot go on with its changed code; None if they can, as far as models tell.

    Outputs that are gone are not judged here: that depends on whether a run has rows in them.
    """
    if not _same_input(old.input_model, new.input_model):
        return "the input model changed; a run keeps the input that it was started with"
    for key in old.outputs.keys() & new.outputs.keys():
        problem = model_problem(old.outputs[key].model, new.outputs[key].model)
        if problem is not None:
            return f"output {key!r}: {problem}"
    return None


def table_problem(old: TableDef, new: TableDef) -> str | None:
    """Why the columns of a table cannot hold what the changed model stores; None if they can."""
    kinds = {column.name: column.kind for column in old.columns}
    for column in new.columns:
        if kinds.get(column.name, column.kind) != column.kind:
            return f"field {column.field!r} is stored as {column.kind} now and was stored as {kinds[column.name]}"
    return None


def model_problem(old: type[BaseModel], new: type[BaseModel]) -> str | None:
    """Why values of a model are not values of its changed form; None if they are."""
    before, after = _schema_of(old), _schema_of(new)
    if before is None or after is None:
        return None if _fields_of(old) == _fields_of(new) else "its fields changed"
    was, now = _properties(before), _properties(after)
    if was is None or now is None:
        return None if accepts(after, before) else "its type changed"
    required = cast("list[str]", after.get("required", []))
    if come := sorted(set(required) - set(was)):
        return f"field {come[0]!r} is new and has no default"
    for name in was.keys() & now.keys():
        if not accepts(now[name], was[name]):
            return f"the type of field {name!r} changed"
    return None


def accepts(new: object, old: object) -> bool:
    """Whether every value that fits one JSON schema fits another, as far as comparing them tells: False if in doubt."""
    if new == old or new in ({}, True):
        return True
    if not _is_schema(new) or not _is_schema(old):
        return False
    if isinstance(alternatives := old.get("anyOf"), list):
        return all(accepts(new, each) for each in cast("list[object]", alternatives))
    if isinstance(alternatives := new.get("anyOf"), list):
        return any(accepts(each, old) for each in cast("list[object]", alternatives))
    values, wanted = _values(new), _values(old)
    if values is not None and wanted is not None:
        return all(any(_alike(value, each) for each in values) for value in wanted)
    if wanted is not None and values is None:  # from some values to all of their type
        return set(new) == {"type"} and new["type"] == old.get("type")
    if old.get("type") == new.get("type") == "array":
        return accepts(new.get("items", {}), old.get("items", {})) and _without(new, "items") == _without(old, "items")
    return False


def _same_input(old: type[BaseModel] | None, new: type[BaseModel] | None) -> bool:
    if old is None or new is None:
        return old is new
    before, after = _schema_of(old), _schema_of(new)
    return _fields_of(old) == _fields_of(new) if before is None or after is None else before == after


def _schema_of(model: type[BaseModel]) -> Schema | None:
    """The model's schema with references filled in and without remarks; None for a model that has none."""
    try:
        found = model.model_json_schema(by_alias=False)
    except PydanticUserError:  # a type of the author's own that says nothing about JSON
        return None
    definitions = found.pop("$defs", {})
    return cast("Schema", _plain(found, cast("Schema", definitions), (), is_names=False))


def _plain(value: object, definitions: Schema, within: tuple[str, ...], *, is_names: bool) -> object:
    """A schema without remarks.

    Args:
        within: the definitions that are being filled in; a reference back to one of them stays.
        is_names: the keys are an author's names, not words of JSON Schema.
    """
    if isinstance(value, list):
        return [_plain(each, definitions, within, is_names=False) for each in cast("list[object]", value)]
    if not _is_schema(value):
        return value
    reference = value.get("$ref")
    if isinstance(reference, str) and not is_names and reference not in within:
        target = definitions.get(reference.rpartition("/")[2], {})
        return _plain(target, definitions, (*within, reference), is_names=False)
    found: Schema = {}
    for key, each in value.items():
        if not is_names and key in ("default", "const", "enum", "required"):
            found[key] = each
        elif is_names or key not in _REMARKS:
            names = not is_names and key in ("properties", "patternProperties")
            found[key] = _plain(each, definitions, within, is_names=names)
    return found


def _properties(schema: Schema) -> Schema | None:
    found = schema.get("properties", {} if schema.get("type") == "object" else None)
    if not _is_schema(found):
        return None
    return {name: _without(each, "default") if _is_schema(each) else each for name, each in found.items()}


def _fields_of(model: type[BaseModel]) -> dict[str, tuple[str, bool]]:
    return {name: (repr(info.annotation), info.is_required()) for name, info in model.model_fields.items()}


def _values(schema: Mapping[str, object]) -> list[object] | None:
    """The values that a schema lists, if it does."""
    if "const" in schema:
        return [schema["const"]]
    found = schema.get("enum")
    return cast("list[object]", found) if isinstance(found, list) else None


def _alike(one: object, other: object) -> bool:
    return one == other and type(one) is type(other)


def _without(schema: Mapping[str, object], name: str) -> Schema:
    return {key: value for key, value in schema.items() if key != name}


def _is_schema(value: object) -> TypeGuard[Schema]:
    return isinstance(value, dict)
