"""The `smithers` command: wires commands to their modules, which are imported only when they are called, and turns what
goes wrong into one line and an exit code.

Exit codes: 0 done, 1 failure, 2 cancelled or asked to pause, 3 parked, 4 wrong arguments or something that the user can
put right, 130 and 143 after SIGINT and SIGTERM.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Literal, NoReturn, cast

import smithers
from smithers.cli.output import Format, Output, documents, keep_documents_apart
from smithers.errors import (
    AuthoringError,
    Forbidden,
    InvalidInput,
    RunError,
    SmithersError,
    StoreNotFound,
)

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

USER_ERROR = 4
INTERRUPTED = 130
PIPE_CLOSED = 141
GC_THRESHOLD = 50_000
"""Allocations between collections. Imports allocate much and free nothing; Python's default looks through it all the time."""

COMMANDS = (
    ("up", "running.up", "Run a workflow until it ends or can only wait."),
    ("resume", "running.resume", "Go on with a stored run."),
    ("ps", "listing.ps", "List runs."),
    ("inspect", "inspecting.inspect", "Show everything about a run."),
    ("logs", "logs.logs", "Show what happened in a run, in words."),
    ("events", "logs.events", "Show the events of a run in full."),
    ("output", "inspecting.output", "Show the row that a node has produced."),
    ("approve", "deciding.approve", "Approve what a run waits for."),
    ("deny", "deciding.deny", "Deny what a run waits for."),
    ("answer", "deciding.answer", "Answer the question of a human task."),
    ("signal", "deciding.signal", "Send a signal to a run."),
    ("cancel", "requesting.cancel", "Cancel a run and its children."),
    ("pause", "requesting.pause", "Ask a live run to finish what is under way and pause."),
    ("why", "whying.why", "Tell why a run or a step is where it is, and what would move it."),
    ("timeline", "differing.timeline", "Show the frames of a run, and what was forked from them."),
    ("diff", "differing.diff", "Show what differs between two frames, or two runs."),
    ("rewind", "travelling.rewind", "Take a run back to a frame, for good."),
    ("fork", "branching.fork", "Make a new run that begins as another was at a frame."),
    ("replay", "branching.replay", "Make a new run as fork does, and go on with it."),
    ("retry-task", "travelling.retry_task", "Do a step again, with what was built upon it."),
    ("timetravel", "travelling.timetravel", "Take a step back to before an attempt of it."),
    ("graph", "graphing.graph", "Draw the tree of a workflow or a run."),
    ("check", "checking.check", "Load a workflow and look for mistakes, without running it."),
    ("doctor", "doctoring.doctor", "Show what this machine offers, and what it can enforce for commands."),
    ("init", "starting.init", "Write a starter project that runs offline."),
    ("supervise", "supervising.supervise", "Go on with runs when what they wait for arrives."),
    ("worker", "working.worker", "Drive runs that others have launched."),
    ("launch", "working.launch", "Store a run for workers to start."),
    ("queue list", "queueing.queue_list", "Show what waits for workers, and the limits."),
    ("queue limit", "queueing.queue_limit", "Hold starts back, by queue or workflow."),
    ("queue rm", "queueing.queue_rm", "Take a limit away."),
    ("gateway", "gatewaying.gateway", "Serve workflows over HTTP and WebSocket."),
    ("gateway status", "gatewaying.gateway_status", "Tell whether the gateway of this workspace runs, and where."),
    ("gateway stop", "gatewaying.gateway_stop", "Stop the gateway of this workspace."),
    ("token issue", "tokens.token_issue", "Issue a token for the gateway of this workspace."),
    ("token list", "tokens.token_list", "List the tokens that were issued."),
    ("token revoke", "tokens.token_revoke", "Refuse a token from now on."),
    ("token exec", "tokens.token_exec", "Run a command with a token of its own."),
    ("db migrate", "databasing.db_migrate", "Make the database, or bring its schema up to date."),
    ("db check", "databasing.db_check", "Look whether what the database holds is sound."),
    ("db copy", "databasing.db_copy", "Copy everything into a new database, of either kind, and compare the two."),
    ("snapshots", "workspace.snapshots", "List the checkpoints of a run's files."),
    ("restore", "workspace.restore", "Put files back to what a step left of them."),
    ("revert", "workspace.revert", "Put files back to what one attempt left of them, and note it in the run."),
    ("worktree list", "workspace.worktree_list", "List the worktrees that runs have made."),
    ("worktree prune", "workspace.worktree_prune", "Remove worktrees that no run needs any more."),
    ("cron list", "scheduling.cron_list", "List schedules."),
    ("cron add", "scheduling.cron_add", "Store a schedule."),
    ("cron rm", "scheduling.cron_rm", "Forget a schedule."),
    ("cron run", "scheduling.cron_run", "Start what a schedule starts, now."),
    ("cron history", "scheduling.cron_history", "Show when a schedule has fired, and what came of it."),
)
"""Names, places within `smithers.cli`, and what help says. A name of two words is a command of a group."""
GROUPS = {
    "gateway": "Serve workflows over HTTP and WebSocket.",
    "token": "Tokens for the gateway of this workspace: issued, listed and revoked while it runs.",
    "queue": "Runs that wait for workers, and the limits that hold starts back.",
    "db": "The database: its schema, its soundness, and its way from SQLite to PostgreSQL and back.",
    "worktree": "Worktrees that runs have made.",
    "cron": "Schedules, which the gateway looks after.",
}


