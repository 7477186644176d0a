"""Task: a leaf that does work, and what all leaves share (dependencies, retries, timeouts, failure handling)."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from types import FunctionType
from typing import ClassVar, Literal, Self, cast

from smithers.components.checks import (
    checked_choice,
    checked_count,
    checked_flag,
    checked_id,
    checked_mapping,
    checked_names,
    checked_record,
    refused_coroutine,
    shown,
    snapshot,
)
from smithers.components.element import Children, Element, ElementType, sole
from smithers.components.outputs import OutputLike
from smithers.components.placement import checked_executor, checked_resources
from smithers.errors import AuthoringError, InvalidElement, TaskIdRequired, TaskMissingOutput
from smithers.errors.base import storable
from smithers.records import dataclass

MAX_BACKOFF_MS = 300_000
"""Longest delay between two attempts, in milliseconds."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait between attempts.

    Args:
        backoff: `fixed` waits d, `linear` d x failures, `exponential` d x 2^(failures-1); never above 5 minutes.
        initial_delay_ms: d, in milliseconds.
        jitter: wait a random part of the delay (full jitter), so that many failures do not come back at once.
    """

    backoff: Literal["fixed", "linear", "exponential"] = "fixed"
    initial_delay_ms: int = 0
    jitter: bool = False

    def __post_init__(self) -> None:
        checked_choice("RetryPolicy", "backoff", self.backoff, ("fixed", "linear", "exponential"))
        checked_count("RetryPolicy", "initial_delay_ms", self.initial_delay_ms, least=0)


DEFAULT_POLICY = RetryPolicy("exponential", 1000, jitter=True)
"""What a task without a policy of its own gets."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """When a task's result may be reused instead of running it.

    Args:
        by: a JSON value or a function of the render's context that gives one; a change is a miss.
        version: part of the key; change it to forget older results.
        key: replaces the node id in the key, so that several tasks share results.
        ttl_ms: age in milliseconds after which a result is not used any more.
        scope: `run`, `workflow` (default) or `global`.
    """

    by: object = None
    version: str | None = None
    key: str | None = None
    ttl_ms: int | None = None
    scope: Literal["run", "workflow", "global"] = "workflow"

    def __post_init__(self) -> None:
        checked_choice("CachePolicy", "scope", self.scope, ("run", "workflow", "global"))
        if self.ttl_ms is not None:
            checked_count("CachePolicy", "ttl_ms", self.ttl_ms, least=0)


@dataclass(frozen=True, slots=True)
class SideEffect:
    """What a task changes outside, for those who change a run's history afterwards (rewind, retry, fork).

    Args:
        idempotent: doing it twice comes to the same as doing it once.
        accepts_idempotency_key: the work hands `task_runtime().idempotency_key()` on, so a repetition is noticed at the
            other end. False: before another attempt of work that is not idempotent, `unsafe_replay` says what happens.
        revert: an async function of a `RevertContext` that undoes it; its `output` is the task's row. Raising leaves the
            effect standing.
    """

    idempotent: bool = False
    revert: Callable[..., Awaitable[None]] | None = None
    accepts_idempotency_key: bool = True

    def __post_init__(self) -> None:
        if self.revert is not None and not callable(self.revert):
            raise InvalidElement(f"SideEffect: revert must be a function, not {shown(self.revert)}")


class Leaf(Element):
    """What every element that finishes by itself has in common. Not used directly."""

    id: str = ""
    output: OutputLike | None = None
    label: str | None = None
    meta: Mapping[str, object] | None = None
    depends_on: tuple[str, ...] = ()
    needs: Mapping[str, str] | None = None
    retries: int | None = None
    retry_policy: RetryPolicy | None = None
    timeout_ms: int | None = None
    heartbeat_timeout_ms: int | None = None
    continue_on_fail: bool = False
    failure_policy: str | None = None
    priority: int | None = None
    cache: CachePolicy | bool | None = None
    side_effect: SideEffect | None = None
    wait_async: bool = False

    def _leaf(
        self,
        id: str,
        *,
        output: OutputLike | None = None,
        key: str | None = None,
        label: str | None = None,
        meta: Mapping[str, object] | None = None,
        skip_if: object = False,
        depends_on: Iterable[str] = (),
        needs: Mapping[str, str] | None = None,
        continue_on_fail: bool = False,
        timeout_ms: int | None = None,
        failure_policy: str | None = None,
        priority: int | None = None,
        wait_async: bool = False,
    ) -> str:
        """Set what leaves share. Returns how messages call this leaf."""
        name = type(self).__name__
        given = cast(object, id)
        if not isinstance(given, str) or not given:
            raise TaskIdRequired(f"{name} needs a non-empty string id, not {shown(given)}", {"component": name})
        d = vars(self)
        d["id"] = checked_id(name, id)
        where = f"{name} {id!r}"
        if output is not None:
            d["output"] = output
        if key is not None:
            d["key"] = str(key)
        if label is not None:
            d["label"] = storable(str(label))
        if meta is not None:
            d["meta"] = checked_mapping(where, "meta", meta)
        if skip_if is not False and checked_flag(where, "skip_if", skip_if):
            d["skip_if"] = True
        if depends_on != ():
            d["depends_on"] = checked_names(where, "depends_on", depends_on)
        if needs is not None:
            d["needs"] = checked_mapping(where, "needs", needs)
            checked_names(where, "needs", d["needs"].values())
        if continue_on_fail:
            d["continue_on_fail"] = checked_flag(where, "continue_on_fail", continue_on_fail)
        if timeout_ms is not None:
            d["timeout_ms"] = checked_count(where, "timeout_ms", timeout_ms, least=1)
        if failure_policy is not None:
            d["failure_policy"] = checked_choice(where, "failure_policy", failure_policy, ("halt", "quarantine"))
        if priority is not None:
            d["priority"] = checked_count(where, "priority", priority)
        if wait_async:
            d["wait_async"] = checked_flag(where, "wait_async", wait_async)
        return where

    def _attempts(
        self,
        where: str,
        retries: int | None,
        retry_policy: RetryPolicy | Mapping[str, object] | None,
        heartbeat_timeout_ms: int | None = None,
        cache: CachePolicy | Mapping[str, object] | bool | None = None,
    ) -> None:
        """Set what leaves share that are run in attempts."""
        d = vars(self)
        if retries is not None:
            d["retries"] = checked_count(where, "retries", retries, least=0)
        if retry_policy is not None:
            d["retry_policy"] = checked_record(where, "retry_policy", RetryPolicy, retry_policy)
        if heartbeat_timeout_ms is not None:
            d["heartbeat_timeout_ms"] = checked_count(where, "heartbeat_timeout_ms", heartbeat_timeout_ms, least=1)
        if cache is not None:
            d["cache"] = cache if isinstance(cache, bool) else checked_record(where, "cache", CachePolicy, cache)

    def _required(self, output: OutputLike | None, where: str) -> None:
        if output is None:
            raise TaskMissingOutput(f"{where} names no output", {"nodeId": self.id})

    @classmethod
    def _bad_call(cls, args: tuple[object, ...], properties: Mapping[str, object], error: TypeError) -> AuthoringError:
        name = cls.__name__
        if not args and "id" not in properties:
            return TaskIdRequired(f"{name} needs an id", {"component": name})
        known = inspect.signature(cls.__init__).parameters
        if len(args) <= 1 and properties.keys() <= known.keys():
            for field in ("output", "schema"):
                if field in known and known[field].default is inspect.Parameter.empty and field not in properties:
                    id = args[0] if args else properties["id"]
                    return TaskMissingOutput(f"{name} {shown(id)} names no {field}", {"component": name})
        return super()._bad_call(args, properties, error)


class Task(Leaf):
    """A unit of work whose validated result is committed once and never computed again.

    The child is the work: with an agent it is the prompt (a string, or a function of the dependencies); without one a
    callable (sync or async) is computed in the attempt, and anything else is the static result. A callable gets its
    dependencies by parameter name, or all of them as a mapping in its only parameter.

    Args:
        id: unique in the tree, stable across renders and restarts.
        output: the model, `outputs.<key>` or key whose table takes the result.
        agent: an agent, or a list of them to fall back on in order.
        fallback_agent: one more agent at the end of that list.
        skip_if: do not run; the task counts as done and has no output.
        needs_approval: a person must agree before it runs; a string or mapping gives the request's title or fields.
        depends_on: ids that must be done before.
        needs: parameter name to node id; orders, and hands the row to a callable child.
        deps: parameter name to output; the same with the type checked; the node id is the name unless `needs` maps it.
        deps_optional: run although dependencies have no row (for tasks that may fail or be skipped).
        retries: extra attempts. Default: 3 for agents, 0 otherwise.
        timeout_ms: longest time of one attempt, in milliseconds.
        heartbeat_timeout_ms: longest silence of one attempt, in milliseconds.
        continue_on_fail: a final failure counts as done.
        failure_policy: `quarantine` fails this task alone and skips what depends on it.
        priority: higher goes first among tasks that wait for room.
        cache: reuse an earlier result; see `CachePolicy`.
        max_schema_retries: correction turns of an agent within one attempt.
        fork: go on from a copy of the conversation of the task with this id.
        allow_tools: tool names that a command-line agent may use.
        side_effect: it changes something outside, other than through tools; see `SideEffect`.
        unsafe_replay: what happens before another attempt when an earlier one may have had effects that must not be repeated
            and that nobody could notice to be repeated: `ask` a person, `allow` it, or `fail` for good.
        executor: where a callable is computed: `local`, in this process, or `ray`; that of the `Workflow` by default.
        resources: what it takes up there: `num_cpus`, `num_gpus`, `memory` in bytes, or names of the cluster's own.
    """

    tag: ClassVar[str] = "smithers:task"
    agent: object = None
    output_schema: type | None = None
    needs_approval: object = False
    deps: Mapping[str, OutputLike] | None = None
    deps_optional: bool = False
    max_schema_retries: int = 3
    fork: str | None = None
    allow_tools: tuple[str, ...] | None = None
    unsafe_replay: str = "ask"
    executor: str | None = None
    resources: Mapping[str, float] | None = None
    child: object = None

    def __init__(
        self,
        id: str,
        *,
        output: OutputLike,
        output_schema: type | None = None,
        agent: object = None,
        fallback_agent: object = None,
        skip_if: object = False,
        needs_approval: bool | str | Mapping[str, object] = False,
        wait_async: bool = False,
        depends_on: Iterable[str] = (),
        needs: Mapping[str, str] | None = None,
        deps: Mapping[str, OutputLike] | None = None,
        deps_optional: bool = False,
        retries: int | None = None,
        no_retry: bool = False,
        retry_policy: RetryPolicy | Mapping[str, object] | None = None,
        timeout_ms: int | None = None,
        heartbeat_timeout_ms: int | None = None,
        continue_on_fail: bool = False,
        failure_policy: Literal["halt", "quarantine"] | None = None,
        priority: int | None = None,
        cache: CachePolicy | Mapping[str, object] | bool | None = None,
        max_schema_retries: int = 3,
        fork: str | None = None,
        allow_tools: Iterable[str] | None = None,
        side_effect: SideEffect | Mapping[str, object] | bool = False,
        unsafe_replay: Literal["ask", "allow", "fail"] = "ask",
        executor: Literal["local", "ray"] | None = None,
        resources: Mapping[str, float] | None = None,
        key: str | None = None,
        label: str | None = None,
        meta: Mapping[str, object] | None = None,
    ) -> None:
        where = self._leaf(
            id,
            output=output,
            key=key,
            label=label,
            meta=meta,
            skip_if=skip_if,
            depends_on=depends_on,
            needs=needs,
            continue_on_fail=continue_on_fail,
            timeout_ms=timeout_ms,
            failure_policy=failure_policy,
            priority=priority,
            wait_async=wait_async,
        )
        self._required(output, where)
        self._attempts(where, 0 if no_retry else retries, retry_policy, heartbeat_timeout_ms, cache)
        d = vars(self)
        if output_schema is not None:
            d["output_schema"] = output_schema
        if agent is not None or fallback_agent is not None:
            d["agent"] = _chain(where, agent, fallback_agent)
        if needs_approval:
            d["needs_approval"] = snapshot(where, "needs_approval", needs_approval)
        if deps is not None:
            d["deps"] = checked_mapping(where, "deps", deps)
        if deps_optional:
            d["deps_optional"] = checked_flag(where, "deps_optional", deps_optional)
        if max_schema_retries != 3:
            d["max_schema_retries"] = checked_count(where, "max_schema_retries", max_schema_retries, least=0)
        if fork is not None:
            d["fork"] = checked_id(f"{where}: fork", fork)
        if allow_tools is not None:
            d["allow_tools"] = checked_names(where, "allow_tools", allow_tools)
        if side_effect is not False:
            given = SideEffect() if side_effect is True else side_effect
            d["side_effect"] = checked_record(where, "side_effect", SideEffect, given)
        if unsafe_replay != "ask":
            d["unsafe_replay"] = checked_choice(where, "unsafe_replay", unsafe_replay, ("ask", "allow", "fail"))
        if executor is not None:
            d["executor"] = checked_executor(where, executor)
        if resources is not None:
            d["resources"] = checked_resources(where, resources)

    def __getitem__(self, children: Children) -> Self:
        """This task with this work: a prompt, a callable, or a static value."""
        child = sole(children)
        return self._replace(child=child if isinstance(child, str) else _work(self, child))


def _chain(where: str, agent: object, fallback: object) -> tuple[object, ...]:
    first = cast("list[object]", agent) if isinstance(agent, (list, tuple)) else [agent]
    chain = tuple(one for one in [*first, fallback] if one is not None)
    if not chain:
        raise InvalidElement(f"{where}: agent is an empty list")
    return chain


def _work(task: Task, child: object) -> object:
    """The child of a task, as far as it can be told that it is work. Containers are copied."""
    if type(child) in _PLAIN:
        return child
    for part in cast("list[object]", child) if type(child) in (list, tuple) else [child]:
        if isinstance(part, (Element, ElementType)):
            raise InvalidElement(f"{task!r} holds {part!r}; a task's child is its work, not another element")
        kind = type(part).__name__
        if isinstance(part, Iterator) or refused_coroutine(part):
            raise InvalidElement(f"{task!r} holds a {kind}; give it the function itself, without calling it")
    return snapshot(repr(task), "the child", child)


# What needs no look: text, numbers and functions, which is what nearly all tasks hold.
_PLAIN = frozenset({str, int, float, bool, type(None), FunctionType})


def agent_chain(agent: object) -> Seq[object]:
    """The agents of a task in the order in which they are tried."""
    return cast("tuple[object, ...]", agent) if isinstance(agent, tuple) else (agent,)
