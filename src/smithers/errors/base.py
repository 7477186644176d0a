"""The base of all errors, and their persisted form."""

from __future__ import annotations

import math
import traceback
from collections.abc import Collection, Mapping
from typing import ClassVar, cast

DOCS = "docs/reference/errors.md"

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
"""What JSON can hold. A documentation alias: recursion in it is by forward reference."""


class SmithersError(Exception):
    """Base of all errors of this project.

    Args:
        summary: one sentence for the person who has to act on it.
        details: machine-readable context; must hold JSON values only.
        code: overrides the class's code, for errors that came from a store or a wire.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = True
    """Whether a task that failed with this error may be tried again."""

    def __init__(self, summary: str, details: Mapping[str, object] | None = None, *, code: str | None = None) -> None:
        super().__init__(summary)
        self.summary = summary
        self.details: dict[str, object] = dict(details) if details else {}
        self._code = code

    @property
    def error_code(self) -> str:
        """The wire code of this error."""
        return self._code or type(self).code

    @property
    def docs_url(self) -> str:
        """Where the error is explained."""
        return f"{DOCS}#{self.error_code.lower()}"

    @property
    def is_retryable(self) -> bool:
        """Whether another attempt may help: the class's rule unless `details["failure_retryable"]` says otherwise."""
        flag = self.details.get("failure_retryable")
        return flag if isinstance(flag, bool) else type(self).retryable


# ── the persisted form ────────────────────────────────────────────────────────────────────────────────────────────────

_MAX_DEPTH = 32


def error_object(error: BaseException, *, with_stack: bool = True) -> dict[str, object]:
    """The stored and sent form of errors: `{name, code?, message, summary?, docsUrl?, details?, cause?, stack?}`.

    JSON-safe by construction: cycles become `"[Circular]"`, non-finite numbers null, integers beyond 64 bits strings.
    Without what looks like a credential, and with long texts cut. Never raises.
    """
    from smithers.observability.redaction import scrub_value  # nothing that goes well needs it

    return cast("dict[str, object]", scrub_value(_error_object(error, set(), with_stack)))


def storable(text: str) -> str:
    """The text with half surrogates written out (`\\udc80`): file names may hold them, and no database or JSON does."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _error_object(error: BaseException, seen: set[int], with_stack: bool) -> dict[str, object]:
    if id(error) in seen:
        return {"name": type(error).__name__, "message": "[Circular]"}
    seen = seen | {id(error)}
    out: dict[str, object] = {"name": type(error).__name__}
    if isinstance(error, SmithersError):
        out["code"] = error.error_code
        out["message"] = storable(f"{error.summary} See {error.docs_url}")
        out["summary"] = storable(error.summary)
        out["docsUrl"] = error.docs_url
        if error.details:
            out["details"] = json_safe(error.details)
    else:
        try:
            out["message"] = storable(str(error)) or type(error).__name__
        except Exception:  # a broken __str__ must not hide the failure itself
            out["message"] = type(error).__name__
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and len(seen) < _MAX_DEPTH:
        out["cause"] = _error_object(cause, seen, False)
    if with_stack and not isinstance(error, SmithersError) and error.__traceback__ is not None:
        frames = traceback.format_exception(type(error), error, error.__traceback__, limit=-20, chain=False)
        out["stack"] = storable("".join(frames))
    return out


def json_safe(value: object, _seen: frozenset[int] = frozenset()) -> object:
    """A copy of `value` that JSON can hold; what it cannot hold becomes a string, null or `"[Circular]"`."""
    match value:
        case None | bool() | str():
            return storable(value) if isinstance(value, str) else value
        case int():
            return value if -(2**63) <= value < 2**63 else str(value)
        case float():
            return value if math.isfinite(value) else None
        case BaseException():
            return error_object(value, with_stack=False)
        case Mapping() | list() | tuple() | set() | frozenset():
            if id(cast(object, value)) in _seen or len(_seen) >= _MAX_DEPTH:
                return "[Circular]"
            seen = _seen | {id(cast(object, value))}
            if isinstance(value, Mapping):
                items = cast("Mapping[object, object]", value).items()
                return {storable(str(k)): json_safe(v, seen) for k, v in items if not callable(v)}
            return [json_safe(v, seen) for v in cast("Collection[object]", value)]
        case _:
            try:
                return storable(str(value))
            except Exception:
                return f"<{type(value).__name__}>"
