"""The launcher on top of bubblewrap: a policy as its command line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

from smithers.tools.sandbox.policy import Policy

NAME = "bubblewrap"
_NEEDED = (
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--clearenv",
    "--cap-drop",
    "ALL",
)


@cache
def find_bwrap() -> str | None:
    """The path of bubblewrap, if it is installed where only root can put it."""
    return shutil.which("bwrap", path="/usr/local/bin:/usr/bin:/bin")


@contextmanager
def prepare(policy: Policy, command: list[str], info_fd: int) -> Generator[tuple[list[str], tuple[int, ...]]]:
    """The program and arguments that run a command under a policy, and the descriptors to pass on.

    Args:
        info_fd: where `{"child-pid": …}` is written to: the first process inside.
    """
    argv = [find_bwrap() or "bwrap", *_NEEDED, "--info-fd", str(info_fd)]
    if policy.allow_network:
        argv.append("--share-net")
    fds: list[int] = []
    try:
        for mount in policy.mounts():
            match mount.kind:
                case "read":
                    argv += ["--ro-bind", mount.what, mount.place]
                case "write":
                    argv += ["--bind", mount.what, mount.place]
                case "link":
                    argv += ["--symlink", mount.what, mount.place]
                case "tmpfs":
                    argv += ["--size", mount.what, "--tmpfs", mount.place]
                case "seal":
                    argv += ["--remount-ro", mount.place]
                case "text":
                    fds.append(_text(mount.what))
                    argv += ["--ro-bind-data", str(fds[-1]), mount.place]
                case "proc" | "dev" as kind:
                    argv += [f"--{kind}", mount.place]
        yield [*argv, "--", *command], tuple(fds)
    finally:
        for fd in fds:
            os.close(fd)


def _text(text: str) -> int:
    fd = os.memfd_create("smithers")
    os.write(fd, text.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
