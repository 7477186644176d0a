"""What tests of time travel share."""

from __future__ import annotations

from tests.integration.engine.support import Bench, Calls, outputs, smithers

from smithers import Sequence, SmithersWorkflow, Task, Workflow
from smithers.components.context import Context
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.control.travel.rewinding import Rewound, rewind

ADMIN = Caller(user="ann", role="admin")


def control_of(bench: Bench) -> Control:
    return Control(bench.store, clock=bench.clock)


async def back(bench: Bench, frame_no: int, run_id: str = "r", **options: object) -> Rewound:
    given: dict[str, object] = {"caller": ADMIN, "confirm": True, "stop": bench.engine.drop, **options}
    return await rewind(control_of(bench), run_id, frame_no, **given)  # type: ignore[arg-type]


def chain(calls: Calls, *names: str) -> SmithersWorkflow:
    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow(name="chain")[Sequence[[Task(id=name, output=outputs.row)[calls.task(name)] for name in names]]]

    return workflow
