"""Embed: an HTTP server inside a program, in the running event loop or in a thread with one of its own.

The port is bound before anything else, so that a busy one is an `OSError` and port 0 is known at once. No signal handler is
touched, except by `ServerThread.wait`: whoever embeds the server decides when it stops. Stopping drains: streams get a
last event, answers are finished, then the app's own things are closed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import contextlib
import errno
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager
from email.utils import formatdate
from pathlib import Path
from types import TracebackType

import uvicorn
from uvicorn.server import ServerState

from smithers.asgi.guards import LOOPBACK_BINDS
from smithers.asgi.protocol import guarded_protocol
from smithers.asgi.routing import HttpApp
from smithers.asgi.sockets import SocketProtocol

log = logging.getLogger(__name__)
BACKLOG = 2048
SWITCH_S = 0.0005
"""How long a thread may keep others from running, in a process that has a server."""
YOUNG_OBJECTS = 10_000
"""How many new objects there may be before the garbage collector looks, in a process that has a server."""
GRACE_S = 10
"""How long answers under way may take once the server is to stop."""

OpenApp = Callable[[], AbstractAsyncContextManager[HttpApp]]


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `OSError`, as for a port that is taken."""
    host = host.strip("[]")
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        address = host
    except ValueError:  # a name
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, address = found[0][0], str(found[0][4][0])
    return socket.create_server((address, port), family=family, backlog=BACKLOG)


def bind_unix(path: Path) -> socket.socket:
    """A listening Unix socket that only this user can reach. Raises `OSError`, as for one that somebody listens on."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(errno.EADDRINUSE, "somebody listens on this socket", str(path))
        path.unlink(missing_ok=True)  # its owner has died
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def is_loopback_bind(host: str) -> bool:
    """Whether a server on this address is reachable from this machine only."""
    return host.strip("[]").lower() in LOOPBACK_BINDS


def url_of(listener: socket.socket) -> str:
    """Where a listening socket is reached."""
    bound, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(bound), str(bound))  # all addresses: this machine's is one
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _State(ServerState):
    """What uvicorn's connections share; the date that answers carry is looked up when one is sent."""

    def __init__(self) -> None:
        self._second = 0
        self._headers: list[tuple[bytes, bytes]] = []
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of every answer."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._headers = [(b"date", formatdate(second, usegmt=True).encode())]
        return self._headers

    @default_headers.setter
    def default_headers(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, value: list[tuple[bytes, bytes]]
    ) -> None:
        del value  # uvicorn's first, empty ones


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, and without its loop, which wakes ten times a second to see whether it is to stop
    and what time it is. It has no other duties here: no notices to a parent process, no limit of requests.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = _State()
        self._stop = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def main_loop(self) -> None:
        await self._stop.wait()

    def stop(self) -> None:
        """Come to an end; also if it is only about to begin."""
        self.should_exit = True
        self._stop.set()


async def serve(
    app: HttpApp,
    listener: socket.socket,
    stop: asyncio.Event,
    *,
    headers_timeout_s: float = 30.0,
    request_timeout_s: float = 60.0,
    grace_s: float = GRACE_S,
    max_message_bytes: int | None = None,
) -> None:
    """Serve an app in this event loop until `stop` is set, then drain it. Closes the socket.

    Args:
        max_message_bytes: the largest WebSocket message; None for an app that has no WebSockets.
    """
    config = uvicorn.Config(
        app,
        http=guarded_protocol(headers_timeout_s, request_timeout_s),
        ws="none" if max_message_bytes is None else SocketProtocol,
        ws_max_size=max_message_bytes or 0,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, int(grace_s)),
    )
    config.load()
    config.loaded_app = app  # at its lowest level uvicorn would log every request as it is, its address too
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        app.drain.start()
        server.stop()
        try:
            await serving
        finally:
            listener.close()


class ServerThread:
    """A server in a thread of its own, listening when this returns.

    Ends with `close()` or as a context manager. A program whose main thread ends while a server is open stays, as for
    any thread; Ctrl-C then closes it.

    Args:
        listener: the bound socket.
        open_app: makes the app inside the server's event loop, and closes what belongs to it.
    """

    def __init__(
        self,
        listener: socket.socket,
        open_app: OpenApp,
        *,
        headers_timeout_s: float,
        request_timeout_s: float,
    ) -> None:
        self.host: str = listener.getsockname()[0]
        self.port: int = listener.getsockname()[1]
        self.url = url_of(listener)
        self._listener = listener
        self._open_app = open_app
        self._limits = (headers_timeout_s, request_timeout_s)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"smithers-server {self.port}")
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        _open_servers.add(self)

    def __repr__(self) -> str:
        return f"<smithers server at {self.url}>"

    def _run(self) -> None:
        try:
            tune_process()
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._listener.close()
            self._ready.set()
            self._ended.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        headers_timeout_s, request_timeout_s = self._limits
        async with self._open_app() as app:
            self._ready.set()
            await serve(
                app,
                self._listener,
                self._stop,
                headers_timeout_s=headers_timeout_s,
                request_timeout_s=request_timeout_s,
            )

    @property
    def is_running(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop: end streams, finish answers, give all runs up cleanly. May be called twice, from any thread.

        Raises what ended the server, if it did not end because of this.
        """
        _open_servers.discard(self)
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                loop.call_soon_threadsafe(stop.set)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def wait(self) -> None:
        """Block until the server has ended; an interrupt (Ctrl-C) closes it. So does SIGTERM, if this is the main thread and
        the program has no handler of its own for it."""
        try:
            with _terminated_like_interrupted():
                self._ended.wait()  # not `join`: interrupted, it takes a thread that still runs for ended (Python 3.11)
        except KeyboardInterrupt:
            log.info("interrupted: the server closes")
            self.close()

    def __enter__(self) -> ServerThread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> ServerThread:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def tune_process() -> None:
    """Settings of the process that a server in it gains by, and nobody else loses by."""
    # The event loop and the database's threads hand work to each other all the time. With Python's usual 5 ms a thread that
    # has something to say waits that long for a busy other one.
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
    # Nearly everything that a request makes is gone without the collector, which by default looks every 700 objects.
    young, middle, old = gc.get_threshold()
    if 0 < young < YOUNG_OBJECTS:
        gc.set_threshold(YOUNG_OBJECTS, middle, old)


_open_servers: set[ServerThread] = set()


def _wait_for_all() -> None:
    for server in list(_open_servers):
        server.wait()


# Python takes thread pools away as soon as the main thread has ended, and the store works in some. The hook that runs
# before that has no public name; without it, a program has to call `wait()` itself. Hooks run last in, first out, so ours
# has to come after the pools' own, which importing them registers.
POOLS = concurrent.futures.thread
_before_pools_end = getattr(threading, "_register_atexit", None)
if _before_pools_end is not None:
    _before_pools_end(_wait_for_all)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Generator[None]:
    """Within it, SIGTERM raises `KeyboardInterrupt` here. Left to its default it would end the process in the middle of
    answers, with runs that nobody takes over before their leases have run out."""
    is_ours = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if not is_ours:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
