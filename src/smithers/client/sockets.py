"""Sockets: one WebSocket connection to a gateway: requests answered by id, events in their order.

What was pushed and not read yet is bounded: above `SOFT_*` the connection is not read from, so that the gateway notices;
while a request waits for its answer, which comes behind the events, up to `HARD_*` are kept before the connection ends.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import platform
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from importlib.metadata import version
from typing import Final, cast

from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import InvalidStatus, WebSocketException

from smithers.client.addresses import Address
from smithers.client.errors import GatewayConnectionLost, GatewayError
from smithers.client.frames import connect_params, payload_of, read_object, request_data

MAX_MESSAGE: Final = 64 * 1_048_576
SOFT_EVENTS: Final = 1_000
SOFT_BYTES: Final = 8 * 1_048_576
HARD_EVENTS: Final = 10_000
HARD_BYTES: Final = 32 * 1_048_576
CLOSE_S: Final = 1.0
"""How long a gateway may take to agree to the end of a connection."""
_LOST: Final = "the gateway has hung up"

_wire_log = logging.getLogger("smithers.client.wire")
_wire_log.setLevel(logging.INFO)  # below that, websockets would log headers, and the token is one


class GatewaySocket:
    """An open connection. Make it with `GatewayClient.socket`."""

    def __init__(self, connection: ClientConnection, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[dict[str, object]]] = {}
        self._events: deque[tuple[dict[str, object], int]] = deque()
        self._bytes = 0
        self._came = asyncio.Event()
        """Set when there is something to take, or nothing more will come."""
        self._went = asyncio.Event()
        """Set when there may be room again."""
        self._lost: GatewayConnectionLost | None = None
        self._reader = asyncio.create_task(self._read())
        self.hello: dict[str, object] = {}
        """What the gateway told when we connected: its identity, our rights, runs and approvals."""

    async def call(self, method: str, params: Mapping[str, object] | None = None) -> object:
        """Call a method over this connection. Raises `GatewayError` or `GatewayConnectionLost`."""
        request_id = str(next(self._ids))
        text = request_data(request_id, method, params, is_frame=True).decode()
        if self._lost is not None:
            raise self._lost
        answer: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        self._went.set()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connection.send(text)
                return payload_of(await answer)
        except WebSocketException as error:
            raise GatewayConnectionLost(_LOST) from error
        except TimeoutError as error:
            raise GatewayConnectionLost(f"{method} was not answered in {self._timeout_s:g} s") from error
        finally:
            self._waiting.pop(request_id, None)
            answer.cancel()

    async def receive(self) -> dict[str, object]:
        """The next event, as it was pushed. Raises `GatewayConnectionLost` when the connection has ended and all that came
        before was taken."""
        while not self._events:
            if self._lost is not None:
                raise self._lost
            self._came.clear()
            await self._came.wait()
        frame, size = self._events.popleft()
        self._bytes -= size
        self._went.set()
        return frame

    async def frames(self) -> AsyncGenerator[dict[str, object]]:
        """Events as they are pushed. Raises `GatewayConnectionLost` when the connection ends."""
        while True:
            yield await self.receive()

    async def _read(self) -> None:
        lost = GatewayConnectionLost(_LOST)
        try:
            async for message in self._connection:
                frame = read_object(message)
                if frame.get("type") == "res":
                    self._answered(frame)
                else:
                    await self._pushed(frame, len(message))
        except GatewayConnectionLost as error:
            lost = error
        except WebSocketException as error:
            lost.__cause__ = error
        finally:
            self._lost = lost
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(lost)
            self._came.set()

    def _answered(self, frame: dict[str, object]) -> None:
        answer = self._waiting.get(str(frame.get("id")))
        if answer is not None and not answer.done():
            answer.set_result(frame)

    async def _pushed(self, frame: dict[str, object], size: int) -> None:
        self._events.append((frame, size))
        self._bytes += size
        self._came.set()
        while not self._waiting and (len(self._events) >= SOFT_EVENTS or self._bytes >= SOFT_BYTES):
            self._went.clear()
            await self._went.wait()
        if len(self._events) >= HARD_EVENTS or self._bytes >= HARD_BYTES:
            raise GatewayConnectionLost("the events that the gateway pushed were not read; the connection was given up")

    async def close(self) -> None:
        """Hang up."""
        self._reader.cancel()
        try:
            await asyncio.gather(self._reader, return_exceptions=True)
            await self._connection.close()
        finally:
            self._connection.transport.abort()  # of what is closed already this does nothing


async def open_socket(
    address: Address, headers: Mapping[str, str], subscribe: Sequence[str] | None, timeout_s: float
) -> GatewaySocket:
    """Connect and authenticate. Raises `GatewayError` or `GatewayConnectionLost`."""
    try:
        connection = await _connect(address, headers, timeout_s)
    except InvalidStatus as error:
        status = error.response.status_code
        refused = GatewayError({"message": f"the gateway at {address.url} refuses connections: HTTP {status}"}, status)
        if refused.is_passing:
            raise GatewayConnectionLost(refused.summary) from error
        raise refused from error
    except (OSError, TimeoutError, WebSocketException, EOFError) as error:
        raise GatewayConnectionLost(f"the gateway at {address.url} does not answer: {type(error).__name__}") from error
    socket = GatewaySocket(connection, timeout_s)
    try:
        client = {"id": "smithers-python", "version": version("smithers"), "platform": platform.system().lower()}
        hello = await socket.call("connect", connect_params(client, None if subscribe is None else list(subscribe)))
    except BaseException:
        await socket.close()
        raise
    socket.hello = cast("dict[str, object]", hello) if isinstance(hello, dict) else {}
    return socket


async def _connect(address: Address, headers: Mapping[str, str], timeout_s: float) -> ClientConnection:
    opening = (
        connect(
            address.websocket,
            additional_headers=headers,
            max_size=MAX_MESSAGE,
            open_timeout=timeout_s,
            close_timeout=CLOSE_S,
            compression=None,
            proxy=None,
            logger=_wire_log,
        )
        if address.socket is None
        else unix_connect(
            address.socket,
            address.websocket,
            additional_headers=headers,
            max_size=MAX_MESSAGE,
            open_timeout=timeout_s,
            close_timeout=CLOSE_S,
            compression=None,
            logger=_wire_log,
        )
    )
    return await opening
