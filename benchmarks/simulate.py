"""Simulates a PostgreSQL with many workers and waiting runs, from what things cost it (`measured.json`, made by `sizing.py`).

    python -m benchmarks.simulate            # the tables of docs/operations/scaling.md; takes a minute

Discrete events. Runs wait, and are woken at a steady rate by somebody outside. Each commit is told to every process that
listens; a process that hears of one looks for wake-ups, rests for some milliseconds, and looks again if it heard of more.
Who finds a wake-up looks which runs may go on, and tries each; one wins and drives the run to its next wait, whose commits
are told to everybody again. The server is a number of cores with one queue before them; nothing else is ever scarce in the
simulation (no disk, no locks, no network), so it finds what breaks first at the earliest.

`shared` tells of nothing but that somebody has committed, to all, and all race, as the code does today. `shards` splits
wake-ups into so many channels, of which a process listens to one. With `taking`, woken runs are taken as those of the queue
are: one statement gives a process runs that nobody else has, so nobody loses a race.
"""

from __future__ import annotations

import heapq
import json
import random
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from smithers.store.postgres.notify import REST_S, SAFETY_S

FIGURES = Path(__file__).parent / "measured.json"
SPAN_S = 4.0
MOST_WAITING = 60_000
"""Work that waits for the server, in jobs, at which a simulation ends: it does not catch up any more."""


@dataclass(frozen=True)
class World:
    """What is simulated.

    Attributes:
        workers: processes that listen.
        waiting: runs that wait; each is woken once in `wait_s` on average.
        cores: of the database server.
        shards: channels that wake-ups are told on.
        takes: whether runs are taken, instead of raced for.
    """

    workers: int
    waiting: int
    wait_s: float = 3_600.0
    cores: int = 32
    shards: int = 1
    takes: bool = False


@dataclass
class Outcome:
    """What was seen: how long runs waited to be gone on with, and what the server's cores did, in seconds of one core."""

    world: World
    span_s: float = 0.0
    woken: int = 0
    begun: list[float] = field(default_factory=list[float])
    busy_s: dict[str, float] = field(default_factory=dict[str, float])
    is_overrun: bool = False

    def share(self, kind: str | None = None) -> float:
        """The share of the server's cores that something needed; of everything without a name. Above 1 it is not met."""
        needed = sum(self.busy_s.values()) if kind is None else self.busy_s.get(kind, 0.0)
        return needed / (self.span_s * self.world.cores)

    def late_ms(self, quantile: float) -> float:
        """How long after its wake-up a run was gone on with."""
        found = sorted(self.begun)
        return found[min(len(found) - 1, int(quantile * len(found)))] * 1e3 if found else float("inf")


class Simulation:
    """One world, from empty, for some seconds."""

    def __init__(self, world: World, costs_ms: Mapping[str, float], seed: int = 1) -> None:
        self.world, self.outcome = world, Outcome(world)
        self._costs = {name: value / 1e3 for name, value in costs_ms.items()}
        self._random = random.Random(seed)
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._free = world.cores
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        count = world.workers
        self._is_busy = [False] * count  # looking, or resting after it
        self._is_told = [False] * count
        self._open: list[dict[int, float]] = [{} for _ in range(world.shards)]  # woken runs that nobody drives yet
        self._marks = [0] * world.shards  # wake-ups so far
        self._cursors = [0] * count  # those that a process knows of

    def run(self) -> Outcome:
        """Let it happen."""
        for worker in range(self.world.workers):
            self._after(self._random.uniform(0, SAFETY_S), lambda worker=worker: self._look_anyway(worker))  # type: ignore[misc]
        self._arrive()
        while self._events and self._now < SPAN_S and not self.outcome.is_overrun:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        self.outcome.span_s = max(self._now, 1e-9)
        for shard in self._open:  # those that are still waited for count with what they have waited
            self.outcome.begun += [self._now - since for since in shard.values()]
        return self.outcome

    def _after(self, pause_s: float, happen: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self._now + pause_s, self._number, happen))

    def _serve(self, kind: str, cost_s: float, then: Callable[[], None]) -> None:
        """Have the server do something."""
        self.outcome.busy_s[kind] = self.outcome.busy_s.get(kind, 0.0) + cost_s
        self._queue.append((cost_s, then))
        self.outcome.is_overrun = len(self._queue) > MOST_WAITING
        self._next()

    def _next(self) -> None:
        while self._free and self._queue:
            self._free -= 1
            cost_s, then = self._queue.popleft()
            self._after(cost_s, lambda then=then: self._served(then))  # type: ignore[misc]

    def _served(self, then: Callable[[], None]) -> None:
        self._free += 1
        then()
        self._next()

    # ── what happens ───────────────────────────────────────────────────────────────────────────────────────────────

    def _arrive(self) -> None:
        """Somebody outside wakes a run."""
        self._after(self._random.expovariate(self.world.waiting / self.world.wait_s), self._arrive)
        shard, since = self._random.randrange(self.world.shards), self._now

        def committed() -> None:
            self._marks[shard] += 1
            self.outcome.woken += 1
            self._open[shard][self.outcome.woken] = since
            self._tell(shard)

        self._serve("steps of runs", self._costs["run_server_ms"] / 4, committed)

    def _tell(self, shard: int) -> None:
        listeners = range(shard, self.world.workers, self.world.shards)
        cost_s = self._costs["note_ms"] + self._costs["note_each_ms"] * len(listeners)

        def told() -> None:
            for worker in listeners:
                self._hear(worker)

        self._serve("notifications", cost_s, told)

    def _hear(self, worker: int) -> None:
        if self._is_busy[worker]:
            self._is_told[worker] = True
        else:
            self._look(worker)

    def _look_anyway(self, worker: int) -> None:
        self._after(SAFETY_S, lambda: self._look_anyway(worker))
        self._hear(worker)

    def _look(self, worker: int) -> None:
        self._is_busy[worker], self._is_told[worker] = True, False
        self._serve("looks at commits", self._costs["look_ms"], lambda: self._looked(worker))

    def _looked(self, worker: int) -> None:
        shard = worker % self.world.shards
        if self._marks[shard] == self._cursors[worker]:
            self._after(REST_S, lambda: self._rested(worker))
            return
        self._cursors[worker] = self._marks[shard]
        self._serve("searches for runs", self._costs["sweep_ms"], lambda: self._found(worker, shard))

    def _found(self, worker: int, shard: int) -> None:
        """The search has answered: it saw what is open now."""
        if self.world.takes:
            for run in list(self._open[shard])[:1]:
                self._begin(run, shard)
        else:
            for run in list(self._open[shard]):
                self._serve("lost races", self._costs["lose_ms"], lambda run=run: self._begin(run, shard))  # type: ignore[misc]
        self._after(REST_S, lambda: self._rested(worker))

    def _begin(self, run: int, shard: int) -> None:
        since = self._open[shard].pop(run, None)
        if since is None:  # another was first
            return
        self.outcome.begun.append(self._now - since)
        # to its next wait: a claim, a result, a park
        for _ in range(3):
            self._serve("steps of runs", self._costs["run_server_ms"] / 4, lambda: self._tell(shard))

    def _rested(self, worker: int) -> None:
        self._is_busy[worker] = False
        if self._is_told[worker]:
            self._look(worker)


