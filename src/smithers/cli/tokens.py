"""`token issue|list|revoke|exec`: who may use the gateway of this workspace, and for how long.

What was issued is in a file of the workspace (`gateway_state.GRANTS`), by the tokens' hashes; a running gateway follows it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import read_duration
from smithers.cli.common import Common
from smithers.cli.options import Option
from smithers.cli.output import moment, printable, shortened
from smithers.errors import InvalidInput

if TYPE_CHECKING:
    from smithers.cli.output import Output
    from smithers.gateway.auth.grant_file import GrantFile, StoredGrant

MAX_TTL_MS = 366 * 86_400_000
TOKEN_VARIABLE = "SMITHERS_API_KEY"
URL_VARIABLE = "SMITHERS_GATEWAY_URL"
PREFIX = "smt_"
"""What tokens begin with, so that scanners for secrets can tell what they have found."""


async def token_issue(
    *,
    scopes: Annotated[list[str] | None, Option("--scopes", is_switch=True)] = None,
    role: str = "operator",
    user_id: str | None = None,
    ttl: str = "1h",
    reveal_token: Annotated[bool, Option(is_switch=True)] = False,
    common: Common | None = None,
) -> int:
    """Issue a token for the gateway of this workspace. It is shown once, and stored by its hash only.

    Parameters
    ----------
    scopes
        What it may do, as run:read,approval:submit; run:read by default, * for everything.
    role
        The role of whoever bears it.
    user_id
        Whom it stands for in records and approvals.
    ttl
        How long it is good for, as 30m or 7d.
    reveal_token
        Print the token. Without it nothing is issued, as nobody could use it.
    """
    common = common or Common()
    if not reveal_token:
        raise InvalidInput(
            "a token is shown only when it is issued: say --reveal-token to have it printed, "
            "or let one command use it: smithers token exec -- COMMAND"
        )
    file = _file()
    token, stored = _issue(file, scopes, role, user_id, ttl)
    out = common.output
    if not out.is_text:
        out.document({**_shown(stored), "token": token})
        return 0
    out.line(f"token {stored.grant.token_id}: {_summary(stored)}")
    out.line(f"  {token}")
    await _hint(out)
    return 0


async def token_list(*, common: Common | None = None) -> int:
    """List the tokens that were issued for this workspace, oldest first. The tokens themselves are kept nowhere."""
    common = common or Common()
    found, out = _file().read(), common.output
    if out.format == "json":
        out.document({"tokens": [_shown(each) for each in found]})
    elif not out.is_text:
        for each in found:
            out.record(_shown(each))
    elif not found:
        out.line("no token was issued here; issue one with: smithers token issue --reveal-token")
    else:
        out.table(("ID", "STATE", "ROLE", "USER", "SCOPES", "EXPIRES"), [_row(each) for each in found])
    return 0


async def token_revoke(
    tokens: list[str] | None = None,
    /,
    *,
    all: Annotated[bool, Option("--all", "-a", is_switch=True)] = False,
    common: Common | None = None,
) -> int:
    """Refuse tokens from now on. Connections that they have opened are closed at once.

    Parameters
    ----------
    tokens
        Their ids, as `token list` shows them, or the tokens themselves.
    all
        All that were issued for this workspace.
    """
    from smithers.gateway.auth.tokens import digest_of

    common = common or Common()
    given = tokens or []
    if bool(given) == all:
        raise InvalidInput("name the tokens to revoke, or say --all")
    file = _file()
    names = None if all else {name for token in given for name in (token, digest_of(token.encode()))}
    if names is not None:
        known = {name for each in file.read() for name in (each.grant.token_id, each.digest)}
        unknown = [t for t in given if known.isdisjoint((t, digest_of(t.encode())))]
        if unknown:
            raise InvalidInput(f"no such token: {', '.join(shortened(t, 20) for t in unknown)}", code="NOT_FOUND")
    revoked = file.revoke(names, _now_ms())
    out = common.output
    if not out.is_text:
        out.document({"revoked": revoked})
    elif revoked:
        out.line(f"revoked: {', '.join(map(printable, revoked))}")
    else:
        out.line("nothing to revoke: they were refused already")
    return 0


async def token_exec(
    command: list[str],
    /,
    *,
    scopes: Annotated[list[str] | None, Option("--scopes", is_switch=True)] = None,
    role: str = "operator",
    user_id: str | None = None,
    ttl: str = "1h",
    common: Common | None = None,
) -> int:
    """Run a command with a token of its own in $SMITHERS_API_KEY, revoked when the command has ended; its exit code.

    $SMITHERS_GATEWAY_URL says where the gateway is, if it runs. Write `--` before the command.

    Parameters
    ----------
    command
        The command and its arguments.
    scopes
        What the token may do, as run:read,approval:submit; run:read by default, * for everything.
    role
        The role of whoever bears it.
    user_id
        Whom it stands for in records and approvals.
    ttl
        How long it is good for at most, as 30m or 7d.
    """
    from smithers.cli.gateway_state import StateFile, workspace_root
    from smithers.cli.gatewaying import running

    del common
    root = workspace_root(Path.cwd())
    file = _file()
    gateway = await running(StateFile(root), root)
    token, stored = _issue(file, scopes, role, user_id, ttl)
    try:
        environment = {**os.environ, TOKEN_VARIABLE: token}  # noqa: TID251 - handed on, not read
        if gateway is not None:
            environment[URL_VARIABLE] = gateway.url
        return await _run(command, environment)
    finally:
        file.revoke([stored.digest], _now_ms())


async def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command to its end. Signals that end this process are the command's: it ends first, and then we do."""
    try:
        process = await asyncio.create_subprocess_exec(*command, env=dict(environment))
    except OSError as error:
        raise InvalidInput(f"cannot run {shortened(command[0], 80)}: {error.strerror or error}") from error

    def pass_on(number: int) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(number)

    loop = asyncio.get_running_loop()
    # a terminal sends its interrupt to the command as well; passed on, it would come twice
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_signal_handler(signal.SIGTERM, pass_on, signal.SIGTERM)
    loop.add_signal_handler(signal.SIGHUP, pass_on, signal.SIGHUP)
    code = await process.wait()
    return code if code >= 0 else 128 - code


