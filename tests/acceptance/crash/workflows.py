"""The workflow that is killed, what it asks of the world, and the record that its tasks keep of having run.

Every execution appends a line to a file beside the database, so that the tests can count what really ran, whatever the
database says.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from smithers.components.composites import Saga, SagaStep, Subflow, TryCatchFinally
from smithers.components.context import Context
from smithers.components.flow import ContinueAsNew, Loop, Parallel, Workflow
from smithers.components.gates import Approval
from smithers.components.task import RetryPolicy, Task
from smithers.components.waits import Timer, WaitForEvent
from smithers.components.workflow import SmithersWorkflow, create_smithers
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.engine.runtime import task_runtime
from smithers.errors import AlreadyDecided
from smithers.store import open_store
from smithers.store.sql import reads
from smithers.tools import ToolCtx, define_tool

RUN = "book"
DATABASE = "runs.db"
EXECUTIONS = "executions.jsonl"
FAILURES = 2
"""How often the flaky task fails before it succeeds."""


class Mark(BaseModel):
    """What a task leaves behind."""

    by: str
    n: int = 0


class Verdict(BaseModel):
    """A decision, without its time."""

    approved: bool
    note: str | None = None
    decided_by: str | None = None


class Word(BaseModel):
    """A signal's payload."""

    text: str


smithers, outputs = create_smithers({"mark": Mark, "verdict": Verdict, "word": Word})
in_chapter, _ = create_smithers({"output": Mark})


class Execution(NamedTuple):
    """One line of the record: an attempt that really ran, and where."""

    run_id: str
    node_id: str
    iteration: int
    attempt: int
    pid: int


def executions(folder: Path) -> list[Execution]:
    """Every execution so far, in order."""
    path = folder / EXECUTIONS
    lines = path.read_text().splitlines() if path.exists() else []
    return [Execution(*json.loads(line)) for line in lines]


