"""The console in a real browser, against a real gateway."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, WebSocketRoute, expect
from tests.conformance.gateway.support import House
from tests.console.conftest import HOSTILE, held


def badge(page: Page) -> Locator:
    """The run's status on its page."""
    return page.get_by_label("State").locator(".badge").first


def test_a_run_is_launched_watched_and_approved_without_a_reload(page: Page, house: House) -> None:
    page.goto("/console")
    expect(page.get_by_role("status").first).to_have_text("Live")
    page.get_by_role("link", name="Workflows").click()
    page.get_by_role("row", name="gated").get_by_role("link", name="Launch").click()
    page.get_by_label("Input (JSON object)").fill('{"size": 3}')
    page.get_by_role("button", name="Launch").click()

    expect(badge(page)).to_have_text("waiting-approval")
    expect(page.get_by_label("State")).to_contain_text("waits for an approval at ship")
    expect(page.get_by_role("link", name="Approvals")).to_contain_text("1")
    page.get_by_label("Note").fill("go ahead")
    page.get_by_role("button", name="Approve").click()

    expect(badge(page)).to_have_text("finished")
    nodes = page.get_by_role("table", name="Nodes")
    expect(nodes.get_by_role("row", name="publish")).to_contain_text("finished")
    events = page.get_by_role("table", name="Events")
    expect(events).to_contain_text("approval.decided")
    expect(events).to_contain_text("run.completed")
    nodes.get_by_role("button", name="publish").click()
    expect(page.get_by_label("Output", exact=True)).to_contain_text('"published"')
    run_id = page.get_by_role("heading", level=1).inner_text()
    assert house.ok("getRun", runId=run_id)["status"] == "finished"


def test_the_tree_of_a_run_grows_by_itself_and_leads_to_its_nodes(page: Page, house: House) -> None:
    run_id = house.start("gated", until="waiting-approval")
    page.goto(f"/console#/runs/{run_id}")
    tree = page.get_by_role("list", name="Tree", exact=True)

    def task(name: str) -> Locator:
        return tree.get_by_role("listitem").filter(has=page.get_by_role("button", name=name)).last

    expect(task("draft")).to_contain_text("finished")
    expect(task("ship")).to_contain_text("approvalshipwaiting-approval")
    expect(task("publish")).to_contain_text("pending")
    button = tree.get_by_role("button", name="publish").element_handle()
    tree.locator("summary").first.click()
    expect(task("publish")).to_be_hidden()
    house.ok("submitApproval", runId=run_id, nodeId="ship", iteration=0, approved=True)
    tree.locator("summary").first.click()
    expect(task("ship")).to_contain_text("finished")
    expect(task("publish")).to_contain_text("finished")
    assert button.evaluate("element => element.isConnected"), "a click on it would have been lost"
    tree.get_by_role("button", name="publish").click()
    expect(page.get_by_label("Output", exact=True)).to_contain_text('"published"')


def test_input_that_is_no_json_object_is_refused_in_the_form(page: Page, house: House) -> None:
    before = len(house.ok("listRuns", filter={"limit": 1000}))
    page.goto("/console#/workflows/gated")
    field = page.get_by_label("Input (JSON object)")
    for text in ('{"size": ', "[1]", "3"):
        field.fill(text)
        page.get_by_role("button", name="Launch").click()
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_be_focused()
    assert len(house.ok("listRuns", filter={"limit": 1000})) == before


def test_launching_twice_with_one_key_starts_one_run(page: Page) -> None:
    page.goto("/console#/workflows/gated")
    page.get_by_text("Options").click()
    page.get_by_label("Idempotency key").fill("one-and-the-same")
    page.get_by_role("button", name="Launch").click()
    expect(page).to_have_url(re.compile("/console#/runs/."))
    first = page.url.rpartition("/")[2]
    expect(page.get_by_role("heading", level=1)).to_have_text(first)
    page.go_back()
    page.get_by_text("Options").click()
    page.get_by_label("Idempotency key").fill("one-and-the-same")
    page.get_by_role("button", name="Launch").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(first)


