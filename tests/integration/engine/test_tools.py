"""Tools that a compute task calls work in the run's root folder, isolated, and stop with the attempt."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from smithers import Context, RunStatus, Task, Workflow, create_smithers, run_workflow_sync
from smithers.tools import bash, read, write


class Result(BaseModel):
    stdout: str


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
