"""Telling failures apart by what an error channel says."""

from __future__ import annotations

from datetime import UTC, datetime
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smithers.agents.classify import cause_of, classify_exception, classify_failure, find_reset, is_limit_banner
from smithers.errors import (
    AgentAuthFailed,
    AgentConfigInvalid,
    AgentError,
    AgentQuotaExceeded,
    AgentSessionLost,
)
from smithers.observability.redaction import redact

NOW = datetime(2026, 6, 10, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("You've hit your usage limit.", AgentQuotaExceeded),
        ("Error: rate limit exceeded, slow down", AgentQuotaExceeded),
        ("usage limit reached", AgentQuotaExceeded),
        ("You exceeded your current quota", AgentQuotaExceeded),
        ("HTTP 429: try again later", AgentQuotaExceeded),
        ("Too Many Requests", AgentQuotaExceeded),
        ("code: out_of_credits", AgentQuotaExceeded),
        ('rate_limit_event {"status": "rejected"}', AgentQuotaExceeded),
        ("401 Unauthorized: invalid authentication", AgentAuthFailed),
        ("Your API key is invalid", AgentAuthFailed),
        ("Invalid API key", AgentAuthFailed),
        ("OAuth token revoked", AgentAuthFailed),
        ("unknown model: gpt-0", AgentConfigInvalid),
        ("The model `x` does not exist", AgentConfigInvalid),
        ("LLM not set", AgentConfigInvalid),
        ("No conversation found with session ID 12", AgentSessionLost),
        ("segmentation fault", AgentError),
        ("file limits.txt not found", AgentError),
    ],
)
def test_an_error_text_gets_its_kind(text: str, kind: type[AgentError]) -> None:
    assert type(classify_failure(text, now=NOW)) is kind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("try again at Jun 18th, 2026 9:54 AM", datetime(2026, 6, 18, 9, 54, tzinfo=UTC)),
        ("resets 1:30am (America/New_York)", datetime(2026, 6, 11, 5, 30, tzinfo=UTC)),
        ("limit reached, resets at 3pm", datetime(2026, 6, 10, 15, 0, tzinfo=UTC)),
        ("resets 11am", datetime(2026, 6, 11, 11, 0, tzinfo=UTC)),
        ("retry after 90 seconds", datetime(2026, 6, 10, 12, 1, 30, tzinfo=UTC)),
        ("Please try again in 20s", datetime(2026, 6, 10, 12, 0, 20, tzinfo=UTC)),
        ("try again in 500ms", datetime(2026, 6, 10, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("retry-after: 2 hours", datetime(2026, 6, 10, 14, 0, tzinfo=UTC)),
        ("resets 1:30am (Mars/Olympus)", None),
        ("try again at Jun 99th, 2026 9:54 AM", None),
        ("later", None),
        ("retry after 999999999 hours", None),
    ],
)
def test_the_end_of_a_limit_is_read_where_it_is_told(text: str, expected: datetime | None) -> None:
    assert find_reset(text, NOW).at == expected


def test_a_reset_that_cannot_be_dated_is_kept_as_hint() -> None:
    error = classify_failure("usage limit reached, resets 1:30am (Mars/Olympus)", now=NOW)
    assert error.details == {"resetHint": "resets 1:30am (Mars/Olympus)"}


class Http(Exception):
    def __init__(self, status: int, headers: dict[str, str] | None = None, text: str = "no") -> None:
        super().__init__(text)
        self.status_code = status
        self.headers = headers or {}


@pytest.mark.parametrize(
    ("status", "kind"), [(429, AgentQuotaExceeded), (401, AgentAuthFailed), (403, AgentAuthFailed), (500, AgentError)]
)
def test_a_client_librarys_status_code_decides(status: int, kind: type[AgentError]) -> None:
    assert type(classify_exception(Http(status), now=NOW)) is kind


def test_retry_after_of_a_response_is_the_reset() -> None:
    error = classify_exception(Http(429, {"Retry-After": "30"}), now=NOW)
    assert error.details["quotaResetAtMs"] == int(NOW.timestamp() * 1000) + 30_000


@pytest.mark.parametrize("value", ["nan", "inf", "-5", "1e300", "soon"])
def test_a_nonsensical_retry_after_is_no_reset(value: str) -> None:
    error = classify_exception(Http(429, {"Retry-After": value}), now=NOW)
    assert isinstance(error, AgentQuotaExceeded)
    assert "quotaResetAtMs" not in error.details


def test_credentials_do_not_get_into_errors() -> None:
    error = Http(401, text="Incorrect key sk-abcdefgh12345678; Authorization: Bearer abc.def.ghi; password hunter22")
    typed = classify_exception(error, now=NOW, secrets=["hunter22"])
    assert "sk-abc" not in str(typed)
    assert "abc.def" not in str(typed)
    assert "hunter22" not in str(typed)
    assert cause_of(error) is None
    assert cause_of(ValueError("plain")) is not None


def test_only_a_bare_notice_counts_as_banner() -> None:
    assert is_limit_banner("You've hit your usage limit. Try again in 5 minutes.")
    assert not is_limit_banner("The service should answer 429 when the rate limit is exceeded.")
    assert not is_limit_banner('{"note": "rate limit exceeded"}')
    assert not is_limit_banner("")


@given(st.text(max_size=400))
def test_any_text_can_be_classified(text: str) -> None:
    assert classify_failure(text, now=NOW).summary is not None
    find_reset(text, NOW)
    redact(text)


@pytest.mark.parametrize("unit", ["hit your ", "429 ", "token ", "retry after ", "a", " ", "model ", "sk-", "bearer "])
def test_long_texts_are_classified_quickly(unit: str) -> None:
    begin = thread_time()
    classify_failure(unit * 200_000, now=NOW)
    assert thread_time() - begin < 5
