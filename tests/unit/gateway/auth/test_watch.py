"""Watching grants: whoever may no longer stay is looked for at once, and when their time is over."""

from __future__ import annotations

import asyncio
import threading

from smithers.gateway.auth.tokens import TokenAuth
from smithers.gateway.auth.watch import GrantWatch
from smithers.testing import VirtualClock

GRANT = {"role": "operator", "scopes": ["*"]}


class Looks:
    """Counts looks."""

    def __init__(self) -> None:
        self.count = 0
        self.more = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self.more.set()


def test_every_change_of_a_grant_makes_a_look_whichever_thread_makes_it() -> None:
    async def use() -> None:
        auth, looks = TokenAuth({"t": GRANT}), Looks()
        watch = GrantWatch(auth, VirtualClock(), looks)
        for change in (lambda: auth.revoke("t"), lambda: auth.grant("u", GRANT), lambda: auth.load({})):
            looks.more.clear()
            thread = threading.Thread(target=change)
            thread.start()
            thread.join()
            await looks.more.wait()
        assert looks.count == 3
        watch.close()
        auth.revoke("u")
        await asyncio.sleep(0)
        assert looks.count == 3

    asyncio.run(use())


def test_a_look_is_made_when_a_grant_ends_by_itself_and_again_for_the_next() -> None:
    async def use() -> None:
        clock, looks = VirtualClock(), Looks()
        now = clock.now_ms()
        auth = TokenAuth({"t": {**GRANT, "expiresAtMs": now + 100}, "u": {**GRANT, "revokedAtMs": now + 300}})
        watch = GrantWatch(auth, clock, looks)
        clock.advance(99)
        assert looks.count == 0
        clock.advance(1)
        assert looks.count == 1
        clock.advance(200)
        assert looks.count == 2
        assert clock.next_due is None
        watch.close()

    asyncio.run(use())


def test_a_shorter_term_counts_from_when_it_is_given() -> None:
    async def use() -> None:
        clock, looks = VirtualClock(), Looks()
        auth = TokenAuth({"t": {**GRANT, "expiresAtMs": clock.now_ms() + 1_000}})
        watch = GrantWatch(auth, clock, looks)
        auth.grant("t", {**GRANT, "expiresAtMs": clock.now_ms() + 10})
        await looks.more.wait()
        clock.advance(10)
        assert looks.count == 2
        watch.close()

    asyncio.run(use())
