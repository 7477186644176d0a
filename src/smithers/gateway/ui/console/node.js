// One node of a run: what it has written, and its attempts.

import { fill, grid, h } from "./elements.js";
import { rpc, soon } from "./gateway.js";
import { action } from "./messages.js";
import { badge, id, lasting, MAX_TEXT, nodeName, parsed, pretty } from "./words.js";
/** What one node has written, and its attempts. */
export function nodeDetail(runId) {
  let chosen = null;
  let printed = "";
  const title = h("h2", { tabindex: -1 });
  const body = h("div");
  const live = h("pre", { tabindex: 0, "aria-label": "Printed", hidden: true });
  const attempts = grid("Attempts", [
    ["Attempt", (row) => row.attempt],
    ["State", (row) => badge(row.state)],
    ["Took", (row) => lasting(row.startedAtMs, row.finishedAtMs)],
    ["Error", (row) => h("span", { class: "problem" }, parsed(row.errorJson)?.message ?? "")],
  ], (row) => String(row.attempt), "No attempts.");
  const node = h("section", { class: "card", "aria-label": "Node", hidden: true },
    h("div", { class: "head" }, title, action("Close", async () => close(), { kind: "small" })),
    body, live, h("h3", {}, "Attempts"), attempts.node);

  function close() {
    chosen = null;
    node.hidden = true;
  }
  async function read() {
    if (chosen === null) return;
    const { nodeId, iteration } = chosen;
    const [output, tries] = await Promise.all([
      rpc("getNodeOutput", { runId, nodeId, iteration }).catch((error) => ({ refused: error })),
      rpc("attempts.list", { runId, nodeId, iteration })]);
    if (chosen === null || chosen.nodeId !== nodeId || chosen.iteration !== iteration) return;
    attempts.show(tries);
    const { refused, row, error, partial, status } = output;
    fill(body,
      refused && h("p", { class: refused.code === "NodeHasNoOutput" ? "muted" : "problem" }, `${refused.code}: ${refused.message}`),
      status && h("p", {}, "Output: ", badge(status)),
      row !== null && row !== undefined && h("pre", { tabindex: 0, "aria-label": "Output" }, pretty(row)),
      error && h("p", { class: "problem" }, `${error.code ?? error.name ?? ""} ${error.message}`),
      partial && [h("p", {}, "Progress:"), h("pre", { tabindex: 0 }, pretty(partial))]);
  }
  const again = soon(read);
  const isChosen = (payload) => chosen !== null && payload.nodeId === chosen.nodeId && (payload.iteration ?? 0) === chosen.iteration;
  return {
    node,
    choose(found) {
      chosen = { nodeId: found.nodeId, iteration: found.iteration };
      printed = "";
      live.hidden = true;
      fill(title, "Node ", id(nodeName(found)));
      fill(body);
      attempts.show([]);
      node.hidden = false;
      title.focus();
      void again.now();
    },
    touched: (payload) => isChosen(payload) && again.poke(),
    output(payload) {
      if (!isChosen(payload)) return;
      printed = (printed + payload.output).slice(-MAX_TEXT);
      live.textContent = printed;
      live.hidden = false;
    },
  };
}
