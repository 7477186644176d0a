"""From an agent's answer to the task's output: finding the JSON, validating it, asking again. Pure.

The first form that the answer has decides: a native object, else the whole text as JSON, else the last fenced JSON
block, else the last balanced JSON object. An answer that fails there is not searched any further (an older draft above
must not stand in for a broken final answer); the correction turn that follows names what is wrong.

All scans are one pass over bounded text, whatever an agent writes. The loop of correction turns is in `chain.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, PydanticUserError, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from smithers.errors import AgentConfigInvalid

MAX_TEXT = 4_000_000
"""Characters of an answer that are looked at; of a longer one, the end."""

MAX_TASK_CHARS = 8_000
MAX_RESPONSE_CHARS = 2_000
_MAX_ISSUES = 20
_MAX_ISSUE_CHARS = 300


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer fits; `output` is an instance of the model."""

    output: BaseModel


@dataclass(frozen=True, slots=True)
class Rejected:
    """The answer does not fit; `issues` says why, one sentence each, for the correction turn and the error."""

    issues: tuple[str, ...]


def interpret(output_type: type[BaseModel], *, output: object | None, text: str) -> Accepted | Rejected:
    """Turn an answer into the model: the structured `output` if there is one, else what the `text` holds."""
    if isinstance(output, str) and not text:
        text, output = output, None
    if output is not None and not isinstance(output, str):
        return _validate_object(output_type, output)
    return _validate_text(output_type, text)


def _validate_object(output_type: type[BaseModel], output: object) -> Accepted | Rejected:
    if isinstance(output, output_type):
        return Accepted(output)
    value: object = output.model_dump() if isinstance(output, BaseModel) else output
    try:
        return Accepted(output_type.model_validate(value))
    except ValidationError as error:
        first = Rejected(_issues(error))
    try:  # a strict model takes dates, enums and the like from JSON only
        return Accepted(output_type.model_validate_json(to_json(value)))
    except (ValidationError, PydanticSerializationError, ValueError):
        return first


def _validate_text(output_type: type[BaseModel], text: str) -> Accepted | Rejected:
    found = find_json(text)
    if isinstance(found, Rejected):
        return found
    try:
        return Accepted(output_type.model_validate_json(found))
    except ValidationError as error:
        return Rejected(_issues(error))


# ── finding JSON in text ───────────────────────────────────────────────────────────────────────────────────────────


def find_json(text: str) -> str | Rejected:
    """The JSON document that `text` holds, or why there is none. Linear in the length of `text`."""
    # A lone surrogate cannot be stored or sent on, so it does not survive here.
    text = text[-MAX_TEXT:].encode("utf-8", "replace").decode().lstrip("\ufeff").strip()
    if not text:
        return Rejected(("the answer is empty",))
    if _json_error(text) is None:
        return text
    fences = _fenced_blocks(text)
    labelled = [body for label, body in fences if label.startswith("json")]
    if labelled:
        problem = _json_error(labelled[-1])
        return labelled[-1] if problem is None else Rejected((f"the fenced block is not valid JSON: {problem}",))
    for label, body in reversed(fences):
        if not label and body.lstrip()[:1] in ("{", "[") and _json_error(body) is None:
            return body
    problem = None
    for start, end in reversed(_balanced_objects(text)):
        problem = _json_error(text[start:end])
        if problem is None:
            return text[start:end]
    return Rejected((f"the answer holds no valid JSON: {problem}" if problem else "the answer holds no JSON object",))


def _json_error(text: str) -> str | None:
    try:
        from_json(text, allow_inf_nan=False)
    except ValueError as error:
        return str(error)[:_MAX_ISSUE_CHARS]
    return None


def _fenced_blocks(text: str) -> list[tuple[str, str]]:
    """`(label, body)` of the closed fences, in order. A fence opens and closes at the beginning of a line."""
    blocks: list[tuple[str, str]] = []
    body: list[str] | None = None
    fence, label = "", ""
    for line in text.split("\n"):
        stripped = line.strip()
        ticks = len(stripped) - len(stripped.lstrip("`"))
        if body is None:
            if ticks >= 3 and "`" not in stripped[ticks:]:
                fence, label, body = "`" * ticks, stripped[ticks:].strip().lower(), []
        elif ticks >= len(fence) and ticks == len(stripped):
            blocks.append((label, "\n".join(body).strip()))
            body = None
        else:
            body.append(line)
    return blocks


