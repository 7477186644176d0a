"""What tests of DevTools share: workflows whose trees change much, a gateway that serves them, clients that follow."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel
from tests.integration.gateway.socket_support import PATIENCE_S, Client, Frame
from tests.unit.gateway.devtools_support import Viewer, hold_snapshot
from websockets.asyncio.client import connect

from smithers import (
    Approval,
    Branch,
    Context,
    Element,
    Gateway,
    Loop,
    Parallel,
    Sequence,
    Settings,
    SmithersWorkflow,
    Task,
    Workflow,
    create_smithers,
)
from smithers.agents.calls import AgentCall

FAST = Settings(durability="normal", heartbeat_ms=200)
SECRET = "sk-abcdefghijklmnop"


class Note(BaseModel):
    n: int = 0


class Verdict(BaseModel):
    approved: bool
    note: str | None = None


class Wanted(BaseModel):
    seed: int = 0
    rounds: int = 2
    width: int = 3


class Echo:
    """An agent."""

    id = "echo"

    async def generate(self, call: AgentCall) -> Note:
        """Answer."""
        return Note(n=len(call.prompt))


class Gates:
    """Where tasks wait until a test lets them go on."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def wait(self) -> Note:
        await self.opened.wait()
        return Note()


def _work(seed: int, name: str, *, fails: int = 0) -> Callable[[], Awaitable[Note]]:
    pause = random.Random(f"{seed}{name}").uniform(0, 0.004)
    left = [fails]

    async def work() -> Note:
        await asyncio.sleep(pause)
        left[0] -= 1
        if left[0] >= 0:
            raise ValueError("not yet")
        return Note(n=1)

    return work


def workflows(folder: Path, gates: Gates) -> dict[str, SmithersWorkflow]:
    """`busy`: loops, branches, failures, groups that come and go. `gated`: waits for a person. `agent`: asks one.
    `wide`: many tasks at once, behind a gate. `held`: one task that waits for the test."""
    smithers, outputs = create_smithers({"note": Note, "verdict": Verdict}, input=Wanted, db=str(folder / "dt.db"))
    note = outputs.note
    again = {"backoff": "fixed", "initial_delay_ms": 1}

    @smithers
    def busy(ctx: Context[Wanted]) -> Element:
        want, dice = ctx.input, random.Random(ctx.input.seed)
        done = len(ctx.outputs(note))
        turn = ctx.iterations.get("rounds", 0)
        return Workflow(name="busy")[
            dice.random() < 0.5 and Sequence[Task("early", output=note)[_work(want.seed, "early")]],
            Loop("rounds", max_iterations=want.rounds)[
                Parallel[
                    [
                        Sequence[Task(f"s{i}", output=note)[_work(want.seed, f"s{i}")]]
                        for i in range(1 + (turn * 7 + want.seed) % want.width)
                    ],
                ],
                Branch(
                    if_=turn % 2 == 0,
                    then=Task("even", output=note)[_work(want.seed, "even")],
                    else_=Sequence(id="odds")[Task("odd", output=note)[_work(want.seed, "odd")]],
                ),
                Loop("inner", max_iterations=2)[Task("deep", output=note)[_work(want.seed, "deep")]],
            ],
            Parallel(id="late")[
                Task("flaky", output=note, retries=2, retry_policy=again)[_work(want.seed, "flaky", fails=1)],
                Task("hopeless", output=note, retries=0, continue_on_fail=True)[_work(want.seed, "hopeless", fails=99)],
                [Task(f"x{i}", output=note)[_work(want.seed, f"x{i}")] for i in range(done % 5)],
            ],
            done % 3 == 0 and Sequence(key="sometimes")[Task("third", output=note)[_work(want.seed, "third")]],
        ]

    @smithers
    def gated(ctx: Context[Wanted]) -> Element:
        return Workflow(name="gated")[
            Sequence[
                Task("a", output=note)[_work(0, "a")],
                Approval("ship", output=outputs.verdict, request={"title": "Ship?"}),
                Task("b", output=note)[_work(0, "b")],
            ]
        ]

    @smithers
    def agent(ctx: Context[Wanted]) -> Element:
        prompt = f"The key is {SECRET}. " + "Count to ten. " * 2_000
        return Workflow(name="agent")[Task("ask", output=note, label="Ask", agent=Echo())[prompt]]

    @smithers
    def wide(ctx: Context[Wanted]) -> Element:
        return Workflow(name="wide")[
            Task("gate", output=note)[gates.wait],
            Parallel(id="all", max_concurrency=8)[
                [Task(f"w{i}", output=note)[_work(0, "w")] for i in range(ctx.input.width)]
            ],
        ]

    @smithers
    def held(ctx: Context[Wanted]) -> Element:
        return Workflow(name="held")[Task("hold", output=note)[gates.wait], Task("after", output=note)[_work(0, "a")]]

    return {found.function_name: found for found in (busy, gated, agent, wide, held)}


