// Schedules: when runs are started by themselves.

import { field, fill, grid, h } from "./elements.js";
import { rpc } from "./gateway.js";
import { action, complain, form } from "./messages.js";
import { badge, id, moment, ONLY, parsed, runLink } from "./words.js";
export function cronsView() {
  const history = h("section", { class: "card", "aria-label": "History", hidden: true });
  const workflow = h("select");
  const pattern = h("input", { placeholder: "0 8 * * 1-5", required: true });
  const put = (row, changes) => rpc("cronCreate", { cronId: row.cronId, workflow: row.workflow, pattern: row.pattern,
    enabled: row.enabled, timeZone: row.timeZone, missed: row.missed, ...changes });
  const table = grid("Schedules", [
    ["Workflow", (row) => [h("span", { class: "data" }, row.workflow), " ", h("small", { class: "muted id" }, row.cronId)]],
    ["Pattern", (row) => h("code", {}, row.pattern)],
    ["Next", (row) => (row.enabled ? moment(row.nextRunAtMs) : "–")],
    ["Last", (row) => [moment(row.lastRunAtMs), row.errorJson && h("span", { class: "problem" }, ` ${parsed(row.errorJson).message ?? row.errorJson}`)]],
    ["Enabled", enabled],
    ["Do", (row) => h("span", { class: "row" },
      action("Run now", async () => go(await rpc("cronRun", { cronId: row.cronId })), { kind: "small" }),
      action("History", () => showHistory(row), { kind: "small" }),
      action("Delete", async () => changed(rpc("cronDelete", { cronId: row.cronId })), { kind: "small danger", sure: "Really delete?" }))],
  ], (row) => row.cronId, "No schedules.");
  const go = (run) => { location.hash = `#/runs/${encodeURIComponent(run.runId)}`; };

  async function changed(work) {
    await work;
    await refresh();
  }
  function enabled(row) {
    const box = h("input", { type: "checkbox", checked: row.enabled, "aria-label": `Enable ${row.cronId}` });
    box.addEventListener("change", () => changed(put(row, { enabled: box.checked })).catch((error) => {
      box.checked = row.enabled;
      complain(error);
    }));
    return box;
  }
  async function showHistory(row) {
    const rows = await rpc("cronHistory", { cronId: row.cronId, limit: 50 });
    const fires = grid("History", [
      ["Due", (fire) => moment(fire.fireAtMs)],
      ["Outcome", (fire) => badge(fire.outcome)],
      ["Run", (fire) => (fire.runId ? runLink(fire.runId) : "–")],
      ["Error", (fire) => h("span", { class: "problem" }, parsed(fire.errorJson)?.message ?? "")],
    ], (fire) => String(fire.fireAtMs), "It has not fired yet.");
    fires.show(rows);
    const title = h("h2", { tabindex: -1 }, "History of ", id(row.cronId));
    fill(history, title, fires.node);
    history.hidden = false;
    title.focus();
  }
  async function refresh() {
    const [rows, known] = await Promise.all([rpc("cronList", { filter: { workflow: ONLY ?? undefined } }), rpc("listWorkflows")]);
    table.show(rows);
    const keys = known.map((row) => row.key).filter((key) => ONLY === null || key === ONLY);
    if (keys.join() !== [...workflow.options].map((option) => option.value).join()) {
      fill(workflow, keys.map((key) => h("option", { value: key }, key)));
    }
  }
  const add = form(async () => {
    await changed(rpc("cronCreate", { workflow: workflow.value, pattern: pattern.value }));
    pattern.value = "";
  }, "Add", field("Workflow", workflow), field("Pattern", pattern, "minute hour day month weekday; a sixth field in front for seconds"));
  return {
    title: "Schedules",
    node: h("div", {}, h("div", { class: "card" }, table.node), history,
      h("details", { class: "card" }, h("summary", {}, "Add a schedule"), add)),
    wants: (event) => event.event.startsWith("cron."),
    refresh,
  };
}
