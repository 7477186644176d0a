"""`gateway`, `gateway status`, `gateway stop`: the gateway of a workspace: one process that serves its workflows.

How it runs is in `gateway_host.py`, which files it serves in `gateway_files.py`, how it is found in `gateway_state.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from smithers.cli.arguments import as_object, read_duration
from smithers.cli.common import Common
from smithers.cli.options import Option
from smithers.cli.output import moment, printable
from smithers.errors import GatewayInsecureBind, InvalidInput

if TYPE_CHECKING:
    from smithers.cli.gateway_state import GatewayState, StateFile

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7331
LOOK_S = 2.0
"""How long a gateway may take to say who it is."""


async def gateway(
    workflows: list[Path] | None = None,
    /,
    *,
    name: Annotated[list[str] | None, Option("--name", is_switch=True)] = None,
    host: Annotated[str, Option("--host", "-H")] = DEFAULT_HOST,
    port: Annotated[int, Option("--port", "-p")] = DEFAULT_PORT,
    backend: Literal["sqlite", "postgres"] | None = None,
    auth_token: str | None = None,
    mint_token: Annotated[bool, Option(is_switch=True)] = False,
    insecure: Annotated[bool, Option(is_switch=True)] = False,
    idle_timeout: str | None = None,
    wait_for_db: str = "60s",
    max_active_runs: int = 2_000,
    common: Common | None = None,
) -> int:
    """Serve workflows to bots, dashboards and people, over HTTP and WebSocket. Stays until Ctrl-C.

    Parameters
    ----------
    workflows
        Workflow files, or folders of them; those in .smithers/workflows by default.
    name
        KEY=FILE: serve a file under another key than its name; may be given several times.
    host
        Where to listen. Beyond this machine only with a token (also an issued one), or --insecure.
    port
        The port; a free one if it is taken, or 0.
    backend
        What runs are stored in: with postgres, --db or $SMITHERS_DB must name the server. By default what they name.
    auth_token
        What requests must carry; else $SMITHERS_API_KEY.
    mint_token
        Make a token up and print it, once.
    insecure
        Do without a token, even beyond this machine.
    idle_timeout
        End after so long without connections, runs, schedules and timers, as 30m; else $SMITHERS_GATEWAY_IDLE_MS.
    wait_for_db
        How long to wait for a database that is away at the start; 0s for not at all.
    max_active_runs
        At most so many runs are started here at once; with 0 all are left to workers.
    """
    from smithers.cli.gateway_files import find_files
    from smithers.cli.gateway_host import GatewayHost, Plan
    from smithers.cli.gateway_state import GRANTS, StateFile, workspace_root

    common = common or Common()
    settings = common.settings
    token = (settings.api_key if auth_token is None else auth_token) or None
    root = workspace_root(Path.cwd())
    has_grants = (root / GRANTS).exists()
    backend = _checked_backend(backend, settings.db)
    _check_address(host, port, may_be_public=bool(token) or mint_token or has_grants or insecure)
    idle_ms = settings.gateway_idle_ms if idle_timeout is None else read_duration(idle_timeout, "--idle-timeout")
    given = workflows or []
    plan = Plan(
        root=root,
        files=find_files(root, given, name or []),
        required=frozenset(file.resolve() for file in given if not file.is_dir()),
        host=host,
        port=port,
        backend=backend,
        token=token,
        mints_token=mint_token,
        insecure=insecure,
        idle_ms=idle_ms,
        wait_s=read_duration(wait_for_db, "--wait-for-db") / 1000,
        max_active_runs=max_active_runs,
        db=settings.db,
    )
    with StateFile(root) as state:
        if not state.claim():
            raise await _running_already(state, root)
        os.chdir(root)  # where relative databases and the work of tasks are
        return await GatewayHost(plan, state, settings, common.output).run()


def _checked_backend(given: Literal["sqlite", "postgres"] | None, db: str | None) -> Literal["sqlite", "postgres"]:
    """What runs are stored in. Raises `InvalidInput` if that is not what the address names."""
    from smithers.store import is_server

    named: Literal["sqlite", "postgres"] = "postgres" if db is not None and is_server(db) else "sqlite"
    if given == "postgres" and named == "sqlite":
        raise InvalidInput(
            "--backend postgres needs the address of a server: --db postgresql://… or SMITHERS_DB", {"backend": given}
        )
    if given == "sqlite" and named == "postgres":
        raise InvalidInput(
            "--backend sqlite, and --db or SMITHERS_DB names a PostgreSQL server: leave one of them out",
            {"backend": given},
        )
    return named


def _check_address(host: str, port: int, *, may_be_public: bool) -> None:
    """Raises `GatewayInsecureBind` or `InvalidInput`."""
    from smithers.asgi.embed import is_loopback_bind

    if not (may_be_public or is_loopback_bind(host)):
        raise GatewayInsecureBind(
            f"refusing to listen on {host} without a token; give --auth-token, --mint-token or --insecure, "
            "or issue one: smithers token issue",
            {"host": host},
        )
    if not 0 <= port <= 65_535:
        raise InvalidInput(f"--port: must be 0 to 65535, not {port}")


async def gateway_status(*, common: Common | None = None) -> int:
    """Tell whether the gateway of this workspace runs, and where. Exits with 1 if it does not."""
    from smithers.cli.gateway_state import StateFile, workspace_root

    common = common or Common()
    root = workspace_root(Path.cwd())
    file = StateFile(root)
    found = await running(file, root)
    out = common.output
    if not out.is_text:
        document: dict[str, object] = {"running": found is not None, "url": None, "workspaceRoot": str(root)}
        if found is not None:
            document |= {key: value for key, value in found.wire().items() if key != "token"}
            document |= {"needsToken": found.token is not None, "stateFile": str(file.path)}
        out.document(document)
    elif found is None:
        out.line(f"no gateway runs for {printable(str(root))}")
    else:
        out.line(f"the gateway of {printable(found.workspace_root)} runs at {found.url}")
        out.line(f"  pid {found.pid}, since {moment(found.started_at_ms)}")
    return 0 if found is not None else 1


async def gateway_stop(
    *,
    patience: Annotated[str, Option(help="How long to wait for its end; it ends later as well.")] = "30s",
    common: Common | None = None,
) -> int:
    """Stop the gateway of this workspace: its runs are parked, and the next gateway goes on with them."""
    from smithers.cli.gateway_state import StateFile, workspace_root

    common = common or Common()
    wait_s = read_duration(patience, "--patience") / 1000
    root = workspace_root(Path.cwd())
    file = StateFile(root)
    found = await running(file, root)
    out = common.output
    has_ended = False
    if found is not None:
        with suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGTERM)
        has_ended = await _ended(file, wait_s)
    if not out.is_text:
        out.document({"wasRunning": found is not None, "stopped": has_ended, "pid": found.pid if found else None})
    elif found is None:
        out.line(f"no gateway runs for {printable(str(root))}")
    elif has_ended:
        out.line(f"the gateway at {found.url} has stopped; its runs are parked")
    else:
        out.line(f"the gateway at {found.url} (pid {found.pid}) was asked to stop and has not got there yet")
    return 0 if found is None or has_ended else 1


async def running(file: StateFile, root: Path) -> GatewayState | None:
    """The gateway of a workspace, if it answers and says that it is the one that the state file tells of."""
    from smithers.client import GatewayClient, GatewayConnectionLost

    found = file.read()
    if found is None:
        return None
    try:
        async with GatewayClient(found.url, timeout_s=LOOK_S) as client:
            health = await client.health()
    except (GatewayConnectionLost, InvalidInput):
        return None
    identity = as_object(health.get("identity"))
    is_it = identity.get("workspaceRoot") == str(root) and identity.get("pid") == found.pid
    return found if is_it else None


async def _running_already(file: StateFile, root: Path) -> InvalidInput:
    found = await running(file, root)
    if found is None:
        read = file.read()
        who = "another process" if read is None else f"process {read.pid}"
        text = f"{who} is the gateway of {root} but does not answer; it starts, ends, or hangs"
        return InvalidInput(text, {"workspaceRoot": str(root)}, code="GATEWAY_ALREADY_RUNNING")
    return InvalidInput(
        f"the gateway of {root} runs already, at {found.url} (pid {found.pid}); end it with: smithers gateway stop",
        {"workspaceRoot": str(root), "url": found.url, "pid": found.pid},
        code="GATEWAY_ALREADY_RUNNING",
    )


async def _ended(file: StateFile, wait_s: float) -> bool:
    """Wait until nobody is the gateway any more: its process keeps the lock to its very end."""
    until = time.monotonic() + wait_s
    while True:
        if file.claim():
            file.release()
            return True
        if time.monotonic() >= until:
            return False
        await asyncio.sleep(0.05)
