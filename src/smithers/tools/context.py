"""The tool context: where tools work, what they may do, and for which attempt. One per attempt, found by contextvar.

It is the attempt's own, which `smithers.ambient` names, unless the calling code is within a `tool_context` of its own;
worker threads get both with their copy of the context. How calls are recorded is `journal.py`'s.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from smithers import ambient
from smithers.ambient import LONGEST_TIMEOUT_MS, MOST_OUTPUT_BYTES, SandboxMode
from smithers.errors import InvalidInput

if TYPE_CHECKING:
    from smithers.ambient import ToolHost
    from smithers.tools.journal import Journal

MAX_OUTPUT_BYTES = 200_000
TIMEOUT_MS = 60_000
_NOT_A_ROOT = ("/proc", "/sys", "/dev")


class _Calls:
    """Counts an attempt's calls, over all contexts that they are made in."""

    def __init__(self) -> None:
        self._all = 0
        self._by_tool = Counter[str]()
        self._lock = threading.Lock()

    def count(self, tool_name: str) -> tuple[int, int]:
        """The number of the next call: among all, and among those of this tool."""
        with self._lock:
            self._all += 1
            self._by_tool[tool_name] += 1
            return self._all, self._by_tool[tool_name]


@dataclass(slots=True, eq=False, kw_only=True)
class ToolContext:
    """What the built-in tools and `define_tool` know about the work that calls them.

    Attributes:
        root_dir: the folder that files are read and written below; absolute.
        allow_network: whether commands may reach other machines.
        max_output_bytes: the most that a tool reads, writes or returns, in bytes.
        timeout_ms: the longest that a command or search may take, in milliseconds.
        sandbox: `"required"`: commands run isolated or not at all; `"off"`: without isolation, by explicit choice.
        aborted: set when the attempt should stop.
        on_touch: told before files are changed; the engine's.
        git_dir: the git directory of the repository that the folder is a worktree of, if it is one: commands may read it.
        spent_keys: idempotency keys of calls whose effects were undone: whoever was given one has that call on record.
        own_root: the folder of the attempt that it works for, where code has chosen another one.

    Raises:
        InvalidInput: a value is out of its bounds.
    """

    root_dir: Path
    allow_network: bool = False
    max_output_bytes: int = MAX_OUTPUT_BYTES
    timeout_ms: int = TIMEOUT_MS
    run_id: str | None = None
    node_id: str | None = None
    iteration: int = 0
    attempt: int = 0
    journal: Journal | None = None
    sandbox: SandboxMode = "required"
    aborted: threading.Event | None = None
    on_touch: Callable[[], None] | None = None
    git_dir: Path | None = None
    spent_keys: frozenset[str] = frozenset()
    own_root: Path | None = None
    _calls: _Calls = field(default_factory=_Calls)
    _is_checked: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_output_bytes <= MOST_OUTPUT_BYTES:
            _refuse("max_output_bytes", self.max_output_bytes, f"1 to {MOST_OUTPUT_BYTES}")
        if not 1 <= self.timeout_ms <= LONGEST_TIMEOUT_MS:
            _refuse("timeout_ms", self.timeout_ms, f"1 to {LONGEST_TIMEOUT_MS}")
        if self.sandbox not in ("required", "off"):
            _refuse("sandbox", self.sandbox, "'required' or 'off'")

    def check_root(self) -> None:
        """Hold the folder to what `checked_root` asks of it, once. Raises `InvalidInput`."""
        if not self._is_checked:
            checked_root(self.root_dir)
            self._is_checked = True

    def adopt(self, outer: ToolContext) -> None:
        """Work for the attempt that another context works for: its name, journal, count of calls and end."""
        self.run_id, self.node_id = outer.run_id, outer.node_id
        self.iteration, self.attempt = outer.iteration, outer.attempt
        self.journal, self._calls, self.spent_keys = outer.journal, outer._calls, outer.spent_keys
        self.aborted, self.on_touch = self.aborted or outer.aborted, outer.on_touch
        self.own_root = outer.own_root or outer.root_dir

    @property
    def is_in_own_folder(self) -> bool:
        """Whether it works in the folder of its attempt, or in one below."""
        return self.own_root is None or self.root_dir.resolve().is_relative_to(self.own_root.resolve())

    @property
    def is_isolated(self) -> bool:
        """Whether a program can reach nothing but the files of that folder."""
        return self.sandbox == "required" and not self.allow_network and self.is_in_own_folder

    def touch(self) -> None:
        """Files are about to be changed: the engine stores them as they are, if nobody has changed any before. Blocks."""
        if self.on_touch is not None:
            self.on_touch()

    def next_call(self, tool_name: str) -> tuple[int, str | None]:
        """The number of the next call of this attempt, from 1, and its idempotency key; no key outside a run.

        The key counts the calls of one tool only: how many files an earlier attempt read does not change the key of its
        second order. After the effect of the call was undone, it is another one: with the old one the order would not be
        placed again.
        """
        seq, position = self._calls.count(tool_name)
        if self.run_id is None or self.node_id is None:
            return seq, None
        key = first = f"smithers:{self.run_id}:{self.node_id}:{self.iteration}:{tool_name}:{position}"
        again = 1
        while key in self.spent_keys:
            again += 1
            key = f"{first}:{again}"
        return seq, key

    def environment(self) -> dict[str, str]:
        """The variables that tell a command which attempt it works for."""
        names = {"SMITHERS_RUN_ID": self.run_id, "SMITHERS_NODE_ID": self.node_id}
        found = {name: value for name, value in names.items() if value is not None}
        if found:
            found |= {"SMITHERS_ITERATION": str(self.iteration), "SMITHERS_ATTEMPT": str(self.attempt)}
        return found


