"""`smithers token`: issuing, listing, revoking, and commands with a token of their own; no gateway runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
from tests.unit.cli.support import Cli, at

from smithers.cli.gateway_state import GRANTS
from smithers.gateway.auth.tokens import digest_of


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State files of its own for each test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("SMITHERS_API_KEY", raising=False)


def issue(cli: Cli, *flags: str) -> dict[str, object]:
    found = cli("token", "issue", "--reveal-token", "--format", "json", *flags)
    assert found.code == 0, found.err
    return found.json


def test_a_token_is_shown_once_and_kept_by_its_hash_only(cli: Cli) -> None:
    found = issue(
        cli, "--scopes", "run:read, approval:submit", "--role", "reviewer", "--user-id", "ann", "--ttl", "30m"
    )
    token = cast("str", found.pop("token"))
    assert (found["role"], found["userId"], found["state"]) == ("reviewer", "ann", "valid")
    assert found["scopes"] == ["run:read", "approval:submit"]
    assert cast("int", found["expiresAtMs"]) - cast("int", found["issuedAtMs"]) == 30 * 60_000
    text = (cli.folder / GRANTS).read_text()
    assert token not in text
    assert digest_of(token.encode()) in text
    listed = cli("token", "list", "--format", "json")
    assert listed.json == {"tokens": [found]}
    assert token not in cli("token", "list").out


def test_a_token_that_nobody_could_use_is_not_issued(cli: Cli) -> None:
    found = cli("token", "issue")
    assert (found.code, "--reveal-token" in found.err) == (4, True)
    assert not (cli.folder / GRANTS).exists()
    assert "no token was issued" in cli("token", "list").out


@pytest.mark.parametrize("flags", [("--ttl", "0"), ("--ttl", "400d"), ("--ttl", "soon"), ("--scopes", "run:read,")])
def test_what_does_not_fit_is_named(cli: Cli, flags: tuple[str, str]) -> None:
    found = cli("token", "issue", "--reveal-token", *flags)
    assert (found.code, flags[0] in found.err) == (4, True)


def test_tokens_are_revoked_by_id_by_themselves_or_all(cli: Cli) -> None:
    first, second, third = issue(cli), issue(cli), issue(cli)
    for name in (str(first["tokenId"]), str(second["token"])):
        assert cli("token", "revoke", name).code == 0
    states = [at(cli("token", "list", "--format", "json").json, "tokens", n, "state") for n in range(3)]
    assert states == ["revoked", "revoked", "valid"]
    again = cli("token", "revoke", str(first["tokenId"]))
    assert (again.code, "refused already" in again.out) == (0, True)
    assert cli("token", "revoke", "--all", "--format", "json").json == {"revoked": [third["tokenId"]]}


@pytest.mark.parametrize("words", [(), ("x", "--all"), ("x",)])
def test_a_revocation_of_nothing_is_a_mistake(cli: Cli, words: tuple[str, ...]) -> None:
    assert cli("token", "revoke", *words).code == 4


def test_a_command_gets_a_token_that_ends_with_it(cli: Cli) -> None:
    found = cli("token", "exec", "--scopes", "*", "--", "sh", "-c", 'printf %s "$SMITHERS_API_KEY" > token; exit 7')
    assert found.code == 7
    token = (cli.folder / "token").read_text()
    (grant,) = json.loads((cli.folder / GRANTS).read_text())["grants"]
    assert (grant["sha256"], grant["scopes"]) == (digest_of(token.encode()), ["*"])
    assert grant["revokedAtMs"] is not None


def test_a_command_that_cannot_be_run_leaves_no_good_token(cli: Cli) -> None:
    found = cli("token", "exec", "--", "/there/is/no/such/command")
    assert (found.code, "cannot run" in found.err) == (4, True)
    assert at(cli("token", "list", "--format", "json").json, "tokens", 0, "state") == "revoked"
