"""Settings: made once at the edge and passed down. Nothing else reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


def _sync_threads() -> int:
    return min(32, (os.cpu_count() or 1) + 4)


@dataclass(frozen=True, slots=True)
class Settings:
    """How an engine works.

    Attributes:
        agents: at most so many agent attempts at once in a process.
        sync_threads: threads for work that is not async.
        lease_ms: silence after which another process may take a run over, in milliseconds.
        heartbeat_ms: how often a process marks its runs as alive, in milliseconds.
        durability: `full` or `normal`, see `smithers.store.open_store`.
        busy_timeout_s: how long to wait for another process's write, in seconds.
        root_dir: the folder that tasks work in; the current one by default.
        db: the database that the command line works on; found from the current folder by default.
        api_key: the token of HTTP servers that are given none.
        server_trusts_any_host: whether `start_server` without a token answers requests for and from other hosts.
        serve_trusts_any_host: the same for `create_serve_app`.
        has_color: whether the command line may colour what it writes to a terminal.
    """

    agents: int = 16
    sync_threads: int = field(default_factory=_sync_threads)
    lease_ms: int = 30_000
    heartbeat_ms: int = 1_000
    durability: Literal["full", "normal"] = "full"
    busy_timeout_s: float = 30.0
    root_dir: Path | None = None
    db: str | None = None
    api_key: str | None = field(default=None, repr=False)
    server_trusts_any_host: bool = False
    serve_trusts_any_host: bool = False
    has_color: bool = True

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Settings from `SMITHERS_MAX_AGENTS`, `SMITHERS_SYNC_THREADS`, `SMITHERS_LEASE_MS`, `SMITHERS_HEARTBEAT_MS`,
        `SMITHERS_DURABILITY`, `SMITHERS_BUSY_TIMEOUT_S`, `SMITHERS_DB`, `SMITHERS_API_KEY`,
        `SMITHERS_SERVER_TRUST_ANY_HOST`, `SMITHERS_SERVE_TRUST_ANY_HOST`, and `NO_COLOR` and `TERM` as terminals
        have them; defaults for what is not set or not a number."""
        env = os.environ if environ is None else environ
        return cls(
            agents=_number(env, "SMITHERS_MAX_AGENTS", 16),
            sync_threads=_number(env, "SMITHERS_SYNC_THREADS", _sync_threads()),
            lease_ms=_number(env, "SMITHERS_LEASE_MS", 30_000),
            heartbeat_ms=_number(env, "SMITHERS_HEARTBEAT_MS", 1_000),
            durability="normal" if env.get("SMITHERS_DURABILITY") == "normal" else "full",
            busy_timeout_s=_number(env, "SMITHERS_BUSY_TIMEOUT_S", 30),
            db=env.get("SMITHERS_DB") or None,
            api_key=env.get("SMITHERS_API_KEY") or None,
            server_trusts_any_host=_is_on(env, "SMITHERS_SERVER_TRUST_ANY_HOST"),
            serve_trusts_any_host=_is_on(env, "SMITHERS_SERVE_TRUST_ANY_HOST"),
            has_color=not env.get("NO_COLOR") and env.get("TERM") != "dumb",
        )


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    return int(text) if text.isdigit() and int(text) > 0 else default


def _is_on(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").strip().lower() in ("1", "true")
