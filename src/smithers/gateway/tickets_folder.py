"""Tickets folder: keeps tickets up to date with a folder of Markdown files. One way only: files to database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from smithers.control.control import Control
from smithers.control.documents import import_tickets
from smithers.errors import SmithersError

log = logging.getLogger(__name__)
LOOK_S: Final = 2.0
"""How often the folder is looked at where the operating system is not asked to tell."""


async def watch_tickets(control: Control, folder: Path, changed: Callable[[], None]) -> None:
    """Import the folder's files now and whenever one of them has changed, until cancelled.

    Args:
        changed: told after tickets were stored.
    """
    async for _ in _moments(folder):
        try:
            if await import_tickets(control, folder):
                changed()
        except SmithersError as error:
            log.warning("tickets were not imported", extra={"code": error.error_code})


async def _moments(folder: Path) -> AsyncIterator[None]:
    """Now, and each time that something in the folder may have changed."""
    yield
    if find_spec("watchfiles") is not None and await asyncio.to_thread(folder.is_dir):
        from watchfiles import awatch  # pyright: ignore[reportUnknownVariableType]

        async for _ in awatch(folder, recursive=False):
            yield
    while True:
        await asyncio.sleep(LOOK_S)
        yield
