"""DevTools over a real gateway: snapshots at a frame, and streams whose deltas make the tree that a snapshot shows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.gateway.devtools_support import SECRET, Follower, World, world
from tests.unit.gateway.devtools_support import Json, Viewer, walk


def real(folder: Path, use: Callable[[World], Awaitable[None]], **options: Any) -> None:
    """Do something with a gateway."""

    async def main() -> None:
        async with world(folder, **options) as found:
            await use(found)

    asyncio.run(main())


def tasks(root: Json) -> dict[str, Json]:
    return {node["task"]["nodeId"]: node["task"] for node in walk(root) if "task" in node}


def states(root: Json) -> dict[str, str]:
    return {name: task.get("state", "") for name, task in tasks(root).items()}


# ── snapshots ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_snapshot_shows_the_tree_the_states_and_the_run(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        async with here.client() as client:
            run_id = await here.launch(client, "gated")
            await here.until(client, run_id, "waiting-approval")
            found = await here.snapshot(client, run_id)
            assert found["runState"]["state"] == "waiting-approval"
            (sequence,) = found["root"]["children"]
            assert (found["root"]["type"], found["root"]["name"], sequence["type"]) == ("workflow", "gated", "sequence")
            shown = [(n["type"], n["name"], n["task"]["kind"], n["task"]["state"]) for n in sequence["children"]]
            assert shown == [
                ("task", "a", "compute", "finished"),
                ("approval", "ship", "approval", "waiting-approval"),
                ("task", "b", "compute", "pending"),
            ]

    real(tmp_path, use)


def test_each_frame_has_its_structure_and_todays_states(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        async with here.client() as client:
            run_id = await here.launch(client, "busy", seed=3, rounds=3)
            await here.ended(client, run_id)
            newest = await here.snapshot(client, run_id)
            trees: dict[int, Json] = {}
            for number in range(newest["seq"] + 1):
                found = await here.snapshot(client, run_id, frameNo=number)
                assert (found["frameNo"], found["seq"]) == (number, number)
                trees[number] = found["root"]
            assert trees[0] == {"id": 0, "type": "workflow", "name": "(empty)", "props": {}, "children": [], "depth": 0}
            assert trees[newest["seq"]] == newest["root"]
            assert len({str(tree) for tree in trees.values()}) > 4
            assert states(trees[1])["even"] == "finished"
            frames = await here.ok(client, "frames.list", runId=run_id, limit=1000)
            assert trees[frames[0]["frameNo"]] == newest["root"]
            answer = await client.call("getDevToolsSnapshot", {"runId": run_id, "frameNo": newest["seq"] + 1})
            assert answer["error"]["code"] == "FrameOutOfRange"

    real(tmp_path, use)


def test_prompts_and_agents_are_shown_without_credentials(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        async with here.client() as client:
            run_id = await here.launch(client, "agent")
            await here.ended(client, run_id)
            (task,) = tasks((await here.snapshot(client, run_id))["root"]).values()
            assert (task["label"], task["state"], task["attempt"], task["agent"]) == ("Ask", "finished", 1, "echo")
            assert task["agentRan"]["agentId"] == "echo"
            assert (task["agentSummary"]["label"], task["maxAttempts"]) == ("echo", 4)
            assert task["outputTableName"] == "note"
            assert task["prompt"].endswith("…")
            assert (len(task["prompt"]), SECRET in task["prompt"]) == (4_001, False)

    real(tmp_path, use)


# ── streams ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def follow_to_the_end(here: World, run_id: str, dice: random.Random, *, from_the_start: bool) -> Viewer:
    """Follow a run over connections that break, until the tree is that of the last frame."""
    viewer = Viewer()
    after: int | None = 0 if from_the_start else None
    while True:
        async with here.client(subscribe=[run_id]) as client:
            follower = Follower(client, run_id, viewer)
            answer = await follower.open(**({} if after is None else {dice.choice(["afterSeq", "fromSeq"]): after}))
            assert answer["ok"], answer
            first = await follower.next()
            assert first["kind"] == "snapshot"
            if after is not None:
                assert first["snapshot"]["seq"] == after // 50 * 50
            patience = dice.randrange(6) if dice.random() < 0.7 else 1_000_000
            while not await is_over(here, client, run_id, viewer):
                if not patience:
                    break
                patience -= 1
                await follower.next()
            else:
                return viewer
            after = dice.choice([viewer.seq, max(0, viewer.seq - 30), None])


async def is_over(here: World, client: Any, run_id: str, viewer: Viewer) -> bool:
    run = await here.ok(client, "getRun", runId=run_id)
    if run["status"] not in ("finished", "failed", "cancelled"):
        return False
    last = await here.snapshot(client, run_id)
    return (viewer.seq, viewer.root) == (
        last["seq"],
        last["root"],
    )  # if not, another event comes, or the test never ends


@pytest.mark.parametrize("seed", range(6))
def test_every_stream_makes_the_tree_that_a_snapshot_shows(tmp_path: Path, seed: int) -> None:
    async def use(here: World) -> None:
        dice = random.Random(seed)
        async with here.client() as client:
            run_id = await here.launch(client, "busy", seed=seed, rounds=4, width=1 + seed)
            await here.snapshot(client, run_id)
            viewers = await asyncio.gather(
                *(
                    follow_to_the_end(here, run_id, random.Random(dice.random()), from_the_start=i % 2 == 0)
                    for i in range(4)
                )
            )
            assert all(viewer.root == viewers[0].root for viewer in viewers)
            assert any("delta" in viewer.kinds for viewer in viewers)
            late = await follow_to_the_end(here, run_id, dice, from_the_start=True)
            assert late.root == viewers[0].root

    real(tmp_path, use)


def test_every_fiftieth_event_is_a_snapshot(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        async with here.client() as client:
            run_id = await here.launch(client, "wide", width=400)
            here.gates.opened.set()
            follower = Follower(client, run_id)
            await follower.open(afterSeq=0)
            await here.ended(client, run_id)
            last = await here.snapshot(client, run_id)
            await follower.until(lambda viewer: viewer.seq == last["seq"])
            assert follower.viewer.root == last["root"]
            again = Follower(client, run_id)
            await again.open(afterSeq=last["seq"])
            await again.until(lambda viewer: viewer.seq == last["seq"])
            for kinds in (follower.viewer.kinds, again.viewer.kinds):
                runs = "".join("s" if kind == "snapshot" else "d" for kind in kinds).split("s")
                assert max(map(len, runs)) <= 49

    real(tmp_path, use)


def test_a_step_of_a_wide_run_tells_only_what_it_changed(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        async with here.client() as client:
            run_id = await here.launch(client, "wide", width=1_000)
            follower = Follower(client, run_id)
            await follower.open()
            await follower.until(lambda v: v.root is not None and states(v.root).get("gate") == "in-progress")
            here.gates.opened.set()
            while True:
                event = await follower.next()
                assert follower.viewer.root is not None
                if event["kind"] == "delta" and states(follower.viewer.root)["gate"] == "finished":
                    break
            assert all(op["op"] == "updateTask" for op in event["delta"]["ops"])
            assert len(event["delta"]["ops"]) < 300
            await client.call("cancelRun", {"runId": run_id})

    real(tmp_path, use)


def test_states_that_change_without_a_frame_are_told_within_a_second(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        async with here.client() as client:
            run_id = await here.launch(client, "gated")
            await here.until(client, run_id, "waiting-approval")
            follower = Follower(client, run_id)
            await follower.open()
            await follower.next()
            seq = follower.viewer.seq
            await client.call("cancelRun", {"runId": run_id})
            await here.ended(client, run_id)
            last = await here.snapshot(client, run_id)
            assert states(last["root"])["ship"] == "cancelled"
            await follower.until(lambda viewer: (viewer.seq, viewer.root) == (last["seq"], last["root"]))
            if last["seq"] == seq:
                assert follower.viewer.kinds[-1] == "snapshot"

    real(tmp_path, use)


# ── refusals ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_cannot_be_streamed_is_refused(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        async with here.client(subscribe=[]) as client, here.client() as other:
            run_id = await here.launch(other, "gated")
            await here.until(other, run_id, "waiting-approval")
            newest = (await here.snapshot(other, run_id))["seq"]
            for method in ("streamDevTools", "getDevToolsSnapshot"):
                answer = await client.call(method, {"runId": run_id})
                assert answer["error"]["code"] == "Unauthorized"
            for params, code in (
                ({"runId": "nobody"}, "RunNotFound"),
                ({"runId": "No Body"}, "InvalidRunId"),
                ({"runId": run_id, "afterSeq": newest + 1}, "SeqOutOfRange"),
                ({"runId": run_id, "afterSeq": 1, "fromSeq": 2}, "SeqOutOfRange"),
                ({"runId": run_id, "fromSeq": -1}, "SeqOutOfRange"),
                ({"runId": run_id, "fromSeq": True}, "SeqOutOfRange"),
            ):
                assert (await other.call("streamDevTools", params))["error"]["code"] == code
            answer = await other.call("streamDevTools", {"runId": run_id, "afterSeq": 1, "fromSeq": 1})
            assert (answer["payload"]["afterSeq"], answer["payload"]["fromSeq"]) == (1, 1)

    real(tmp_path, use)


def test_a_stream_ends_with_the_rights_that_it_was_opened_with(tmp_path: Path) -> None:
    tokens = {
        "all": {"role": "operator", "scopes": ["*"]},
        "watcher": {"role": "viewer", "scopes": ["observability:read"]},
        "reader": {"role": "viewer", "scopes": ["run:read"]},
    }

    async def use(here: World) -> None:
        async with here.client(token="all") as client, here.client(token="watcher") as watcher:
            run_id = await here.launch(client, "gated")
            await here.until(client, run_id, "waiting-approval")
            follower = Follower(watcher, run_id)
            assert (await follower.open())["ok"]
            await follower.next()
            await watcher.hello(token="watcher")
            await watcher.hello(token="watcher", subscribe=[run_id])
            await here.ok(client, "submitApproval", runId=run_id, nodeId="ship", iteration=0, approved=True)
            await follower.until(lambda viewer: states(viewer.root or {})["b"] == "finished")
            await watcher.hello(token="watcher", subscribe=["another"])
            await watcher.hello(token="all")
            closed = await watcher.call("unsubscribe", {"streamId": follower.stream_id})
            assert closed["payload"]["closed"] is False
            assert (await follower.open())["ok"]
            await watcher.hello(token="reader")
            closed = await watcher.call("unsubscribe", {"streamId": follower.stream_id})
            assert closed["payload"]["closed"] is False
            answer = await watcher.call("streamDevTools", {"runId": run_id})
            assert (answer["error"]["code"], answer["error"]["requiredScope"]) == ("FORBIDDEN", "observability:read")

    real(tmp_path, use, auth={"mode": "token", "tokens": tokens})
