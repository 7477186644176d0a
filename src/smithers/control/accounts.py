"""Accounts: the agent accounts that a user has noted in a file, and reports of how much of each is used.

Keys are read to say whether there is one, and never leave this module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from pydantic_core import from_json

from smithers.control.views import iso
from smithers.engine.clock import Clock
from smithers.errors import AccountsFileInvalid, SmithersError
from smithers.jsons import list_of, object_of, text_of

Wire = dict[str, object]

PROVIDERS: Final = (
    "claude-code",
    "antigravity",
    "codex",
    "gemini",
    "kimi",
    "anthropic-api",
    "openai-api",
    "gemini-api",
)
MAX_FILE_BYTES: Final = 1_048_576
MAX_ACCOUNTS: Final = 256
CACHE_MS: Final = 60_000
PROBE_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Account:
    """An agent account. `api_key` is for whoever asks the provider, and for nobody else."""

    label: str
    provider: str
    config_dir: str | None = None
    api_key: str | None = field(default=None, repr=False)
    model: str | None = None
    added_at: str | None = None

    @property
    def auth_mode(self) -> str:
        """How it is paid for: by `api-key` or `subscription`."""
        return "api-key" if self.provider.endswith("-api") else "subscription"


def account_wire(account: Account) -> Wire:
    """An account, as it is sent."""
    return {
        "label": account.label,
        "provider": account.provider,
        "configDir": account.config_dir,
        "hasConfigDir": account.config_dir is not None,
        "hasApiKey": account.api_key is not None,
        "model": account.model,
        "addedAt": account.added_at,
    }


def read_accounts(file: Path) -> list[Account]:
    """The accounts in a file, `{"accounts": [{label, provider, configDir?, apiKey?, model?, addedAt?}]}` or the list alone;
    none if there is no file. Raises `AccountsFileInvalid`, which tells nothing of what is in it."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise AccountsFileInvalid(f"the file of accounts cannot be read: {error.strerror}") from error
    try:
        if len(data) > MAX_FILE_BYTES:
            raise ValueError
        value: object = from_json(data)
    except ValueError:
        raise AccountsFileInvalid("the file of accounts is not JSON, or too large") from None  # the cause quotes it
    listed = object_of(value).get("accounts", value)
    if not isinstance(listed, list):
        raise AccountsFileInvalid("the file of accounts holds no list of accounts")
    entries = list_of(cast("object", listed))
    accounts = [_account(object_of(entry), number) for number, entry in enumerate(entries)]
    if len(accounts) > MAX_ACCOUNTS or len({account.label for account in accounts}) < len(accounts):
        raise AccountsFileInvalid(f"accounts must have labels of their own, and be at most {MAX_ACCOUNTS}")
    return accounts


def _account(entry: Wire, number: int) -> Account:
    label, provider = text_of(entry.get("label")), text_of(entry.get("provider"))
    if not label or provider not in PROVIDERS:
        raise AccountsFileInvalid(
            f"account {number + 1} in the file of accounts needs a label, and one of the providers {', '.join(PROVIDERS)}"
        )
    optional = {key: text_of(entry.get(key)) or None for key in ("configDir", "apiKey", "model", "addedAt")}
    return Account(label, provider, *optional.values())


async def list_accounts(file: Path) -> list[Wire]:
    """The accounts in a file, as they are sent. Raises `AccountsFileInvalid`."""
    return [account_wire(account) for account in await asyncio.to_thread(read_accounts, file)]


# ── usage ──────────────────────────────────────────────────────────────────────────────────────────────────────────

Prober = Callable[[Account], Awaitable[Wire]]
"""Finds out how much of an account is used: `{source, windows, planType?, credits?, estimate?}`."""


async def no_probe(account: Account) -> Wire:
    """What is known of an account without asking anybody: nothing."""
    return {"source": "none", "windows": []}


class UsageDesk:
    """Reports of what is used of each account. Belongs to one event loop.

    A report is kept for a minute, and calls at the same time share one probe. An account whose probe fails shows what was
    known before, as `stale`, with the reason.
    """

    def __init__(self, file: Path, clock: Clock, probe: Prober = no_probe) -> None:
        self._file = file
        self._clock = clock
        self._probe = probe
        self._cached: tuple[int, list[Wire]] | None = None
        self._probing: asyncio.Task[list[Wire]] | None = None
        self._good: dict[tuple[str, str], Wire] = {}

    async def reports(self, *, fresh: bool = False) -> list[Wire]:
        """A report for each account; `fresh` ones do not come from the cache. A file that cannot be read is a report of
        its own."""
        if not fresh and self._cached is not None and self._clock.now_ms() - self._cached[0] < CACHE_MS:
            return self._cached[1]
        if self._probing is None:
            self._probing = asyncio.get_running_loop().create_task(self._ask())
            self._probing.add_done_callback(self._asked)
        return await asyncio.shield(self._probing)

    def _asked(self, task: asyncio.Task[list[Wire]]) -> None:
        self._probing = None
        if not task.cancelled() and task.exception() is None:
            self._cached = (self._clock.now_ms(), task.result())

    async def _ask(self) -> list[Wire]:
        try:
            accounts = await asyncio.to_thread(read_accounts, self._file)
        except AccountsFileInvalid as error:
            return [self._report("accounts", "claude-code", "subscription", {"error": error.summary})]
        known = {(account.label, account.provider) for account in accounts}
        self._good = {key: report for key, report in self._good.items() if key in known}
        return list(await asyncio.gather(*(self._one(account) for account in accounts)))

    async def _one(self, account: Account) -> Wire:
        key = (account.label, account.provider)
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                found = await self._probe(account)
        except Exception as error:
            # only our own errors are made to be read by others: what a provider says may hold a key
            reason = error.summary if isinstance(error, SmithersError) else f"the probe failed ({type(error).__name__})"
            if (before := self._good.get(key)) is not None:
                return {**before, "stale": True, "error": reason}
            return self._report(*key, account.auth_mode, {"error": reason})
        report = self._report(*key, account.auth_mode, found)
        self._good[key] = report
        return report

    def _report(self, label: str, provider: str, auth_mode: str, found: Wire) -> Wire:
        return {
            "accountLabel": label,
            "provider": provider,
            "authMode": auth_mode,
            "source": "none",
            "windows": [],
            "fetchedAt": iso(self._clock.now_ms()),
            "stale": False,
            "estimate": False,
            **found,
        }

    async def close(self) -> None:
        """Ask nobody any more."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
