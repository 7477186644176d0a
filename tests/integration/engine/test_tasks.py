"""Tasks: modes, dependencies, skips, results that do not fit, and what work may raise."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import cast

import pytest
from pydantic import BaseModel, field_validator
from tests.integration.engine.support import Bench, Calls, Out, Row, outputs, smithers

from smithers import Parallel, Sequence, Task, Workflow, create_smithers, task_runtime
from smithers.components.context import Context
from smithers.errors import AgentConfigInvalid
from smithers.testing import fake_agent

pytestmark = pytest.mark.anyio
Ctx = Context[dict[str, object]]


async def test_compute_sync_compute_async_static_and_agent_all_write_a_row(bench: Bench) -> None:
    async def later() -> dict[str, object]:
        await asyncio.sleep(0)
        return {"text": "async"}

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="modes")[
            Task("sync", output=Row)[lambda: {"text": "sync"}],
            Task("async", output=outputs.row)[later],
            Task("static", output="row")[{"text": "static"}],
            Task("model", output=Row)[lambda: Row(text="model")],
            Task("agent", output=Row, agent=fake_agent(Row, {"text": "agent"}))["Say it."],
        ]

    result = await bench.run(flow)

    assert result.status == "finished"
    assert bench.texts() == ["sync", "async", "static", "model", "agent"]


async def test_sync_work_runs_in_a_thread_and_async_work_in_the_loop(bench: Bench) -> None:
    threads: dict[str, int] = {}

    def sync() -> Row:
        threads["sync"] = threading.get_ident()
        return Row(text=task_runtime().node_id)

    async def coroutine() -> Row:
        threads["async"] = threading.get_ident()
        return Row(text=task_runtime().node_id)

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="threads")[Task("a", output=Row)[sync], Task("b", output=Row)[coroutine]]

    await bench.run(flow)

    assert bench.texts() == ["a", "b"]
    assert threads["async"] == threading.get_ident() != threads["sync"]


async def test_the_output_table_is_the_result_of_a_finished_run(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="out")[Task("a", output="output")[{"text": "x"}], Task("b", output="output")[{"n": 2}]]

    assert (await bench.run(flow)).output == [Out(text="x"), Out(n=2)]


async def test_dependencies_come_by_name_by_mapping_and_positionally(bench: Bench) -> None:
    seen: list[object] = []

    def by_name(first: Row, other: Row) -> Row:
        seen.append((first, other))
        return Row()

    def as_mapping(deps: Mapping[str, object]) -> Row:
        seen.append(dict(deps))
        return Row()

    def as_keywords(**deps: object) -> Row:
        seen.append(deps)
        return Row()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        deps = {"first": Row}
        return Workflow(name="deps")[
            Parallel()[
                Task("c", output=Row, deps=deps, needs={"other": "second"})[by_name],
                Task("d", output=Row, deps=deps)[as_mapping],
                Task("e", output=Row, needs={"x": "second"})[as_keywords],
                Task("first", output=Row)[{"n": 1}],
                Task("second", output=Row)[{"n": 2}],
            ],
        ]

    assert (await bench.run(flow)).status == "finished"
    assert (Row(n=1), Row(n=2)) in seen
    assert {"first": Row(n=1)} in seen
    assert {"x": Row(n=2)} in seen


async def test_depends_on_orders_and_missing_ids_are_a_deadlock_that_names_them(bench: Bench) -> None:
    @smithers
    def good(ctx: Ctx) -> Workflow:
        return Workflow(name="g")[
            Parallel()[
                Task("late", output=Row, depends_on=["early"])[{"text": "late"}],
                Task("early", output=Row)[{"text": "early"}],
            ]
        ]

    @smithers
    def bad(ctx: Ctx) -> Workflow:
        return Workflow(name="b")[Task("late", output=Row, depends_on=["never"])[{"text": "late"}]]

    await bench.run(good)
    result = await bench.run(bad, run_id="b")

    assert bench.texts() == ["early", "late"]
    assert result.status == "failed"
    assert result.error is not None
    assert result.error["code"] == "DEPENDENCY_DEADLOCK"
    assert result.error["details"] == {"waiting": {"late::0": ["never"]}}


async def test_optional_dependencies_without_a_row_are_left_out(bench: Bench) -> None:
    seen: list[Mapping[str, object]] = []

    def work(deps: Mapping[str, object]) -> Row:
        seen.append(deps)
        return Row()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="optional")[
            Task("gone", output=Row, continue_on_fail=True)[_raises(ValueError("no"))],
            Task("skipped", output=Row, skip_if=True)[{"n": 1}],
            Task("there", output=Row)[{"n": 1}],
            Task("last", output=Row, deps={"gone": Row, "skipped": Row, "there": Row}, deps_optional=True)[work],
        ]

    result = await bench.run(flow)

    assert result.status == "finished"
    assert seen == [{"there": Row(n=1)}]
    assert result.failed_child_keys == ("gone::0",)


async def test_a_required_dependency_without_a_row_fails_the_task(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="required")[
            Task("gone", output=Row, skip_if=True)[{"n": 1}],
            Task("last", output=Row, deps={"gone": Row})[_same],
        ]

    result = await bench.run(flow)

    assert result.status == "failed"
    assert _cause(result.error)["code"] == "DEP_NOT_SATISFIED"


async def test_skip_if_skips_without_running_and_counts_as_done(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="skip")[
            Task("a", output=Row, skip_if=True)[calls.task("a")],
            Task("b", output=Row, depends_on=["a"])[calls.task("b")],
        ]

    assert (await bench.run(flow)).status == "finished"
    assert (calls["a"], calls["b"]) == (0, 1)
    assert bench.states() == {"a": "skipped", "b": "finished"}
    assert bench.types(node_id="a") == ["NodePending", "NodeSkipped"]


async def test_a_failure_fails_the_run_with_the_tasks_error_as_cause(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="fails")[
            Task("a", output=Row)[_raises(ValueError("no luck"))], Task("b", output=Row)[{"n": 1}]
        ]

    result = await bench.run(flow)

    assert result.status == "failed"
    assert result.error is not None
    assert (result.error["code"], result.error["summary"]) == ("SESSION_ERROR", "Task failed: a")
    assert _cause(result.error)["message"] == "no luck"
    assert bench.states() == {"a": "failed", "b": "pending"}
    assert bench.row().status == "failed"


async def test_siblings_of_a_failure_drain_and_keep_their_results(bench: Bench) -> None:
    calls = Calls()
    slow = calls.held("slow")

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        assert len(ctx.outputs(Row)) < 99  # the render looks at what is written while the run drains
        return Workflow(name="drain")[
            Parallel(max_concurrency=2)[
                Task("bad", output=Row)[_raises(ValueError("no"))],
                Task("slow", output=Row)[slow],
                Task("never", output=Row)[calls.task("never")],
            ]
        ]

    handle = await bench.start(flow)
    await bench.seen("NodeFailed", "bad")
    calls.release("slow")
    result = await handle.result

    assert result.error is not None
    assert result.error["summary"] == "Task failed: bad"
    assert bench.states() == {"bad": "failed", "slow": "finished", "never": "pending"}
    assert calls["never"] == 0


async def test_quarantine_fails_a_leaf_alone_and_skips_what_depends_on_it(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="quarantine")[
            Parallel(failure_policy="quarantine")[
                Task("bad", output=Row)[_raises(ValueError("no"))],
                Task("child", output=Row, depends_on=["bad"])[{"n": 1}],
                Task("grandchild", output=Row, depends_on=["child"])[{"n": 1}],
                Task("sibling", output=Row)[{"n": 1}],
            ],
            Task("after", output=Row)[{"n": 1}],
        ]

    result = await bench.run(flow)

    assert result.status == "finished"
    assert result.failed_child_keys == ("bad::0",)
    assert bench.states() == {
        "bad": "failed",
        "child": "skipped",
        "grandchild": "skipped",
        "sibling": "finished",
        "after": "finished",
    }
    finished = next(e for e in bench.events() if e["type"] == "RunFinished")
    assert (finished["failedChildren"], finished["failedChildKeys"]) == (1, ["bad::0"])


async def test_a_result_that_does_not_fit_is_not_tried_again(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="unfit")[Task("a", output=Row, retries=5)[lambda: {"n": "many"}]]

    result = await bench.run(flow)

    assert _cause(result.error)["code"] == "INVALID_OUTPUT"
    assert len(bench.attempts("a")) == 1


async def test_a_static_value_that_does_not_fit_fails_its_task(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="unfit")[Task("a", output=Row)[{"n": "many"}]]

    assert _cause((await bench.run(flow)).error)["code"] == "INVALID_OUTPUT"


@pytest.mark.parametrize("value", ["static", "computed"])
async def test_text_that_no_database_can_hold_fails_its_task_only(bench: Bench, value: str) -> None:
    bad = {"text": "\ud800"}

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="surrogate")[Task("a", output=Row)[bad if value == "static" else lambda: bad]]

    result = await bench.run(flow)

    assert result.status == "failed"
    assert bench.states() == {"a": "failed"}


@pytest.mark.parametrize("value", ["static", "computed"])
async def test_a_validator_that_raises_something_odd_fails_its_task_only(bench: Bench, value: str) -> None:
    class Odd(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def check(cls, n: int) -> int:
            raise RuntimeError("the validator is broken")

    odd, _ = create_smithers({"odd": Odd})

    @odd
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="odd")[Task("a", output=Odd)[{"n": 1} if value == "static" else lambda: {"n": 1}]]

    result = await bench.run(flow)

    assert result.status == "failed"
    assert bench.states() == {"a": "failed"}


class BrokenText(Exception):
    """Cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text either")


