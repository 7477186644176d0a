"""Gates: where a person decides. Approval and HumanTask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import ClassVar, Literal, Self, cast

from smithers.components.checks import (
    checked_choice,
    checked_count,
    checked_flag,
    checked_mapping,
    checked_names,
    checked_record,
    is_list,
    shown,
)
from smithers.components.element import Children, Element, flatten, sole
from smithers.components.outputs import OutputLike
from smithers.components.task import Leaf
from smithers.errors import ApprovalOptionsRequired, InvalidElement, TaskEmptyPrompt
from smithers.errors.base import storable
from smithers.records import dataclass


@dataclass(frozen=True, slots=True)
class AutoApprove:
    """When an approval needs nobody.

    Args:
        after: so many consecutive manual approvals of the same node in earlier runs; 0 approves at once.
        condition: must be true (a value, or a function without parameters).
        revert_on: asks a person after all when true.
        audit: keep an approval row and event.
    """

    after: int = 0
    condition: object = None
    revert_on: object = None
    audit: bool = True

    def __post_init__(self) -> None:
        checked_count("AutoApprove", "after", self.after, least=0)


class Approval(Leaf):
    """Waits for a decision and writes it as a row.

    Rows: `approve` writes `{approved, note, decided_by, decided_at}`, `select` `{selected, notes}`, `rank`
    `{ranked, notes}`. Children are mounted only once it is approved; a string child is the title.

    Args:
        request: `{title, summary, metadata}`, what the person sees.
        mode: `approve`, `select` one of the options, or `rank` them all.
        options: for select and rank: `[{key, label, summary?, metadata?}]`.
        on_deny: `fail` fails the run; `continue` writes a row with `approved=False`; `skip` writes no row and skips
            the children and whatever depends on this node.
        allowed_scopes: the decider needs one of these scopes.
        allowed_users: the decider must be one of these users.
        auto_approve: see `AutoApprove`; True approves at once.
        timeout_ms: longest wait, in milliseconds; then the node fails.
        wait_async: later siblings of a Sequence go on while this waits.
    """

    tag: ClassVar[str] = "smithers:approval"
    request: Mapping[str, object] = MappingProxyType({})
    mode: str = "approve"
    options: tuple[Mapping[str, object], ...] = ()
    on_deny: str = "fail"
    allowed_scopes: tuple[str, ...] = ()
    allowed_users: tuple[str, ...] = ()
    auto_approve: AutoApprove | None = None
    output_schema: type | None = None

    def __init__(
        self,
        id: str,
        *,
        output: OutputLike,
        request: Mapping[str, object] | None = None,
        mode: Literal["approve", "select", "rank"] = "approve",
        options: Iterable[Mapping[str, object]] = (),
        on_deny: Literal["fail", "continue", "skip"] = "fail",
        allowed_scopes: Iterable[str] = (),
        allowed_users: Iterable[str] = (),
        auto_approve: AutoApprove | Mapping[str, object] | bool | None = None,
        wait_async: bool = False,
        output_schema: type | None = None,
        timeout_ms: int | None = None,
        skip_if: object = False,
        depends_on: Iterable[str] = (),
        needs: Mapping[str, str] | None = None,
        continue_on_fail: bool = False,
        failure_policy: Literal["halt", "quarantine"] | None = None,
        priority: int | None = None,
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
            timeout_ms=timeout_ms,
            continue_on_fail=continue_on_fail,
            failure_policy=failure_policy,
            priority=priority,
            wait_async=wait_async,
        )
        self._required(output, where)
        d = vars(self)
        d["request"] = {} if request is None else checked_mapping(where, "request", request)
        d["mode"] = checked_choice(where, "mode", mode, ("approve", "select", "rank"))
        d["on_deny"] = checked_choice(where, "on_deny", on_deny, ("fail", "continue", "skip"))
        d["options"] = _options(where, mode, options)
        d["allowed_scopes"] = checked_names(where, "allowed_scopes", allowed_scopes)
        d["allowed_users"] = checked_names(where, "allowed_users", allowed_users)
        if output_schema is not None:
            d["output_schema"] = output_schema
        if auto_approve is True:
            d["auto_approve"] = AutoApprove()
        elif auto_approve is not None and auto_approve is not False:
            d["auto_approve"] = checked_record(where, "auto_approve", AutoApprove, auto_approve)

    def __getitem__(self, children: Children) -> Self:
        """This approval with a title (a string) or with children that are mounted once it is approved."""
        title = sole(children)
        if isinstance(title, str):
            return self._replace(request={"title": title, **self.request})
        return self._replace(children=flatten(self, children))


class HumanTask(Leaf):
    """Asks a person for a value that fits the output's model.

    Args:
        prompt: what the person is asked.
        max_attempts: how many answers that do not fit are taken before the node fails.
        timeout_ms: longest wait, in milliseconds; then the node fails.
    """

    tag: ClassVar[str] = "smithers:human"
    prompt: str = ""
    max_attempts: int = 10
    output_schema: type | None = None

    def __init__(
        self,
        id: str,
        *,
        output: OutputLike,
        prompt: str = "",
        max_attempts: int = 10,
        wait_async: bool = False,
        output_schema: type | None = None,
        timeout_ms: int | None = None,
        skip_if: object = False,
        continue_on_fail: bool = False,
        depends_on: Iterable[str] = (),
        needs: Mapping[str, str] | None = None,
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
            timeout_ms=timeout_ms,
            continue_on_fail=continue_on_fail,
            wait_async=wait_async,
        )
        self._required(output, where)
        given = cast(object, prompt)
        if not isinstance(given, str):
            raise TaskEmptyPrompt(f"{where} takes its prompt as a string, not {shown(given)}", {"nodeId": id})
        d = vars(self)
        d["prompt"] = storable(given)
        d["max_attempts"] = checked_count(where, "max_attempts", max_attempts, least=1)
        if output_schema is not None:
            d["output_schema"] = output_schema

    def __getitem__(self, children: Children) -> Self:
        """This task with this prompt."""
        prompt = sole(children)
        if not isinstance(prompt, str) or not prompt.strip():
            raise TaskEmptyPrompt(f"{self!r} takes its prompt as a non-empty string, not {shown(prompt)}")
        return self._replace(prompt=storable(prompt))


def ApprovalGate(
    id: str,
    *,
    output: OutputLike,
    when: bool,
    request: Mapping[str, object] | None = None,
    on_deny: Literal["fail", "continue", "skip"] = "fail",
) -> Element:
    """An Approval when `when` holds; otherwise the same row, written without asking."""
    needs_nobody = not checked_flag(f"ApprovalGate {shown(id)}", "when", when)
    return Approval(id, output=output, request=request, on_deny=on_deny, auto_approve=needs_nobody)


def _options(where: str, mode: str, options: object) -> tuple[Mapping[str, object], ...]:
    if not is_list(options):
        raise InvalidElement(f"{where}: options are a list of mappings, not {shown(options)}")
    found = tuple(checked_mapping(where, "each option", one) for one in options)
    if not found and mode != "approve":
        raise ApprovalOptionsRequired(f"{where}: mode {mode!r} needs options", {"component": "Approval"})
    keys = [option.get("key") for option in found]
    for key in keys:
        if not isinstance(key, str) or not key:
            raise InvalidElement(f"{where}: each option has a non-empty string 'key', not {shown(key)}")
    if len(set(keys)) != len(keys):
        raise InvalidElement(f"{where}: two options share a key")
    return found
