"""What the command line shows of tools: their calls in `inspect` and `logs`, `--sandbox` and the bounds of tools."""

from __future__ import annotations

from typing import cast

from tests.unit.cli.support import HEAD, Cli, at

CALLING = """
from smithers import read, write

async def work():
    await write("note.txt", "hello")
    try:
        await read("../note.txt")
    except Exception:
        return {"n": len(await read("note.txt"))}

@smithers
def calling(ctx):
    return Workflow(name="calling")[Task(id="a", output=outputs.output)[work]]
"""


def test_calls_of_tools_are_shown_as_text_and_as_json(cli: Cli) -> None:
    (cli.folder / "calling.py").write_text(HEAD + CALLING)
    assert cli("up", "calling.py", "-r", "r").code == 0
    lines = [line.split("  ", 1)[1] for line in cli("logs", "r").out.splitlines()]
    assert lines[2:6] == ["a calls write", "a called write: success", "a calls read", "a called read: error"]
    shown = [line.split()[:3] for line in cli("inspect", "r").out.splitlines()]
    assert ["a", "write", "finished"] in shown
    assert ["a", "read", "failed"] in shown
    (node,) = cast("list[object]", cli("inspect", "r", "--format", "json").json["nodes"])
    called = cast("list[dict[str, object]]", at(node, "toolCalls"))
    assert [(call["seq"], call["toolName"], call["status"]) for call in called] == [
        (1, "write", "finished"),
        (2, "read", "failed"),
        (3, "read", "finished"),
    ]
    assert at(called[1], "error", "code") == "TOOL_PATH_ESCAPE"


def test_the_sandbox_is_turned_off_by_its_name_only(cli: Cli) -> None:
    cli.write("one")
    assert cli("up", "one.py", "-r", "r", "--sandbox", "maybe").code == 4
    assert cli("up", "one.py", "-r", "r", "--sandbox", "off").code == 0
    assert at(cli("inspect", "r", "--format", "json").json, "config") == {"sandbox": "off"}


def test_bounds_of_the_tools_of_a_run_are_stored_with_it(cli: Cli) -> None:
    cli.write("one")
    assert cli("up", "one.py", "-r", "r", "--max-output-bytes", "500", "--tool-timeout-ms", "900").code == 0
    assert at(cli("inspect", "r", "--format", "json").json, "config") == {"maxOutputBytes": 500, "toolTimeoutMs": 900}
    refused = cli("up", "one.py", "-r", "s", "--tool-timeout", "0")
    assert (refused.code, "tool_timeout_ms" in refused.err) == (4, True)