def test_hostile_data_stays_text_everywhere(page: Page, house: House) -> None:
    run_id = house.start("hostile", until="waiting-approval")
    failed = house.start("broken", until="failed")
    page.goto("/console#/workflows")
    expect(page.get_by_role("row", name="hostile")).to_contain_text(HOSTILE)
    page.goto(f"/console#/runs/{run_id}")
    expect(page.get_by_role("table", name="Nodes")).to_contain_text(HOSTILE)
    expect(page.get_by_role("article")).to_contain_text(HOSTILE)
    page.get_by_role("table", name="Nodes").get_by_role("button", name="a", exact=True).click()
    expect(page.get_by_label("Output", exact=True)).to_contain_text("<img src=x")
    page.goto(f"/console#/runs/{failed}")
    page.get_by_role("table", name="Nodes").get_by_role("button", name="bad").click()
    expect(page.get_by_role("table", name="Attempts")).to_contain_text("<img src=x")
    page.goto("/console#/runs/%3Cimg%20src%3Dx%20onerror%3D%22globalThis.hacked%3D1%22%3E")
    expect(page.get_by_role("alert").filter(has_text="NOT_FOUND").first).to_be_visible()
    assert page.locator("img").count() == 0


def test_choices_and_orders_are_decided_in_the_inbox(page: Page, house: House) -> None:
    run_id = house.start("hostile", until="waiting-approval")
    page.goto("/console#/approvals")
    card = page.get_by_role("article").filter(has_text=run_id)
    card.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert").filter(has_text="Choose one")).to_be_visible()
    card.get_by_label("Apples").check()
    card.get_by_role("button", name="Approve").click()
    expect(card).to_contain_text("Order?")
    card.get_by_role("button", name="Move Apples down").click()
    card.get_by_role("button", name="Approve").click()
    expect(card).to_have_count(0)
    page.goto(f"/console#/runs/{run_id}")
    expect(badge(page)).to_have_text("finished")
    assert house.ok("getNodeOutput", runId=run_id, nodeId="pick")["row"]["selected"] == "a"
    assert house.ok("getNodeOutput", runId=run_id, nodeId="order")["row"]["ranked"] == ["b", "a"]


def test_a_denial_is_recorded_with_its_note(page: Page, house: House) -> None:
    run_id = house.start("gated", until="waiting-approval")
    page.goto(f"/console#/runs/{run_id}")
    page.get_by_label("Note").fill("not yet")
    page.get_by_role("button", name="Deny").click()
    expect(page.get_by_role("article")).to_have_count(0)
    expect(page.get_by_role("table", name="Events")).to_contain_text("approval.decided")


def test_a_run_that_waits_for_a_signal_gets_it_from_a_form_that_is_filled_in(page: Page, house: House) -> None:
    run_id = house.start("waiting", until="waiting-event")
    page.goto(f"/console#/runs/{run_id}")
    expect(page.get_by_label("Signal", exact=True)).to_have_value("paid")
    expect(page.get_by_label("Correlation id")).to_have_value("order-7")
    page.get_by_label("Payload (JSON)").fill('{"text": "thanks"}')
    page.get_by_role("button", name="Send").click()
    expect(badge(page)).to_have_text("finished")


def test_a_run_is_cancelled_after_a_second_click(page: Page, house: House) -> None:
    run_id = house.start("gated", until="waiting-approval")
    page.goto(f"/console#/runs/{run_id}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    assert house.ok("getRun", runId=run_id)["status"] == "waiting-approval"
    page.get_by_role("button", name="Really cancel?").click()
    expect(badge(page)).to_have_text("cancelled")
    expect(page.get_by_role("button", name="Run again")).to_be_visible()


def test_a_run_is_paused_and_resumed_and_its_tokens_are_counted(page: Page, house: House) -> None:
    run_id = house.start("slow")
    page.goto(f"/console#/runs/{run_id}")
    expect(page.get_by_role("table", name="Nodes").get_by_role("row", name="wait")).to_contain_text("in-progress")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_label("State")).to_contain_text("asked for")
    held.set()
    expect(badge(page)).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(badge(page)).to_have_text("finished")
    expect(page.get_by_role("table", name="Token usage").get_by_role("row", name="tiny-1")).to_contain_text("1200")


