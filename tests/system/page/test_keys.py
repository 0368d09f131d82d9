"""The page of a service that asks for keys: it asks whoever looks for one, and shows it with all that it does."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page

from tests.coordinator.access.made_keys import Keys, make_keys
from tests.coordinator.api.grpc.grpc_serving import SHAPE
from tests.coordinator.commands.numoe_process import PATIENCE_SECONDS, numoe, start
from tests.system.page.browser import PATIENCE_MILLISECONDS, open_browser, serious, until
from tests.tiny_model import write_tiny_model

LIVE = "document.querySelector('#life').textContent === 'live'"
ASKED = "document.querySelector('#key').open && document.querySelector('#key p').textContent.includes('%s')"


@dataclass(frozen=True, slots=True)
class Guarded:
    """A service with keys, and fake workers, at HTTP."""

    http: str
    keys: Keys


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    write_tiny_model(folder / "tiny.gguf", SHAPE)
    keys = make_keys(folder / "keys")
    (folder / "key").write_text(keys["observe"])
    process, address = start(folder / "tiny.gguf", "--api-keys", str(folder / "keys"))
    with process:
        status = numoe("status", "--json", "--address", address, "--key-file", str(folder / "key"))
        yield Guarded(json.loads(status.stdout)["service"]["http"], keys)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, log


@pytest.fixture
def page(guarded: Guarded) -> Iterator[Page]:
    with open_browser() as context:
        context.set_default_timeout(PATIENCE_MILLISECONDS)
        page = context.new_page()
        page.goto(f"http://{guarded.http}/ops/")
        yield page


def show(page: Page, key: str) -> None:
    page.keyboard.type(key)
    page.keyboard.press("Enter")


def test_the_page_asks_for_a_key_until_one_is_good(page: Page, guarded: Guarded) -> None:
    until(page, ASKED % "a key is needed")
    assert serious(page) == []
    show(page, "numoe-strange")
    until(page, ASKED % "this key is not known here")
    show(page, guarded.keys["infer"])
    until(page, ASKED % "needs a key with the role observe")
    show(page, guarded.keys["observe"])
    until(page, LIVE)
    page.reload()
    until(page, LIVE)  # this tab has kept it
    other = page.context.new_page()
    other.goto(f"http://{guarded.http}/ops/")
    until(other, ASKED % "a key is needed")


def test_an_action_asks_for_a_better_key_and_is_done_with_it(page: Page, guarded: Guarded) -> None:
    until(page, ASKED % "a key is needed")
    show(page, guarded.keys["observe"])
    until(page, LIVE)
    page.evaluate("import('/ops/actions.js').then(({ abort }) => abort('none'))")
    page.get_by_role("button", name="Abort the request").click()
    until(page, ASKED % "needs a key with the role operate")
    show(page, guarded.keys["operate"])
    until(page, "document.querySelector('#notice').textContent.startsWith('Request none had ended already')")
