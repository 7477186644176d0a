"""Context: what a workflow function sees of its run. Pure reads over `RunData`, each one noted.

Lookup follows one rule: a task that lives in a loop is looked up in the loop's current iteration, a task outside where
it is; `latest` is the newest finished iteration.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar, cast, overload

from pydantic import BaseModel, ValidationError

from smithers.components.checks import checked_id, is_list, is_mapping
from smithers.components.outputs import Output, OutputLike, Outputs
from smithers.components.rundata import OutputRow, ReadKey, RunData, SignalRow
from smithers.components.scope import LoopState, logical_id, suffix_of
from smithers.components.waits import correlation
from smithers.errors import ContextOutsideWorkflow, MissingOutput
from smithers.records import dataclass

M = TypeVar("M", bound=BaseModel)
I_co = TypeVar("I_co", covariant=True)
_current: ContextVar[Context[object]] = ContextVar("smithers_context")


@dataclass(frozen=True, slots=True)
class ProofBinding:
    """A fingerprint of one row, by which a task can be bound to exactly that value."""

    table: str
    node_id: str
    iteration: int
    digest: str


class Context(Generic[I_co]):
    """The state of a run, as its workflow function sees it. The parameter is the type of the input.

    `input` is the validated input (a model where `create_smithers` was given one, else a mapping), `auth` who launched
    the run, `continuation` what an earlier run handed over with `ContinueAsNew`.
    """

    __slots__ = ("_data", "_outputs", "_prefix", "_reads", "auth", "continuation", "input", "run_id")

    def __init__(
        self, data: RunData, outputs: Outputs, input: I_co, *, prefix: str = "", reads: set[ReadKey] | None = None
    ) -> None:
        self._data = data
        self._outputs = outputs
        self._prefix = prefix  # of node ids, for a workflow that is mounted inside another
        self._reads: set[ReadKey] = set() if reads is None else reads
        self.run_id = data.run_id
        self.input = input
        self.auth = data.auth
        self.continuation = data.continuation

    # ── rows ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @overload
    def output(self, out: type[M] | Output[M], node_id: str, iteration: int | None = None) -> M: ...
    @overload
    def output(self, out: str, node_id: str, iteration: int | None = None) -> BaseModel: ...
    def output(self, out: OutputLike, node_id: str, iteration: int | None = None) -> BaseModel:
        """The row of a task. Raises `MissingOutput` when it has none yet."""
        row = self._find(out, node_id, iteration)
        if row is None:
            raise MissingOutput(
                f"{node_id!r} has no row in {self._key(out)!r} yet; use ctx.output_maybe, or order the task after it",
                {"nodeId": node_id, "iteration": iteration},
            )
        return row.payload

    @overload
    def output_maybe(self, out: type[M] | Output[M], node_id: str, iteration: int | None = None) -> M | None: ...
    @overload
    def output_maybe(self, out: str, node_id: str, iteration: int | None = None) -> BaseModel | None: ...
    def output_maybe(self, out: OutputLike, node_id: str, iteration: int | None = None) -> BaseModel | None:
        """The row of a task, or None."""
        row = self._find(out, node_id, iteration)
        return None if row is None else row.payload

    @overload
    def latest(self, out: type[M] | Output[M], node_id: str) -> M | None: ...
    @overload
    def latest(self, out: str, node_id: str) -> BaseModel | None: ...
    def latest(self, out: OutputLike, node_id: str) -> BaseModel | None:
        """The row of a task's newest finished iteration, or None. What a loop's `until` should look at."""
        key = self._key(out)
        physical, _ = self._place(node_id)
        newest = self._data.newest.get(physical)
        row = None if newest is None else self._data.rows.get(key, {}).get((physical, newest))
        return None if row is None else row.payload

    @overload
    def outputs(self, out: type[M] | Output[M]) -> list[M]: ...
    @overload
    def outputs(self, out: str) -> list[BaseModel]: ...
    def outputs(self, out: OutputLike) -> Sequence[BaseModel]:
        """All rows of an output that are durable so far, in completion order."""
        return [row.payload for row in self._rows(out)]

    def output_rows(self, out: OutputLike, node_id: str | None = None, scope: str | None = None) -> list[OutputRow]:
        """Rows with where they came from, in completion order; of one node, or of one loop scope (`"outer=2"`)."""
        rows = self._rows(out)
        if node_id is not None:
            wanted = self._prefix + node_id
            rows = [r for r in rows if wanted in (r.node_id, logical_id(r.node_id))]
        if scope is not None:
            rows = [r for r in rows if r.node_id.endswith("@@" + scope)]
        return rows

    def worktree_path(self, id: str) -> str | None:
        """The absolute path of a worktree's folder, by its id; None if it was not mounted in the last render."""
        self._reads.add(("worktrees",))
        path = self._data.worktrees.get(self._prefix + id)
        return None if path is None else self.resolve_worktree_path(path)

    def resolve_worktree_path(self, path: str | os.PathLike[str]) -> str:
        """The absolute path of a worktree's folder, by the path that its `Worktree` has."""
        return os.path.abspath(os.path.join(self._data.root_dir, path))  # noqa: PTH100, PTH118 - no link is followed

    def iteration_count(self, out: OutputLike, node_id: str) -> int:
        """How many iterations of a task have a row, in the current loop scope."""
        key = self._key(out)
        physical, _ = self._place(node_id)
        newest = self._data.newest.get(physical, -1)
        rows = self._data.rows.get(key, {})
        return sum((physical, i) in rows for i in range(newest + 1))

    def latest_array(self, value: object, schema: type[M]) -> list[M]:
        """`value` as a list of models, leniently: None is empty, JSON text is parsed, what does not fit is dropped."""
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return []
        if value is None:
            return []
        items = list(cast("list[object]", value)) if isinstance(value, (list, tuple)) else [value]
        found: list[M] = []
        for item in items:
            try:
                found.append(schema.model_validate(item))
            except (ValidationError, RecursionError):
                continue
        return found

    def prove(self, out: OutputLike, node_id: str, iteration: int | None = None) -> ProofBinding | None:
        """A fingerprint of a row (sha256 of its canonical JSON), or None when there is none."""
        row = self._find(out, node_id, iteration)
        if row is None:
            return None
        canonical = _ordered(row.payload.model_dump(), row.payload.model_dump(mode="json"))
        digest = hashlib.sha256(_canonical_json(canonical).encode()).hexdigest()
        return ProofBinding(self._key(out), row.node_id, row.iteration, digest)

    # ── loops, signals, versions ───────────────────────────────────────────────────────────────────────────────────

    @property
    def iterations(self) -> Mapping[str, int]:
        """Loop id to current iteration; a nested loop also under its plain id, for the current outer iteration."""
        self._reads.add(("loops",))
        found: dict[str, int] = {}
        for scoped, state in self._data.loops.items():
            if not scoped.startswith(self._prefix):
                continue
            found[scoped.removeprefix(self._prefix)] = state.iteration
            if "@@" in scoped and self._is_current(scoped):
                found[logical_id(scoped).removeprefix(self._prefix)] = state.iteration
        return found

    @property
    def iteration(self) -> int:
        """The iteration of the only loop; 0 when there is none or several. With several, use `iterations`."""
        found = self.iterations
        loops = {logical_id(scoped) for scoped in found}
        return found.get(loops.pop(), 0) if len(loops) == 1 else 0

    def signal_rows(self, name: str, correlation_id: str | None = None) -> list[SignalRow]:
        """All signals of a name that have arrived, consumed or not; of one correlation id if given."""
        self._reads.add(("signals", name.strip()))
        wanted = correlation(correlation_id)
        return [
            s
            for s in self._data.signals
            if s.signal_name == name.strip() and (wanted is None or s.correlation_id == wanted)
        ]

    def is_patched(self, patch_id: str) -> bool:
        """Whether this run takes the new side of a code change; decided once per run and recorded.

        Runs that begin after the gate was added answer True, runs that were already under way answer False.
        """
        known = self._data.patches.get(checked_id("is_patched", patch_id))
        if known is None:
            known = self._data.is_fresh
            self._data.patches[patch_id] = known
            self._data.new_patches[patch_id] = known
        return known

    # ── for the engine ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def reads(self) -> set[ReadKey]:
        """What has been read so far, as `RunData.touched` names it."""
        return self._reads

    def region_error(self, region_id: str) -> Mapping[str, object] | None:
        """The error that a TryCatchFinally is handling, once it is."""
        self._reads.add(("region", region_id))
        return self._data.region_errors.get(region_id)

    def row_at(self, physical_id: str, iteration: int, key: str) -> BaseModel | None:
        """The row of exactly this node and iteration."""
        self._reads.add(("node", logical_id(physical_id)))
        row = self._data.rows.get(key, {}).get((physical_id, iteration))
        return None if row is None else row.payload

    def _key(self, out: OutputLike) -> str:
        return self._outputs.resolve(out, "ctx").key

    def _find(self, out: OutputLike, node_id: str, iteration: int | None) -> OutputRow | None:
        key = self._key(out)
        physical, current = self._place(node_id)
        return self._data.rows.get(key, {}).get((physical, current if iteration is None else iteration))

    def _rows(self, out: OutputLike) -> list[OutputRow]:
        """All rows of an output; for a workflow that is mounted inside another, those of its own tasks."""
        key = self._key(out)
        self._reads.add(("table", key))
        rows = self._data.rows.get(key, {}).values()
        return [row for row in rows if row.node_id.startswith(self._prefix)] if self._prefix else list(rows)

    def _place(self, node_id: str) -> tuple[str, int]:
        """Where a logical id is now: its id with suffix, and the current iteration of its innermost loop.

        An id that brings a suffix is taken where the suffix says, in the iteration that the loop reached there.
        """
        node_id = self._prefix + node_id
        logical = logical_id(node_id)
        self._reads.add(("node", logical))
        home = self._data.homes.get(logical, ())
        if not home:
            return node_id, 0
        self._reads.add(("loops",))
        suffix = node_id[len(logical) :] or self._current_suffix(home[:-1])
        return logical + suffix, self._data.loops.get(home[-1] + suffix, _START).iteration

    def _current_suffix(self, loops: tuple[str, ...]) -> str:
        outer: tuple[tuple[str, int], ...] = ()
        for loop in loops:
            outer = (*outer, (loop, self._data.loops.get(loop + suffix_of(outer), _START).iteration))
        return suffix_of(outer)

    def _is_current(self, scoped: str) -> bool:
        outer: tuple[tuple[str, int], ...] = ()
        for part in scoped[scoped.index("@@") + 2 :].split(","):
            loop, _, iteration = part.rpartition("=")
            if self._data.loops.get(loop + suffix_of(outer), _START).iteration != int(iteration):
                return False
            outer = (*outer, (loop, int(iteration)))
        return True


