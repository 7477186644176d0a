// A run's tree, through the client that is given: `node devtools.mjs CLIENT URL`. Follows it from before the approval to the end
// with the operations of the wire applied in the plainest way, and says what it has and what a snapshot shows.
import { pathToFileURL } from "node:url";

const [path, baseUrl] = process.argv.slice(2);
const { SmithersGatewayClient } = await import(pathToFileURL(path).href);
const runId = "tree";
const say = (found) => process.stdout.write(JSON.stringify(found) + "\n");
const client = new SmithersGatewayClient({ baseUrl });

const walk = function* (node, parent = null) {
  yield [node, parent];
  for (const child of node.children) yield* walk(child, node);
};
const find = (root, id) => [...walk(root)].find(([node]) => node.id === id);
const apply = (root, op) => {
  switch (op.op) {
    case "addNode":
      find(root, op.parentId)[0].children.splice(op.index, 0, op.node);
      return root;
    case "removeNode": {
      const [node, parent] = find(root, op.id);
      parent.children.splice(parent.children.indexOf(node), 1);
      return root;
    }
    case "updateProps":
      find(root, op.id)[0].props = op.props;
      return root;
    case "updateTask":
      find(root, op.id)[0].task = op.task;
      return root;
    case "replaceRoot":
      return op.node;
  }
};

await client.launchRun({ workflow: "flow", input: { steps: 3, asks: true }, options: { runId } });
const follow = async (params, isDone) => {
  let root, seq;
  const kinds = { snapshot: 0, delta: 0 };
  for await (const frame of client.streamDevTools({ runId, ...params })) {
    if (frame.event !== "devtools.event") throw new Error(JSON.stringify(frame));
    const { event } = frame.payload;
    kinds[event.kind] += 1;
    if (event.kind === "snapshot") {
      root = event.snapshot.root;
      seq = event.snapshot.seq;
    } else {
      if (event.delta.baseSeq !== seq) throw new Error(`${event.delta.baseSeq} after ${seq}`);
      for (const op of event.delta.ops) root = apply(root, op);
      seq = event.delta.seq;
    }
    if (await isDone(root, seq)) break;
  }
  return { root, seq, kinds };
};
const state = (root, nodeId) => [...walk(root)].map(([node]) => node.task).find((task) => task?.nodeId === nodeId)?.state;
const isOver = async (root, seq) => {
  if (state(root, "last") !== "finished" || (await client.getRun({ runId })).status !== "finished") return false;
  return (await client.getDevToolsSnapshot({ runId })).seq === seq;
};

const first = await follow({}, async (root) => state(root, "ship") === "waiting-approval");
const following = follow({ afterSeq: first.seq }, isOver);
await client.submitApproval({ runId, nodeId: "ship", iteration: 0, decision: { approved: true } });
while ((await client.getRun({ runId })).status !== "waiting-event") await new Promise((resolve) => setTimeout(resolve, 20));
await client.submitSignal({ runId, signalName: "ping", correlationKey: "build", payload: { n: 7 } });
say({ followed: await following });
say({ replayed: await follow({ fromSeq: 0 }, isOver) });
say({ snapshot: await client.getDevToolsSnapshot({ runId }) });
say({ first: await client.getDevToolsSnapshot({ runId, frameNo: 1 }) });
try {
  await client.getDevToolsSnapshot({ runId, frameNo: 100000 });
} catch (error) {
  say({ refused: { name: error.constructor.name, code: error.code } });
}
client.close();
process.exit(0);
