"""The tabs of the web page in a real browser: from the disk, with a daemon whose engine is scripted.

How it connects, and what a user without rights sees, is in test_dashboard.py.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from tests.support import assets
from tests.support.broker import Broker
from tests.support.daemon import Daemon, daemon_on_a_broker, publish
from tests.support.web_page import FOLDER, WAIT_MS, card, chromium, picture, see

SETTINGS = """
[health]
interval = 1
[tasks.summary]
kind = "generate"
system = "You put what you are told into one sentence."
[tasks.urgency]
kind = "classify"
labels = ["urgent", "routine"]
role = "You judge how urgent a message is."
[routes.remark]
subscribe = ["zigbee2mqtt/bridge/logging", "home/+/remark"]
text = "/message"
task = "sentiment"
publish = "home/zigbee/mood"
"""
TABS = ("overview", "traffic", "tasks", "model", "talks", "problems")
DESK: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
NASTY = "<img src=x onerror='window.hacked=1'><b>bold</b>"
# Serious findings alone: the others are advice. The colours are looked at in both themes.
AXE = """
    async (rules) => {
      const options = { preload: false, resultTypes: ["violations"], ...(rules ? { runOnly: rules } : {}) };
      const { violations } = await axe.run(options);
      return violations.filter((each) => ["serious", "critical"].includes(each.impact))
        .flatMap((each) => each.nodes.map((node) => `${each.id}: ${node.html} ${node.failureSummary}`));
    }
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with daemon_on_a_broker(settings=SETTINGS) as daemon:
        daemon.start()
        daemon.wait_ready()
        yield daemon


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def shared_page(browser: Browser, daemon: Daemon) -> Iterator[tuple[Page, list[str]]]:
    """The page, connected, and what it complains of. Without transitions, so that colours are at rest."""
    context = browser.new_context(viewport=DESK, color_scheme="light", reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((FOLDER / "index.html").as_uri())
    log_in(page, daemon)
    yield page, complaints
    context.close()


@pytest.fixture
def page(shared_page: tuple[Page, list[str]]) -> Iterator[Page]:
    """The page, connected; what it complains of fails the test."""
    page, complaints = shared_page
    page.locator("#tab-overview").click()
    yield page
    assert complaints == []


def log_in(page: Page, daemon: Daemon, address: str = "Address", connect: str = "Connect") -> None:
    assert isinstance(daemon.broker, Broker)
    page.get_by_label(address).fill(f"ws://127.0.0.1:{daemon.broker.websocket_port}/mqtt")
    page.get_by_role("button", name=connect, exact=True).click()
    card(page).click()


def open_tab(page: Page, name: str) -> None:
    page.locator(f"#tab-{name}").click()
    expect(page.locator(f"#{name}")).to_be_visible()


def test_every_tab_is_fit_for_screen_readers_in_both_themes_and_on_a_phone(page: Page, daemon: Daemon) -> None:
    page.evaluate(assets.axe().read_text())
    publish(daemon.broker, "edged/box/in/message/ada", "What a lovely day")
    publish(daemon.broker, "edged/box/in/sentiment/ada", "{}")
    expect(page.locator("#feed .error")).not_to_have_count(0)
    for name in TABS:
        open_tab(page, name)
        if name == "tasks":
            page.get_by_role("button", name="summary").click()
            expect(page.get_by_label("Prompt", exact=True)).to_be_visible()
        if name == "talks":
            page.get_by_role("button", name="ada").click()
            expect(page.locator("#turns li")).not_to_have_count(0)
        assert page.evaluate(AXE) == [], name
        picture(page, name)
        expect(page.locator("html")).to_have_attribute("data-theme", "light")
        page.emulate_media(color_scheme="dark")
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        assert page.evaluate(AXE, ["color-contrast"]) == [], f"{name} in the dark"
        picture(page, f"{name}-dark")
        page.emulate_media(color_scheme="light", reduced_motion="reduce")
        page.set_viewport_size(PHONE)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            f"{name} scrolls sideways on a phone"
        )
        picture(page, f"{name}-phone")
        page.set_viewport_size(DESK)


def test_the_tabs_obey_the_keyboard(page: Page) -> None:
    page.locator("#tab-overview").focus()
    for key, name in (
        ("ArrowRight", "traffic"),
        ("End", "problems"),
        ("ArrowRight", "overview"),
        ("ArrowLeft", "problems"),
    ):
        page.keyboard.press(key)
        expect(page.locator(f"#tab-{name}")).to_be_focused()
        expect(page.locator(f"#{name}")).to_be_visible()
        assert page.locator('[role="tabpanel"]:visible').count() == 1


