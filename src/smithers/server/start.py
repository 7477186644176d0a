"""`start_server`: one call from a program to a bound HTTP server in a thread of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from smithers.ambient import SandboxMode
from smithers.asgi.embed import ServerThread, bind
from smithers.control.adapter import SmithersDb
from smithers.server.app import open_app
from smithers.server.options import checked_options
from smithers.settings import Settings


def start_server(
    *,
    port: int = 7331,
    host: str = "127.0.0.1",
    db: str | Path | SmithersDb | None = None,
    auth_token: str | None = None,
    insecure: bool = False,
    max_body_bytes: int = 1_048_576,
    root_dir: str | Path | None = None,
    allow_network: bool = False,
    sandbox: SandboxMode = "required",
    max_output_bytes: int | None = None,
    tool_timeout_ms: int | None = None,
    integrations: Mapping[str, object] | None = None,
    headers_timeout: float = 30_000,
    request_timeout: float = 60_000,
    settings: Settings | None = None,
) -> ServerThread:
    """Start an HTTP server for runs of workflow files. It is bound and answers when this returns.

    Args:
        port: 0 for any free one; the handle's `url` tells which.
        host: the address to listen on; one beyond this machine needs a token, or `insecure`.
        db: the server's own database; runs of workflows with other databases are mirrored into it.
        auth_token: what requests must carry; by default `SMITHERS_API_KEY`. An empty one asks for nothing.
        insecure: allow an address beyond this machine, and any Host, without a token.
        max_body_bytes: the largest request body.
        root_dir: the folder that workflow files must be in and tasks work in.
        allow_network: whether tools of these runs may use the network.
        sandbox: `"off"` runs the commands of these tools without isolation.
        max_output_bytes: the most that such a tool reads, writes or returns: 1 to 10 MiB, 200,000 by default.
        tool_timeout_ms: the longest that a command or search of theirs takes: 1 ms to 1 hour, a minute by default.
        integrations: `{"webhooks": [WebhookSource, …]}`, or mappings with their fields.
        headers_timeout: milliseconds for a request's head to arrive in; 0 for no limit.
        request_timeout: milliseconds for the whole request to arrive in; 0 for no limit.
        settings: how engines work; from the environment by default.

    Returns:
        A handle with `url`, `port`, `close()` and `wait()`; also a context manager, plain and async.

    Raises:
        ServerInsecureBind, ServerIntegrationsRequireDb, InvalidInput: the options do not fit.
        OSError: the address cannot be bound.
        StorageError: `db` cannot be opened.
    """
    options = checked_options(
        host=host,
        port=port,
        db=db,
        auth_token=auth_token,
        insecure=insecure,
        max_body_bytes=max_body_bytes,
        root_dir=root_dir,
        allow_network=allow_network,
        sandbox=sandbox,
        max_output_bytes=max_output_bytes,
        tool_timeout_ms=tool_timeout_ms,
        headers_timeout=headers_timeout,
        request_timeout=request_timeout,
        integrations=integrations,
        settings=settings,
    )
    return ServerThread(
        bind(options.host, options.port),
        lambda: open_app(options),
        headers_timeout_s=options.headers_timeout / 1000,
        request_timeout_s=options.request_timeout / 1000,
    )
