"""Which page is served where."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.gateway.ui.site import Site, workflow

from smithers.errors import InvalidInput
from smithers.gateway.config import GatewayOptions, UiConfig
from smithers.gateway.gateway import Gateway
from smithers.gateway.problems import RpcError


def test_the_console_is_at_console_unless_it_is_moved_or_left_out(tmp_path: Path) -> None:
    assert Site(tmp_path).mounts.console_path == "/console"
    moved = Site(tmp_path, GatewayOptions(operator_ui=UiConfig(path="/ops/")))
    assert moved.mounts.console_path == "/ops"
    assert moved.ask("/console").status == 404
    assert moved.ask("/ops").status == 200
    without = Site(tmp_path, GatewayOptions(operator_ui=None))
    assert without.mounts.console_path is None
    assert without.ask("/console").status == 404


def test_a_gateway_s_ui_of_true_is_the_console(tmp_path: Path) -> None:
    site = Site(tmp_path, GatewayOptions(ui=UiConfig(), operator_ui=None))
    assert site.mounts.paths() == ["/console"]
    assert '"kind":"operator"' in site.ask("/console").text
    both = Site(tmp_path, GatewayOptions(ui=UiConfig(title="Mine")))
    assert both.mounts.paths() == ["/console"]
    assert "<title>Mine</title>" in both.ask("/console").text


def test_every_path_below_a_mount_is_the_shell(tmp_path: Path) -> None:
    site = Site(tmp_path)
    first = site.ask("/console")
    for path in ("/console/", "/console/runs/one", "/console/a%20b", "/console?theme=x"):
        assert site.ask(path).body == first.body
    for path in ("/consoles", "/", "/Console"):
        assert site.ask(path).status == 404


def test_the_longest_mount_wins(tmp_path: Path) -> None:
    site = Site(tmp_path)
    script = site.script()
    site = Site(tmp_path, GatewayOptions(ui=UiConfig(entry=script), operator_ui=UiConfig(path="/a/b")))
    site.add("flow", UiConfig(path="/a"))
    kinds = {
        "/": "gateway",
        "/x": "gateway",
        "/a": "workflow",
        "/a/c": "workflow",
        "/a/b": "operator",
        "/a/b/c": "operator",
    }
    for path, kind in kinds.items():
        assert f'"kind":"{kind}"' in site.ask(path).text, path


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_get_and_head_are_answered(tmp_path: Path, method: str) -> None:
    site = Site(tmp_path)
    assert site.ask("/console", method).status == 404
    assert site.ask("/console/__smithers_ui/client.js", method).status == 404


def test_head_has_the_headers_of_get_and_no_body(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for path in ("/console", "/console/__smithers_ui/client.js"):
        got, head = site.ask(path), site.ask(path, "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers == got.headers


def test_a_script_is_served_as_it_is_now_and_only_under_its_name(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.add("flow", UiConfig(entry=site.script("export const a = 1;")))
    first = site.ask("/workflows/flow/__smithers_ui/client.js")
    assert first.text == "export const a = 1;"
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    assert first.headers["x-content-type-options"] == "nosniff"
    for tag in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = site.ask("/workflows/flow/__smithers_ui/client.js", headers={"if-none-match": tag})
        assert (again.status, again.body) == (304, b"")
    site.script("export const a = 2;")
    changed = site.ask("/workflows/flow/__smithers_ui/client.js", headers={"if-none-match": first.headers["etag"]})
    assert (changed.status, changed.text) == (200, "export const a = 2;")
    for name in ("", "client.js.map", "page.js", "x/client.js", "client.js/x", "Client.js"):
        assert site.ask(f"/workflows/flow/__smithers_ui/{name}").status == 404, name


def test_a_script_that_is_gone_is_not_found(tmp_path: Path) -> None:
    site = Site(tmp_path)
    script = site.script()
    site.add("flow", UiConfig(entry=script))
    script.unlink()
    assert site.ask("/workflows/flow/__smithers_ui/client.js").status == 404
    assert site.ask("/workflows/flow").status == 200


def test_a_file_beside_the_folder_of_the_entry_file_is_found_when_it_appears(tmp_path: Path) -> None:
    site = Site(tmp_path)
    (tmp_path / "flows").mkdir()
    (tmp_path / "ui").mkdir()
    site.add("flow", entry_file=tmp_path / "flows" / "flow.py")
    assert site.mounts.path_of("flow") is None
    assert site.ask("/workflows/flow").status == 404
    (tmp_path / "ui" / "flow.js").write_text("export {};")
    assert site.mounts.path_of("flow") == "/workflows/flow"
    assert site.ask("/workflows/flow").status == 200
    assert site.ask("/workflows/flow/__smithers_ui/client.js").text == "export {};"
    assert site.mounts.paths() == ["/console", "/workflows/flow"]


def test_a_registered_page_stands_before_the_file(tmp_path: Path) -> None:
    site = Site(tmp_path)
    (tmp_path / "flows").mkdir()
    (tmp_path / "ui").mkdir()
    (tmp_path / "ui" / "flow.js").write_text("file")
    site.add("flow", UiConfig(entry=site.script("registered")), tmp_path / "flows" / "flow.py")
    assert site.ask("/workflows/flow/__smithers_ui/client.js").text == "registered"


def test_a_page_that_is_elsewhere_is_pointed_to_with_its_query(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.add("flow", UiConfig(path="/mine"))
    assert site.mounts.path_of("flow") == "/mine"
    for path, location in {
        "/workflows/flow": "/mine",
        "/workflows/flow/": "/mine",
        "/workflows/flow?theme=dark&a=%0d%0ab": "/mine?theme=dark&a=%0d%0ab",
        "/workflows/flow?//evil.example": "/mine?//evil.example",
    }.items():
        answer = site.ask(path)
        assert (answer.status, answer.headers["location"]) == (302, location)
    assert site.ask("/workflows/flow/below").status == 404


def test_keys_with_signs_are_found_however_they_are_written(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.add("a@1:b", UiConfig())
    assert site.mounts.path_of("a@1:b") == "/workflows/a%401%3Ab"
    for path in ("/workflows/a%401%3Ab", "/workflows/a@1:b", "/workflows/%61@1%3ab"):
        assert '"mountPath":"/workflows/a%401%3Ab"' in site.ask(path).text


def test_an_unknown_key_has_the_registry_asked_once(tmp_path: Path) -> None:
    asked: list[str] = []

    async def refresh(key: str) -> None:
        asked.append(key)
        if key == "late":
            site.add("late", UiConfig())

    site = Site(tmp_path, refresh=refresh)
    assert site.ask("/workflows/late").status == 200
    assert site.ask("/workflows/late").status == 200
    assert site.ask("/workflows/never").status == 404
    assert asked == ["late", "never"]


@pytest.mark.parametrize(
    "path",
    [
        "/console/../v1",
        "/console/%2e%2e/x",
        "/console/.%2E/x",
        "/console/./x",
        "/console//x",
        "//console",
        "/console%2fx",
        "/console/%2Fx",
        "/console/%5cx",
        "/console\\x",
        "/console/%252e%252e/x",
        "/console/%00",
        "/console/%0d%0aset-cookie:a",
        "/console/%ff",
        "/console/" + "a" * 3_000,
        "/%63onsole%2f..",
    ],
)
def test_paths_that_could_be_read_in_two_ways_have_no_page(tmp_path: Path, path: str) -> None:
    assert Site(tmp_path, GatewayOptions(ui=UiConfig(path="/"))).ask(path).status == 404


def test_who_may_not_use_the_gateway_gets_no_page_and_asks_no_registry(tmp_path: Path) -> None:
    asked: list[str] = []

    async def refresh(key: str) -> None:
        asked.append(key)

    def refuse(_call: object) -> None:
        raise RpcError("UNAUTHORIZED", "A bearer token is required")

    site = Site(tmp_path, refresh=refresh, identify=refuse)  # type: ignore[arg-type]  # it never returns
    site.add("elsewhere", UiConfig(path="/mine"))
    for path in ("/console", "/console/__smithers_ui/client.js", "/workflows/x", "/workflows/elsewhere", "/mine"):
        answer = site.ask(path)
        assert answer.status == 401
        assert '"code":"UNAUTHORIZED"' in answer.text
    assert site.ask("/other").status == 404
    assert asked == []


# ── what is refused when it is written ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["page.ts", "page.tsx", "page.jsx"])
def test_source_code_as_an_entry_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(InvalidInput, match="bundle it"):
        UiConfig(entry=tmp_path / name)
    with pytest.raises(InvalidInput, match="bundle it"):
        Gateway(ui={"entry": str(tmp_path / name)})


def test_entries_that_are_no_module_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page.css").write_text("")
    (tmp_path / "folder.js").mkdir()
    for entry in (tmp_path / "page.css", tmp_path / "missing.js", tmp_path / "folder.js", tmp_path, "", 3):
        with pytest.raises(InvalidInput, match=r"ui\.entry"):
            UiConfig(entry=entry)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path",
    [
        *("/a b", "/a?b", "/a#b", "/ü", "//evil.example", "/a//b", "/..", "/a/./b", "/__smithers_ui", "/%41", "/a\\b"),
        *("/a@b", 7, "/health", "/metrics", "/v1", "/v1/x", "/rpc", "/webhooks/x", "/workflows", "/workflows/"),
    ],
)
def test_mount_paths_that_cannot_work_are_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match=r"ui\.path"):
        UiConfig(path=path)


@pytest.mark.parametrize(
    ("given", "path"), [("ops", "/ops"), ("/ops//", "/ops"), ("/", "/"), ("", "/"), ("/a:b.c_d-e", "/a:b.c_d-e")]
)
def test_mount_paths_get_one_slash_in_front_and_none_behind(given: str, path: str) -> None:
    assert UiConfig(path=given).path == path


def test_titles_and_props_are_checked() -> None:
    with pytest.raises(InvalidInput, match=r"ui\.title"):
        UiConfig(title=3)  # type: ignore[arg-type]
    for props in ({"a": object()}, [1], 3):
        with pytest.raises(InvalidInput, match=r"ui\.props"):
            UiConfig(props=props)  # type: ignore[arg-type]


def test_two_pages_at_one_path_are_refused_where_the_second_is_declared(tmp_path: Path) -> None:
    script = Site(tmp_path).script()
    flow = workflow(tmp_path / "x.db")
    with pytest.raises(InvalidInput, match="operator_ui would be at '/console'"):
        Gateway(ui=UiConfig(entry=script, path="/console"))
    gateway = Gateway().register("one", flow, ui={"path": "/mine"}).register("one", flow, ui={"path": "/mine"})
    with pytest.raises(InvalidInput, match="'two' would be at '/mine', where that of workflow 'one' is"):
        gateway.register("two", flow, ui={"path": "/mine"})
    with pytest.raises(InvalidInput, match="where that of operator_ui is"):
        gateway.register("three", flow, ui={"path": "/console"})
