"""Hot reload: new code takes a run over between two frames, or is refused and the run goes on as it was."""

from __future__ import annotations

import asyncio
import gc
import shutil
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.integration.engine.support import Bench, Calls, within

from smithers import RunResult, load_workflow, run_workflow
from smithers.components.workflow import SmithersWorkflow
from smithers.engine.loading import source_hash
from smithers.engine.reload import HotReload
from smithers.errors import InvalidInput

pytestmark = pytest.mark.anyio

HEAD = """
from pydantic import BaseModel
from smithers import Approval, ContinueAsNew, Sequence, Subflow, Task, Workflow, create_smithers
from tests.integration.engine.test_reload import bench_of

class Row(BaseModel):
    text: str

class Out(BaseModel):
    text: str

class Verdict(BaseModel):
    approved: bool

smithers, outputs = create_smithers({"row": Row, "output": Out, "verdict": Verdict})
calls = bench_of(__file__)
"""

CHAIN = """
@smithers
def workflow(ctx):
    return Workflow(name="chain")[
        Task("a", output=Row)[calls.held("a")],
        Task("b", output=Row)[lambda: {"text": "old b"}],
        Task("c", output=outputs.output)[lambda: {"text": "old c"}],
    ]
"""

GATE = """
@smithers
def workflow(ctx):
    return Workflow(name="gate")[
        Approval("ship", output=outputs.verdict),
        Task("b", output=outputs.output)[lambda: {"text": "old b"}],
    ]
"""

_benches: dict[str, Calls] = {}


def bench_of(file: str) -> Calls:
    """What holds the work of the workflow in a file back."""
    return _benches.setdefault(str(Path(file).resolve().parent), Calls())


class Desk:
    """A workflow file that is edited while a run of it goes on."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        self.file = folder / "flow.py"
        self.calls = bench_of(str(self.file))
        self.hot: HotReload
        self._text = ""

    def write(self, body: str, head: str = HEAD) -> None:
        """Save another text."""
        self._text = head + body
        self.file.write_text(self._text)

    def edit(self, old: str, new: str) -> None:
        """Save with a change."""
        assert old in self._text
        self.write("", head=self._text.replace(old, new))

    async def start(self, body: str = CHAIN, *, head: str = HEAD, watches: bool = False, **options: object) -> None:
        """Begin a run of the file."""
        self.write(body, head)
        workflow = load_workflow(self.file)
        self.hot = HotReload(workflow, file=self.file)
        await self.bench.start(workflow, **options)  # type: ignore[arg-type]
        self.hot.attach(self.bench.engine, "r", watches=watches)

    async def change(self, old: str, new: str) -> None:
        """Edit, and have the run look at it."""
        self.edit(old, new)
        await within(self.hot.look())

    async def end(self) -> RunResult:
        """Wait for the run's end or halt."""
        return await within(self.bench.engine.until_moved("r", self.hot.workflow))

    def told(self) -> list[str]:
        """What the log says of reloads."""
        return [kind.removeprefix("Workflow") for kind in self.bench.types() if kind.startswith("WorkflowReload")]

    def said(self) -> str:
        """Why the last change was not taken over."""
        event = [e for e in self.bench.events() if e["type"] in ("WorkflowReloadFailed", "WorkflowReloadUnsafe")][-1]
        error = cast("dict[str, str]", event.get("error") or {})
        return str(event.get("reason") or error["summary"])


@pytest.fixture
async def desk(bench: Bench, tmp_path: Path) -> AsyncIterator[Desk]:
    found = Desk(bench, tmp_path)
    yield found
    await found.hot.close()
    _benches.pop(str(tmp_path), None)


