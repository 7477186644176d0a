"""Tells from an error's text what kind of failure it is: limit used up, set up wrongly, conversation lost, or other.

Only for error channels (stderr, error events, an HTTP error's body): prose about rate limits in a successful answer is
an answer. Patterns have no unbounded repetition, and only the end of a long text is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast
from zoneinfo import ZoneInfo

from smithers.errors import (
    AgentAuthFailed,
    AgentConfigInvalid,
    AgentError,
    AgentQuotaExceeded,
    AgentSessionLost,
    SmithersError,
)
from smithers.observability.redaction import redact

_MAX_SCANNED = 20_000
_MAX_SUMMARY = 500

_QUOTA = re.compile(
    r"""\bhit\ your\b.{0,40}\blimit\b
      | \b(?:usage|quota|rate)[\s_-]?limits?\b.{0,20}\b(?:exceeded|reached|hit)\b
      | \b(?:usage|quota)\b.{0,10}\b(?:exceeded|exhausted|reached)\b
      | \b(?:exceeded|reached)\b.{0,20}\b(?:usage|quota|rate[\s_-]?limit)\b
      | \btoo\ many\ requests\b
      | \b429\b.{0,80}\btry\ again\b
      | \b(?:out_of_credits|usage_limit_reached|insufficient_quota|rate_limit_exceeded|rate_limit_error)\b
      | \brate_limit_event\b.{0,200}\brejected\b""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)

_AUTH = re.compile(
    r"""\b401\b.{0,60}\b(?:unauthori[sz]ed|auth|invalid|key|token|credential)
      | \bunauthori[sz]ed\b.{0,60}\b401\b
      | \b(?:invalid|incorrect|expired|revoked|missing)\b.{0,20}\b(?:api[\s_-]?key|access[\s_-]?token|credentials?)\b
      | \b(?:api[\s_-]?key|token|credentials?)\b.{0,30}\b(?:not\ valid|invalid|expired|revoked)\b
      | \b(?:authentication_error|invalid_api_key)\b
      | \bnot\ logged\ in\b | \bplease\ (?:log\ in|run\ /login)\b""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)

_CONFIG = re.compile(
    r"""\bunknown\ model\b | \bmodel_not_found\b
      | \bmodel\b.{0,60}\b(?:does\ not\ exist|not\ found|is\ not\ supported|not\ available)\b
      | \bLLM\ (?:is\ )?not\ (?:set|supported)\b""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)

