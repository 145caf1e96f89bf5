"""The web page in a real browser, with nginx, the broker of deploy/mosquitto, and a daemon on the small real model."""

import contextlib
import functools
import http.server
import itertools
import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import MakeBroker
from tests.support import assets
from tests.support.broker import Broker, free_port, until_listening
from tests.support.daemon import Daemon
from tests.support.hardened import ALL, SETUP, HardenedBroker
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tests.support.web_page import FOLDER, WAIT_MS, card, chromium, picture, see

NOWHERE = "wss://127.0.0.1:1/mqtt"


@dataclass(frozen=True)
class Box:
    broker: HardenedBroker
    daemon: Daemon
    url: str


NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; {user}
events {{}}
http {{
    types {{ text/html html; text/css css; text/javascript js; text/markdown md; }}
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {site}
}}
"""


@contextlib.contextmanager
def web_server(broker: HardenedBroker) -> Iterator[str]:
    """nginx with deploy/dashboard/nginx.conf, on a free port; gives the page's address."""
    folder, port = broker.folder, free_port()
    site = (SETUP.parent / "dashboard/nginx.conf").read_text()
    for shipped, here in (
        ("/etc/", f"{broker.etc}/"),
        ("/usr/local/", f"{folder}/usr/local/"),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        (":9001", f":{broker.plain_websocket_port}"),
    ):
        assert shipped in site
        site = site.replace(shipped, here)
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, user=user, site=site))
    server = subprocess.Popen([str(assets.nginx()), "-e", str(folder / "nginx.log"), "-c", str(config)])
    try:
        until_listening(port)
        yield f"https://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(120)


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="edged-") as root:
        folder = Path(root)
        broker = HardenedBroker(folder=folder)
        broker.set_up()
        broker.start()
        more = {
            "EDGED_MQTT__USERNAME": "edged",
            "EDGED_MQTT__PASSWORD": broker.passwords["edged"],
            "EDGED_MQTT__TLS__CA": str(broker.ca),
            "EDGED_MQTT__WILL_DELAY": "0",
            "EDGED_HEALTH__INTERVAL": "1",
        }
        daemon = Daemon(folder=folder, broker=broker, port=broker.tls_port, more=more)
        daemon.start()
        try:
            with web_server(broker) as url:
                yield Box(broker, daemon, url)
        finally:
            daemon.kill()
            broker.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(box: Box, browser: Browser) -> Iterator[Page]:
    """The page, opened; what it complained of or asked of others fails the test."""
    context = browser.new_context(ignore_https_errors=True, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    complaints: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.goto(box.url)
    yield page
    context.close()
    assert complaints == []
    assert asked
    own = (box.url, box.url.replace("https:", "wss:"), NOWHERE, "data:", f"blob:{box.url}")  # blob: its timers' worker
    assert [url for url in asked if not url.startswith(own)] == []


def log_in(page: Page, box: Box, user: str, password: str | None = None) -> None:
    page.get_by_label("User").fill(user)
    page.get_by_label("Password").fill(box.broker.passwords[user] if password is None else password)
    page.get_by_role("button", name="Connect", exact=True).click()


def test_a_message_is_tried_and_the_figures_move(page: Page, box: Box) -> None:
    picture(page, "entry")
    log_in(page, box, "dashboard")
    see(card(page).locator(".pill"), "ready")
    see(page.locator("#summary"), "1 of 1 ready")

    streamed: list[str] = []

    def saw(text: str) -> None:
        streamed.append(text)

    page.expose_function("saw", saw)
    page.evaluate("new MutationObserver(() => saw(said.textContent)).observe(said, {childList: true, subtree: true})")
    page.get_by_label("Text").fill("I love this phone, it makes my day!")
    page.get_by_role("button", name="Send").click()
    see(page.locator("#figures"), re.compile(r"first token [\d.]+ m?s · all [\d.]+ m?s · \d+ tokens · [\d.]+ tokens/s"))
    expect(page.locator("#verdicts")).to_contain_text("positive")
    expect(page.locator("#refused")).to_be_hidden()
    answer = page.locator("#said").text_content() or ""
    shown = [each for each in streamed if each]
    assert len(shown) > 2  # it grew
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(shown))
    assert answer.startswith(shown[0])

    see(card(page).locator(".trio b").first, re.compile(r"[\d.]+ m?s"))
    for title in ("Latency p50", "Tokens per second", "Memory", "CPU"):
        figure = page.locator("figure", has_text=title)
        see(figure.locator("b"), re.compile(r"^[\d.,]+"))
        assert figure.locator("path.line").count() >= 1
    see(page.locator("dl > div", has_text="Answered").locator("dd"), "1")
    picture(page, "wide")


