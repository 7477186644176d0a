"""The Python clients follow a run's tree, over connections that break, as the gateway shows it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, closing
from pathlib import Path

import pytest
from tests.integration.gateway.client_support import cable, gateway_thread
from tests.integration.gateway.devtools_support import World, world

from smithers.client import DevToolsEvent, DevToolsTree, GatewayClient, GatewayError, SyncGatewayClient
from smithers.client.frames import Backoff

ENDED = ("finished", "failed", "cancelled")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect again after a moment."""

    def take(self: Backoff) -> float:
        return 0.01

    monkeypatch.setattr(Backoff, "take", take)


async def is_shown(client: GatewayClient, run_id: str, tree: DevToolsTree) -> bool:
    """Whether the run has ended, and the tree is what it ended with."""
    if (await client.get_run(run_id))["status"] not in ENDED:
        return False
    last = await client.get_dev_tools_snapshot(run_id)
    return (tree.seq, tree.root) == (last["seq"], last["root"])


@pytest.mark.parametrize("after", [None, 0])
def test_the_tree_is_that_of_the_gateway_although_connections_break(tmp_path: Path, after: int | None) -> None:
    async def use(here: World) -> None:
        port = int(here.url.rpartition(":")[2])
        async with cable(port) as line, GatewayClient(line.url) as client, GatewayClient(here.url) as direct:
            run_id = str((await direct.launch_run("busy", input={"seed": 5, "rounds": 4, "width": 4}))["runId"])
            tree, heard = DevToolsTree(), 0
            async with aclosing(client.stream_dev_tools(run_id, after_seq=after)) as events:
                async for event in events:
                    tree.take(event)
                    heard += 1
                    if heard in (3, 9):
                        line.cut()
                    elif await is_shown(direct, run_id, tree):
                        break
            assert {str(task["nodeId"]) for task in tree.tasks()} >= {"odd", "flaky", "hopeless"}
            assert tree.root is not None
            assert tree.node(int(str(tree.root["id"]))) is tree.root

    async def main() -> None:
        async with world(tmp_path) as found:
            await use(found)

    asyncio.run(main())


def test_the_client_without_an_event_loop_follows_too(tmp_path: Path) -> None:
    with gateway_thread(tmp_path) as gateway, SyncGatewayClient(gateway.url) as client:
        run_id = str(client.launch_run("one")["runId"])
        tree = DevToolsTree()
        with closing(client.stream_dev_tools(run_id, after_seq=0)) as events:
            for event in events:
                tree.take(event)
                if [task.get("state") for task in tree.tasks()] == ["finished"]:
                    break
        assert tree.root is not None
        assert tree.root["name"] == "one"
        with pytest.raises(GatewayError) as refused:
            next(client.stream_dev_tools("nobody"))
        assert refused.value.error_code == "RunNotFound"


def test_a_delta_that_does_not_follow_is_refused() -> None:
    tree = DevToolsTree()
    root: dict[str, object] = {"id": 7, "children": []}
    delta = DevToolsEvent(2, "delta", {"baseSeq": 1, "seq": 2, "ops": []})
    with pytest.raises(ValueError, match="frame 1 came at frame -1"):
        tree.take(delta)
    tree.take(DevToolsEvent(1, "snapshot", {"seq": 1, "root": root}))
    tree.take(delta)
    with pytest.raises(ValueError, match="node 8"):
        tree.take(DevToolsEvent(3, "delta", {"baseSeq": 2, "seq": 3, "ops": [{"op": "removeNode", "id": 8}]}))
    with pytest.raises(ValueError, match="no operation"):
        tree.take(DevToolsEvent(3, "delta", {"baseSeq": 2, "seq": 3, "ops": [{"op": "dance"}]}))
