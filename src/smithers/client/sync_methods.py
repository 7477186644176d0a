"""SyncMethods: what `SyncGatewayClient` can ask of a gateway.

Made by `scripts/client` from the gateway's declarations: change those, not this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from smithers.client.answers import an_object, group, objects
from smithers.client.frames import given


class SyncMethods:
    """A method for each published method of a gateway."""

    def call(self, method: str, params: Mapping[str, object] | None = None) -> object:
        """Call any method."""
        raise NotImplementedError

    # ── the life of runs ─────────────────────────────────────────────────────────────────────────────────────────────

    def launch_run(
        self,
        workflow: str,
        *,
        input: Mapping[str, object] | None = None,
        run_id: str | None = None,
        idempotency_key: str | None = None,
        max_concurrency: int | None = None,
        allow_network: bool | None = None,
        max_output_bytes: int | None = None,
        tool_timeout_ms: int | None = None,
        started_by: Mapping[str, object] | None = None,
    ) -> dict[str, object]:
        """Start a run of a registered workflow; it is durable and can be read from the moment of the answer.

        Needs `run:write`. Raises `GatewayError`.
        """
        params = given({"workflow": workflow, "input": input, "runId": run_id})
        params |= group(
            "options",
            given(
                {
                    "idempotencyKey": idempotency_key,
                    "maxConcurrency": max_concurrency,
                    "allowNetwork": allow_network,
                    "maxOutputBytes": max_output_bytes,
                    "toolTimeoutMs": tool_timeout_ms,
                    "startedBy": started_by,
                }
            ),
        )
        return an_object(self.call("launchRun", params))

    def resume_run(self, run_id: str, *, force: bool | None = None) -> dict[str, object]:
        """Go on with a run that waits, is paused, or has lost its process.

        Needs `run:write`. Raises `GatewayError`.
        """
        params = given({"runId": run_id})
        params |= group("options", given({"force": force}))
        return an_object(self.call("resumeRun", params))

    def cancel_run(self, run_id: str) -> dict[str, object]:
        """Cancel a run and its children. Durable on return; asking again changes nothing.

        Needs `run:write`. Raises `GatewayError`.
        """
        params = given({"runId": run_id})
        return an_object(self.call("cancelRun", params))

    def pause_run(self, run_id: str) -> dict[str, object]:
        """Ask a running run to finish what is under way and pause.

        Needs `run:write`. Raises `GatewayError`.
        """
        params = given({"runId": run_id})
        return an_object(self.call("pauseRun", params))

    def get_run(self, run_id: str) -> dict[str, object]:
        """A run: its row, its derived state, its nodes counted by state.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({"runId": run_id})
        return an_object(self.call("getRun", params))

    def list_runs(
        self,
        *,
        limit: int | None = None,
        offset: int | None = None,
        status: str | None = None,
        workflow: str | None = None,
        parent_run_id: str | None = None,
        include_system: bool | None = None,
        cursor: str | None = None,
    ) -> list[dict[str, object]]:
        """Runs, newest first, over all registered workflows.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({})
        params |= group(
            "filter",
            given(
                {
                    "limit": limit,
                    "offset": offset,
                    "status": status,
                    "workflow": workflow,
                    "parentRunId": parent_run_id,
                    "includeSystem": include_system,
                    "cursor": cursor,
                }
            ),
        )
        return objects(self.call("listRuns", params))

    # ── what is inside of a run ──────────────────────────────────────────────────────────────────────────────────────

    def list_run_descendants(self, run_id: str, *, limit: int | None = None) -> list[dict[str, object]]:
        """A run and the runs below it, by depth.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({"runId": run_id, "limit": limit})
        return objects(self.call("listRunDescendants", params))

    def list_run_token_usage(self, run_id: str) -> dict[str, object]:
        """Every report of used tokens of a run, in order.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({"runId": run_id})
        return an_object(self.call("listRunTokenUsage", params))

    def get_node_output(self, run_id: str, node_id: str, *, iteration: int | None = None) -> dict[str, object]:
        """What a node has written, or why it has not.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({"runId": run_id, "nodeId": node_id, "iteration": iteration})
        return an_object(self.call("getNodeOutput", params))

    # ── what has happened to a run or a node ─────────────────────────────────────────────────────────────────────────

    def what_happened(
        self, run_id: str, *, node_id: str | None = None, iteration: int | None = None
    ) -> dict[str, object]:
        """What has happened to a run, or to a node of it, told from its log.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({"runId": run_id, "nodeId": node_id, "iteration": iteration})
        return an_object(self.call("whatHappened", params))

    # ── approvals and signals ────────────────────────────────────────────────────────────────────────────────────────

    def submit_approval(
        self,
        run_id: str,
        node_id: str,
        *,
        iteration: int | None = None,
        approved: bool | None = None,
        decision: Mapping[str, object] | None = None,
        note: str | None = None,
    ) -> dict[str, object]:
        """Decide an approval, once; durable on return, and the run goes on by itself.

        Needs `approval:submit`. Raises `GatewayError`.
        """
        params = given(
            {
                "runId": run_id,
                "nodeId": node_id,
                "iteration": iteration,
                "approved": approved,
                "decision": decision,
                "note": note,
            }
        )
        return an_object(self.call("submitApproval", params))

    def list_approvals(
        self, *, run_id: str | None = None, workflow: str | None = None, limit: int | None = None
    ) -> list[dict[str, object]]:
        """Approvals that wait for a decision, oldest first.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({"runId": run_id, "workflow": workflow, "limit": limit})
        return objects(self.call("listApprovals", params))

    def submit_signal(
        self,
        run_id: str,
        *,
        correlation_key: str | None = None,
        signal_name: str | None = None,
        correlation_id: str | None = None,
        payload: object | None = None,
        data: object | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, object]:
        """Deliver a signal to a run, once per idempotency key; durable on return, kept if nobody waits for it yet.

        Needs `signal:submit`. Raises `GatewayError`.
        """
        params = given(
            {
                "runId": run_id,
                "correlationKey": correlation_key,
                "signalName": signal_name,
                "correlationId": correlation_id,
                "payload": payload,
                "data": data,
                "idempotencyKey": idempotency_key,
            }
        )
        return an_object(self.call("submitSignal", params))

    # ── what a gateway serves ────────────────────────────────────────────────────────────────────────────────────────

    def list_workflows(
        self, *, has_ui: bool | None = None, include_system: bool | None = None
    ) -> list[dict[str, object]]:
        """The registered workflows, by key.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({"hasUi": has_ui, "includeSystem": include_system})
        return objects(self.call("listWorkflows", params))

    def get_schema_signature(self) -> dict[str, object]:
        """What the stored tables look like, as a key for caches.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({})
        return an_object(self.call("getSchemaSignature", params))

    # ── schedules ────────────────────────────────────────────────────────────────────────────────────────────────────

    def cron_list(self, *, workflow: str | None = None) -> list[dict[str, object]]:
        """Schedules, enabled or not, oldest first.

        Needs `cron:read`. Raises `GatewayError`.
        """
        params = given({})
        params |= group("filter", given({"workflow": workflow}))
        return objects(self.call("cronList", params))

    def cron_create(
        self,
        workflow: str,
        pattern: str,
        *,
        cron_id: str | None = None,
        enabled: bool | None = None,
        time_zone: str | None = None,
        missed: Literal["skip", "once"] | None = None,
    ) -> dict[str, object]:
        """Store a schedule, or replace the one with this id; its time zone and policy stay where they are left out.

        Needs `cron:write`. Raises `GatewayError`.
        """
        params = given(
            {
                "workflow": workflow,
                "pattern": pattern,
                "cronId": cron_id,
                "enabled": enabled,
                "timeZone": time_zone,
                "missed": missed,
            }
        )
        return an_object(self.call("cronCreate", params))

    def cron_delete(self, cron_id: str) -> dict[str, object]:
        """Forget a schedule.

        Needs `cron:write`. Raises `GatewayError`.
        """
        params = given({"cronId": cron_id})
        return an_object(self.call("cronDelete", params))

    def cron_run(
        self, *, cron_id: str | None = None, workflow: str | None = None, input: Mapping[str, object] | None = None
    ) -> dict[str, object]:
        """Start what a schedule starts, now.

        Needs `cron:write`. Raises `GatewayError`.
        """
        params = given({"cronId": cron_id, "workflow": workflow, "input": input})
        return an_object(self.call("cronRun", params))

    # ── documents and tickets ────────────────────────────────────────────────────────────────────────────────────────

    def list_docs(
        self,
        *,
        kind: str | None = None,
        include_deleted: bool | None = None,
        updated_after_ms: int | None = None,
        limit: int | None = None,
    ) -> list[dict[str, object]]:
        """Documents of all kinds, the newest change first.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({})
        params |= group(
            "filter",
            given(
                {"kind": kind, "includeDeleted": include_deleted, "updatedAfterMs": updated_after_ms, "limit": limit}
            ),
        )
        return objects(self.call("listDocs", params))

    def list_tickets(
        self, *, kind: Literal["ticket", "plan", "spec", "proposal"] | None = None
    ) -> list[dict[str, object]]:
        """Tickets that are there, the newest change first.

        Needs `ticket:read`. Raises `GatewayError`.
        """
        params = given({"kind": kind})
        return objects(self.call("listTickets", params))

    def create_ticket(
        self,
        path: str,
        content: str,
        *,
        kind: Literal["ticket", "plan", "spec", "proposal"] | None = None,
        status: str | None = None,
    ) -> dict[str, object]:
        """Store a ticket, or replace the one at this path.

        Needs `ticket:write`. Raises `GatewayError`.
        """
        params = given({"path": path, "content": content, "kind": kind, "status": status})
        return an_object(self.call("createTicket", params))

    def update_ticket(self, path: str, *, content: str | None = None, status: str | None = None) -> dict[str, object]:
        """Change a ticket's text or status.

        Needs `ticket:write`. Raises `GatewayError`.
        """
        params = given({"path": path, "content": content, "status": status})
        return an_object(self.call("updateTicket", params))

    def delete_ticket(self, path: str) -> dict[str, object]:
        """Delete a ticket.

        Needs `ticket:write`. Raises `GatewayError`.
        """
        params = given({"path": path})
        return an_object(self.call("deleteTicket", params))

    # ── what runs leave behind and work from ─────────────────────────────────────────────────────────────────────────

    def list_memory_facts(self, *, namespace: str | None = None) -> list[dict[str, object]]:
        """Facts that runs remember, by namespace and key.

        Needs `memory:read`. Raises `GatewayError`.
        """
        params = given({"namespace": namespace})
        return objects(self.call("listMemoryFacts", params))

    def list_prompts(self) -> list[dict[str, object]]:
        """Prompts of the workspace.

        Needs `prompt:read`. Raises `GatewayError`.
        """
        params = given({})
        return objects(self.call("listPrompts", params))

    def list_scores(self, run_id: str, *, node_id: str | None = None) -> list[dict[str, object]]:
        """Scores of a run, oldest first.

        Needs `score:read`. Raises `GatewayError`.
        """
        params = given({"runId": run_id, "nodeId": node_id})
        return objects(self.call("listScores", params))

    def list_scores_for_runs(
        self,
        run_ids: Sequence[str],
        *,
        node_id: str | None = None,
        scorer_id: str | None = None,
        scorer_name: str | None = None,
        source: Literal["live", "batch"] | None = None,
        order: Literal["scoredAtAsc", "scoredAtDesc"] | None = None,
        offset: int | None = None,
        limit: int | None = None,
    ) -> dict[str, object]:
        """Scores of several runs in one order.

        Needs `score:read`. Raises `GatewayError`.
        """
        params = given(
            {
                "runIds": run_ids,
                "nodeId": node_id,
                "scorerId": scorer_id,
                "scorerName": scorer_name,
                "source": source,
                "order": order,
                "offset": offset,
                "limit": limit,
            }
        )
        return an_object(self.call("listScoresForRuns", params))

    def get_score_detail(self, run_id: str, score_id: str) -> dict[str, object]:
        """A score with what was scored.

        Needs `score:read`. Raises `GatewayError`.
        """
        params = given({"runId": run_id, "scoreId": score_id})
        return an_object(self.call("getScoreDetail", params))

    def list_accounts(self) -> list[dict[str, object]]:
        """The accounts of this user, without their keys.

        Needs `account:read`. Raises `GatewayError`.
        """
        params = given({})
        return objects(self.call("listAccounts", params))

    def list_usage_reports(self, *, fresh: bool | None = None) -> list[dict[str, object]]:
        """What is used of each account.

        Needs `account:read`. Raises `GatewayError`.
        """
        params = given({"fresh": fresh})
        return objects(self.call("listUsageReports", params))

    # ── a run's tree ─────────────────────────────────────────────────────────────────────────────────────────────────

    def get_dev_tools_snapshot(self, run_id: str, *, frame_no: int | None = None) -> dict[str, object]:
        """A run's tree at a frame, with the states of its tasks as they are now.

        Needs `observability:read`. Raises `GatewayError`.
        """
        params = given({"runId": run_id, "frameNo": frame_no})
        return an_object(self.call("getDevToolsSnapshot", params))

    # ── what tasks and runs have changed ─────────────────────────────────────────────────────────────────────────────

    def get_node_diff(self, run_id: str, node_id: str, *, iteration: int | None = None) -> dict[str, object]:
        """What a node's newest attempt has changed in the files of its folder.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({"runId": run_id, "nodeId": node_id, "iteration": iteration})
        return an_object(self.call("getNodeDiff", params))

    def get_run_diff(self, run_id: str) -> dict[str, object]:
        """What a run that has ended has changed in the files of its folders.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({"runId": run_id})
        return an_object(self.call("getRunDiff", params))

    # ── taking a run over ────────────────────────────────────────────────────────────────────────────────────────────

    def hijack_run(self, run_id: str, *, options: Mapping[str, object] | None = None) -> dict[str, object]:
        """Record that somebody wants to take a run over. Its agents' sessions are at `hijack-candidates`.

        Needs `run:admin`. Raises `GatewayError`.
        """
        params = given({"runId": run_id, "options": options})
        return an_object(self.call("hijackRun", params))

    # ── what changes a run's history ─────────────────────────────────────────────────────────────────────────────────

    def rewind_run(
        self,
        run_id: str,
        frame_no: int,
        confirm: Literal[True],
        *,
        force: bool | None = None,
        no_revert: bool | None = None,
    ) -> dict[str, object]:
        """Take a run back to right after a frame; what came after is gone but for the log, and the run goes on from there.

        Needs `run:admin`. Raises `GatewayError`.
        """
        params = given(
            {"runId": run_id, "frameNo": frame_no, "confirm": confirm, "force": force, "noRevert": no_revert}
        )
        return an_object(self.call("rewindRun", params))

    # ── methods that have their place here and whose work is not built ───────────────────────────────────────────────

    def create_browser_session(
        self, source: Mapping[str, object], *, viewport: Mapping[str, object] | None = None
    ) -> dict[str, object]:
        """Not available in this version.

        Needs `run:write`. Raises `GatewayError`.
        """
        params = given({"source": source, "viewport": viewport})
        return an_object(self.call("createBrowserSession", params))

    def browser_act(
        self, session_id: str, action_id: str, action: Mapping[str, object], *, expected_revision: int | None = None
    ) -> dict[str, object]:
        """Not available in this version.

        Needs `run:write`. Raises `GatewayError`.
        """
        params = given(
            {"sessionId": session_id, "actionId": action_id, "action": action, "expectedRevision": expected_revision}
        )
        return an_object(self.call("browserAct", params))

    def browser_context(
        self,
        session_id: str,
        *,
        since_revision: int | None = None,
        include: Sequence[
            Literal[
                "visible-text",
                "accessibility",
                "interactive-elements",
                "screenshot",
                "selections",
                "recent-actions",
                "console-summary",
                "network-summary",
            ]
        ]
        | None = None,
    ) -> dict[str, object]:
        """Not available in this version.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({"sessionId": session_id, "sinceRevision": since_revision, "include": include})
        return an_object(self.call("browserContext", params))

    def browser_pick(self, session_id: str, point: Mapping[str, object]) -> dict[str, object]:
        """Not available in this version.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({"sessionId": session_id, "point": point})
        return an_object(self.call("browserPick", params))

    def close_browser_session(self, session_id: str) -> dict[str, object]:
        """Not available in this version.

        Needs `run:write`. Raises `GatewayError`.
        """
        params = given({"sessionId": session_id})
        return an_object(self.call("closeBrowserSession", params))

    def list_browser_sessions(self) -> dict[str, object]:
        """Not available in this version.

        Needs `run:read`. Raises `GatewayError`.
        """
        params = given({})
        return an_object(self.call("listBrowserSessions", params))