def test_a_phone_shows_all_of_it_without_scrolling_sideways(page: Page, box: Box) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    log_in(page, box, "dashboard")
    see(card(page).locator(".pill"), "ready")
    expect(page.locator("figure").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    picture(page, "phone")


def test_answers_are_shown_to_whom_may_read_them_and_as_text(page: Page, box: Box) -> None:
    log_in(page, box, ALL)
    see(card(page).locator(".pill"), "ready")
    with box.broker.peer("ada") as device:
        device.publish("edged/box/in/sentiment/ada", b"What a lovely day")
    see(page.locator("#feed .muted").first, re.compile(r"box · sentiment · ada · [\d.]+ m?s"))
    nasty = "<img src=x onerror='window.hacked=1'><b>bold</b>"
    with box.broker.peer(ALL) as sender:
        body = {"id": "1", "status": "ok", "sentiment": {"label": nasty, "emoji": nasty}, "reply": {"text": nasty}}
        sender.publish("edged/box/out/message/eve", json.dumps(body).encode())
        for each in (
            b"\xff",
            b"[]",
            b"null",
            b'{"status": "ok"}',
            b'{"status": "error"}',
            b'{"reasons": 5, "state": {}}',
        ):
            for topic in ("out/x", "health", "info", "status"):
                sender.publish(f"edged/<i>odd/{topic}", each)
        sender.publish("edged/box/in/sentiment/ada", b"{}")
    see(page.locator("#feed li", has_text=nasty).locator("span").nth(1), nasty)
    see(page.locator("#feed .error", has_text="bad_request").first, re.compile("bad_request: .+"))
    assert page.evaluate("window.hacked") is None
    assert page.locator("#feed b, #feed img, .card i").count() == 0
    # Its owner takes a node away by an empty status.
    expect(page.locator(".card")).to_have_count(2)
    with box.broker.peer(ALL) as sender:
        sender.publish("edged/<i>odd/status", b"")
    expect(page.locator(".card")).to_have_count(1)


def test_commands_need_a_user_who_may_give_them(page: Page, box: Box) -> None:
    log_in(page, box, "dashboard")
    page.get_by_role("tab", name="Tasks").click()
    expect(page.locator("#task-right")).to_contain_text("This user may not give this daemon commands.")
    expect(page.locator("#task-list button")).to_have_count(3)  # what R/info says is shown
    expect(page.get_by_role("button", name="Save")).to_have_count(0)
    page.get_by_role("button", name="Disconnect").click()
    log_in(page, box, "operator")
    page.get_by_role("button", name="reply").click()
    expect(page.get_by_label("Prompt (en)")).to_have_value(re.compile("warm, empathetic"))
    page.get_by_role("tab", name="Model").click()
    expect(page.get_by_role("button", name="Switch to it")).to_be_enabled()


def test_it_works_from_the_disk_without_a_web_server(box: Box, browser: Browser) -> None:
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((FOLDER / "index.html").as_uri())
    page.get_by_label("Address").fill(f"wss://127.0.0.1:{box.broker.websocket_port}/mqtt")
    log_in(page, box, "dashboard")
    see(card(page).locator(".pill"), "ready")
    context.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:null/"))] == []


def test_it_tells_of_a_daemon_that_died_and_of_one_that_is_back(page: Page, box: Box) -> None:
    log_in(page, box, "dashboard")
    see(card(page).locator(".pill"), "ready")
    box.daemon.kill()
    see(card(page).locator(".pill"), "offline")
    see(page.locator("#summary"), "0 of 1 ready")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    picture(page, "offline")
    box.daemon.start()
    see(card(page).locator(".pill"), "ready")


def test_it_comes_back_with_the_broker(page: Page, box: Box) -> None:
    log_in(page, box, "dashboard")
    see(page.locator("#link"), "connected")
    box.broker.stop()
    see(page.locator("#link"), "connection lost, trying again")
    box.broker.start()
    see(page.locator("#link"), "connected")
    see(card(page).locator(".pill"), "ready")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"Password": "guessed"}, "The broker refuses this user or password."),
        ({"Address": NOWHERE}, f"No broker answers at {NOWHERE}"),
        ({"Address": "box.lan"}, "box.lan is no address of a broker"),
    ],
)
def test_what_keeps_it_from_connecting_is_told(page: Page, box: Box, fields: dict[str, str], told: str) -> None:
    page.get_by_label("User").fill("dashboard")
    page.get_by_label("Password").fill(box.broker.passwords["dashboard"])
    for label, text in fields.items():
        page.get_by_label(label).fill(text)
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text(told, timeout=WAIT_MS)
    assert box.broker.passwords["dashboard"] not in page.evaluate("JSON.stringify({...localStorage})")


