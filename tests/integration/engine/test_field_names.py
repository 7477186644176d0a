"""Models whose fields have other names outside, are computed or are left out of dumps: what is handed on within the engine
is handed on whole."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field
from pydantic.alias_generators import to_camel
from tests.integration.engine.support import Bench, Row, smithers

from smithers import Approval, HumanTask, Subflow, Task, Workflow, create_smithers
from smithers.components.context import Context
from smithers.errors import InvalidInput
from smithers.scheduler.states import RunStatus
from smithers.testing import ScriptedAgent

pytestmark = pytest.mark.anyio


class Person(BaseModel):
    """Is `firstName` outside, holds a value that no dump has, and takes nothing that it does not know."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    first_name: str
    pin: str = Field(default="none", exclude=True)
    bound: float = 0.0

    @computed_field
    def greeting(self) -> str:
        """What dumps have and models do not take."""
        return f"Hello {self.first_name}"


class Decision(BaseModel):
    """An approval's row with names of the author's own."""

    model_config = ConfigDict(alias_generator=to_camel)

    approved: bool
    note: str | None = None
    decided_by: str | None = None


people, of_people = create_smithers(
    {"output": Person, "person": Person, "decision": Decision, "row": Row}, input=Person
)
plain, of_plain = create_smithers({"output": Person, "person": Person, "decision": Decision})
ANN: dict[str, object] = {"firstName": "Ann", "pin": "1234", "bound": float("inf")}
Ctx = Context[dict[str, object]]


def stored(bench: Bench, run_id: str, table: str = "person") -> list[tuple[object, ...]]:
    return bench.store.read(
        lambda c: c.execute(f'SELECT first_name, pin, bound FROM "{table}" WHERE run_id = ?', (run_id,)).fetchall()
    )


@pytest.mark.parametrize("input", [Person.model_validate({"firstName": "Ann"}), {"firstName": "Ann"}])
async def test_an_input_is_taken_as_an_instance_as_well(bench: Bench, input: object) -> None:
    @people
    def greeting(ctx: Context[Person]) -> Workflow:
        return Workflow("greeting")[Task("a", output=of_people.row)[{"text": ctx.input.greeting}]]

    assert (await bench.run(greeting, input)).status is RunStatus.FINISHED
    assert bench.texts() == ["Hello Ann"]
    with pytest.raises(InvalidInput):
        await bench.start(greeting, {"firstName": "Ann", "age": 3}, "other")


async def test_a_subflows_row_arrives_whole(bench: Bench) -> None:
    @plain
    def child(ctx: Ctx) -> Workflow:
        return Workflow("child")[Task("a", output=of_plain.output)[lambda: ANN]]

    @plain
    def parent(ctx: Ctx) -> Workflow:
        return Workflow("parent")[Subflow("sub", workflow=child, output=of_plain.person)]

    assert (await bench.run(parent)).status is RunStatus.FINISHED
    assert stored(bench, "r") == [("Ann", "1234", float("inf"))]


async def test_a_result_passes_from_its_own_schema_to_the_outputs_model_whole(bench: Bench) -> None:
    class Adult(Person):
        """Narrower than its table."""

    @plain
    def workflow(ctx: Ctx) -> Workflow:
        return Workflow("w")[Task("a", output=of_plain.person, output_schema=Adult)[lambda: ANN]]

    assert (await bench.run(workflow)).status is RunStatus.FINISHED
    assert stored(bench, "r") == [("Ann", "1234", float("inf"))]


async def test_a_decision_fills_all_fields_of_a_model_that_has_other_names_outside(bench: Bench) -> None:
    @plain
    def workflow(ctx: Ctx) -> Workflow:
        return Workflow("w")[Approval("ship", output=of_plain.decision)]

    await bench.run(workflow)
    await bench.decide("ship", note="go")
    await bench.resume(workflow)
    rows = bench.store.read(lambda c: c.execute('SELECT approved, note, decided_by FROM "decision"').fetchall())
    assert rows == [(1, "go", "ann")]


async def test_a_result_comes_back_from_the_cache_whole(bench: Bench) -> None:
    calls: list[str] = []

    def work() -> dict[str, object]:
        calls.append("called")
        return ANN

    @plain
    def workflow(ctx: Ctx) -> Workflow:
        return Workflow("w")[Task("a", output=of_plain.person, cache=True)[work]]

    await bench.run(workflow, run_id="first")
    await bench.run(workflow, run_id="second")
    assert calls == ["called"]
    assert stored(bench, "first") == stored(bench, "second") == [("Ann", "1234", float("inf"))]


HALF = "a \udc80 b"
"""What Python makes of a file name that is not UTF-8, and what no database stores."""


async def test_half_a_character_in_what_is_shown_to_people_does_not_keep_a_step_from_being_stored(bench: Bench) -> None:
    @smithers
    def workflow(ctx: Ctx) -> Workflow:
        return Workflow("w")[Task("a", output="row", label=HALF)[dict], HumanTask("b", output="row")[HALF]]

    assert (await bench.run(workflow)).status is RunStatus.WAITING_APPROVAL
    assert [row.prompt for row in bench.humans()] == [r"a \udc80 b"]


async def test_half_a_character_in_an_error_costs_the_attempt_and_not_the_run(bench: Bench) -> None:
    def work() -> dict[str, object]:
        raise FileNotFoundError(2, "No such file", HALF)

    @smithers
    def workflow(ctx: Ctx) -> Workflow:
        return Workflow("w")[
            Task("a", output="row", continue_on_fail=True)[work], Task("b", output="row")[lambda: {"text": "b"}]
        ]

    assert (await bench.run(workflow)).status is RunStatus.FINISHED
    assert r"a \udc80 b" in (bench.attempts("a")[0].error_json or "").replace("\\\\", "\\")


async def test_half_a_character_in_a_prompt_or_an_agents_text_does_not_lose_the_answer(bench: Bench) -> None:
    def answer(_call: object) -> dict[str, object]:
        return {"output": {"text": "done"}, "text": HALF}

    agent = ScriptedAgent(Row, answer)

    @smithers
    def workflow(ctx: Ctx) -> Workflow:
        return Workflow("w")[Task("a", output="row", agent=agent, retries=0)[HALF]]

    assert (await bench.run(workflow)).status is RunStatus.FINISHED
    assert bench.texts() == ["done"]
