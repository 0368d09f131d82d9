"""A real browser on the operators' page: it records what a page must not do, and walks by keyboard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from tests.programs import find_program, lack

NAMES = ("chromium", "chromium-browser", "google-chrome")
AXE = Path(__file__).parents[3] / "node_modules/axe-core/axe.min.js"
PATIENCE_MILLISECONDS = 60_000  # for anything to appear on a loaded machine
MOST_STEPS = 300  # of the Tab key around the page
# Counts messages of the stream and breaches of the policy, as the page itself shows neither.
WATCH = """
window.messagesSeen = 0;
window.breaches = [];
document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
  breaches.push(`${violatedDirective} ${blockedURI}`));
const fetchAnything = window.fetch;
window.fetch = async (address, how) => {
  const reply = await fetchAnything(address, how);
  if (address !== "stream" || !reply.ok) return reply;
  const counted = new TransformStream({
    start(stream) {
      window.endStream = () => stream.terminate();
    },
    transform(chunk, stream) {
      messagesSeen += new TextDecoder().decode(chunk).split("data: ").length - 1;
      stream.enqueue(chunk);
    },
  });
  return new Response(reply.body.pipeThrough(counted), reply);
};
"""


@dataclass  # playwright sets attributes of its own
class Faults:
    """What a page must not do."""

    found: list[str] = field(default_factory=list)
    origin: str = ""
    is_disturbed: bool = False  # while the network is down, its errors are no faults

    def on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not self.is_disturbed:
            self.found.append(f"console: {message.text}")

    def on_request(self, request: Request) -> None:
        if not request.url.startswith((self.origin, "data:", f"blob:{self.origin}")):
            self.found.append(f"asked {request.url}")

    def on_error(self, error: Exception) -> None:
        self.found.append(f"script: {error}")

    def on_dialog(self, dialog: Any) -> None:
        self.found.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@contextmanager
def open_page(http: str) -> Iterator[tuple[Page, Faults]]:
    """The page of a service, in a browser of its own."""
    with open_browser() as context:
        yield new_page(context, http)


@contextmanager
def open_browser() -> Iterator[BrowserContext]:
    """A browser that has shown nothing yet."""
    program = find_program("CHROMIUM", *NAMES)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        try:
            yield browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        finally:
            browser.close()


def new_page(context: BrowserContext, http: str) -> tuple[Page, Faults]:
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    page, faults = context.new_page(), Faults(origin=f"http://{http}/")
    page.add_init_script(WATCH)
    page.on("console", faults.on_console)
    page.on("request", faults.on_request)
    page.on("pageerror", faults.on_error)
    page.on("dialog", faults.on_dialog)
    page.goto(f"http://{http}/ops/")
    page.wait_for_selector("#experts:not(.absent)")
    until(page, "document.querySelector('#map canvas').dataset.cellWidth > 0")
    return page, faults


def until(page: Page, expression: str, argument: Any = None) -> None:
    """Waits until it is so; playwright's own waiting makes code of strings, which the page's policy forbids."""
    end = time.monotonic() + PATIENCE_MILLISECONDS / 1000
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, f"not in time: {expression}"
        page.wait_for_timeout(20)


def walk_to(page: Page, name: str) -> None:
    """Press Tab until the control with this name has the focus."""
    for _ in range(MOST_STEPS):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent.trim()") == name:
            return
    raise AssertionError(f"no Tab leads to {name}")


def serious(page: Page) -> list[str]:
    """What axe finds that is serious or worse."""
    if not AXE.exists():
        lack("CHROMIUM", "axe-core is missing: npm ci installs it")
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:120] for node in one['nodes'][:3]]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