_SESSION = re.compile(
    r"""\bno\ (?:conversation|session|thread)\ (?:was\ )?found\b
      | \b(?:conversation|session|thread)\b.{0,80}
        \b(?:not\ found|does\ not\ exist|no\ longer\ exists|has\ expired)\b""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)

_RETRY_AFTER = re.compile(
    r"\b(?:retry[\s-]after|try again in|retry in)[:\s]{1,3}(\d{1,9}(?:\.\d{1,3})?)"
    r"(?:\s?(ms|milliseconds?|s|sec|seconds?|m|min|minutes?|h|hours?)\b)?",
    re.IGNORECASE,
)
_AT_DATE = re.compile(
    r"\btry again (?:at|after) ([A-Z][a-z]{2,8}) (\d{1,2})(?:st|nd|rd|th)?,? (\d{4}),? "
    r"(?:at )?(\d{1,2}):(\d{2}) ?([AP]M)?",
    re.IGNORECASE,
)
_AT_TIME = re.compile(
    r"\bresets?(?: at)? (\d{1,2})(?::(\d{2}))? ?([ap]m)?(?: ?\(([A-Za-z_]{1,30}(?:/[A-Za-z_+\-0-9]{1,30}){0,2})\))?",
    re.IGNORECASE,
)
_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True, slots=True)
class Reset:
    """When a limit ends, as far as the provider said: the instant if it can be told, and the words."""

    at: datetime | None = None
    hint: str | None = None


def classify_failure(text: str, *, now: datetime, details: Mapping[str, object] | None = None) -> AgentError:
    """The typed error for what an error channel said.

    Args:
        text: stderr, an error event's message, or an HTTP error's body.
        now: aware; "resets 1:30am" is counted from here.
        details: go into the error's details.
    """
    seen = text[-_MAX_SCANNED:]
    if quota := _QUOTA.search(seen):
        return quota_exceeded(summarise(_line_of(seen, quota)), find_reset(seen, now), details)
    for pattern, kind in ((_SESSION, AgentSessionLost), (_AUTH, AgentAuthFailed), (_CONFIG, AgentConfigInvalid)):
        if match := pattern.search(seen):
            return kind(summarise(_line_of(seen, match)), details)
    return AgentError(summarise(seen), details)


def classify_exception(
    error: Exception, *, now: datetime, secrets: Iterable[str] = (), details: Mapping[str, object] | None = None
) -> SmithersError:
    """The typed error for an exception that an agent or its client library raised.

    Understands the `status_code`, `retry_after` and `headers` that client libraries put on their exceptions.
    """
    if isinstance(error, SmithersError):
        return error
    text = redact(str(error), secrets) or type(error).__name__
    status = getattr(error, "status_code", None)
    if status == 429 or status == 402:
        return quota_exceeded(summarise(text), _reset_of(error, text, now), details)
    if status == 401 or status == 403:
        return AgentAuthFailed(summarise(text), details)
    if status == 404:
        return AgentConfigInvalid(summarise(text), details)
    if isinstance(status, int):
        return AgentError(summarise(text), details)
    return classify_failure(f"{type(error).__name__}: {text}", now=now, details=details)


def cause_of(error: Exception, secrets: Iterable[str] = ()) -> Exception | None:
    """`error` as the cause to keep, or None if its text shows a credential: causes are stored with their text."""
    seen: BaseException | None = error
    while seen is not None:
        if redact(str(seen), secrets) != str(seen):
            return None
        seen = seen.__cause__ or seen.__context__
    return error


def _reset_of(error: Exception, text: str, now: datetime) -> Reset:
    wait: object = getattr(error, "retry_after", None)
    headers: object = getattr(error, "headers", None)
    if wait is None and isinstance(headers, Mapping):
        named = {str(key).lower(): value for key, value in cast("Mapping[object, object]", headers).items()}
        wait = named.get("retry-after")
    try:
        seconds = float(wait) if isinstance(wait, int | float | str) else None
        if seconds is not None and seconds >= 0:
            return Reset(now + timedelta(seconds=seconds), f"retry after {seconds:g} seconds")
    except (ValueError, OverflowError):  # not a number of seconds
        pass
    return find_reset(text, now)


def is_limit_banner(answer: str) -> bool:
    """Whether a whole answer is nothing but a provider's notice that a limit is used up."""
    stripped = answer.strip()
    return 0 < len(stripped) <= 300 and "\n" not in stripped and _QUOTA.match(_without_subject(stripped)) is not None


def quota_exceeded(summary: str, reset: Reset, details: Mapping[str, object] | None = None) -> AgentQuotaExceeded:
    """The error for a used-up limit, with `quotaResetAtMs` and `resetHint` where they are known."""
    known: dict[str, object] = {**(details or {})}
    if reset.at is not None:
        known["quotaResetAtMs"] = int(reset.at.timestamp() * 1000)
    if reset.hint is not None:
        known["resetHint"] = reset.hint
    return AgentQuotaExceeded(summary, known)


def find_reset(text: str, now: datetime) -> Reset:
    """When the limit that `text` tells of ends; an empty `Reset` if it does not say. Never raises."""
    for pattern, read in ((_AT_DATE, _from_date), (_RETRY_AFTER, _from_delay), (_AT_TIME, _from_time_of_day)):
        if match := pattern.search(text[-_MAX_SCANNED:]):
            try:
                return Reset(read(match, now), match.group(0).strip())
            except (ValueError, KeyError, OverflowError, OSError):  # a date, zone or delay that does not exist
                return Reset(None, match.group(0).strip())
    return Reset()


def summarise(text: str) -> str:
    """The end of an error text, short enough for a sentence and without credentials."""
    flat = " ".join(redact(text)[-4 * _MAX_SUMMARY :].split())
    return flat if len(flat) <= _MAX_SUMMARY else f"…{flat[-_MAX_SUMMARY:]}"


def _line_of(text: str, match: re.Match[str]) -> str:
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.end())
    return text[start : end if end >= 0 else len(text)]


def _without_subject(banner: str) -> str:
    lowered = banner.lower()
    for subject in ("error: ", "claude ai ", "you've ", "you’ve ", "you have ", "api error: "):
        if lowered.startswith(subject):
            return banner[len(subject) :]
    return banner


def _from_date(match: re.Match[str], now: datetime) -> datetime:
    month, day, year, hour, minute, half = match.groups()
    return datetime(
        int(year), _MONTHS.index(month[:3].lower()) + 1, int(day), _hour(int(hour), half), int(minute), tzinfo=UTC
    )


def _from_delay(match: re.Match[str], now: datetime) -> datetime:
    unit = (match.group(2) or "s").lower()
    return now + float(match.group(1)) * _UNITS["ms" if unit.startswith(("ms", "milli")) else unit[0]]


def _from_time_of_day(match: re.Match[str], now: datetime) -> datetime:
    hour, minute, half, zone = match.groups()
    if minute is None and half is None:
        raise ValueError("a bare number is no time of day")
    local = now.astimezone(ZoneInfo(zone) if zone else UTC)
    at = local.replace(hour=_hour(int(hour), half), minute=int(minute or 0), second=0, microsecond=0)
    return (at if at > local else at + timedelta(days=1)).astimezone(UTC)


def _hour(hour: int, half: str | None) -> int:
    if half is None:
        return hour
    if not 1 <= hour <= 12:
        raise ValueError("no such hour")
    return hour % 12 + (12 if half.lower() == "pm" else 0)