def append_line(path: Path, text: str) -> None:
    """Append a line that survives the death of this process: what is written is the kernel's. One write, so that lines of
    several processes do not mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, text.encode() + b"\n")
    finally:
        os.close(descriptor)


def record_execution() -> Execution:
    """Note that the current task runs."""
    runtime = task_runtime()
    found = Execution(runtime.run_id, runtime.node_id, runtime.iteration, runtime.attempt, os.getpid())
    append_line(runtime.root_dir / EXECUTIONS, json.dumps(found))
    return found


def work(id: str, *, fails: bool = False) -> Task:
    """A task that records its execution, gives the loop a chance to do something else, and succeeds or fails."""

    async def run() -> Mark:
        found = record_execution()
        await asyncio.sleep(0)
        if fails:
            raise ValueError(f"{id} fails")
        return Mark(by=id, n=found.iteration)

    return Task(id, output=Mark)[run]


def threaded(id: str) -> Task:
    """The same, on a thread."""

    def run() -> Mark:
        return Mark(by=id, n=record_execution().iteration)

    return Task(id, output=Mark)[run]


async def _flaky() -> Mark:
    """Fails until so many failures are on record. An interrupted attempt is none, and must not cost a retry."""
    found = record_execution()
    store = open_store(task_runtime().root_dir / DATABASE, create=False)
    try:
        attempts = await store.aread(lambda c: reads.attempts(c, found.run_id, found.node_id))
    finally:
        store.close()
    failed = sum(attempt.state == "failed" for attempt in attempts)
    if failed < FAILURES:
        raise ConnectionError(f"failure {failed + 1}")
    return Mark(by="flaky", n=failed)


def _rescue(error: Mapping[str, object]) -> Task:
    assert error["nodeId"] == "risky"
    return work("rescue")


@in_chapter
def chapter(ctx: Context[dict[str, object]]) -> Workflow:
    """A child that goes on as a new run, and rests between its two tasks."""
    if ctx.continuation is None:
        return Workflow("chapter")[work("draft-chapter"), ContinueAsNew({"drafted": True})]
    return Workflow("chapter")[Timer("chapter-rest", duration="5ms"), work("print-chapter")]


@smithers
def mixed(ctx: Context[dict[str, object]]) -> Workflow:
    """A little of everything; ends as a second run, which has a child run."""
    if ctx.continuation is not None:
        return Workflow("mixed")[
            work("epilogue"),
            Subflow("chapter", workflow=chapter, output=Mark),
            work("end"),
        ]
    reviews = [mark for mark in ctx.outputs(Mark) if mark.by == "review"]
    return Workflow("mixed")[
        work("plan"),
        work("outline"),
        Parallel("scans", max_concurrency=2)[[work(f"scan-{i}") for i in range(3)], threaded("scan-in-thread")],
        Task("flaky", output=Mark, retries=FAILURES, retry_policy=RetryPolicy("fixed", 3))[_flaky],
        Loop("drafts", until=len(reviews) >= 2, max_iterations=4)[work("write"), work("review")],
        Loop("parts", max_iterations=2)[work("open"), Loop("pages", max_iterations=2)[work("page")]],
        WaitForEvent("early", event="early", output=Word),
        Parallel("gate")[
            Approval("ship", output=Verdict, request={"title": "Ship it?"}),
            threaded("meanwhile"),
        ],
        WaitForEvent("late", event="late", output=Word),
        Timer("rest", duration="5ms"),
        TryCatchFinally("attempt", try_=work("risky", fails=True), catch=_rescue, finally_=work("cleanup")),
        Saga("trip")[
            SagaStep("flight", compensation=work("return-flight"))[work("book-flight")],
            SagaStep("hotel", compensation=work("return-hotel"))[work("book-hotel", fails=True)],
        ],
        ContinueAsNew({"reviews": len(reviews)}, carry=[outputs.verdict]),
    ]


@smithers
def doomed(ctx: Context[dict[str, object]]) -> Workflow:
    """Waits in every way at once, until it is cancelled."""
    return Workflow("doomed")[
        work("plan"),
        Parallel("waits")[
            Approval("ship", output=Verdict, request={"title": "Ship it?"}),
            WaitForEvent("never", event="never", output=Word),
            Timer("long", duration="1h"),
            Subflow("chapter", workflow=doomed_chapter, output=Mark),
        ],
        work("unreachable"),
    ]


@in_chapter
def doomed_chapter(ctx: Context[dict[str, object]]) -> Workflow:
    """Goes on as a new run, which waits for ever."""
    if ctx.continuation is None:
        return Workflow("doomed-chapter")[work("draft-chapter"), ContinueAsNew({"drafted": True})]
    return Workflow("doomed-chapter")[Timer("chapter-rest", duration="1h"), work("print-chapter")]


HOLD = "hold"
"""While this file is there, the long task says in the pipe `entered` that it runs, and waits for the pipe `gate`."""


def _pass(gate: Path) -> None:
    with gate.open("rb", buffering=0) as pipe:
        pipe.read(1)


async def _long() -> Mark:
    found = record_execution()
    folder = task_runtime().root_dir
    if (folder / HOLD).exists():
        await asyncio.to_thread((folder / "entered").write_text, f"{found.pid}\n")
        await asyncio.to_thread(_pass, folder / "gate")
    return Mark(by="long", n=found.pid)


@smithers
def slow(ctx: Context[dict[str, object]]) -> Workflow:
    """Takes as long as the test wants."""
    return Workflow("slow")[work("first"), Task("long", output=Mark)[_long], work("last")]


@smithers
def asking(ctx: Context[dict[str, object]]) -> Workflow:
    """Waits for a decision between two tasks."""
    return Workflow("asking")[work("first"), Approval("ship", output=Verdict), work("last")]


@smithers
def bulky(ctx: Context[dict[str, object]]) -> Workflow:
    """Writes more than a small disk holds."""
    return Workflow("bulky")[[_bulk(f"bulk-{i}") for i in range(12)], work("last")]


def _bulk(id: str) -> Task:
    async def run() -> Word:
        record_execution()
        return Word(text=id * 30_000)

    return Task(id, output=Word)[run]


CALLS = "calls.txt"
"""What tools were called with, and what a task or an agent was told of earlier calls."""


class Amount(BaseModel):
    """What a payment is called with."""

    of: int


def note_call(line: str) -> None:
    """Put a line on record."""
    append_line(task_runtime().root_dir / CALLS, line)


@define_tool(name="notify", schema=Amount, side_effect=True)
async def notify(args: Amount, ctx: ToolCtx) -> str:
    """Tell somebody of an amount."""
    note_call(f"notify {args.of} {ctx.idempotency_key}")
    return "told"


@define_tool(name="pay", schema=Amount, side_effect=True)
async def pay(args: Amount, ctx: ToolCtx) -> str:
    """Pay an amount. The first time the process dies over it, once the amount is paid."""
    is_first = not any(line.startswith("pay ") for line in calls_of(task_runtime().root_dir))
    note_call(f"pay {args.of} {ctx.idempotency_key}")
    if is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    return "paid"


@define_tool(name="spend", schema=Amount, side_effect=True)
async def spend(args: Amount) -> str:
    """As `pay`, but nobody could tell a repetition from the first time."""
    is_first = not calls_of(task_runtime().root_dir)
    note_call(f"spend {args.of}")
    if is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    return "spent"


def calls_of(folder: Path) -> list[str]:
    """Every call and warning so far, in order."""
    path = folder / CALLS
    return path.read_text().splitlines() if path.exists() else []


async def _notify() -> Mark:
    record_execution()
    return Mark(by=await notify(of=1))


async def _pay() -> Mark:
    record_execution()
    for call in task_runtime().earlier_calls():
        note_call(f"earlier {call.tool_name} {call.status.value}")
    await notify(of=2)
    return Mark(by=await pay(of=2))


async def _spend() -> Mark:
    record_execution()
    return Mark(by=await spend(of=4))


async def _agent(prompt: str) -> dict[str, object]:
    record_execution()
    told = next((line for line in prompt.splitlines() if line.startswith("- attempt")), "nothing")
    note_call(f"told {told}")
    return {"by": await pay(of=3)}


@smithers
def paying(ctx: Context[dict[str, object]]) -> Workflow:
    """Calls tools of which one kills the process: within a function."""
    return Workflow("paying")[Task("notify", output=Mark)[_notify], Task("pay", output=Mark)[_pay], work("last")]


@smithers
def buying(ctx: Context[dict[str, object]]) -> Workflow:
    """The same within an agent."""
    return Workflow("buying")[Task("notify", output=Mark)[_notify], Task("pay", output=Mark, agent=_agent)["Pay."]]


@smithers
def spending(ctx: Context[dict[str, object]]) -> Workflow:
    """Calls a tool that kills the process, and whose call must not be repeated unasked."""
    return Workflow("spending")[Task("spend", output=Mark)[_spend], work("last")]


WORKFLOWS: dict[str, SmithersWorkflow] = {
    w.function_name: w for w in (mixed, doomed, slow, asking, bulky, paying, buying, spending)
}

IN_ORDER = ("plan", "outline", "flaky", "write", "open", "early", "ship", "late", "rest", "risky", "rescue", "cleanup")
"""Nodes of `mixed` that finish (or fail) one after the other."""


async def answer(control: Control, run_id: str, done: list[str]) -> None:
    """Give a run of `mixed` what it asks for, as far as it does not have it; note what was acknowledged.

    The signal `early` is sent before anybody waits for it, `late` once somebody does.
    """
    store = control.store
    row = await control.run(run_id)
    if row.status == "continued" or row.parent_run_id is not None:
        return  # what follows asks for nothing
    names = {signal.signal_name for signal in await store.aread(lambda c: reads.signals(c, run_id))}
    wanted = ["early"] + (["late"] if row.status == "waiting-event" else [])
    for name in wanted:
        if name not in names:
            await control.signal(run_id, name, {"text": name}, idempotency_key=name)
            done.append(f"signal {name}")
    for approval in await control.open_approvals(run_id):
        try:
            await control.decide(run_id, approval.node_id, approved=True, caller=PERSON, note="go")
        except AlreadyDecided:
            continue
        done.append(f"decision {approval.node_id}")


PERSON = Caller(user="reviewer")
