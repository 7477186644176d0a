"""Which commands are refused by name while the network is off."""

from __future__ import annotations

import pytest

from smithers.errors import ToolGitRemoteDisabled, ToolNetworkDisabled
from smithers.tools.network import check_command


@pytest.mark.parametrize(
    "line",
    [
        ["curl", "https://example.com"],
        ["/usr/bin/curl", "-s", "http://192.0.2.1/x"],
        ["curl", "http://127.0.0.1:1/", "http://example.com"],
        ["curl", "example.com"],
        ["curl"],
        ["wget", "-q", "HTTP://EXAMPLE.COM"],
        ["curl", "http://localhost.example.com"],
        ["curl", "http://user@127.0.0.1@example.com/"],
        ["python", "fetch.py", "--url=https://example.com"],
        ["tool", "https://example.com/a"],
        ["npm", "install"],
        ["bun", "add", "x"],
        ["pip", "install", "x"],
        ["sh", "-c", "curl https://example.com"],
        ["bash", "-lc", "cd x && FOO=1 npm ci"],
        ["bash", "-c", "echo a; exec pip install x"],
        ["bash", "-c", "x=$(wget -qO- example.com)"],
        ["bash", "-c", "bash -c 'curl https://example.com'"],
    ],
)
def test_what_needs_the_network_is_refused(line: list[str]) -> None:
    with pytest.raises(ToolNetworkDisabled):
        check_command(line[0], line[1:])


@pytest.mark.parametrize(
    "line",
    [
        ["git", "push"],
        ["git", "-C", "x", "-c", "a=b", "--no-pager", "fetch", "origin"],
        ["git", "remote", "-v"],
        ["git", "clone", "../x"],
        ["sh", "-c", "git add . && git pull"],
    ],
)
def test_git_commands_that_talk_to_a_remote_are_refused(line: list[str]) -> None:
    with pytest.raises(ToolGitRemoteDisabled):
        check_command(line[0], line[1:])


@pytest.mark.parametrize(
    "line",
    [
        ["git", "commit", "-m", "fetch upstream"],
        ["git", "log", "--grep", "push"],
        ["git", "-C", "push", "status"],
        ["echo", "see https://example.com for more"],
        ["echo", "curl", "and", "npm"],
        ["curl", "http://localhost:8000/x"],
        ["curl", "-s", "http://127.5.5.5"],
        ["curl", "localhost:8000"],
        ["curl", "http://[::1]:80/"],
        ["curl", "http://api.localhost/"],
        ["curl", "--version"],
        ["sh", "-c", "echo 'git push'"],
        ["sh", "script.sh", "-c", "curl https://example.com"],
        ["sh", "-c"],
        ["sh", "-c", "echo 'open"],
        ["mycurl", "x"],
    ],
)
def test_the_rest_is_left_to_the_kernel(line: list[str]) -> None:
    check_command(line[0], line[1:])
