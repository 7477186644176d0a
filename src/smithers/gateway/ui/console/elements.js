// Elements: made of what the gateway sends, which is never markup: text becomes text nodes.
const PROPERTIES = new Set(["value", "checked", "disabled", "selected", "open"]);

/** An element. Attributes are text, `on…` are functions; strings among the children become text nodes. */
export function h(tag, attributes, ...children) {
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

export function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

export function fill(node, ...children) {
  node.replaceChildren();
  append(node, children);
}

const FOCUSABLE = "a[href],button,input,select,textarea,summary";

/** Children by key: one whose item is as before stays the same element, with what was typed into it and the focus. */
export function keyed(parent, keyOf, make) {
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
export function grid(label, columns, keyOf, empty) {
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

export function field(label, control, hint) {
  return h("label", { class: "field" }, h("span", {}, label), control, hint && h("small", { class: "muted" }, hint));
}
