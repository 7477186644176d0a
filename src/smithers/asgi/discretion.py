"""Discretion: uvicorn's log lines name the address of a request with its query; a credential in one is not to be logged.

Only connections of our own servers log through this: a program's other servers keep their loggers as they are.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from smithers.observability.redaction import scrub_address

if TYPE_CHECKING:
    Adapter = logging.LoggerAdapter[logging.Logger]
else:
    Adapter = logging.LoggerAdapter


class Discreet(Adapter):
    """A logger whose texts are logged without credentials."""

    @property
    def level(self) -> int:
        """The logger's own level, which uvicorn asks for."""
        return self.logger.level

    def log(self, level: int, msg: object, *args: object, **kwargs: object) -> None:
        """Log a line. What it is about keeps its place: formatters of access logs take it from there."""
        if self.isEnabledFor(level):
            kept = [scrub_address(each) if isinstance(each, str) else each for each in args]
            self.logger.log(level, msg, *kept, **kwargs)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