def make_app() -> App:
    """The command line, without any command's module imported."""
    from cyclopts import App

    app = App(
        name="smithers",
        help="A durable orchestrator for AI workflows.",
        version=smithers.__version__,
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
        help_format="plaintext",
    )
    groups: set[str] = set()
    for number, (name, place, help_text) in enumerate(COMMANDS):
        group = name.split()[0]
        if group in GROUPS:
            if group not in groups:
                groups.add(group)
                app.command(f"smithers.cli.described:group.{group}", name=group, help=GROUPS[group], sort_key=number)
            continue
        app.command(f"smithers.cli.described:{place}", name=name, help=help_text, sort_key=number)

    @app.command(name="completions", sort_key=len(COMMANDS))
    def completions(shell: Literal["bash", "zsh", "fish"], /) -> int:
        """Print the completion script of a shell.

        Parameters
        ----------
        shell
            The shell to complete for.
        """
        Output().line(app.generate_completion(shell=shell))
        return 0

    del completions
    return app


def make_group(group: str) -> App:
    """The commands of a group, and what its name does alone, if it does anything."""
    from cyclopts import App

    from smithers.cli import described

    app = App(name=group, help=GROUPS[group], help_format="plaintext")
    for number, (name, place, help_text) in enumerate(COMMANDS):
        first, _, own_name = name.partition(" ")
        if name == group:
            app.default(getattr(described, place))
        elif first == group:
            app.command(f"smithers.cli.described:{place}", name=own_name, help=help_text, sort_key=number)
    return app


def exit_code(error: SmithersError) -> int:
    """What a command that ends with this error exits with."""
    from smithers.errors import CronNotFound, ServerInsecureBind, VcsError  # which are loaded only when they are needed

    users = (
        InvalidInput,
        RunError,
        AuthoringError,
        Forbidden,
        VcsError,
        StoreNotFound,
        ServerInsecureBind,
        CronNotFound,
    )
    is_users = isinstance(error, users)
    return USER_ERROR if is_users else 1


def run(tokens: Sequence[str]) -> int:
    """Run one command line; the exit code. Errors are told, never raised."""
    output = Output(_wanted_format(tokens))
    try:
        _set_up_logging()
        result = _call(_with_resume_value(tokens))
        return result if isinstance(result, int) else 0
    except _NotUnderstood as error:
        output.failure(InvalidInput(str(error)))
        return USER_ERROR
    except SmithersError as error:
        if "--debug" in tokens:
            _traceback()
        output.failure(error)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return PIPE_CLOSED
    except Exception as error:
        if "--debug" in tokens:
            _traceback()
            return 1
        summary = f"unexpected {type(error).__name__}: {error}; run the command with --debug for the traceback"
        output.failure(SmithersError(summary))
        return 1


