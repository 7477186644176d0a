"""Serving: the options of `up --serve`, and the HTTP app that stands beside the run in the same event loop.

The app itself is `smithers.serve.app`; `driving.py` says when it starts and how long it stays.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from smithers.errors import InvalidInput, ServerInsecureBind

if TYPE_CHECKING:
    import socket

    from smithers.components.workflow import SmithersWorkflow
    from smithers.control.adapter import SmithersDb
    from smithers.settings import Settings

GRACE_S = 2.0
"""How long answers under way may take once the process is to end."""
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7331


@Parameter(name="*")
@dataclass(frozen=True)
class Serving:
    """Options of `up` for an HTTP app beside the run."""

    serve: Annotated[
        bool,
        Parameter(help="Serve the run over HTTP, also after its end, until interrupted. Includes --wait.", negative=()),
    ] = False
    host: Annotated[str | None, Parameter(help=f"With --serve: where to listen; {DEFAULT_HOST} by default.")] = None
    port: Annotated[
        int | None, Parameter(help=f"With --serve: the port; {DEFAULT_PORT} by default, 0 for any that is free.")
    ] = None
    auth_token: Annotated[
        str | None, Parameter(help="With --serve: what requests must carry; else $SMITHERS_API_KEY.")
    ] = None
    insecure: Annotated[
        bool, Parameter(help="With --serve: do without a token, even beyond this machine.", negative=())
    ] = False

    def listen(self, settings: Settings) -> RunServer | None:
        """The bound server; None without `--serve`.

        Raises `ServerInsecureBind`, or `InvalidInput`: an option does not fit, or the address is taken.
        """
        if not self.serve:
            self._refuse_strays()
            return None
        from smithers.asgi.embed import bind, is_loopback_bind

        host = DEFAULT_HOST if self.host is None else self.host
        port = DEFAULT_PORT if self.port is None else self.port
        token = settings.api_key if self.auth_token is None else self.auth_token
        if not token and not self.insecure and not is_loopback_bind(host):
            raise ServerInsecureBind(
                f"refusing to listen on {host} without a token; give --auth-token, or --insecure", {"host": host}
            )
        if not 0 <= port <= 65_535:
            raise InvalidInput(f"--port: must be 0 to 65535, not {port}")
        try:
            listener = bind(host, port)
        except OSError as error:
            raise InvalidInput(f"--serve: cannot listen on {host}, port {port}: {error.strerror or error}") from error
        return RunServer(listener, token or "", self.insecure)

    def _refuse_strays(self) -> None:
        given = {
            "--host": self.host is not None,
            "--port": self.port is not None,
            "--auth-token": self.auth_token is not None,
            "--insecure": self.insecure,
        }
        for flag in (flag for flag, is_given in given.items() if is_given):
            raise InvalidInput(f"{flag}: belongs to --serve")


class RunServer:
    """One run over HTTP. Bound when made, so that requests queue up; answers once started; to be closed in any case.

    Args:
        listener: the bound socket.
        token: what requests must carry; empty for nothing.
        insecure: without a token, whether requests for and from other hosts are answered.
    """

    def __init__(self, listener: socket.socket, token: str, insecure: bool) -> None:
        from smithers.asgi.embed import url_of

        self.url = url_of(listener)
        self._listener = listener
        self._token = token
        self._insecure = insecure
        self._stop = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._adapter: SmithersDb | None = None

    def start(self, workflow: SmithersWorkflow, run_id: str, db: str, settings: Settings) -> None:
        """Answer requests about a run of a database, from now on."""
        from smithers.asgi.embed import serve
        from smithers.control.adapter import SmithersDb
        from smithers.serve.app import create_serve_app

        self._adapter = SmithersDb(db, settings)
        app = create_serve_app(
            workflow=workflow,
            adapter=self._adapter,
            run_id=run_id,
            auth_token=self._token,
            insecure=self._insecure,
            settings=settings,
        )
        self._serving = asyncio.create_task(serve(app, self._listener, self._stop, grace_s=GRACE_S))

    async def until_closed(self) -> None:
        """Wait for the server's end. Raises what ended it, if it was not closed."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    async def close(self) -> None:
        """Finish the answers under way, and stop."""
        self._stop.set()
        if self._serving is not None:
            await self._serving
        self._listener.close()
        if self._adapter is not None:
            self._adapter.close()