def _file() -> GrantFile:
    from smithers.cli.gateway_state import GRANTS, workspace_root
    from smithers.gateway.auth.grant_file import GrantFile

    return GrantFile(workspace_root(Path.cwd()) / GRANTS)


def _issue(
    file: GrantFile, scopes: Sequence[str] | None, role: str, user_id: str | None, ttl: str
) -> tuple[str, StoredGrant]:
    """A new token and its grant, which is stored. Raises `InvalidInput`."""
    from smithers.gateway.auth.grant_file import StoredGrant
    from smithers.gateway.auth.tokens import TokenGrant, digest_of, token_id_of

    lifetime_ms = read_duration(ttl, "--ttl")
    if not 0 < lifetime_ms <= MAX_TTL_MS:
        raise InvalidInput(f"--ttl: must be more than nothing and at most a year, not {ttl}")
    wanted = [part.strip() for given in (["run:read"] if scopes is None else scopes) for part in given.split(",")]
    if not all(wanted):
        raise InvalidInput("--scopes: must name scopes, as run:read,approval:submit")
    token = PREFIX + secrets.token_urlsafe(32)
    digest, now = digest_of(token.encode()), _now_ms()
    given = {
        "role": role,
        "scopes": wanted,
        "userId": user_id,
        "tokenId": token_id_of(digest),
        "issuedAtMs": now,
        "expiresAtMs": now + lifetime_ms,
    }
    grant = TokenGrant.of(given, "token")
    file.add(digest, grant, now)
    return token, StoredGrant(digest, grant)


async def _hint(out: Output) -> None:
    """Say so where the gateway that runs now asks for no token."""
    from smithers.cli.gateway_state import StateFile, workspace_root
    from smithers.cli.gatewaying import running

    root = workspace_root(Path.cwd())
    gateway = await running(StateFile(root), root)
    if gateway is not None and gateway.token is None:
        out.note("the gateway that runs now asks for no token; started again, it will")


def _shown(each: StoredGrant) -> dict[str, object]:
    grant = each.grant
    return {
        "tokenId": grant.token_id,
        "state": _state(each),
        "role": grant.role,
        "scopes": list(grant.scopes),
        "userId": grant.user_id,
        "issuedAtMs": grant.issued_at_ms,
        "expiresAtMs": grant.expires_at_ms,
        "revokedAtMs": grant.revoked_at_ms,
    }


def _row(each: StoredGrant) -> tuple[str, ...]:
    grant = each.grant
    expires = "never" if grant.expires_at_ms is None else moment(grant.expires_at_ms)
    texts = (grant.token_id or "", _state(each), grant.role, grant.user_id or "", ",".join(grant.scopes), expires)
    return tuple(shortened(text, 60) for text in texts)


def _state(each: StoredGrant) -> str:
    if each.grant.revoked_at_ms is not None:
        return "revoked"
    return "expired" if each.has_ended(_now_ms()) else "valid"


def _summary(each: StoredGrant) -> str:
    grant = each.grant
    whom = "" if grant.user_id is None else f" for {shortened(grant.user_id, 60)}"
    until = "" if grant.expires_at_ms is None else f", until {moment(grant.expires_at_ms)}"
    return f"{shortened(grant.role, 60)}{whom}, {shortened(','.join(grant.scopes), 120)}{until}"


def _now_ms() -> int:
    return int(time.time() * 1000)
