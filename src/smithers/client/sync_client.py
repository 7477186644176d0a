"""SyncGatewayClient: the same for programs without an event loop. One thread behind it runs one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Mapping
from concurrent.futures import CancelledError
from types import TracebackType
from typing import TypeVar

from smithers.client.client import DEFAULT_TIMEOUT_S, GatewayClient
from smithers.client.devtools import DevToolsEvent
from smithers.client.errors import GatewayConnectionLost
from smithers.client.frames import RunEvent
from smithers.client.sync_methods import SyncMethods

T = TypeVar("T")


class SyncGatewayClient(SyncMethods):
    """Calls a gateway's methods and follows its runs, without an event loop of yours. May be used from several threads.

    Errors are those of `GatewayClient`. Use it as a context manager, or call `close()`.

    Args:
        url: where the gateway is: `http://…`, `https://…` or `unix:/path/of/socket`.
        token: the bearer, where the gateway wants one.
        timeout_s: how long a call may take, in seconds.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._client = GatewayClient(url, token=token, timeout_s=timeout_s)
        self._loop = asyncio.new_event_loop()
        self._closing = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="smithers-client", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the gateway is."""
        return self._client.url

    def __repr__(self) -> str:
        return f"<SyncGatewayClient of {self.url}>"

    # ── calls ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def call(self, method: str, params: Mapping[str, object] | None = None) -> object:
        """Call any method, extensions included. Raises `GatewayError` or `GatewayConnectionLost`."""
        return self._run(self._client.call(method, params))

    def health(self) -> dict[str, object]:
        """How the gateway is; needs no token. Raises `GatewayConnectionLost`."""
        return self._run(self._client.health())

    # ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def stream_run_events(
        self, run_id: str, *, after_seq: int | None = 0, patience_s: float | None = None
    ) -> Generator[RunEvent]:
        """A run's events until it has ended; see `GatewayClient.stream_run_events`."""
        return self._each(self._client.stream_run_events(run_id, after_seq=after_seq, patience_s=patience_s))

    def stream_dev_tools(
        self, run_id: str, *, after_seq: int | None = None, patience_s: float | None = None
    ) -> Generator[DevToolsEvent]:
        """How a run's tree changes; see `GatewayClient.stream_dev_tools`."""
        return self._each(self._client.stream_dev_tools(run_id, after_seq=after_seq, patience_s=patience_s))

    def stream_extension(
        self, namespace: str, key: str, params: Mapping[str, object] | None = None
    ) -> Generator[object]:
        """What an extension's stream sends; see `GatewayClient.stream_extension`."""
        return self._each(self._client.stream_extension(namespace, key, params))

    def wait_for_run(self, run_id: str, *, patience_s: float | None = None) -> dict[str, object]:
        """Wait until a run has ended, and give it as it is then. Raises as `stream_run_events`."""
        return self._run(self._client.wait_for_run(run_id, patience_s=patience_s))

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Give all connections up, also those of streams that are read."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._client.close()

    def _run(self, job: Coroutine[object, object, T]) -> T:
        with self._closing:
            if self._is_closed:
                job.close()
                raise GatewayConnectionLost("this client is closed")
            future = asyncio.run_coroutine_threadsafe(job, self._loop)
        try:
            return future.result()
        except CancelledError as error:
            raise GatewayConnectionLost("this client was closed") from error
        except BaseException:  # as an interrupt: nobody waits for it any more
            future.cancel()
            raise

    def _each(self, items: AsyncGenerator[T]) -> Generator[T]:
        try:
            while found := self._run(_next(items)):
                yield found[0]
        finally:
            if not self._is_closed:
                self._run(_end(items))

    def __enter__(self) -> SyncGatewayClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _next(items: AsyncIterator[T]) -> tuple[T] | None:
    async for item in items:
        return (item,)
    return None


async def _end(items: AsyncGenerator[object]) -> None:
    await items.aclose()


__all__ = ["SyncGatewayClient"]
