"""The guard in conftest.py that keeps tests on this machine."""

from __future__ import annotations

import socket

import pytest

# Addresses and a flag with which the kernel and the resolver would send nothing, were the guard gone.


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "255.255.255.255"), (socket.AF_INET6, "ff02::1")])
def test_a_connection_to_another_machine_is_refused(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as client, pytest.raises(RuntimeError, match=r"socket\.connect"):
        client.connect((host, 80))


def test_a_look_up_of_another_machine_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"getaddrinfo for 'model\.invalid'"):
        socket.getaddrinfo("model.invalid", 443, flags=socket.AI_NUMERICHOST)


def test_a_connection_within_this_machine_goes_through() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
