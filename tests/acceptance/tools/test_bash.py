"""`bash` as tasks and agents call it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from smithers.errors import (
    InvalidInput,
    ProcessTimeout,
    SmithersError,
    ToolCommandFailed,
    ToolFileUnavailable,
    ToolGitRemoteDisabled,
    ToolNetworkDisabled,
    ToolPathEscape,
    ToolSandboxUnavailable,
)
from smithers.jsons import object_of
from smithers.tools import BashOptions, bash, bash_tool, tool_context
from smithers.tools.sandbox import probe, report


def call(
    root: Path, cmd: str, args: list[str] | None = None, opts: BashOptions | None = None, **options: object
) -> str:
    async def run() -> str:
        with tool_context(root, **options):  # type: ignore[arg-type]
            return await bash(cmd, args, opts)

    return asyncio.run(run())


def test_output_is_standard_output_then_standard_error(root: Path) -> None:
    assert call(root, "sh", ["-c", "echo err >&2; echo out"]) == "out\nerr\n"


def test_arguments_reach_the_program_as_they_are(root: Path) -> None:
    assert call(root, "printf", ["%s|", "a b", "$HOME", "*", "'", ""]) == "a b|$HOME|*|'||"


def test_a_line_without_arguments_is_split_into_words_and_no_more(root: Path) -> None:
    assert call(root, "echo hi  'two words' $HOME; echo > x") == "hi two words $HOME; echo > x\n"
    assert not (root / "x").exists()


def test_it_runs_in_the_root_folder_or_in_cwd(root: Path) -> None:
    (root / "sub").mkdir()

    assert call(root, "pwd") == f"{root.resolve()}\n"
    assert call(root, "pwd", [], {"cwd": "sub"}) == f"{root.resolve()}/sub\n"


def test_a_root_that_is_a_link_works(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)

    assert call(tmp_path / "alias", "sh", ["-c", "echo x > made; cat made"]) == "x\n"


def test_the_attempt_is_named_in_the_environment(root: Path) -> None:
    line = "echo $SMITHERS_RUN_ID $SMITHERS_NODE_ID $SMITHERS_ITERATION $SMITHERS_ATTEMPT"

    out = call(root, "sh", ["-c", line], run_id="r", node_id="n", iteration=2, attempt=3)

    assert out == "r n 2 3\n"


def test_a_failure_has_exit_code_and_output(root: Path) -> None:
    with pytest.raises(ToolCommandFailed) as caught:
        call(root, "sh", ["-c", "echo some; echo more >&2; exit 3"])

    assert caught.value.details == {
        "cmd": "sh",
        "args": ["-c", "echo some; echo more >&2; exit 3"],
        "exitCode": 3,
        "output": "some\nmore\n",
    }


@pytest.mark.parametrize(("cmd", "code"), [("no-such-program", 127), ("/etc", 126), ("./plain", 126)])
def test_what_cannot_be_executed_fails_as_a_shell_says_it(root: Path, cmd: str, code: int) -> None:
    (root / "plain").write_text("text")

    with pytest.raises(ToolCommandFailed) as caught:
        call(root, cmd)

    assert caught.value.details["exitCode"] == code


def test_a_timeout_has_the_output_so_far(root: Path) -> None:
    with pytest.raises(ProcessTimeout) as caught:
        call(root, "sh", ["-c", "echo begun; sleep 600"], timeout_ms=3000)

    assert caught.value.details["output"] == "begun\n"
    assert caught.value.error_code == "PROCESS_TIMEOUT"


def test_output_that_is_not_utf8_is_returned_as_well_as_it_can_be(root: Path) -> None:
    assert call(root, "printf", [r"a\377b"]) == "a�b"


@pytest.mark.parametrize(
    ("cmd", "args", "opts", "error"),
    [
        ("", None, None, InvalidInput),
        ("  ", None, None, InvalidInput),
        ("echo 'open", None, None, InvalidInput),
        ("''", None, None, ToolCommandFailed),
        ("x" * 9000, None, None, InvalidInput),
        ("echo", ["x"] * 129, None, InvalidInput),
        ("echo", ["x" * 8193], None, InvalidInput),
        ("echo", ["a\0b"], None, InvalidInput),
        ("echo", ["\ud800"], None, InvalidInput),
        ("echo", "text", None, InvalidInput),
        ("echo", [1], None, InvalidInput),
        ("echo", ["x"], {"cwd": ""}, InvalidInput),
        ("echo", ["x"], {"cwd": "x" * 1025}, InvalidInput),
        ("echo", ["x"], {"env": {}}, InvalidInput),
        ("echo", ["x"], {"cwd": ".."}, ToolPathEscape),
        ("echo", ["x"], {"cwd": "/"}, ToolPathEscape),
        ("echo", ["x"], {"cwd": "out"}, ToolPathEscape),
        ("echo", ["x"], {"cwd": "missing"}, ToolFileUnavailable),
        ("echo", ["x"], {"cwd": "file"}, ToolFileUnavailable),
        ("curl", ["https://example.com"], None, ToolNetworkDisabled),
        ("pip install x", None, None, ToolNetworkDisabled),
        ("git", ["-C", ".", "push"], None, ToolGitRemoteDisabled),
    ],
)
def test_a_bad_call_is_refused_with_a_typed_error(
    root: Path, cmd: str, args: list[str], opts: BashOptions, error: type[SmithersError]
) -> None:
    (root / "file").write_text("")
    (root / "out").symlink_to(root.parent)

    with pytest.raises(error):
        call(root, cmd, args, opts)


def test_the_network_is_refused_by_name_only_while_it_is_off(root: Path) -> None:
    (root / "git").write_text("#!/bin/sh\necho $1\n")
    (root / "git").chmod(0o755)

    assert call(root, "./git", ["fetch"], allow_network=True) == "fetch\n"
    with pytest.raises(ToolGitRemoteDisabled):
        call(root, "./git", ["fetch"])


def test_without_isolation_nothing_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_proven", {})

    def fail(launcher: str, *, allow_network: bool) -> probe.Trial:
        return probe.Trial(launcher, {}, ("the network is reachable",))

    monkeypatch.setattr(probe, "try_out", fail)

    with pytest.raises(ToolSandboxUnavailable) as caught:
        call(root, "touch", ["made"])

    assert not (root / "made").exists()
    assert "bubblewrap" in caught.value.summary
    assert caught.value.details["missing"] == {
        "bubblewrap": ["the network is reachable"],
        "namespaces": ["the network is reachable"],
    }


def test_a_sandbox_that_breaks_later_runs_nothing_either(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(root, "true")
    monkeypatch.setattr("smithers.tools.sandbox.bwrap.find_bwrap", lambda: "/bin/false")
    monkeypatch.setattr(probe, "_proven", {False: "bubblewrap"})

    with pytest.raises(ToolSandboxUnavailable):
        call(root, "touch", ["made"])

    assert not (root / "made").exists()


def test_isolation_can_be_turned_off_explicitly(root: Path) -> None:
    out = call(root, "cat", [str(root.parent / "secret.txt")], sandbox="off")

    assert out == "the secret"


def test_without_a_context_the_current_folder_is_the_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)

    assert asyncio.run(bash_tool("pwd")) == f"{root.resolve()}\n"


def test_a_worker_thread_has_the_context_and_can_run_commands(root: Path) -> None:
    async def run() -> str:
        with tool_context(root):
            return await asyncio.to_thread(lambda: asyncio.run(bash("echo from a thread")))

    assert asyncio.run(run()) == "from a thread\n"


def test_many_commands_at_once_do_not_disturb_each_other(root: Path) -> None:
    async def run() -> list[str]:
        with tool_context(root):
            return await asyncio.gather(*(bash("echo", [str(n)]) for n in range(12)))

    assert asyncio.run(run()) == [f"{n}\n" for n in range(12)]


def test_no_descriptors_are_left_open(root: Path) -> None:
    call(root, "true")
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(3):
        call(root, "true")

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_report_says_what_was_proven() -> None:
    found = report()

    assert found["isEnforced"] is True
    assert found["launcher"] == "bubblewrap"
    holds = object_of(object_of(object_of(found["launchers"])["bubblewrap"])["holds"])
    assert all(holds[name] for name in ("network", "loopback", "files", "pidNamespace", "noNewPrivileges", "rlimits"))
