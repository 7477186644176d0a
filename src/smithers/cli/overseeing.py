"""Overseeing: the options of `up --supervise`, and the supervisor that goes on with other runs beside a run that is served.

The command `supervise` does the same in a process of its own: `supervising.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import positive, read_duration
from smithers.cli.options import Option
from smithers.errors import InvalidInput, SuperviseRequiresDetachOrServe
from smithers.records import dataclass

if TYPE_CHECKING:
    from smithers.cli.output import Output
    from smithers.components.workflow import SmithersWorkflow
    from smithers.engine.engine import Engine
    from smithers.settings import Settings
    from smithers.store.interface import RunRow

INTERVAL = "10s"
STALE = "30s"
AT_ONCE = 3


@dataclass(frozen=True)
class Supervision:
    """Options of `up` for a supervisor beside the run."""

    supervise: Annotated[
        bool, Option(help="With --serve or --detach: go on with runs whose process has died, too.", is_switch=True)
    ] = False
    supervise_dry_run: Annotated[bool, Option(help="With --supervise: only tell of them.", is_switch=True)] = False
    supervise_interval: Annotated[str, Option(help="With --supervise: how often to look.")] = INTERVAL
    supervise_stale_threshold: Annotated[
        str, Option(help="With --supervise: silence after which a process counts as dead.")
    ] = STALE
    supervise_max_concurrent: Annotated[int, Option(help="With --supervise: at most so many at once.")] = AT_ONCE

    @property
    def interval_ms(self) -> int:
        """How often to look."""
        return read_duration(self.supervise_interval, "--supervise-interval")

    @property
    def stale_ms(self) -> int:
        """Silence after which a process counts as dead."""
        return read_duration(self.supervise_stale_threshold, "--supervise-stale-threshold")

    def check(self, *, has_place: bool) -> None:
        """Raises `SuperviseRequiresDetachOrServe`, or `InvalidInput`: an option does not fit.

        Args:
            has_place: whether there is a process that stays, for the supervisor to be in.
        """
        if not self.supervise:
            if self != Supervision():
                raise InvalidInput("--supervise-…: belongs to --supervise")
            return
        if not has_place:
            raise SuperviseRequiresDetachOrServe("--supervise: needs --serve or --detach")
        positive(self.supervise_max_concurrent, "--supervise-max-concurrent")
        for flag, found in (("--supervise-interval", self.interval_ms), ("--supervise-stale-threshold", self.stale_ms)):
            if found <= 0:
                raise InvalidInput(f"{flag}: must be longer than nothing")

    def flags(self) -> list[str]:
        """The options again, for a process in the background."""
        if not self.supervise:
            return []
        found = ["--supervise", "--supervise-interval", self.supervise_interval]
        found += ["--supervise-stale-threshold", self.supervise_stale_threshold]
        found += ["--supervise-max-concurrent", str(self.supervise_max_concurrent)]
        return [*found, *(["--supervise-dry-run"] if self.supervise_dry_run else [])]

    def command(self) -> list[str]:
        """The options as those of `supervise`, for a process of its own."""
        found = ["--all", "--interval", self.supervise_interval, "--stale-threshold", self.supervise_stale_threshold]
        found += ["--max-concurrent", str(self.supervise_max_concurrent)]
        return [*found, *(["--dry-run"] if self.supervise_dry_run else [])]


class Oversight:
    """A supervisor in this event loop, with an engine of its own: a Ctrl-C pauses the run that was asked for, no other."""

    def __init__(self, options: Supervision, settings: Settings, out: Output) -> None:
        self._options = options
        self._settings = replace(settings, lease_ms=options.stale_ms)
        self._out = out
        self._stop = asyncio.Event()
        self._engine: Engine | None = None
        self._working: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        options = self._options
        return (
            f"interval={options.interval_ms}ms, staleThreshold={options.stale_ms}ms, "
            f"maxConcurrent={options.supervise_max_concurrent}, dryRun={str(options.supervise_dry_run).lower()}"
        )

    def start(self, engine: Engine, is_ours: Callable[[str], bool]) -> None:
        """Supervise the runs of an engine's database, but those that are its own."""
        from smithers.cli.supervising import Teller, Workflows
        from smithers.engine.engine import Engine
        from smithers.engine.host import Host

        workflows = Workflows()

        def resolve(run: RunRow) -> SmithersWorkflow | None:
            return None if is_ours(run.run_id) else workflows.of(run)

        self._engine = Engine(engine.store, self._settings)
        host = Host(
            self._engine,
            resolve,
            max_concurrent=self._options.supervise_max_concurrent,
            interval_s=self._options.interval_ms / 1000,
            is_dry=self._options.supervise_dry_run,
            on_report=Teller(self._out, is_beside=True).tell,
        )
        self._working = asyncio.create_task(host.run(self._stop))

    async def close(self) -> None:
        """Give the supervised runs up cleanly, so that any process may go on with them."""
        self._stop.set()
        if self._working is not None:
            await asyncio.wait([self._working])
        if self._engine is not None:
            await self._engine.close()
