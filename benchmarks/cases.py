"""What is measured, who measures it, and what this project wants to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

SIZES = (100, 1_000, 10_000)
SUBJECTS = {"smithers": "Smithers", "raw": "raw SQLite", "dbos": "DBOS", "langgraph": "LangGraph"}
PEERS = {"dbos": ("dbos",), "langgraph": ("langgraph", "langgraph-checkpoint-sqlite")}
"""Other engines, and the packages that they need."""

Medians: TypeAlias = Mapping[str, float]
"""The medians of one figure by subject."""


@dataclass(frozen=True)
class Target:
    """A limit for this project's median; it may depend on the other subjects' medians."""

    text: str
    is_met: Callable[[Medians], bool]
    sizes: tuple[int, ...] = ()
    """Holds at these sizes only; empty: at all."""


def at_most(limit: float, unit: str, *sizes: int) -> Target:
    """The median must not be above `limit`."""
    return Target(f"≤ {limit:g} {unit}", lambda medians: medians["smithers"] <= limit, sizes)


def at_least(limit: float, unit: str) -> Target:
    """The median must not be below `limit`."""
    return Target(f"≥ {limit:,.0f} {unit}", lambda medians: medians["smithers"] >= limit)


def beside_raw(extra: float, unit: str) -> Target:
    """The median must not be more than `extra` above that of raw SQLite."""
    return Target(
        f"≤ raw + {extra:g} {unit}",
        lambda medians: "raw" in medians and medians["smithers"] <= medians["raw"] + extra,
    )


@dataclass(frozen=True)
class Figure:
    """One number of a measurement, and its row in the table."""

    key: str
    title: str
    target: Target | None = None
    largest_only: bool = False


@dataclass(frozen=True)
class Case:
    """One thing to measure: `functions` names a function of this package for each subject."""

    name: str
    title: str
    functions: Mapping[str, str]
    figures: tuple[Figure, ...]
    sizes: tuple[int, ...]
    prepare: Mapping[str, str]
    """Functions that leave in the scratch folder what a subject's measurement needs."""
    grows: Figure | None = None
    """A row for the quotient of a figure at the largest and at the smallest size."""


def _everywhere(function: str) -> dict[str, str]:
    modules = {"smithers": "engine", "raw": "raw", "dbos": "peer_dbos", "langgraph": "peer_langgraph"}
    return {subject: f"{module}:{function}" for subject, module in modules.items()}


def _alone(name: str, title: str, function: str, n: int, *figures: Figure, prepare: str | None = None) -> Case:
    """A case that only this project has."""
    return Case(name, title, {"smithers": function}, figures, (n,), {"smithers": prepare} if prepare else {})


def _throughput(name: str, title: str, function: str, cpu: Target, *figures: Figure) -> Case:
    return Case(
        name,
        title,
        _everywhere(function),
        (Figure("cpu_ms", "CPU ms a task", cpu), *figures),
        SIZES,
        {"raw": f"raw:prepare_{function}"},
        Figure("cpu_ms", "CPU a task, largest by smallest n", at_most(1.3, "×")),
    )


