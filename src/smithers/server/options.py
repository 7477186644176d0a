"""Options of `start_server`, checked before anything is bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from smithers.ambient import SandboxMode
from smithers.asgi.embed import is_loopback_bind
from smithers.control.adapter import SmithersDb
from smithers.control.webhooks import WebhookSource
from smithers.engine.tooling import ToolOptions
from smithers.errors import InvalidInput, ServerInsecureBind, ServerIntegrationsRequireDb
from smithers.settings import Settings


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What `start_server` was asked for; times in milliseconds."""

    host: str
    port: int
    db: str | None
    auth_token: str | None = field(repr=False)
    insecure: bool
    max_body_bytes: int
    root_dir: Path | None
    tools: ToolOptions
    headers_timeout: float
    request_timeout: float
    webhooks: tuple[WebhookSource, ...]
    settings: Settings

    @property
    def trusts_any_host(self) -> bool:
        """Whether requests for and from other hosts are answered although there is no token."""
        return self.insecure or self.settings.server_trusts_any_host


def checked_options(
    *,
    host: str,
    port: int,
    db: str | Path | SmithersDb | None,
    auth_token: str | None,
    insecure: bool,
    max_body_bytes: int,
    root_dir: str | Path | None,
    allow_network: bool,
    sandbox: SandboxMode,
    max_output_bytes: int | None,
    tool_timeout_ms: int | None,
    headers_timeout: float,
    request_timeout: float,
    integrations: Mapping[str, object] | None,
    settings: Settings | None,
) -> ServerOptions:
    """The options if they fit. Raises `InvalidInput`, `ServerInsecureBind` or `ServerIntegrationsRequireDb`."""
    settings = settings or Settings.from_environment()
    token = settings.api_key if auth_token is None else auth_token or None
    if not token and not insecure and not is_loopback_bind(host):
        raise ServerInsecureBind(
            f"refusing to listen on {host} without a token; give auth_token, or insecure=True", {"host": host}
        )
    if not 0 <= port <= 65_535:
        raise InvalidInput(f"port must be 0 to 65535, not {port}")
    if max_body_bytes < 1:
        raise InvalidInput(f"max_body_bytes must be at least 1, not {max_body_bytes}")
    for name, value in (("headers_timeout", headers_timeout), ("request_timeout", request_timeout)):
        if value < 0:
            raise InvalidInput(f"{name} must not be negative")
    sources = _sources(integrations)
    if sources and db is None:
        raise ServerIntegrationsRequireDb("webhooks need a database of the server's own; give db")
    return ServerOptions(
        host=host,
        port=port,
        db=db.db if isinstance(db, SmithersDb) else None if db is None else str(db),
        auth_token=token,
        insecure=insecure,
        max_body_bytes=max_body_bytes,
        root_dir=None if root_dir is None else Path(root_dir).resolve(),
        tools=ToolOptions(
            allow_network=allow_network, sandbox=sandbox, max_output_bytes=max_output_bytes, timeout_ms=tool_timeout_ms
        ).check(),
        headers_timeout=headers_timeout,
        request_timeout=request_timeout,
        webhooks=sources,
        settings=settings,
    )


def _sources(integrations: Mapping[str, object] | None) -> tuple[WebhookSource, ...]:
    given = (integrations or {}).get("webhooks") or ()
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InvalidInput("integrations.webhooks must be a list")
    each_given = cast("Sequence[WebhookSource | Mapping[str, object]]", given)
    sources = tuple(WebhookSource.of(each) for each in each_given)
    if len({source.id for source in sources}) < len(sources):
        raise InvalidInput("integrations.webhooks: two sources share an id")
    return sources
