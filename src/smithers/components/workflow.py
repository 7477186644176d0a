"""`create_smithers` and what it makes: the decorator, the outputs, and `SmithersWorkflow`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar, cast, overload

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from smithers.components.checks import checked_flag, described, refused_coroutine, shown
from smithers.components.context import Context, rendering
from smithers.components.element import Element
from smithers.components.flow import Workflow
from smithers.components.outputs import Outputs, is_model
from smithers.components.rundata import RunData
from smithers.errors import AuthoringError, InvalidElement, InvalidInput, SmithersError, WorkflowRenderFailed

MAX_INPUT_BYTES = 1_048_576
MAX_INPUT_DEPTH = 32
MAX_INPUT_ITEMS = 512
MAX_INPUT_STRING = 65_536
DEFAULT_DB = "smithers.db"
"""Where runs live of a workflow that names no database, if nobody else does."""

_HERE = Path(__file__).parent.parent

In_co = TypeVar("In_co", covariant=True)
InModel = TypeVar("InModel", bound=BaseModel)

BuildFn: TypeAlias = Callable[..., object]
"""A workflow function: takes the context, returns a `Workflow` element."""


class SmithersWorkflow:
    """A workflow function with its outputs, its input model and the database that its runs live in.

    Args:
        build: the function from context to tree; must be pure in the context.
        outputs: the registry of output models.
        input_model: validates the input; None takes any JSON object.
        db: path or URL of the database; None leaves it to whoever runs the workflow.
        always_render: call `build` after every step, not only when something that it read has changed.
    """

    def __init__(
        self,
        build: BuildFn,
        *,
        outputs: Outputs,
        input_model: type[BaseModel] | None,
        db: str | None,
        always_render: bool = False,
    ) -> None:
        self.build = build
        self.outputs = outputs
        self.input_model = input_model
        self._db = db
        self._elsewhere: dict[str, SmithersWorkflow] = {}
        self.always_render = always_render
        self.function_name: str = getattr(build, "__name__", "workflow")
        self.__doc__ = build.__doc__

    def __repr__(self) -> str:
        return f"SmithersWorkflow({self.function_name!r})"

    @property
    def db(self) -> str:
        """Path or URL of the database that its runs live in."""
        return DEFAULT_DB if self._db is None else self._db

    @db.setter
    def db(self, db: str) -> None:
        self._db = db

    def or_in(self, db: str | None) -> SmithersWorkflow:
        """The workflow, in this database if it names none itself; the same one each time."""
        if db is None or self._db is not None:
            return self
        found = self._elsewhere.get(db)
        if found is None:
            found = self._elsewhere[db] = copy(self)
            found.db = db
        return found

    @cached_property
    def source_path(self) -> Path | None:
        """The file that the workflow function was written in, if there is one."""
        code = getattr(inspect.unwrap(self.build), "__code__", None)
        path = Path(code.co_filename) if code is not None else None
        return path if path is not None and path.is_file() else None

    def parse_input(self, raw: object) -> tuple[object, str]:
        """The input as `ctx.input` gives it, and as JSON text for the store.

        Raises `InvalidInput` naming the field when it does not fit the model or the limits.
        """
        if raw is None:
            raw = {}
        if isinstance(raw, BaseModel):
            raw = raw.model_dump(mode="json", by_alias=True, round_trip=True)
        if not isinstance(raw, Mapping):
            raise InvalidInput(f"input must be an object, not {type(raw).__name__}")
        check_json(cast(object, raw), "input")
        try:
            data = to_json(raw, inf_nan_mode="strings")
        except ValueError as error:  # a lone surrogate
            raise InvalidInput(f"input is not JSON: {error}") from error
        if len(data) > MAX_INPUT_BYTES:
            raise InvalidInput(f"input has {len(data)} bytes as JSON; at most {MAX_INPUT_BYTES} are allowed")
        return self.load_input(data.decode()), data.decode()

    def load_input(self, text: str) -> object:
        """The stored input as `ctx.input` gives it. Raises `InvalidInput` when it does not fit the model (any more)."""
        raw = from_json(text)
        if self.input_model is None:
            return raw
        try:
            return self.input_model.model_validate(raw)
        except ValidationError as error:
            raise InvalidInput("input: " + first_problem(error), {"issues": issues(error)}) from error

    def render(self, data: RunData) -> tuple[Workflow, Context[object]]:
        """Call the workflow function once.

        Raises:
            WorkflowRenderFailed: it raised something untyped; the cause is kept.
            InvalidElement: it returned something else than one `Workflow` element.
        """
        ctx: Context[object] = Context(data, self.outputs, data.input)
        return self.build_tree(ctx), ctx

    def build_tree(self, ctx: Context[object]) -> Workflow:
        """Call the workflow function with this context; raises as `render` does."""
        with self.authoring(ctx):
            tree = self.build(ctx)
        if isinstance(tree, Workflow):
            return tree
        found = repr(tree) if isinstance(tree, Element) else described(tree)
        refused_coroutine(tree)
        raise InvalidElement(f"workflow {self.function_name!r} must return one Workflow element, not {found}")

    @contextmanager
    def authoring(self, ctx: Context[object]) -> Generator[None]:
        """For calling the author's code: gives `use_ctx()` its answer, and turns what is raised into typed errors.

        Authoring errors get `details["at"]`, the author's file and line; all else becomes `WorkflowRenderFailed`.
        """
        with rendering(ctx):
            try:
                yield
            except SmithersError as error:
                place = _author_line(error, self.source_path)
                if place and isinstance(error, AuthoringError):
                    error.details.setdefault("at", place)
                raise
            except (Exception, SystemExit) as error:  # an author's sys.exit() must not end the engine
                place = _author_line(error, self.source_path)
                said = f"{type(error).__name__}: {_text(error)}" + (f" ({place})" if place else "")
                raise WorkflowRenderFailed(
                    f"workflow {self.function_name!r} raised {said}", {"at": place} if place else None
                ) from error


class SmithersDecorator(Generic[In_co]):
    """Makes workflows of functions: `@smithers` or `@smithers(always_render=True)`."""

    def __init__(self, outputs: Outputs, input_model: type[BaseModel] | None, db: str | None) -> None:
        self._outputs, self._input_model, self._db = outputs, input_model, db

    @overload
    def __call__(self, build: Callable[[Context[In_co]], object]) -> SmithersWorkflow: ...
    @overload
    def __call__(
        self, *, always_render: bool = False
    ) -> Callable[[Callable[[Context[In_co]], object]], SmithersWorkflow]: ...
    def __call__(
        self, build: BuildFn | None = None, *, always_render: bool = False
    ) -> SmithersWorkflow | Callable[[Callable[[Context[In_co]], object]], SmithersWorkflow]:
        def decorate(function: BuildFn) -> SmithersWorkflow:
            _check_function(function)
            return SmithersWorkflow(
                function,
                outputs=self._outputs,
                input_model=self._input_model,
                db=self._db,
                always_render=checked_flag("@smithers", "always_render", always_render),
            )

        return decorate if build is None else decorate(build)


@overload
def create_smithers(
    models: Mapping[str, type[BaseModel]], *, input: type[InModel], db: str | Path | None = None
) -> tuple[SmithersDecorator[InModel], Outputs]: ...
@overload
def create_smithers(
    models: Mapping[str, type[BaseModel]], *, input: None = None, db: str | Path | None = None
) -> tuple[SmithersDecorator[dict[str, object]], Outputs]: ...
def create_smithers(
    models: Mapping[str, type[BaseModel]],
    *,
    input: type[BaseModel] | None = None,
    db: str | Path | None = None,
) -> tuple[SmithersDecorator[BaseModel] | SmithersDecorator[dict[str, object]], Outputs]:
    """Register the output models of a workflow module.

    Args:
        models: output key to Pydantic model; each key becomes a table.
        input: model of the input; without one, any JSON object is taken.
        db: path of the SQLite file (created on first use), or a database URL; without one, the database that `SMITHERS_DB`
            names, else `smithers.db`.

    Returns:
        The decorator that makes workflows, and the outputs to name in tasks.

    Raises:
        InvalidElement: a key or model cannot become a table; names it.
    """
    if input is not None and not is_model(input):
        raise InvalidElement(f"input must be a Pydantic model class, not {shown(input)}")
    outputs = Outputs(models)
    return SmithersDecorator[dict[str, object]](outputs, input, None if db is None else str(db)), outputs


def _check_function(function: object) -> None:
    """Refuse what can never render, where it is decorated."""
    name = getattr(function, "__name__", None) or shown(function)
    if not callable(function) or isinstance(function, type):
        raise InvalidElement(f"@smithers decorates a function, not {shown(function)}")
    called = function if inspect.isroutine(function) else type(function).__call__
    for one in (function, called):
        if inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one):
            raise InvalidElement(f"workflow {name!r} must be a plain function: rendering does no I/O")
        if inspect.isgeneratorfunction(one):
            raise InvalidElement(f"workflow {name!r} must return its Workflow element, not yield")
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise InvalidElement(f"workflow {name!r} must take the context, and nothing else without a default") from None
    except ValueError:  # written in C: nothing is known about its parameters
        return


def check_json(value: object, where: str, depth: int = 0) -> None:
    """Refuse what is not JSON or beyond the limits of an input. Raises `InvalidInput` naming the place."""
    if depth > MAX_INPUT_DEPTH:
        raise InvalidInput(f"{where} is nested deeper than {MAX_INPUT_DEPTH} levels")
    if isinstance(value, str):
        if len(value) > MAX_INPUT_STRING:
            raise InvalidInput(f"{where} has {len(value)} characters; at most {MAX_INPUT_STRING} are allowed")
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            if not isinstance(key, str):
                raise InvalidInput(f"{where} has the key {shown(key)}; keys are strings")
            if len(key) > MAX_INPUT_STRING:
                raise InvalidInput(
                    f"{where} has a key of {len(key)} characters; at most {MAX_INPUT_STRING} are allowed"
                )
            check_json(item, f"{where}.{key[:60]}", depth + 1)
    elif isinstance(value, (list, tuple)):
        items = cast("list[object]", value)
        if len(items) > MAX_INPUT_ITEMS:
            raise InvalidInput(f"{where} has {len(items)} items; at most {MAX_INPUT_ITEMS} are allowed")
        for index, item in enumerate(items):
            check_json(item, f"{where}[{index}]", depth + 1)
    elif not isinstance(value, (int, float, bool, type(None))):
        raise InvalidInput(f"{where} is a {type(value).__name__}, which JSON cannot hold")


def issues(error: ValidationError) -> list[dict[str, object]]:
    """The problems of a validation error as JSON: `[{path, message, type}]`."""
    return [
        {"path": ".".join(str(p) for p in e["loc"]), "message": e["msg"], "type": e["type"]}
        for e in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def first_problem(error: ValidationError) -> str:
    """One line for a person: the first problem and how many more there are."""
    found = issues(error)
    first = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{first['path'] or 'value'}: {first['message']}{more}"


def _author_line(error: BaseException, source: Path | None) -> str:
    """`file.py:12`: the innermost line of the author's file that the error came through.

    Where the workflow's file is not known, or took no part, the innermost line outside this package.
    """
    place = outside = ""
    trace = error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path == source:
            place = f"{path.name}:{trace.tb_lineno}"
        elif _HERE not in path.parents:
            outside = f"{path.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place or outside


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a broken __str__ must not hide the failure itself
        return "…"
