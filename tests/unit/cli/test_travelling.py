"""The commands that go back in runs, branch from them, compare them and say why they are where they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from tests.unit.cli.support import HEAD, Cli, at

SHOP = """
from smithers import define_tool

class Order(BaseModel):
    sku: str

async def undo(context):
    note("undone " + context.input["sku"])

@define_tool(name="orders.place", schema=Order, side_effect=True, revert=undo)
async def place(args: Order):
    note("placed " + args.sku)
    return {"order": args.sku}

@define_tool(name="mail.send", schema=Order, side_effect=True)
async def mail(args: Order):
    note("mailed " + args.sku)

async def buy():
    await place(sku="tea")
    return {"n": 1}

async def tell():
    await mail(sku="tea")
    return {"n": 2}

@smithers
def shop(ctx):
    return Workflow(name="shop")[
        Task(id="look", output=outputs.output)[lambda: {"n": ctx.input.get("n", 0)}],
        Task(id="buy", output=outputs.output)[buy],
        ctx.input.get("mail") and Task(id="tell", output=outputs.output)[tell],
        Task(id="last", output=outputs.output)[lambda: {"n": 3}],
    ]
"""


@pytest.fixture
def shop(cli: Cli) -> Cli:
    (cli.folder / "shop.py").write_text(HEAD + SHOP)
    return cli


def done(cli: Cli) -> list[str]:
    return Path("done.txt").read_text().split("\n")[:-1] if Path("done.txt").exists() else []


def frame_of(cli: Cli, run: str, node: str, type: str = "NodeFinished") -> int:
    """The frame in which something happened to a step."""
    from smithers.store import open_store

    store = open_store("smithers.db")
    try:
        rows = store.read(
            lambda c: c.execute(
                "SELECT frame_no FROM _smithers_events WHERE run_id = ? AND node_id = ? AND type = ? ORDER BY seq DESC",
                (run, node, type),
            ).fetchall()
        )
    finally:
        store.close()
    return int(rows[0][0])


# ── rewind ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rewind_shows_what_stands_outside_undoes_it_and_says_how_to_go_on(shop: Cli) -> None:
    assert shop("up", "shop.py", "-r", "r").code == 0
    frame = frame_of(shop, "r", "look")
    asked = shop("rewind", "r", str(frame))
    assert (asked.code, "--yes" in asked.err) == (4, True)
    assert "is undone  orders.place  buy" in asked.out
    assert done(shop) == ["placed tea"]
    found = shop("rewind", "r", str(frame), "--yes")
    assert found.code == 0
    assert f"→ {frame}" in found.out
    assert "smithers resume r" in found.out
    assert done(shop) == ["placed tea", "undone tea"]
    assert shop("resume", "r").code == 0
    assert done(shop) == ["placed tea", "undone tea", "placed tea"]


def test_events_of_tool_calls_and_their_reverts_keep_their_numbers(shop: Cli) -> None:
    assert shop("up", "shop.py", "-r", "r").code == 0
    assert shop("rewind", "r", "1", "--yes").code == 0

    lines = shop("events", "r", "--format", "jsonl").lines
    document = shop("events", "r", "--format", "json").json

    assert [line["seq"] for line in lines] == list(range(len(lines)))
    assert document["events"] == lines
    (reverted,) = [line for line in lines if line["type"] == "EffectRevertFinished"]
    assert reverted["callSeq"] == 1


def test_a_rewind_past_what_cannot_be_undone_needs_force(shop: Cli) -> None:
    assert shop("up", "shop.py", "-r", "r", "--input", '{"mail": true}').code == 0
    frame = frame_of(shop, "r", "look")
    refused = shop("rewind", "r", str(frame), "--yes")
    assert (refused.code, "TIME_TRAVEL_SIDE_EFFECT_BLOCKED" in refused.err) == (4, True)
    assert "stays done  mail.send" in refused.out
    as_json = shop("rewind", "r", str(frame), "--yes", "--format", "json")
    assert as_json.code == 4
    assert at(as_json.json, "error", "details", "report", "blocking", 0, "toolName") == "mail.send"
    forced = shop("rewind", "r", str(frame), "--yes", "--force", "--no-revert", "--format", "json")
    assert forced.code == 0
    assert at(forced.json, "ok") is True
    blocking = cast("list[dict[str, object]]", at(forced.json, "effectBoundary", "blocking"))
    assert [effect["toolName"] for effect in blocking] == ["orders.place", "mail.send"]
    assert done(shop) == ["placed tea", "mailed tea"]


@pytest.mark.parametrize("line", ["rewind r 99 --yes", "rewind s 1 --yes", "rewind r -1 --yes", "rewind r x --yes"])
def test_a_rewind_to_nowhere_is_refused(shop: Cli, line: str) -> None:
    assert shop("up", "shop.py", "-r", "r").code == 0
    refused = shop(*line.split())
    assert refused.code == 4
    assert len(refused.err.splitlines()) == 1


@pytest.mark.parametrize("line", ["rewind r -1", "rewind r 99", "fork r --frame -1", "fork r --frame 99"])
def test_a_frame_that_is_not_there_is_said_at_once(shop: Cli, line: str) -> None:
    assert shop("up", "shop.py", "-r", "r").code == 0

    refused = shop(*line.split())

    assert (refused.code, refused.out) == (4, "")
    assert "FrameOutOfRange" in refused.err


def test_on_a_terminal_a_rewind_asks(shop: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert shop("up", "shop.py", "-r", "r").code == 0
    frame = str(frame_of(shop, "r", "look"))
    monkeypatch.setattr("smithers.cli.output.Output.__init__", _on_a_terminal())
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    refused = shop("rewind", "r", frame)
    assert (refused.code, "nothing was done" in refused.err) == (4, True)
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert shop("rewind", "r", frame).code == 0


def _on_a_terminal() -> Callable[..., None]:
    from smithers.cli.output import Output

    original = Output.__init__

    def init(self: Output, *args: object, **options: object) -> None:
        original(self, *args, **options)  # type: ignore[arg-type]
        self.is_terminal = True

    return init


# ── fork, replay ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fork_only_warns_and_leaves_the_old_run_alone(shop: Cli) -> None:
    assert shop("up", "shop.py", "-r", "r").code == 0
    frame = str(frame_of(shop, "r", "look"))
    found = shop("fork", "r", "-f", frame, "-l", "try again", "--new-run-id", "f")
    assert found.code == 0
    assert "may repeat  orders.place" in found.out
    assert 'f "try again"  forked from r at frame' in found.out
    assert done(shop) == ["placed tea"]
    assert at(shop("inspect", "r", "--format", "json").json, "run", "status") == "finished"
    assert shop("resume", "f").code == 0
    assert done(shop) == ["placed tea", "placed tea"]
    tree = shop("timeline", "r", "--tree").out
    assert '└─ f "try again"  finished' in tree
    assert tree.count("← here") == 2


def test_a_replay_would_repeat_effects_so_it_needs_force(shop: Cli) -> None:
    assert shop("up", "shop.py", "-r", "r").code == 0
    frame = str(frame_of(shop, "r", "look"))
    refused = shop("replay", "shop.py", "-r", "r", "-f", frame)
    assert (refused.code, "TIME_TRAVEL_SIDE_EFFECT_BLOCKED" in refused.err) == (4, True)
    found = shop(
        "replay", "shop.py", "-r", "r", "-f", frame, "--new-run-id", "f", "--force", "-i", '{"n": 7}', "-n", "look"
    )
    assert found.code == 0, found.err
    assert json.loads(shop("output", "f", "look").out) == {"n": 7}
    assert done(shop) == ["placed tea", "placed tea"]


def test_a_workflows_file_alone_names_no_run(shop: Cli) -> None:
    refused = shop("fork", "shop.py")
    assert (refused.code, "--run-id" in refused.err) == (4, True)


# ── a step again ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_step_is_done_again_with_what_was_built_upon_it(shop: Cli) -> None:
    assert shop("up", "shop.py", "-r", "r").code == 0
    found = shop("retry-task", "r", "-n", "buy")
    assert found.code == 0, found.err
    assert "r  to be done again: buy::0, last::0" in found.out
    assert done(shop) == ["placed tea", "undone tea", "placed tea"]


def test_a_step_that_cannot_be_undone_is_not_done_again(shop: Cli) -> None:
    assert shop("up", "shop.py", "-r", "r", "--input", '{"mail": true}').code == 0
    refused = shop("retry-task", "r", "-n", "tell")
    assert refused.code == 4
    assert "stays done  mail.send" in refused.out
    assert shop("retry-task", "r", "-n", "tell", "--force").code == 0
    assert done(shop) == ["placed tea", "mailed tea", "mailed tea"]


def test_a_step_is_taken_back_to_before_an_attempt(shop: Cli) -> None:
    assert shop("up", "shop.py", "-r", "r").code == 0
    found = shop("timetravel", "r", "-n", "buy", "-a", "1", "--format", "json")
    assert found.code == 0, found.err
    assert at(found.json, "resetNodes") == ["buy::0", "last::0"]
    assert at(found.json, "effectBoundary", "revertible", 0, "toolName") == "orders.place"
    assert at(shop("inspect", "r", "--format", "json").json, "run", "status") == "running"
    assert shop("timetravel", "r", "-n", "look", "--resume").code == 0
    assert shop("timetravel", "r", "-n", "nothing").code == 4


NESTED = """
@smithers
def child(ctx):
    return Workflow(name="child")[
        Approval(id="ok", output=outputs.decision, request={"title": "Ok?"}),
        Task(id="a", output=outputs.output)[lambda: {"n": 1}],
    ]