def test_a_lost_connection_is_shown_and_made_up_for(page: Page, house: House) -> None:
    sockets: list[WebSocketRoute] = []

    def through(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    page.route_web_socket("**/*", through)
    run_id = house.start("gated", until="waiting-approval")
    page.goto(f"/console#/runs/{run_id}")
    events = page.get_by_role("table", name="Events")
    expect(events).to_contain_text("approval.requested")
    indicator = page.get_by_role("status").first
    expect(indicator).to_have_text("Live")
    page.evaluate(
        "() => { globalThis.seen = []; const node = document.querySelector('.link-state');"
        "new MutationObserver(() => seen.push(node.textContent)).observe(node, {childList: true}); }"
    )
    sockets[-1].close(code=1012)
    house.ok("submitApproval", runId=run_id, nodeId="ship", approved=True)
    expect(badge(page)).to_have_text("finished")
    expect(indicator).to_have_text("Live")
    expect(events).to_contain_text("run.completed")
    assert page.evaluate("seen")[0] == "Offline, trying again"
    numbers = page.locator("table[aria-label^=Events] td[data-label='No.']").all_inner_texts()
    assert len(numbers) == len(set(numbers))


def test_runs_appear_by_themselves_and_are_filtered_and_paged(page: Page, house: House) -> None:
    for _ in range(26):
        house.start("gated")
    page.goto("/console#/runs")
    runs = page.get_by_role("table", name="Runs")
    expect(runs.locator("tbody tr")).to_have_count(25)
    page.get_by_role("button", name="Load more").click()
    expect(runs.locator("tbody tr")).not_to_have_count(25)
    oldest = house.ok("listRuns", filter={"limit": 1000})[25]["runId"]
    expect(runs).to_contain_text(oldest)
    new = house.start("broken")
    expect(runs).to_contain_text(new)
    expect(runs).to_contain_text(oldest)
    page.get_by_label("Workflow").select_option("broken")
    expect(runs.get_by_role("row").nth(1)).to_contain_text("broken")
    expect(runs).not_to_contain_text("gated")
    page.get_by_label("Status").select_option("failed")
    expect(page).to_have_url(re.compile(r"#/runs\?status=failed&workflow=broken$"))
    expect(runs).to_contain_text(new)


def test_schedules_are_run_switched_off_and_looked_up(page: Page, house: House) -> None:
    page.goto("/console#/crons")
    row = page.get_by_role("row", name="gateway:gated")
    expect(row).to_contain_text("0 8 * * 1-5")
    row.get_by_role("checkbox").uncheck()
    expect(row.get_by_role("checkbox")).not_to_be_checked()
    row.get_by_role("button", name="Run now").click()
    expect(badge(page)).to_have_text("waiting-approval")
    run_id = page.get_by_role("heading", level=1).inner_text()
    page.go_back()
    page.get_by_role("row", name="gateway:gated").get_by_role("button", name="History").click()
    expect(page.get_by_role("table", name="History")).to_contain_text(run_id)
    assert house.ok("cronList")[0]["enabled"] is False


def test_a_workflow_s_page_shows_its_own_runs_only(page: Page, house: House) -> None:
    mine, other = house.start("waiting"), house.start("gated")
    page.goto("/workflows/waiting")
    expect(page.get_by_role("table", name="Runs")).to_contain_text(mine)
    expect(page.get_by_role("table", name="Runs")).not_to_contain_text(other)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_fits_a_phone_and_looks_right_in_both_themes(
    page: Page, house: House, theme: str, tmp_path: Path
) -> None:
    run_id = house.start("hostile", until="waiting-approval")
    house.start("broken", until="failed")
    pages = {name: name for name in ("runs", "workflows", "workflows/gated", "approvals", "crons")}
    for width in (1200, 360):
        page.set_viewport_size({"width": width, "height": 900})
        for name, path in {**pages, "run": f"runs/{run_id}"}.items():
            page.goto(f"/console?theme={theme}#/{path}")
            expect(page.locator("tbody tr, article, textarea").first).to_be_visible()
            if name == "run":
                page.get_by_role("table", name="Nodes").get_by_role("button", name="a", exact=True).click()
                expect(page.get_by_label("Output", exact=True)).to_be_visible()
            assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == theme
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            page.screenshot(path=tmp_path / f"{name.replace('/', '-')}-{theme}-{width}.png", full_page=name == "run")


def test_the_console_is_worked_with_the_keyboard_alone(page: Page, house: House) -> None:
    house.start("gated", until="waiting-approval")
    page.goto("/console#/approvals")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    names = page.evaluate(
        "[...document.querySelectorAll('button,input,select,textarea,a')].filter(n => !(n.ariaLabel ||"
        " n.textContent.trim() || n.labels?.length))"
    )
    assert names == []
