"""The web page in a real browser: what its tests share.

EDGED_TEST_SCREENSHOTS names a folder for pictures of what was seen.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.support import assets

FOLDER = Path(__file__).parents[2] / "deploy" / "dashboard"
WAIT_MS = 60_000  # a figure is there within a minute
expect.set_options(timeout=WAIT_MS)
_QUIET = (
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; the tests of a module share it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=assets.chromium(), args=[*_QUIET])
        yield browser
        browser.close()


def card(page: Page) -> Locator:
    return page.locator(".card", has_text="box")


def picture(page: Page, name: str) -> None:
    folder = os.environ.get("EDGED_TEST_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def see(locator: Locator, text: str | re.Pattern[str]) -> None:
    expect(locator).to_have_text(text, timeout=WAIT_MS)