def _set_up_logging() -> None:
    """Log as the environment asks for; if it does not, Python's own way shows warnings on standard error."""
    from smithers.settings import Settings

    settings = Settings.from_environment()
    if settings.log_format is not None or settings.log_level is not None:
        from smithers.observability.logs import configure_logging

        configure_logging(settings)


class _NotUnderstood(Exception):
    """The command line is wrong; one line says how."""


def _call(tokens: Sequence[str]) -> object:
    """Call the command that is meant. Plain command lines are bound here, all others by cyclopts."""
    bound = bound_command(tokens)
    if bound is not None:
        result = bound()
        if not isinstance(result, Coroutine):
            return result
        import asyncio

        return asyncio.run(cast("Coroutine[object, object, object]", result))
    from cyclopts import CycloptsError

    try:
        return make_app()(tokens)
    except CycloptsError as error:
        raise _NotUnderstood(_first_line(error)) from error


def bound_command(tokens: Sequence[str]) -> Callable[[], object] | None:
    """The command with its arguments, if that can be told without cyclopts."""
    places = {name: place for name, place, _ in COMMANDS}
    words = next((n for n in (2, 1) if " ".join(tokens[:n]) in places), 0)
    if words == 0 or "--help" in tokens or "-h" in tokens:
        return None
    place = places[" ".join(tokens[:words])]
    from smithers.cli.quick import NotPlain, bind

    module, name = place.split(".")
    with suppress(NotPlain):
        return bind(getattr(import_module(f"smithers.cli.{module}"), name), tokens[words:])
    return None


def main() -> NoReturn:
    """Entry point of the `smithers` command."""
    gc.set_threshold(GC_THRESHOLD)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    tokens = sys.argv[1:]
    is_for_programs = _wanted_format(tokens) != "text" and tokens[:2] != ["token", "exec"]
    if is_for_programs and not {"--help", "-h", "--version"}.intersection(tokens):
        keep_documents_apart()
    try:
        code = run(tokens)
        sys.stdout.flush()
    except BrokenPipeError:
        code = PIPE_CLOSED
    if code == PIPE_CLOSED:  # or the interpreter would complain at its end that it cannot flush
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.dup2(nowhere, documents().fileno())
    if code in (INTERRUPTED, 129, 143) and threading.active_count() > 1:
        # a thread cannot be stopped, and the interpreter would wait for the work that was just given up
        sys.stderr.flush()
        os._exit(code)
    gc.freeze()  # or the interpreter would look through everything once more at its end
    sys.exit(code)


def _wanted_format(tokens: Sequence[str]) -> Format:
    """The format as far as it can be told before (or without) understanding the rest."""
    last = ""
    for before, token in zip(["", *tokens], tokens, strict=False):
        if before == "--format":
            last = token
        elif token.startswith("--format="):
            last = token.removeprefix("--format=")
    return "json" if last == "json" else "jsonl" if last == "jsonl" else "text"


def _with_resume_value(tokens: Sequence[str]) -> list[str]:
    """`up … --resume` may stand alone; then `--run-id` says which run is meant. Gives it an empty value."""
    found = list(tokens)
    if found[:1] == ["up"] and "--resume" in found:
        at = found.index("--resume")
        follows = found[at + 1 : at + 2]
        others = [t for t in found[1:at] if not t.startswith("-")]
        if not follows or follows[0].startswith("-") or (not others and follows[0].endswith(".py")):
            found[at] = "--resume="
    return found


def _first_line(error: CycloptsError) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _traceback() -> None:
    import traceback

    traceback.print_exc()


if __name__ == "__main__":
    main()