CASES = (
    _throughput(
        "chain",
        "chain",
        "chain",
        at_most(0.5, "ms"),
        Figure("wall_ms", "wall ms a task", beside_raw(0.5, "ms")),
        Figure("kib", "database KiB a task", at_most(1.5, "KiB"), largest_only=True),
    ),
    _throughput(
        "fan-out",
        "fan-out",
        "fan_out",
        at_most(0.2, "ms", 1_000),
        Figure("wall_ms", "wall ms a task"),
        Figure("kib", "database KiB a task", largest_only=True),
    ),
    Case(
        "runs",
        "one-task runs at once",
        _everywhere("many_runs"),
        (Figure("runs_per_s", "runs a second", at_least(1_000, "/s")), Figure("cpu_ms", "CPU ms a run")),
        (500,),
        {"raw": "raw:prepare_many_runs"},
    ),
    _alone("import", "import smithers", "startup:package", 1, Figure("ms", "ms", at_most(150, "ms"))),
    _alone(
        "module", "import of a workflow module", "startup:module", 1, Figure("ms", "ms"), Figure("cpu_ms", "CPU ms")
    ),
    _alone(
        "up",
        "`smithers up`, one task",
        "startup:command_line",
        1,
        Figure("s", "wall s", at_most(0.6, "s")),
        Figure("cpu_s", "CPU s"),
    ),
    _alone(
        "parked",
        "parked runs",
        "waiting:parked",
        10_000,
        Figure("rss_mb", "MB of memory added", at_most(20, "MB")),
        Figure("runs_per_s", "launched a second"),
    ),
    _alone(
        "notice",
        "decision elsewhere → next task, active run",
        "waiting:active",
        200,
        Figure("p50_ms", "p50 ms", at_most(50, "ms")),
        Figure("p99_ms", "p99 ms", at_most(50, "ms")),
    ),
    _alone(
        "wake",
        "decision elsewhere → next task, parked run",
        "waiting:woken",
        200,
        Figure("p50_ms", "p50 ms", at_most(50, "ms")),
        Figure("p99_ms", "p99 ms", at_most(50, "ms")),
    ),
    _alone(
        "loop",
        "loop of n iterations",
        "engine:loop",
        1_000,
        Figure("first_ms", "CPU ms an iteration, first quarter"),
        Figure("last_ms", "CPU ms an iteration, last quarter"),
        Figure("growth", "last quarter by first", at_most(1.3, "×")),
    ),
    _alone(
        "reading",
        "fan-out whose render reads all rows",
        "engine:reading",
        1_000,
        Figure("cpu_ms", "CPU ms a task"),
        Figure("wall_ms", "wall ms a task"),
        Figure("renders", "renders"),
    ),
    _alone(
        "resume",
        "resume of a chain, half finished",
        "engine:resume",
        10_000,
        Figure("wall_s", "s to the first new task"),
        Figure("cpu_s", "CPU s to the first new task"),
        prepare="engine:prepare_resume",
    ),
    Case(
        "travel-frames",
        "state of all tasks at a frame of a chain",
        {"smithers": "travel:frames", "raw": "travel:raw_frames"},
        (
            Figure("early_ms", "ms, frame 10", at_most(20, "ms")),
            Figure("late_ms", "ms, frame 10,000", at_most(20, "ms")),
        ),
        (10_000,),
        {"smithers": "travel:prepare", "raw": "travel:prepare"},
    ),
    _alone(
        "travel-shown",
        "a frame of a loop, shown",
        "travel:shown",
        10_000,
        Figure("early_ms", "ms, frame 10", at_most(20, "ms")),
        Figure("middle_ms", "ms, frame 5,000", at_most(20, "ms")),
        Figure("late_ms", "ms, frame 10,000", at_most(20, "ms")),
        prepare="travel:prepare_loop",
    ),
    _alone(
        "travel-changes",
        "rewind of a chain to frame 10, fork of its end",
        "travel:changes",
        10_000,
        Figure("rewind_ms", "ms, rewind", at_most(300, "ms")),
        Figure("fork_ms", "ms, fork", at_most(500, "ms")),
        prepare="travel:prepare",
    ),
    _alone(
        "http-runs",
        "run over HTTP, started and followed to its end, 16 at a time",
        "http:runs",
        1_000,
        Figure("runs_per_s", "runs a second", at_least(600, "/s")),
        Figure("cpu_ms", "server CPU ms a run"),
        Figure("client_cpu_ms", "client CPU ms a run"),
        Figure("rss_mb", "MB of server memory afterwards"),
    ),
    _alone(
        "http-status",
        "run's status over HTTP, server on one core",
        "http:status",
        10_000,
        Figure("reads_per_s", "reads a second", at_least(3_000, "/s")),
        Figure("cpu_ms", "server CPU ms a read"),
    ),
    _alone(
        "http-events",
        "commit → event at an HTTP client",
        "http:events",
        200,
        Figure("p50_ms", "p50 ms", at_most(3, "ms")),
        Figure("p99_ms", "p99 ms", at_most(15, "ms")),
    ),
    _alone(
        "http-idle",
        "idle HTTP server",
        "http:idle",
        1,
        Figure("rss_mb", "MB of memory", at_most(90, "MB")),
        Figure("cpu_percent", "% of a core", at_most(0.5, "%")),
    ),
    _alone(
        "gateway-runs",
        "run over one WebSocket, launched and seen to complete, 16 at a time",
        "gateway:runs",
        1_000,
        Figure("runs_per_s", "runs a second", at_least(600, "/s")),
        Figure("p50_ms", "p50 ms"),
        Figure("p99_ms", "p99 ms", at_most(60, "ms")),
        Figure("cpu_ms", "server CPU ms a run"),
        Figure("client_cpu_ms", "client CPU ms a run"),
    ),
    _alone(
        "gateway-reads",
        "RPC over 10,000 waiting runs, server on one core",
        "gateway:reads",
        10_000,
        Figure("getRun_per_s", "getRun a second", at_least(3_000, "/s")),
        Figure("getRun_cpu_ms", "server CPU ms"),
        Figure("listRuns_per_s", "listRuns (50) a second", at_least(800, "/s")),
        Figure("listRuns_cpu_ms", "server CPU ms"),
        Figure("listApprovals_per_s", "listApprovals (50) a second", at_least(500, "/s")),
        Figure("listApprovals_cpu_ms", "server CPU ms"),
        prepare="gateway:prepare_waiting",
    ),
    _alone(
        "gateway-events",
        "commit → event at a WebSocket that streams the run",
        "gateway:events",
        200,
        Figure("p50_ms", "p50 ms", at_most(3, "ms")),
        Figure("p99_ms", "p99 ms"),
    ),
    _alone(
        "gateway-fan-out",
        "commit → event at the last of n WebSockets",
        "gateway:fan_out",
        1_000,
        Figure("p50_ms", "p50 ms", at_most(60, "ms")),
        Figure("max_ms", "most ms"),
        Figure("cpu_ms", "server CPU ms an event"),
    ),
    _alone(
        "devtools-snapshot",
        "tree of a frame of n tasks, read and written out",
        "devtools:snapshot",
        1_000,
        Figure("ms", "CPU ms", at_most(20, "ms")),
        Figure("kb", "kB"),
    ),
    Case(
        "devtools-delta",
        "what changes in a tree of n tasks",
        {"smithers": "devtools:delta"},
        (
            Figure("frame_us", "CPU µs a frame that brings or takes a task", at_most(300, "µs")),
            Figure("state_us", "CPU µs a step that changes a state", at_most(200, "µs")),
            Figure("bytes", "bytes"),
        ),
        (100, 10_000),
        {},
        Figure("frame_us", "a frame, largest by smallest n", at_most(2, "×")),
    ),
    Case(
        "postgres-chain",
        "chain on PostgreSQL",
        {"smithers": "engine:postgres_chain", "dbos": "peer_dbos:postgres_chain"},
        (Figure("cpu_ms", "CPU ms a task, without the server's"), Figure("wall_ms", "wall ms a task")),
        (100, 1_000),
        {},
    ),
    Case(
        "postgres-runs",
        "one-task runs at once on PostgreSQL",
        {"smithers": "engine:postgres_runs", "dbos": "peer_dbos:postgres_runs"},
        (Figure("runs_per_s", "runs a second"), Figure("cpu_ms", "CPU ms a run, without the server's")),
        (500,),
        {},
    ),
    *(
        _alone(
            f"workers-{count}",
            f"runs of one task by {count} worker{'s' if count > 1 else ''} on one PostgreSQL",
            f"cluster:workers_{count}",
            2_000,
            Figure("runs_per_s", "runs a second"),
        )
        for count in (1, 2, 4, 8)
    ),
    _alone(
        "launch-elsewhere",
        "from a launch's answer to its start by a worker",
        "cluster:launch_latency",
        200,
        Figure("p50_ms", "p50 ms"),
        Figure("p99_ms", "p99 ms", at_most(50, "ms")),
    ),
    *(
        Case(
            f"many-{database.lower()}",
            f"{database} with n finished runs",
            {"smithers": f"cluster:many_{database.lower()}"},
            (
                Figure("launch_ms", "launch ms"),
                Figure("list_ms", "list of 50 ms"),
                Figure("get_ms", "get ms"),
            ),
            (1_000, 1_000_000),
            {},
            Figure("list_ms", "a list, largest by smallest n", at_most(1.5, "×")),
        )
        for database in ("SQLite", "Postgres")
    ),
    Case(
        "parked-postgres",
        "a launch to its end by a worker, with n waiting runs",
        {"smithers": "cluster:parked_postgres"},
        (Figure("p50_ms", "p50 ms"), Figure("rss_mb", "MB of the worker's memory")),
        (1_000, 100_000),
        {},
        Figure("p50_ms", "largest by smallest n", at_most(1.5, "×")),
    ),
    _alone(
        "gateway-idle",
        "idle gateway before 10,000 waiting runs",
        "gateway:idle",
        10_000,
        Figure("rss_mb", "MB of memory", at_most(100, "MB")),
        Figure("cpu_percent", "% of a core", at_most(0.5, "%")),
        prepare="gateway:prepare_waiting",
    ),
)