def test_the_theme_and_the_language_are_the_browsers_until_others_are_chosen(browser: Browser, daemon: Daemon) -> None:
    context = browser.new_context(locale="zh-CN", color_scheme="dark", reduced_motion="reduce")
    page = context.new_page()
    page.goto((FOLDER / "index.html").as_uri())
    page.evaluate(assets.axe().read_text())
    html = page.locator("html")
    expect(html).to_have_attribute("data-theme", "dark")
    expect(html).to_have_attribute("lang", "zh-CN")
    see(page.locator("#entry-title"), "连接到代理服务器")
    assert page.evaluate(AXE) == []
    page.get_by_role("button", name="配色:跟随系统").click()
    page.get_by_role("button", name="English").click()
    page.reload()
    expect(html).to_have_attribute("data-theme", "light")
    expect(html).to_have_attribute("lang", "en")
    see(page.locator("#entry-title"), "Connect to the broker")
    log_in(page, daemon)
    see(card(page).locator(".pill"), "ready")
    page.get_by_role("button", name="中文").click()
    see(card(page).locator(".pill"), "就绪")
    context.close()


def test_a_prompt_is_changed_refused_and_taken_back(page: Page) -> None:
    open_tab(page, "tasks")
    told = page.locator("#task-told")
    page.get_by_role("button", name="summary").click()
    prompt = page.get_by_label("Prompt", exact=True)
    expect(prompt).to_have_value("You put what you are told into one sentence.")
    prompt.fill("You say it in three words.")
    page.get_by_role("button", name="Save", exact=True).click()
    see(told, "In force now: tasks.summary.")
    see(page.locator("#option-list code"), '{"system":"You say it in three words."}')
    see(page.locator("#task-edit .muted").first, "changed over MQTT")

    page.get_by_text("All of its definition").click()
    page.get_by_label("Definition, as JSON").fill('{"kind": "generate", "system": "x", "temperature": 9}')
    page.get_by_role("button", name="Save all").click()
    see(told, re.compile("nothing was changed: .*temperature"))
    page.get_by_role("button", name="Take back what was changed over MQTT").click()
    page.locator("#sure").get_by_role("button", name="Take back").click()
    see(told, "In force now: tasks.summary.")
    expect(prompt).to_have_value("You put what you are told into one sentence.")
    expect(page.locator("#no-option")).to_be_visible()


def test_a_built_in_prompt_is_taken_over_and_a_task_is_made(page: Page) -> None:
    open_tab(page, "tasks")
    page.locator("#task-list").get_by_role("button", name="sentiment").click()
    expect(page.locator("#task-edit pre", has_text="Comment")).to_be_visible()
    page.get_by_role("button", name="reply").click()
    page.get_by_label("Prompt (en)").fill("You answer in rhymes.")
    page.get_by_role("button", name="Save", exact=True).click()
    see(page.locator("#task-told"), "In force now: tasks.reply.")
    page.get_by_text("A new task").click()
    page.get_by_label("Name").fill("title")
    page.get_by_role("button", name="Begin").click()
    page.get_by_label("Prompt", exact=True).fill("You write a title.")
    page.get_by_role("button", name="Save", exact=True).click()
    see(page.locator("#task-told"), "In force now: tasks.title.")
    expect(page.locator("#task-list").get_by_role("button", name="title")).to_be_visible()
    for name in ("reply", "title"):
        page.get_by_role("button", name=f"Take back tasks.{name}").click()
        see(page.locator("#option-told"), f"In force now: tasks.{name}.")


def test_a_setting_is_changed_and_what_needs_a_restart_is_told(page: Page) -> None:
    open_tab(page, "tasks")
    for name, value, told in (
        ("limits.text_chars", "900", "In force now: limits.text_chars."),
        ("queue.capacity", "70", "After a restart: queue.capacity."),
        ("mqtt.host", "elsewhere", re.compile("mqtt.host is set on the box only")),
    ):
        page.get_by_label("Setting", exact=True).fill(name)
        page.get_by_label("Value").fill(value)
        page.get_by_role("button", name="Change", exact=True).click()
        see(page.locator("#option-told"), told)
    for name in ("limits.text_chars", "queue.capacity"):
        page.get_by_role("button", name=f"Take back {name}").click()
        expect(page.get_by_role("button", name=f"Take back {name}")).to_have_count(0)


def test_a_model_is_switched_to_and_its_progress_shown(page: Page, daemon: Daemon) -> None:
    open_tab(page, "model")
    see(page.locator("#model-facts div", has_text="In use").locator("dd"), "scripted")
    page.get_by_label("Another model").fill("nobody/has-it")
    page.get_by_role("button", name="Switch to it").click()
    page.locator("#sure").get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Switch to it").click()
    page.locator("#sure").get_by_role("button", name="Switch").click()
    see(page.locator("#model-state"), re.compile("^Last change: refused: .*nobody/has-it"))
    report = {"installed_version": "new", "latest_version": "new", "in_progress": True, "update_percentage": 40}
    body = report | {"state": "loading", "reason": None, "previous": "old"}
    publish(daemon.broker, "edged/box/model", json.dumps(body))
    see(page.locator("#model-state"), "A model is being loaded.")
    assert page.locator("#model-progress").evaluate("each => each.value") == 40
    expect(page.get_by_role("button", name="Go back to old")).to_be_disabled()


