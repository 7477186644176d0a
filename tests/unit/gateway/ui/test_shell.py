"""The HTML that a page starts from, and its headers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.gateway.ui.site import Site

from smithers.gateway.auth.config import TokenAuth
from smithers.gateway.config import GatewayOptions, UiConfig
from smithers.gateway.ui.mounts import MODULES
from smithers.gateway.ui.shell import Page, asset, render

CONSOLE = Page("operator", "/console", "Console", True)
CUSTOM = Page("workflow", "/workflows/a", "A", False, "a", {"n": 1})


def boot_of(text: str) -> dict[str, object]:
    found = re.search(r"<script>globalThis\.__SMITHERS_GATEWAY_UI__=(.*?);</script>", text, re.S)
    assert found is not None
    return cast("dict[str, object]", json.loads(found[1]))


def policy_of(headers: dict[str, str]) -> dict[str, list[str]]:
    rules = (rule.split() for rule in headers["content-security-policy"].split("; "))
    return {name: values for name, *values in rules}


@pytest.mark.parametrize("page", [CONSOLE, CUSTOM, Page("gateway", "/", "Home", False)])
def test_the_boot_config_is_as_the_contract_has_it(page: Page) -> None:
    config = boot_of(render(page, None)[0])
    base = page.mount_path.rstrip("/") + "/__smithers_ui/"
    assert config == {
        "apiVersion": "v1",
        "kind": page.kind,
        "workflowKey": page.workflow_key,
        "mountPath": page.mount_path,
        "rpcPath": "/v1/rpc",
        "wsPath": "/",
        "assetBasePath": base,
        "props": dict(page.props),
    }


@given(st.text(), st.dictionaries(st.text(), st.text()))
def test_whatever_a_title_or_a_prop_holds_stays_data(title: str, props: dict[str, str]) -> None:
    bad = "</script><script>x()</script><!--\u2028"
    page = Page("workflow", "/w", title + bad, False, "w", {**props, bad: bad})
    text, headers = render(page, None)
    assert boot_of(text)["props"] == page.props
    assert text.count("<script") == 2
    assert "<!--" not in text
    script = text.split("<script>", 1)[1].split("</script>", 1)[0]
    assert _hash(script) in policy_of(headers)["script-src"]


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_console_s_policy_allows_its_own_script_styles_and_calls_only() -> None:
    text, headers = render(CONSOLE, None)
    policy = policy_of(headers)
    styles = re.findall(r"<style>(.*?)</style>", text, re.S)
    assert policy.pop("style-src") == [_hash(style) for style in styles]
    assert policy.pop("script-src")[0] == "'self'"
    assert policy == {
        "default-src": ["'none'"],
        "connect-src": ["'self'"],
        "img-src": ["data:"],
        "frame-ancestors": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "require-trusted-types-for": ["'script'"],
        "trusted-types": ["'none'"],
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert not re.search(r"\son\w+=|style=|javascript:|https?:", text.replace(asset("theme.css"), ""))


def test_a_custom_page_may_bring_styles_but_no_foreign_or_inline_script() -> None:
    policy = policy_of(render(CUSTOM, None)[1])
    assert policy["style-src"] == ["'self'", "'unsafe-inline'"]
    assert "'unsafe-inline'" not in policy["script-src"]
    assert policy["connect-src"] == ["'self'"]


def test_only_origins_that_may_use_the_gateway_may_embed_its_pages(tmp_path: Path) -> None:
    origins = ("https://desk.example", "https://a; script-src *", "null")
    auth = TokenAuth({}, allowed_origins=("http://other.example:8080",))
    for options, expected in (
        (GatewayOptions(allowed_origins=origins), ["'self'"]),
        (
            GatewayOptions(allowed_origins=origins, auth=auth),
            ["'self'", "http://other.example:8080", "https://desk.example"],
        ),
    ):
        answer = Site(tmp_path, options).ask("/console")
        assert policy_of(answer.headers)["frame-ancestors"] == expected


@pytest.mark.parametrize(("query", "mark"), [("?theme=dark", "dark"), ("?theme=light&theme=dark", "light")])
def test_a_theme_is_set_before_the_first_paint(tmp_path: Path, query: str, mark: str) -> None:
    assert f'<html lang="en" data-theme="{mark}">' in Site(tmp_path).ask(f"/console{query}").text


@pytest.mark.parametrize("query", ["", "?theme=", '?theme="><script>', "?theme=DARK"])
def test_any_other_theme_is_left_to_the_browser(tmp_path: Path, query: str) -> None:
    assert '<html lang="en"><head>' in Site(tmp_path).ask(f"/console{query}").text


def test_themes_have_every_colour_in_both_forms() -> None:
    text = asset("theme.css")
    colours = re.findall(r"(--smithers-[\w-]+): (light-dark\(#\w{6}, #\w{6}\));", text)
    assert len(colours) >= 12
    used = set(re.findall(r"var\((--smithers-[\w-]+)\)", asset("console.css")))
    assert used <= set(re.findall(r"(--smithers-[\w-]+):", text))


@pytest.mark.parametrize("name", sorted(name for (name,) in MODULES))
def test_the_console_never_turns_data_into_markup_or_code(name: str) -> None:
    script = re.sub(r'^import \{[^}]+\} from "\./\w+\.js";$', "", asset(f"console/{name}"), flags=re.M)
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
        assert word not in script
    assert not re.search(r"https?://|\bimport\b", script.replace("location.protocol", ""))


def test_props_and_title_of_the_console_reach_it(tmp_path: Path) -> None:
    site = Site(tmp_path, GatewayOptions(operator_ui=UiConfig(title="Ops & more", props={"a": [1]})))
    text = site.ask("/console").text
    assert "<title>Ops &amp; more</title>" in text
    assert boot_of(text)["props"] == {"a": [1]}
