"""Tooling: what a launch says about the tools of its run, as it is stored in the run's config and read back by whoever
goes on with the run. What tools do with it is `smithers.tools`'.
"""

from __future__ import annotations

from collections.abc import Mapping

from smithers.ambient import LONGEST_TIMEOUT_MS, MOST_OUTPUT_BYTES, SandboxMode
from smithers.errors import InvalidInput
from smithers.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOptions:
    """How the tools of a run work.

    Attributes:
        allow_network: whether commands may reach other machines.
        sandbox: `"off"` runs commands without isolation.
        max_output_bytes: the most that a tool reads, writes or returns; None for the tools' own default.
        timeout_ms: the longest that a command or search may take, in milliseconds; None for the tools' own default.
    """

    allow_network: bool = False
    sandbox: SandboxMode = "required"
    max_output_bytes: int | None = None
    timeout_ms: int | None = None

    @classmethod
    def of(cls, config: Mapping[str, object]) -> ToolOptions:
        """Those of a stored config; what is not there, or no number, is the default."""
        most, longest = config.get("maxOutputBytes"), config.get("toolTimeoutMs")
        return cls(
            allow_network=config.get("allowNetwork") is True,
            sandbox="off" if config.get("sandbox") == "off" else "required",
            max_output_bytes=most if type(most) is int else None,
            timeout_ms=longest if type(longest) is int else None,
        )

    def config(self) -> dict[str, object]:
        """What of it is stored: what differs from the defaults."""
        found: dict[str, object] = {}
        if self.allow_network:
            found["allowNetwork"] = True
        if self.sandbox != "required":
            found["sandbox"] = self.sandbox
        if self.max_output_bytes is not None:
            found["maxOutputBytes"] = self.max_output_bytes
        if self.timeout_ms is not None:
            found["toolTimeoutMs"] = self.timeout_ms
        return found

    def check(self) -> ToolOptions:
        """Itself, if its values can be. Raises `InvalidInput` naming the option."""
        if self.sandbox not in ("required", "off"):
            _refuse("sandbox", self.sandbox, "'required' or 'off'")
        _check_number("max_output_bytes", self.max_output_bytes, MOST_OUTPUT_BYTES)
        _check_number("tool_timeout_ms", self.timeout_ms, LONGEST_TIMEOUT_MS)
        return self


DEFAULT = ToolOptions()


def _check_number(name: str, value: object, most: int) -> None:
    if value is not None and (type(value) is not int or not 1 <= value <= most):
        _refuse(name, value, f"a whole number from 1 to {most}")


def _refuse(name: str, value: object, wanted: str) -> None:
    raise InvalidInput(f"{name} is {value!r}; it must be {wanted}", {"field": name})
