"""A gateway with something in it, and a good request to each of its methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from tests.conformance.gateway.support import House, Stored, eventually
from tests.unit.vcs.support import Repo

from smithers.control import library
from smithers.store.sql.library import ScoreDetail, ScoreRow

Params = dict[str, Any]
SCORE = "score-1"


class World:
    """What good requests are about. Reading ones share what is there, changing ones get something of their own."""

    def __init__(self, house: House) -> None:
        self.house = house
        (house.folder / ".smithers" / "prompts" / "deep").mkdir(parents=True)
        (house.folder / ".smithers" / "prompts" / "deep" / "ask.md").write_text("Ask.")
        house.folder.joinpath("accounts.json").write_text(
            json.dumps({"accounts": [{"label": "mine", "provider": "claude-code", "configDir": str(house.folder)}]})
        )
        Repo(house.folder / "work")
        self.done = house.start("one", until="finished")
        self.written = house.start("writing", until="finished")
        self.failed = house.start("broken", until="failed")
        self.asking = house.start("gated", until="waiting-approval")
        self.cron = str(house.ok("cronCreate", workflow="one", pattern="0 0 1 1 *")["cronId"])
        house.ok("createTicket", path="a/b.md", content="text", status="todo")
        house.run(self._fill())

    async def _fill(self) -> None:
        control = self.house.control  # nothing but a workflow stores facts and scores
        await library.put_fact(control, "team", "style", {"tone": "dry"}, ttl_ms=10**9)
        row = ScoreRow(SCORE, self.done, "a", 0, 1, "s", "S", "live", 0.5, "so so", 1_700_000_000_000, 1.5, 2.5)
        await library.put_score(control, row, ScoreDetail('{"m": 1}', '"in"', '"out"', None, "[1]"))

    def good(self, method: str) -> Params:
        """Parameters that the method takes; of methods that change something, each time for something new."""
        return GOOD[method](self)

    # ── what changing methods are about ────────────────────────────────────────────────────────────────────────────

    def gate(self) -> str:
        """A run that waits for a decision."""
        return self.house.start("gated", until="waiting-approval")

    def waiter(self) -> str:
        """A run that waits for a signal."""
        return self.house.start("waiting", {"key": "k"}, until="waiting-event")

    def busy(self) -> str:
        """A run with a task under way."""
        run_id = self.house.start("slow")

        def under_way() -> str | None:
            nodes = self.house.ok("listNodeStates", runId=run_id)
            return run_id if "in-progress" in [node["state"] for node in nodes] else None

        return eventually(under_way, "a task under way")

    def ticket(self) -> str:
        """The path of a ticket."""
        path = f"t/{uuid4().hex}.md"
        self.house.ok("createTicket", path=path, content="x")
        return path

    def new_cron(self) -> str:
        """The id of a schedule."""
        return str(self.house.ok("cronCreate", workflow="one", pattern="0 0 1 1 *")["cronId"])

    def stored(self) -> Stored:
        """See `House.stored`."""
        return self.house.stored()

    def changes_since(self, before: Stored) -> Stored:
        """See `House.changes_since`."""
        return self.house.changes_since(before)


_LAUNCH: Params = {
    "maxConcurrency": 2,
    "allowNetwork": False,
    "maxOutputBytes": 1000,
    "toolTimeoutMs": 1000,
    "startedBy": {"harness": "h", "sessionId": "s", "prompt": "p", "detected": True},
}

GOOD: dict[str, Callable[[World], Params]] = {
    "launchRun": lambda w: {
        "workflow": "one",
        "input": {"any": ["thing"]},
        "options": {"runId": w.house.name(), "idempotencyKey": w.house.name("key"), **_LAUNCH},
    },
    "resumeRun": lambda w: {"runId": w.asking, "options": {"force": False}},
    "cancelRun": lambda w: {"runId": w.gate()},
    "pauseRun": lambda w: {"runId": w.busy()},
    "hijackRun": lambda w: {"runId": w.gate(), "options": {"target": "me"}},
    "rewindRun": lambda w: {
        "runId": w.house.start("one", until="finished"),
        "frameNo": 1,
        "confirm": True,
        "force": False,
        "noRevert": False,
    },
    "retryTask": lambda w: {
        "runId": w.house.start("one", until="finished"),
        "nodeId": "a",
        "iteration": 0,
        "resetDependents": True,
    },
    "submitApproval": lambda w: {
        "runId": w.gate(),
        "nodeId": "ship",
        "iteration": 0,
        "approved": True,
        "note": "fine",
        "decision": {"approved": True, "note": "fine", "value": {"more": 1}},
    },
    "submitSignal": lambda w: {"runId": w.waiter(), "correlationKey": "k", "signalName": "ping", "payload": {"n": 1}},
    "getRun": lambda w: {"runId": w.done},
    "listRunTokenUsage": lambda w: {"runId": w.done},
    "listRuns": lambda _: {
        "filter": {"status": "finished", "limit": 5, "offset": 0, "workflow": "one", "includeSystem": True}
    },
    "listRunDescendants": lambda w: {"runId": w.done, "limit": 10},
    "getSchemaSignature": lambda _: {},
    "listWorkflows": lambda _: {"filter": {"hasUi": False, "includeSystem": True}},
    "listApprovals": lambda w: {"filter": {"runId": w.asking, "workflow": "gated", "limit": 5}},
    "listDocs": lambda _: {"filter": {"kind": "ticket", "includeDeleted": True, "updatedAfterMs": 0, "limit": 5}},
    "streamRunEvents": lambda w: {"runId": w.asking, "afterSeq": 0},
    "streamDevTools": lambda w: {"runId": w.asking, "afterSeq": 0, "fromSeq": 0},
    "getDevToolsSnapshot": lambda w: {"runId": w.done, "frameNo": 1},
    "getNodeOutput": lambda w: {"runId": w.done, "nodeId": "a", "iteration": 0},
    "whatHappened": lambda w: {"runId": w.done, "nodeId": "a", "iteration": 0},
    "getNodeDiff": lambda w: {"runId": w.written, "nodeId": "a", "iteration": 0},
    "getRunDiff": lambda w: {"runId": w.written},
    "runs.diff": lambda w: {"leftRunId": w.done, "rightRunId": w.failed},
    "cronList": lambda _: {"filter": {"workflow": "one"}},
    "cronCreate": lambda w: {
        "workflow": "one",
        "pattern": "*/5 * * * *",
        "cronId": w.house.name("cron"),
        "enabled": False,
    },
    "cronDelete": lambda w: {"cronId": w.new_cron()},
    "cronRun": lambda w: {"cronId": w.new_cron(), "workflow": "one", "input": {"x": 1}},
    "listAccounts": lambda _: {},
    "listUsageReports": lambda _: {"fresh": False},
    "listMemoryFacts": lambda _: {"namespace": "team"},
    "listPrompts": lambda _: {},
    "listScores": lambda w: {"runId": w.done, "nodeId": "a"},
    "listScoresForRuns": lambda w: {
        "runIds": [w.done, w.failed],
        "nodeId": "a",
        "scorerId": "s",
        "scorerName": "S",
        "source": "live",
        "order": "scoredAtDesc",
        "offset": 0,
        "limit": 10,
    },
    "getScoreDetail": lambda w: {"runId": w.done, "scoreId": SCORE},
    "listTickets": lambda _: {"kind": "ticket"},
    "createTicket": lambda _: {"path": f"n/{uuid4().hex}.md", "content": "", "kind": "plan", "status": "todo"},
    "updateTicket": lambda w: {"path": w.ticket(), "content": "y", "status": "done"},
    "deleteTicket": lambda w: {"path": w.ticket()},
    "health": lambda _: {},
    "listNodeStates": lambda w: {"runId": w.done},
    "runs.rerun": lambda w: {"runId": w.done, "newRunId": w.house.name()},
    "frames.list": lambda w: {"runId": w.done, "limit": 5},
    "frames.get": lambda w: {"runId": w.done},
    "attempts.list": lambda w: {"runId": w.done, "nodeId": "a", "iteration": 0},
    "attempts.get": lambda w: {"runId": w.done, "nodeId": "a", "iteration": 0, "attempt": 1},
}
"""A good request to each method that is built."""

NOT_EMPTY = frozenset(
    [
        "listRuns",
        "listRunDescendants",
        "listWorkflows",
        "listApprovals",
        "listDocs",
        "cronList",
        "listAccounts",
        "listMemoryFacts",
        "listPrompts",
        "listScores",
        "listTickets",
        "listNodeStates",
        "frames.list",
        "attempts.list",
        "listUsageReports",
    ]
)
"""Lists that would fit any schema if they were empty."""
