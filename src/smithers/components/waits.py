"""Waits: where a run waits for the world. WaitForEvent, Signal and Timer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import ClassVar, Literal, Self, cast

from pydantic import BaseModel

from smithers.components.checks import MAX_DURATION_MS, checked_choice, checked_flag, shown
from smithers.components.element import Children, Element, ElementType, flatten, sole
from smithers.components.outputs import OutputLike
from smithers.components.task import Leaf
from smithers.errors import InvalidElement

_LONGEST_TEXT = 64
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?)\s*(ms|s|m|h|d)?")


def parse_duration(text: str | float, where: str = "duration") -> int:
    """Milliseconds of `"500ms"`, `"30s"`, `"5m"`, `"2h"`, `"1d"` or a bare number of milliseconds.

    Raises `InvalidElement` naming `where` for anything else, below zero, or above 100 years.
    """
    given: object = text
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        number = given
    else:
        parts = _DURATION.fullmatch(given.strip()) if isinstance(given, str) and len(given) <= _LONGEST_TEXT else None
        if parts is None:
            raise InvalidElement(f"{where} must be like '500ms', '30s', '5m', '2h' or '1d', not {shown(given)}")
        number = float(parts[1]) * _UNITS[parts[2] or "ms"]
    if not 0 <= number <= MAX_DURATION_MS:
        raise InvalidElement(f"{where} must be between 0 and 100 years, not {shown(given)}")
    return round(number)


class WaitForEvent(Leaf):
    """Waits for a signal and writes its payload as a row.

    A signal matches when its name and its correlation id are equal. Signals are a mailbox: one that came before the
    wait is found; waiters one after another take successive signals; waiters at the same time all get the same one.

    Args:
        event: the signal's name.
        correlation_id: tells signals of one name apart; None matches only signals without one.
        timeout_ms: longest wait, in milliseconds; a durable timer.
        on_timeout: `fail`, `skip` (no row) or `continue` (a row `{kind: "timeout"}`, needs `tagged`).
        tagged: rows are `{kind: "signal", payload}` or `{kind: "timeout"}`.
        wait_async: later siblings of a Sequence go on while this waits.
    """

    tag: ClassVar[str] = "smithers:wait-for-event"
    event: str = ""
    correlation_id: str | None = None
    on_timeout: str = "fail"
    tagged: bool = False
    output_schema: type | None = None

    def __init__(
        self,
        id: str,
        *,
        event: str,
        output: OutputLike,
        correlation_id: str | None = None,
        timeout_ms: int | None = None,
        on_timeout: Literal["fail", "skip", "continue"] = "fail",
        tagged: bool = False,
        wait_async: bool = False,
        output_schema: type | None = None,
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
        given = cast(object, event)
        if not isinstance(given, str) or not given.strip():
            raise InvalidElement(f"{where}: event must be a non-empty string, not {shown(given)}")
        d = vars(self)
        d["event"] = given.strip()
        d["correlation_id"] = correlation(correlation_id)
        d["on_timeout"] = checked_choice(where, "on_timeout", on_timeout, ("fail", "skip", "continue"))
        if on_timeout == "continue" and not tagged:
            raise InvalidElement(f"{where}: on_timeout='continue' writes {{kind: 'timeout'}}, so it needs tagged=True")
        d["tagged"] = checked_flag(where, "tagged", tagged)
        if output_schema is not None:
            d["output_schema"] = output_schema

    def __getitem__(self, children: Children) -> Self:
        raise InvalidElement(f"{self!r} takes no children; Signal does")


class Signal(WaitForEvent):
    """A `WaitForEvent` named after its id, with children that are mounted once the signal is there.

    Args:
        schema: the signal's model; must be a registered output.
    """

    tag: ClassVar[str] = "smithers:wait-for-event"
    then: Callable[..., object] | tuple[Element, ...] = ()

    def __init__(
        self,
        id: str,
        *,
        schema: OutputLike,
        correlation_id: str | None = None,
        timeout_ms: int | None = None,
        on_timeout: Literal["fail", "skip", "continue"] = "fail",
        tagged: bool = False,
        wait_async: bool = False,
        skip_if: object = False,
        continue_on_fail: bool = False,
        depends_on: Iterable[str] = (),
        needs: Mapping[str, str] | None = None,
        key: str | None = None,
        label: str | None = None,
        meta: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(
            id,
            event=id,
            output=schema,
            correlation_id=correlation_id,
            timeout_ms=timeout_ms,
            on_timeout=on_timeout,
            tagged=tagged,
            wait_async=wait_async,
            skip_if=skip_if,
            continue_on_fail=continue_on_fail,
            depends_on=depends_on,
            needs=needs,
            key=key,
            label=label,
            meta=meta,
        )

    def __getitem__(self, children: Children) -> Self:
        """This signal with children, or with a function from the arrived row to children."""
        then = sole(children)
        if callable(then) and not isinstance(then, (Element, ElementType)):
            return self._replace(then=then)
        return self._replace(then=flatten(self, children))

    def mount(self, row: BaseModel) -> tuple[Element, ...]:
        """The children for this arrived row."""
        return flatten(self, self.then(row)) if callable(self.then) else self.then


class Timer(Leaf):
    """Waits for a moment, durably. Has no output.

    Args:
        duration: how long, as `"30s"`, `"5m"`, `"2h"`, `"1d"` or milliseconds; counted once, from the first arrival.
        until: a moment: an aware datetime or ISO text; a past one fires at once.
    """

    tag: ClassVar[str] = "smithers:timer"
    duration_ms: int | None = None
    until: datetime | None = None

    def __init__(
        self,
        id: str,
        *,
        duration: str | float | None = None,
        until: datetime | str | None = None,
        skip_if: object = False,
        depends_on: Iterable[str] = (),
        needs: Mapping[str, str] | None = None,
        key: str | None = None,
        label: str | None = None,
        meta: Mapping[str, object] | None = None,
    ) -> None:
        where = self._leaf(id, key=key, label=label, meta=meta, skip_if=skip_if, depends_on=depends_on, needs=needs)
        if (duration is None) == (until is None):
            raise InvalidElement(f"{where} needs either duration or until")
        d = vars(self)
        if duration is not None:
            d["duration_ms"] = parse_duration(duration, f"{where}: duration")
        else:
            d["until"] = _moment(where, until)

    def __getitem__(self, children: Children) -> Self:
        raise InvalidElement(f"{self!r} takes no children")


def correlation(value: str | None) -> str | None:
    """A correlation id as it is compared: trimmed, blank is None."""
    if value is None:
        return None
    return str(value).strip() or None


def _moment(where: str, until: object) -> datetime:
    try:
        moment = until if isinstance(until, datetime) else datetime.fromisoformat(str(until))
    except ValueError:
        raise InvalidElement(f"{where}: until must be an ISO timestamp, not {shown(until)}") from None
    if moment.tzinfo is None:
        raise InvalidElement(f"{where}: until must name its time zone (for example 2026-01-31T08:00:00+00:00)")
    return moment
