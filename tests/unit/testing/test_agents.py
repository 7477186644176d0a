"""Scripted agents."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel
from tests.unit.agents.support import Verdict, make_call, run

from smithers.agents import AgentCall
from smithers.errors import InvalidInput
from smithers.testing import auto, fake_agent


def test_values_models_auto_and_functions_are_scripts() -> None:
    def always(_call: AgentCall) -> object:
        return auto

    async def by_prompt(call: AgentCall) -> dict[str, object]:
        return {"ok": "Judge" in call.prompt}

    scripts: list[object] = [{"ok": True}, Verdict(ok=True), auto, always, by_prompt, {"output": {"ok": True}}]
    for script in scripts:
        assert run(fake_agent(Verdict, script)).output == Verdict(ok=True)


def test_calls_are_recorded_and_forgotten() -> None:
    agent = fake_agent(Verdict, auto)
    with pytest.raises(InvalidInput, match="not been called"):
        agent.last_prompt()
    run(agent)
    assert agent.last_prompt() == "Judge it."
    assert agent.calls[0].node_id == "judge"
    agent.reset()
    assert agent.calls == []


def test_a_sequence_gives_one_answer_a_call_and_then_fails() -> None:
    agent = fake_agent.sequence(Verdict, [{"ok": False}, {"ok": True}])
    assert [run(agent).output, run(agent).output] == [Verdict(ok=False), Verdict(ok=True)]
    with pytest.raises(InvalidInput, match="has 2 answers") as caught:
        run(agent)
    assert not caught.value.is_retryable
    agent.reset()
    assert run(agent).output == Verdict(ok=False)


def test_a_script_that_does_not_fit_is_refused_where_it_is_written() -> None:
    with pytest.raises(InvalidInput, match="does not fit Verdict"):
        fake_agent(Verdict, {"ok": "?"})
    with pytest.raises(InvalidInput, match="does not fit Verdict"):
        fake_agent.sequence(Verdict, [auto, {"no": 1}])

    def misfit(_call: AgentCall) -> object:
        return {"ok": "?"}

    with pytest.raises(InvalidInput, match="does not fit"):
        run(fake_agent(Verdict, misfit))


def test_a_schema_with_the_name_of_a_part_is_a_value() -> None:
    class Note(BaseModel):
        text: str

    result = run(fake_agent(Note, {"text": "hello"}), make_call(output_type=Note))
    assert result.output == Note(text="hello")


def test_files_are_written_below_the_tasks_folder(tmp_path: Path) -> None:
    script = {"output": {"ok": True}, "text": "wrote", "files": {"src/a.py": "x = 1\n", "b.bin": b"\x00"}}
    result = run(fake_agent(Verdict, script), make_call(tmp_path))
    assert result.text == "wrote"
    assert (tmp_path / "src/a.py").read_text() == "x = 1\n"
    assert (tmp_path / "b.bin").read_bytes() == b"\x00"


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "link/x", ".", ""])
def test_files_do_not_escape_and_then_none_is_written(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    agent = fake_agent(Verdict, {"output": {"ok": True}, "files": {"fine": "1", name: "2"}})
    with pytest.raises(InvalidInput, match="not below"):
        run(agent, make_call(root))
    assert not (root / "fine").exists()
    assert not (tmp_path / "x").exists()


def test_ids_are_stable_and_differ_by_script() -> None:
    assert fake_agent(Verdict, {"ok": True}).id == fake_agent(Verdict, {"ok": True}).id
    assert fake_agent(Verdict, {"ok": True}).id != fake_agent(Verdict, {"ok": False}).id
    assert fake_agent(Verdict, auto, id="judge").id == "judge"
