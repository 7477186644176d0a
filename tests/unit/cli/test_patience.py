"""Waiting for a database: again and again, not for ever, and not for one that refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from smithers.cli import patience
from smithers.cli.patience import patiently
from smithers.errors import StorageError, StorageRefused, StorageUnreachable


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.001)


def failing(times: int, error: StorageError, tries: list[int]) -> Callable[[], Awaitable[str]]:
    async def attempt() -> str:
        tries.append(1)
        if len(tries) <= times:
            raise error
        return "open"

    return attempt


@pytest.mark.anyio
async def test_it_is_tried_until_it_is_there_and_told_of_once() -> None:
    tries, told = list[int](), list[str]()
    attempt = failing(5, StorageUnreachable("gone"), tries)
    assert await patiently(attempt, 60, asyncio.Event(), told.append) == "open"
    assert len(tries) == 6
    assert told == ["gone; waiting for it, up to 60 s", "the database is there, after 0 s"]


@pytest.mark.anyio
async def test_what_is_there_at_once_is_not_told_of() -> None:
    told = list[str]()
    assert await patiently(failing(0, StorageError(""), []), 60, asyncio.Event(), told.append) == "open"
    assert told == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "patience_s"),
    [(StorageRefused("no"), 60.0), (StorageError("no"), 60.0), (StorageUnreachable("no"), 0.0)],
)
async def test_what_is_not_waited_for_is_raised_at_once(error: StorageError, patience_s: float) -> None:
    tries = list[int]()
    with pytest.raises(StorageError, match="no"):
        await patiently(failing(1, error, tries), patience_s, asyncio.Event(), print)
    assert len(tries) == 1


@pytest.mark.anyio
async def test_patience_ends() -> None:
    tries = list[int]()
    with pytest.raises(StorageUnreachable):
        await patiently(failing(1_000_000, StorageUnreachable("no"), tries), 0.02, asyncio.Event(), lambda _: None)
    assert len(tries) > 1


@pytest.mark.anyio
async def test_who_is_told_to_end_does_not_wait() -> None:
    stop = asyncio.Event()
    stop.set()
    assert await patiently(failing(9, StorageUnreachable("no"), []), 60, stop, lambda _: None) is None
