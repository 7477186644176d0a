"""The server that is measured, in a process of its own: `python -m benchmarks.http_server FOLDER` prints its port and then
answers the lines of its input as JSON: `usage` (process time in seconds, memory in bytes), `trace` (begin to note commits),
`commits` (for each that wrote events: how many there have been since, and the moment in monotonic nanoseconds)."""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import chain
from pathlib import Path

import apsw

from smithers import start_server
from smithers.store import open_store
from smithers.store.sql.session import Session

DATABASE = "smithers.db"


class Commits:
    """Notes when commits that wrote events have become durable."""

    def __init__(self) -> None:
        self.found: list[tuple[int, int]] = []
        self._count = 0

    def begin(self, database: str) -> None:
        """Listen to this process's connection that writes to a database."""
        store = open_store(database)
        store.write(self._listen)
        store.close()

    def _listen(self, connection: Session) -> None:
        assert isinstance(connection, apsw.Connection)
        connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, self._ended)

    def _ended(self, statement: dict[str, object]) -> None:
        sql = str(statement["sql"]).strip()
        if sql.startswith("INSERT INTO _smithers_events"):
            columns = sql[: sql.index(")")].count(",") + 1
            self._count += max(1, sql.count("?") // columns)  # a statement stores several at once
        elif sql == "COMMIT" and self._count > (self.found[-1][0] if self.found else 0):
            self.found.append((self._count, time.monotonic_ns()))


def memory() -> int:
    """Memory of this process that is in RAM, as it is: nothing is collected before."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Serve until the input ends."""
    os.chdir(sys.argv[1])
    commits = Commits()
    with start_server(port=0, db=DATABASE, auth_token="") as server:
        answer: object = server.port
        for line in chain(["port"], sys.stdin):
            match line.strip():
                case "usage":
                    answer = {"cpu_s": time.process_time(), "rss": memory()}
                case "trace":
                    commits.begin(DATABASE)
                    answer = True
                case "commits":
                    answer = commits.found
                case _:
                    pass
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
