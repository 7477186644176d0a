"""Runs an attempt of an agent task: chooses the agent of a fallback chain, asks it, corrects it, accounts for it.

Rules of a chain: the task's nth failure moves to rung n (clamped to the last). A used-up limit moves on to the next
rung that is not blocked, within the attempt, and costs no retry. Refused credentials leave an agent out for the rest of
the run; an agent that is set up wrongly is left out of the attempt. Retries, backoff and waiting for a limit to end are
the engine's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from smithers.agents import structured
from smithers.agents.calls import AgentCall, AgentResponse, AgentResult, Usage, UsageReport, wall_clock_ms
from smithers.agents.classify import cause_of, classify_exception
from smithers.agents.interface import BoundAgent, TurnFailed
from smithers.agents.resolve import resolve_agent
from smithers.errors import (
    AgentAuthFailed,
    AgentConfigInvalid,
    AgentQuotaExceeded,
    InvalidOutput,
    SmithersError,
)

_MAX_LISTED = 10
_MAX_SHOWN = 2_000


@dataclass(slots=True)
class ChainState:
    """What a run knows of its agents: kept by the engine, one per run, shared by all of its tasks.

    Attributes:
        disabled: agents that are out for the rest of the run, by id, with the reason.
        blocked: agents whose limit is used up, by id, with the end of it in milliseconds since the epoch (None:
            unknown, until `release`).
        checked: agents whose preflight has passed.
    """

    disabled: dict[str, str] = field(default_factory=dict[str, str])
    blocked: dict[str, int | None] = field(default_factory=dict[str, "int | None"])
    checked: set[str] = field(default_factory=set[str])

    def is_blocked(self, agent_id: str, now_ms: int) -> bool:
        """Whether the agent's limit is still used up at `now_ms`."""
        if agent_id not in self.blocked:
            return False
        until = self.blocked[agent_id]
        return until is None or until > now_ms

    def release(self) -> None:
        """Forget all used-up limits: somebody resumed the run by hand."""
        self.blocked.clear()

    def to_json(self) -> dict[str, object]:
        """The part that is worth storing: what is disabled and what is blocked."""
        return {"disabled": dict(self.disabled), "blocked": dict(self.blocked)}

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> ChainState:
        """The state that `to_json` wrote; parts that do not fit are left out."""
        disabled, blocked = stored.get("disabled"), stored.get("blocked")
        state = cls()
        if isinstance(disabled, Mapping):
            state.disabled = {str(k): str(v) for k, v in cast("Mapping[object, object]", disabled).items()}
        if isinstance(blocked, Mapping):
            entries = cast("Mapping[object, object]", blocked).items()
            state.blocked = {str(k): v for k, v in entries if v is None or isinstance(v, int)}
        return state


@dataclass(frozen=True, slots=True)
class Observer:
    """Whom `run_agent` tells what it does.

    Attributes:
        on_start: an agent is about to be asked; the last one told is the one that the attempt's record names.
        on_usage: what a turn used; each turn once, also failed ones, never zero.
        on_messages: the conversation after a turn, in the form of `AgentCall.messages`: stored at once, it lets another
            attempt go on from here after a crash.
    """

    on_start: Callable[[BoundAgent], None] = lambda _agent: None
    on_usage: Callable[[UsageReport], None] = lambda _report: None
    on_messages: Callable[[object], None] = lambda _messages: None


async def run_agent(
    agents: Sequence[object],
    call: AgentCall,
    *,
    failures: int = 0,
    state: ChainState | None = None,
    observer: Observer | None = None,
    now_ms: Callable[[], int] = wall_clock_ms,
) -> AgentResult:
    """Carry out one attempt.

    Args:
        agents: the chain, first choice first; anything that `resolve_agent` takes.
        call: prompt and schema; `prompt` without JSON instructions.
        failures: failed attempts of this task so far that cost a retry.
        state: what the run knows of its agents; changed in place.
        observer: told of agents, usage and conversations.
        now_ms: the time, for the ends of limits.

    Raises:
        AgentQuotaExceeded: every agent that could be asked has used up its limit; details hold `quotaBlockedCount`,
            `blocked` and, where known, `quotaResetAtMs` (the earliest) and `resetHint`.
        AgentConfigInvalid: no agent is left that could be asked.
        InvalidOutput: the answer does not fit after all correction turns; a retry may help.
        AgentError: any other failure; a retry may help.
    """
    chain = resolve_chain(agents)
    attempt = _Attempt(replace(call, now_ms=now_ms), state or ChainState(), observer or Observer())
    first = min(max(failures, 0), len(chain) - 1)
    config_error: SmithersError | None = None
    for agent in [*chain[first:], *chain[:first]]:
        if agent.id in attempt.state.disabled or attempt.state.is_blocked(agent.id, now_ms()):
            continue
        try:
            await attempt.preflight(agent)
            return await attempt.ask(agent)
        except AgentQuotaExceeded as error:
            until = error.details.get("quotaResetAtMs")
            attempt.state.blocked[agent.id] = until if isinstance(until, int) else None
            attempt.quotas[agent.id] = error
        except AgentConfigInvalid as error:
            config_error = error
            if isinstance(error, AgentAuthFailed):
                attempt.state.disabled[agent.id] = error.summary
    raise _nobody_left(chain, attempt.state, now_ms(), attempt.quotas, config_error)


