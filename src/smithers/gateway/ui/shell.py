"""Shell: the HTML that a page starts from, and the headers that keep it to itself. Pure.

A page's data never becomes markup here: the boot config is JSON in a script whose hash the policy names, everything else is
escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from importlib.resources import files
from typing import Final, Literal, TypeAlias

from pydantic_core import to_json

from smithers.gateway.problems import API_VERSION
from smithers.gateway.ui.paths import ASSETS, CLIENT

Kind: TypeAlias = Literal["gateway", "workflow", "operator"]

GLOBAL: Final = "__SMITHERS_GATEWAY_UI__"
THEMES: Final = ("light", "dark")
_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")


@dataclass(frozen=True, slots=True)
class Page:
    """What a shell is made for.

    Attributes:
        mount_path: where the page is, percent-encoded.
        is_console: whether its script is the built-in one, which needs less than others may.
    """

    kind: Kind
    mount_path: str
    title: str
    is_console: bool
    workflow_key: str | None = None
    props: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def asset_base(self) -> str:
        """Where its script is."""
        return f"{self.mount_path.rstrip('/')}/{ASSETS}/"


def boot_config(page: Page) -> dict[str, object]:
    """What the script finds in the global `__SMITHERS_GATEWAY_UI__`."""
    return {
        "apiVersion": API_VERSION,
        "kind": page.kind,
        "workflowKey": page.workflow_key,
        "mountPath": page.mount_path,
        "rpcPath": "/v1/rpc",
        "wsPath": "/",
        "assetBasePath": page.asset_base,
        "props": dict(page.props),
    }


def render(page: Page, theme: str | None, ancestors: Iterable[str] = ()) -> tuple[str, dict[str, str]]:
    """The page and its headers.

    Args:
        theme: `light` or `dark` instead of what the browser prefers; anything else is ignored.
        ancestors: origins that may embed the page, beside its own.
    """
    boot = to_json(boot_config(page)).decode()
    for sign in "<>&\u2028\u2029":
        boot = boot.replace(sign, f"\\u{ord(sign):04x}")
    script = f"globalThis.{GLOBAL}={boot};"
    styles = [asset("theme.css"), *([asset("console.css")] if page.is_console else [])]
    chosen = f' data-theme="{theme}"' if theme in THEMES else ""
    text = (
        f'<!doctype html><html lang="en"{chosen}><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{escape(page.title)}</title><link rel="icon" href="data:,">'
        + "".join(f"<style>{style}</style>" for style in styles)
        + f'<script>{script}</script><script type="module" src="{escape(page.asset_base + CLIENT)}"></script>'
        '</head><body><div id="root"></div><noscript>This page needs JavaScript.</noscript></body></html>'
    )
    return text, {
        "cache-control": "no-store",
        "content-security-policy": _policy(script, styles, page.is_console, ancestors),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "x-smithers-api-version": API_VERSION,
    }


def _policy(script: str, styles: Iterable[str], is_console: bool, ancestors: Iterable[str]) -> str:
    embedders = " ".join(["'self'", *sorted({origin for origin in ancestors if _ORIGIN.fullmatch(origin)})])
    rules = [
        "default-src 'none'",
        f"script-src 'self' {_hash(script)}",
        "connect-src 'self'",  # also WebSockets to this host
        f"frame-ancestors {embedders}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if is_console:
        rules += [
            f"style-src {' '.join(map(_hash, styles))}",
            "img-src data:",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    else:
        # bundled pages put their styles, pictures and fonts into the one script that they are
        rules += ["style-src 'self' 'unsafe-inline'", "img-src 'self' data: blob:", "font-src 'self' data:"]
    return "; ".join(rules)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@lru_cache(maxsize=32)
def asset(name: str) -> str:
    """A file of this package as text."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
