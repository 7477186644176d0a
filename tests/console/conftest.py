"""What the browser tests share: a gateway with things to look at, and a real browser that looks at it."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pydantic import BaseModel
from tests.conformance.gateway.support import House

from smithers import Approval, Task, WaitForEvent, Workflow, create_smithers
from smithers import Sequence as Steps
from smithers.agents.calls import Usage
from smithers.components.context import Context
from smithers.testing import fake_agent

HOSTILE = '<img src=x onerror="globalThis.hacked=1"><script>globalThis.hacked=1</script>\'"&amp;'
"""Markup that runs if anybody takes it for markup."""
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PATIENCE_MS = 60_000
held = threading.Event()
"""What the first task of `slow` waits for."""


class Note(BaseModel):
    """What tasks write."""

    text: str


class Verdict(BaseModel):
    """What gates write."""

    approved: bool
    note: str | None = None


class Choice(BaseModel):
    """What selections write."""

    selected: str = ""


class Ranking(BaseModel):
    """What rankings write."""

    ranked: list[str] = []


def _workflows(db: Path) -> dict[str, dict[str, object]]:
    models: dict[str, type[BaseModel]] = {"note": Note, "verdict": Verdict, "choice": Choice, "ranking": Ranking}
    smithers, outputs = create_smithers(models, db=db)
    options = [{"key": "a", "label": "Apples"}, {"key": "b", "label": HOSTILE, "summary": HOSTILE}]

    @smithers
    def gated(ctx: Context[object]) -> Workflow:
        """Asks before it goes on."""
        return Workflow("gated")[
            Steps[
                Task("draft", output=outputs.note)[lambda: {"text": "a first draft"}],
                Approval("ship", output=outputs.verdict, request={"title": "Ship it?", "summary": "All of it"}),
                Task("publish", output=outputs.note)[lambda: {"text": "published"}],
            ]
        ]

    @smithers
    def hostile(ctx: Context[object]) -> Workflow:
        return Workflow("hostile")[
            Steps[
                Task("a", output=outputs.note, label=HOSTILE)[lambda: {"text": HOSTILE}],
                Approval(
                    "pick",
                    output=outputs.choice,
                    mode="select",
                    options=options,
                    request={"title": HOSTILE, "summary": HOSTILE},
                ),
                Approval("order", output=outputs.ranking, mode="rank", options=options, request={"title": "Order?"}),
            ]
        ]

    @smithers
    def waiting(ctx: Context[object]) -> Workflow:
        return Workflow("waiting")[WaitForEvent("paid", event="paid", correlation_id="order-7", output=outputs.note)]

    @smithers
    def slow(ctx: Context[object]) -> Workflow:
        async def wait() -> dict[str, object]:
            await asyncio.to_thread(held.wait, PATIENCE_MS / 1000)
            return {"text": "at last"}

        writer = fake_agent(Note, {"text": "written"}, model="tiny-1", usage=Usage(1200, 34))
        return Workflow("slow")[
            Steps[Task("wait", output=outputs.note)[wait], Task("write", output=outputs.note, agent=writer)["Write."]]
        ]

    @smithers
    def broken(ctx: Context[object]) -> Workflow:
        def fail() -> dict[str, object]:
            raise ValueError(HOSTILE)

        return Workflow("broken")[Task("bad", output=outputs.note, retries=0)[fail]]

    hostile.__doc__ = HOSTILE
    return {
        "gated": {"workflow": gated, "schedule": "0 8 * * 1-5"},
        "hostile": {"workflow": hostile},
        "waiting": {"workflow": waiting, "ui": True},
        "slow": {"workflow": slow},
        "broken": {"workflow": broken},
    }


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A gateway that listens."""
    folder = tmp_path_factory.mktemp("console")
    with House(folder, _workflows(folder / "console.db")) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. It ends with the module: as long as it is there, no other test could start an event loop."""
    path = next((there for name in _NAMES if (there := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is installed; scripts/_chromium installs one")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=_FLAGS) as started:
        yield started


@pytest.fixture
def page(browser: Browser, house: House) -> Iterator[Page]:
    """A window on the gateway. No page may have run foreign script, broken its own policy, or failed unseen."""
    context = browser.new_context(base_url=house.url, viewport={"width": 1200, "height": 900})
    troubles: list[str] = []
    with context, context.new_page() as found:
        found.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        found.on("pageerror", lambda error: troubles.append(str(error)))
        found.on(
            "console", lambda message: troubles.append(message.text) if "Content Security" in message.text else None
        )
        yield found
        assert found.evaluate("globalThis.hacked") is None
        assert troubles == []
