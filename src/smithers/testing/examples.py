"""Makes a value that fits a Pydantic model, from its JSON schema alone. Same model, same value.

Fields with a default keep it. What a schema does not tell (an author's validator, an unusual pattern) cannot be met;
the error says so, and an `examples=[…]` on the field helps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

from pydantic import BaseModel, PydanticUserError, ValidationError
from pydantic_core import to_json

from smithers.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)
_Schema = Mapping[str, object]

_FORMATS: dict[str, str] = {
    "date": "2020-01-01",
    "date-time": "2020-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "someone@example.com",
    "name-email": "Some One <someone@example.com>",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uuid1": "00000000-0000-1000-8000-000000000000",
    "uuid3": "00000000-0000-3000-8000-000000000000",
    "uuid5": "00000000-0000-5000-8000-000000000000",
    "uri": "https://example.com/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "ipvanyaddress": "192.0.2.1",
    "ipv4network": "192.0.2.0/24",
    "ipv6network": "2001:db8::/32",
    "ipvanynetwork": "192.0.2.0/24",
    "ipv4interface": "192.0.2.1/24",
    "ipv6interface": "2001:db8::1/32",
    "ipvanyinterface": "192.0.2.1/24",
    "json-string": "{}",
    "base64": "ZXhhbXBsZQ==",
    "base64url": "ZXhhbXBsZQ==",
    "color": "black",
}
_LATER: dict[str, str] = {
    "date_future": "2999-01-01",
    "datetime_future": "2999-01-01T00:00:00Z",
    "timezone_naive": "2020-01-01T00:00:00",
}
"""Demands on dates that only validation tells of, and what meets them."""

_KEYS: dict[str, str] = {
    "int_parsing": "1",
    "float_parsing": "1.0",
    "decimal_parsing": "1",
    "bool_parsing": "true",
    "uuid_parsing": _FORMATS["uuid"],
    "date_from_datetime_parsing": _FORMATS["date"],
    "datetime_from_date_parsing": _FORMATS["date-time"],
}
"""Types of a mapping's keys, which its schema does not tell, and a key of the type."""

_SHAPES = (
    "example",
    "1.0.0",
    "2020-01-01",
    "00:00",
    "#000000",
    "+10000000000",
    "a@example.com",
    "https://example.com/",
)
_MAX_DEPTH = 12


def example(model: type[M]) -> M:
    """An instance of `model` that looks like an answer.

    Raises:
        InvalidInput: no value could be found that the model takes.
    """
    try:
        schema = cast("_Schema", model.model_json_schema())
    except PydanticUserError as error:
        raise InvalidInput(f"{model.__name__} has no JSON schema to make an example from: {error}") from error
    value = _Maker(schema).make(schema)
    try:
        return model.model_validate_json(to_json(value))
    except ValidationError as error:
        problems = error
    if _repair(value, problems):
        try:
            return model.model_validate_json(to_json(value))
        except ValidationError as error:
            problems = error
    listed = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in problems.errors(include_url=False)[:5])
    raise InvalidInput(
        f"no example of {model.__name__} could be made ({listed}); give the fields examples=[…]"
    ) from None


def _repair(value: object, problems: ValidationError) -> bool:
    """Put another date or key where validation asked for one; whether anything was changed."""
    changed = False
    for problem in problems.errors(include_url=False):
        if problem["loc"][-1:] == ("[key]",):
            changed = _rename(value, problem["loc"][:-1], _KEYS.get(problem["type"])) or changed
            continue
        replacement = _LATER.get(problem["type"])
        holder = value
        for part in problem["loc"][:-1]:
            holder = _at(holder, part)
        last = problem["loc"][-1] if problem["loc"] else None
        if replacement is None or last is None or not isinstance(_at(holder, last), str):
            continue
        cast("dict[int | str, object]", holder)[last] = replacement  # a list takes its index the same way
        changed = True
    return changed


def _rename(value: object, path: Sequence[int | str], key: str | None) -> bool:
    holder = value
    for part in path[:-1]:
        holder = _at(holder, part)
    if key is None or not isinstance(holder, dict) or path[-1] not in holder:
        return False
    entries = cast("dict[int | str, object]", holder)
    entries[key] = entries.pop(path[-1])
    return True


def _at(holder: object, part: int | str) -> object:
    if isinstance(holder, dict):
        return cast("dict[int | str, object]", holder).get(part)
    if isinstance(holder, list) and isinstance(part, int):
        items = cast("list[object]", holder)
        return items[part] if part < len(items) else None
    return None


