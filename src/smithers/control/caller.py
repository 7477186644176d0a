"""Caller: who asks, and what they may do. Every door makes one; the control layer judges by it."""

from __future__ import annotations

from smithers.errors import Forbidden
from smithers.jsons import list_of
from smithers.records import dataclass
from smithers.store.interface import ApprovalRow


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request: a name, a role, and scopes (`*` is all of them); and which credential tells those apart that
    have no name."""

    user: str | None = None
    role: str = "operator"
    scopes: tuple[str, ...] = ()
    token_id: str | None = None

    def has_scope(self, *wanted: str) -> bool:
        """Whether one of the scopes is held."""
        return "*" in self.scopes or any(scope in self.scopes for scope in wanted)


def require_decider(caller: Caller, row: ApprovalRow, request: dict[str, object]) -> None:
    """Hold a caller to what the approval allows. Raises `Forbidden`."""
    users = [str(user) for user in list_of(request.get("allowedUsers"))]
    scopes = [str(scope) for scope in list_of(request.get("allowedScopes"))]
    if users and caller.user not in users:
        raise Forbidden(
            f"approval {row.node_id!r} may be decided by {', '.join(users)} only, not by {caller.user or 'nobody'}",
            {"nodeId": row.node_id, "allowedUsers": users},
        )
    if scopes and not caller.has_scope(*scopes):
        raise Forbidden(
            f"approval {row.node_id!r} needs one of the scopes {', '.join(scopes)}",
            {"nodeId": row.node_id, "allowedScopes": scopes},
        )
