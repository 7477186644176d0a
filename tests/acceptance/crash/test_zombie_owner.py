"""An owner that was suspended past its lease comes back: another has the run, and the old one must change nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import apsw
import pytest
from tests.acceptance.crash import workflows
from tests.acceptance.crash.child import Order, Role
from tests.acceptance.crash.faults import Point
from tests.acceptance.crash.observe import Witness, check, opened
from tests.acceptance.crash.pipes import Reins, insist
from tests.acceptance.crash.zygote import Ending, Zygote

from smithers.control.control import Control
from smithers.engine.leases import is_owner_dead, new_owner_id
from smithers.store.sql.session import Session

pytestmark = pytest.mark.crash

LEASE_MS = 600
HEARTBEAT_MS = 100


@dataclass
class Scene:
    """A suspended owner and its successor, in one folder."""

    folder: Path
    reins: Reins
    first: Zygote
    second: Zygote

    def order(self, role: Role, workflow: str, *, busy_timeout_s: float = 30.0, lease_ms: int = LEASE_MS) -> Order:
        """An order to a process that must show within the lease that it is alive."""
        return Order(
            str(self.folder),
            role,
            workflow,
            lease_ms=lease_ms,
            heartbeat_ms=HEARTBEAT_MS,
            busy_timeout_s=busy_timeout_s,
        )

    def stopping(self, role: Role, workflow: str, point: Point, nth: int) -> Order:
        """The same, and it is stopped around its nth write."""
        return replace(self.order(role, workflow), point=point.value, nth=nth, stops=True)

    def suspend(self, pid: int) -> None:
        """Stop a process, but not within a write: it would keep the database locked."""
        while True:
            os.kill(pid, signal.SIGSTOP)
            while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                pass
            connection = apsw.Connection(str(self.folder / workflows.DATABASE))
            try:
                connection.execute("BEGIN IMMEDIATE; ROLLBACK")
                return
            except apsw.BusyError:
                os.kill(pid, signal.SIGCONT)
            finally:
                connection.close()

    def take_over(self, workflow: str, lease_ms: int = LEASE_MS) -> tuple[Ending, int]:
        """Have the second process resume until it is let: its ending, and how often it was refused before."""
        refused = 0

        def attempt() -> Ending | None:
            nonlocal refused
            ending = self.second.run(self.order("resume", workflow, lease_ms=lease_ms))
            if ending.report.error is None:
                return ending
            assert ending.report.error in ("RunOwnerAlive", "RunStillRunning"), ending
            refused += 1
            return None

        return insist(attempt), refused

    def everything(self) -> dict[str, list[tuple[object, ...]]]:
        """All rows of all tables."""

        def query(c: Session) -> dict[str, list[tuple[object, ...]]]:
            names = [str(row[0]) for row in c.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {name: sorted(map(tuple, c.execute(f'SELECT * FROM "{name}"')), key=repr) for name in names}

        with opened(self.folder) as store:
            return store.read(query)


@pytest.fixture
def scene(zygote: Zygote, other_zygote: Zygote, tmp_path: Path) -> Iterator[Scene]:
    found = Scene(tmp_path, Reins(tmp_path), zygote, other_zygote)
    yield found
    found.reins.close()


def test_an_owner_suspended_in_a_task_commits_nothing_when_it_comes_back(scene: Scene) -> None:
    lease_ms = 3_000  # long enough that the other comes before its end, however slow this machine is
    pid = scene.first.start(scene.order("launch", "slow", lease_ms=lease_ms))
    scene.reins.until_entered()
    scene.suspend(pid)
    scene.reins.hold_no_more()
    ending, refused = scene.take_over("slow", lease_ms)
    assert ending.report.status == "finished"
    assert refused >= 1  # its lease held for a while
    before = scene.everything()

    os.kill(pid, signal.SIGCONT)
    scene.reins.let_go()
    assert scene.first.ending().report.error == "LeaseLost"

    assert scene.everything() == before
    runs = check(scene.folder)
    row = runs[workflows.RUN].outputs[("mark", "long", 0)]
    assert pid not in row  # what the successor computed has stayed
    ran = [e for e in workflows.executions(scene.folder) if e.node_id == "first"]
    assert len(ran) == 1


@pytest.mark.parametrize("nth", [3, 4, 5], ids=["after-first", "after-long", "at-the-end"])
def test_an_owner_suspended_before_a_commit_has_that_commit_refused(scene: Scene, nth: int) -> None:
    scene.reins.hold_no_more()
    pid = scene.first.start(scene.stopping("launch", "slow", Point.BEFORE, nth))
    scene.reins.until_entered()
    witness = Witness(scene.folder)
    witness.look()
    assert scene.take_over("slow")[0].report.status == "finished"
    witness.look()
    before = scene.everything()

    os.kill(pid, signal.SIGCONT)
    assert scene.first.ending().report.error == "LeaseLost"

    assert scene.everything() == before
    witness.look()


def test_a_claim_that_was_suspended_is_refused_when_somebody_was_faster(scene: Scene) -> None:
    assert scene.first.run(scene.order("drive", "asking")).report.status == "waiting-approval"
    pid = scene.first.start(scene.stopping("resume", "asking", Point.BEFORE, 2))
    scene.reins.until_entered()
    _decide(scene.folder)
    assert scene.second.run(scene.order("resume", "asking")).report.status == "finished"
    before = scene.everything()

    os.kill(pid, signal.SIGCONT)
    assert scene.first.ending().report.error == "LeaseLost"
    assert scene.everything() == before


def test_a_process_suspended_while_it_waits_for_a_decision_finds_the_run_finished(scene: Scene) -> None:
    pid = scene.first.start(scene.order("wait", "asking"))
    scene.reins.until_entered()
    scene.suspend(pid)
    _decide(scene.folder)
    assert scene.second.run(scene.order("resume", "asking")).report.status == "finished"
    before = scene.everything()

    os.kill(pid, signal.SIGCONT)
    assert scene.first.ending().report.status == "finished"
    assert scene.everything() == before


def test_an_owner_suspended_inside_a_transaction_makes_others_fail_not_hang_and_goes_on_itself(scene: Scene) -> None:
    scene.reins.hold_no_more()
    pid = scene.first.start(scene.stopping("launch", "slow", Point.WRITTEN, 4))
    scene.reins.until_entered()

    def attempt() -> Ending | None:
        ending = scene.second.run(scene.order("resume", "slow", busy_timeout_s=0.2))
        return None if ending.report.error == "RunOwnerAlive" else ending  # its lease has not run out yet

    assert insist(attempt).report.error == "StorageBusy"

    os.kill(pid, signal.SIGCONT)
    assert scene.first.ending().report.status == "finished"
    check(scene.folder)


def test_an_owner_that_was_killed_but_not_yet_reaped_counts_as_dead() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from smithers.engine.leases import new_owner_id as n; print(n(), flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    owner = process.stdout.readline().strip()
    assert not is_owner_dead(owner)
    process.kill()
    process.stdout.read()  # its end: the process is gone, but for its entry in the process table
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_owner_dead(owner)
    process.communicate()
    assert is_owner_dead(owner)
    assert not is_owner_dead(new_owner_id())


def _decide(folder: Path) -> None:
    async def main() -> None:
        with opened(folder) as store:
            await Control(store).decide(workflows.RUN, approved=True, caller=workflows.PERSON)

    asyncio.run(main())
