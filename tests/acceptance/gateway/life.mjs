// The whole life of a run, through the client that is given: `node life.mjs CLIENT URL`. Says what it sees, one JSON object a
// line; after `{"at": …}` it waits for a line of its input.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [path, baseUrl] = process.argv.slice(2);
const { SmithersGatewayClient } = await import(pathToFileURL(path).href);
const runId = "life";
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const say = (found) => process.stdout.write(JSON.stringify(found) + "\n");
const pause = async (at) => {
  say({ at });
  await input.next();
};

const client = new SmithersGatewayClient({ baseUrl });
say({ launched: await client.launchRun({ workflow: "flow", input: { steps: 2, asks: true }, options: { runId } }) });

const told = [];
const awaited = [];
let reconnects = 0;
const until = (test) => (told.some(test) ? undefined : new Promise((resolve) => awaited.push([test, resolve])));
const reading = (async () => {
  const options = { onReconnect: () => (reconnects += 1), backoff: { baseMs: 20 } };
  for await (const frame of client.streamRunEventsResilient({ runId, afterSeq: 0 }, options)) {
    if (frame.event !== "run.event") {
      if (frame.event !== "run.heartbeat") say({ unexpected: frame });
      continue;
    }
    const { seq, event, payload } = frame.payload;
    told.push([seq, event, payload]);
    for (const [test, resolve] of awaited) if (test(told.at(-1))) resolve();
    if (event === "run.completed") return;
  }
})();

await until(([, event]) => event === "approval.requested");
say({ approvals: await client.listApprovals({ filter: { runId } }) });
await pause("approval");
say({ approved: await client.submitApproval({ runId, nodeId: "ship", iteration: 0, decision: { approved: true, note: "ok" } }) });

const isWaiting = async () => (await client.getRun({ runId })).status === "waiting-event";
while (!(await isWaiting())) await new Promise((resolve) => setTimeout(resolve, 20));
await pause("signal");
const signal = { runId, signalName: "ping", correlationKey: "build", payload: { n: 7 } };
say({ signalled: await client.submitSignal(signal) });

await reading;
say({ read: { told, reconnects } });
say({ output: await client.getNodeOutput({ runId, nodeId: "t1", iteration: 0 }) });
say({ ping: await client.getNodeOutput({ runId, nodeId: "ping", iteration: 0 }) });
say({ run: await client.getRun({ runId }) });
say({ runs: await client.listRuns({ filter: { limit: 5 } }) });
try {
  await client.getRun({ runId: "nobody" });
} catch (error) {
  say({ refused: { name: error.constructor.name, code: error.code } });
}
client.close();
process.exit(0);