class _Maker:
    def __init__(self, root: _Schema) -> None:
        self._definitions = _mapping(root.get("$defs"))

    def make(self, schema: _Schema, depth: int = 0, nth: int = 0) -> object:
        """A value for `schema`; with another `nth`, another value where there is one."""
        schema = self._resolve(schema)
        examples = schema.get("examples")
        if isinstance(examples, list) and examples:
            return _pick(cast("list[object]", examples), nth)
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list):
            return _pick(cast("list[object]", schema["enum"]), nth)
        for union in ("anyOf", "oneOf"):
            if isinstance(schema.get(union), list):
                return self._choose(cast("list[_Schema]", schema[union]), depth, nth)
        kind = schema.get("type")
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string" if "contentSchema" in schema:
                return to_json(self.make(_mapping(schema["contentSchema"]), depth + 1)).decode()
            case "string":
                return _string(schema, nth)
            case "integer" | "number":
                return _number(schema, nth, whole=kind == "integer")
            case "boolean":
                return nth % 2 == 0
            case "null":
                return None
            case _:
                return "example"

    def _resolve(self, schema: _Schema) -> _Schema:
        """The schema with its reference and its `allOf` merged in."""
        reference, parts = schema.get("$ref"), schema.get("allOf")
        merged: dict[str, object] = {}
        if isinstance(reference, str):
            merged |= self._resolve(_mapping(self._definitions.get(reference.rsplit("/", 1)[-1])))
        if isinstance(parts, list):
            for part in cast("list[_Schema]", parts):
                merged |= self._resolve(part)
        return {**merged, **{key: value for key, value in schema.items() if key not in ("$ref", "allOf")}}

    def _choose(self, options: Sequence[_Schema], depth: int, nth: int) -> object:
        """The first that is a value; deep down, none, so that a type that holds itself comes to an end."""
        if depth >= _MAX_DEPTH and any(option.get("type") == "null" for option in options):
            return None
        simple = [o for o in options if o.get("type") != "null" and (depth < _MAX_DEPTH or "$ref" not in o)]
        values = simple or [o for o in options if o.get("type") != "null"] or options
        return self.make(values[0], depth + 1, nth)

    def _object(self, schema: _Schema, depth: int) -> dict[str, object]:
        _check_depth(depth)
        properties = {name: self._resolve(_mapping(p)) for name, p in _mapping(schema.get("properties")).items()}
        required = cast("list[str]", schema.get("required") or [])
        made = {name: self.make(properties[name], depth + 1) for name in required if name in properties}
        extra = schema.get("additionalProperties")
        patterns = _mapping(schema.get("patternProperties"))
        fewest = _count(
            schema, "minProperties", 0 if properties or depth >= _MAX_DEPTH or not (extra or patterns) else 1
        )
        names = _mapping(schema.get("propertyNames"))
        if patterns:
            pattern, extra = next(iter(patterns.items()))
            names = {"type": "string", "pattern": pattern}
        for nth in range(max(0, fewest - len(made))):
            key = str(self.make(names, depth + 1, nth)) if names else _string({}, nth)
            made[key] = self.make(_mapping(extra), depth + 1, nth)
        return made

    def _array(self, schema: _Schema, depth: int) -> list[object]:
        _check_depth(depth)
        fixed = schema.get("prefixItems")
        items = _mapping(schema.get("items"))
        made = [self.make(part, depth + 1) for part in cast("list[_Schema]", fixed)] if isinstance(fixed, list) else []
        wanted = 1 if items and not made and depth < _MAX_DEPTH else 0
        wanted = min(max(wanted, _count(schema, "minItems", 0)), _count(schema, "maxItems", 1_000))
        unique = schema.get("uniqueItems") is True
        return made + [self.make(items, depth + 1, nth if unique else 0) for nth in range(len(made), wanted)]


def _check_depth(depth: int) -> None:
    if depth > 4 * _MAX_DEPTH:
        raise InvalidInput("the model holds itself without end; no example can be made")


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _pick(values: Sequence[object], nth: int) -> object:
    return values[nth % len(values)]


def _count(schema: _Schema, key: str, default: int) -> int:
    value = schema.get(key)
    return value if isinstance(value, int) else default


def _string(schema: _Schema, nth: int) -> str:
    shortest, longest = _count(schema, "minLength", 0), _count(schema, "maxLength", 1_000_000)
    pattern, known = schema.get("pattern"), _FORMATS.get(str(schema.get("format", "")))
    if isinstance(pattern, str):
        return _matching(pattern, shortest, longest)
    if known is not None:
        return known
    text = "example" if nth == 0 else f"example-{nth + 1}"
    if len(text) > longest:  # short and still different: count in letters
        text = chr(ord("a") + nth % 26) * longest
    return text.ljust(shortest, "x")


def _matching(pattern: str, shortest: int, longest: int) -> str:
    """A string that the pattern takes, out of the usual shapes; the plain example if none does."""
    runs = (
        char * length for length in range(max(shortest, 1), min(longest, max(shortest, 1) + 40) + 1) for char in "aA0"
    )
    mixed = (
        "a1",
        "A1",
        "Aa",
        "a-1",
        "a_1",
        "AB-1",
        "A-0",
        "a.b",
        "a/b",
        "ab12",
        "AB12",
        "ABC-123",
        "abc-123",
        "v1.0.0",
    )
    try:
        compiled = re.compile(pattern)
    except re.error:  # another dialect
        return "example"
    fitting = (text for text in (*_SHAPES, *mixed, *runs, "") if shortest <= len(text) <= longest)
    return next((text for text in fitting if compiled.search(text)), "example")


def _number(schema: _Schema, nth: int, *, whole: bool) -> int | float:
    low, high = _bound(schema, "minimum", -math.inf), _bound(schema, "maximum", math.inf)
    above, below = _bound(schema, "exclusiveMinimum", -math.inf), _bound(schema, "exclusiveMaximum", math.inf)
    step = _bound(schema, "multipleOf", 1.0 if whole else 0.0)
    least, most = max(low, above), min(high, below)
    if not step:
        gap = most - least
        step = 1.0 if math.isinf(gap) or gap > 2 else gap / 4 or 1.0
    start = least if not math.isinf(least) else (min(1.0, most) if not math.isinf(most) else 1.0)
    if math.isinf(least) and below <= 1.0:
        start = below - step
    value = math.ceil(start / step) * step if _bound(schema, "multipleOf", 0.0) or whole else start
    if value <= above:
        value += step
    value += nth * step
    return int(value) if whole else float(value)


def _bound(schema: _Schema, key: str, default: float) -> float:
    value = schema.get(key)
    return float(value) if isinstance(value, int | float) else default
