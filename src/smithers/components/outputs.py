"""Outputs: the registry of an author's models. Each key becomes a table; `outputs.<key>` names it in the tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, Never, TypeAlias, TypeGuard, TypeVar, cast

from pydantic import BaseModel

from smithers.components.checks import is_mapping, shown
from smithers.errors import InvalidElement, UnknownOutputSchema
from smithers.records import dataclass

M_co = TypeVar("M_co", bound=BaseModel, covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class Output(Generic[M_co]):
    """One registered output: its key and the model that validates its rows."""

    key: str
    model: type[M_co]

    def __repr__(self) -> str:
        return f"outputs.{self.key}"


OutputLike: TypeAlias = type[BaseModel] | Output[BaseModel] | str
"""What names an output: the model itself, `outputs.<key>` or the key."""


class UnknownOutput(UnknownOutputSchema, AttributeError):
    """`outputs.<key>` names a key that is not registered. An `AttributeError` too, as Python asks of attributes."""


class Outputs(Mapping[str, Output[BaseModel]]):
    """All outputs of a workflow module, by key: `outputs.finding` or `outputs["finding"]`."""

    _by_key: dict[str, Output[BaseModel]]
    _by_model: dict[type[BaseModel], Output[BaseModel] | None]

    def __init__(self, models: Mapping[str, type[BaseModel]]) -> None:
        if not is_mapping(models):
            raise InvalidElement(f"outputs are a mapping of keys to Pydantic models, not {shown(models)}")
        by_key: dict[str, Output[BaseModel]] = {}
        by_model: dict[type[BaseModel], Output[BaseModel] | None] = {}
        alike: dict[str, str] = {}
        for key, model in models.items():
            output = _output(key, model)
            # keys become names of tables, where case does not count and fooBar is foo_bar
            other = alike.setdefault(output.key.replace("_", "").lower(), output.key)
            if other != output.key:
                raise InvalidElement(f"outputs {other!r} and {output.key!r} are too alike to be names of two tables")
            by_key[output.key] = output
            by_model[output.model] = None if output.model in by_model else output
        vars(self).update(_by_key=by_key, _by_model=by_model)

    def __getattr__(self, key: str) -> Output[BaseModel]:
        by_key: dict[str, Output[BaseModel]] = vars(self).get("_by_key", {})
        if key not in by_key:
            raise UnknownOutput(f"no output {key!r}; known: {', '.join(by_key) or 'none'}", {"known": list(by_key)})
        return by_key[key]

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError("outputs cannot be changed; register them in create_smithers({…})")

    def __getitem__(self, key: str) -> Output[BaseModel]:
        return self._by_key[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key)

    def __len__(self) -> int:
        return len(self._by_key)

    def __repr__(self) -> str:
        return f"Outputs({', '.join(self._by_key)})"

    def resolve(self, output: object, where: str) -> Output[BaseModel]:
        """The registered output that `output` (model, entry or key) names.

        Raises:
            UnknownOutputSchema: it is not registered, or its model is registered under two keys; names `where`.
        """
        known = {"known": list(self._by_key)}
        if isinstance(output, Output):
            entry = cast("Output[BaseModel]", output)
            if self._by_key.get(entry.key) is entry:
                return entry
            raise UnknownOutputSchema(f"{where}: {entry!r} belongs to another create_smithers(…)", known)
        if is_model(output):
            if output not in self._by_model:
                raise UnknownOutputSchema(
                    f"{where}: {output.__name__} is not registered; add it to create_smithers({{…}})", known
                )
            found = self._by_model[output]
            if found is None:
                raise UnknownOutputSchema(
                    f"{where}: {output.__name__} is registered under several keys; name one as outputs.<key>", known
                )
            return found
        if isinstance(output, str) and output in self._by_key:
            return self._by_key[output]
        raise UnknownOutputSchema(f"{where}: unknown output {shown(output)}", known)


def is_model(value: object) -> TypeGuard[type[BaseModel]]:
    """Whether `value` is a Pydantic model class of an author's."""
    return isinstance(value, type) and issubclass(value, BaseModel) and value is not BaseModel


def _output(key: object, model: object) -> Output[BaseModel]:
    if not isinstance(key, str) or not key.isidentifier() or key.startswith("_"):
        raise InvalidElement(f"output key {shown(key)} must be an identifier that does not start with '_'")
    if hasattr(Outputs, key):
        raise InvalidElement(f"output key {key!r} is taken: outputs.{key} is a method; choose another")
    if not is_model(model):
        raise InvalidElement(f"output {key!r} must be a Pydantic model class, not {shown(model)}")
    return Output(key, model)
