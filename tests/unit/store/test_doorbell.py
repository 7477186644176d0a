"""The doorbell: every answer reaches its future, once, in order; nothing is left behind by loops that end."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from smithers.store.doorbell import Doorbell, doorbell_of


async def _answers(count: int) -> list[object]:
    loop = asyncio.get_running_loop()
    bell = doorbell_of(loop)
    futures: list[asyncio.Future[object]] = [loop.create_future() for _ in range(count)]
    order: list[object] = []
    for future in futures:
        future.add_done_callback(lambda done: order.append(done.result()))

    def bring() -> None:
        for number, future in enumerate(futures):
            bell.ring([(future, number, None)])

    thread = threading.Thread(target=bring)
    thread.start()
    await asyncio.gather(*futures)
    thread.join()
    return order


def test_every_answer_of_another_thread_arrives_in_order() -> None:
    assert asyncio.run(_answers(2_000)) == list(range(2_000))


def test_a_loop_that_cannot_listen_is_told_all_the_same() -> None:
    class Deaf(asyncio.SelectorEventLoop):
        def add_reader(self, fd: object, callback: Callable[..., object], *args: object) -> None:
            if callback.__name__ != "hear":
                return super().add_reader(fd, callback, *args)  # type: ignore[arg-type]
            raise NotImplementedError

    loop = Deaf()
    try:
        assert loop.run_until_complete(_answers(50)) == list(range(50))
    finally:
        loop.close()


def test_an_error_is_raised_and_a_cancelled_future_is_left_alone() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        gone, failed = loop.create_future(), loop.create_future()
        gone.cancel()
        doorbell_of(loop).ring([(gone, 1, None), (failed, None, ValueError("no"))])
        with pytest.raises(ValueError, match="no"):
            await failed

    asyncio.run(main())


def test_a_loop_has_one_doorbell_and_another_loop_has_another() -> None:
    async def mine() -> Doorbell:
        bell = doorbell_of(asyncio.get_running_loop())
        assert doorbell_of(asyncio.get_running_loop()) is bell
        return bell

    assert asyncio.run(mine()) is not asyncio.run(mine())


def test_ringing_a_closed_loop_harms_nobody() -> None:
    loop = asyncio.new_event_loop()

    async def make() -> tuple[Doorbell, asyncio.Future[object]]:
        return doorbell_of(loop), loop.create_future()

    bell, future = loop.run_until_complete(make())
    loop.close()
    bell.ring([(future, 1, None)])
    assert not future.done()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has eventfd")
def test_the_descriptor_goes_with_its_loop() -> None:
    before = _open_descriptors()
    for _ in range(20):
        asyncio.run(_answers(1))
    gc.collect()
    assert _open_descriptors() <= before + 1


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
