"""Inputs: what of an input a workflow's model would pass over in silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel

MAX_NAMED = 10
MAX_CHARS = 60


def unknown_keys(model: type[BaseModel] | None, raw: object) -> str | None:
    """One line about keys of an input that its model does not know; None if there are none, or the model takes any."""
    if model is None or not isinstance(raw, Mapping) or not _passes_over(model):
        return None
    known = _known(model)
    unknown = [str(key) for key in cast("Mapping[object, object]", raw) if key not in known]
    if not unknown:
        return None
    return f"input: the workflow does not know {_named(unknown)}; it knows {_named(known) if known else 'no key'}"


def _passes_over(model: type[BaseModel]) -> bool:
    if issubclass(model, RootModel) or model.model_config.get("extra", "ignore") != "ignore":
        return False
    validators = model.__pydantic_decorators__.model_validators.values()
    return all(validator.info.mode == "after" for validator in validators)  # others may read whatever they like


def _known(model: type[BaseModel]) -> list[str]:
    config = model.model_config
    by_name = bool(config.get("populate_by_name") or config.get("validate_by_name"))
    found: list[str] = []
    for name, info in model.model_fields.items():
        alias = info.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [] if alias is None else [alias]
        found += [str(each.path[0]) if isinstance(each, AliasPath) else each for each in choices]
        if not choices or by_name:
            found.append(name)
    return found


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
    return ", ".join(repr(key[:MAX_CHARS]) for key in keys[:MAX_NAMED]) + more
