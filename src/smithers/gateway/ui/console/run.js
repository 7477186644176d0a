// One run: its state, its tree, its nodes, what happens in it, and what may be done with it.

import { approvalCard } from "./approvals.js";
import { field, fill, grid, h, keyed } from "./elements.js";
import { eventLog } from "./events.js";
import { link, rpc, soon } from "./gateway.js";
import { action, complain, form, readJson } from "./messages.js";
import { nodeDetail } from "./node.js";
import { treeView } from "./tree.js";
import { badge, ENDED, id, lasting, moment, nodeName, parsed, pretty, runLink } from "./words.js";
function blockedText(blocked) {
  if (!blocked) return null;
  const at = blocked.nodeId ? ` at ${blocked.nodeId}` : "";
  switch (blocked.kind) {
    case "approval": return `waits for an approval${at}`;
    case "event": return `waits for a signal${at}${blocked.correlationKey ? ` (${blocked.correlationKey})` : ""}`;
    case "timer": return `sleeps${at} until ${new Date(blocked.wakeAt).toLocaleString()}`;
    case "quota": return `waits for quota${at}`;
    default: return `${blocked.kind}${at}`;
  }
}

export function runView([runId]) {
  const facts = h("dl", { class: "facts" });
  const buttons = h("div", { class: "row" });
  const approvals = h("div");
  const usage = h("div");
  const events = eventLog();
  const detail = nodeDetail(runId);
  const tree = treeView(runId, (found) => detail.choose(found));
  const signal = signalForm(runId);
  const nodes = grid("Nodes", [
    ["Node", (node) => h("button", { type: "button", class: "small id", onclick: () => detail.choose(node) }, nodeName(node))],
    ["State", (node) => badge(node.state)],
    ["Attempt", (node) => node.lastAttempt ?? "–"],
    ["Took", (node) => lasting(node.startedAtMs, node.finishedAtMs)],
    ["Label", (node) => h("span", { class: "data" }, node.label ?? "–")],
  ], (node) => `${node.nodeId}::${node.iteration}`, "No node has come up yet.");
  const cards = keyed(approvals, (row) => `${row.nodeId}::${row.iteration}`, (row) => approvalCard(row, () => refresh()));
  let isUsageRead = false;
  let shown = "";

  async function refresh() {
    const [run, states, open] = await Promise.all([
      rpc("getRun", { runId }), rpc("listNodeStates", { runId }), rpc("listApprovals", { filter: { runId } })]);
    showRun(run);
    nodes.show(states);
    cards(open);
    await signal.suggest(run.runState?.blocked);
    if (!isUsageRead) await readUsage();
  }

  function showRun(run) {
    const error = parsed(run.errorJson);
    const derived = run.runState?.state;
    const rows = [
      ["Workflow", h("span", { class: "data" }, run.workflowKey)],
      ["Status", h("span", { class: "row" }, badge(run.status),
        derived !== run.status && derived !== "succeeded" && badge(derived),
        h("span", { class: "data" }, blockedText(run.runState?.blocked) ?? ""))],
      run.runState?.unhealthy && ["Trouble", h("span", { class: "problem" }, run.runState.unhealthy.kind)],
      ["Created", moment(run.createdAtMs)],
      ["Took", lasting(run.startedAtMs, run.finishedAtMs)],
      run.parentRunId && ["Parent", runLink(run.parentRunId)],
      run.cancelRequestedAtMs && !ENDED.has(run.status) && ["Cancel", "asked for"],
      run.pauseRequestedAtMs && run.status === "running" && ["Pause", "asked for"],
      error && ["Error", h("span", { class: "problem" }, `${error.code ?? ""} ${error.message ?? pretty(error)}`)],
      run.failedChildren && ["Failed inside", `${run.failedChildren}: ${run.failedChildKeys.join(", ")}`],
    ];
    fill(facts, rows.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
    const isStuck = ["orphaned", "stale"].includes(derived) || /resume-required$/.test(run.runState?.blocked?.kind);
    const canResume = isStuck || ["paused", "failed", "cancelled"].includes(run.status);
    if (shown !== `${run.status} ${canResume}`) showButtons(run.status, canResume);
    shown = `${run.status} ${canResume}`;
  }

  function showButtons(status, canResume) {
    const had = buttons.contains(document.activeElement);
    const call = (method) => async () => {
      await rpc(method, { runId });
      await refresh();
    };
    const again = async () => {
      const run = await rpc("runs.rerun", { runId });
      location.hash = `#/runs/${encodeURIComponent(run.runId)}`;
    };
    const goesOn = !ENDED.has(status);
    fill(buttons,
      status === "running" && action("Pause", call("pauseRun")),
      canResume && action("Resume", call("resumeRun")),
      goesOn && action("Cancel", call("cancelRun"), { kind: "danger", sure: "Really cancel?" }),
      !goesOn && action("Run again", again));
    if (had) buttons.querySelector("button")?.focus();
  }

  async function readUsage() {
    isUsageRead = true;
    const { events: reports } = await rpc("listRunTokenUsage", { runId });
    const sums = new Map();
    for (const each of reports) {
      const sum = sums.get(each.model) ?? { model: each.model, calls: 0, input: 0, output: 0, cached: 0 };
      sum.calls += 1;
      sum.input += each.inputTokens;
      sum.output += each.outputTokens;
      sum.cached += each.cacheReadTokens;
      sums.set(each.model, sum);
    }
    const columns = [["Model", (row) => id(row.model)], ["Reports", (row) => row.calls], ["Input", (row) => row.input],
      ["From cache", (row) => row.cached], ["Output", (row) => row.output]];
    const table = grid("Token usage", columns, (row) => row.model, "No tokens were reported.");
    table.show([...sums.values()]);
    fill(usage, table.node);
  }

  const again = soon(refresh);
  const end = link.stream(runId, (told) => {
    if (told.kind === "error") complain(told.error);
    events.add(told);
    if (told.event === "token.usage") isUsageRead = false;
    if (told.event === "task.output") detail.output(told.payload);
    else if (told.kind === "event") detail.touched(told.payload);
    again.poke();
  });

  return {
    title: runId,
    titleClass: "id",
    node: h("div", {},
      h("section", { class: "card", "aria-label": "State" }, facts, h("p", {}), buttons),
      approvals,
      tree.node,
      h("section", { class: "card", "aria-label": "Nodes" }, h("h2", {}, "Nodes"), nodes.node),
      detail.node,
      h("section", { class: "card", "aria-label": "Events" }, h("h2", {}, "Events"), events.node),
      h("section", { class: "card", "aria-label": "Token usage" }, h("h2", {}, "Tokens"), usage),
      signal.node),
    wants: () => false, // its stream tells it
    refresh,
    close: () => {
      end();
      tree.close();
      again.stop();
      events.close();
    },
  };
}

function signalForm(runId) {
  const name = h("input", { maxlength: 256, required: true });
  const correlation = h("input", { maxlength: 256, placeholder: "none" });
  const payload = h("textarea", { spellcheck: "false", value: "{}" });
  const wrong = h("p", { class: "problem", role: "alert" });
  const sent = h("p", { role: "status", class: "tone-ok" });
  let suggested = null;
  async function send(problem) {
    sent.textContent = "";
    const value = readJson(payload, wrong, { isObject: false });
    if (value === undefined) return;
    if (name.value === "") {
      problem.textContent = "Name the signal.";
      name.focus();
      return;
    }
    const params = { runId, signalName: name.value, correlationId: correlation.value || undefined, payload: value };
    const receipt = await rpc("submitSignal", params);
    sent.textContent = `Signal ${receipt.signalName} is stored as number ${receipt.seq}.`;
  }
  const details = h("details", { class: "card" }, h("summary", {}, "Send a signal"), form(send, "Send",
    field("Signal", name), field("Correlation id", correlation), field("Payload (JSON)", payload), wrong), sent);
  return {
    node: details,
    /** Fill the form with what the run waits for, once for each wait. */
    async suggest(blocked) {
      if (blocked?.kind !== "event" || suggested === blocked.nodeId) return;
      suggested = blocked.nodeId;
      const [newest] = await rpc("attempts.list", { runId, nodeId: blocked.nodeId });
      const wait = parsed(newest?.metaJson)?.waitForEvent;
      if (!wait) return;
      name.value = wait.signalName ?? "";
      correlation.value = wait.correlationId ?? "";
      details.open = true;
    },
  };
}
