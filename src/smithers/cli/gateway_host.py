"""Gateway host: the process of `smithers gateway`, from the bound port to the last run that was parked."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from smithers.cli.arguments import as_object
from smithers.cli.gateway_files import ServedFiles
from smithers.cli.gateway_state import GRANTS, GatewayState, StateFile
from smithers.cli.output import Output, clock_time, printable, shortened
from smithers.errors import InvalidInput
from smithers.records import dataclass

if TYPE_CHECKING:
    from smithers.gateway.auth.config import TokenAuth
    from smithers.gateway.auth.grant_file import GrantFollower
    from smithers.gateway.gateway import Gateway, GatewayServer
    from smithers.settings import Settings

STOP_PATIENCE_S = 8.0
"""How long work that is given up at the end may take to stop."""
_OPERATOR: Mapping[str, object] = {"role": "operator", "scopes": ["*"]}
_RUNS = "smithers.runs"
"""The logger that tells of runs."""


@dataclass(frozen=True)
class Plan:
    """What was asked for.

    Attributes:
        required: files that must be there and in order; others are left out with a word.
        token: the operator's own; None for none.
        idle_ms: when to end for lack of work, in milliseconds; 0 for never.
        wait_s: how long to wait for a database that is away at the start.
    """

    root: Path
    files: Mapping[str, Path]
    required: frozenset[Path]
    host: str
    port: int
    backend: str
    token: str | None
    mints_token: bool
    insecure: bool
    idle_ms: int
    wait_s: float
    max_active_runs: int
    db: str | None


class GatewayHost:
    """Runs a gateway until it is told to end.

    Args:
        state: claimed already.
    """

    def __init__(self, plan: Plan, state: StateFile, settings: Settings, out: Output) -> None:
        self._plan = plan
        self._state = state
        self._settings = settings
        self._out = out
        self._files = ServedFiles(plan.files, plan.db, self._note)
        self._stop = asyncio.Event()
        self._code = 0
        self._session: str | None = None
        """Lets this user's own clients in; told in the state file."""
        self._minted: str | None = None
        self._follower: GrantFollower | None = None

    async def run(self) -> int:
        """Serve until a signal, or until idle; the exit code. Raises `InvalidInput`, `WorkflowLoadFailed`, `StorageError`."""
        from smithers.cli.driving import TERMINATING, on_signals
        from smithers.cli.patience import patiently

        on_signals({number: partial(self._end, 128 + number) for number in (signal.SIGINT, *TERMINATING)})
        gateway = self._make()
        await self._files.register_all(gateway, self._plan.required)
        following = None if self._follower is None else asyncio.ensure_future(self._follower.run())
        try:
            listen = partial(self._listen, gateway)
            server = await patiently(listen, self._plan.wait_s, self._stop, self._note)
            if server is not None:
                self._tell_start(server)
                with RunLines(self._out, self._settings):
                    await self._stop.wait()
                    if self._out.is_text:
                        self._out.note("closing: runs are parked; once more to end at once")
        finally:
            if following is not None:
                following.cancel()
            closing = asyncio.ensure_future(gateway.close())
            await asyncio.wait([closing], timeout=STOP_PATIENCE_S)
            if not closing.done():
                # work that does not let itself be stopped; once this process is dead, anybody may take its run over
                self._leave()
        await closing
        return self._code

    def _end(self, code: int) -> None:
        if self._stop.is_set() and self._code:
            self._leave()
        self._code = code
        self._stop.set()

    def _leave(self) -> None:
        self._state.release()
        sys.stdout.flush()
        os._exit(self._code)

    # ── making ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _make(self) -> Gateway:
        import smithers
        from smithers.gateway.gateway import Gateway

        plan = self._plan

        async def refresh(key: str) -> None:
            await self._files.refresh(made, key)

        made = Gateway(
            auth=self._auth(),
            insecure=plan.insecure,
            workspace_root=plan.root,
            identity={"backend": plan.backend, "version": smithers.__version__},
            workflow_registry_refresh=refresh,
            workflow_registry_refreshes_known=True,
            workflow_registry_status=self._files.status,
            idle_timeout_ms=plan.idle_ms,
            max_active_runs=plan.max_active_runs,
            on_idle=self._idle,
            settings=self._settings,
        )
        return made

    def _auth(self) -> TokenAuth | None:
        """Tokens, if there is to be any: the operator's, a minted one, those that were issued for this workspace, and one
        for this user's own clients."""
        from smithers.gateway.auth.config import TokenAuth
        from smithers.gateway.auth.grant_file import GrantFile, GrantFollower

        plan = self._plan
        issued = GrantFile(plan.root / GRANTS)
        is_asked = plan.token is not None or plan.mints_token
        if not is_asked and (plan.insecure or issued.stamp() is None):
            return None
        self._session = secrets.token_urlsafe(32)
        found = TokenAuth({self._session: {**_OPERATOR, "tokenId": "session"}})
        if plan.token is not None:
            found.grant(plan.token, _OPERATOR)
        if plan.mints_token:
            self._minted = secrets.token_urlsafe(32)
            found.grant(self._minted, _OPERATOR)
        self._follower = GrantFollower(found, issued)
        return found

    def _idle(self) -> None:
        self._note("nothing to do for a while: the gateway ends")
        self._stop.set()

    async def _listen(self, gateway: Gateway) -> GatewayServer:
        plan = self._plan
        try:
            return await gateway.listen(plan.port, plan.host)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or plan.port == 0:
                where = f"{plan.host}, port {plan.port}"
                raise InvalidInput(f"cannot listen on {where}: {error.strerror or error}") from error
            self._note(f"port {plan.port} is taken; another one is used")
        return await gateway.listen(0, plan.host)

    # ── telling ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _tell_start(self, server: GatewayServer) -> None:
        import smithers

        plan = self._plan
        port = server.port or 0
        url = reachable(server.url)
        self._state.write(
            GatewayState(
                pid=os.getpid(),
                host=plan.host,
                port=port,
                url=url,
                token=self._session,
                workspace_root=str(plan.root),
                backend=plan.backend,
                version=smithers.__version__,
                protocol=1,
                started_at_ms=int(time.time() * 1000),
            )
        )
        out, served = self._out, self._files.status()["workflowsLoaded"]
        if not out.is_text:
            minted = {} if self._minted is None else {"token": self._minted}
            out.record(
                {"event": "listening", "url": url, "pid": os.getpid(), "workspaceRoot": str(plan.root), **minted}
            )
            return
        count = f"{served} workflow{'' if served == 1 else 's'}"
        out.line(f"gateway of {printable(str(plan.root))} at {url}, {count}; Ctrl-C ends it, runs stay resumable")
        if self._minted is not None:
            out.line(f"token (shown only now): {self._minted}")
        if self._session is not None and plan.token is None and self._minted is None:
            self._note("requests need a token of this workspace; see: smithers token list")
        if self._session is None and plan.insecure:
            self._note("anybody who reaches this address may do anything: there is no token")

    def _note(self, text: str) -> None:
        self._out.note(shortened(text, 400))


