# mypy: disable-error-code="import-not-found, untyped-decorator"
"""LangGraph with `SqliteSaver` (WAL, `synchronous=FULL`) and `durability="sync"`: trivial nodes over a small state."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict
from uuid import uuid4

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from benchmarks.meter import Meter, kib_per_task, rounds_of

WARM_TASKS = 20


class State(TypedDict):
    """What a graph carries: how many nodes have run."""

    done: Annotated[int, operator.add]
    wanted: int


def trivial(_: State) -> dict[str, int]:
    """Work that costs nothing."""
    return {"done": 1}


def _chain() -> Any:
    """One node, again and again."""
    graph = StateGraph(State)
    graph.add_node("work", trivial)
    graph.add_edge(START, "work")
    graph.add_conditional_edges("work", lambda state: "work" if state["done"] < state["wanted"] else END)
    return graph


def _fan_out() -> Any:
    """The same node many times at once."""
    graph = StateGraph(State)
    graph.add_node("work", trivial)
    graph.add_conditional_edges(START, lambda state: [Send("work", state) for _ in range(state["wanted"])])
    graph.add_edge("work", END)
    return graph


def _config(n: int) -> dict[str, object]:
    return {"configurable": {"thread_id": uuid4().hex}, "recursion_limit": n + 10}


def _measure(
    graph: Any, n: int, scratch: Path, work: Callable[[Any], dict[str, float]]
) -> tuple[dict[str, float], Path]:
    database = scratch / f"langgraph-{uuid4().hex}.db"
    with SqliteSaver.from_conn_string(str(database)) as saver:
        saver.setup()
        saver.conn.execute("PRAGMA synchronous=FULL")
        compiled = graph.compile(checkpointer=saver)
        _run(compiled, WARM_TASKS)
        return work(compiled), database


def _run(compiled: Any, n: int) -> None:
    end = compiled.invoke({"done": 0, "wanted": n}, _config(n), durability="sync")
    assert end["done"] == n, end


def _throughput(graph: Any, n: int, scratch: Path) -> dict[str, float]:
    rounds = rounds_of(n)

    def work(compiled: Any) -> dict[str, float]:
        with Meter() as meter:
            for _ in range(rounds):
                _run(compiled, n)
        return meter.per_task(n * rounds)

    found, database = _measure(graph, n, scratch, work)
    return found | {"kib": kib_per_task(database, n * rounds + WARM_TASKS)}


def chain(n: int, scratch: Path) -> dict[str, float]:
    """Nodes one after another."""
    return _throughput(_chain(), n, scratch)


def fan_out(n: int, scratch: Path) -> dict[str, float]:
    """Nodes all at once."""
    return _throughput(_fan_out(), n, scratch)


def many_runs(n: int, scratch: Path) -> dict[str, float]:
    """Runs a second, of `n` graphs of one node in LangGraph's own thread pool."""

    def work(compiled: Any) -> dict[str, float]:
        with Meter() as meter:
            inputs = [{"done": 0, "wanted": 1} for _ in range(n)]
            ends = compiled.batch(inputs, [_config(1) for _ in range(n)], durability="sync")
        assert all(end["done"] == 1 for end in ends)
        return {"runs_per_s": n / meter.wall_s, "cpu_ms": meter.cpu_s / n * 1e3}

    return _measure(_chain(), 1, scratch, work)[0]
