"""Keeps credentials out of what is stored, logged or shown. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "[redacted]"

_LOOKS_SECRET = re.compile(
    r"\b(?:sk|pk|rk|xox[abp]|gh[pousr])[-_][A-Za-z0-9_*.\-]{8,200}|(?<=\bbearer )[^\s\"']{8,2000}", re.IGNORECASE
)
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the given secrets and without what looks like a provider's key."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, MASK)
    return _LOOKS_SECRET.sub(MASK, text)


def is_secret_name(name: str) -> bool:
    """Whether a variable or option of this name holds a credential, to be on the safe side."""
    return _SECRET_NAME.search(name) is not None
