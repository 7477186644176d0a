"""The library: facts that expire, prompts that stay inside their folder, scores in one order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from smithers.control.control import Control
from smithers.control.library import (
    compare_scores,
    delete_fact,
    list_facts,
    list_prompts,
    list_scores,
    put_fact,
    put_score,
    score_detail,
)
from smithers.errors import InvalidInput, InvalidRequest, RunNotFound, ScoreNotFound, StorageError
from smithers.store import open_store
from smithers.store.interface import NewRun
from smithers.store.sql import control as writes
from smithers.store.sql.library import ScoreDetail, ScoreRow
from smithers.testing import VirtualClock

BOTH_DATABASES = True


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def control(db: str, clock: VirtualClock) -> Iterator[Control]:
    store = open_store(db, durability="normal")
    yield Control(store, clock=clock)
    store.close()


def launch(control: Control, run_id: str) -> None:
    run = NewRun(run_id, "w", None, None, "{}", "{}", None, control.clock.now_ms())
    control.store.write(lambda c: writes.launch(c, run))


# ── facts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_facts_are_listed_by_name_and_kept_per_namespace(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        await put_fact(control, "b", "x", {"a": 1})
        await put_fact(control, "a", "y", None)
        created = clock.now_ms()
        clock.advance(7)
        await put_fact(control, "b", "x", "new")
        found = await list_facts(control)
        assert [(f["namespace"], f["key"], f["valueJson"]) for f in found] == [("a", "y", "null"), ("b", "x", '"new"')]
        assert (found[1]["createdAtMs"], found[1]["updatedAtMs"]) == (created, created + 7)
        assert [f["key"] for f in await list_facts(control, namespace="a")] == ["y"]
        assert await delete_fact(control, "a", "y")
        assert not await delete_fact(control, "a", "y")

    asyncio.run(run())


def test_a_fact_is_hidden_once_it_has_expired(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        await put_fact(control, "n", "k", 1, ttl_ms=10)
        clock.advance(9)
        assert len(await list_facts(control)) == 1
        clock.advance(1)
        assert await list_facts(control) == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("key", "value", "ttl"), [("", 1, None), ("a\0", 1, None), ("k", float("nan"), None), ("k", 1, 0)]
)
def test_what_no_fact_can_be_is_refused(control: Control, key: str, value: object, ttl: int | None) -> None:
    with pytest.raises(InvalidInput):
        asyncio.run(put_fact(control, "n", key, value, ttl_ms=ttl))


# ── prompts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_prompts_are_all_markdown_files_below_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / ".smithers" / "prompts"
    (folder / "review" / ".drafts").mkdir(parents=True)
    (folder / "plan.md").write_text("Plan")
    (folder / "review" / "deep.v2.mdx").write_text("Review")
    for hidden in (folder / ".x.md", folder / "review" / ".drafts" / "y.md", folder / "z.txt"):
        hidden.write_text("no prompt")

    found = asyncio.run(list_prompts(tmp_path))

    assert [(p["id"], p["entryFile"], p["source"]) for p in found] == [
        ("plan", "prompts/plan.md", "Plan"),
        ("review/deep.v2", "prompts/review/deep.v2.mdx", "Review"),
    ]


def test_no_folder_means_no_prompts(tmp_path: Path) -> None:
    assert asyncio.run(list_prompts(tmp_path)) == []


def test_no_link_leads_out_of_the_prompts(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("secret")
    folder = tmp_path / "root" / ".smithers" / "prompts"
    folder.mkdir(parents=True)
    (folder / "link.md").symlink_to(outside / "secret.md")
    (folder / "links").symlink_to(outside)

    assert asyncio.run(list_prompts(tmp_path / "root")) == []


def test_a_folder_of_prompts_that_is_a_link_out_of_the_root_is_not_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("secret")
    (tmp_path / "root" / ".smithers").mkdir(parents=True)
    (tmp_path / "root" / ".smithers" / "prompts").symlink_to(outside)

    assert asyncio.run(list_prompts(tmp_path / "root")) == []


def test_prompts_beyond_the_bounds_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ".smithers" / "prompts"
    folder.mkdir(parents=True)
    for name, size in (("a", 4), ("b", 11), ("c", 5), ("d", 4)):
        (folder / f"{name}.md").write_text("x" * size)
    monkeypatch.setattr("smithers.control.library.MAX_PROMPT_BYTES", 10)
    monkeypatch.setattr("smithers.control.library.MAX_PROMPTS_BYTES", 12)

    assert [p["id"] for p in asyncio.run(list_prompts(tmp_path))] == ["a", "c"]


# ── scores ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def score(
    id: str, run_id: str = "r", at: int = 0, node: str = "n", source: str = "live", scorer: str = "s"
) -> ScoreRow:
    return ScoreRow(id, run_id, node, 0, 1, scorer, scorer.upper(), source, 0.5, None, at, 1.5, None)


def test_scores_are_listed_oldest_first(control: Control) -> None:
    launch(control, "r")

    async def run() -> None:
        for each in (score("b", at=2), score("a", at=1, node="m"), score("c", at=2, node="m", scorer="t")):
            await put_score(control, each)
        assert [s["nodeId"] for s in await list_scores(control, "r")] == ["m", "m", "n"]
        assert [s["scorerId"] for s in await list_scores(control, "r", node_id="m")] == ["s", "t"]
        with pytest.raises(RunNotFound):
            await list_scores(control, "x")

    asyncio.run(run())


def test_the_same_scorer_of_the_same_attempt_scores_once(control: Control) -> None:
    launch(control, "r")

    async def run() -> None:
        await put_score(control, score("a"))
        await put_score(control, score("b")._replace(score=1.0))
        assert [s["score"] for s in await list_scores(control, "r")] == [1.0]

    asyncio.run(run())


def test_scores_of_several_runs_and_databases_are_compared_in_one_order(control: Control, tmp_path: Path) -> None:
    other = Control(open_store(tmp_path / "other.db", durability="normal"), clock=control.clock)
    homes = {"r2": control, "r1": control, "r3": other}
    for run_id, home in homes.items():
        launch(home, run_id)

    async def run() -> None:
        for at, run_id in enumerate(["r3", "r1", "r2", "r1", "r3"]):
            await put_score(homes[run_id], score(f"{run_id}-{at}", run_id, at // 2, node=f"n{at}"))
        found = await compare_scores(homes)
        assert [row["scoreId"] for row in _rows(found)] == ["r1-1", "r3-0", "r1-3", "r2-2", "r3-4"]
        assert found["total"] == 5
        newest = await compare_scores(homes, order="scoredAtDesc", offset=1, limit=2)
        assert [row["scoreId"] for row in _rows(newest)] == ["r1-3", "r2-2"]
        assert newest["total"] == 5
        assert (await compare_scores(homes, node_id="n4"))["total"] == 1
        assert await compare_scores(homes, source="batch") == {"rows": [], "total": 0}
        assert await compare_scores({}) == {"rows": [], "total": 0}
        with pytest.raises(RunNotFound):
            await compare_scores({"r2": control, "r9": control})

    asyncio.run(run())
    other.store.close()


def _rows(found: dict[str, object]) -> list[dict[str, object]]:
    return cast("list[dict[str, object]]", found["rows"])


@pytest.mark.parametrize(("offset", "limit"), [(-1, 1), (10_000, 1), (0, 0), (0, 501), (9_900, 200)])
def test_comparisons_have_bounds(control: Control, offset: int, limit: int) -> None:
    with pytest.raises(InvalidRequest):
        asyncio.run(compare_scores({}, offset=offset, limit=limit))


def test_a_scores_detail_is_what_was_scored(control: Control) -> None:
    launch(control, "r")

    async def run() -> None:
        await put_score(control, score("a"), ScoreDetail(meta_json='{"m":1}', input_json="[1]", output_json='"x"'))
        found = await score_detail(control, "r", "a")
        assert {k: found[k] for k in ("scoreId", "meta", "input", "output", "groundTruth", "context")} == {
            "scoreId": "a", "meta": {"m": 1}, "input": [1], "output": "x", "groundTruth": None, "context": None,
        }  # fmt: skip
        with pytest.raises(ScoreNotFound):
            await score_detail(control, "r", "b")
        with pytest.raises(RunNotFound):
            await score_detail(control, "x", "a")
        await put_score(control, score("c", node="m"), ScoreDetail(meta_json="{"))
        with pytest.raises(StorageError):
            await score_detail(control, "r", "c")

    asyncio.run(run())
