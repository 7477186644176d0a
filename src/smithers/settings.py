"""Settings: made once at the edge and passed down. Nothing else reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Literal

from smithers.records import dataclass

OTEL_ENDPOINT = "http://localhost:4318"


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
        db_pool: at most so many connections of a process read a PostgreSQL database.
        ray_address: the Ray cluster that tasks are computed on, `host:port`; else the one that Ray finds, or one of its own.
        api_key: the token of HTTP servers that are given none.
        server_trusts_any_host: whether `start_server` without a token answers requests for and from other hosts.
        serve_trusts_any_host: the same for `create_serve_app`.
        gateway_trusts_any_host: the same for a `Gateway`.
        gateway_idle_ms: after so long without anything to do `smithers gateway` ends, in milliseconds; 0 for never.
        tickets_dir: a folder of Markdown files that a `Gateway` keeps its tickets up to date with.
        accounts_file: where this user's agent accounts are noted.
        has_checkpoints: whether the files that tasks change are stored in their repository, before and after.
        has_color: whether the command line may colour what it writes to a terminal.
        log_format: `json`, `logfmt`, `pretty` or `string`; None leaves logging as it is.
        log_level: the least that is logged: `all`, `trace`, `debug`, `info`, `warning`, `error`, `fatal` or `none`.
        otel_enabled: whether traces and metrics are sent to a collector; needs the extra `otel`.
        otel_endpoint: the collector's base URL, for OTLP over HTTP.
        otel_headers: headers of what is sent there.
        otel_service_name: the service that it is sent as.
        otel_metric_interval_ms: how often metrics are sent, in milliseconds.
    """

    agents: int = 16
    sync_threads: int = field(default_factory=_sync_threads)
    lease_ms: int = 30_000
    heartbeat_ms: int = 1_000
    durability: Literal["full", "normal"] = "full"
    busy_timeout_s: float = 30.0
    root_dir: Path | None = None
    db: str | None = field(default=None, repr=False)
    db_pool: int = 8
    ray_address: str | None = None
    api_key: str | None = field(default=None, repr=False)
    server_trusts_any_host: bool = False
    serve_trusts_any_host: bool = False
    gateway_trusts_any_host: bool = False
    gateway_idle_ms: int = 0
    tickets_dir: Path | None = None
    accounts_file: Path = field(default_factory=lambda: Path.home() / ".smithers" / "accounts.json")
    has_checkpoints: bool = True
    has_color: bool = True
    log_format: str | None = None
    log_level: str | None = None
    otel_enabled: bool = False
    otel_endpoint: str = OTEL_ENDPOINT
    otel_headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    otel_service_name: str = "smithers"
    otel_metric_interval_ms: int = 60_000

    @property
    def is_observed(self) -> bool:
        """Whether logs or telemetry were asked for."""
        return self.otel_enabled or self.log_format is not None or self.log_level is not None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Settings from `SMITHERS_MAX_AGENTS`, `SMITHERS_SYNC_THREADS`, `SMITHERS_LEASE_MS`, `SMITHERS_HEARTBEAT_MS`,
        `SMITHERS_DURABILITY`, `SMITHERS_BUSY_TIMEOUT_S`, `SMITHERS_DB`, `SMITHERS_DB_POOL`, `SMITHERS_RAY_ADDRESS`,
        `SMITHERS_API_KEY`, `SMITHERS_SERVER_TRUST_ANY_HOST`, `SMITHERS_SERVE_TRUST_ANY_HOST`, `SMITHERS_GATEWAY_TRUST_ANY_HOST`,
        `SMITHERS_GATEWAY_IDLE_MS`, `SMITHERS_TICKETS_DIR`, `SMITHERS_CHECKPOINTS`, `SMITHERS_LOG_FORMAT`, `SMITHERS_LOG_LEVEL`,
        `SMITHERS_OTEL_ENABLED`, OpenTelemetry's `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`,
        `OTEL_SERVICE_NAME` and `OTEL_METRIC_EXPORT_INTERVAL`, and `NO_COLOR` and `TERM` as terminals have them;
        defaults for what is not set or not a number."""
        env = os.environ if environ is None else environ
        return cls(
            agents=_number(env, "SMITHERS_MAX_AGENTS", 16),
            sync_threads=_number(env, "SMITHERS_SYNC_THREADS", _sync_threads()),
            lease_ms=_number(env, "SMITHERS_LEASE_MS", 30_000),
            heartbeat_ms=_number(env, "SMITHERS_HEARTBEAT_MS", 1_000),
            durability="normal" if env.get("SMITHERS_DURABILITY") == "normal" else "full",
            busy_timeout_s=_number(env, "SMITHERS_BUSY_TIMEOUT_S", 30),
            db=env.get("SMITHERS_DB") or None,
            db_pool=_number(env, "SMITHERS_DB_POOL", 8),
            ray_address=env.get("SMITHERS_RAY_ADDRESS") or None,
            api_key=env.get("SMITHERS_API_KEY") or None,
            server_trusts_any_host=_is_on(env, "SMITHERS_SERVER_TRUST_ANY_HOST"),
            serve_trusts_any_host=_is_on(env, "SMITHERS_SERVE_TRUST_ANY_HOST"),
            gateway_trusts_any_host=_is_on(env, "SMITHERS_GATEWAY_TRUST_ANY_HOST"),
            gateway_idle_ms=_number(env, "SMITHERS_GATEWAY_IDLE_MS", 0),
            tickets_dir=Path(env["SMITHERS_TICKETS_DIR"]) if env.get("SMITHERS_TICKETS_DIR") else None,
            has_checkpoints=env.get("SMITHERS_CHECKPOINTS", "").strip().lower() not in ("0", "off", "false"),
            has_color=not env.get("NO_COLOR") and env.get("TERM") != "dumb",
            log_format=env.get("SMITHERS_LOG_FORMAT", "").strip().lower() or None,
            log_level=env.get("SMITHERS_LOG_LEVEL", "").strip().lower() or None,
            otel_enabled=_is_on(env, "SMITHERS_OTEL_ENABLED"),
            otel_endpoint=env.get("OTEL_EXPORTER_OTLP_ENDPOINT") or OTEL_ENDPOINT,
            otel_headers=_headers(env.get("OTEL_EXPORTER_OTLP_HEADERS", "")),
            otel_service_name=env.get("OTEL_SERVICE_NAME") or "smithers",
            otel_metric_interval_ms=_number(env, "OTEL_METRIC_EXPORT_INTERVAL", 60_000),
        )


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    return int(text) if text.isdigit() and int(text) > 0 else default


def _is_on(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").strip().lower() in ("1", "true")


def _headers(text: str) -> dict[str, str]:
    """`name=value,name=value`, values percent-encoded; what is not of this form is left out."""
    if not text:
        return {}
    from urllib.parse import unquote

    pairs = (entry.partition("=") for entry in text.split(","))
    return {name.strip(): unquote(value.strip()) for name, found, value in pairs if found and name.strip()}


def environment_secrets(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The values of environment variables that hold credentials, going by their names. Redaction looks for them."""
    from smithers.observability.redaction import is_secret_variable

    env = os.environ if environ is None else environ
    return tuple(value for name, value in env.items() if is_secret_variable(name, value))


def environment_with(**values: str) -> dict[str, str]:
    """This process's environment with some values, for a process that it starts."""
    return {**os.environ, **values}