@smithers
def workflow(ctx):
    return Workflow(name="nested")[
        Subflow(id="sub", workflow=child, output=outputs.output),
        Approval(id="end", output=outputs.decision, request={"title": "End?"}),
    ]
"""


@pytest.fixture
def child(cli: Cli) -> str:
    """The run of a subflow that waits for an approval."""
    (cli.folder / "nested.py").write_text(HEAD + NESTED)
    assert cli("up", "nested.py", "-r", "r").code == 3
    return "r:child:sub:0"


@pytest.mark.parametrize("line", ["resume {}", "up nested.py --resume {}"])
def test_the_run_of_a_subflow_is_not_driven_by_another_workflow_of_its_file(cli: Cli, child: str, line: str) -> None:
    refused = cli(*line.format(child).split())

    assert (refused.code, "RUN_NOT_RESUMABLE" in refused.err, "run 'r'" in refused.err) == (4, True, True)
    assert at(cli("inspect", child, "--format", "json").json, "run", "status") == "waiting-approval"


def test_the_run_of_a_subflow_that_was_taken_back_goes_on_with_its_parent(cli: Cli, child: str) -> None:
    rewound = cli("rewind", child, "1", "--yes")

    assert (rewound.code, "smithers resume r " in rewound.out) == (0, True)
    assert "smithers resume r  go on" in cli("why", child).out
    assert cli("resume", "r").code == 3
    again = cli("retry-task", child, "-n", "ok")
    assert (again.code, f"smithers approve {child} --node ok" in again.out) == (3, True)
    assert cli("approve", child).code == 0
    assert cli("resume", "r").code == 3
    assert at(cli("inspect", child, "--format", "json").json, "run", "status") == "finished"


@pytest.mark.parametrize("line", ["rewind {} 1 --yes", "retry-task {} -n ok", "timetravel {} -n a"])
def test_what_nothing_would_go_on_with_is_not_taken_back(cli: Cli, child: str, line: str) -> None:
    for run in (child, "r"):
        assert cli("approve", run).code == 0
        cli("resume", "r")
    assert at(cli("inspect", "r", "--format", "json").json, "run", "status") == "finished"

    refused = cli(*line.format(child).split())

    assert (refused.code, "RUN_NOT_RESUMABLE" in refused.err) == (4, True)
    assert at(cli("inspect", child, "--format", "json").json, "run", "status") == "finished"


def test_a_fork_of_a_subflows_run_is_made_by_the_subflow(cli: Cli, child: str) -> None:
    assert cli("fork", child, "--frame", "1", "--new-run-id", "f").code == 0

    assert cli("resume", "f").code == 3
    assert cli("graph", "f").out.startswith("workflow child\n")
    assert cli("graph", child).out.startswith("workflow child\n")
    assert cli("approve", "f").code == 0
    assert cli("resume", "f").code == 0


def test_a_fork_of_a_subflow_that_the_file_does_not_name_is_refused(cli: Cli) -> None:
    text = NESTED.replace('Workflow(name="child")', 'Workflow(name="other")')
    (cli.folder / "nested.py").write_text(HEAD + text)
    assert cli("up", "nested.py", "-r", "r").code == 3
    assert cli("fork", "r:child:sub:0", "--frame", "1", "--new-run-id", "f").code == 0

    refused = cli("resume", "f")

    assert (refused.code, "RUN_NOT_RESUMABLE" in refused.err) == (4, True)
    assert cli("retry-task", "r:child:sub:0", "-n", "ok").code == 3


# ── timeline, diff, why ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_timeline_tells_what_happened_in_each_frame(shop: Cli) -> None:
    assert shop("up", "shop.py", "-r", "r").code == 0
    lines = shop("timeline", "r").out.splitlines()
    assert lines[0].startswith("r  finished, frame ")
    assert "look finished, buy started" in "\n".join(lines)
    assert lines[-1].endswith("the run finished  ← here")
    assert "earlier frames" in shop("timeline", "r", "-l", "1").out
    document = shop("timeline", "r", "--format", "json").json
    assert at(document, "runId") == "r"
    frame = frame_of(shop, "r", "look")
    assert shop("rewind", "r", str(frame), "--yes").code == 0
    after = shop("timeline", "r").out
    assert "taken back from frame" in after
    assert "the run finished" not in after


def test_two_frames_and_two_runs_are_compared(shop: Cli) -> None:
    for run, n in (("r", 1), ("s", 2)):
        assert shop("up", "shop.py", "-r", run, "--input", f'{{"n": {n}}}').code == 0
    frames = [str(frame_of(shop, "r", "look")), str(frame_of(shop, "r", "buy"))]
    found = shop("diff", "r", "--frames", *frames)
    assert found.code == 0, found.err
    assert "buy" in found.out
    assert "+ n: 1" in found.out
    runs = shop("diff", "r", "--against", "s").out
    assert "- n: 1\n    + n: 2" in runs
    assert shop("diff", "r", "--against", "r").out.endswith("no difference\n")
    assert at(shop("diff", "r", "--against", "s", "--format", "json").json, "left", "runId") == "r"
    assert shop("diff", "r").code == 4
    assert shop("diff", "r", "--frames", "1", "999").code == 4


def test_a_comparison_can_be_about_one_step(shop: Cli) -> None:
    assert shop("up", "shop.py", "-r", "r").code == 0
    frames = ["--frames", "0", str(frame_of(shop, "r", "last"))]

    alone = shop("diff", "r", "buy", *frames, "--format", "json").json

    assert [at(row, "nodeId") for row in cast("list[object]", alone["nodesAdded"])] == ["buy"]
    assert [at(row, "nodeId") for row in cast("list[object]", alone["outputsChanged"])] == ["buy"]
    assert shop("diff", "r", "buy", "--iteration", "0", *frames).code == 0
    for wrong in (["nothing", *frames], ["buy", "--iteration", "1", *frames], ["nothing", "--against", "r"]):
        refused = shop("diff", "r", *wrong)
        assert (refused.code, "NODE_NOT_FOUND" in refused.err) == (4, True)


@pytest.mark.parametrize("line", ["diff r --frames 0 1 --stat", "diff r --iteration 1", "why r --iteration 1"])
def test_what_an_option_says_nothing_about_is_refused(shop: Cli, line: str) -> None:
    assert shop("up", "shop.py", "-r", "r").code == 0

    refused = shop(*line.split())

    assert (refused.code, "INVALID_INPUT" in refused.err) == (4, True)


def test_a_fork_of_a_forks_first_frames_is_in_the_picture(shop: Cli) -> None:
    assert shop("up", "shop.py", "-r", "r").code == 0
    assert shop("fork", "r", "-f", "2", "--new-run-id", "f", "--run", "--force").code == 0
    assert shop("fork", "f", "-f", "1", "--new-run-id", "g", "--run", "--force").code == 0

    for told in (shop("timeline", "f").out, shop("timeline", "r", "--tree").out):
        assert "└─ g  finished" in told
        assert "of r" in told


def test_why_names_what_is_waited_for_and_the_commands_that_move_it(cli: Cli) -> None:
    cli.write("gate", "event", "failing")
    assert cli("up", "gate.py", "-r", "g").code == 3
    found = cli("why", "g")
    assert 'ship waits for approval of "Ship it?"' in found.out
    assert "smithers approve g --node ship" in found.out
    assert "waits for what stands before it: ship (waiting-approval)" in cli("why", "g", "z").out
    document = cli("why", "g", "--format", "json").json
    assert at(document, "blockers", 0, "kind") == "approval"
    assert at(document, "next", 0, "command") == "smithers approve g --node ship"
    assert cli("up", "event.py", "-r", "e").code == 3
    assert "smithers signal e go --data JSON --correlation 'c 1'" in cli("why", "e").out
    assert cli("up", "failing.py", "-r", "f").code == 1
    failed = cli("why", "f").out
    assert "bad failed after 1 attempt" in failed
    assert "\\x1b[31m" in failed
    assert "smithers retry-task f --node bad" in failed
    assert cli("why", "nothing").code == 4
    assert cli("why", "g", "nothing").code == 4


def test_why_shows_what_is_said_of_what_somebody_is_asked(cli: Cli) -> None:
    cli.write("gate")
    told = "All checks have passed.\nThe last one took \x1b[31mlong. " + "More of it. " * 20
    source = cli.folder / "gate.py"
    source.write_text(source.read_text().replace('"Ship it?"}', f'"Ship it?", "summary": {told!r}}}'))
    assert cli("up", "gate.py", "-r", "g").code == 3

    found = cli("why", "g")

    shown = [line for line in found.out.splitlines() if line.startswith("      ") and "smithers" not in line]
    assert " ".join(line.strip() for line in shown).startswith(
        "All checks have passed. The last one took \\x1b[31mlong."
    )
    assert max(map(len, shown)) <= 100
    assert at(cli("why", "g", "--format", "json").json, "blockers", 0, "summary") == told


def test_why_says_that_a_run_was_taken_back_or_is_to_be_done_again(shop: Cli) -> None:
    assert shop("up", "shop.py", "-r", "r").code == 0
    frame = frame_of(shop, "r", "look")
    assert shop("rewind", "r", str(frame), "--yes").code == 0

    found = shop("why", "r").out

    assert f"waits for somebody to resume it: it was taken back to frame {frame}  at " in found
    assert "orphaned" not in found
    assert "smithers resume r" in found
    assert at(shop("why", "r", "--format", "json").json, "blockers", 0, "kind") == "rewound"
    assert shop("resume", "r").code == 0
    assert "has finished" in shop("why", "r").out
    assert shop("timetravel", "r", "-n", "look", "-a", "1").code == 0
    assert "waits for somebody to resume it: look is to be done again" in shop("why", "r").out
