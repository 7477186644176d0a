"""Redaction: the one place that knows what a credential looks like, and keeps it out of what is stored, logged or sent.

Four rules: values that stand next to a telling name (`authorization`, `token`, `api_key`, `password`, …), values of a
telling shape (`Bearer …`, `sk-…`, web tokens, private keys), the user part of URLs, and secrets that are known, such as the
values of environment variables with telling names. Patterns take time in proportion to the text; `scrub` also bounds that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from typing import Final, cast
from urllib.parse import quote, unquote, unquote_plus

MASK: Final = "[redacted]"
MIN_KNOWN: Final = 4
"""Known secrets that are shorter would be found in every other word."""
MAX_TEXT: Final = 65_536
"""`scrub` cuts what is longer: nobody reads that much of a log line or an error."""
_MARGIN: Final = 8_192
_MAX_DEPTH: Final = 12
_MAX_ITEMS: Final = 1_000

_TELLING: Final = (
    r"(?:authorization|cookies?|passw(?:or)?d|passphrase|secrets?|credentials?|token(?!s|_?count|iz)|bearer"
    r"|(?:api|access|private|secret|signing|encryption|auth|smithers|account|shared|session)[-_ ]?keys?)"
)
_TELLING_NAME: Final = re.compile(_TELLING, re.IGNORECASE)
_PLAIN_NAMES: Final = frozenset({"auth", "pwd", "jwt", "pat", "dsn"})
_HARMLESS_NAME: Final = re.compile(
    r"tokens$|(?:token|secret|credential|key|cookie)s?[-_]?(?:count|limit|type|kind|name|id)$", re.IGNORECASE
)
"""`access_key_id` names a key, it is none; `max_tokens` counts."""

_WORDS: Final = ("authorization", "cookie", "passw", "passphrase", "secret", "credential", "token", "bearer", "key")
"""One of these is in every telling name: where none is, nothing more has to be looked for."""
_QUOTED: Final = r"\\\"(?:[^\"\\\r\n]|\\[^\"])+|\"(?:[^\"\\\r\n]|\\.)+|'(?:[^'\\\r\n]|\\.)+"
_IS: Final = r"\\?[\"']?\s{0,4}(?:[:=]|=>)\s{0,4}"
# The value of a header is the rest of its line; of anything else, a quoted string or all up to the next separator.
_PAIR: Final = re.compile(
    rf"(?:(?:authorization|cookies?){_IS}(?P<line>{_QUOTED}|[^\s\"'][^\r\n]*)"
    rf"|{_TELLING}[\w.\-]{{0,40}}{_IS}(?P<value>{_QUOTED}|[^\s,;&\"'<>]+))",
    re.IGNORECASE,
)
_FLAG: Final = re.compile(rf"{_TELLING}[\w\-]{{0,40}}\s{{1,4}}(?P<value>[^\s\"'-][^\s\"']*)", re.IGNORECASE)
_IN_FLAG: Final = re.compile(r"(?<![\w\-])--?[\w\-]{0,40}$")
_BEFORE_KEY: Final = 11
"""How far before `key` the telling part of a name may begin: `encryption_`."""
_BEARER: Final = re.compile(r"(?P<before>\bbearer\s{1,4})[^\s\"',;<>)}\]]{8,}", re.IGNORECASE)
_SHAPES: Final = re.compile(
    r"\b(?:(?:sk|pk|rk|xox[abeoprs]|gh[pousr]|glpat|whsec)[-_][A-Za-z0-9_*.\-]{8,}"
    r"|github_pat_[A-Za-z0-9_]{8,}|(?:hf|npm)_[A-Za-z0-9]{16,}|A(?:KIA|SIA)[0-9A-Z]{12,}|AIza[A-Za-z0-9_\-]{20,}"
    r"|eyJ[A-Za-z0-9_\-]{8,2000}\.[A-Za-z0-9_\-]{4,}(?:\.[A-Za-z0-9_\-]*)?)"
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[^-]|-(?!----))*(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?",
    re.IGNORECASE,
)
_SIGNS: Final = (
    *(f"{name}{sep}" for name in ("sk", "pk", "rk", "glpat", "whsec", "hf", "npm", "github_pat") for sep in "-_"),
    *("xox", "ghp", "gho", "ghu", "ghs", "ghr", "akia", "asia", "aiza", "eyj", "private key-----"),
)
"""One of these is in every text that `_SHAPES` finds something in."""
_USERINFO: Final = re.compile(r"(?<=://)[^/\s\"'<>?#]*@")
_ENV_NAME: Final = re.compile(r"key|token|secret|passw|credential|auth|cookie|dsn|_pat$|_pwd$", re.IGNORECASE)
_ENV_PLACE: Final = re.compile(r"_(?:sock|file|path|dir|home|name|id|type|host|port)$", re.IGNORECASE)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the given secrets and without what looks like a credential."""
    known = sorted({secret for secret in secrets if len(secret) >= MIN_KNOWN}, key=len, reverse=True)
    for secret in known:
        text = text.replace(secret, MASK)
    lower = text.lower()
    if "://" in text and "@" in text:
        text = _USERINFO.sub(f"{MASK}@", text)
    if any(sign in lower for sign in _SIGNS):
        text = _SHAPES.sub(MASK, text)
    if "bearer" in lower:
        text = _BEARER.sub(rf"\g<before>{MASK}", text)
    return _without_values(text) if any(word in lower for word in _WORDS) else text


