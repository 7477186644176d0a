"""The tool context: where tools work, what they may do, and for which attempt. One per attempt, found by contextvar.

The engine enters `tool_context` around an attempt's work; worker threads get it with their copy of the context. How
calls are recorded is `journal.py`'s.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from smithers.errors import InvalidInput

if TYPE_CHECKING:
    from smithers.tools.journal import Journal

SandboxMode = Literal["required", "off"]
MAX_OUTPUT_BYTES = 200_000
TIMEOUT_MS = 60_000
_MOST_OUTPUT_BYTES = 10 * 1024 * 1024
_LONGEST_TIMEOUT_MS = 3_600_000
_NOT_A_ROOT = ("/proc", "/sys", "/dev")


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
    _seq: int = 0
    _positions: Counter[str] = field(default_factory=Counter[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next_call(self, tool_name: str) -> tuple[int, str | None]:
        """The number of the next call of this attempt, from 1, and its idempotency key; no key outside a run.

        The key counts the calls of one tool only: how many files an earlier attempt read does not change the key of its
        second order.
        """
        with self._lock:
            self._seq += 1
            self._positions[tool_name] += 1
            seq, position = self._seq, self._positions[tool_name]
        if self.run_id is None or self.node_id is None:
            return seq, None
        return seq, f"smithers:{self.run_id}:{self.node_id}:{self.iteration}:{tool_name}:{position}"

    def environment(self) -> dict[str, str]:
        """The variables that tell a command which attempt it works for."""
        names = {"SMITHERS_RUN_ID": self.run_id, "SMITHERS_NODE_ID": self.node_id}
        found = {name: value for name, value in names.items() if value is not None}
        if found:
            found |= {"SMITHERS_ITERATION": str(self.iteration), "SMITHERS_ATTEMPT": str(self.attempt)}
        return found


class DeferredContext:
    """A context that is made, and its folder looked at, when the first tool asks for it: most tasks use none."""

    __slots__ = ("_lock", "_made", "_make")

    def __init__(self, make: Callable[[], ToolContext]) -> None:
        self._make = make
        self._made: ToolContext | None = None
        self._lock = threading.Lock()

    def get(self) -> ToolContext:
        """The context; the same one for all who share this. Raises `InvalidInput`."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made


_current: ContextVar[ToolContext | DeferredContext | None] = ContextVar("smithers_tool_context", default=None)


def current_context() -> ToolContext:
    """The tool context of the calling code; outside one: the current folder, no network, no journal.

    Raises `InvalidInput` where the run's root folder is none that tools may work in.
    """
    found = _current.get()
    if isinstance(found, DeferredContext):
        return found.get()
    return found or ToolContext(root_dir=Path.cwd())


def enter(context: DeferredContext) -> Token[ToolContext | DeferredContext | None]:
    """Have the calling code's tools work in this context, until `leave` is called with what this gives."""
    return _current.set(context)


def leave(token: Token[ToolContext | DeferredContext | None]) -> None:
    """End what `enter` began."""
    _current.reset(token)


def make_context(
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
) -> ToolContext:
    """A tool context; see `tool_context` for the arguments. Raises `InvalidInput`."""
    if not 1 <= max_output_bytes <= _MOST_OUTPUT_BYTES:
        _refuse("max_output_bytes", max_output_bytes, f"1 to {_MOST_OUTPUT_BYTES}")
    if not 1 <= timeout_ms <= _LONGEST_TIMEOUT_MS:
        _refuse("timeout_ms", timeout_ms, f"1 to {_LONGEST_TIMEOUT_MS}")
    if sandbox not in ("required", "off"):
        _refuse("sandbox", sandbox, "'required' or 'off'")
    root = Path.cwd() if root_dir is None else Path(root_dir).absolute()
    text = str(root.resolve())
    if text == "/" or any(text == place or text.startswith(place + "/") for place in _NOT_A_ROOT):
        _refuse("root_dir", text, "a folder of files, not the whole system")
    return ToolContext(
        root_dir=root,
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
    """Within it, tools work as the arguments say, see `ToolContext`.

    Args:
        root_dir: the current folder by default.
        max_output_bytes: 1 to 10 MiB.
        timeout_ms: 1 ms to 1 hour.
        journal: takes a record of each call before and after it; only with `run_id` and `node_id`.

    Raises:
        InvalidInput: a value is out of its bounds.
    """
    context = make_context(
        root_dir,
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
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def _refuse(name: str, value: object, wanted: str) -> None:
    raise InvalidInput(f"{name} is {value!r}; it must be {wanted}", {"field": name})
