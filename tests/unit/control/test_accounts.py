"""Accounts: read from a file without letting a key out; usage asked for once, kept for a minute."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from smithers.control.accounts import Account, UsageDesk, list_accounts
from smithers.errors import AccountsFileInvalid, AgentQuotaExceeded
from smithers.testing import VirtualClock

KEY = "sk-very-secret"


def write(file: Path, *accounts: dict[str, object]) -> Path:
    file.write_text(json.dumps({"version": 1, "accounts": list(accounts)}))
    return file


def test_an_account_says_whether_it_has_a_key_and_not_which(tmp_path: Path) -> None:
    file = write(
        tmp_path / "accounts.json",
        {"label": "work", "provider": "claude-code", "configDir": "/c", "addedAt": "2026-01-01T00:00:00Z"},
        {"label": "api", "provider": "openai-api", "apiKey": KEY, "model": "m"},
    )

    found = asyncio.run(list_accounts(file))

    assert found == [
        {"label": "work", "provider": "claude-code", "configDir": "/c", "hasConfigDir": True, "hasApiKey": False,
         "model": None, "addedAt": "2026-01-01T00:00:00Z"},
        {"label": "api", "provider": "openai-api", "configDir": None, "hasConfigDir": False, "hasApiKey": True,
         "model": "m", "addedAt": None},
    ]  # fmt: skip
    assert KEY not in repr(Account("api", "openai-api", api_key=KEY))


def test_no_file_means_no_accounts(tmp_path: Path) -> None:
    assert asyncio.run(list_accounts(tmp_path / "none.json")) == []


@pytest.mark.parametrize(
    "text",
    [
        f'{{"accounts": [{{"label": "a", "apiKey": "{KEY}"',
        f'{{"accounts": [{{"label": "a", "provider": "nobody", "apiKey": "{KEY}"}}]}}',
        f'{{"accounts": [{{"provider": "codex", "apiKey": "{KEY}"}}]}}',
        '{"accounts": {}}',
        "7",
        '[{"label": "a", "provider": "codex"}, {"label": "a", "provider": "kimi"}]',
        "[" * 100_000,
    ],
)
def test_a_malformed_file_is_refused_and_not_quoted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "accounts.json"
    file.write_text(text)

    with pytest.raises(AccountsFileInvalid) as caught:
        asyncio.run(list_accounts(file))

    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_without_a_probe_nothing_is_known(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", {"label": "api", "provider": "gemini-api", "apiKey": KEY})

    reports = asyncio.run(UsageDesk(file, VirtualClock()).reports())

    assert reports == [
        {"accountLabel": "api", "provider": "gemini-api", "authMode": "api-key", "source": "none", "windows": [],
         "fetchedAt": "2026-01-01T00:00:00.000Z", "stale": False, "estimate": False}
    ]  # fmt: skip


def test_reports_are_kept_for_a_minute_unless_fresh_ones_are_asked_for(tmp_path: Path) -> None:
    file, clock, asked = write(tmp_path / "a.json", {"label": "x", "provider": "codex"}), VirtualClock(), list[str]()

    async def probe(account: Account) -> dict[str, object]:
        asked.append(account.label)
        return {"source": "local"}

    async def run() -> None:
        desk = UsageDesk(file, clock, probe)
        await desk.reports()
        clock.advance(59_999)
        await desk.reports()
        assert len(asked) == 1
        clock.advance(1)
        await desk.reports()
        assert len(asked) == 2
        assert (await desk.reports(fresh=True))[0]["source"] == "local"
        assert len(asked) == 3

    asyncio.run(run())


def test_calls_at_the_same_time_share_a_probe_and_one_that_gives_up_harms_no_other(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", {"label": "x", "provider": "codex"})
    asked = list[str]()

    async def run() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def probe(account: Account) -> dict[str, object]:
            asked.append(account.label)
            begun.set()
            await go_on.wait()
            return {"source": "local"}

        desk = UsageDesk(file, VirtualClock(), probe)
        first, second = asyncio.create_task(desk.reports()), asyncio.create_task(desk.reports(fresh=True))
        await begun.wait()
        first.cancel()
        go_on.set()
        assert (await second)[0]["source"] == "local"
        assert asked == ["x"]
        await desk.close()

    asyncio.run(run())


def test_a_failing_probe_shows_what_was_known_before_and_no_foreign_text(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", {"label": "x", "provider": "codex"}, {"label": "y", "provider": "kimi"})
    failures: list[Exception] = []

    async def probe(account: Account) -> dict[str, object]:
        if account.label == "y":
            raise RuntimeError(KEY)
        if failures:
            raise failures[0]
        return {"source": "local", "planType": "pro"}

    async def run() -> None:
        desk = UsageDesk(file, VirtualClock(), probe)
        first, second = await desk.reports()
        assert (first["planType"], first["stale"]) == ("pro", False)
        assert (second["source"], second["error"]) == ("none", "the probe failed (RuntimeError)")
        failures.append(AgentQuotaExceeded("try later"))
        again, _ = await desk.reports(fresh=True)
        assert (again["planType"], again["stale"], again["error"]) == ("pro", True, "try later")

    asyncio.run(run())


def test_an_unreadable_file_is_a_report_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("{")

    (report,) = asyncio.run(UsageDesk(file, VirtualClock()).reports())

    assert (report["accountLabel"], report["source"], report["windows"]) == ("accounts", "none", [])
    assert "JSON" in str(report["error"])
