"""A real headless Chromium for tests of pages, driven by Playwright.

Playwright is a test dependency; the browser is the machine's own (Debian's `chromium` or another), named by `CHROMIUM`
or found on the path. Where there is none, tests that need it are skipped with the reason, unless `NEED_CHROMIUM=1`, as
the gate and `make soak` set it: there its absence is a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
NO_BROWSER = f"no Chromium: CHROMIUM names none and the path has none of {', '.join(NAMES)} (apt-get install chromium)"
WIDTHS = (390, 1024, 1920)

Scheme = Literal["light", "dark"]


def find_chromium() -> str | None:
    """The browser's executable."""
    named = os.environ.get("CHROMIUM")
    return named or next((found for found in map(shutil.which, NAMES) if found), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; skips the test where there is none, or fails it where one is needed."""
    path = find_chromium()
    if path is None:
        (pytest.fail if os.environ.get("NEED_CHROMIUM") == "1" else pytest.skip)(NO_BROWSER)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


class Visit:
    """One page opened from disk, without a network; what it complains about and asks for is written down."""

    def __init__(self, browser: Browser, path: Path, *, width: int = 1024, scheme: Scheme = "light") -> None:
        self._context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True, offline=True
        )
        self.page: Page = self._context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = path.resolve().as_uri()
        self.page.goto(self.address)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def asked_for_elsewhere(self) -> list[str]:
        """Requests for anything but the page itself and what it carries in it."""
        return [url for url in self.requests if url != self.address and not url.startswith(("data:", "blob:"))]

    def open_everything(self) -> None:
        """Opens all that is folded away."""
        self.page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")

    def sticking_out(self) -> list[str]:
        """Whatever reaches beyond the page's right edge, but for the inside of what scrolls by itself; text that is
        wider than its own box; and the page itself where it scrolls sideways."""
        found: list[str] = self.page.evaluate(
            """() => {
                const width = document.documentElement.clientWidth, found = [];
                if (document.documentElement.scrollWidth > width) found.push('page');
                for (const element of document.body.querySelectorAll('*')) {
                    const box = element.getBoundingClientRect();
                    const inner = element.parentElement.closest('.scroll, svg') || element.closest('.skip');
                    if (!box.width || inner) continue;
                    const name = element.tagName + ' ' + element.textContent.slice(0, 40);
                    if (box.right > width + 1) found.push(name);
                    const wide = element.clientWidth && element.scrollWidth > element.clientWidth + 1;
                    if (wide && !element.matches('.scroll, svg')) found.push(name);
                }
                return found;
            }"""
        )
        return found
