"""The state file of a gateway: one gateway a workspace, told only to its user, and to nobody through a link."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from smithers.cli.gateway_state import GatewayState, GatewayStateUnsafe, StateFile, workspace_root

STATE = GatewayState(4321, "127.0.0.1", 7331, "http://127.0.0.1:7331", "secret", "/w", "sqlite", "1", 1, 5)


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    return StateFile(Path("/w"), tmp_path)


def test_what_is_written_is_read_and_open_to_this_user_only(file: StateFile) -> None:
    assert file.read() is None
    file.write(STATE)

    assert file.read() == STATE
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert set(json.loads(file.path.read_text())) == {
        *("pid", "host", "port", "url", "token", "workspaceRoot", "backend", "version", "protocol", "startedAtMs")
    }


def test_a_folder_that_is_too_open_is_closed(tmp_path: Path, file: StateFile) -> None:
    (tmp_path / "smithers-gateway").mkdir(mode=0o777)
    (tmp_path / "smithers-gateway").chmod(0o777)
    file.write(STATE)

    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "smithers-gateway").symlink_to(tmp_path / "elsewhere")
    file = StateFile(Path("/w"), tmp_path)

    for use in (file.claim, file.read, lambda: file.write(STATE)):
        with pytest.raises(GatewayStateUnsafe):
            use()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smithers-gateway").mkdir(mode=0o700)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    file = StateFile(Path("/w"), tmp_path)

    assert file.path.parent.name == f"smithers-gateway-{me + 1}"
    with pytest.raises(GatewayStateUnsafe, match="another user"):
        file.claim()  # makes the folder, which is not the (pretended) user's either


def test_links_in_the_place_of_its_files_are_not_followed(tmp_path: Path, file: StateFile) -> None:
    victim = tmp_path / "victim"
    victim.write_text(json.dumps(STATE.wire()))
    file.path.parent.mkdir(mode=0o700)
    file.path.symlink_to(victim)

    assert file.read() is None
    file.write(replace(STATE, pid=99))
    assert json.loads(victim.read_text())["pid"] == 4321
    assert not file.path.is_symlink()


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "{", '{"pid": 0}', json.dumps({**STATE.wire(), "pid": 1})])
def test_a_file_that_cannot_be_understood_is_as_none(file: StateFile, text: str) -> None:
    file.write(STATE)
    file.path.write_text(text)

    assert file.read() is None


def test_one_at_a_time_is_the_gateway(tmp_path: Path, file: StateFile) -> None:
    other, elsewhere = StateFile(Path("/w"), tmp_path), StateFile(Path("/v"), tmp_path)

    assert file.claim()
    assert not other.claim()
    assert elsewhere.claim()
    file.write(STATE)
    file.release()
    assert file.read() is None
    assert other.claim()
    other.release()
    elsewhere.release()


def test_the_workspace_is_the_nearest_folder_with_workflows_or_a_database(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert workspace_root(deep) == deep
    (tmp_path / "smithers.db").touch()
    assert workspace_root(deep) == tmp_path
    (tmp_path / "a" / ".smithers" / "workflows").mkdir(parents=True)
    assert workspace_root(deep) == tmp_path / "a"