# ---------------------------------------------------------------------------------------------------- the keep-alive

# The page connects with a keep-alive of two seconds in place of its own: mosquitto ends a connection after three
# seconds without a packet from the page.
SHORT_KEEPALIVE = """
    let library;
    Object.defineProperty(window, "mqtt", {
      get: () => library,
      set: (loaded) => {
        const connect = loaded.connect;
        library = { ...loaded, connect: (url, options) => connect(url, { ...options, keepalive: 2 }) };
      },
    });
"""
KEEPALIVE_S = 2


class SilentServer(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def page_at(origin: str) -> Iterator[str]:
    """The page's address: of the file itself, or at a plain web server."""
    if origin == "disk":
        yield (FOLDER / "index.html").as_uri()
        return
    handler = functools.partial(SilentServer, directory=str(FOLDER))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def connected_page(browser: Browser, url: str, port: int) -> Iterator[Page]:
    context = browser.new_context()
    context.add_init_script(SHORT_KEEPALIVE)
    page = context.new_page()
    page.goto(url)
    page.get_by_label("Address").fill(f"ws://127.0.0.1:{port}/mqtt")
    page.get_by_role("button", name="Connect", exact=True).click()
    see(page.locator("#link"), "connected")
    yield page
    context.close()


def pings(broker: Broker) -> int:
    return broker.log().count("Received PINGREQ from dashboard")


@pytest.mark.parametrize("origin", ["disk", "http"])
def test_it_stays_connected_when_nobody_says_anything(make_broker: MakeBroker, browser: Browser, origin: str) -> None:
    broker = make_broker()
    with page_at(origin) as url, connected_page(browser, url, broker.websocket_port) as page:
        page.wait_for_timeout(1000 * 3 * 1.5 * KEEPALIVE_S)
        see(page.locator("#link"), "connected")
    assert broker.log().count("as dashboard-") == 1, "it connected once"
    assert pings(broker) >= 3


def test_it_notices_a_link_on_which_nothing_passes_any_more(make_broker: MakeBroker, browser: Browser) -> None:
    broker = make_broker()
    with (
        Proxy(broker.websocket_port, is_plain=False) as cable,
        page_at("disk") as url,
        connected_page(browser, url, cable.port) as page,
    ):
        cable.pause()
        see(page.locator("#link"), "connection lost, trying again")
        picture(page, "half-open")
        cable.resume()
        see(page.locator("#link"), "connected")
        before = pings(broker)
        eventually(lambda: pings(broker) > before, "a ping on the new connection")
