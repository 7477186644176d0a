"""DevTools: what a run's tree costs whoever looks at it: a snapshot of a frame, and a frame's delta in a large tree."""

from __future__ import annotations

import json
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

from smithers.events import EventDraft
from smithers.gateway.devtools import reading
from smithers.gateway.devtools.live import Change, LiveTree
from smithers.graph.frames import encode_frame, frame_ops
from smithers.graph.tree import FrameTree, TreeNode
from smithers.store import open_store
from smithers.store.interface import AttemptChange, NewRun, NodeChange, Step
from smithers.store.sql import devtools
from smithers.store.sql.commit import write_step
from smithers.store.sql.store import SqlStore

RUN = "run"
DELTAS = 200
SNAPSHOTS = 30


def _tree(n: int, extra: int | None = None) -> FrameTree:
    """A workflow of `n` tasks in groups of a hundred; with `extra`, one task more in the middle."""
    groups: list[TreeNode] = []
    for start in range(0, n, 100):
        tasks = [_task(f"t{i}") for i in range(start, min(start + 100, n))]
        if extra is not None and start <= n // 2 < start + 100:
            tasks.insert(50, _task(f"more{extra}"))
        groups.append(TreeNode.of("smithers:parallel", {"id": f"g{start}"}, *tasks))
    return FrameTree.of(TreeNode.of("smithers:workflow", {"name": "w"}, *groups))


def _task(name: str) -> TreeNode:
    return TreeNode.of("smithers:task", {"id": name, "kind": "compute", "output": "note"})


def _stored(scratch: Path, n: int) -> SqlStore:
    """A database with a run of `n` finished tasks, and its tree as frame 1."""
    store = open_store(Path(tempfile.mkdtemp(dir=scratch)) / "devtools.db", durability="normal")
    new = NewRun(RUN, "w", None, None, "{}", "{}", "owner", 1, events=(EventDraft("RunStarted"),))
    step = Step(RUN, "owner", 1, 1, 1, launch=new)
    for i in range(n):
        step.nodes[(f"t{i}", 0)] = NodeChange(f"t{i}", 0, "finished", 1, "note")
        step.attempts.append(AttemptChange(f"t{i}", 0, 1, "finished", 1, 2))
    frame = _tree(n)
    encoding, payload = encode_frame(None, frame, 0)
    step.rows.append(("frame", (RUN, 1, 1, encoding, payload, frame.hash, "start")))
    step.events.append(EventDraft("FrameCommitted"))
    store.write(lambda c: write_step(c, step))
    return store


def snapshot(n: int, scratch: Path) -> dict[str, float]:
    """Read and write out the tree of a frame of `n` tasks."""
    store = _stored(scratch, n)
    try:
        took: list[float] = []
        size = 0
        for _ in range(SNAPSHOTS):
            began = time.process_time()
            size = len(store.read(lambda c: reading.snapshot(c, RUN, None, 1)))
            took.append((time.process_time() - began) * 1000)
        return {"ms": median(took), "kb": size / 1000}
    finally:
        store.close()


def delta(n: int, scratch: Path) -> dict[str, float]:
    """Take over frames that bring and take a task, and steps that change a state, and write out what changed."""
    store = _stored(scratch, n)
    try:
        live = store.read(lambda c: reading.take(c, RUN, None, 1)).live
        live.snapshot(None)
        frames, states = _frames(store, live, n), _states(store, live, n)
        size = max(len(text) for text in (*frames[1], *states[1]))
        return {"frame_us": median(frames[0]), "state_us": median(states[0]), "bytes": float(size)}
    finally:
        store.close()


def _frames(store: SqlStore, live: LiveTree, n: int) -> tuple[list[float], list[str]]:
    plain, more = _tree(n), _tree(n, extra=1)
    payloads = [encode_frame(a, b, 0) for a, b in ((plain, more), (more, plain))]
    took: list[float] = []
    texts: list[str] = []
    for i in range(DELTAS):
        encoding, payload = payloads[i % 2]
        began = time.process_time()
        turn = live.begin(Change(2 + i, "", frame_ops(encoding, payload)))
        keys = turn.keys
        rows = store.read(partial(devtools.tasks, run_id=RUN, keys=keys)) if keys else {}
        texts.append(live.delta_event(1 + i, turn.finish(rows)))
        took.append((time.process_time() - began) * 1e6)
    assert json.loads(texts[0])["delta"]["ops"][0]["op"] == "addNode"
    return took, texts


def _states(store: SqlStore, live: LiveTree, n: int) -> tuple[list[float], list[str]]:
    took: list[float] = []
    texts: list[str] = []
    for i in range(DELTAS):
        key = (f"t{i % n}", 0)
        began = time.process_time()
        rows = store.read(partial(devtools.tasks, run_id=RUN, keys=[key]))
        ops = live.update({key: rows[key]._replace(state=f"state {i}")})
        texts.append(live.delta_event(live.seq, ops))
        took.append((time.process_time() - began) * 1e6)
    assert json.loads(texts[0])["delta"]["ops"][0]["op"] == "updateTask"
    return took, texts
