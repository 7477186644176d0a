"""The one place of this package that looks at the process environment, and only when an agent is called.

The environment belongs to agents here, not to our settings: a child program inherits it, and the variables of
OpenAI-compatible endpoints are a convention that others share.
"""

from __future__ import annotations

import os


def current_environment() -> dict[str, str]:
    """A copy of the process environment as it is now."""
    return dict(os.environ)  # noqa: TID251 - read at the call, as the module's docstring says
