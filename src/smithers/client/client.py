"""GatewayClient: the async client. Its methods are in `methods.py`, made from the gateway's declarations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from uuid import uuid4

import httpx2

from smithers.client.addresses import address_of
from smithers.client.devtools import DevToolsEvent, devtools_event_of
from smithers.client.errors import GatewayConnectionLost, GatewayError
from smithers.client.frames import (
    RunEvent,
    answer_of,
    extension_payload,
    headers_of,
    opened_of,
    read_object,
    request_data,
    run_event_of,
    stream_body,
)
from smithers.client.methods import Methods
from smithers.client.redial import Redial
from smithers.client.sockets import GatewaySocket, open_socket
from smithers.errors import InvalidInput

DEFAULT_TIMEOUT_S = 30.0
_JSON = {"content-type": "application/json"}


class GatewayClient(Methods):
    """Calls a gateway's methods and follows its runs.

    A call that the gateway refuses raises `GatewayError`, one that does not reach it `GatewayConnectionLost`. Use it as an
    async context manager, or call `close()`.

    Args:
        url: where the gateway is: `http://…`, `https://…` or `unix:/path/of/socket`.
        token: the bearer, where the gateway wants one.
        timeout_s: how long a call may take, in seconds.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        if not 0 < timeout_s < float("inf"):
            raise InvalidInput(f"timeout_s must be a number of seconds above 0, not {timeout_s!r}")
        self._address = address_of(url)
        self._headers = headers_of(token)
        self._timeout_s = timeout_s
        socket = self._address.socket
        self._http = httpx2.AsyncClient(
            headers=self._headers,
            timeout=timeout_s,
            trust_env=False,
            transport=None if socket is None else httpx2.AsyncHTTPTransport(uds=socket),
        )

    @property
    def url(self) -> str:
        """Where the gateway is."""
        return self._address.url

    def __repr__(self) -> str:
        return f"<GatewayClient of {self.url}>"

    # ── calls ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def call(self, method: str, params: Mapping[str, object] | None = None) -> object:
        """Call any method, extensions included. Raises `GatewayError` or `GatewayConnectionLost`."""
        # as an envelope: bare parameters would be taken for one if one of them were called `method`
        body = request_data(str(uuid4()), method, params)
        answer = await self._request("POST", f"/v1/rpc/{method}", body)
        return answer_of(answer.content, answer.status_code)

    async def health(self) -> dict[str, object]:
        """How the gateway is; needs no token. Raises `GatewayConnectionLost`."""
        return read_object((await self._request("GET", "/health")).content)

    async def _request(self, verb: str, path: str, body: bytes | None = None) -> httpx2.Response:
        try:
            async with asyncio.timeout(self._timeout_s):  # httpx2 has one for each step, this is for all of them
                return await self._http.request(
                    verb, self._address.base + path, content=body, headers=None if body is None else _JSON
                )
        except (httpx2.HTTPError, TimeoutError) as error:
            raise GatewayConnectionLost(f"the gateway at {self.url} does not answer: {type(error).__name__}") from error

    # ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def socket(self, subscribe: Sequence[str] | None = None) -> AsyncGenerator[GatewaySocket]:
        """A connection over which events are pushed.

        Args:
            subscribe: only events of these runs; of all by default.
        """
        socket = await open_socket(self._address, self._headers, subscribe, self._timeout_s)
        try:
            yield socket
        finally:
            await socket.close()

    async def stream_run_events(
        self, run_id: str, *, after_seq: int | None = 0, patience_s: float | None = None
    ) -> AsyncGenerator[RunEvent]:
        """A run's events, each once and in order, until the run has ended. Connects again by itself and goes on from the
        last event.

        Args:
            after_seq: the event to go on after; 0 for all of them, None for those from now on.
            patience_s: how long the gateway may be out of reach, in seconds; None for as long as it takes.

        Raises:
            GatewayError: the gateway refuses: unknown run, no right to read it.
            GatewayConnectionLost: it was out of reach for longer than `patience_s`.
        """
        redial, cursor = Redial(patience_s), after_seq
        while True:
            try:
                async with self.socket([run_id]) as socket:
                    opened = opened_of(await socket.call("streamRunEvents", _after(run_id, cursor)))
                    # from now on is from this moment, also for whoever has to connect again before anything happens
                    cursor = opened.current_seq if cursor is None else cursor
                    while True:
                        event = run_event_of(await socket.receive(), opened.stream_id)
                        redial.heard()
                        if event is None or (event.seq <= cursor and not event.is_last):
                            continue
                        if event.event != "run.gap_resync":
                            redial.reset()
                        cursor = max(cursor, event.seq)
                        yield event
                        if event.is_last:
                            return
            except (GatewayConnectionLost, GatewayError) as error:
                await redial.wait(error)

    async def stream_dev_tools(
        self, run_id: str, *, after_seq: int | None = None, patience_s: float | None = None
    ) -> AsyncGenerator[DevToolsEvent]:
        """How a run's tree changes: a snapshot first, then a delta or a snapshot for each frame. Connects again by itself,
        and then begins with a snapshot again. There is no end: stop reading when you have seen enough.

        `DevToolsTree` puts the events together.

        Args:
            after_seq: the frame to go on after, where the past matters; events begin up to 49 frames before it.
            patience_s: how long the gateway may be out of reach, in seconds; None for as long as it takes.

        Raises:
            GatewayError: the gateway refuses: unknown run, no right to look at it.
            GatewayConnectionLost: it was out of reach for longer than `patience_s`.
        """
        redial, cursor = Redial(patience_s), after_seq
        while True:
            try:
                async with self.socket([run_id]) as socket:
                    opened = opened_of(await socket.call("streamDevTools", _after(run_id, cursor)))
                    while True:
                        event = devtools_event_of(await socket.receive(), opened.stream_id)
                        redial.heard()
                        if event is None:
                            continue
                        if event.kind == "delta":
                            redial.reset()
                        if after_seq is not None:
                            cursor = event.seq
                        yield event
            except (GatewayConnectionLost, GatewayError) as error:
                if isinstance(error, GatewayError) and error.error_code == "SeqOutOfRange" and cursor != after_seq:
                    cursor = after_seq = None  # the run was taken back behind what was seen
                    continue
                await redial.wait(error)

    async def stream_extension(
        self, namespace: str, key: str, params: Mapping[str, object] | None = None
    ) -> AsyncGenerator[object]:
        """What an extension's stream sends: first what it began with, if it told, then one payload after the other.

        Raises:
            GatewayError: the gateway refuses, or the stream has failed.
            GatewayConnectionLost: the connection has ended. Such a stream cannot be gone on with; open it anew.
        """
        async with self.socket([]) as socket:
            opened = opened_of(await socket.call(f"ext.stream.{namespace}.{key}", params))
            for payload in opened.initial:
                yield payload
            while True:
                frame = await socket.receive()
                if (body := stream_body(frame, opened.stream_id)) is not None:
                    yield extension_payload(frame, body)

    async def wait_for_run(self, run_id: str, *, patience_s: float | None = None) -> dict[str, object]:
        """Wait until a run has ended, and give it as it is then. Raises as `stream_run_events`."""
        async for _ in self.stream_run_events(run_id, after_seq=None, patience_s=patience_s):
            pass
        return await self.get_run(run_id)

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def close(self) -> None:
        """Give all connections up."""
        await self._http.aclose()

    async def __aenter__(self) -> GatewayClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _after(run_id: str, cursor: int | None) -> dict[str, object]:
    return {"runId": run_id} if cursor is None else {"runId": run_id, "afterSeq": cursor}


__all__ = ["GatewayClient", "GatewayError"]
