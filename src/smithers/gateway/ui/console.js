// The console: workflows, runs, approvals and schedules of a gateway, in one module without dependencies.
//
// What the gateway sends is never markup: elements are made by `h`, and text becomes text nodes. Calls go over HTTP, what
// happens comes over one WebSocket. A view shows what it has read; events only tell it to read again.

const boot = globalThis.__SMITHERS_GATEWAY_UI__;
const ONLY = boot.kind === "workflow" ? boot.workflowKey : null; // the one workflow that this page is about
const STATUSES = ["running", "waiting-approval", "waiting-event", "waiting-timer", "waiting-quota", "paused",
  "finished", "failed", "cancelled", "continued"];
const ENDED = new Set(["finished", "failed", "cancelled", "continued"]);
const PAGE_SIZE = 25;
const MAX_SHOWN_RUNS = 500;
const MAX_EVENTS = 500;
const MAX_TEXT = 100_000;

// ── elements ────────────────────────────────────────────────────────────────────────────────────────────────────────

const PROPERTIES = new Set(["value", "checked", "disabled", "selected", "open"]);

/** An element. Attributes are text, `on…` are functions; strings among the children become text nodes. */
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

function fill(node, ...children) {
  node.replaceChildren();
  append(node, children);
}

const FOCUSABLE = "a[href],button,input,select,textarea,summary";

/** Children by key: one whose item is as before stays the same element, with what was typed into it and the focus. */
function keyed(parent, keyOf, make) {
  let kept = new Map();
  return (items) => {
    const active = parent.contains(document.activeElement) ? document.activeElement : null;
    const home = active?.closest("[data-key]");
    const place = home ? [...home.querySelectorAll(FOCUSABLE)].indexOf(active) : -1;
    const now = new Map();
    for (const item of items) {
      const key = keyOf(item);
      const mark = JSON.stringify(item);
      const before = kept.get(key);
      const entry = before?.mark === mark ? before : { mark, node: make(item) };
      entry.node.dataset.key = key;
      now.set(key, entry);
    }
    const wanted = [...now.values()].map((entry) => entry.node);
    for (const node of [...parent.children]) if (!wanted.includes(node)) node.remove();
    wanted.forEach((node, index) => {
      if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
    });
    kept = now;
    if (home && !home.isConnected) {
      const again = now.get(home.dataset.key)?.node;
      again?.querySelectorAll(FOCUSABLE)[place]?.focus({ preventScroll: true });
    }
  };
}

/** A table. `columns` are [heading, cell of a row]; `show` takes the rows. */
function grid(label, columns, keyOf, empty) {
  const body = h("tbody");
  const head = h("tr", {}, columns.map(([name]) => h("th", { scope: "col" }, name)));
  const nothing = h("p", { class: "muted" }, empty);
  const table = h("table", { "aria-label": label }, h("thead", {}, head), body);
  const show = keyed(body, keyOf, (row) =>
    h("tr", {}, columns.map(([name, cell]) => h("td", { "data-label": name }, h("div", {}, cell(row))))));
  return {
    node: h("div", {}, table, nothing),
    body,
    show(rows) {
      show(rows);
      table.hidden = rows.length === 0;
      nothing.hidden = rows.length > 0;
    },
  };
}

function field(label, control, hint) {
  return h("label", { class: "field" }, h("span", {}, label), control, hint && h("small", { class: "muted" }, hint));
}

/** A button that shows that it works, and why it did not. With `sure` it asks once more by changing its text. */
function action(label, work, { kind = "", sure = null } = {}) {
  let timer = 0;
  const button = h("button", { type: "button", class: kind, onclick: run }, label);
  function calm() {
    clearTimeout(timer);
    timer = 0;
    button.textContent = label;
  }
  async function run() {
    if (sure !== null && timer === 0) {
      button.textContent = sure;
      timer = setTimeout(calm, 5000);
      return;
    }
    calm();
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      complain(error);
    } finally {
      button.disabled = false;
    }
  }
  return button;
}

// ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────────

function tone(status) {
  if (["finished", "succeeded", "produced"].includes(status)) return "ok";
  if (["failed", "orphaned", "stale"].includes(status)) return "bad";
  if (status === "running" || status === "in-progress") return "run";
  return String(status).startsWith("waiting") ? "wait" : "off";
}

