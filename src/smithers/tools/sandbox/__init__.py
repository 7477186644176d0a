"""Isolation of the commands that `bash` runs, enforced by the Linux kernel.

`policy.py` says what a command may see and use, `bwrap.py` and `namespaces.py` carry that out, `inner.py` gives up the
rest from inside, `launch.py` puts them together, `probe.py` finds out what this machine can do.
"""

from __future__ import annotations

from smithers.tools.sandbox.probe import report

__all__ = ["report"]