# ── taking over ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_had_not_started_runs_new_code_and_what_is_under_way_ends_on_the_old(desk: Desk) -> None:
    await desk.start(CHAIN.replace('calls.held("a")', "work") + WORK)
    await within(desk.calls.begun["a"].wait())
    await desk.change('"old', '"new')
    await desk.bench.seen("WorkflowReloaded", generation=1)
    desk.calls.release("a")
    assert (await desk.end()).status == "finished"
    assert desk.bench.texts() == ["old a", "new b"]
    assert desk.bench.texts(table="output") == ["new c"]


WORK = """
calls.held("a")

async def work():
    calls.begun["a"].set()
    await calls.gates["a"].wait()
    return {"text": SAID}

SAID = "old a"
"""


async def test_a_module_beside_the_file_is_reloaded_too_also_one_in_a_package(desk: Desk, tmp_path: Path) -> None:
    package = tmp_path / "parts"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "words.py").write_text('WORD = "old b"')
    (tmp_path / "more.py").write_text('WORD = "old c"')
    body = CHAIN.replace('"old b"', "words.WORD").replace('"old c"', "WORD")
    await desk.start(body, head=HEAD + "from parts import words\nfrom more import WORD\n")
    (package / "words.py").write_text('WORD = "new b"')
    (tmp_path / "more.py").write_text('WORD = "new c"')
    await within(desk.hot.look())
    reloaded = await desk.bench.seen("WorkflowReloaded", generation=1)
    assert reloaded["changedFiles"] == [str(tmp_path / "more.py"), str(package / "words.py")]
    desk.calls.release("a")
    assert (await desk.end()).status == "finished"
    assert (desk.bench.texts(), desk.bench.texts(table="output")) == (["a", "new b"], ["new c"])


async def test_rows_of_finished_tasks_are_rows_of_the_new_models_also_of_what_was_under_way(desk: Desk) -> None:
    first = 'Task("first", output=Row)[{"text": "one"}], '
    await desk.start(
        CHAIN.replace('Task("a"', first + 'Task("a"').replace('lambda: {"text": "old b"}', 'calls.held("b")')
    )
    await within(desk.calls.begun["a"].wait())
    desk.edit("text: str", 'text: str\n    more: str = "!"\n    def shout(self): return self.text.upper() + self.more')
    desk.edit('"text": "old c"', '"text": said')
    desk.edit("    return Workflow", SAID)
    await within(desk.hot.look())
    await desk.bench.seen("WorkflowReloaded", generation=1)
    desk.calls.release("a")
    desk.calls.release("b")
    assert (await desk.end()).status == "finished"
    assert desk.bench.texts() == ["one", "a", "b"]
    assert desk.bench.texts(table="output") == ["ONE! A! B!"]


SAID = """\
    rows = [ctx.output_maybe("row", id) for id in ("first", "a", "b")]
    said = " ".join(row.shout() for row in rows if row)
    return Workflow"""


async def test_a_parked_run_reloads_and_goes_on_if_the_new_code_lets_it(desk: Desk) -> None:
    await desk.start(GATE)
    await desk.bench.seen("RunStatusChanged", status="waiting-approval")
    moved = asyncio.create_task(desk.bench.engine.until_moved("r", desk.hot.workflow))
    await desk.change("old b", "new b")
    await desk.bench.seen("WorkflowReloaded", generation=1)
    assert desk.bench.states() == {"ship": "waiting-approval", "b": "pending"}
    await desk.change(
        'Approval("ship", output=outputs.verdict)', 'Task("ship", output=outputs.verdict)[{"approved": True}]'
    )
    await desk.bench.seen("RunFinished")
    await within(moved)
    assert desk.bench.texts(table="output") == ["new b"]


async def test_a_decision_reaches_the_new_code_of_a_parked_run(desk: Desk) -> None:
    await desk.start(GATE)
    await desk.bench.seen("RunStatusChanged", status="waiting-approval")
    await desk.change("old b", "new b")
    await desk.bench.decide("ship")
    assert (await desk.end()).status in ("finished", "waiting-approval")
    await desk.bench.seen("RunFinished")
    assert desk.bench.texts(table="output") == ["new b"]


