"""The gateway that is measured, in a process of its own: `python -m benchmarks.gateway_server FOLDER` prints its port and then
answers the lines of its input as `http_server` does."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time

from benchmarks.http_server import DATABASE, Commits, memory
from smithers import Gateway

MANY = 1_000_000


async def serve() -> None:
    """Serve until the input ends."""
    from benchmarks import one_task, paced, workflows  # whose database is in the current folder

    gateway = Gateway(max_connections=2_000, max_frames_per_second=MANY)
    gateway.register("one", one_task.workflow).register("paced", paced.workflow)
    gateway.register("beating", workflows.beating).register("parked", workflows.parked)
    commits = Commits()
    async with gateway:
        server = await gateway.listen(port=0)
        answer: object = server.port
        line = "port"
        while line:
            match line.strip():
                case "usage":
                    answer = {"cpu_s": time.process_time(), "rss": memory()}
                case "trace":
                    await asyncio.to_thread(commits.begin, DATABASE)
                    answer = True
                case "commits":
                    answer = commits.found
                case _:
                    pass
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
            line = await asyncio.to_thread(sys.stdin.readline)


def main() -> None:
    """Serve, with as many open files as are allowed."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8_192, most), most))
    os.chdir(sys.argv[1])
    asyncio.run(serve())


if __name__ == "__main__":
    main()
