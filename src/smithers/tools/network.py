"""Says early, and in words that help, that a command needs the network while it is off.

A list of names only: what it misses meets the kernel's isolation (`sandbox/`), which is what keeps the network off.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from smithers.errors import ToolGitRemoteDisabled, ToolNetworkDisabled

_FETCHERS = frozenset({"curl", "wget"})
_PACKAGE_MANAGERS = frozenset({"npm", "bun", "pip", "pip3"})
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash"})
_REMOTE = frozenset({"push", "pull", "fetch", "clone", "remote"})
_GIT_WITH_VALUE = frozenset({"-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path", "--config-env"})
_SEPARATORS = re.compile(r"[;&|\n()`]+|\$\(")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_PREFIXES = frozenset(
    {"exec", "command", "nohup", "time", "env", "then", "do", "else", "if", "while", "until", "!", "{"}
)
_LOCAL_HOSTS = frozenset({"localhost", "0.0.0.0", "::1"})
_DEPTH = 3


def check_command(cmd: str, args: Sequence[str], *, _depth: int = 0) -> None:
    """Refuse a command that would need the network.

    Raises:
        ToolNetworkDisabled: curl or wget to another machine, a URL of one as an argument, a package manager.
        ToolGitRemoteDisabled: a git subcommand that talks to a remote repository.
    """
    name = PurePosixPath(cmd).name
    if name in _PACKAGE_MANAGERS:
        raise _disabled(f"{name} needs the network, which is off", cmd)
    if name == "git":
        subcommand = _git_subcommand(args)
        if subcommand in _REMOTE:
            raise ToolGitRemoteDisabled(
                f"git {subcommand} talks to a remote repository, and the network is off",
                {"cmd": cmd, "subcommand": subcommand},
            )
    urls = [url for argument in args if (url := _url(argument)) is not None]
    for url in urls:
        if not _is_local(url):
            raise _disabled(f"{url!r} is on another machine, and the network is off", cmd)
    if name in _FETCHERS:  # they take addresses without a scheme too
        urls += [argument for argument in args if not argument.startswith("-") and _is_local("http://" + argument)]
    if name in _FETCHERS and not urls and not _asks_for_help(args):
        raise _disabled(f"{name} needs the network, which is off; only URLs of this machine are allowed", cmd)
    if name in _SHELLS and _depth < _DEPTH and (script := _payload(args)) is not None:
        _check_script(script, _depth + 1)


def _check_script(script: str, depth: int) -> None:
    """Look at the command positions of a shell text. Text that cannot be split is the shell's to complain about."""
    for part in _SEPARATORS.split(script):
        try:
            words = shlex.split(part)
        except ValueError:
            words = part.split()
        while words and (words[0] in _PREFIXES or _ASSIGNMENT.match(words[0])):
            words.pop(0)
        if words:
            check_command(words[0], words[1:], _depth=depth)


def _payload(args: Sequence[str]) -> str | None:
    """The text after `-c`, also where it is one of several letters: `-lc`."""
    for at, argument in enumerate(args):
        if re.fullmatch(r"-[a-zA-Z]*c[a-zA-Z]*", argument):
            return args[at + 1] if at + 1 < len(args) else None
        if not argument.startswith(("-", "+")):
            return None
    return None


def _git_subcommand(args: Sequence[str]) -> str | None:
    rest = iter(args)
    for argument in rest:
        if argument in _GIT_WITH_VALUE:
            next(rest, None)
        elif not argument.startswith("-"):
            return argument
    return None


def _url(argument: str) -> str | None:
    text = argument.partition("=")[2] if argument.startswith("-") and "=" in argument else argument
    return text if re.match(r"(?i)https?://", text) and not re.search(r"\s", text) else None


def _is_local(url: str) -> bool:
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return False
    if host in _LOCAL_HOSTS or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _asks_for_help(args: Sequence[str]) -> bool:
    return bool(args) and set(args) <= {"--version", "-V", "--help", "-h"}


def _disabled(summary: str, cmd: str) -> ToolNetworkDisabled:
    return ToolNetworkDisabled(summary, {"cmd": cmd})
