// Approvals: what waits for a person.

import { append, field, fill, h, keyed } from "./elements.js";
import { Failure, rpc } from "./gateway.js";
import { action } from "./messages.js";
import { id, moment, nodeName, ONLY, runLink, uuid } from "./words.js";
/** How many decisions are asked for, in the page's head. */
export const counter = h("span", { class: "count" });

export function count(number) {
  fill(counter, number > 0 && [String(number), h("span", { class: "hidden" }, " open")]);
}

export function approvalCard(row, decided) {
  const note = h("input", { maxlength: 4000, placeholder: "optional" });
  const group = uuid();
  let ranked = row.options.map((option) => option.key);
  const order = h("ol");
  const labels = new Map(row.options.map((option) => [option.key, option]));
  const text = (option) => [h("span", { class: "data" }, option.label), option.summary && [" ", h("small", { class: "muted data" }, option.summary)]];

  function drawOrder(focused) {
    fill(order, ranked.map((key, index) => {
      const label = labels.get(key).label;
      return h("li", {}, h("span", { class: "row" }, text(labels.get(key)),
        h("button", { type: "button", class: "small", "aria-label": `Move ${label} up`, disabled: index === 0, onclick: () => move(index, -1) }, "↑"),
        h("button", { type: "button", class: "small", "aria-label": `Move ${label} down`, disabled: index === ranked.length - 1, onclick: () => move(index, 1) }, "↓")));
    }));
    if (focused !== undefined) order.children[focused].querySelector("button:not(:disabled)")?.focus();
  }
  function move(index, by) {
    [ranked[index], ranked[index + by]] = [ranked[index + by], ranked[index]];
    drawOrder(index + by);
  }
  function choices() {
    if (row.approvalMode === "select") {
      return h("fieldset", {}, h("legend", {}, "Choose one"), row.options.map((option) =>
        h("label", { class: "choice" }, h("input", { type: "radio", name: group, value: option.key }), h("span", {}, text(option)))));
    }
    if (row.approvalMode !== "rank") return null;
    drawOrder();
    return h("fieldset", {}, h("legend", {}, "Put them in order, best first"), order);
  }
  async function decide(approved) {
    const params = { runId: row.runId, nodeId: row.nodeId, iteration: row.iteration, approved };
    if (note.value !== "") params.note = note.value;
    if (approved && row.approvalMode === "select") {
      const chosen = card.querySelector("input[type=radio]:checked");
      if (chosen === null) throw new Failure("CHOOSE", "Choose one of the options first.");
      params.decision = { approved, selected: chosen.value };
    } else if (approved && row.approvalMode === "rank") params.decision = { approved, ranked };
    try {
      await rpc("submitApproval", params);
    } finally {
      await decided();
    }
  }
  const allowed = [...row.allowedUsers, ...row.allowedScopes];
  const card = h("article", { class: "card", "aria-label": `Approval ${row.requestTitle}` },
    h("h3", { class: "data" }, row.requestTitle),
    row.requestSummary && h("p", { class: "data" }, row.requestSummary),
    h("p", { class: "muted" }, h("span", { class: "data" }, row.workflowKey), " · ", runLink(row.runId), " · ",
      id(nodeName(row)), " · asked ", moment(row.requestedAtMs), allowed.length > 0 && ` · for ${allowed.join(", ")}`));
  // a question to a person takes an answer, which is more than yes or no
  if (row.approvalMode === "decision") card.append(h("p", {}, "Answer this one with ", h("code", {}, "smithers answer"), "."));
  else {
    append(card, [choices(), field("Note", note), h("div", { class: "row" },
      action("Approve", () => decide(true), { kind: "main" }), action("Deny", () => decide(false), { kind: "danger" }))]);
  }
  return card;
}

export function approvalsView() {
  const list = h("div");
  const none = h("p", { class: "card muted" }, "Nothing waits for a decision.");
  const show = keyed(list, (row) => `${row.runId}::${row.nodeId}::${row.iteration}`, (row) => approvalCard(row, refresh));
  async function refresh() {
    const rows = await rpc("listApprovals", { filter: { workflow: ONLY ?? undefined, limit: 200 } });
    show(rows);
    none.hidden = rows.length > 0;
    count(rows.length);
  }
  return {
    title: "Approvals",
    node: h("div", {}, list, none),
    wants: (event) => /^approval\.|^node\.waiting_approval$|^run\.(completed|status_changed)$/.test(event.event),
    refresh,
  };
}
