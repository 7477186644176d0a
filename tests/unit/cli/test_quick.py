"""Plain command lines are bound without cyclopts, and mean exactly what they mean to cyclopts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import cast

import pytest
from cyclopts import App, CycloptsError
from hypothesis import given, settings
from hypothesis import strategies as st

from smithers.cli.app import COMMANDS, bound_command, make_app, run
from smithers.cli.quick import NotPlain, bind

PLACES = {name: place for name, place, _ in COMMANDS}
NUMBERS = ["7", "-7", "0", "0x10", "1_0", "1.5", "9" * 20]
WORDS = [*NUMBERS, "w.py", "run-1", "a b", "json", "jsonl", "off", "true", "none", "{}", "ä", "~/x", ""]


def command_named(name: str) -> Callable[..., object]:
    module, attribute = PLACES[name].split(".")
    return cast("Callable[..., object]", getattr(import_module(f"smithers.cli.{module}"), attribute))


@cache
def app() -> App:
    return make_app()


def flags(name: str) -> list[str]:
    found = app()
    for word in name.split():
        found = found[word]
    arguments = found.assemble_argument_collection()
    return sorted({flag for argument in arguments for flag in argument.names if flag.startswith("-")})


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    name = draw(st.sampled_from(sorted(PLACES)))
    flag, word = st.sampled_from(flags(name)), st.sampled_from(WORDS)
    part = st.one_of(
        word.map(lambda w: [w]),
        flag.map(lambda f: [f]),
        st.tuples(flag, word).map(list),
        st.tuples(flag, word).map(lambda pair: ["=".join(pair)]),
    )
    parts = draw(st.lists(part, max_size=4))
    needed = ["run-1"] * len([p for p in inspect.signature(command_named(name)).parameters.values() if p.kind == 0])
    return name, [*needed, *(token for tokens in parts for token in tokens)]


def bound_by_cyclopts(name: str, words: list[str]) -> str:
    """The arguments that cyclopts finds, as text: it makes groups of options of a class of its own."""
    try:
        _, bound, _ = app().parse_args([*name.split(), *words], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return str(error)
    return repr((bound.args, sorted(bound.kwargs.items())))


def bound_quickly(name: str, words: list[str]) -> str:
    quick = cast("partial[object]", bind(command_named(name), words))
    return repr((quick.args, sorted(quick.keywords.items())))


@settings(max_examples=150, deadline=None)
@given(line=command_lines())
def test_what_is_bound_quickly_is_what_cyclopts_binds(line: tuple[str, list[str]]) -> None:
    name, words = line
    try:
        found = bound_quickly(name, words)
    except NotPlain:
        return

    assert found == bound_by_cyclopts(name, words)


@pytest.mark.parametrize(
    "line",
    [
        "up w.py",
        "up w.py -r run-1 --wait --format json -c 4",
        "up --prompt=hello --db x.db w.py --serve --port 0",
        "resume run-1 --force",
        "approve run-1 --node ship --by me",
        "logs run-1 -f --lines 5",
        "graph w.py --format mermaid",
        "gateway --port 0 --mint-token",
    ],
)
def test_plain_lines_are_bound_quickly(line: str) -> None:
    name, *words = line.split()

    assert bound_quickly(name, words) == bound_by_cyclopts(name, words)


@pytest.mark.parametrize(
    ("tokens", "place"),
    [
        (["gateway", "status"], "gateway_status"),
        (["gateway", "stop", "--patience", "1s"], "gateway_stop"),
        (["gateway", "--port", "0"], "gateway"),
        (["cron", "list"], "cron_list"),
    ],
)
def test_a_command_of_a_group_is_told_from_the_group(tokens: list[str], place: str) -> None:
    found = cast("partial[object] | None", bound_command(tokens))

    assert found is not None
    assert found.func.__name__ == place


@pytest.mark.parametrize(
    "line",
    [
        "up",
        "up w.py more.py",
        "up w.py --nothing",
        "up w.py --no-wait",
        "up w.py --wait=true",
        "up w.py --wait --wait",
        "up w.py --run-id",
        "up w.py --input -",
        "up w.py -c four",
        "up w.py --format yaml",
        "up w.py --help",
        "up -- w.py",
        "ps --status failed --status paused",
        "gateway w.py",
        "gateway --name a=w.py",
    ],
)
def test_everything_else_is_left_to_cyclopts(line: str) -> None:
    name, *words = line.split()

    with pytest.raises(NotPlain):
        bind(command_named(name), words)


@pytest.mark.parametrize(
    "number", ["1.5", "2.", "0x10", "1_0", "+1", " 1", "٣", "1e3", "nan", "", "-", "9" * 20, "9" * 5000]
)
@pytest.mark.parametrize("line", ["rewind r {} --yes", "fork r --frame {}", "diff r --frames 1 {}", "timeline r -l {}"])
def test_a_number_is_never_made_of_something_that_is_none(
    line: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run([number if word == "{}" else word for word in line.split()])

    assert code == 4
    assert "INVALID_INPUT" in capsys.readouterr().err


@pytest.mark.parametrize("number", [7, 0, 2**53 - 1])
def test_two_numbers_and_those_below_zero_are_read(number: int) -> None:
    _, bound, _ = app().parse_args(
        ["diff", "r", "--frames", f"-{number}", str(number)], exit_on_error=False, print_error=False
    )

    assert bound.arguments["frames"] == (-number, number)
