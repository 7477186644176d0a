// The tree of a run, as it is now: drawn from a snapshot, then changed where the gateway says that it has.

import { fill, h } from "./elements.js";
import { link } from "./gateway.js";
import { complain } from "./messages.js";
import { badge, id } from "./words.js";

const QUIET = new Set(["FORBIDDEN", "RunNotFound"]); // who may not look sees no tree

/** A card that follows a run's tree; `choose` is called with the task that is clicked on. */
export function treeView(runId, choose) {
  const list = h("ul", { class: "tree", "aria-label": "Tree" });
  const node = h("section", { class: "card", "aria-label": "Tree of the run", hidden: true }, h("h2", {}, "Tree"), list);
  let shown = new Map(); // by id: { data, item, row, kind, news, below, fold, isTask }
  const owners = new WeakMap(); // of lists: whose children they hold
  const closed = new Set();

  /** A row as it is now. Its button stays the same element while there is one: a click on one that goes away is lost. */
  function draw(entry) {
    const { data, row, kind, news } = entry;
    const { task, props } = data;
    kind.textContent = task?.kind ?? data.type;
    if (entry.isTask !== Boolean(task)) {
      entry.isTask = Boolean(task);
      fill(row, kind, nameOf(entry), news);
    }
    const state = task?.state ?? props.state;
    const iteration = Number(task?.iteration ?? props.iteration ?? 0);
    const attempt = task?.attempt ?? props.attempt ?? 0;
    fill(news,
      task?.label && h("span", { class: "data" }, task.label),
      iteration > 0 && h("small", { class: "muted" }, `iteration ${iteration}`),
      attempt > 1 && h("small", { class: "muted" }, `attempt ${attempt}`),
      task?.agentRan && id(task.agentRan.agentId ?? task.agentRan.engine ?? ""),
      state && badge(state));
  }

  function nameOf(entry) {
    const { task, name, type } = entry.data;
    const choice = () => ({ nodeId: entry.data.task.nodeId, iteration: entry.data.task.iteration ?? 0 });
    if (task) return h("button", { type: "button", class: "small id", onclick: () => choose(choice()) }, name);
    return name !== type && h("span", { class: "id" }, name);
  }

  /** An item with all that is below it. One with children can be folded, and stays as it is folded. */
  function make(data) {
    const [row, news, kind] = [h("span", { class: "row" }), h("span", { class: "row" }), h("small", { class: "muted" })];
    const below = h("ul", {}, data.children.map(make));
    const fold = h("details", { open: !closed.has(data.id), ontoggle: () => (fold.open ? closed.delete(data.id) : closed.add(data.id)) },
      h("summary", {}), below);
    const item = h("li", {});
    const entry = { data, item, row, kind, news, below, fold, isTask: null };
    shown.set(data.id, entry);
    owners.set(below, entry);
    draw(entry);
    settleFold(entry);
    return item;
  }

  function settleFold({ item, row, below, fold }) {
    const isLeaf = below.children.length === 0;
    if (item.firstChild === (isLeaf ? row : fold)) return;
    if (isLeaf) fill(item, row);
    else {
      fold.firstChild.append(row);
      fill(item, fold);
    }
  }

  function forget(data) {
    shown.delete(data.id);
    for (const child of data.children) forget(child);
  }

  /** Whether what is shown differs from this node, and all below it, in nothing but what `draw` draws. */
  function isShown(data) {
    const was = shown.get(data.id)?.data;
    return was !== undefined && was.name === data.name && was.type === data.type && was.children.length === data.children.length &&
      data.children.every((child, index) => was.children[index].id === child.id && isShown(child));
  }

  function renew(data) {
    const entry = shown.get(data.id);
    entry.data = data;
    draw(entry);
    data.children.forEach(renew);
  }

  function plant(root) {
    if (list.firstChild === shown.get(root.id)?.item && isShown(root)) {
      renew(root);
      return;
    }
    shown = new Map();
    fill(list, make(root));
  }

  const changes = {
    addNode({ parentId, index, node: data }) {
      const parent = shown.get(parentId);
      parent.data.children.splice(index, 0, data);
      parent.below.insertBefore(make(data), parent.below.children[index] ?? null);
      settleFold(parent);
    },
    removeNode(op) {
      const { data, item } = shown.get(op.id);
      const parent = owners.get(item.parentNode);
      parent.data.children.splice(parent.data.children.indexOf(data), 1);
      item.remove();
      settleFold(parent);
      forget(data);
    },
    updateProps(op) {
      const entry = shown.get(op.id);
      entry.data.props = op.props;
      draw(entry);
    },
    updateTask(op) {
      const entry = shown.get(op.id);
      entry.data.task = op.task;
      draw(entry);
    },
    replaceRoot: (op) => plant(op.node),
  };

  const end = link.tree(runId, (told) => {
    if (told.kind === "error") {
      if (!QUIET.has(told.error.code)) complain(told.error);
      return;
    }
    const { kind, snapshot, delta } = told.event;
    if (kind === "snapshot") plant(snapshot.root);
    else for (const op of delta.ops) changes[op.op](op);
    node.hidden = false;
  });
  return { node, close: end };
}
