"""`python -m smithers` is the command line."""

from __future__ import annotations

from smithers.cli.app import main

if __name__ == "__main__":
    main()
