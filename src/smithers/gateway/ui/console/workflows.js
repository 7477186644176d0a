// Workflows: what may be launched.

import { field, grid, h } from "./elements.js";
import { rpc } from "./gateway.js";
import { form, readJson } from "./messages.js";
import { boot, id, ONLY, uuid } from "./words.js";
export function workflowsView() {
  const launch = (row) => `#/workflows/${encodeURIComponent(row.key)}`;
  const page = ({ uiPath }) => uiPath && /^\/(?!\/)/.test(uiPath) && uiPath !== boot.mountPath && h("a", { href: uiPath }, "Page");
  const table = grid("Workflows", [
    ["Workflow", (row) => [h("strong", {}, row.readableName ?? row.key), " ", id(row.key)]],
    ["About", (row) => h("span", { class: "data" }, row.description ?? "–")],
    ["Do", (row) => h("span", { class: "row" }, h("a", { href: launch(row) }, "Launch"),
      h("a", { href: `#/runs?workflow=${encodeURIComponent(row.key)}` }, "Runs"), page(row))],
  ], (row) => row.key, "No workflow is registered.");
  return {
    title: "Workflows",
    node: h("div", { class: "card" }, table.node),
    wants: () => false,
    refresh: async () => table.show((await rpc("listWorkflows")).filter((row) => ONLY === null || row.key === ONLY)),
  };
}

export function launchView([key]) {
  const input = h("textarea", { spellcheck: "false", value: "{}" });
  const problem = h("p", { class: "problem", role: "alert" });
  const idempotency = h("input", { value: uuid(), maxlength: 256 });
  const runId = h("input", { maxlength: 256, placeholder: "chosen by the gateway" });
  const concurrency = h("input", { type: "number", min: 1, placeholder: "4" });
  async function start() {
    const value = readJson(input, problem, { isObject: true });
    if (value === undefined) return;
    const options = { idempotencyKey: idempotency.value || undefined, runId: runId.value.trim() || undefined };
    if (concurrency.value !== "") options.maxConcurrency = Number(concurrency.value);
    const run = await rpc("launchRun", { workflow: key, input: value, options });
    location.hash = `#/runs/${encodeURIComponent(run.runId)}`;
  }
  input.addEventListener("input", () => {
    problem.textContent = "";
    input.removeAttribute("aria-invalid");
  });
  return {
    title: `Launch ${key}`,
    node: h("div", { class: "card" }, form(start, "Launch",
      field("Input (JSON object)", input), problem,
      h("details", {}, h("summary", {}, "Options"),
        field("Idempotency key", idempotency, "The same key and input never start a second run."),
        field("Run id", runId), field("Tasks at once", concurrency)))),
    wants: () => false,
    refresh: async () => {},
  };
}