class Strange(BaseException):
    """Not an Exception."""


EXOTIC: list[Callable[[], BaseException]] = [
    lambda: SystemExit(3),
    StopIteration,
    StopAsyncIteration,
    GeneratorExit,
    asyncio.CancelledError,
    TimeoutError,
    BrokenText,
    lambda: Strange("odd"),
    lambda: ExceptionGroup("several", [ValueError("a"), TypeError("b")]),
]


@pytest.mark.parametrize("make", EXOTIC, ids=lambda m: type(m()).__name__)
@pytest.mark.parametrize("kind", ["sync", "async", "agent"])
async def test_whatever_work_raises_fails_the_task_and_not_the_engine(
    bench: Bench, make: Callable[[], BaseException], kind: str
) -> None:
    def sync() -> Row:
        raise make()

    async def coroutine() -> Row:
        raise make()

    async def answer(_call: object) -> Row:
        raise make()

    def tree() -> Task:
        if kind == "agent":
            return Task("a", output=Row, agent=fake_agent(Row, answer), retries=0)["Go."]
        return Task("a", output=Row)[sync if kind == "sync" else coroutine]

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="exotic")[tree()]

    result = await bench.run(flow)

    assert result.status == "failed"
    assert bench.states() == {"a": "failed"}
    assert [a.state for a in bench.attempts("a")] == ["failed"]


