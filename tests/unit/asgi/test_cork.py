"""Cork: a head waits for its body, nothing is lost, reordered or held for longer than a turn of the event loop."""

from __future__ import annotations

import asyncio

from smithers.asgi.cork import CorkedTransport

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Wire(asyncio.Transport):
    """Remembers what reached the connection, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.calls.append(b"<closed>")


def use(*pieces: bytes, turns: int = 0, close: bool = False) -> list[bytes]:
    """What the connection gets of these writes."""

    async def main() -> list[bytes]:
        wire = Wire()
        corked = CorkedTransport(wire, asyncio.get_running_loop())
        for piece in pieces:
            corked.write(piece)
        if close:
            corked.close()
        for _ in range(turns):
            await asyncio.sleep(0)
        return list(wire.calls)

    return asyncio.run(main())


def test_a_head_goes_out_with_the_first_bytes_of_its_body() -> None:
    assert use(HEAD, b"body", b"more") == [HEAD + b"body", b"more"]


def test_a_head_whose_body_takes_its_time_goes_out_in_the_next_turn() -> None:
    assert use(HEAD) == []
    assert use(HEAD, turns=1) == [HEAD]


def test_an_interim_answer_does_not_overtake_and_is_not_overtaken() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert use(interim, HEAD, b"body") == [interim + HEAD, b"body"]


def test_closing_sends_what_was_held_back_first() -> None:
    assert use(HEAD, close=True, turns=2) == [HEAD, b"<closed>"]