KINDS = ("steps of runs", "notifications", "looks at commits", "searches for runs", "lost races")


def row(world: World, costs: Mapping[str, float]) -> str:
    """A world as a line of a table."""
    found = Simulation(world, costs).run()
    shares = " | ".join(f"{100 * found.share(kind):.3g}" for kind in KINDS)
    late = (
        "does not keep up"
        if found.is_overrun or found.share() > 1
        else f"{found.late_ms(0.5):.3g} / {found.late_ms(0.99):.3g}"
    )
    kind = f"{world.shards} shard{'s' if world.shards > 1 else ''}{', taking' if world.takes else ''}"
    kind = "shared" if kind == "1 shard" else kind
    return f"| {kind} | {world.workers:,} | {world.waiting:,} | {shares} | {100 * found.share():.3g} | {late} |"


def arithmetic(costs: Mapping[str, float], world: World, running: int) -> list[str]:
    """What needs no simulation: what stands still or recurs, for a world with so many runs being driven."""
    connections = world.workers * 3
    beats = world.workers * costs["beat_ms"] + running * costs["beat_each_ms"]
    rounds = world.workers / 10
    seen = min(running, 10_000)
    orphans = rounds * costs["orphans_ms"] * seen / 10_000
    idle = world.workers / SAFETY_S * costs["look_ms"]
    return [
        "| what | how much | cores of the server |",
        "|---|---|---|",
        f"| connections: three a process, one of them idle | {connections:,} | none, but "
        f"{connections * costs['backend_mb'] / 1e3:,.0f} GB of memory |",
        f"| heartbeats, one statement a process and second, {running:,} runs driven | {running:,} rows a second | "
        f"{beats / 1e3:.1f} |",
        f"| looks for owners that have died, every 10 s a process | {rounds * seen:,.0f} rows a second | {orphans / 1e3:,.0f} |",
        f"| looks without any commit, every {SAFETY_S:g} s a process | {world.workers / SAFETY_S:,.0f} a second | {idle / 1e3:.2f} |",
        f"| {world.waiting:,} runs | {world.waiting * costs['run_disk_kb'] / 1e6:.1f} GB of disk | none |",
    ]


def report(costs: Mapping[str, float]) -> str:
    """All tables, as they stand in the documentation."""
    today = World(1, 1_000)
    worlds = [replace(today, workers=w, waiting=r) for w, r in _SIZES]
    next_step = replace(today, takes=True)
    worlds += [replace(next_step, workers=w, waiting=r) for w, r in _SIZES[2:]]
    worlds += [
        replace(next_step, workers=w, waiting=1_000_000, shards=s)
        for w, s in ((1_000, 64), (10_000, 64), (10_000, 1_024))
    ]
    lines = [
        "| wake-ups | workers | waiting runs | "
        + " | ".join(f"{kind}, %" for kind in KINDS)
        + " | all, % | p50 / p99 ms |",
        "|---|---|---|" + "---|" * (len(KINDS) + 2),
        *[row(world, costs) for world in worlds],
        "",
        *arithmetic(costs, World(10_000, 1_000_000), 100_000),
    ]
    return "\n".join(lines) + "\n"


_SIZES = ((10, 10_000), (30, 100_000), (100, 100_000), (100, 1_000_000), (1_000, 1_000_000), (10_000, 1_000_000))


def main() -> None:
    """Print the report."""
    costs: dict[str, float] = json.loads(FIGURES.read_text())["figures"]
    sys.stdout.write(report(costs))


if __name__ == "__main__":
    main()
