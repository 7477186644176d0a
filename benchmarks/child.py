"""One measurement in a process of its own: `python -m benchmarks.child MODULE:FUNCTION N SCRATCH` prints its figures as JSON."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path


def main() -> None:
    """Call the function and print what it returns."""
    place, n, scratch = sys.argv[1:]
    module, function = place.split(":")
    figures = getattr(import_module(f"benchmarks.{module}"), function)(int(n), Path(scratch))
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
