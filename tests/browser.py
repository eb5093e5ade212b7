"""The Chromium of this machine, driven by Playwright, which downloads none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """Starts a headless Chromium with further arguments of its command line."""
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=EXECUTABLE, args=arguments) as own:
        yield own


def new_page(browser: Browser, width: int, height: int) -> Page:
    """Opens an empty page on a light screen of a size in pixels; a phone's where it is narrow."""
    return browser.new_page(viewport={"width": width, "height": height}, is_mobile=width < 600, color_scheme="light")


def watch(page: Page) -> tuple[list[str], list[str]]:
    """Returns the addresses that a page asks for and the messages of its console and errors, both as they come."""
    addresses: list[str] = []
    messages: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    return addresses, messages
