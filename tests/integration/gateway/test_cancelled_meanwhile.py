"""A cancellation that was answered is the last word, whatever else was asked of the run at the same moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.conformance.gateway.support import house_of


def test_a_run_that_is_cancelled_while_it_is_being_resumed_stays_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with house_of(tmp_path) as house:
        run_id = house.start("gated", until="waiting-approval")
        desk = house.behind.services.launching
        finding = desk.workflow_of

        async def slowly(place: Any, row: Any) -> Any:
            found = await finding(place, row)
            await place.control.cancel(row.run_id, source="test")
            return found

        monkeypatch.setattr(desk, "workflow_of", slowly)
        assert house.ok("resumeRun", runId=run_id)["status"] == "already_terminal"
        found = house.ok("getRun", runId=run_id)
        assert (found["status"], found["cancelRequestSource"]) == ("cancelled", "test")
