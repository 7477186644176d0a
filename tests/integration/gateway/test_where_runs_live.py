"""In which database a gateway's runs are: the workflow's own, else the one that the settings name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from smithers import Gateway, Settings, SmithersWorkflow, Task, Workflow, create_smithers
from smithers.client import GatewayClient
from smithers.store import open_store
from smithers.store.sql import reads

BOTH_DATABASES = True


class Note(BaseModel):
    text: str


def greeting(db: str | Path | None) -> SmithersWorkflow:
    smithers, outputs = create_smithers({"note": Note}, db=db)

    @smithers
    def greet(ctx: object) -> object:
        return Workflow("greet")[Task("say", output=outputs.note)[{"text": "hi"}]]

    return greet


async def run_at(gateway: Gateway) -> str:
    async with gateway:
        server = await gateway.listen(port=0, host="127.0.0.1")
        async with GatewayClient(server.url) as client:
            run_id = str((await client.launch_run("greet"))["runId"])
            await client.wait_for_run(run_id)
    return run_id


def is_there(db: str) -> bool:
    return Path(db).exists()


def is_in(db: str | Path, run_id: str) -> bool:
    store = open_store(db)
    try:
        return store.read(lambda c: reads.run(c, run_id)).status == "finished"
    finally:
        store.close()


@pytest.mark.anyio
async def test_a_workflow_that_names_no_database_is_run_in_the_one_of_the_settings(db: str) -> None:
    workflow = greeting(None)
    gateway = Gateway(settings=Settings(db=db)).register("greet", workflow)
    assert is_in(db, await run_at(gateway))
    assert workflow.db == "smithers.db"  # what was registered is left as it was


@pytest.mark.anyio
async def test_the_environment_names_it_too(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMITHERS_DB", db)
    assert is_in(db, await run_at(Gateway().register("greet", greeting(None))))


@pytest.mark.anyio
@pytest.mark.sqlite
async def test_a_database_that_the_workflow_names_counts_more(db: str, tmp_path: Path) -> None:
    own = tmp_path / "own.db"
    assert is_in(own, await run_at(Gateway(settings=Settings(db=db)).register("greet", greeting(own))))
    assert not is_there(db)


@pytest.mark.anyio
@pytest.mark.sqlite
async def test_without_any_it_is_the_file_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SMITHERS_DB", raising=False)
    assert is_in(tmp_path / "smithers.db", await run_at(Gateway().register("greet", greeting(None))))


def test_a_workflow_that_is_registered_again_is_the_same_one_in_the_database() -> None:
    workflow = greeting(None)
    assert workflow.or_in("a.db") is workflow.or_in("a.db")
    assert workflow.or_in(None) is workflow
    assert workflow.or_in("a.db").or_in("b.db").db == "a.db"
