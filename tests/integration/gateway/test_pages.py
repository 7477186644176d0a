"""Pages of a listening gateway: who gets them, what stands before them, that lists name them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from tests.conformance.gateway.flows import workflows
from tests.conformance.gateway.support import ROOT, House

from smithers.gateway.auth.config import TokenAuth


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A gateway that needs a token, with a page for everything."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "page.mjs").write_text("document.title;")
    flow = workflows(folder / "gateway.db")["one"]
    register = {"one": {"workflow": flow, "ui": {"path": "/mine", "entry": folder / "page.mjs"}}}
    auth = TokenAuth({ROOT: {"role": "operator", "scopes": ["*"]}})
    with House(folder, register, auth=auth) as house:
        yield house


def test_pages_need_a_credential_and_a_cookie_is_one(locked: House) -> None:
    with httpx2.Client(base_url=locked.url) as browser:
        for path in ("/console", "/console/__smithers_ui/client.js", "/mine", "/workflows/one", "/workflows/none"):
            refused = browser.get(path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "UNAUTHORIZED"), path
            assert refused.json()["type"] == "res"
        assert browser.get(f"/v1/auth/session?token={ROOT}&next=/console").status_code == 200
        assert '<div id="root">' in browser.get("/console").text
        assert browser.get("/mine/__smithers_ui/client.js").text == "document.title;"
        assert browser.get("/workflows/one?theme=dark").headers["location"] == "/mine?theme=dark"
        assert browser.get("/workflows/none").status_code == 404
        foreign = browser.get("/console", headers={"origin": "https://evil.example"})
        assert foreign.status_code == 401


def test_lists_say_where_pages_are(locked: House) -> None:
    listed = locked.ok("listWorkflows")[0]
    assert (listed["hasUi"], listed["uiPath"]) == (True, "/mine")
    assert locked.ok("listWorkflows", hasUi=False) == []


def test_the_root_leads_to_the_console(locked: House) -> None:
    answer = locked.http.get("/")
    assert (answer.status_code, answer.headers["location"]) == (302, "/console")


def test_without_a_console_the_root_names_the_pages(tmp_path: Path) -> None:
    with House(tmp_path, operator_ui=False) as house:
        assert 'href="/health"' in house.http.get("/").text
        assert house.http.get("/console").status_code == 404


def test_an_open_gateway_gives_pages_to_this_machine_s_names_only(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        assert house.http.get("/console").status_code == 200
        assert house.http.get("/console", headers={"host": "rebound.example"}).status_code == 401


def test_routes_of_the_gateway_stand_before_a_page_at_the_root(tmp_path: Path) -> None:
    (tmp_path / "page.js").write_text("export {};")
    with House(tmp_path, ui={"entry": tmp_path / "page.js"}) as house:
        assert '"kind":"gateway"' in house.http.get("/").text
        assert '"kind":"gateway"' in house.http.get("/any/where").text
        assert '"kind":"operator"' in house.http.get("/console").text
        assert house.http.get("/__smithers_ui/client.js").text == "export {};"
        for path in ("/health", "/workflows", "/v1/api/runs"):
            assert house.http.get(path).headers["content-type"] == "application/json", path
        assert house.http.get("/v1/api/none").status_code == 404
        assert house.http.post("/any/where").status_code == 404


def test_a_head_request_is_answered_without_a_body(locked: House) -> None:
    got, head = locked.http.get("/console"), locked.http.head("/console")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))


@pytest.mark.parametrize(
    "path", ["/console/../v1/rpc/health", "/console/%2e%2e/x", "/console%2f..%2fhealth", "//console"]
)
def test_paths_on_the_wire_that_could_be_read_in_two_ways_have_no_page(locked: House, path: str) -> None:
    where = urlsplit(locked.url)
    assert where.hostname is not None
    with socket.create_connection((where.hostname, where.port or 0), 60) as raw:
        head = f"GET {path} HTTP/1.1\r\nHost: {where.netloc}\r\nx-smithers-key: {ROOT}\r\nConnection: close\r\n\r\n"
        raw.sendall(head.encode())
        answer = b""
        while chunk := raw.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 404 ")