def resolve_chain(agents: Sequence[object]) -> list[BoundAgent]:
    """The agents of a chain; different ones that share a derived id get a number, so that they can be told apart.

    Raises:
        AgentConfigInvalid: the chain is empty, or something in it is no agent.
    """
    if not agents:
        raise AgentConfigInvalid("the task has no agent")
    chain: list[BoundAgent] = []
    owners: dict[str, list[object]] = {}
    for obj in agents:
        bound = resolve_agent(obj)
        same_id = owners.setdefault(bound.id, [])
        if not any(other is obj for other in same_id):
            same_id.append(obj)
        position = next(at for at, other in enumerate(same_id) if other is obj)
        chain.append(bound if position == 0 else replace(bound, id=f"{bound.id}#{position + 1}"))
    return chain


def _nobody_left(
    chain: Sequence[BoundAgent],
    state: ChainState,
    now_ms: int,
    quotas: Mapping[str, AgentQuotaExceeded],
    config_error: SmithersError | None,
) -> SmithersError:
    """The error of an attempt in which no agent answered. A limit met just now counts, even if it has ended since."""
    left = {agent.id: None for agent in chain if agent.id not in state.disabled}
    blocked = {id: state.blocked[id] for id in left if id in quotas or state.is_blocked(id, now_ms)}
    last_quota = list(quotas.values())[-1] if quotas else None
    if blocked:
        known = [until for until in blocked.values() if until is not None]
        details: dict[str, object] = {**(last_quota.details if last_quota else {}), "failure_quota": True}
        details |= {"quotaBlockedCount": len(blocked), "blocked": list(blocked)[:_MAX_LISTED]}
        details.pop("quotaResetAtMs", None)
        if known:
            details["quotaResetAtMs"] = min(known)
        reason = f": {last_quota.summary}" if last_quota else ""
        return _caused(AgentQuotaExceeded(f"the limit of {', '.join(blocked)} is used up{reason}", details), last_quota)
    if config_error is not None:
        return config_error
    reasons = "; ".join(f"{a.id}: {state.disabled.get(a.id, 'not available')}" for a in chain[:_MAX_LISTED])
    return AgentConfigInvalid(f"every agent of the task is disabled for this run: {reasons}")


def _caused(error: SmithersError, cause: BaseException | None) -> SmithersError:
    error.__cause__ = cause
    return error


