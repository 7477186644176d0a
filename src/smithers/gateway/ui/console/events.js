// The event log of a run.

import { h } from "./elements.js";
import { id, nodeName, pretty } from "./words.js";
const MAX_EVENTS = 500;

/** The newest events of a run, drawn at most once a frame. */
export function eventLog() {
  let waiting = [];
  let frame = 0;
  const list = h("tbody");
  const none = h("p", { class: "muted" }, "No events yet.");
  const heads = ["No.", "Event", "Node", "What"].map((name) => h("th", { scope: "col" }, name));
  const table = h("table", { "aria-label": "Events, newest first", hidden: true },
    h("thead", {}, h("tr", {}, heads)), list);
  const cell = (name, ...content) => h("td", { "data-label": name }, h("div", {}, content));
  const seen = new Set();

  function row(told) {
    if (told.kind === "gap") return h("tr", {}, cell("What", `Events ${told.from} to ${told.to} are not replayed.`));
    const { runId, nodeId, iteration, ...rest } = told.payload;
    const text = JSON.stringify(rest);
    const short = text.length > 160 ? h("details", {}, h("summary", { class: "id" }, `${text.slice(0, 120)}…`),
      h("pre", { tabindex: 0 }, pretty(rest))) : text !== "{}" && id(text);
    return h("tr", {}, cell("No.", told.seq), cell("Event", id(told.event)),
      cell("Node", nodeId && id(nodeName({ nodeId, iteration }))), cell("What", short));
  }
  function draw() {
    frame = 0;
    const top = waiting.splice(0).map(row).reverse();
    list.prepend(...top);
    while (list.children.length > MAX_EVENTS) list.lastChild.remove();
    table.hidden = false;
    none.hidden = true;
  }
  return {
    node: h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Event log" }, table, none),
    add(told) {
      if (told.kind === "error" || (told.seq && seen.has(told.seq))) return;
      if (told.seq) seen.add(told.seq);
      waiting.push(told);
      if (waiting.length > MAX_EVENTS) waiting = waiting.slice(-MAX_EVENTS);
      frame ||= requestAnimationFrame(draw);
    },
    close: () => cancelAnimationFrame(frame),
  };
}
