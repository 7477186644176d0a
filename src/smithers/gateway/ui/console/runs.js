// Runs: the newest first.

import { field, fill, grid, h } from "./elements.js";
import { rpc } from "./gateway.js";
import { action } from "./messages.js";
import { badge, lasting, moment, ONLY, runLink, STATUSES } from "./words.js";
const PAGE_SIZE = 25;
const MAX_SHOWN_RUNS = 500;

const isOlder = (row, than) => row.createdAtMs < than.createdAtMs
  || (row.createdAtMs === than.createdAtMs && row.runId < than.runId);

export function runsView(_, query) {
  let rows = [];
  let isMore = false;
  const option = (value, text, chosen) => h("option", { value, selected: value === chosen }, text);
  const status = h("select", { onchange: filter }, option("", "any", ""),
    STATUSES.map((name) => option(name, name, query.get("status"))));
  const workflow = h("select", { onchange: filter }, option("", "any", ""));
  const more = action("Load more", async () => {
    const last = rows.at(-1);
    await read(PAGE_SIZE, `${last.createdAtMs}:${last.runId}`);
  });
  const table = grid("Runs", [
    ["Run", (row) => runLink(row.runId)],
    ["Workflow", (row) => h("span", { class: "data" }, row.workflowKey)],
    ["Status", (row) => badge(row.status)],
    ["Started", (row) => moment(row.startedAtMs ?? row.createdAtMs)],
    ["Took", (row) => lasting(row.startedAtMs, row.finishedAtMs)],
  ], (row) => row.runId, "No runs.");
  function filter() {
    const chosen = new URLSearchParams();
    if (status.value) chosen.set("status", status.value);
    if (workflow.value) chosen.set("workflow", workflow.value);
    location.hash = chosen.size ? `#/runs?${chosen}` : "#/runs";
  }
  async function read(limit, cursor) {
    const wanted = { limit: limit + 1, status: query.get("status") ?? undefined, cursor,
      workflow: ONLY ?? query.get("workflow") ?? undefined };
    const found = await rpc("listRuns", { filter: wanted });
    const page = found.slice(0, limit);
    if (cursor === undefined) {
      // what was loaded beyond this page, perhaps while it was read, stays below it
      const last = page.at(-1);
      const below = found.length > limit ? rows.filter((row) => isOlder(row, last)) : [];
      if (below.length === 0) isMore = found.length > limit;
      rows = [...page, ...below];
    } else {
      isMore = found.length > limit;
      rows = [...rows.filter((row) => !page.some(({ runId }) => runId === row.runId)), ...page];
    }
    table.show(rows);
    more.hidden = !isMore;
  }
  async function names() {
    const chosen = ONLY ?? query.get("workflow") ?? "";
    const keys = ONLY === null ? (await rpc("listWorkflows")).map((row) => row.key) : [ONLY];
    if (chosen && !keys.includes(chosen)) keys.push(chosen);
    fill(workflow, ONLY === null && option("", "any", chosen), keys.map((key) => option(key, key, chosen)));
  }
  let hasNames = false;
  return {
    title: "Runs",
    node: h("div", { class: "card" },
      h("div", { class: "row" }, field("Status", status), field("Workflow", workflow)), table.node, more),
    wants: (event) => /^(run|approval|cron)\.|^node\.waiting/.test(event.event),
    refresh: async () => {
      if (!hasNames) await names();
      hasNames = true;
      await read(Math.min(Math.max(rows.length, PAGE_SIZE), MAX_SHOWN_RUNS));
    },
  };
}
