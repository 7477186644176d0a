"""Serving: the options of `up --serve`, and the HTTP app that stands beside the run in the same event loop.

The app itself is `smithers.serve.app`; `driving.py` says when it starts and how long it stays.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from smithers.cli.options import Option
from smithers.errors import InvalidInput, ServeInsecureBind
from smithers.records import dataclass

if TYPE_CHECKING:
    import socket

    from smithers.components.workflow import SmithersWorkflow
    from smithers.control.adapter import SmithersDb
    from smithers.settings import Settings

GRACE_S = 2.0
"""How long answers under way may take once the process is to end."""
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7331


@dataclass(frozen=True)
class Serving:
    """Options of `up` for an HTTP app beside the run."""

    serve: Annotated[
        bool,
        Option(help="Serve the run over HTTP, also after its end, until interrupted. Includes --wait.", is_switch=True),
    ] = False
    host: Annotated[str | None, Option(help=f"With --serve: where to listen; {DEFAULT_HOST} by default.")] = None
    port: Annotated[
        int | None, Option(help=f"With --serve: the port; {DEFAULT_PORT} by default, 0 for any that is free.")
    ] = None
    auth_token: Annotated[
        str | None, Option(help="With --serve: what requests must carry; else $SMITHERS_API_KEY.")
    ] = None
    insecure: Annotated[
        bool, Option(help="With --serve: do without a token, even beyond this machine.", is_switch=True)
    ] = False

    metrics: Annotated[bool, Option(help="With --serve: answer GET /metrics.")] = True

    def check(self, settings: Settings) -> None:
        """Raises `ServeInsecureBind`, or `InvalidInput`: an option does not fit."""
        if not self.serve:
            self._refuse_strays()
            return
        from smithers.asgi.embed import is_loopback_bind

        if not self.token(settings) and not self.insecure and not is_loopback_bind(self._host):
            raise ServeInsecureBind(
                f"refusing to listen on {self._host} without a token; give --auth-token, or --insecure",
                {"host": self._host},
            )
        if not 0 <= self._port <= 65_535:
            raise InvalidInput(f"--port: must be 0 to 65535, not {self._port}")

    def listen(self, settings: Settings) -> RunServer | None:
        """The bound server; None without `--serve`. Raises as `check`, and `InvalidInput` if the address is taken."""
        self.check(settings)
        if not self.serve:
            return None
        from smithers.asgi.embed import bind

        try:
            listener = bind(self._host, self._port)
        except OSError as error:
            where = f"{self._host}, port {self._port}"
            raise InvalidInput(f"--serve: cannot listen on {where}: {error.strerror or error}") from error
        return RunServer(listener, self.token(settings), self.insecure, self.metrics)

    def token(self, settings: Settings) -> str:
        """What requests must carry; empty for nothing."""
        return (settings.api_key if self.auth_token is None else self.auth_token) or ""

    def flags(self) -> list[str]:
        """The options again, for a process in the background; without the token, as arguments are public."""
        if not self.serve:
            return []
        found = ["--serve", "--host", self._host, "--port", str(self._port)]
        return [*found, *(["--insecure"] if self.insecure else []), *([] if self.metrics else ["--no-metrics"])]

    @property
    def _host(self) -> str:
        return DEFAULT_HOST if self.host is None else self.host

    @property
    def _port(self) -> int:
        return DEFAULT_PORT if self.port is None else self.port

    def _refuse_strays(self) -> None:
        given = {
            "--host": self.host is not None,
            "--port": self.port is not None,
            "--auth-token": self.auth_token is not None,
            "--insecure": self.insecure,
            "--no-metrics": not self.metrics,
        }
        for flag in (flag for flag, is_given in given.items() if is_given):
            raise InvalidInput(f"{flag}: belongs to --serve")


class RunServer:
    """One run over HTTP. Bound when made, so that requests queue up; answers once started; to be closed in any case.

    Args:
        listener: the bound socket.
        token: what requests must carry; empty for nothing.
        insecure: without a token, whether requests for and from other hosts are answered.
        metrics: whether there is a `GET /metrics`.
    """

    def __init__(self, listener: socket.socket, token: str, insecure: bool, metrics: bool = True) -> None:
        from smithers.asgi.embed import url_of

        self.url = url_of(listener)
        self._listener = listener
        self._token = token
        self._insecure = insecure
        self._metrics = metrics
        self._run_id = ""
        self._stop = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._adapter: SmithersDb | None = None

    def start(self, workflow: SmithersWorkflow, run_id: str, db: str, settings: Settings) -> None:
        """Answer requests about a run of a database, from now on."""
        from smithers.asgi.embed import serve
        from smithers.control.adapter import SmithersDb
        from smithers.serve.app import create_serve_app

        self._run_id = run_id
        self._adapter = SmithersDb(db, settings)
        app = create_serve_app(
            workflow=workflow,
            adapter=self._adapter,
            run_id=lambda: self._run_id,
            auth_token=self._token,
            metrics=self._metrics,
            insecure=self._insecure,
            settings=settings,
        )
        self._serving = asyncio.create_task(serve(app, self._listener, self._stop, grace_s=GRACE_S))

    def follow(self, run_id: str) -> None:
        """Answer for another run from now on: the one that this one was continued as."""
        self._run_id = run_id

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