def reachable(url: str) -> str:
    """An address that clients on this machine can use, of a server that may listen on all."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


class RunLines(logging.Handler):
    """A line for each run that starts or ends, as a context manager; none where the log was asked for and tells it."""

    def __init__(self, out: Output, settings: Settings) -> None:
        super().__init__(logging.INFO)
        self._out = out
        self._is_wanted = settings.log_format is None and settings.log_level is None
        self._log = logging.getLogger(_RUNS)
        self._level = self._log.level

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a run's event; those of its tasks are left out."""
        about = as_object(getattr(record, "smithers", None))
        if "node_id" in about or "run_id" not in about or self._out.is_closed:
            return
        run_id, workflow = str(about["run_id"]), str(about.get("workflow_name"))
        code = about.get("code")
        now = int(record.created * 1000)
        try:
            if not self._out.is_text:
                found = {"event": record.getMessage(), "timestampMs": now, "runId": run_id, "workflow": workflow}
                self._out.record(found | ({"code": code} if code else {}))
                return
            why = f" [{code}]" if code else ""
            self._out.line(f"{clock_time(now)}  {shortened(f'{record.getMessage()}: {workflow} {run_id}{why}', 200)}")
        except OSError:
            self._out.is_closed = True  # whoever read this has gone; the gateway stays

    def __enter__(self) -> RunLines:
        if self._is_wanted:
            self._log.addHandler(self)
            self._log.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_wanted:
            self._log.removeHandler(self)
            self._log.setLevel(self._level)
