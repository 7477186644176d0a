"""Where a PostgreSQL database is: a URL, parsed once, of which nothing secret is ever shown."""

from __future__ import annotations

from dataclasses import field
from urllib.parse import urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from smithers.errors import StorageError
from smithers.records import dataclass

_ALWAYS = {"client_encoding": "UTF8"}
_UNLESS_GIVEN = {
    "application_name": "smithers",
    "connect_timeout": "10",
    # a host that has gone says nothing: without these, a connection to it is waited on for a quarter of an hour
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}

_MALFORMED = "the PostgreSQL URL of the database is malformed; a password in it has to be percent-encoded"


@dataclass(frozen=True, slots=True)
class Address:
    """A database that can be connected to; two that connect alike are equal.

    Attributes:
        conninfo: what libpq is given. Holds the password.
        display: a URL of the same database to show and to keep, without the password.
        name: the database's name.
    """

    conninfo: str = field(repr=False)
    display: str
    name: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """The address that a `postgresql://` URL names. Raises `StorageError` if it is not one."""
        try:
            given = {key: str(value) for key, value in conninfo_to_dict(url).items()}
        except psycopg.Error:
            # libpq's message repeats the URL, and psycopg's exception keeps it
            raise StorageError(_MALFORMED) from None
        ports, hosts = given.get("port", "").split(","), given.get("host", "").split(",")
        # a password that is not percent-encoded may end up in these, which libpq and we show
        if not all(port.isdigit() for port in ports if port) or any("@" in host[1:] for host in hosts):
            raise StorageError(_MALFORMED)
        name = given.get("dbname") or given.get("user") or "postgres"
        return cls(make_conninfo("", **_UNLESS_GIVEN | given | _ALWAYS), _display(given, name), name)


def _display(given: dict[str, str], name: str) -> str:
    user = f"{given['user']}@" if "user" in given else ""
    host, place = given.get("host", "localhost"), ""
    rest = {key: given[key] for key in sorted(given.keys() - _SHOWN) if "password" not in key and "secret" not in key}
    if host.startswith(("/", "@")):
        rest = {"host": host} | rest
    else:
        place = f"{host}:{given['port']}" if "port" in given else host
    options = f"?{urlencode(rest, safe='/@')}" if rest else ""
    return f"postgresql://{user}{place}/{name}{options}"


_SHOWN = {"user", "host", "port", "dbname"}