class _Chosen(NamedTuple):
    """A context that code has chosen, and the attempt that it did so in: work of another attempt is not bound by it."""

    attempt: ToolHost | None
    context: ToolContext


_chosen: ContextVar[_Chosen | None] = ContextVar("smithers_tool_context", default=None)


def current_context() -> ToolContext:
    """The tool context of the calling code; outside a task: the current folder, no network, no journal.

    Raises `InvalidInput` where the run's root folder is none that tools may work in.
    """
    host, chosen = ambient.attempt.get(), _chosen.get()
    if chosen is not None and chosen.attempt is host:
        return chosen.context
    if host is None:
        return ToolContext(root_dir=Path.cwd())
    context = host.tool_context()
    context.check_root()
    return context


def checked_root(root_dir: Path | str | None) -> Path:
    """The absolute path of a folder that tools may work in; of the current one for None. Raises `InvalidInput`."""
    root = Path.cwd() if root_dir is None else Path(root_dir).absolute()
    text = str(root.resolve())
    if text == "/" or any(text == place or text.startswith(place + "/") for place in _NOT_A_ROOT):
        _refuse("root_dir", text, "a folder of files, not the whole system")
    return root


@contextmanager
def tool_context(
    root_dir: Path | str | None = None,
    *,
    allow_network: bool = False,
    max_output_bytes: int = MAX_OUTPUT_BYTES,
    timeout_ms: int = TIMEOUT_MS,
    run_id: str | None = None,
    node_id: str | None = None,
    iteration: int = 0,
    attempt: int = 0,
    journal: Journal | None = None,
    sandbox: SandboxMode = "required",
    aborted: threading.Event | None = None,
) -> Generator[ToolContext]:
    """Within it, tools work as the arguments say, see `ToolContext`. In a task they go on to work for its attempt: their
    calls are recorded, keyed and stopped as all others of it are.

    Args:
        root_dir: the current folder by default.
        max_output_bytes: 1 to 10 MiB.
        timeout_ms: 1 ms to 1 hour.
        run_id, node_id, iteration, attempt: an attempt to work for that is not the engine's.
        journal: takes a record of each call before and after it; only with `run_id` and `node_id`.

    Raises:
        InvalidInput: a value is out of its bounds.
    """
    context = ToolContext(
        root_dir=checked_root(root_dir),
        allow_network=allow_network,
        max_output_bytes=max_output_bytes,
        timeout_ms=timeout_ms,
        run_id=run_id,
        node_id=node_id,
        iteration=iteration,
        attempt=attempt,
        journal=journal,
        sandbox=sandbox,
        aborted=aborted,
    )
    host, outer = ambient.attempt.get(), _chosen.get()
    if host is not None and run_id is None and journal is None:
        context.adopt(outer.context if outer is not None and outer.attempt is host else host.tool_context())
    token = _chosen.set(_Chosen(host, context))
    try:
        yield context
    finally:
        _chosen.reset(token)


def _refuse(name: str, value: object, wanted: str) -> None:
    raise InvalidInput(f"{name} is {value!r}; it must be {wanted}", {"field": name})
