"""Carries a run through kills to its end, and says whether it came to what an undisturbed run comes to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from tests.acceptance.crash import workflows
from tests.acceptance.crash.child import ACKNOWLEDGED, NEEDS_SOMEBODY, Order, Role, newest
from tests.acceptance.crash.faults import Point
from tests.acceptance.crash.observe import Story, Witness, opened, order_of, stories
from tests.acceptance.crash.zygote import Ending, Zygote

from smithers.control.control import Control

MOST_PROCESSES = 200
"""More for one run is a run that does not get on."""


@dataclass(frozen=True)
class Outcome:
    """What an undisturbed run comes to: the stories of all its runs."""

    runs: dict[str, Story]


def reference(zygote: Zygote, folder: Path, workflow: str, role: Role) -> Outcome:
    """The outcome of an undisturbed run."""
    ending = zygote.run(Order(str(folder), role, workflow))
    assert ending.report.status is not None, ending
    return Outcome(stories(Witness(folder).look()))


class Trial:
    """One run in a folder of its own, through any number of processes."""

    def __init__(self, zygote: Zygote, order: Order) -> None:
        self._zygote = zygote
        self.order = order
        self.folder = Path(order.folder)
        self.folder.mkdir()
        self.witness = Witness(self.folder)
        self.kills = 0
        self.status: str | None = None

    def go(self, *, point: Point | None = None, nth: int = 0, after_s: float | None = None) -> bool:
        """Let one process work, until it is killed (True), or the run has ended or waits for somebody (False)."""
        order = replace(self.order, point=None if point is None else point.value, nth=nth, after_s=after_s)
        ending = self._zygote.run(order)
        self._judge(ending)
        return ending.was_killed

    def _judge(self, ending: Ending) -> None:
        assert ending.report.error is None, (ending, self._log())
        assert ending.was_killed or ending.signal == 0, ending
        self.kills += ending.was_killed
        self.witness.look()
        self._check_acknowledged()
        self.status = ending.report.status

    def _check_acknowledged(self) -> None:
        """What somebody was told is done is there."""
        path = self.folder / ACKNOWLEDGED
        if not path.exists():
            return
        with opened(self.folder) as store:
            control = Control(store)
            for line in path.read_text().splitlines():
                kind, _, name = line.partition(" ")
                report = asyncio.run(control.inspect(self.order.run_id))
                if kind == "decision":
                    assert [a.status for a in report.approvals if a.node_id == name] == ["approved"]
                elif kind == "cancel":
                    assert report.run.cancel_requested_at_ms is not None or report.run.status == "cancelled"

    def answer(self) -> None:
        """Give the run what it waits for, from this process."""
        if not (self.folder / workflows.DATABASE).exists():
            return

        async def main() -> None:
            with opened(self.folder) as store:
                row = await newest(store, self.order.run_id)
                if row is not None and row.status in (*NEEDS_SOMEBODY, "running"):
                    await workflows.answer(Control(store), row.run_id, [])

        asyncio.run(main())

    def finish(self) -> None:
        """Work on undisturbed, to the end."""
        for _ in range(MOST_PROCESSES):
            killed = self.go()
            assert not killed
            if self.status not in NEEDS_SOMEBODY:
                return
            self.answer()
        raise AssertionError("the run does not come to an end")

    def compare(self, expected: Outcome) -> None:
        """Hold the outcome to that of an undisturbed run."""
        runs = self.witness.look()
        found = stories(runs)
        assert found.keys() == expected.runs.keys()
        for name, story in expected.runs.items():
            for part in ("status", "nodes", "outputs", "failures", "approvals", "signals", "ending"):
                assert getattr(found[name], part) == getattr(story, part), (name, part)
            assert found[name].told.keys() == story.told.keys()
            for key, told in story.told.items():
                assert found[name].told[key] == told, (name, key)
        if self.order.workflow == "mixed":
            assert order_of(runs[self.order.run_id], workflows.IN_ORDER) == list(workflows.IN_ORDER)

    def _log(self) -> str:
        path = self.folder / "child.log"
        return path.read_text()[-4000:] if path.exists() else ""