_START = LoopState()


def _ordered(value: object, dumped: object) -> object:
    """`dumped`, the JSON form of `value`, with what were sets in a stable order: theirs differs between processes."""
    if is_mapping(value) and is_mapping(dumped):
        if len(value) == len(dumped):  # else a serializer of the author's gave it another shape
            pairs = zip(value.values(), dumped.items(), strict=True)
            return {key: _ordered(item, form) for item, (key, form) in pairs}
    elif is_list(value) and is_list(dumped):
        found, forms = list(value), list(dumped)
        if isinstance(value, (set, frozenset)):
            return sorted(forms, key=_canonical_json)
        if len(found) == len(forms):
            return [_ordered(item, form) for item, form in zip(found, forms, strict=True)]
    return dumped


def _canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@contextmanager
def rendering(ctx: Context[object]) -> Generator[None]:
    """Makes `use_ctx()` answer `ctx`."""
    token = _current.set(ctx)
    try:
        yield
    finally:
        _current.reset(token)


def use_ctx() -> Context[object]:
    """The context of the render that is going on, for components below the workflow function.

    Raises `ContextOutsideWorkflow` outside a render.
    """
    try:
        return _current.get()
    except LookupError:
        raise ContextOutsideWorkflow("use_ctx() works only while a workflow function is being rendered") from None


def use_patched(patch_id: str) -> bool:
    """`use_ctx().is_patched(patch_id)`: whether this run takes the new side of a code change."""
    return use_ctx().is_patched(patch_id)
