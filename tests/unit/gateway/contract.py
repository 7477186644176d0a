"""The gateway's wire contract, as far as sockets go: schemas of frames and events, limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

from jsonschema import Draft202012Validator


@cache
def contract() -> dict[str, Any]:
    """The document."""
    return cast("dict[str, Any]", json.loads(Path(__file__).with_name("contract_frames.json").read_text()))


@cache
def schema_of(part: str, name: str) -> Callable[[Any], None] | None:
    """Holds values to a schema of the document (raises); None if there is none of this name."""
    found = contract()[part].get(name)
    if found is None:
        return None
    validator = Draft202012Validator({**found, "$defs": contract()["$defs"]})

    def check(value: Any) -> None:
        for error in validator.iter_errors(value):  # pyright: ignore[reportUnknownMemberType]
            raise AssertionError(f"{part} {name}: {error.message}")

    return check
