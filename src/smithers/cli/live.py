"""Live: shows a run while it is driven. A moving table on a terminal, plain lines in a pipe, JSON lines for programs."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from smithers.cli.output import STATE_STYLES, Output, clock_time, duration, printable, shortened
from smithers.cli.progress import RunView, TaskView, Wire, words

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

MAX_ROWS = 200
_COLUMNS = 7
_MARKS = {"finished": "✓", "failed": "✗", "skipped": "-", "cancelled": "-", "pending": "·", "in-progress": "●"}


class Reporter(Protocol):
    """Shows events as they come. `view` holds what they add up to; the event is already in it."""

    def begin(self) -> None:
        """The run is there; events follow."""
        ...

    def show(self, event: Wire, view: RunView) -> None:
        """Tell of an event."""
        ...

    def say(self, text: str) -> None:
        """Tell a person something that is no event."""
        ...

    def stop(self) -> None:
        """Show no more; leave the screen in order."""
        ...


def make_reporter(out: Output) -> Reporter:
    """The reporter that fits where the output goes."""
    if out.format == "jsonl":
        return LinesOfJson(out)
    if out.format == "json":
        return Silent(out)
    return Screen(out) if out.is_terminal else Lines(out)


class Silent:
    """Shows nothing: the one document comes at the end."""

    def __init__(self, out: Output) -> None:
        self._out = out

    def begin(self) -> None:
        """Nothing to prepare."""

    def show(self, event: Wire, view: RunView) -> None:
        """Nothing to show."""

    def say(self, text: str) -> None:
        """To stderr: stdout holds JSON."""
        with suppress(BrokenPipeError):
            self._out.note(text)

    def stop(self) -> None:
        """Nothing to stop."""


class LinesOfJson(Silent):
    """One event a line, as streams have them."""

    def show(self, event: Wire, view: RunView) -> None:
        """Write the event."""
        with suppress(BrokenPipeError):  # a reader that goes must not end the run
            if not self._out.is_closed:
                self._out.record(event)


class Lines(Silent):
    """One line per event that matters."""

    def say(self, text: str) -> None:
        """A line among the others."""
        if not self._out.is_closed:
            with suppress(BrokenPipeError):
                self._out.line(text)

    def show(self, event: Wire, view: RunView) -> None:
        """Write the event in words."""
        text = words(event)
        if text is not None and not self._out.is_closed:
            with suppress(BrokenPipeError):
                self._out.line(f"{clock_time(_int(event.get('timestampMs')))}  {text}")


class Screen:
    """A table that is drawn anew as the run goes on; needs a terminal."""

    def __init__(self, out: Output) -> None:
        from rich.console import Console
        from rich.live import Live

        self._out = out
        self._view = RunView()
        self._console = Console(no_color=not out.has_color, highlight=False)
        self._live: Live = Live(
            console=self._console,
            get_renderable=self._draw,
            refresh_per_second=8,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def begin(self) -> None:
        """Take over the lower part of the screen."""
        self._live.start()

    def show(self, event: Wire, view: RunView) -> None:
        """The next redraw shows it. What belongs to no task is told above the table."""
        self._view = view
        if str(event["type"]).startswith("WorkflowReload") and (text := words(event)) is not None:
            self.say(text)

    def say(self, text: str) -> None:
        """A line above the table."""
        from rich.text import Text

        self._console.print(Text(printable(text)))

    def stop(self) -> None:
        """Draw a last time and leave the table standing."""
        if self._live.is_started:
            self._live.refresh()
            self._live.stop()

    def _draw(self) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        view, now = self._view, int(time.time() * 1000)
        height = max(3, self._console.height - 4)
        table = Table.grid(padding=(0, 2))
        for _ in range(_COLUMNS):
            table.add_column(no_wrap=True, overflow="ellipsis")
        shown = visible(list(view.tasks.values()), min(height, MAX_ROWS))
        for task in shown:
            table.add_row(*_cells(task, now))
        hidden = len(view.tasks) - len(shown)
        end = now if view.status == "running" else view.last_at_ms
        parts = [
            view.status,
            view.summary(),
            f"{view.tokens:,} tokens" if view.tokens else "",
            duration(end - view.started_at_ms) if view.started_at_ms is not None else "",
            f"{hidden} not shown" if hidden else "",
        ]
        return Group(table, Text(" · ".join(filter(None, parts)), style="dim"))


def visible(tasks: list[TaskView], room: int) -> list[TaskView]:
    """The tasks to show when there is not room for all: those that move first, in their order."""
    if len(tasks) <= room:
        return tasks
    rank = {"in-progress": 0, "retrying": 0, "failed": 1, "pending": 3, "finished": 4}
    places = sorted(range(len(tasks)), key=lambda i: (rank.get(tasks[i].state, 2), -i if tasks[i].ended_at_ms else i))
    return [tasks[i] for i in sorted(places[:room])]


def _cells(task: TaskView, now: int) -> list[str]:
    from rich.markup import escape

    style = STATE_STYLES.get(task.state, "yellow")
    took = task.took_ms(now)
    attempt = f"attempt {task.attempt}" if task.attempt > 1 else ""
    tokens = f"{task.tokens:,} tok" if task.tokens else ""
    return [
        f"[{style}]{_MARKS.get(task.state, '…')}[/]",
        escape(shortened(task.name, 60)),
        f"[{style}]{task.state}[/]",
        "" if took is None else duration(took),
        attempt,
        tokens,
        escape(shortened(task.note, 80)),
    ]


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