const badge = (status) => h("span", { class: `badge tone-${tone(status)}` }, status);
const id = (text) => h("span", { class: "id" }, text);
const runLink = (runId) => h("a", { class: "id", href: `#/runs/${encodeURIComponent(runId)}` }, runId);
const nodeName = (node) => (node.iteration ? `${node.nodeId} (${node.iteration})` : node.nodeId);

function span(ms) {
  if (!(ms >= 0)) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} days`;
}

/** A moment, in words that grow old by themselves. */
function moment(ms) {
  const date = new Date(ms ?? NaN);
  if (Number.isNaN(date.getTime())) return "–";
  const node = h("time", { datetime: date.toISOString(), title: date.toLocaleString(), "data-at": date.getTime() });
  node.textContent = ago(date.getTime());
  return node;
}

function ago(ms) {
  const past = Date.now() - ms;
  if (Math.abs(past) < 1500) return "now";
  return past > 0 ? `${span(past).replace(/\.\d/, "")} ago` : `in ${span(-past).replace(/\.\d/, "")}`;
}

function lasting(fromMs, toMs) {
  if (fromMs === null || fromMs === undefined) return "–";
  return h("span", toMs ? {} : { "data-from": fromMs }, span((toMs ?? Date.now()) - fromMs));
}

function clipped(text) {
  return text.length <= MAX_TEXT ? text : `${text.slice(0, MAX_TEXT)}\n… ${text.length - MAX_TEXT} characters more`;
}

const pretty = (value) => clipped(typeof value === "string" ? value : JSON.stringify(value, null, 2) ?? "");

function parsed(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return { message: text };
  }
}

function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// ── the gateway ─────────────────────────────────────────────────────────────────────────────────────────────────────

class Failure extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** Call a method over HTTP. Throws a `Failure` with the gateway's code. */
async function rpc(method, params = {}) {
  let answer;
  try {
    const response = await fetch(`${boot.rpcPath}/${method}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(params),
    });
    answer = await response.json();
  } catch {
    throw new Failure("UNREACHABLE", "The gateway does not answer.");
  }
  if (answer.ok) return answer.payload;
  throw new Failure(answer.error?.code ?? "UNKNOWN", answer.error?.message ?? "The gateway has refused.");
}

/** The WebSocket: says what happens, and carries the streams of runs. Comes back by itself. */
class Link {
  state = "connecting";
  #socket = null;
  #tries = 0;
  #timer = 0;
  #heard = 0;
  #silence = 40_000;
  #serial = 0;
  #calls = new Map();
  #streams = new Set();
  #listeners = new Set();

