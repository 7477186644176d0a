"""A pause of the collector ends with the last who asked for it, and leaves a collector alone that was off."""

from __future__ import annotations

import gc
import threading

import pytest

from smithers.store.pause import collection_paused


def test_the_collector_goes_on_when_the_last_pause_has_ended() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def other() -> None:
        with collection_paused():
            begun.set()
            may_end.wait(60)

    thread = threading.Thread(target=other)
    with collection_paused():
        thread.start()
        assert begun.wait(60)
        assert not gc.isenabled()
    assert not gc.isenabled()
    may_end.set()
    thread.join()
    assert gc.isenabled()


def test_an_error_ends_the_pause() -> None:
    with pytest.raises(ValueError, match="no"), collection_paused():
        raise ValueError("no")
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
