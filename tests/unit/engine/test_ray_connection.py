"""Reaching Ray: what is said where that is not possible. No cluster is needed for it, nor Ray itself."""

from __future__ import annotations

import socket
import sys
from types import ModuleType

import pytest

from smithers import Settings
from smithers.engine.executors import ray as executor
from smithers.engine.executors.ray_worker import Failure, carry_out, versions
from smithers.errors import ExecutorUnavailable


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Takes the place of Ray, and notes what it is asked to connect to."""
    asked: list[object] = []
    fake = ModuleType("ray")

    def init(address: object, **options: object) -> None:
        del options
        asked.append(address)

    vars(fake).update(is_initialized=lambda: False, init=init)
    monkeypatch.setitem(sys.modules, "ray", fake)
    return asked


def test_without_the_extra_it_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExecutorUnavailable, match=r"pip install smithers\[ray\]") as found:
        executor.connect(None)
    assert not found.value.is_retryable


def test_a_cluster_that_does_not_answer_is_said_at_once_and_may_be_tried_again(fake_ray: list[object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        executor.connect(address)
    with pytest.raises(ExecutorUnavailable, match=f"cluster at {address} cannot be reached") as found:
        executor.connect(address)
    assert found.value.is_retryable
    assert found.value.details == {"setting": "SMITHERS_RAY_ADDRESS"}
    assert fake_ray == [address]


def test_a_ray_client_address_is_refused(fake_ray: list[object]) -> None:
    with pytest.raises(ExecutorUnavailable, match="SMITHERS_RAY_ADDRESS"):
        executor.connect("ray://127.0.0.1:10001")
    assert not fake_ray


def test_the_address_is_a_setting() -> None:
    assert Settings.from_environment({"SMITHERS_RAY_ADDRESS": "10.0.0.1:6379"}).ray_address == "10.0.0.1:6379"
    assert Settings.from_environment({}).ray_address is None


def test_a_worker_of_another_version_refuses_the_work_and_names_both() -> None:
    (message,) = carry_out(b"", "Python 2.7 and smithers 0.0.1")
    assert isinstance(message[1], Failure)
    assert message[1].code == "TASK_NOT_PORTABLE"
    assert "Python 2.7 and smithers 0.0.1" in message[1].message
    assert versions() in message[1].message
