"""The file of issued tokens: what is kept, who is believed, and how a running authentication follows it."""

from __future__ import annotations

import asyncio
import logging
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from smithers.errors import InvalidInput
from smithers.gateway.auth.grant_file import KEPT_MS, GrantFile, GrantFollower
from smithers.gateway.auth.tokens import TokenAuth, TokenGrant, digest_of
from smithers.gateway.problems import RpcError

NOW = 1_000_000_000_000
DIGEST = digest_of(b"t")


def file_of(folder: Path) -> GrantFile:
    return GrantFile(folder / ".smithers" / "tokens.json")


def grant(token_id: str = "t", expires_at_ms: int | None = None) -> TokenGrant:
    return TokenGrant("operator", ("run:read",), "ann", token_id, NOW, expires_at_ms)


def test_what_was_added_is_read_again_and_only_the_owner_can_read_it(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    assert (file.stamp(), file.read()) == (None, [])
    file.add(DIGEST, grant(), NOW)
    (found,) = file.read()
    assert (found.digest, found.grant) == (DIGEST, grant())
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [each.name for each in file.path.parent.iterdir()] == ["tokens.json"]


def test_a_revoked_grant_stays_listed_and_is_revoked_once(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    for name in "ab":
        file.add(digest_of(name.encode()), grant(name), NOW)
    assert file.revoke(["a"], NOW + 1) == ["a"]
    assert file.revoke(["a", "nobody"], NOW + 2) == []
    assert file.revoke([digest_of(b"b")], NOW + 3) == ["b"]
    assert [each.grant.revoked_at_ms for each in file.read()] == [NOW + 1, NOW + 3]
    assert file.revoke(None, NOW + 4) == []


def test_grants_that_have_ended_long_ago_are_forgotten(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    file.add(digest_of(b"old"), grant("old", NOW), NOW)
    file.add(digest_of(b"new"), grant("new"), NOW + KEPT_MS - 1)
    assert [each.grant.token_id for each in file.read()] == ["old", "new"]
    file.add(DIGEST, grant(), NOW + KEPT_MS)
    assert [each.grant.token_id for each in file.read()] == ["new", "t"]


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    file = file_of(tmp_path)

    def add(name: str) -> None:
        file_of(tmp_path).add(digest_of(name.encode()), grant(name), NOW)

    threads = [threading.Thread(target=add, args=(f"t{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(str(each.grant.token_id) for each in file.read()) == [f"t{number}" for number in range(8)]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_not_believed(tmp_path: Path, mode: int) -> None:
    file = file_of(tmp_path)
    file.add(DIGEST, grant(), NOW)
    file.path.chmod(mode)
    with pytest.raises(InvalidInput, match="written by others"):
        file.read()


def test_neither_is_a_link(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    file.add(DIGEST, grant(), NOW)
    other = file.path.with_name("other.json")
    file.path.rename(other)
    file.path.symlink_to(other)
    with pytest.raises(InvalidInput, match="cannot read"):
        file.read()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"version": 2, "grants": []}',
        '{"version": 1}',
        '{"version": 1, "grants": [{"role": "x", "scopes": []}]}',
        '{"version": 1, "grants": [{"sha256": "zz", "role": "x", "scopes": []}]}',
        f'{{"version": 1, "grants": [{{"sha256": "{DIGEST}", "scopes": []}}]}}',
        f'{{"version": 1, "grants": [{{"sha256": "{DIGEST}", "role": "x", "scopes": [], "admin": true}}]}}',
    ],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    file = file_of(tmp_path)
    file.path.parent.mkdir()
    file.path.write_text(text)
    file.path.chmod(0o600)
    with pytest.raises(InvalidInput):
        file.read()


# ── following ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_token_comes_in_at_once_and_a_revoked_one_is_out_at_the_next_look(tmp_path: Path) -> None:
    file, auth = file_of(tmp_path), TokenAuth({"own": {"role": "operator", "scopes": ["*"]}})
    follower = GrantFollower(auth, file)
    with pytest.raises(RpcError, match="Invalid token"):
        auth.verify(DIGEST, NOW)
    file.add(DIGEST, grant(), NOW)
    identity = auth.verify(DIGEST, NOW)
    assert (identity.user_id, identity.token_id, identity.scopes) == ("ann", "t", ("run:read",))

    file.revoke(["t"], NOW + 1)
    follower.look()
    with pytest.raises(RpcError, match="revoked"):
        auth.recheck(identity, NOW + 1)
    assert auth.verify(digest_of(b"own"), NOW).role == "operator"


def test_a_file_that_goes_takes_its_grants_along_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, auth = file_of(tmp_path), TokenAuth({})
    file.add(DIGEST, grant(), NOW)
    follower = GrantFollower(auth, file)
    file.path.write_text("half a f")
    with caplog.at_level(logging.WARNING):
        follower.look()
        follower.look()
    assert len(caplog.records) == 1
    assert auth.verify(DIGEST, NOW).token_id == "t"
    file.path.unlink()
    follower.look()
    with pytest.raises(RpcError, match="Invalid token"):
        auth.verify(DIGEST, NOW)


@pytest.mark.parametrize("is_told", [True, False])
def test_changes_are_followed_also_in_a_folder_that_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    if not is_told:

        def watch_nothing(folder: Path, changed: Callable[[], None]) -> None:
            del folder, changed

        monkeypatch.setattr("smithers.gateway.auth.grant_file.watch_folder", watch_nothing)
        monkeypatch.setattr("smithers.gateway.auth.grant_file.LOOK_S", 0.01)

    async def use() -> None:
        file, auth, changed = file_of(tmp_path), TokenAuth({}), asyncio.Event()
        follower = GrantFollower(auth, file)
        auth.on_unknown = None
        auth.on_change(changed.set)
        following = asyncio.create_task(follower.run())
        steps: list[Callable[[], object]] = [
            lambda: file.add(DIGEST, grant(), NOW),
            lambda: file.revoke(["t"], NOW + 1),
            file.path.unlink,
            lambda: file.add(DIGEST, grant(), NOW),
        ]
        for step in steps:
            changed.clear()
            await asyncio.to_thread(step)
            async with asyncio.timeout(60):
                await changed.wait()
        assert auth.verify(DIGEST, NOW).token_id == "t"
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(use())


def test_a_grant_of_the_operators_own_is_not_replaced_by_one_of_the_file(tmp_path: Path) -> None:
    file, auth = file_of(tmp_path), TokenAuth({"t": {"role": "operator", "scopes": ["*"]}})
    file.add(DIGEST, grant(), NOW)
    follower = GrantFollower(auth, file)
    assert auth.verify(DIGEST, NOW).scopes == ("*",)
    file.path.unlink()
    follower.look()
    assert auth.verify(DIGEST, NOW).scopes == ("*",)
