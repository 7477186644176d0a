"""RPC: what runs leave behind and work from: memory, prompts, scores; and the accounts of this user."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from smithers.control import accounts, library
from smithers.control.control import Control
from smithers.errors import RunNotFound, ScoreNotFound
from smithers.gateway.problems import RpcError
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.registry import Area, ClosedParams, Codes, NoParams, Params
from smithers.gateway.rpc.runs import NonEmpty

area = Area()
_NO_SCORE: Final[Codes] = {RunNotFound: "RunNotFound", ScoreNotFound: "ScoreNotFound"}
MAX_NAME: Final = 256
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]


class FactsParams(Params):
    """Of which namespace."""

    namespace: str | None = None


@area.method("listMemoryFacts", scope="memory:read", params=FactsParams)
async def list_memory_facts(call: RpcCall, params: FactsParams) -> list[dict[str, object]]:
    """Facts that runs remember, by namespace and key."""
    found: dict[tuple[str, str], dict[str, object]] = {}
    for place in await call.services.launching.places():
        for row in await library.list_facts(place.control, namespace=params.namespace):
            found.setdefault((str(row["namespace"]), str(row["key"])), row)
    return [found[key] for key in sorted(found)]


@area.method("listPrompts", scope="prompt:read", params=NoParams)
async def list_prompts(call: RpcCall, params: NoParams) -> list[dict[str, object]]:
    """Prompts of the workspace."""
    return await library.list_prompts(call.services.options.workspace_root or Path.cwd())


# ── scores ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class ScoresParams(Params):
    """Of which run, or which node of it."""

    run_id: NonEmpty
    node_id: str | None = None


@area.method("listScores", scope="score:read", params=ScoresParams, errors=("INVALID_REQUEST", "NOT_FOUND"))
async def list_scores(call: RpcCall, params: ScoresParams) -> list[dict[str, object]]:
    """Scores of a run, oldest first."""
    return await library.list_scores(await call.control(params.run_id), params.run_id, node_id=params.node_id)


class CompareParams(ClosedParams):
    """Which scores of which runs, in which order."""

    run_ids: Annotated[list[str], Field(max_length=library.MAX_COMPARED_RUNS)]
    node_id: str | None = None
    scorer_id: str | None = None
    scorer_name: str | None = None
    source: Literal["live", "batch"] | None = None
    order: Literal["scoredAtAsc", "scoredAtDesc"] = "scoredAtAsc"
    offset: Annotated[int, Field(ge=0, lt=library.MAX_SCORES)] = 0
    limit: Annotated[int, Field(ge=1, le=library.MAX_COMPARED)] = library.MAX_COMPARED


@area.method(
    "listScoresForRuns",
    scope="score:read",
    params=CompareParams,
    codes=_NO_SCORE,
    errors=("INVALID_REQUEST", "RunNotFound"),
)
async def list_scores_for_runs(call: RpcCall, params: CompareParams) -> dict[str, object]:
    """Scores of several runs in one order."""
    homes: dict[str, Control] = {}
    for given in params.run_ids:
        run_id = _named(given, "runIds")
        if run_id not in homes:
            homes[run_id] = await call.control(run_id)
    return await library.compare_scores(
        homes,
        node_id=params.node_id,
        scorer_id=params.scorer_id,
        scorer_name=params.scorer_name,
        source=params.source,
        order=params.order,
        offset=params.offset,
        limit=params.limit,
    )


class ScoreParams(ClosedParams):
    """Names a score."""

    run_id: Name
    score_id: Name


@area.method(
    "getScoreDetail",
    scope="score:read",
    params=ScoreParams,
    codes=_NO_SCORE,
    errors=("INVALID_REQUEST", "RunNotFound", "ScoreNotFound", "Internal"),
)
async def get_score_detail(call: RpcCall, params: ScoreParams) -> dict[str, object]:
    """A score with what was scored."""
    run_id = _named(params.run_id, "runId")
    return await library.score_detail(await call.control(run_id), run_id, _named(params.score_id, "scoreId"))


def _named(text: str, field: str) -> str:
    name = text.strip()
    if not name or len(name) > MAX_NAME:
        raise RpcError(
            "INVALID_REQUEST", f"{field} must have 1 to {MAX_NAME} characters that are not blank", field=field
        )
    return name


# ── accounts ───────────────────────────────────────────────────────────────────────────────────────────────────────


@area.method("listAccounts", scope="account:read", params=NoParams)
async def list_accounts(call: RpcCall, params: NoParams) -> list[dict[str, object]]:
    """The accounts of this user, without their keys."""
    return await accounts.list_accounts(call.services.accounts_file)


class UsageParams(Params):
    """How current."""

    fresh: bool = False


@area.method("listUsageReports", scope="account:read", params=UsageParams)
async def list_usage_reports(call: RpcCall, params: UsageParams) -> list[dict[str, object]]:
    """What is used of each account."""
    return await call.services.usage.reports(fresh=params.fresh)
