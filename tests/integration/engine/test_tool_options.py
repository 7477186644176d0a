"""What a launch says about its tools holds for the whole run: for a resume, a child and a continued run too."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.integration.engine.support import Bench, Out, smithers

from smithers import Context, ContinueAsNew, RunStatus, SmithersWorkflow, Subflow, Task, Workflow
from smithers.ambient import LONGEST_TIMEOUT_MS, MOST_OUTPUT_BYTES
from smithers.components.element import Element
from smithers.engine.admission import LaunchStamp
from smithers.engine.tooling import ToolOptions
from smithers.errors import InvalidInput, ProcessTimeout, ToolFileTooLarge
from smithers.tools import bash, current_context, read


def of(*nodes: Element, name: str = "w") -> SmithersWorkflow:
    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow(name)[list(nodes)]

    return workflow


@pytest.mark.anyio
async def test_bounds_of_a_run_reach_its_tools_also_after_a_resume(bench: Bench) -> None:
    seen: list[tuple[int, int]] = []

    async def work() -> dict[str, object]:
        context = current_context()
        seen.append((context.max_output_bytes, context.timeout_ms))
        if len(seen) == 1:
            raise ValueError("once")
        return {"text": "done"}

    workflow = of(Task("look", output=Out, retries=0)[work])
    failed = await bench.run(workflow, max_output_bytes=1_000, tool_timeout_ms=2_000)
    assert failed.status is RunStatus.FAILED
    assert (await bench.resume(workflow)).status is RunStatus.FINISHED
    assert seen == [(1_000, 2_000)] * 2


@pytest.mark.anyio
async def test_a_run_that_says_nothing_has_the_tools_own_bounds_and_stores_nothing(bench: Bench) -> None:
    seen: list[tuple[int, int]] = []

    async def work() -> dict[str, object]:
        seen.append((current_context().max_output_bytes, current_context().timeout_ms))
        return {"text": "done"}

    await bench.run(of(Task("look", output=Out)[work]))
    assert seen == [(200_000, 60_000)]
    assert ToolOptions().config() == {}


@pytest.mark.anyio
async def test_tools_stop_at_the_bounds_of_their_run(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "large").write_text("x" * 101)

    async def work() -> dict[str, object]:
        with pytest.raises(ToolFileTooLarge):
            await read("large")
        with pytest.raises(ProcessTimeout):
            await bash("sleep", ["60"])
        return {"n": len(await bash("head", ["-c", "5000", "/dev/zero"]))}

    result = await bench.run(
        of(Task("look", output=Out)[work]), root_dir=str(tmp_path), max_output_bytes=100, tool_timeout_ms=3_000
    )
    assert result.output == [Out(n=100)], result.error


@pytest.mark.anyio
async def test_a_child_has_the_bounds_of_its_parent(bench: Bench) -> None:
    seen: list[int] = []

    async def work() -> dict[str, object]:
        seen.append(current_context().max_output_bytes)
        return {"text": "done"}

    child = of(Task("look", output=Out)[work], name="child")
    result = await bench.run(of(Subflow("sub", workflow=child, output=Out)), max_output_bytes=1_234)
    assert result.status is RunStatus.FINISHED, result.error
    assert seen == [1_234]


@pytest.mark.anyio
async def test_a_continued_run_has_the_bounds_of_the_one_before(bench: Bench) -> None:
    seen: list[int] = []

    async def work() -> dict[str, object]:
        seen.append(current_context().max_output_bytes)
        return {"text": "done"}

    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        is_first = ctx.continuation is None
        return Workflow("pages")[Task("look", output=Out)[work], ContinueAsNew({"page": 2}, when=is_first)]

    assert (await bench.run(workflow, max_output_bytes=1_234)).status is RunStatus.FINISHED
    assert seen == [1_234, 1_234]


@pytest.mark.anyio
async def test_what_a_host_stamps_a_run_with_counts_as_said_by_the_launch(bench: Bench) -> None:
    seen: list[int] = []

    async def work() -> dict[str, object]:
        seen.append(current_context().timeout_ms)
        return {"text": "done"}

    workflow = of(Task("look", output=Out)[work])
    await bench.run(workflow, stamp=LaunchStamp("w", config={"toolTimeoutMs": 4_321}))
    assert seen == [4_321]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_output_bytes", 0),
        ("max_output_bytes", MOST_OUTPUT_BYTES + 1),
        ("max_output_bytes", True),
        ("tool_timeout_ms", -1),
        ("tool_timeout_ms", LONGEST_TIMEOUT_MS + 1),
        ("tool_timeout_ms", 1.5),
    ],
)
async def test_bounds_that_tools_cannot_have_are_refused_before_anything_is_stored(
    bench: Bench, option: str, value: object
) -> None:
    with pytest.raises(InvalidInput, match=option):
        await bench.run(of(Task("look", output=Out)["x"]), None, "r", **{option: value})
    stamped = LaunchStamp("w", config={"maxOutputBytes": MOST_OUTPUT_BYTES + 1})
    with pytest.raises(InvalidInput, match="max_output_bytes"):
        await bench.run(of(Task("look", output=Out)["x"]), stamp=stamped)


@given(
    st.booleans(),
    st.sampled_from(["required", "off"]),
    st.none() | st.integers(1, MOST_OUTPUT_BYTES),
    st.none() | st.integers(1, LONGEST_TIMEOUT_MS),
)
def test_options_are_read_back_as_they_were_stored(
    network: bool, sandbox: str, most: int | None, longest: int | None
) -> None:
    options = ToolOptions(
        allow_network=network,
        sandbox="off" if sandbox == "off" else "required",
        max_output_bytes=most,
        timeout_ms=longest,
    ).check()
    assert ToolOptions.of(options.config()) == options