async def test_a_callable_that_returns_a_coroutine_is_awaited_and_an_awaitable_static_value_refused(
    bench: Bench,
) -> None:
    async def inner() -> Row:
        return Row(text="inner")

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="lambda")[Task("a", output=Row)[lambda: inner()]]

    await bench.run(flow)

    assert bench.texts() == ["inner"]


async def test_an_agents_prompt_may_be_a_function_of_its_dependencies(bench: Bench) -> None:
    agent = fake_agent(Row, {"text": "ok"})

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="prompt")[
            Task("plan", output=Row)[{"text": "the plan"}],
            Task("do", output=Row, agent=agent, deps={"plan": Row})[_do],
        ]

    await bench.run(flow)

    assert agent.last_prompt() == "Do the plan"


async def test_an_agent_setup_error_is_not_tried_again_although_agents_retry_by_default(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="config")[
            Task("a", output=Row, agent=fake_agent(Row, AgentConfigInvalid("bad key")))["Go."]
        ]

    result = await bench.run(flow)

    assert result.status == "failed"
    assert len(bench.attempts("a")) == 1


async def test_a_fork_goes_on_from_the_other_tasks_conversation(bench: Bench) -> None:
    plan, review = fake_agent(Row, {"text": "plan"}), fake_agent(Row, {"text": "review"})

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="fork")[
            Parallel()[
                Task("review", output=Row, agent=review, fork="plan", retries=0)["Review."],
                Task("plan", output=Row, agent=plan)["Plan."],
            ]
        ]

    result = await bench.run(flow)

    # scripted agents keep no conversation, so there is nothing to fork: that is said, after the other task
    assert bench.states()["plan"] == "finished"
    assert result.status == "failed"
    assert _cause(result.error)["code"] == "TASK_FORK_SESSION_UNAVAILABLE"


async def test_agents_text_and_agent_identity_are_kept_with_the_attempt(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="meta")[
            Task("a", output=Row, agent=fake_agent(Row, {"text": "hi"}, id="greeter"))["Hello."]
        ]

    await bench.run(flow)
    attempt = bench.attempts("a")[0]

    assert attempt.meta_json is not None
    assert '"agentId":"greeter"' in attempt.meta_json
    assert '"prompt":"Hello."' in attempt.meta_json


async def test_a_sequence_runs_in_order_with_one_commit_a_step(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="chain")[Sequence()[[Task(f"t{i}", output=Row)[_gives(i)] for i in range(5)]]]

    await bench.run(flow)

    assert bench.row().frame_no == 6


def _gives(n: int) -> Callable[[], dict[str, object]]:
    async def work() -> dict[str, object]:
        return {"n": n}

    return work  # type: ignore[return-value]


def _raises(error: BaseException) -> Callable[[], object]:
    def work() -> object:
        raise error

    return work


def _cause(error: Mapping[str, object] | None) -> dict[str, object]:
    assert error is not None
    cause = error["cause"]
    assert isinstance(cause, dict)
    return cast("dict[str, object]", cause)


def _same(gone: Row) -> Row:
    return gone


def _do(plan: Row) -> str:
    return f"Do {plan.text}"
