// A run's history, through the client that is given: `node travel.mjs CLIENT URL`. Reads what a node has changed in files and
// takes the run back; says what it sees, one JSON object a line.
import { pathToFileURL } from "node:url";

const [path, baseUrl] = process.argv.slice(2);
const { SmithersGatewayClient } = await import(pathToFileURL(path).href);
const runId = "travel";
const say = (found) => process.stdout.write(JSON.stringify(found) + "\n");
const client = new SmithersGatewayClient({ baseUrl });
const until = async (status) => {
  while ((await client.getRun({ runId })).status !== status) await new Promise((resolve) => setTimeout(resolve, 20));
};
const refused = async (call) => {
  try {
    await call();
    say({ refused: null });
  } catch (error) {
    say({ refused: { name: error.constructor.name, code: error.code } });
  }
};

await client.launchRun({ workflow: "flow", input: { writes: true, steps: 2 }, options: { runId } });
await until("finished");
say({ diff: await client.getNodeDiff({ runId, nodeId: "wrote", iteration: 0 }) });
say({ whole: await client.getRunDiff({ runId }) });
const last = await client.getDevToolsSnapshot({ runId });
say({ last: last.frameNo });
await refused(() => client.getNodeDiff({ runId, nodeId: "nobody", iteration: 0 }));
await refused(() => client.rewindRun({ runId, frameNo: 1 }));
await refused(() => client.rewindRun({ runId, frameNo: 100000, confirm: true }));

let follows;
let snapshots = 0;
const following = new Promise((resolve) => (follows = resolve));
const rebased = (async () => {
  for await (const frame of client.streamDevTools({ runId })) {
    const { event } = frame.payload;
    snapshots += event?.kind === "snapshot" ? 1 : 0;
    if (snapshots === 2) return event.snapshot.frameNo; // the run had ended, so that only a rewind makes another one
    follows();
  }
})();
await following;
say({ rewound: await client.rewindRun({ runId, frameNo: 1, confirm: true }) });
say({ rebased: await rebased });
await until("finished");
say({ again: await client.getNodeDiff({ runId, nodeId: "wrote", iteration: 0 }) });
client.close();
process.exit(0);
