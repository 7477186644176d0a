"""The hand-off page: it leads nowhere else, runs nothing else, and tells nobody."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smithers.gateway.auth.hand_off import page, safe_next

BASE = "http://localhost:7331/v1/auth/session"


@pytest.mark.parametrize(
    "path", ["/", "/console", "/workflows/a%2Fb?theme=dark#top", "/a//b", "/a?next=//evil", "/a#//evil", "/ä", "/.."]
)
def test_paths_of_this_gateway_are_kept(path: str) -> None:
    assert safe_next(path) == path


@pytest.mark.parametrize(
    "wanted",
    [
        None,
        "",
        "console",
        "//evil",
        "///evil",
        "/\\evil",
        "\\\\evil",
        "/a\\b",
        "/%2fevil",
        "/%2Fevil",
        "%2f%2fevil",
        "/%2f%2fevil",
        "/%5cevil",
        "/\t/evil",
        "/\n/evil",
        "/\r\nset-cookie: a=b",
        "/%0d%0aa",
        "/\x00",
        "/a?b\r\nc",
        "/a#\tb",
        "/\x7f",
        "/\u2028",
        "/\u00a0",
        "/\ud800",
        "\t//evil",
        " /a",
        "https://evil",
        "http:/a",
        "javascript:alert(1)",
        "data:text/html,x",
        "@evil",
        "/" + "a" * 3000,
    ],
)
def test_anything_else_leads_home(wanted: str | None) -> None:
    assert safe_next(wanted) == "/"


@given(st.text(max_size=12) | st.text(alphabet="/\\%2fF5cC\t\n.:@?#evil ", max_size=12).map(lambda text: "/" + text))
def test_no_text_leads_to_another_origin(wanted: str) -> None:
    found = safe_next(wanted)
    assert urlsplit(urljoin(BASE, found)).netloc == "localhost:7331"
    assert re.match(r"/(?![/\\\t\n\r])", found)


@given(st.text(max_size=20).map(lambda text: "/" + text) | st.just("/</script><script>alert(1)</script>&\"'"))
def test_the_page_holds_one_script_that_its_policy_names(wanted: str) -> None:
    target = safe_next(wanted)
    found = page(target, cookie=None)
    scripts = re.findall(r"<script>(.*?)</script>", found.html, re.DOTALL)
    assert len(scripts) == found.html.lower().count("<script") == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in dict(found.headers)["content-security-policy"]
    assert json.loads(scripts[0].removeprefix("location.replace(").removesuffix(")")) == target
    (link,) = re.findall(r'<a href="([^"]*)">', found.html)
    assert html.unescape(link) == target
    assert f'content="0;url={link}"' in found.html


def test_the_page_names_its_address_to_nobody() -> None:
    headers = dict(page("/", cookie=("set-cookie", "a=b")).headers)
    assert headers.pop("content-security-policy").startswith("default-src 'none'; script-src 'sha256-")
    assert headers == {
        "x-content-type-options": "nosniff",
        "x-smithers-api-version": "v1",
        "referrer-policy": "no-referrer",
        "set-cookie": "a=b",
    }