class World:
    """A gateway and what a test does with it."""

    def __init__(self, gateway: Gateway, url: str, gates: Gates) -> None:
        self.gateway = gateway
        self.url = url
        self.gates = gates

    @asynccontextmanager
    async def client(self, **hello: Any) -> AsyncGenerator[Client]:
        """A connection that has said hello."""
        async with connect(self.url.replace("http", "ws") + "/", proxy=None, max_queue=None, max_size=None) as socket:
            client = Client(socket)
            answer = await client.hello(**hello)
            assert answer["ok"], answer
            yield client

    async def ok(self, client: Client, method: str, **params: Any) -> Any:
        """A call's payload."""
        answer = await client.call(method, params)
        assert answer["ok"], answer
        return answer["payload"]

    async def launch(self, client: Client, workflow: str, **wanted: int) -> str:
        """Start a run."""
        return str((await self.ok(client, "launchRun", workflow=workflow, input=wanted))["runId"])

    async def ended(self, client: Client, run_id: str) -> dict[str, Any]:
        """A run once it has ended."""
        return await self.until(client, run_id, "finished", "failed", "cancelled")

    async def until(self, client: Client, run_id: str, *statuses: str) -> dict[str, Any]:
        """A run once it has one of these statuses."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = cast("dict[str, Any]", await self.ok(client, "getRun", runId=run_id))
                if found["status"] in statuses:
                    return found
                await asyncio.sleep(0.01)

    async def snapshot(self, client: Client, run_id: str, **params: Any) -> dict[str, Any]:
        """A snapshot, held to the contract."""
        found = await self.ok(client, "getDevToolsSnapshot", runId=run_id, **params)
        hold_snapshot(found)
        return cast("dict[str, Any]", found)


@asynccontextmanager
async def world(folder: Path, **options: Any) -> AsyncGenerator[World]:
    gates = Gates()
    async with Gateway(settings=FAST, max_frames_per_second=100_000, **options) as gateway:
        for key, workflow in workflows(folder, gates).items():
            gateway.register(key, workflow)
        server = await gateway.listen(port=0, host="127.0.0.1")
        yield World(gateway, server.url, gates)


class Follower:
    """A stream of one client, and the tree that it makes."""

    def __init__(self, client: Client, run_id: str, viewer: Viewer | None = None) -> None:
        self.client = client
        self.run_id = run_id
        self.viewer = viewer or Viewer()
        self.stream_id = ""

    async def open(self, **params: Any) -> Frame:
        """Open the stream; gives the response."""
        answer = await self.client.call("streamDevTools", {"runId": self.run_id, **params})
        if answer["ok"]:
            self.stream_id = answer["payload"]["streamId"]
        return answer

    async def next(self) -> dict[str, Any]:
        """Take the next event."""
        while True:
            frame = await self.client.event("devtools.event", "devtools.error")
            if frame["payload"]["streamId"] == self.stream_id:
                break
        assert frame["event"] == "devtools.event", frame
        assert frame["payload"]["runId"] == self.run_id
        event = cast("dict[str, Any]", frame["payload"]["event"])
        self.viewer.take(event)
        return event

    async def until(self, is_so: Callable[[Viewer], bool]) -> None:
        """Take events until something holds."""
        while not is_so(self.viewer):
            await self.next()
