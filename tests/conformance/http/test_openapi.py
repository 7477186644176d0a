"""What the doors publish about themselves holds: whatever a client sends by the OpenAPI document, or a little beside it, is
answered as the document says, and never by an unexpected error."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (schemathesis declares its types in part)

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.conformance.http.support import HEADERS, TOKEN, Client, Folder

from smithers import SmithersDb, close_engines, create_serve_app, load_workflow, run_workflow

EXAMPLES = 12
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

Case: TypeAlias = "schemathesis.Case[Any]"
Steer: TypeAlias = Callable[[Case, int], None]
"""Makes something of a case that reaches further than chance would; is told the case's number."""


def hold_to(schema: schemathesis.BaseSchema, steer: Steer, skip: tuple[str, ...] = ()) -> set[str]:
    """Call every operation with examples that fit the document, and with some that do not. Returns the operations."""
    called: set[str] = set()
    for found in schema.get_all_operations():
        operation = found.ok() if isinstance(found, Ok) else None
        assert operation is not None, found
        if operation.path in skip:
            continue
        hold_one_to(operation.as_strategy(generation_mode=GenerationMode.POSITIVE), steer)
        if operation.body or operation.query:
            with suppress(Unsatisfiable):  # whatever is sent there fits
                hold_one_to(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), steer)
        called.add(operation.label)
    return called


def hold_one_to(cases: SearchStrategy[Case], steer: Steer) -> None:
    """Call one operation."""
    numbers = itertools.count()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        verbosity=Verbosity.quiet,
    )
    @given(case=cases)
    def call(case: Case) -> None:
        steer(case, next(numbers))
        case.call_and_validate(checks=CHECKS, headers=HEADERS, timeout=60)

    call()


def test_the_server_keeps_its_document(client: Client, folder: Folder) -> None:
    finished, asking = client.start(), client.start(ask=True)
    client.until(finished, "finished")
    client.until(asking, "waiting-approval")

    def steer(case: Case, number: int) -> None:
        if "runId" in case.path_parameters and number % 3:
            is_endless = case.path.endswith("/events")
            case.path_parameters["runId"] = asking if number % 3 == 1 and not is_endless else finished
        if isinstance(case.body, dict) and "workflowPath" in case.body and number % 2:
            case.body["workflowPath"] = str(folder.workflow)

    schema = schemathesis.openapi.from_url(f"{client.url}/openapi.json", headers=HEADERS)

    called = hold_to(schema, steer)

    assert {"POST /v1/runs", "GET /v1/runs/{runId}/events", "POST /v1/webhooks/{sourceId}", "GET /metrics"} <= called
    assert client.http.get("/health").json() == {"ok": True}


@pytest.mark.parametrize("asks", [False, True], ids=["a run that has ended", "a run that waits"])
def test_an_app_for_one_run_keeps_its_document(tmp_path: Path, *, asks: bool) -> None:
    folder = Folder(tmp_path / "flows")
    workflow = load_workflow(folder.workflow)

    async def park() -> None:
        await run_workflow(workflow, input={"ask": asks}, run_id="r")
        await close_engines()

    asyncio.run(park())
    adapter = SmithersDb(folder.db)
    app = create_serve_app(workflow=workflow, adapter=adapter, run_id="r", auth_token=TOKEN)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)

    called = hold_to(schema, lambda case, number: None, skip=("/events",) if asks else ())

    assert {"GET /", "POST /approve/{nodeId}", "POST /cancel", "GET /frames"} <= called
    adapter.close()
