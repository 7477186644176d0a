"""Library: what workflows share beside their runs, as a gateway lists it: memory facts, prompts on disk and scores.

Agent accounts and what is left of them are in `accounts.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic_core import from_json, to_json

from smithers.control.control import Control
from smithers.control.documents import read_text
from smithers.errors import InvalidInput, InvalidRequest, ScoreNotFound, StorageError
from smithers.store.sql import library as table
from smithers.store.sql import reads
from smithers.store.sql.library import FactRow, ScoreDetail, ScoreFilter, ScoreRow

Wire = dict[str, object]

MAX_FACTS: Final = 10_000
MAX_SCORES: Final = 10_000
MAX_COMPARED_RUNS: Final = 30
MAX_COMPARED: Final = 500
MAX_NAME: Final = 256
MAX_FACT_BYTES: Final = 1_048_576
MAX_PROMPTS: Final = 2_000
MAX_PROMPT_BYTES: Final = 1_048_576
MAX_PROMPTS_BYTES: Final = 16_777_216
MAX_PROMPT_DEPTH: Final = 16


# ── memory facts ───────────────────────────────────────────────────────────────────────────────────────────────────


async def list_facts(control: Control, *, namespace: str | None = None) -> list[Wire]:
    """Facts (`MemoryFact`) that have not expired, by namespace and key; at most `MAX_FACTS`."""
    now = control.clock.now_ms()
    rows = await control.store.aread(lambda c: table.facts(c, namespace, now, MAX_FACTS))
    return [
        {
            "namespace": row.namespace,
            "key": row.key,
            "valueJson": row.value_json,
            "schemaSig": row.schema_sig,
            "createdAtMs": row.created_at_ms,
            "updatedAtMs": row.updated_at_ms,
            "ttlMs": row.ttl_ms,
        }
        for row in rows
    ]


async def put_fact(
    control: Control,
    namespace: str,
    key: str,
    value: object,
    *,
    ttl_ms: int | None = None,
    schema_sig: str | None = None,
) -> None:
    """Store a fact, in place of one of that name. Raises `InvalidInput` naming the parameter."""
    for name, text in (("namespace", namespace), ("key", key)):
        if not 0 < len(text) <= MAX_NAME or not text.isprintable():
            raise InvalidInput(f"{name} must have 1 to {MAX_NAME} printable characters", {"field": name})
    if ttl_ms is not None and ttl_ms < 1:
        raise InvalidInput(f"ttl_ms must be at least 1, not {ttl_ms}", {"field": "ttl_ms"})
    try:
        stored = to_json(value, inf_nan_mode="constants")
        from_json(stored, allow_inf_nan=False)
    except Exception as error:
        raise InvalidInput(f"value is not JSON: {error}", {"field": "value"}) from error
    if len(stored) > MAX_FACT_BYTES:
        raise InvalidInput(f"value has {len(stored)} bytes; at most {MAX_FACT_BYTES} are kept", {"field": "value"})
    now = control.clock.now_ms()
    row = FactRow(namespace, key, stored.decode(), schema_sig, now, now, ttl_ms)
    await control.store.awrite(lambda c: table.put_fact(c, row))


async def delete_fact(control: Control, namespace: str, key: str) -> bool:
    """Forget a fact. Whether there was one."""
    return await control.store.awrite(lambda c: table.delete_fact(c, namespace, key))


# ── prompts ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def list_prompts(root: Path) -> list[Wire]:
    """The prompts in `<root>/.smithers/prompts`: `{id, entryFile, source, updatedAtMs}`, by id."""
    return await asyncio.to_thread(read_prompts, root)


def read_prompts(root: Path) -> list[Wire]:
    """As `list_prompts`. Every `.md` and `.mdx` file but hidden ones; links are not followed, out of the root least of
    all, and files beyond the bounds are left out."""
    folder = root / ".smithers" / "prompts"
    try:
        if not folder.resolve(strict=True).is_relative_to(root.resolve(strict=True)):
            return []
    except (OSError, RuntimeError):
        return []
    found: list[Wire] = []
    left = MAX_PROMPTS_BYTES
    for file in _prompt_files(folder):
        read = read_text(file, min(MAX_PROMPT_BYTES, left)) if left > 0 else None
        if read is None:
            continue
        text, status = read
        left -= status.st_size
        path = file.relative_to(folder)
        found.append(
            {
                "id": path.with_suffix("").as_posix(),
                "entryFile": f"prompts/{path.as_posix()}",
                "source": text,
                "updatedAtMs": status.st_mtime_ns // 1_000_000,
            }
        )
    return sorted(found, key=lambda prompt: (str(prompt["id"]), str(prompt["entryFile"])))


def _prompt_files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for place, folders, files in os.walk(folder, followlinks=False):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(n for n in folders if not n.startswith(".")) if depth < MAX_PROMPT_DEPTH else []
        for name in sorted(files):
            if name.endswith((".md", ".mdx")) and not name.startswith("."):
                found.append(Path(place, name))
                if len(found) == MAX_PROMPTS:
                    return found
    return found


# ── scores ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def score_wire(row: ScoreRow) -> Wire:
    """A score (`ScoreRow`), as it is sent."""
    return {
        "runId": row.run_id,
        "nodeId": row.node_id,
        "iteration": row.iteration,
        "attempt": row.attempt,
        "scorerId": row.scorer_id,
        "scorerName": row.scorer_name,
        "source": row.source,
        "score": row.score,
        "reason": row.reason,
        "scoredAtMs": row.scored_at_ms,
        "latencyMs": row.latency_ms,
        "durationMs": row.duration_ms,
    }


async def put_score(control: Control, row: ScoreRow, detail: ScoreDetail | None = None) -> None:
    """Store a score, in place of an earlier one by the same scorer of the same attempt."""
    await control.store.awrite(lambda c: table.put_score(c, row, detail or ScoreDetail()))


async def list_scores(control: Control, run_id: str, *, node_id: str | None = None) -> list[Wire]:
    """Scores of a run, or of one of its nodes, oldest first; at most `MAX_SCORES`. Raises `RunNotFound`."""

    def query(c: reads.Session) -> list[ScoreRow]:
        reads.run(c, run_id)
        return table.scores(c, run_id, node_id, MAX_SCORES)

    return [score_wire(row) for row in await control.store.aread(query)]


async def compare_scores(
    homes: Mapping[str, Control],
    *,
    node_id: str | None = None,
    scorer_id: str | None = None,
    scorer_name: str | None = None,
    source: Literal["live", "batch"] | None = None,
    order: Literal["scoredAtAsc", "scoredAtDesc"] = "scoredAtAsc",
    offset: int = 0,
    limit: int = MAX_COMPARED,
) -> Wire:
    """Scores of several runs in one order: `{rows, total}`, each row a score with its `scoreId`.

    Args:
        homes: the database of each run, by run id; whoever makes this finds out which run is unknown.
        offset: how many rows to leave out; with `limit` at most `MAX_SCORES`.

    Raises `InvalidRequest` or `RunNotFound`.
    """
    if len(homes) > MAX_COMPARED_RUNS:
        raise InvalidRequest(f"runIds may name at most {MAX_COMPARED_RUNS} runs", {"field": "runIds"})
    if not 0 <= offset < MAX_SCORES:
        raise InvalidRequest(f"offset must be 0 to {MAX_SCORES - 1}", {"field": "offset"})
    if not 1 <= limit <= MAX_COMPARED or offset + limit > MAX_SCORES:
        raise InvalidRequest(
            f"limit must be 1 to {MAX_COMPARED}, and at most {MAX_SCORES} with offset", {"field": "limit"}
        )
    wanted = ScoreFilter(node_id, scorer_id, scorer_name, source)
    is_descending = order == "scoredAtDesc"
    groups: dict[int, tuple[Control, list[str]]] = {}
    for run_id, control in homes.items():
        groups.setdefault(id(control), (control, []))[1].append(run_id)
    rows: list[ScoreRow] = []
    total = 0
    for control, run_ids in groups.values():
        found, count = await _compared(control, run_ids, wanted, is_descending=is_descending, limit=offset + limit)
        rows += found
        total += count
    sign = -1 if is_descending else 1
    rows.sort(key=lambda r: (sign * r.scored_at_ms, r.run_id, r.node_id, r.iteration, r.attempt, r.scorer_id, r.id))
    page = rows[offset : offset + limit]
    return {"rows": [{"scoreId": row.id, **score_wire(row)} for row in page], "total": total}


async def _compared(
    control: Control, run_ids: Sequence[str], wanted: ScoreFilter, *, is_descending: bool, limit: int
) -> tuple[list[ScoreRow], int]:
    def query(c: reads.Session) -> tuple[list[ScoreRow], int]:
        for run_id in run_ids:
            reads.run(c, run_id)
        return table.compared(c, run_ids, wanted, is_descending=is_descending, limit=limit)

    return await control.store.aread(query)


async def score_detail(control: Control, run_id: str, score_id: str) -> Wire:
    """A score with what was scored. Raises `RunNotFound`, `ScoreNotFound`, or `StorageError` for one that is stored
    wrongly."""

    def query(c: reads.Session) -> tuple[ScoreRow, ScoreDetail] | None:
        reads.run(c, run_id)
        return table.score(c, run_id, score_id)

    found = await control.store.aread(query)
    if found is None:
        raise ScoreNotFound(f"run {run_id!r} has no score {score_id!r:.300}", {"runId": run_id, "scoreId": score_id})
    row, detail = found
    names = ("meta", "input", "output", "groundTruth", "context")
    try:
        decoded = {name: _decoded(text) for name, text in zip(names, detail, strict=True)}
    except ValueError as error:
        raise StorageError(
            f"what score {score_id!r} was given for is not stored as JSON", {"scoreId": score_id}
        ) from error
    return {"scoreId": row.id, **score_wire(row), **decoded}


def _decoded(text: str | None) -> object:
    found: object = None if text is None else from_json(text, allow_inf_nan=False)
    return found