  /** Told of every event, and of `link` when the state changes. Gives a function that ends it. */
  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  open() {
    clearTimeout(this.#timer);
    this.#set("connecting");
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}${boot.wsPath}`);
    this.#socket = socket;
    this.#heard = Date.now();
    socket.onmessage = (message) => this.#received(socket, message.data);
    socket.onclose = (event) => this.#closed(socket, event.code);
  }

  /** Give a socket up that has fallen silent. */
  check() {
    if (this.#socket !== null && Date.now() - this.#heard > this.#silence) {
      const socket = this.#socket;
      socket.close();
      this.#closed(socket, 0);
    }
  }

  /** Try at once instead of later. */
  retry() {
    if (this.#socket === null) this.open();
  }

  #set(state) {
    if (this.state === state) return;
    this.state = state;
    this.#tell({ event: "link", payload: { state } });
  }

  #tell(event) {
    for (const listener of [...this.#listeners]) listener(event);
  }

  #closed(socket, code) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    for (const { reject } of this.#calls.values()) reject(new Failure("UNREACHABLE", "The connection was lost."));
    this.#calls.clear();
    for (const stream of this.#streams) stream.id = null;
    this.#set(code === 1008 ? "refused" : "offline");
    const wait = Math.min(10_000, 250 * 2 ** Math.min(this.#tries++, 6)) * (0.5 + Math.random());
    this.#timer = setTimeout(() => this.open(), code === 1008 ? 10_000 : wait);
  }

  call(method, params) {
    if (this.#socket?.readyState !== WebSocket.OPEN) {
      return Promise.reject(new Failure("UNREACHABLE", "There is no connection."));
    }
    const key = String(++this.#serial);
    this.#socket.send(JSON.stringify({ type: "req", id: key, method, params }));
    return new Promise((resolve, reject) => this.#calls.set(key, { resolve, reject }));
  }

  #received(socket, text) {
    if (socket !== this.#socket) return;
    this.#heard = Date.now();
    const frame = JSON.parse(text);
    if (frame.type === "res") {
      const call = this.#calls.get(frame.id);
      this.#calls.delete(frame.id);
      if (frame.ok) call?.resolve(frame.payload);
      else call?.reject(new Failure(frame.error.code, frame.error.message));
    } else if (frame.event === "connect.challenge") this.#greet(socket);
    else if (/^run\.(event|gap_resync|heartbeat|error)$/.test(frame.event)) this.#streamed(frame);
    else this.#tell(frame);
  }

  async #greet(socket) {
    try {
      const client = { id: "smithers-console", version: boot.apiVersion, platform: "browser" };
      const hello = await this.call("connect", { minProtocol: 1, maxProtocol: 1, client });
      this.#silence = Math.max(5_000, hello.policy.heartbeatMs * 2.5);
      this.#tries = 0;
      this.#set("live");
      for (const stream of this.#streams) this.#begin(stream);
    } catch (error) {
      if (socket === this.#socket) complain(error);
      socket.close();
    }
  }

  /** Follow a run from its beginning. `told` gets its events and gaps, once each, also across reconnects. */
  stream(runId, told) {
    const stream = { runId, told, after: 0, id: null, timer: 0 };
    this.#streams.add(stream);
    if (this.state === "live") this.#begin(stream);
    return () => {
      clearTimeout(stream.timer);
      this.#streams.delete(stream);
      if (stream.id !== null) this.call("unsubscribe", { streamId: stream.id }).catch(() => {});
    };
  }

  async #begin(stream) {
    try {
      const found = await this.call("streamRunEvents", { runId: stream.runId, afterSeq: stream.after });
      stream.id = found.streamId;
      if (!this.#streams.has(stream)) await this.call("unsubscribe", { streamId: stream.id });
    } catch (error) {
      if (error.code === "SeqOutOfRange") stream.after = 0;
      if (error.code !== "UNREACHABLE" && this.#streams.has(stream)) this.#again(stream, error);
    }
  }

  #again(stream, error) {
    stream.id = null;
    stream.told({ kind: "error", error });
    clearTimeout(stream.timer);
    if (error.code === "RunNotFound" || error.code === "FORBIDDEN") return;
    stream.timer = setTimeout(() => this.state === "live" && stream.id === null && this.#begin(stream), 3000);
  }

  #streamed({ event, payload }) {
    for (const stream of this.#streams) {
      if (stream.runId !== payload.runId) continue;
      if (event === "run.error") this.#again(stream, payload.error);
      else if (event === "run.gap_resync") {
        if (payload.toSeq > stream.after) stream.told({ kind: "gap", from: payload.fromSeq, to: payload.toSeq });
        stream.after = Math.max(stream.after, payload.toSeq);
      } else if (event === "run.event") {
        // the end of a run is told again to whoever comes back, under its old number
        if (payload.seq <= stream.after && payload.event !== "run.completed") continue;
        stream.after = Math.max(stream.after, payload.seq);
        stream.told({ kind: "event", ...payload });
      }
    }
    if (event === "run.event") this.#tell({ event: payload.event, payload: payload.payload });
  }
}

const link = new Link();

/** Call `work` soon, never twice at once, and once more if it was asked for meanwhile. */
function soon(work, waitMs = 250) {
  let timer = 0;
  let busy = false;
  let again = false;
  async function run() {
    timer = 0;
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      await work();
    } catch (error) {
      complain(error);
    } finally {
      busy = false;
      if (again) {
        again = false;
        poke();
      }
    }
  }
  function poke() {
    timer ||= setTimeout(run, waitMs);
  }
  return { poke, now: run, stop: () => clearTimeout(timer) };
}

// ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────────

const notes = h("div", { class: "notes", role: "alert" });

/** Show an error until somebody has seen it. The same one is shown once. */
function complain(error) {
  const code = error.code ?? "ERROR";
  const text = String(error.message ?? error);
  const mark = `${code}: ${text}`;
  if ([...notes.children].some((note) => note.dataset.mark === mark)) return;
  const note = h("div", { class: "note" }, h("p", {}, h("strong", {}, code), " ", h("span", { class: "data" }, text)));
  note.dataset.mark = mark;
  note.append(h("button", { type: "button", class: "small", "aria-label": "Dismiss", onclick: () => note.remove() }, "×"));
  notes.append(note);
  while (notes.children.length > 4) notes.firstChild.remove();
}

function settle() {
  for (const note of [...notes.children]) if (note.dataset.mark.startsWith("UNREACHABLE")) note.remove();
}

/** JSON out of a text field; marks the field, and says where it is wrong. */
function readJson(area, problem, { isObject }) {
  let value;
  let text = "";
  try {
    value = JSON.parse(area.value.trim() || "{}");
    const plain = typeof value === "object" && value !== null && !Array.isArray(value);
    if (isObject && !plain) text = "This must be a JSON object: { … }";
  } catch (error) {
    text = `This is no JSON: ${error.message}`;
  }
  area.setAttribute("aria-invalid", text === "" ? "false" : "true");
  problem.textContent = text;
  if (text !== "") {
    area.focus();
    return undefined;
  }
  return value;
}

/** A form whose failures are shown in it. */
function form(work, label, ...children) {
  const problem = h("p", { class: "problem", role: "alert" });
  const button = h("button", { type: "submit", class: "main" }, label);
  async function submit(event) {
    event.preventDefault();
    problem.textContent = "";
    button.disabled = true;
    try {
      await work(problem);
    } catch (error) {
      problem.textContent = `${error.code ?? "ERROR"}: ${error.message}`;
    } finally {
      button.disabled = false;
    }
  }
  return h("form", { onsubmit: submit, novalidate: true }, children, problem, button);
}

// ── workflows ───────────────────────────────────────────────────────────────────────────────────────────────────────

function workflowsView() {
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

function launchView([key]) {
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

// ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────────────

const isOlder = (row, than) => row.createdAtMs < than.createdAtMs
  || (row.createdAtMs === than.createdAtMs && row.runId < than.runId);

function runsView(_, query) {
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

// ── one run ─────────────────────────────────────────────────────────────────────────────────────────────────────────

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

function runView([runId]) {
  const facts = h("dl", { class: "facts" });
  const buttons = h("div", { class: "row" });
  const approvals = h("div");
  const usage = h("div");
  const events = eventLog();
  const detail = nodeDetail(runId);
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
      h("section", { class: "card", "aria-label": "Nodes" }, h("h2", {}, "Nodes"), nodes.node),
      detail.node,
      h("section", { class: "card", "aria-label": "Events" }, h("h2", {}, "Events"), events.node),
      h("section", { class: "card", "aria-label": "Token usage" }, h("h2", {}, "Tokens"), usage),
      signal.node),
    wants: () => false, // its stream tells it
    refresh,
    close: () => {
      end();
      again.stop();
      events.close();
    },
  };
}

/** The newest events of a run, drawn at most once a frame. */
function eventLog() {
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

/** What one node has written, and its attempts. */
function nodeDetail(runId) {
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

// ── approvals ───────────────────────────────────────────────────────────────────────────────────────────────────────

function approvalCard(row, decided) {
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

function approvalsView() {
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

// ── schedules ───────────────────────────────────────────────────────────────────────────────────────────────────────

function cronsView() {
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

// ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────

const LINK_TEXT = { live: "Live", connecting: "Connecting…", offline: "Offline, trying again", refused: "Not signed in" };
const NAV = [["runs", "Runs", runsView], ["workflows", "Workflows", workflowsView], ["approvals", "Approvals", approvalsView], ["crons", "Schedules", cronsView]];

const heading = h("h1", { tabindex: -1 });
const content = h("div");
const counter = h("span", { class: "count" });
const indicator = h("span", { class: "link-state", role: "status", "data-state": "connecting" }, LINK_TEXT.connecting);
const tabs = new Map(NAV.map(([name, text]) => [name, h("a", { href: `#/${name}` }, text, name === "approvals" && counter)]));
let current = null;

function count(number) {
  fill(counter, number > 0 && [String(number), h("span", { class: "hidden" }, " open")]);
}

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