class _Attempt:
    """One attempt: what it has used, and the turns with one agent."""

    def __init__(self, call: AgentCall, state: ChainState, observer: Observer) -> None:
        self.call = call
        self.state = state
        self.observer = observer
        self.usage = Usage()
        self.quotas: dict[str, AgentQuotaExceeded] = {}

    async def preflight(self, agent: BoundAgent) -> None:
        """Check an agent before its first call in the run; a rejection leaves it out of this attempt."""
        if agent.preflight is None or agent.id in self.state.checked:
            return
        try:
            await agent.preflight(self.call)
        except Exception as error:
            known = classify_exception(error, now=self.call.now(), details=_names(agent))
            if isinstance(known, AgentQuotaExceeded | AgentConfigInvalid):
                raise known from cause_of(error)
            raise AgentConfigInvalid(f"{agent.id} cannot work: {known.summary}", _names(agent)) from cause_of(error)
        self.state.checked.add(agent.id)

    async def ask(self, agent: BoundAgent) -> AgentResult:
        """The first turn and as many correction turns as it takes and may take."""
        call, emit = self.call, self.call.on_event
        self.observer.on_start(agent)
        emit({"type": "started", "engine": agent.engine, "title": agent.id})
        prompt = call.prompt if agent.native else structured.with_instructions(call.prompt, call.output_type)
        turn = replace(call, prompt=prompt, messages=_conversation_for(agent, call))
        for number in itertools.count():
            response = await self._turn(agent, turn)
            verdict = _judge(response, call)
            messages = _wrap(agent, response.messages)
            if messages is not None:
                self.observer.on_messages(messages)
            if isinstance(verdict, structured.Accepted):
                emit({"type": "completed", "engine": agent.engine, "ok": True, "answer": response.text[:_MAX_SHOWN]})
                model = response.model or agent.model
                return AgentResult(
                    verdict.output, response.text, self.usage, model, agent.id, agent.engine, messages, number
                )
            if number >= call.max_schema_retries:
                raise self._failed(agent, _never_fitted(agent, call, verdict, number + 1))
            emit(_correction_event(agent, number + 1, verdict))
            turn = _correction_turn(call, number + 1, response, verdict)
        raise AssertionError("the loop ends by returning or raising")

    async def _turn(self, agent: BoundAgent, turn: AgentCall) -> AgentResponse:
        try:
            response = await agent.ask(turn)
        except TurnFailed as failed:
            self._account(agent, failed.usage, failed.model)
            raise self._failed(agent, failed.error) from failed.__cause__
        except Exception as error:
            known = classify_exception(error, now=self.call.now(), details=_names(agent))
            raise self._failed(agent, known) from (error.__cause__ if known is error else cause_of(error))
        self._account(agent, response.usage, response.model)
        return response

    def _failed(self, agent: BoundAgent, error: SmithersError) -> SmithersError:
        error.details = {**_names(agent), **error.details}
        self.call.on_event({"type": "completed", "engine": agent.engine, "ok": False, "error": error.summary})
        return error

    def _account(self, agent: BoundAgent, usage: Usage, model: str | None) -> None:
        self.usage += usage
        if usage:
            self.observer.on_usage(UsageReport(agent.id, agent.engine, model or agent.model, usage))


def _judge(response: AgentResponse, call: AgentCall) -> structured.Accepted | structured.Rejected:
    if response.problem is not None:
        return structured.Rejected((response.problem,))
    return structured.interpret(call.output_type, output=response.output, text=response.text)


def _never_fitted(agent: BoundAgent, call: AgentCall, verdict: structured.Rejected, turns: int) -> InvalidOutput:
    return InvalidOutput(
        f"{agent.id} gave no answer that fits {call.output_type.__name__} in {turns} turns: {verdict.issues[0]}",
        {"issues": list(verdict.issues), "turns": turns},
    )


def _correction_turn(task: AgentCall, number: int, response: AgentResponse, verdict: structured.Rejected) -> AgentCall:
    shown = response.text or (structured.shown(response.output) if response.output is not None else "")
    prompt = structured.correction_prompt(
        task.output_type,
        verdict.issues,
        task=task.prompt,
        response=shown,
        has_conversation=response.messages is not None,
    )
    return replace(task, prompt=prompt, messages=response.messages, schema_retry=number)


def _correction_event(agent: BoundAgent, number: int, verdict: structured.Rejected) -> dict[str, object]:
    action = {"id": f"schema-{number}", "kind": "warning", "title": "the answer does not fit the schema"}
    return {
        "type": "action",
        "engine": agent.engine,
        "phase": "completed",
        "action": action,
        "message": verdict.issues[0],
        "ok": False,
        "level": "warning",
    }


def _names(agent: BoundAgent) -> dict[str, object]:
    return {"agentId": agent.id, "agentEngine": agent.engine, "agentModel": agent.model}


# ── conversations: stored with the engine that they belong to ──────────────────────────────────────────────────────


def _wrap(agent: BoundAgent, messages: object | None) -> object | None:
    return None if messages is None else {"engine": agent.engine, "messages": messages}


def _conversation_for(agent: BoundAgent, call: AgentCall) -> object | None:
    """The conversation to go on with, if it is one of this agent's engine. Another's cannot be read by it."""
    messages: object = call.messages
    if not isinstance(messages, Mapping):
        return messages
    stored = cast("Mapping[str, object]", messages)
    if "engine" not in stored or "messages" not in stored:
        return stored
    if stored["engine"] == agent.engine:
        return stored["messages"]
    title = f"the conversation of {stored['engine']} cannot be carried over to {agent.engine}"
    action = {"id": "conversation", "kind": "warning", "title": title}
    call.on_event(
        {"type": "action", "engine": agent.engine, "phase": "completed", "action": action, "level": "warning"}
    )
    return None