def _without_values(text: str) -> str:
    """`text` without what stands beside telling names. Looks only where one of their words is."""
    kept: list[str] = []
    done = 0
    for at in _places(text):
        if at < done:
            continue
        found = _PAIR.match(text, at)
        if found is None and _IN_FLAG.search(text, max(0, at - 43), at):
            found = _FLAG.match(text, at)
        if found is None or found.lastgroup is None:
            continue
        value = found[found.lastgroup]
        opening = value[:2] if value.startswith('\\"') else value[:1] if value[:1] in "\"'" else ""
        kept += (text[done : found.start(found.lastgroup)], opening, MASK)
        done = found.end()
    return "".join((*kept, text[done:]))


def _places(text: str) -> list[int]:
    """Where telling names may begin."""
    lower = text.lower()
    if len(lower) != len(text):  # letters whose small form is longer
        lower = "".join(char.lower() if char.isascii() else char for char in text)
    found: list[int] = []
    for word in _WORDS:
        at = lower.find(word)
        while at >= 0:
            found += range(max(0, at - _BEFORE_KEY), at) if word == "key" else (at,)
            at = lower.find(word, at + len(word))
    return sorted(set(found))


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """`redact` for what is logged or sent: also without the environment's secrets, and cut to `MAX_TEXT` characters."""
    return _cut(text, (*secrets, *_environment_secrets()))


def _cut(text: str, known: tuple[str, ...]) -> str:
    if len(text) <= MAX_TEXT:
        return redact(text, known)
    # a secret that the end cuts through may not be recognised: it goes with the margin
    kept = redact(text[: MAX_TEXT + _MARGIN], known)[:-_MARGIN][:MAX_TEXT]
    return f"{kept}… (cut from {len(text)} characters)"


def scrub_address(address: str) -> str:
    """A path with its query without credentials, however their names and values are encoded: for logs of requests."""
    path, mark, query = address.partition("?")
    return _requoted(path, unquote(path)) + mark + "&".join(map(_shown_part, query[:MAX_TEXT].split("&")))


def _shown_part(part: str) -> str:
    name, _, value = part.partition("=")
    known = unquote_plus(name)
    if value and (is_telling(known) or is_secret_name(known)):
        return f"{_requoted(name, known)}={MASK}"
    return _requoted(part, unquote_plus(part))


def _requoted(text: str, plain: str) -> str:
    kept = scrub(plain)
    return text if kept == plain else quote(kept, safe="/=[]:@")


def scrub_value(value: object, secrets: Iterable[str] = ()) -> object:
    """A JSON value without credentials: all of what stands under a telling name, and `scrub` for every other text."""
    return _scrubbed(value, (*secrets, *_environment_secrets()), 0)


def _scrubbed(value: object, known: tuple[str, ...], depth: int) -> object:
    if isinstance(value, str):
        return _cut(value, known) if value else value
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if depth >= _MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        found: dict[str, object] = {}
        for name, each in islice(cast("Mapping[object, object]", value).items(), _MAX_ITEMS):
            key = str(name)
            is_hidden = is_telling(key) and not (each is None or isinstance(each, bool) or each == "")
            found[_cut(key, known)] = MASK if is_hidden else _scrubbed(each, known, depth + 1)
        return found
    if isinstance(value, (list, tuple)):
        return [_scrubbed(each, known, depth + 1) for each in cast("list[object]", value)[:_MAX_ITEMS]]
    return _cut(str(value), known)


@lru_cache(maxsize=4096)
def is_telling(name: str) -> bool:
    """Whether what is stored under this name is a credential."""
    if name.lower() in _PLAIN_NAMES:
        return True
    return _TELLING_NAME.search(name) is not None and _HARMLESS_NAME.search(name) is None


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a variable or option of this name may hold a credential, to be on the safe side."""
    return _ENV_NAME.search(name) is not None


def is_secret_variable(name: str, value: str) -> bool:
    """Whether an environment variable's value is to be kept out of sight: a telling name, and no place or small word."""
    return len(value) >= 8 and is_secret_name(name) and _ENV_PLACE.search(name) is None


def _environment_secrets() -> tuple[str, ...]:
    from smithers.settings import environment_secrets

    return environment_secrets()
