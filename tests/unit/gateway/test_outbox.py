"""The outbox: order, one write a turn, bounded memory, and an end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smithers.gateway.ws import outbox as outbox_module
from smithers.gateway.ws.outbox import Outbox


class FakeWire:
    """A wire whose peer reads when the test says so. `room` messages fit before it is full."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.on_writable: Callable[[], None] | None = None
        self.room = room
        self.writes: list[list[bytes]] = []
        self.unread: list[bytes] = []

    @property
    def is_writable(self) -> bool:
        return len(self.unread) < self.room

    @property
    def buffered_bytes(self) -> int:
        return sum(map(len, self.unread))

    @property
    def got(self) -> list[bytes]:
        return [data for each in self.writes for data in each]

    def write(self, messages: Iterable[bytes]) -> None:
        self.writes.append(list(messages))
        self.unread += self.writes[-1]

    def read(self) -> None:
        self.unread.clear()
        if self.on_writable is not None:
            self.on_writable()

    def close(self, code: int | None = None, reason: str = "") -> None:
        """Nothing."""

    def abort(self) -> None:
        """Nothing."""


def refuse() -> None:
    raise AssertionError("nothing should overflow")


def test_what_is_put_in_during_one_turn_leaves_with_one_write() -> None:
    async def use() -> None:
        wire = FakeWire()
        outbox = Outbox(wire, refuse)
        for number in range(5):
            outbox.put(b"%d" % number)
        assert wire.writes == []
        await asyncio.sleep(0)
        assert wire.writes == [[b"0", b"1", b"2", b"3", b"4"]]
        outbox.put(b"5")
        outbox.flush()
        assert wire.got[-1] == b"5"
        await asyncio.sleep(0)
        assert len(wire.writes) == 2

    asyncio.run(use())


@given(st.lists(st.sampled_from(["put", "put", "turn", "read"]), max_size=60), st.integers(1, 3))
def test_frames_leave_in_order_and_wait_while_the_peer_does_not_read(steps: list[str], room: int) -> None:
    async def use() -> None:
        wire = FakeWire(room)
        outbox = Outbox(wire, refuse)
        put: list[bytes] = []
        for step in steps:
            if step == "put":
                put.append(b"%d" % len(put))
                outbox.put(put[-1])
            elif step == "turn":
                await asyncio.sleep(0)
            else:
                wire.read()
            assert wire.got == put[: len(wire.got)]
            waiting = put[len(wire.got) :] + wire.unread
            assert outbox.pending_bytes == sum(map(len, waiting))
        await asyncio.sleep(0)
        while wire.got != put:
            wire.read()
        wire.read()
        assert (outbox.pending_bytes, outbox.sent) == (0, len(put))

    asyncio.run(use())


def test_a_peer_that_reads_slowly_is_given_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "CHUNK_BYTES", 10)

    async def use() -> None:
        wire = FakeWire(1)
        outbox = Outbox(wire, refuse)
        for _ in range(5):
            outbox.put(b"x" * 6)
        await asyncio.sleep(0)
        assert [len(each) for each in wire.writes] == [2]
        wire.read()
        wire.read()
        assert [len(each) for each in wire.writes] == [2, 2, 1]

    asyncio.run(use())


def test_too_much_is_forgotten_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MAX_BYTES", 100)

    async def use() -> None:
        overflows: list[int] = []
        wire = FakeWire(0)
        outbox = Outbox(wire, lambda: overflows.append(1))
        for _ in range(50):
            outbox.put(b"x" * 10)
        await asyncio.sleep(0)
        assert (overflows, outbox.pending_bytes, wire.writes) == ([1], 0, [])

    asyncio.run(use())


def test_who_waits_for_room_goes_on_when_there_is_some_or_never_will_be() -> None:
    async def use() -> None:
        wire = FakeWire(1)
        outbox = Outbox(wire, refuse)
        outbox.put(b"x" * 20)
        outbox.put(b"x" * 20)
        await asyncio.sleep(0)
        waiting = asyncio.create_task(outbox.drained(10))
        await asyncio.sleep(0)
        assert not waiting.done()
        wire.read()
        wire.read()
        await waiting
        outbox.put(b"x" * 20)
        waiting = asyncio.create_task(outbox.drained(10))
        await asyncio.sleep(0)
        outbox.close()
        await waiting

    asyncio.run(use())
