"""Options: how a command's signature says what its type alone does not: names, help, what a value may look like.

A command is a function whose positional parameters are its arguments and whose keyword parameters are its options. The
metadata here belongs into `Annotated`. A parameter whose type is a dataclass stands for one option per field. Two readers
go by such a signature: `quick.py` binds the plain command lines, `described.py` hands the rest, and help and completion, to
cyclopts.
"""

from __future__ import annotations

from typing import Final

MAX_NUMBER: Final = 2**53 - 1
"""The largest number that JSON keeps, in whatever program reads it; databases hold more."""


def whole_number(text: str) -> int:
    """A number as it stands on a command line: digits, and a minus before them. Raises ValueError for anything else, and for
    what is too large to be meant."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 16 or int(digits) > MAX_NUMBER:
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


class Option:
    """What is to be known about one option.

    Args:
        names: how it is written; `--` and the parameter's name by default.
        help: one sentence; by default what the command's docstring says.
        is_switch: a flag that has no `--no-…` to go with it.
        takes_dashes: whether its value may begin with a dash, as JSON and prose may.
    """

    __slots__ = ("help", "is_switch", "names", "takes_dashes")

    def __init__(
        self, *names: str, help: str | None = None, is_switch: bool = False, takes_dashes: bool = False
    ) -> None:
        self.names = names
        self.help = help
        self.is_switch = is_switch
        self.takes_dashes = takes_dashes
