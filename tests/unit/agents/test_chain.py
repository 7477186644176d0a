"""Fallback chains, correction turns, accounting."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tests.unit.agents.support import NOW_MS, Recorder, Verdict, make_call, run

from smithers.agents import AgentCall, AgentResponse, ChainState, Usage, resolve_agent, resolve_chain
from smithers.errors import (
    AgentAuthFailed,
    AgentConfigInvalid,
    AgentError,
    AgentQuotaExceeded,
    AgentSessionLost,
    InvalidOutput,
)
from smithers.testing import auto, fake_agent

OK = {"ok": True}


def quota(reset: int | None = None) -> AgentQuotaExceeded:
    return AgentQuotaExceeded("limit", {} if reset is None else {"quotaResetAtMs": reset})


@pytest.mark.parametrize(("failures", "expected"), [(0, "a"), (1, "b"), (2, "c"), (9, "c")])
def test_each_failure_moves_to_the_next_rung_and_stays_on_the_last(failures: int, expected: str) -> None:
    chain = [fake_agent(Verdict, OK, id=name) for name in "abc"]
    assert run(chain, failures=failures).agent_id == expected


def test_a_used_up_limit_moves_on_within_the_attempt_and_blocks_the_agent_for_the_run() -> None:
    state, first = ChainState(), fake_agent(Verdict, quota(NOW_MS + 5_000), id="a")
    chain = [first, fake_agent(Verdict, OK, id="b")]
    assert run(chain, state=state).agent_id == "b"
    assert run(chain, state=state).agent_id == "b"
    assert len(first.calls) == 1
    with pytest.raises(AgentQuotaExceeded):
        run([first], state=state, now_ms=NOW_MS + 5_000)
    assert len(first.calls) == 2


def test_an_earlier_rung_is_taken_when_the_later_ones_are_blocked() -> None:
    chain = [fake_agent(Verdict, OK, id="a"), fake_agent(Verdict, quota(), id="b")]
    assert run(chain, failures=1).agent_id == "a"


def test_when_all_are_blocked_the_error_tells_the_earliest_reset() -> None:
    state = ChainState()
    chain = [fake_agent(Verdict, quota(NOW_MS + 9), id="a"), fake_agent(Verdict, quota(NOW_MS + 5), id="b")]
    for _ in range(2):  # the second time nobody is even asked
        with pytest.raises(AgentQuotaExceeded) as caught:
            run(chain, state=state)
        assert caught.value.details["quotaBlockedCount"] == 2
        assert caught.value.details["quotaResetAtMs"] == NOW_MS + 5
        assert caught.value.details["blocked"] == ["a", "b"]
    assert [len(agent.calls) for agent in chain] == [1, 1]
    state.release()
    with pytest.raises(AgentQuotaExceeded):
        run(chain, state=state)
    assert [len(agent.calls) for agent in chain] == [2, 2]


def test_refused_credentials_disable_an_agent_for_the_run() -> None:
    state, first = ChainState(), fake_agent(Verdict, AgentAuthFailed("bad key"), id="a")
    chain = [first, fake_agent(Verdict, OK, id="b")]
    for _ in range(2):
        assert run(chain, state=state).agent_id == "b"
    assert len(first.calls) == 1
    with pytest.raises(AgentConfigInvalid, match="a: bad key"):
        run([first], state=state)


def test_a_wrong_setup_moves_on_but_disables_nobody() -> None:
    state = ChainState()
    chain = [fake_agent(Verdict, AgentConfigInvalid("unknown model"), id="a"), fake_agent(Verdict, OK, id="b")]
    assert run(chain, state=state).agent_id == "b"
    assert state.disabled == {}
    with pytest.raises(AgentConfigInvalid, match="unknown model"):
        run(chain[:1])


def test_other_failures_end_the_attempt() -> None:
    second = fake_agent(Verdict, OK, id="b")
    with pytest.raises(AgentError, match="broken pipe") as caught:
        run([fake_agent(Verdict, OSError("broken pipe"), id="a"), second])
    assert caught.value.is_retryable
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.details["agentId"] == "a"
    assert second.calls == []


def test_the_state_survives_being_stored() -> None:
    state = ChainState({"a": "bad key"}, {"b": 5, "c": None})
    restored = ChainState.from_json(json.loads(json.dumps(state.to_json())))
    assert (restored.disabled, restored.blocked) == (state.disabled, state.blocked)
    assert restored.is_blocked("b", 4)
    assert not restored.is_blocked("b", 5)
    assert restored.is_blocked("c", 10**15)
    assert ChainState.from_json({"disabled": 3, "blocked": {"x": "y"}}) == ChainState()


def test_a_wrong_answer_is_corrected_in_the_same_attempt() -> None:
    heard = Recorder()
    agent = fake_agent.sequence(Verdict, ["nonsense", '{"ok": 7.5}', OK], usage=Usage(10, 2))
    result = run(agent, make_call(recorder=heard), recorder=heard)
    assert result.output == Verdict(ok=True)
    assert result.corrections == 2
    assert result.usage == Usage(30, 6)
    assert [report.usage for report in heard.usage] == [Usage(10, 2)] * 3
    assert [call.schema_retry for call in agent.calls] == [0, 1, 2]
    assert "Judge it." in agent.last_prompt()
    assert "- ok: " in agent.last_prompt()
    assert [event["type"] for event in heard.events] == ["started", "action", "action", "completed"]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_corrections_are_bounded_and_what_was_used_is_told_all_the_same(retries: int) -> None:
    heard = Recorder()
    agent = fake_agent(Verdict, "nonsense", usage=Usage(1, 1))
    with pytest.raises(InvalidOutput) as caught:
        run(agent, make_call(max_schema_retries=retries), recorder=heard)
    assert caught.value.is_retryable
    assert len(agent.calls) == retries + 1 == len(heard.usage)
    assert caught.value.details["issues"]


def test_a_conversation_is_gone_on_with_in_corrections_and_kept() -> None:
    calls: list[AgentCall] = []

    class Talker:
        id = "talker"
        engine = "talk"

        async def generate(self, call: AgentCall) -> AgentResponse:
            calls.append(call)
            return AgentResponse(text="no" if len(calls) == 1 else '{"ok": true}', messages=[f"turn {len(calls)}"])

    heard = Recorder()
    result = run(Talker(), recorder=heard)
    assert calls[1].messages == ["turn 1"]
    assert "Judge it." not in calls[1].prompt
    assert result.messages == {"engine": "talk", "messages": ["turn 2"]}
    assert heard.messages == [{"engine": "talk", "messages": ["turn 1"]}, result.messages]

    run(Talker(), make_call(messages=result.messages))
    assert calls[-1].messages == ["turn 2"]


def test_a_conversation_of_another_engine_is_not_carried_over() -> None:
    heard, agent = Recorder(), fake_agent(Verdict, OK)
    run(agent, make_call(messages={"engine": "talk", "messages": ["x"]}, recorder=heard))
    assert agent.calls[0].messages is None
    assert any("cannot be carried over" in str(event.get("action")) for event in heard.events)


def test_only_agents_without_structured_output_are_told_the_schema() -> None:
    native, plain = fake_agent(Verdict, OK), fake_agent(Verdict, OK, native=False)
    run(native)
    run(plain)
    assert native.last_prompt() == "Judge it."
    assert '"properties"' in plain.last_prompt()


def test_preflight_runs_once_per_run_and_its_refusal_moves_on() -> None:
    checks: list[str] = []

    class Checked:
        id = "checked"

        def __init__(self, problem: Exception | None) -> None:
            self.problem = problem

        async def preflight(self, call: AgentCall) -> None:
            checks.append(call.node_id)
            if self.problem:
                raise self.problem

        async def generate(self, call: AgentCall) -> dict[str, object]:
            return {"ok": True}

    state = ChainState()
    for _ in range(3):
        run(Checked(None), state=state)
    assert len(checks) == 1
    spare = fake_agent(Verdict, OK, id="spare")
    assert run([Checked(ValueError("no binary")), spare]).agent_id == "spare"
    with pytest.raises(AgentConfigInvalid, match="no binary"):
        run(Checked(ValueError("no binary")))


def test_agents_that_share_a_derived_id_are_told_apart_in_a_chain() -> None:
    one, two = answering("x"), answering("y")
    ids = [agent.id for agent in resolve_chain([one, two, one])]
    assert ids[0] == ids[2] != ids[1]


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(AgentConfigInvalid, match="no agent"):
        run([])


def answering(answer: object) -> Callable[[str], object]:
    def answer_always(_prompt: str) -> object:
        return answer

    return answer_always


def with_too_many(_a: str, _b: str, _c: str) -> str:
    return ""


async def plain_function(prompt: str) -> str:
    return '{"ok": true}' if "Judge" in prompt else "?"


def sync_function(prompt: str, call: AgentCall) -> dict[str, object]:
    return {"ok": call.node_id == "judge"}


def test_functions_are_agents() -> None:
    assert run(plain_function).output == Verdict(ok=True)
    assert run(sync_function).output == Verdict(ok=True)
    assert run(answering(Verdict(ok=True))).output == Verdict(ok=True)
    assert resolve_agent(plain_function).id == f"function:{__name__}.plain_function"
    assert resolve_agent(plain_function).engine == "function"


def test_a_mapping_with_parts_is_told_from_a_structured_answer() -> None:
    parts = {"text": "done", "output": OK, "usage": {"prompt_tokens": 3, "completion_tokens": 4}, "model": "m"}
    result = run(answering(parts))
    assert (result.output, result.text, result.usage, result.model) == (Verdict(ok=True), "done", Usage(3, 4), "m")


class NoAgent:
    pass


@pytest.mark.parametrize("obj", [None, 3, "gpt-5", NoAgent(), NoAgent, {"ok": True}, lambda: "", with_too_many])
def test_what_is_no_agent_is_refused_by_name(obj: object) -> None:
    with pytest.raises(AgentConfigInvalid):
        resolve_agent(obj)


def test_an_answer_that_is_no_answer_is_an_error_of_the_agent() -> None:
    with pytest.raises(AgentError, match="returned int"):
        run(answering(3))


def test_a_lost_session_is_passed_on_as_such() -> None:
    with pytest.raises(AgentSessionLost):
        run(fake_agent(Verdict, AgentSessionLost("gone")))


def test_auto_answers_with_an_example() -> None:
    assert run(fake_agent(Verdict, auto)).output == Verdict(ok=True)
