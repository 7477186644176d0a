// Words: how what the gateway sends is shown, and what the page was made for.

import { h } from "./elements.js";
export const boot = globalThis.__SMITHERS_GATEWAY_UI__;
export const ONLY = boot.kind === "workflow" ? boot.workflowKey : null; // the one workflow that this page is about
export const STATUSES = ["running", "waiting-approval", "waiting-event", "waiting-timer", "waiting-quota", "paused",
  "finished", "failed", "cancelled", "continued"];
export const ENDED = new Set(["finished", "failed", "cancelled", "continued"]);
export const MAX_TEXT = 100_000;

function tone(status) {
  if (["finished", "succeeded", "produced"].includes(status)) return "ok";
  if (["failed", "orphaned", "stale"].includes(status)) return "bad";
  if (status === "running" || status === "in-progress") return "run";
  return String(status).startsWith("waiting") ? "wait" : "off";
}

export const badge = (status) => h("span", { class: `badge tone-${tone(status)}` }, status);
export const id = (text) => h("span", { class: "id" }, text);
export const runLink = (runId) => h("a", { class: "id", href: `#/runs/${encodeURIComponent(runId)}` }, runId);
export const nodeName = (node) => (node.iteration ? `${node.nodeId} (${node.iteration})` : node.nodeId);

export function span(ms) {
  if (!(ms >= 0)) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} days`;
}

/** A moment, in words that grow old by themselves. */
export function moment(ms) {
  const date = new Date(ms ?? NaN);
  if (Number.isNaN(date.getTime())) return "–";
  const node = h("time", { datetime: date.toISOString(), title: date.toLocaleString(), "data-at": date.getTime() });
  node.textContent = ago(date.getTime());
  return node;
}

export function ago(ms) {
  const past = Date.now() - ms;
  if (Math.abs(past) < 1500) return "now";
  return past > 0 ? `${span(past).replace(/\.\d/, "")} ago` : `in ${span(-past).replace(/\.\d/, "")}`;
}

export function lasting(fromMs, toMs) {
  if (fromMs === null || fromMs === undefined) return "–";
  return h("span", toMs ? {} : { "data-from": fromMs }, span((toMs ?? Date.now()) - fromMs));
}

function clipped(text) {
  return text.length <= MAX_TEXT ? text : `${text.slice(0, MAX_TEXT)}\n… ${text.length - MAX_TEXT} characters more`;
}

export const pretty = (value) => clipped(typeof value === "string" ? value : JSON.stringify(value, null, 2) ?? "");

export function parsed(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return { message: text };
  }
}

export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
