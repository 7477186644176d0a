"""`doctor`: what this installation and this machine can do, and the way out where something is missing."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from smithers.cli.arguments import as_list, as_object
from smithers.cli.common import Common, find_database
from smithers.cli.output import Output, printable
from smithers.errors import StorageError, StoreNotFound
from smithers.settings import Settings
from smithers.store import database_name

AGENTS_PACKAGE = "pydantic-ai-slim"
OTLP_PACKAGE = "opentelemetry-exporter-otlp-proto-http"


def doctor(*, common: Common | None = None) -> int:
    """Show what this machine offers, and what it can enforce for commands. Exits with 1 if it cannot isolate them."""
    common = common or Common()

    import apsw

    from smithers.observability.redaction import scrub_value
    from smithers.tools.sandbox import report

    sandbox = report()
    is_enforced = sandbox["isEnforced"] is True
    found: dict[str, object] = {
        "ok": is_enforced,
        "smithers": _version("smithers"),
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "sqlite": apsw.sqlite_lib_version(),
        "psycopg": _version("psycopg"),
        "database": _database(common),
        "pydanticAi": _version(AGENTS_PACKAGE),
        "telemetry": _telemetry(common.settings),
        "sandbox": sandbox,
    }
    found = dict(as_object(scrub_value(found)))
    out = common.output
    if out.is_text:
        _tell(out, found, dict(as_object(found["sandbox"])))
    else:
        out.document(found)
    return 0 if is_enforced else 1


def _database(common: Common) -> str | None:
    try:
        return database_name(find_database(common.settings))
    except StoreNotFound:
        return None
    except StorageError as error:
        return f"cannot be used: {error.summary}"


def _telemetry(settings: Settings) -> dict[str, object]:
    return {
        "isOn": settings.otel_enabled,
        "exporters": _version(OTLP_PACKAGE),
        "endpoint": settings.otel_endpoint if settings.otel_enabled else None,
    }


def _tell_telemetry(telemetry: Mapping[str, object]) -> str:
    if not telemetry["isOn"]:
        return "off; SMITHERS_OTEL_ENABLED=1 turns it on"
    if telemetry["exporters"] is None:
        return "on, but not installed: pip install 'smithers[otel]'"
    return f"sent to {telemetry['endpoint']}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tell(out: Output, found: dict[str, object], sandbox: dict[str, object]) -> None:
    python = as_object(found["python"])
    rows = [
        ("smithers", str(found["smithers"])),
        ("python", f"{python.get('version')} ({python.get('executable')})"),
        ("sqlite", str(found["sqlite"])),
        ("psycopg", str(found["psycopg"] or "not installed; PostgreSQL needs it: pip install 'smithers[postgres]'")),
        ("database", str(found["database"] or "none found from here; the first run makes one")),
        ("pydantic-ai", str(found["pydanticAi"] or "not installed; agents need it: pip install 'smithers[agents]'")),
        ("telemetry", _tell_telemetry(as_object(found["telemetry"]))),
        ("system", f"{sandbox['platform']} {sandbox['kernel']}"),
        ("bubblewrap", str(sandbox["bubblewrap"] or "not installed")),
        ("landlock", f"ABI {sandbox['landlockAbi']}" if sandbox["landlockAbi"] else "not available"),
        ("cgroups", ", ".join(str(name) for name in as_list(sandbox["cgroups"])) or "none can be used"),
    ]
    wide = max(len(name) for name, _ in rows)
    for name, text in rows:
        out.line(f"{out.style(f'{name:<{wide}}', 'dim')}  {printable(text)}")
    _tell_isolation(out, sandbox)


_WORDS = {
    "loopback": "own loopback",
    "pidNamespace": "processes of others",
    "noNewPrivileges": "new privileges",
    "rlimits": "memory and file sizes",
    "processes": "number of processes",
}
"""What the report's shorter names mean; the others are words already."""


def _tell_isolation(out: Output, sandbox: dict[str, object]) -> None:
    chosen = sandbox["launcher"]
    out.line()
    if chosen is None:
        out.line(f"{out.style('✗', 'red')} the commands of the bash tool cannot be isolated here, so they are refused")
    else:
        out.line(
            f"{out.style('✓', 'green')} the commands of the bash tool are isolated by {printable(str(chosen))}; kept in check:"
        )
    for name, trial in as_object(sandbox["launchers"]).items():
        fields = as_object(trial)
        holds = as_object(fields.get("holds"))
        enforced = ", ".join(_WORDS.get(aspect, aspect) for aspect, is_held in holds.items() if is_held)
        lacking = ", ".join(_WORDS.get(aspect, aspect) for aspect, is_held in holds.items() if not is_held)
        out.line(f"  {printable(name)}: {enforced or 'enforces nothing'}{f'; without {lacking}' if lacking else ''}")
        for text in as_list(fields.get("missing")):
            out.line(f"    {out.style('missing', 'yellow')}: {printable(str(text))}")
    if way_out := sandbox["wayOut"]:
        out.line()
        out.line(printable(str(way_out)))
