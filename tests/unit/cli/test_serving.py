"""`up --serve`: which options are refused. Serving itself needs a process: tests/acceptance/cli."""

from __future__ import annotations

import socket

import pytest
from tests.unit.cli.support import Cli, at


def test_listening_beyond_this_machine_needs_a_token_or_insecure(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMITHERS_API_KEY", raising=False)
    cli.write("one")
    done = cli("up", "one.py", "--serve", "--host", "0.0.0.0", "--port", "0", "--format", "json")
    assert (done.code, at(done.json, "error", "code")) == (4, "SERVE_INSECURE_BIND")
    assert not (cli.folder / "smithers.db").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--no-metrics", "--no-metrics: belongs to --serve"),
        ("--supervise", "SUPERVISE_REQUIRES_DETACH_OR_SERVE"),
        ("--supervise-dry-run --serve", "belongs to --supervise"),
        ("--supervise --serve --supervise-interval 0", "--supervise-interval: must be longer"),
        ("--supervise --serve --supervise-max-concurrent 0", "--supervise-max-concurrent"),
        ("--supervise --detach --supervise-stale-threshold soon", "is not a duration"),
        ("--detach --serve --host 0.0.0.0", "SERVE_INSECURE_BIND"),
        ("--serve --port 65536", "--port: must be"),
        ("--port 7331", "--port: belongs to --serve"),
        ("--host 127.0.0.1", "--host: belongs to --serve"),
        ("--auth-token t", "--auth-token: belongs to --serve"),
        ("--insecure", "--insecure: belongs to --serve"),
    ],
)
def test_options_that_do_not_fit_are_refused(cli: Cli, flags: str, told: str) -> None:
    cli.write("one")
    done = cli("up", "one.py", *flags.split())
    assert done.code == 4
    assert told in done.err


def test_a_port_that_is_taken_is_told_before_anything_is_stored(cli: Cli) -> None:
    cli.write("one")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = cli("up", "one.py", "--serve", "--port", port)
    assert done.code == 4
    assert f"cannot listen on 127.0.0.1, port {port}" in done.err
    assert not (cli.folder / "smithers.db").exists()