def test_senders_and_routes_are_shown(page: Page, daemon: Daemon) -> None:
    open_tab(page, "traffic")
    publish(daemon.broker, "edged/box/in/message/cy", "Good morning")
    sender = page.locator("#senders tbody tr", has_text="cy").locator(".number")
    see(sender.first, "1")
    see(sender.last, re.compile(r"[\d.]+ %"))
    route = page.locator("#routes tbody tr", has_text="remark").locator(".value")
    assert route.all_text_contents() == [
        "zigbee2mqtt/bridge/logging\nhome/+/remark",
        "sentiment",
        "home/zigbee/mood",
        "0",
    ]


def test_a_conversation_is_read_and_forgotten(page: Page, daemon: Daemon) -> None:
    open_tab(page, "talks")
    publish(daemon.broker, "edged/box/in/reply/dora", NASTY)
    page.locator("#talk-list").get_by_role("button", name="dora").click()
    see(page.locator("#turns li.user"), f"User{NASTY}")
    publish(daemon.broker, "edged/box/in/reply/dora", "And now?")
    expect(page.locator("#turns li")).to_have_count(4)
    assert page.locator("#turns b, #turns img").count() == 0
    page.get_by_role("button", name="Forget").click()
    page.locator("#sure").get_by_role("button", name="Forget").click()
    see(page.locator("#talk-told"), "Forgotten: 4 turns.")
    expect(page.locator("#turns li")).to_have_count(0)
    assert page.evaluate("window.hacked") is None


def test_problems_are_listed(page: Page, daemon: Daemon) -> None:
    publish(daemon.broker, "edged/box/in/sentiment/eve", "{}")
    see(page.locator("#unseen"), re.compile(r"\d"))
    open_tab(page, "problems")
    expect(page.locator("#problem-list li", has_text="sentiment: bad_request").first).to_be_visible()
    expect(page.locator("#unseen")).to_be_hidden()
    expect(page.locator("#error-counts")).to_contain_text("× bad_request")
    line = {"time": "", "level": "warning", "logger": "edged", "event": "disk_full", "path": NASTY}
    publish(daemon.broker, "edged/box/log", json.dumps(line))
    see(page.locator("#problem-list li", has_text="disk_full").locator("span").nth(1), f"disk_full path={NASTY}")
    state: dict[str, Any] = {"state": "degraded", "reasons": [NASTY], "boot_id": "b", "version": "1"}
    publish(daemon.broker, "edged/other/status", json.dumps(state))
    page.get_by_label("Which problems").select_option("state")
    see(page.locator("#problem-list li", has_text="degraded").locator("span").nth(1), f"degraded: {NASTY}")
    assert page.locator("#problem-list b, #problem-list img").count() == 0


def test_errors_that_are_counted_and_not_seen_are_listed_once(page: Page) -> None:
    listed = page.evaluate(
        """() => {
          const list = new Problems.List();
          const report = (boot, busy) => list.hearHealth("n", { boot_id: boot, requests: { errors: { busy } } }, 0);
          report("a", 5); // from before this page
          report("a", 8); // one of the three is seen as an answer, after the report
          list.hearError("n", "reply", { code: "busy" }, 0);
          report("a", 8);
          report("a", 8);
          report("b", 9); // a new start
          report("b", 9);
          return list.entries.map(({ code, more, text }) => text ?? `${more} ${code}`);
        }"""
    )
    assert listed == ["2 busy", "reply: busy: "]


def test_figures_of_hours_are_kept_within_bounds(page: Page, daemon: Daemon) -> None:
    expect(page.locator("figure", has_text="Memory").locator("path.line")).to_have_count(1)
    page.reload()  # writes what is not written yet
    log_in(page, daemon)
    page.get_by_label("Time shown").select_option("24")
    expect(page.locator("figure", has_text="Memory").locator("path.line")).not_to_have_count(0)
    kept = page.evaluate(
        """() => {
          const store = new Past.Store("here");
          const figures = { p50: 1, p95: 2, first: null, speed: 3, queue: 0, memory: 1234.5678, cpu: 5, heat: null };
          for (let i = 0; i < 22; i += 1) {
            store.add(`node ${i}`, { at: 0, ...figures });
            const node = store.nodes.get(`node ${i}`);
            for (let step = 1; step < 580; step += 1) node.add({ at: step * 300000, ...figures });
          }
          store.close();
          const rows = Object.entries(localStorage).filter(([name]) => name.startsWith("edged.history here"));
          return { nodes: rows.length, rows: JSON.parse(rows[0][1]).length, row: JSON.parse(rows[0][1])[0].slice(1),
                   chars: rows.reduce((sum, [, text]) => sum + text.length, 0) };
        }"""
    )
    assert kept["nodes"] == 20
    assert kept["rows"] == 576  # five minutes each: 48 hours
    assert kept["row"] == [1, 2, None, 3, 0, 1235, 5, None]
    assert kept["chars"] < 1_000_000