async def test_a_run_that_was_reloaded_can_be_resumed_by_others_without_being_asked(desk: Desk) -> None:
    await desk.start()
    await within(desk.calls.begun["a"].wait())
    await desk.change("old b", "new b")
    desk.bench.abandon()
    desk.bench.new_engine()
    desk.calls.release("a")
    assert desk.bench.row().workflow_hash == source_hash(desk.file)
    assert (await desk.bench.resume(load_workflow(desk.file), force=True)).status == "finished"
    assert desk.bench.texts() == ["a", "new b"]


async def test_what_a_run_is_continued_as_reloads_as_well(desk: Desk) -> None:
    await desk.start("""
@smithers
def workflow(ctx):
    name = "a" if ctx.continuation is None else "b"
    return Workflow(name="chain")[
        Task(name, output=Row)[calls.held(name)],
        ContinueAsNew({}, when=ctx.continuation is None),
        Task("z", output=outputs.output)[lambda: {"text": "old"}],
    ]
""")
    await within(desk.calls.begun["a"].wait())
    await desk.change('"old"', '"newer"')
    desk.calls.release("a")
    heir = str((await desk.bench.seen("RunContinuedAsNew"))["newRunId"])
    await desk.bench.seen("NodeStarted", "b", run_id=heir)
    await desk.change('"newer"', '"newest"')
    await desk.bench.seen("WorkflowReloaded", run_id=heir)
    desk.calls.release("b")
    await desk.bench.seen("RunFinished", run_id=heir)
    assert desk.bench.texts(heir, "output") == ["newest"]


async def test_a_subflow_under_way_ends_on_the_old_code_and_is_not_refused(desk: Desk) -> None:
    await desk.start("""
@smithers
def child(ctx):
    return Workflow(name="child")[
        Approval("ok", output=outputs.verdict),
        Task("said", output=outputs.output)[lambda: {"text": "old"}],
    ]

@smithers
def workflow(ctx):
    return Workflow(name="parent")[Subflow("sub", workflow=child, output=outputs.output)]
""")
    await desk.bench.seen("RunStatusChanged", status="waiting-approval")
    await desk.change('"old"', '"new"')
    await desk.bench.decide("ok", run_id="r:child:sub:0")
    await desk.bench.seen("RunFinished", run_id="r:child:sub:0")
    assert (await desk.end()).status == "finished"


# ── refusing ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("old", "new", "kind", "why"),
    [
        ('name="chain"', 'name="other"', "Unsafe", "name changed"),
        ("text: str", "text: int", "Unsafe", "type of field 'text'"),
        ("text: str", "text: str\n    n: int", "Unsafe", "'n' is new and has no default"),
        ('"row": Row, ', "", "Failed", "not registered"),
        ('"verdict": Verdict})', '"verdict": Verdict}, input=Row)', "Unsafe", "input model changed"),
        ("return Workflow", "return Workflo w", "Failed", "SyntaxError"),
        ("import BaseModel", "import BaseModels", "Failed", "ImportError"),
        ("return Workflow", "ctx.nothing; return Workflow", "Failed", "AttributeError"),
        ('"b", output', '"a", output', "Failed", "unique"),
        ("@smithers", "", "Failed", "holds no workflow"),
    ],
)
async def test_a_change_that_does_not_fit_is_refused_with_its_reason(
    desk: Desk, old: str, new: str, kind: str, why: str
) -> None:
    await desk.start()
    await within(desk.calls.begun["a"].wait())
    before = desk.bench.row().workflow_hash
    await desk.change(old, new)
    assert desk.told() == ["ReloadDetected", f"Reload{kind}"]
    assert why in desk.said()
    assert desk.bench.row().workflow_hash == before
    desk.write(CHAIN)
    await desk.change("old b", "new b")
    await desk.bench.seen("WorkflowReloaded", generation=1)
    desk.calls.release("a")
    assert (await desk.end()).status == "finished"
    assert desk.bench.texts() == ["a", "new b"]


