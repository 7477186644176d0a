"""Decisions and answers: validated against what was asked, once, with the caller's rights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from pydantic_core import from_json, to_json

from smithers.control.caller import Caller, require_decider
from smithers.errors import InvalidInput
from smithers.jsons import list_of, object_of
from smithers.store.interface import ApprovalRow, HumanRow

MAX_NOTE = 10_000
MAX_ANSWER_BYTES = 1_048_576


def judge_decision(
    row: ApprovalRow, caller: Caller, *, approved: bool, note: str | None, decision: Mapping[str, object] | None
) -> tuple[bool, str | None, str | None, str | None]:
    """What to store for a decision: (approved, note, decided_by, decision JSON). Raises `InvalidInput` or `Forbidden`."""
    request: dict[str, object] = from_json(row.request_json)
    require_decider(caller, row, request)
    if note is not None and len(note) > MAX_NOTE:
        raise InvalidInput(f"note has {len(note)} characters; at most {MAX_NOTE} are allowed")
    if not approved or decision is None:
        return approved, note, caller.user, None
    mode = request.get("mode", "approve")
    keys = [str(object_of(option).get("key")) for option in list_of(request.get("options"))]
    unknown = set(decision) - {"selected", "ranked"}
    if unknown:
        raise InvalidInput(f"decision has unknown fields {sorted(unknown)}; it takes 'selected' or 'ranked'")
    if mode == "select":
        if decision.get("selected") not in keys:
            raise InvalidInput(f"decision.selected must be one of {', '.join(keys)}, not {decision.get('selected')!r}")
        if "ranked" in decision:
            raise InvalidInput("decision.ranked does not belong to an approval of mode 'select'")
    elif mode == "rank":
        if sorted(map(str, list_of(decision.get("ranked")))) != sorted(keys):
            raise InvalidInput(f"decision.ranked must hold each of {', '.join(keys)} exactly once")
    elif decision:
        raise InvalidInput("this approval offers no choice; leave decision out")
    return approved, note, caller.user, to_json(dict(decision)).decode()


def judge_answer(row: HumanRow, caller: Caller, value: object) -> tuple[str, str | None]:
    """What to store for a person's answer: (JSON, who). Raises `InvalidInput` naming the field that does not fit."""
    try:
        text = to_json(value, inf_nan_mode="constants")
        value = from_json(text, allow_inf_nan=False)
    except Exception as error:
        raise InvalidInput(f"answer is not JSON: {error}") from error
    if len(text) > MAX_ANSWER_BYTES:
        raise InvalidInput(f"answer has {len(text)} bytes; at most {MAX_ANSWER_BYTES} are allowed")
    if row.schema_json is not None:
        _require_fit(value, from_json(row.schema_json))
    return text.decode(), caller.user


def _require_fit(value: object, schema: object) -> None:
    from jsonschema import Draft202012Validator  # a quarter of a second to import, and rarely needed

    validator = Draft202012Validator(object_of(schema))
    found = cast("list[_Problem]", list(validator.iter_errors(cast("dict[str, object]", value))))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType, reportArgumentType]
    if found:
        first = min(found, key=lambda problem: [str(part) for part in problem.absolute_path])
        place = ".".join(["answer", *map(str, first.absolute_path)])
        raise InvalidInput(f"{place}: {first.message}", {"path": place})


class _Problem(Protocol):
    """What is used of jsonschema's `ValidationError`, whose published types are incomplete."""

    absolute_path: Sequence[object]
    message: str
