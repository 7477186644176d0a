"""RunData: everything durable that a render may read, kept in memory while a run is active.

The engine applies each step to it; `Context` reads from it and notes what it read. A read and a change are named by the
same small tuples (`ReadKey`), so that deciding whether to render again is one set operation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from typing import TypeAlias

from pydantic import BaseModel

from smithers.components.scope import Key, LoopState, logical_id, loops_of_suffix
from smithers.records import dataclass

ReadKey: TypeAlias = tuple[str, ...]
"""("table", output key) | ("node", logical id) | ("loops",) | ("signals", name) | ("region", id) | ("worktrees",)"""


@dataclass(frozen=True, slots=True)
class OutputRow:
    """A committed output: the row, where it came from, and its place in the run's durable completion order."""

    payload: BaseModel
    node_id: str
    iteration: int
    seq: int


@dataclass(frozen=True, slots=True)
class SignalRow:
    """A received signal; `seq` shares the run's completion order with outputs."""

    payload: object
    signal_name: str
    correlation_id: str | None
    seq: int
    received_at_ms: int


@dataclass(slots=True)
class RunData:
    """The durable facts of one run that rendering depends on."""

    run_id: str
    input: object = None
    auth: object = None
    continuation: object = None
    rows: dict[str, dict[Key, OutputRow]] = field(default_factory=dict[str, dict[Key, OutputRow]])
    by_key: dict[Key, OutputRow] = field(default_factory=dict[Key, OutputRow])
    newest: dict[str, int] = field(default_factory=dict[str, int])
    loops: dict[str, LoopState] = field(default_factory=dict[str, LoopState])
    signals: list[SignalRow] = field(default_factory=list[SignalRow])
    homes: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Logical node id to the logical ids of its enclosing loops, outermost first, as last mounted."""
    region_errors: dict[str, dict[str, object]] = field(default_factory=dict[str, dict[str, object]])
    patches: dict[str, bool] = field(default_factory=dict[str, bool])
    new_patches: dict[str, bool] = field(default_factory=dict[str, bool])
    root_dir: str = "."
    """The folder that the run works in."""
    worktrees: dict[str, str] = field(default_factory=dict[str, str])
    """Paths of worktrees by their logical ids, as last mounted."""
    is_fresh: bool = True
    """Whether the run has not yet committed a frame."""
    touched: set[ReadKey] = field(default_factory=set[ReadKey])
    """What changed since the last render."""

    def add_output(self, output_key: str, row: OutputRow) -> None:
        """Take in a committed row."""
        table = self.rows.setdefault(output_key, {})
        table.pop((row.node_id, row.iteration), None)  # one that is written again is the latest to complete
        table[(row.node_id, row.iteration)] = row
        self.by_key[(row.node_id, row.iteration)] = row
        if row.iteration >= self.newest.get(row.node_id, 0):
            self.newest[row.node_id] = row.iteration
        self.touched.add(("table", output_key))
        self.touched.add(("node", logical_id(row.node_id)))

    def set_loop(self, scoped_id: str, state: LoopState) -> None:
        """Take in a loop's new counter."""
        self.loops[scoped_id] = state
        self.touched.add(("loops",))

    def add_signal(self, row: SignalRow) -> None:
        """Take in a received signal."""
        self.signals.append(row)
        self.touched.add(("signals", row.signal_name))

    def set_region_error(self, region_id: str, error: dict[str, object]) -> None:
        """Take in the failure that a TryCatchFinally is going to handle."""
        if self.region_errors.get(region_id) != error:
            self.region_errors[region_id] = error
            self.touched.add(("region", region_id))

    def set_worktrees(self, mounted: dict[str, str]) -> None:
        """Take in which worktrees are mounted."""
        if self.worktrees != mounted:
            self.worktrees = mounted
            self.touched.add(("worktrees",))

    def remember_home(self, node_id: str, innermost: str | None) -> None:
        """Rebuild from stored rows where a node lived, so that reads resolve before a restarted run's first render."""
        if innermost is None:
            self.homes.setdefault(logical_id(node_id), ())
        else:
            self.homes[logical_id(node_id)] = (*loops_of_suffix(node_id), logical_id(innermost))

    def depends_on_change(self, reads: Iterable[ReadKey]) -> bool:
        """Whether anything that a render read has changed since."""
        return not self.touched.isdisjoint(reads)