def _balanced_objects(text: str) -> list[tuple[int, int]]:
    """The maximal `{…}` spans that may be JSON objects, in order and disjoint.

    A brace that no key follows opens no JSON object, and a JSON string holds no raw line break: both tell prose from
    JSON, and both forget whatever was still open, so that a stray brace or quote costs no later object.
    """
    spans: list[tuple[int, int]] = []
    open_at: list[int] = []
    in_string = False
    at, length = 0, len(text)
    while at < length:
        char = text[at]
        if in_string:
            if char == "\\":
                at += 1
            elif char == '"':
                in_string = False
            elif char == "\n":
                in_string = False
                open_at.clear()
        elif char == "{":
            key = at + 1
            while key < length and text[key] in " \t\r\n":
                key += 1
            if key < length and text[key] in '"}':
                open_at.append(at)
            else:
                open_at.clear()
            at = key - 1
        elif char == "}" and open_at:
            start = open_at.pop()
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, at + 1))
        elif char == '"' and open_at:
            in_string = True
        at += 1
    return spans


# ── what the agent is told ─────────────────────────────────────────────────────────────────────────────────────────


def schema_text(output_type: type[BaseModel]) -> str:
    """The model's JSON schema as compact text.

    Raises:
        AgentConfigInvalid: the model has a field that JSON cannot describe.
    """
    try:
        return json.dumps(output_type.model_json_schema(), ensure_ascii=False, separators=(",", ":"))
    except (PydanticUserError, ValueError, TypeError) as error:
        raise AgentConfigInvalid(
            f"the output model {output_type.__name__} cannot be described to an agent as JSON schema: {error}"
        ) from error


def with_instructions(prompt: str, output_type: type[BaseModel]) -> str:
    """`prompt` for an agent without native structured output: told before and after to answer in JSON."""
    return (
        "Your final answer must be raw JSON and nothing else: no Markdown fence, no text around it.\n\n"
        f"{prompt}\n\n"
        f"{_schema_reminder(output_type)}"
    )


def correction_prompt(
    output_type: type[BaseModel], issues: Sequence[str], *, task: str, response: str, has_conversation: bool
) -> str:
    """What the agent is told after an answer that does not fit.

    With a conversation to go on with, the agent knows its task and its answer; otherwise both are repeated, shortened
    to `MAX_TASK_CHARS` and `MAX_RESPONSE_CHARS`.
    """
    listed = "\n".join(f"- {issue}" for issue in issues)
    parts: list[str] = []
    if not has_conversation:
        parts += ["You were given this task:", shorten(task, MAX_TASK_CHARS)]
        parts += ["You answered:", shorten(response, MAX_RESPONSE_CHARS) or "(nothing)"]
    parts += [
        f"{'Your last answer' if has_conversation else 'That answer'} could not be used:\n{listed}",
        "Give the complete corrected answer. Do not repeat work that is done already.",
        _schema_reminder(output_type),
    ]
    return "\n\n".join(parts)


def _schema_reminder(output_type: type[BaseModel]) -> str:
    return f"Answer with one JSON document that fits this JSON schema:\n{schema_text(output_type)}"


def shown(output: object) -> str:
    """A structured answer as text, for the correction prompt."""
    try:
        return to_json(output, fallback=repr).decode()
    except (PydanticSerializationError, ValueError):
        return repr(output)


def shorten(text: str, limit: int) -> str:
    """`text` in at most `limit` characters; what is left out is the middle."""
    if len(text) <= limit:
        return text
    mark = "\n[…]\n"
    head = (limit - len(mark)) * 2 // 3
    return f"{text[:head]}{mark}{text[len(text) - (limit - len(mark) - head) :]}"


def _issues(error: ValidationError) -> tuple[str, ...]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    listed = [
        f"{'.'.join(str(part) for part in issue['loc']) or '(the whole answer)'}: {issue['msg']}"[:_MAX_ISSUE_CHARS]
        for issue in found[:_MAX_ISSUES]
    ]
    if len(found) > _MAX_ISSUES:
        listed.append(f"and {len(found) - _MAX_ISSUES} more")
    return tuple(listed)
