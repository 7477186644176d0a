"""Tools that a compute task calls work in the run's root folder, isolated, and stop with the attempt."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from pydantic import BaseModel

from smithers import Context, RunStatus, Task, Workflow, create_smithers, run_workflow_sync
from smithers.tools import bash, read, write


class Result(BaseModel):
    stdout: str


@pytest.mark.parametrize("allowed", [False, True])
def test_the_network_of_a_runs_commands_is_what_the_launch_allowed(tmp_path: Path, allowed: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        smithers, outputs = create_smithers({"output": Result}, db=tmp_path / "x.db")

        async def work() -> Result:
            code = (
                f"import socket; s = socket.socket(); s.settimeout(5); print(s.connect_ex(('127.0.0.1', {port})) == 0)"
            )
            return Result(stdout=(await bash("python3", ["-c", code])).strip())

        @smithers
        def workflow(ctx: Context[object]) -> Workflow:
            return Workflow("network")[Task("work", output=outputs.output)[work]]

        result = run_workflow_sync(workflow, root_dir=tmp_path, allow_network=allowed)
    # the sandbox has a loopback of its own, so this machine's is reached only where the network is shared
    assert result.output == [Result(stdout=str(allowed))], result.error


def test_a_task_uses_tools_in_the_runs_root_folder_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    smithers, outputs = create_smithers({"output": Result}, db=tmp_path / "x.db")

    async def work() -> Result:
        await write("hello.txt", "hello")
        seen = await bash("cat", ["hello.txt"])
        try:
            await read("../secret.txt")
        except Exception as error:
            seen += f" {getattr(error, 'error_code', error)}"
        return Result(stdout=seen)

    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow("tools")[Task("work", output=outputs.output)[work]]

    result = run_workflow_sync(workflow, root_dir=root)
    assert result.status is RunStatus.FINISHED, result.error
    assert result.output == [Result(stdout="hello TOOL_PATH_ESCAPE")]
