"""Hand-off: the page that puts a session into a browser and goes on to where the person wanted to be. Pure."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from smithers.gateway.problems import API_VERSION

HOME: Final = "/"
MAX_NEXT: Final = 2_048


@dataclass(frozen=True, slots=True)
class HandOff:
    """An answer with status 200.

    Attributes:
        headers: those that this page needs beside the content type and `Cache-Control: no-store`.
    """

    html: str
    headers: list[tuple[str, str]]


def safe_next(wanted: str | None) -> str:
    """Where to go on to: a path of this Gateway as it was asked for, or `/`."""
    if wanted is None or len(wanted) > MAX_NEXT or not wanted.startswith("/"):
        return HOME
    # Browsers drop tabs and line breaks, and take a backslash for a slash, before they look where a path leads.
    if "\\" in wanted or not wanted.isprintable():
        return HOME
    # A host follows two slashes. Escaped ones are only a path, but proxies in between may undo the escapes.
    path = unquote(wanted.partition("?")[0].partition("#")[0])
    if path[1:2] in ("/", "\\") or not path.isprintable():
        return HOME
    return wanted


def cookie_header(name: str, session_id: str, *, is_secure: bool) -> tuple[str, str]:
    """The header that sets the session cookie."""
    return "set-cookie", f"{name}={session_id}; HttpOnly; Path=/; SameSite=Lax{'; Secure' if is_secure else ''}"


def page(target: str, *, cookie: tuple[str, str] | None) -> HandOff:
    """The page that goes on to a path from `safe_next`."""
    literal = json.dumps(target)  # ASCII; what could end the script element is escaped below
    for character in "<>&":
        literal = literal.replace(character, f"\\u{ord(character):04x}")
    script = f"location.replace({literal})"
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    link = html.escape(target, quote=True)
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Smithers</title>'
        f'<meta http-equiv="refresh" content="0;url={link}"><script>{script}</script></head>'
        f'<body><p><a href="{link}">Continue</a></p></body></html>'
    )
    headers = [
        ("x-content-type-options", "nosniff"),
        ("x-smithers-api-version", API_VERSION),
        ("referrer-policy", "no-referrer"),  # the address of this page may hold the bearer
        (
            "content-security-policy",
            f"default-src 'none'; script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'",
        ),
    ]
    if cookie is not None:
        headers.append(cookie)
    return HandOff(text, headers)
