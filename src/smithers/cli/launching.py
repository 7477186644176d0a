"""Launching: the options of `up` that belong together, and what they add up to. The command itself is in `running`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from smithers.cli.options import Option
from smithers.errors import InvalidInput
from smithers.records import dataclass


@dataclass(frozen=True)
class Resumption:
    """Options of `up` for a run that is stored already."""

    resume: Annotated[
        str | None, Option(help="Go on with the stored run of this id; alone, with that of --run-id.")
    ] = None
    force: Annotated[bool, Option(help="With --resume: take over although the owner seems alive.", is_switch=True)] = (
        False
    )
    accept_workflow_change: Annotated[
        bool, Option(help="With --resume: go on although the workflow's source changed.", is_switch=True)
    ] = False

    def run_of(self, run_id: str | None) -> str | None:
        """The run to go on with, if one is; `run_id` is that of `--run-id`. Raises `InvalidInput`."""
        if self.resume is None:
            return None
        found = self.resume or run_id
        if not found:
            raise InvalidInput("--resume: which run? Give its id: --resume RUN, or --run-id RUN --resume")
        if run_id is not None and run_id != found:
            raise InvalidInput(f"--resume names run {found!r}, --run-id names {run_id!r}")
        return found


@dataclass(frozen=True)
class ToolLimits:
    """Options of `up` for what the run's tools may do."""

    allow_network: Annotated[
        bool, Option(help="Let the commands of this run's tools reach other machines.", is_switch=True)
    ] = False
    sandbox: Annotated[
        Literal["required", "off"],
        Option(help='"off" runs these commands without isolation: for a container or machine that holds nothing else.'),
    ] = "required"
    max_output_bytes: Annotated[
        int | None, Option(help="The most that a tool of this run reads, writes or returns; 200000 by default.")
    ] = None
    tool_timeout_ms: Annotated[
        int | None,
        Option(
            "--tool-timeout-ms",
            "--tool-timeout",
            help="The longest that a command or search of these tools takes, in milliseconds; 60000 by default.",
        ),
    ] = None

    def flags(self) -> list[str]:
        """The options again, for a process in the background."""
        return [
            *(["--allow-network"] if self.allow_network else []),
            *(["--sandbox", self.sandbox] if self.sandbox != "required" else []),
            *(["--max-output-bytes", str(self.max_output_bytes)] if self.max_output_bytes is not None else []),
            *(["--tool-timeout-ms", str(self.tool_timeout_ms)] if self.tool_timeout_ms is not None else []),
        ]


@dataclass(frozen=True)
class Asked:
    """What `up` was asked to run, and how."""

    workflow: Path
    input: dict[str, object] | None
    annotations: dict[str, object] | None
    run_id: str | None
    resumed: str | None
    resumption: Resumption
    max_concurrency: int | None
    root: Path | None
    tools: ToolLimits
    wait: bool
    hot: bool

    def check(self) -> None:
        """Raises `InvalidInput`: options do not go together."""
        how = self.resumption
        if self.resumed is None and (how.force or how.accept_workflow_change):
            raise InvalidInput(f"{'--force' if how.force else '--accept-workflow-change'}: belongs to --resume")

    def flags(self) -> list[str]:
        """What of it goes to a process in the background as it was given."""
        return [
            *(["--force"] if self.resumption.force else []),
            *(["--accept-workflow-change"] if self.resumption.accept_workflow_change else []),
            *self.tools.flags(),
            *(["--hot"] if self.hot else ["--wait"] if self.wait else []),
        ]
