"""RPC: documents and tickets. Every registered workflow's database may hold some; new ones go into the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Literal

from pydantic import Field

from smithers.control import documents
from smithers.control.control import Control
from smithers.errors import TicketNotFound
from smithers.gateway.problems import RpcError
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.registry import Area, Codes, Params
from smithers.gateway.rpc.runs import Moment, NonEmpty, limit_of

area = Area()
_NO_TICKET: Final[Codes] = {TicketNotFound: "NOT_FOUND"}
_TOUCHES: Final = ("tickets", "docs")
Kind = Literal["ticket", "plan", "spec", "proposal"]


async def _merged(call: RpcCall, rows: Mapping[int, list[dict[str, object]]]) -> list[dict[str, object]]:
    """Rows of several databases: of each path the newest, the newest change first."""
    newest: dict[str, dict[str, object]] = {}
    for found in rows.values():
        for row in found:
            path = str(row["path"])
            before = newest.get(path)
            if before is None or _moment(row) > _moment(before):
                newest[path] = row
    return sorted(newest.values(), key=lambda row: (-_moment(row), str(row["path"])))


def _moment(row: Mapping[str, object]) -> int:
    value = row.get("updatedAtMs")
    return value if isinstance(value, int) else 0


class DocFilter(Params):
    """Which documents."""

    field_codes: ClassVar[Mapping[str, str]] = {"limit": "INVALID_INPUT"}

    kind: str | None = None
    include_deleted: bool | None = None
    updated_after_ms: Moment | None = None
    limit: int | str | None = None


class ListDocsParams(Params):
    """Which documents."""

    filter: DocFilter = Field(default_factory=DocFilter)


@area.method("listDocs", scope="run:read", params=ListDocsParams)
async def list_docs(call: RpcCall, params: ListDocsParams) -> list[dict[str, object]]:
    """Documents of all kinds, the newest change first."""
    given = params.filter
    limit = limit_of(given.limit, documents.DEFAULT_DOCS, documents.MAX_DOCS)
    rows = {
        number: await documents.list_docs(
            place.control,
            kind=given.kind,
            include_deleted=given.include_deleted is True,
            updated_after_ms=given.updated_after_ms,
            limit=limit,
        )
        for number, place in enumerate(await call.services.launching.places())
    }
    return (await _merged(call, rows))[:limit]


class ListTicketsParams(Params):
    """Which tickets."""

    kind: Kind | None = None


@area.method("listTickets", scope="ticket:read", params=ListTicketsParams)
async def list_tickets(call: RpcCall, params: ListTicketsParams) -> list[dict[str, object]]:
    """Tickets that are there, the newest change first."""
    places = await call.services.launching.places()
    rows = {n: await documents.list_tickets(place.control, kind=params.kind) for n, place in enumerate(places)}
    return await _merged(call, rows)


class CreateTicketParams(Params):
    """A ticket."""

    path: NonEmpty
    content: str
    kind: Kind | None = None
    status: str | None = None


@area.method(
    "createTicket", scope="ticket:write", params=CreateTicketParams, errors=("INVALID_REQUEST",), touches=_TOUCHES
)
async def create_ticket(call: RpcCall, params: CreateTicketParams) -> dict[str, object]:
    """Store a ticket, or replace the one at this path."""
    control = await _home(call, params.path)
    if control is None:
        places = await call.services.launching.places()
        if not places:
            raise RpcError("INVALID_REQUEST", "no workflow is registered whose database could hold the ticket")
        control = places[0].control
    return await documents.put_ticket(control, params.path, params.content, kind=params.kind, status=params.status)


class UpdateTicketParams(Params):
    """What to change of a ticket."""

    path: NonEmpty
    content: str | None = None
    status: str | None = None


@area.method(
    "updateTicket",
    scope="ticket:write",
    params=UpdateTicketParams,
    codes=_NO_TICKET,
    errors=("INVALID_REQUEST", "NOT_FOUND"),
    touches=_TOUCHES,
)
async def update_ticket(call: RpcCall, params: UpdateTicketParams) -> dict[str, object]:
    """Change a ticket's text or status."""
    control = await _require_home(call, params.path)
    return await documents.update_ticket(control, params.path, content=params.content, status=params.status)


class TicketParams(Params):
    """Names a ticket."""

    path: NonEmpty


@area.method(
    "deleteTicket",
    scope="ticket:write",
    params=TicketParams,
    codes=_NO_TICKET,
    errors=("INVALID_REQUEST", "NOT_FOUND"),
    touches=_TOUCHES,
)
async def delete_ticket(call: RpcCall, params: TicketParams) -> dict[str, object]:
    """Delete a ticket."""
    return await documents.delete_ticket(await _require_home(call, params.path), params.path)


async def _home(call: RpcCall, path: str) -> Control | None:
    """The database whose version of a ticket is the one that lists show."""
    found: tuple[int, Control] | None = None
    for place in await call.services.launching.places():
        row = await documents.find(place.control, path)
        if row is not None and (found is None or row.updated_at_ms > found[0]):
            found = row.updated_at_ms, place.control
    return None if found is None else found[1]


async def _require_home(call: RpcCall, path: str) -> Control:
    control = await _home(call, path)
    if control is None:
        raise TicketNotFound(f"there is no ticket {path!r:.120}", {"path": path})
    return control
