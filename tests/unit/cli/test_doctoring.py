"""`doctor`: what it shows of this machine, and what it exits with."""

from __future__ import annotations

import pytest
from tests.unit.cli.support import Cli, at


def _report(*, is_enforced: bool) -> dict[str, object]:
    holds = {"network": True, "files": is_enforced}
    missing = [] if is_enforced else ["files outside the root folder are reachable"]
    return {
        "platform": "linux",
        "kernel": "6.1",
        "bubblewrap": None,
        "landlockAbi": 0,
        "seccompFilter": True,
        "cgroups": [],
        "isRoot": False,
        "launcher": "namespaces" if is_enforced else None,
        "isEnforced": is_enforced,
        "launchers": {"namespaces": {"holds": holds, "missing": missing}},
        "wayOut": None if is_enforced else "Install bubblewrap.",
    }


def _pretend(monkeypatch: pytest.MonkeyPatch, *, is_enforced: bool) -> None:
    monkeypatch.setattr("smithers.tools.sandbox.report", lambda: _report(is_enforced=is_enforced))


def test_a_machine_that_isolates_commands_is_well(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, is_enforced=True)
    done = cli("doctor")
    assert (done.code, done.err) == (0, "")
    assert "isolated by namespaces" in done.out
    assert "none found from here" in done.out
    assert all(name in done.out for name in ("python", "sqlite", "pydantic-ai"))


def test_a_machine_that_cannot_is_told_why_and_the_way_out(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, is_enforced=False)
    done = cli("doctor")
    assert done.code == 1
    assert "namespaces: network; without files" in done.out
    assert "missing: files outside the root folder are reachable" in done.out
    assert "Install bubblewrap." in done.out


def test_json_holds_the_whole_report_and_the_database(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, is_enforced=False)
    (cli.folder / "smithers.db").touch()
    done = cli("doctor", "--format", "json")
    assert done.code == 1
    assert at(done.json, "ok") is False
    assert at(done.json, "database") == str(cli.folder / "smithers.db")
    assert at(done.json, "sandbox") == _report(is_enforced=False)