async def test_the_run_goes_on_on_the_old_code_after_a_refusal(desk: Desk) -> None:
    await desk.start()
    await within(desk.calls.begun["a"].wait())
    desk.edit("old b", "new b")
    await desk.change('name="chain"', 'name="other"')
    desk.calls.release("a")
    assert (await desk.end()).status == "finished"
    assert desk.bench.texts() == ["a", "old b"]


async def test_an_output_that_has_rows_cannot_go(desk: Desk) -> None:
    await desk.start(CHAIN.replace('Task("a"', 'Task("first", output=outputs.verdict)[{"approved": True}], Task("a"'))
    await within(desk.calls.begun["a"].wait())
    desk.edit('Task("first", output=outputs.verdict)[{"approved": True}], ', "")
    await desk.change(', "verdict": Verdict', "")
    assert (desk.told()[-1], "'verdict' was removed" in desk.said()) == ("ReloadUnsafe", True)


# ── watching ───────────────────────────────────────────────────────────────────────────────────────────────────────


def save_in_place(file: Path, text: str) -> None:
    file.write_text(text)


def save_by_rename(file: Path, text: str) -> None:
    other = file.with_suffix(".tmp")
    other.write_text(text)
    other.replace(file)


def save_by_moving_away(file: Path, text: str) -> None:
    file.rename(file.with_suffix(".bak"))
    file.write_text(text)


