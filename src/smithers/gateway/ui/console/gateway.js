// The gateway: calls over HTTP; what happens, and the streams of runs, over one WebSocket.

import { complain } from "./messages.js";
import { boot } from "./words.js";
export class Failure extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** Call a method over HTTP. Throws a `Failure` with the gateway's code. */
export async function rpc(method, params = {}) {
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
    else if (/^devtools\./.test(frame.event)) this.#grown(frame);
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
    return this.#follow({ method: "streamRunEvents", runId, told, after: 0, id: null, timer: 0 });
  }

  /** Follow a run's tree. `told` gets its snapshots and deltas; after a reconnect it begins with a snapshot again. */
  tree(runId, told) {
    return this.#follow({ method: "streamDevTools", runId, told, after: undefined, id: null, timer: 0 });
  }

  #follow(stream) {
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
      const found = await this.call(stream.method, { runId: stream.runId, afterSeq: stream.after });
      stream.id = found.streamId;
      if (!this.#streams.has(stream)) await this.call("unsubscribe", { streamId: stream.id });
    } catch (error) {
      if (error.code === "SeqOutOfRange") stream.after = 0; // of events; a tree has no number to go on from
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

  #grown({ event, payload }) {
    for (const stream of this.#streams) {
      if (stream.id !== payload.streamId) continue;
      if (event === "devtools.error") this.#again(stream, payload.error);
      else stream.told({ kind: "tree", event: payload.event });
    }
  }

  #streamed({ event, payload }) {
    for (const stream of this.#streams) {
      if (stream.runId !== payload.runId || stream.method !== "streamRunEvents") continue;
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

export const link = new Link();

/** Call `work` soon, never twice at once, and once more if it was asked for meanwhile. */
export function soon(work, waitMs = 250) {
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
