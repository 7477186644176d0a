"""With the network off, nothing inside a sandbox reaches this machine's network or any other."""

from __future__ import annotations

import secrets
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from smithers.tools.sandbox.policy import python
from smithers.tools.sandbox.running import Finished

Inside = Callable[..., Finished]
TRY = """
import socket, sys
def attempt(action):
    try:
        action()
    except OSError:
        return
    print("ESCAPED")
"""


def has_heard(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        if listener.type == socket.SOCK_STREAM:
            listener.accept()[0].close()
        else:
            listener.recv(1)
    except OSError:
        return False
    return True


def test_tcp_sockets_do_not_reach_this_machine(inside: Inside) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = TRY + "attempt(lambda: socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2))"

        done = inside(source, server.getsockname()[1])

        assert (done.exit_code, done.stdout) == (0, b"")
        assert not has_heard(server)


def test_datagrams_do_not_reach_this_machine(inside: Inside) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        source = "import socket, sys; s = socket.socket(2, 2); s.sendto(b'x', ('127.0.0.1', int(sys.argv[1])))"

        done = inside(source, server.getsockname()[1])

        assert done.exit_code == 0
        assert not has_heard(server)


def test_there_is_no_route_to_another_machine(inside: Inside) -> None:
    # 192.0.2.0/24 belongs to nobody; the packet could not even leave the sandbox.
    source = TRY + (
        "attempt(lambda: socket.socket(2, 2).sendto(b'x', ('192.0.2.1', 9)))\n"
        "attempt(lambda: socket.create_connection(('192.0.2.1', 80), 2))\n"
        "attempt(lambda: socket.socket(10, 2).sendto(b'x', ('2001:db8::1', 9)))"
    )

    assert inside(source).stdout == b""


def test_names_are_not_resolved(inside: Inside) -> None:
    assert inside(TRY + "attempt(lambda: socket.getaddrinfo('example.com', 80))").stdout == b""


def test_raw_packet_and_virtual_machine_sockets_are_refused(inside: Inside) -> None:
    source = TRY + (
        "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))\n"
        "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255))\n"
        "attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))\n"
        "attempt(lambda: socket.socket(40, socket.SOCK_STREAM))"
    )

    assert inside(source).stdout == b""


def test_the_shells_own_sockets_do_not_reach_this_machine(inside: Inside, bash_path: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = f"echo x >/dev/tcp/127.0.0.1/{server.getsockname()[1]} && echo ESCAPED"

        done = inside("", argv=[bash_path, "-c", script])

        assert b"ESCAPED" not in done.stdout
        assert not has_heard(server)


def test_a_renamed_program_has_no_network_either(inside: Inside, root: Path) -> None:
    shutil.copy(shutil.which("curl", path="/usr/bin:/bin") or python(), root / "harmless")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        fetch = f"import urllib.request as u; u.urlopen({url!r}, timeout=2)"
        arguments = [url, "-m", "2"] if shutil.which("curl", path="/usr/bin:/bin") else ["-c", fetch]

        done = inside("", argv=["./harmless", *arguments])

        assert done.exit_code != 0
        assert not has_heard(server)


def test_abstract_sockets_of_this_machine_are_not_there(inside: Inside) -> None:
    name = f"smithers-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + name)
        server.listen()

        done = inside(TRY + "attempt(lambda: socket.socket(1).connect(chr(0) + sys.argv[1]))", name)

        assert (done.exit_code, done.stdout) == (0, b"")


def test_a_command_can_talk_to_itself_over_loopback(inside: Inside) -> None:
    source = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname(), 2);"
        "print(socket.if_nameindex())"
    )

    assert inside(source).stdout == b"[(1, 'lo')]\n"


def test_with_the_network_on_it_is_shared_and_files_are_still_out_of_reach(inside: Inside, root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = TRY + (
            "socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5); print('connected')\n"
            "attempt(lambda: open(sys.argv[2]))"
        )

        done = inside(source, server.getsockname()[1], root.parent / "secret.txt", allow_network=True)

        assert done.stdout == b"connected\n", done.stderr
        assert has_heard(server)
