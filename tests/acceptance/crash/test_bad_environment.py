"""The disk fills, turns read-only, is damaged or is held by somebody: a typed error, nothing lost, and the run goes on after."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from tests.acceptance.crash.child import Order
from tests.acceptance.crash.observe import Witness
from tests.acceptance.crash.workflows import DATABASE
from tests.acceptance.crash.zygote import Zygote

from smithers.errors import StorageError, StorageFull, StorageReadOnly
from smithers.store import open_store

pytestmark = pytest.mark.crash


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of one megabyte. Only where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=1m")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(folder: Path, options: str) -> None:
    """Mount a disk in memory, or mount it anew with other options."""
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this process may not mount a disk: {made.stderr.strip()}")


def test_a_full_disk_is_a_typed_error_and_the_run_goes_on_once_there_is_room(zygote: Zygote, disk: Path) -> None:
    witness = Witness(disk)
    assert zygote.run(Order(str(disk), "drive", "bulky")).report.error == "StorageFull"
    mount(disk, "remount,size=1200k")  # room for SQLite to put its log in order, not for the rest of the run
    before = witness.look()["book"].finished
    assert zygote.run(Order(str(disk), "drive", "bulky")).report.error == "StorageFull"
    mount(disk, "remount,size=20m")
    assert before <= witness.look()["book"].finished
    assert zygote.run(Order(str(disk), "drive", "bulky")).report.status == "finished"
    witness.look()


def test_a_full_database_is_a_typed_error_in_the_process_that_can_go_on_later(tmp_path: Path) -> None:
    store = open_store(tmp_path / DATABASE)
    try:
        pages = int(str(store.read(lambda c: c.execute("PRAGMA page_count").fetchall()[0][0])))
        store.write(lambda c: c.execute("CREATE TABLE t (x)").fetchall())
        store.write(lambda c: c.execute(f"PRAGMA max_page_count={pages + 10}").fetchall())
        with pytest.raises(StorageFull):
            store.write(lambda c: c.execute("INSERT INTO t VALUES (zeroblob(1000000))").fetchall())
        store.write(lambda c: c.execute("PRAGMA max_page_count=100000").fetchall())
        store.write(lambda c: c.execute("INSERT INTO t VALUES (zeroblob(1000000))").fetchall())
    finally:
        store.close()


def test_a_disk_that_turns_read_only_is_a_typed_error_and_the_run_goes_on_afterwards(
    zygote: Zygote, disk: Path
) -> None:
    witness = Witness(disk)
    mount(disk, "remount,size=20m")
    assert zygote.run(Order(str(disk), "drive", "asking")).report.status == "waiting-approval"
    witness.look()
    (disk / "child.log").unlink()
    mount(disk, "remount,ro")
    with pytest.raises(StorageReadOnly):
        open_store(disk / DATABASE)
    mount(disk, "remount,rw")
    assert zygote.run(Order(str(disk), "play", "asking")).report.status == "finished"
    witness.look()


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not hold the administrator back")
def test_a_file_without_write_permission_is_a_typed_error(zygote: Zygote, tmp_path: Path) -> None:
    assert zygote.run(Order(str(tmp_path), "drive", "asking")).report.status == "waiting-approval"
    (tmp_path / DATABASE).chmod(0o444)
    with pytest.raises(StorageReadOnly):
        open_store(tmp_path / DATABASE)
    (tmp_path / DATABASE).chmod(0o644)
    assert zygote.run(Order(str(tmp_path), "play", "asking")).report.status == "finished"


def test_a_path_that_cannot_be_a_database_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError):
        open_store(tmp_path / "file" / DATABASE)
    with pytest.raises(StorageError):
        open_store(tmp_path)
    with pytest.raises(StorageError):
        open_store(tmp_path / "missing" / DATABASE)


@pytest.mark.parametrize("damage", ["header", "truncated", "page"])
def test_a_damaged_file_is_a_typed_error_and_the_run_goes_on_from_a_copy(
    damage: str, zygote: Zygote, tmp_path: Path
) -> None:
    witness = Witness(tmp_path)
    assert zygote.run(Order(str(tmp_path), "drive", "asking")).report.status == "waiting-approval"
    witness.look()
    path = tmp_path / DATABASE
    sound = path.read_bytes()
    match damage:
        case "header":
            path.write_bytes(b"garbage!" * 16 + sound[128:])
        case "truncated":
            path.write_bytes(sound[: len(sound) // 2])
        case _:
            path.write_bytes(sound[:4096] + b"\xff" * (len(sound) - 4096))
    assert zygote.run(Order(str(tmp_path), "play", "asking")).report.error == "StorageCorrupt"
    for leftover in tmp_path.glob(f"{DATABASE}-*"):
        leftover.unlink()
    path.write_bytes(sound)
    assert zygote.run(Order(str(tmp_path), "play", "asking")).report.status == "finished"
    witness.look()


def test_a_database_that_another_process_keeps_locked_is_a_typed_error(zygote: Zygote, tmp_path: Path) -> None:
    witness = Witness(tmp_path)
    assert zygote.run(Order(str(tmp_path), "drive", "asking")).report.status == "waiting-approval"
    witness.look()
    blocker = apsw.Connection(str(tmp_path / DATABASE))
    try:
        blocker.execute("BEGIN IMMEDIATE")
        ending = zygote.run(Order(str(tmp_path), "play", "asking", busy_timeout_s=0.1))
        assert ending.report.error == "StorageBusy"
        blocker.execute("ROLLBACK")
    finally:
        blocker.close()
    assert zygote.run(Order(str(tmp_path), "play", "asking")).report.status == "finished"
    witness.look()