def save_in_two_steps(file: Path, text: str) -> None:
    with file.open("w") as stream:
        stream.write(text[: len(text) // 2])
        stream.flush()
        stream.write(text[len(text) // 2 :])


@pytest.mark.parametrize("save", [save_in_place, save_by_rename, save_by_moving_away, save_in_two_steps])
async def test_a_save_is_noticed_however_the_editor_does_it(desk: Desk, save: Callable[[Path, str], None]) -> None:
    await desk.start(watches=True)
    await within(desk.calls.begun["a"].wait())
    for number, word in enumerate(("new b", "newer b"), 1):
        save(desk.file, (HEAD + CHAIN).replace("old b", word))
        await desk.bench.seen("WorkflowReloaded", generation=number)
    desk.calls.release("a")
    assert (await desk.end()).status == "finished"
    assert desk.bench.texts() == ["a", "newer b"]
    assert desk.told() == ["ReloadDetected", "Reloaded"] * 2


async def test_a_module_that_is_imported_from_now_on_is_watched_as_well(desk: Desk, tmp_path: Path) -> None:
    await desk.start(watches=True)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "words.py").write_text('WORD = "newer b"')
    desk.write(CHAIN.replace('"old b"', "words.WORD"), HEAD + "from parts import words\n")
    await desk.bench.seen("WorkflowReloaded", generation=1)
    (tmp_path / "parts" / "words.py").write_text('WORD = "newest b"')
    await desk.bench.seen("WorkflowReloaded", generation=2)
    desk.calls.release("a")
    assert (await desk.end()).status == "finished"
    assert desk.bench.texts() == ["a", "newest b"]


async def test_files_that_the_workflow_does_not_import_are_nothing_to_it(desk: Desk, tmp_path: Path) -> None:
    await desk.start(watches=True)
    (tmp_path / "other.py").write_text("1 / 0")
    (tmp_path / "notes.txt").write_text("b")
    desk.edit("old b", "new b")
    assert (await desk.bench.seen("WorkflowReloadDetected"))["changedFiles"] == [str(desk.file)]
    desk.calls.release("a")
    await desk.end()
    assert desk.told()[:1] == ["ReloadDetected"]


async def test_no_watcher_is_left_behind(desk: Desk) -> None:
    before = asyncio.all_tasks()
    await desk.start(watches=True)
    desk.edit("old b", "new b")
    await desk.bench.seen("WorkflowReloaded")
    watching = [task for task in asyncio.all_tasks() - before if "_watch" in repr(task)]
    assert watching
    await desk.hot.close()
    assert all(task.done() for task in watching)
    desk.calls.release("a")
    await desk.end()


async def test_run_workflow_takes_hot_as_an_option(bench: Bench, tmp_path: Path) -> None:
    desk = Desk(bench, tmp_path)
    desk.write(CHAIN)
    run = asyncio.create_task(run_workflow(load_workflow(desk.file), run_id="r", engine=bench.engine, hot=True))
    await bench.seen("NodeStarted", "a")
    desk.edit("old c", "new c")
    await bench.seen("WorkflowReloaded")
    desk.calls.release("a")
    result = await within(run)
    assert (result.status, [row.model_dump() for row in result.output or []]) == ("finished", [{"text": "new c"}])


async def test_a_workflow_in_no_file_and_a_machine_without_watchfiles_are_refused(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(bench, tmp_path)
    desk.write(CHAIN)
    workflow = load_workflow(desk.file)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(InvalidInput, match=r"smithers\[watch\]"):
        await run_workflow(workflow, engine=bench.engine, hot=True)
    monkeypatch.undo()
    nowhere: dict[str, SmithersWorkflow] = {}
    exec(compile(HEAD.replace("__file__", "'x/y'") + CHAIN, "<string>", "exec"), nowhere)
    with pytest.raises(InvalidInput, match="in no file"):
        await run_workflow(nowhere["workflow"], engine=bench.engine, hot=True)


# ── for long ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_many_reloads_leave_one_generation_in_memory(desk: Desk) -> None:
    await desk.start()
    await within(desk.calls.begun["a"].wait())
    threads = threading.active_count()
    for number in range(60):
        desk.write(CHAIN.replace("old b", f"b {number}"))
        await desk.hot.look()
    desk.calls.release("a")
    assert (await desk.end()).status == "finished"
    assert desk.bench.texts() == ["a", "b 59"]
    assert desk.told().count("Reloaded") == 60
    gc.collect()
    mine = [o for o in gc.get_objects() if isinstance(o, SmithersWorkflow) and o.source_path == desk.file]
    assert len(mine) <= 2
    assert threading.active_count() <= threads + 8


# ── at any moment ──────────────────────────────────────────────────────────────────────────────────────────────────

SIZE = 4


def steps(word: str) -> str:
    rows = "".join(
        f"""
        Task("t{n}", output=Row)[held({n}, "{word} {n}")],"""
        for n in range(SIZE)
    )
    return f"""
def held(n, text):
    work = calls.held(f"t{{n}}")
    async def held():
        await work()
        return {{"text": text}}
    return held

@smithers
def workflow(ctx):
    return Workflow(name="steps")[{rows}
    ]
"""


async def _check_reload_at(folder: Path, moments: list[int]) -> None:
    bench = Bench(folder / "runs.db")
    desk = Desk(bench, folder)
    try:
        await desk.start(steps("g0"))
        generation, expected = 0, list[str]()
        for n in range(SIZE):
            await bench.seen("NodeStarted", f"t{n}")
            expected.append(f"g{generation} {n}")
            for _ in range(moments.count(n)):
                generation += 1
                desk.write(steps(f"g{generation}"))
                await within(desk.hot.look())
            desk.calls.release(f"t{n}")
        assert (await desk.end()).status == "finished"
        assert bench.texts() == expected
        assert [a.attempt for n in range(SIZE) for a in bench.attempts(f"t{n}")] == [1] * SIZE
    finally:
        await desk.hot.close()
        await bench.close()


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, SIZE - 1), max_size=4))
def test_reloads_between_any_frames_keep_what_is_finished_and_change_what_had_not_started(moments: list[int]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        asyncio.run(_check_reload_at(folder, moments))
    finally:
        _benches.pop(str(folder.resolve()), None)
        shutil.rmtree(folder)
