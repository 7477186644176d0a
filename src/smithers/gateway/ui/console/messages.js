// Messages: what went wrong, buttons and forms that say so.

import { h } from "./elements.js";
export const notes = h("div", { class: "notes", role: "alert" });

/** Show an error until somebody has seen it. The same one is shown once. */
export function complain(error) {
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

export function settle() {
  for (const note of [...notes.children]) if (note.dataset.mark.startsWith("UNREACHABLE")) note.remove();
}

/** JSON out of a text field; marks the field, and says where it is wrong. */
export function readJson(area, problem, { isObject }) {
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
export function form(work, label, ...children) {
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

/** A button that shows that it works, and why it did not. With `sure` it asks once more by changing its text. */
export function action(label, work, { kind = "", sure = null } = {}) {
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
