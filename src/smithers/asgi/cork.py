"""Cork: sends an answer's head together with the first bytes of its body. uvicorn writes them one by one, and a call into the
kernel costs more than everything that routing does; so does giving the interpreter lock up for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class CorkedTransport(asyncio.Transport):
    """A connection's transport, as uvicorn uses it. A head is held back until the next write, at most for one turn of the
    event loop; everything else passes through at once, so that the kernel's buffer goes on slowing a fast writer down.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.inner = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, and what was held back before them."""
        if self._head:
            head, self._head = self._head, b""
            self.inner.write(head + data)
        elif data[:7] == b"HTTP/1.":
            self._head = bytes(data)
            self._loop.call_soon(self.flush)
        else:
            self.inner.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """As `write` of the whole."""
        self.write(b"".join(list_of_data))

    def flush(self) -> None:
        """Send what was held back."""
        if self._head:
            head, self._head = self._head, b""
            self.inner.write(head)

    def close(self) -> None:
        """Hang up after what was written."""
        self.flush()
        self.inner.close()

    def abort(self) -> None:
        """Hang up at once."""
        self._head = b""
        self.inner.abort()

    def get_write_buffer_size(self) -> int:
        """How much was written and waits for the peer."""
        return len(self._head) + self.inner.get_write_buffer_size()

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self.inner.is_closing()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """What is known of the connection."""
        return self.inner.get_extra_info(name, default)

    def is_reading(self) -> bool:
        """Whether bytes are taken in."""
        return self.inner.is_reading()

    def pause_reading(self) -> None:
        """Take no bytes in."""
        self.inner.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes in again."""
        self.inner.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection over."""
        self.flush()
        self.inner.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who has the connection."""
        return self.inner.get_protocol()
