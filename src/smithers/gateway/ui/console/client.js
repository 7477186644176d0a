// The console: workflows, runs, approvals and schedules of a gateway, in modules without dependencies.
//
// What the gateway sends is never markup. A view shows what it has read; events only tell it to read again.

import { approvalsView, count, counter } from "./approvals.js";
import { cronsView } from "./crons.js";
import { fill, h } from "./elements.js";
import { link, rpc, soon } from "./gateway.js";
import { notes, settle } from "./messages.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { ago, boot, ONLY, span } from "./words.js";
import { launchView, workflowsView } from "./workflows.js";
const LINK_TEXT = { live: "Live", connecting: "Connecting…", offline: "Offline, trying again", refused: "Not signed in" };
const NAV = [["runs", "Runs", runsView], ["workflows", "Workflows", workflowsView], ["approvals", "Approvals", approvalsView], ["crons", "Schedules", cronsView]];

const heading = h("h1", { tabindex: -1 });
const content = h("div");
const indicator = h("span", { class: "link-state", role: "status", "data-state": "connecting" }, LINK_TEXT.connecting);
const tabs = new Map(NAV.map(([name, text]) => [name, h("a", { href: `#/${name}` }, text, name === "approvals" && counter)]));
let current = null;

const countAgain = soon(async () => {
  count((await rpc("listApprovals", { filter: { workflow: ONLY ?? undefined, limit: 200 } })).length);
}, 500);

function route() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  let parts;
  try {
    parts = path.split("/").map(decodeURIComponent);
  } catch {
    parts = [path];
  }
  const [name, ...rest] = parts;
  const query = new URLSearchParams(search);
  if (name === "runs" && rest[0]) return { tab: "runs", make: runView, rest, query };
  if (name === "workflows" && rest[0]) return { tab: "workflows", make: launchView, rest, query };
  const found = NAV.find(([tab]) => tab === name) ?? NAV[0];
  return { tab: found[0], make: found[2], rest, query };
}

function show(isFirst) {
  current?.view.close?.();
  current?.again.stop();
  const { tab, make, rest, query } = route();
  const view = make(rest, query);
  const again = soon(async () => {
    await view.refresh();
    settle();
  });
  current = { view, again };
  for (const [name, node] of tabs) {
    if (name === tab) node.setAttribute("aria-current", "page");
    else node.removeAttribute("aria-current");
  }
  document.title = `${view.title} · ${boot.props.title ?? "Smithers"}`;
  heading.className = view.titleClass ?? "data";
  heading.textContent = view.title;
  fill(content, view.node);
  if (!isFirst && !content.contains(document.activeElement)) heading.focus();
  void again.now();
}

function turnTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}

function tick() {
  for (const node of document.querySelectorAll("[data-at]")) node.textContent = ago(Number(node.dataset.at));
  for (const node of document.querySelectorAll("[data-from]")) node.textContent = span(Date.now() - Number(node.dataset.from));
  link.check();
}

function begin() {
  const bar = h("header", { class: "bar" },
    h("nav", { "aria-label": "Pages" }, [...tabs.values()]), indicator,
    h("button", { type: "button", class: "small", onclick: turnTheme }, "Light / dark"));
  const main = h("main", { id: "main", tabindex: -1 }, h("div", { class: "head" }, heading), content);
  const skip = h("a", { class: "skip", href: "#main", onclick: (event) => {
    event.preventDefault();
    main.focus();
  } }, "Skip to content");
  fill(document.getElementById("root"), skip, bar, main, notes);
  link.listen((event) => {
    if (event.event === "link") {
      indicator.dataset.state = event.payload.state;
      indicator.textContent = LINK_TEXT[event.payload.state];
      if (event.payload.state !== "live") return;
      countAgain.poke();
      current?.again.poke(); // what happened while there was no connection
    } else if (current?.view.wants(event)) current.again.poke();
    if (/^approval\.|^run\.completed$/.test(event.event)) countAgain.poke();
  });
  addEventListener("hashchange", () => show(false));
  addEventListener("online", () => link.retry());
  document.addEventListener("visibilitychange", () => document.hidden || link.retry());
  setInterval(tick, 1000);
  setInterval(() => link.state !== "live" && current?.again.poke(), 5000); // without events, look now and then
  link.open();
  show(true);
}

begin();
