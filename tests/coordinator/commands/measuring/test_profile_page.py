"""The page of a profile in a real browser: it is drawn, says what is pointed at, and asks for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import sync_playwright

from numoe.coordinator.commands.measuring.profile_export import page_of
from tests.coordinator.profiling.made_up import made_up_profile
from tests.programs import find_program
from tests.system.page.browser import NAMES

DRAWN = """() => {
  const canvas = document.getElementById("line"), brush = canvas.getContext("2d");
  const seen = new Set();
  const {data} = brush.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < data.length; at += 4) if (data[at + 3] === 255) seen.add(data.slice(at, at + 3).join());
  const wanted = [...document.querySelectorAll("#legend i")].map((one) => getComputedStyle(one).backgroundColor);
  return wanted.map((one) => seen.has(one.match(/[0-9]+/g).slice(0, 3).join()));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_drawn_and_asks_for_nothing(tmp_path: Path, scheme: Literal["light", "dark"]) -> None:
    program = find_program("CHROMIUM", *NAMES)
    path = tmp_path / "profile.html"
    path.write_text(page_of("tiny </script><b>", made_up_profile()))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(color_scheme=scheme, viewport={"width": 900, "height": 700})
        found: list[str] = []
        page.on("console", lambda message: found.append(message.text))
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on("request", lambda request: found.append(request.url))
        page.goto(path.as_uri())
        assert page.title() == "numoe profile: tiny </script><b>"
        drawn = dict(zip(page.locator("#legend span").all_inner_texts(), page.evaluate(DRAWN), strict=True))
        expected = {"attention", "head", "waiting for threads", "waiting for workers"}
        assert {kind for kind, is_drawn in drawn.items() if is_drawn} == expected
        box = page.locator("#line").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 70, box["y"] + 5)
        assert page.locator("#tip").inner_text() == "thread 0.0: qkv of layer 0, 0.1 µs from 0.000 ms"
        page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 5)
        assert page.locator("#tip").inner_text().startswith("thread 0.0: waiting for workers after head, 0.2 µs")
        assert page.locator("tr.single").count() == 2 * (2 + 2 + 2)  # of attention, experts, head, by worker
        assert found == [path.as_uri()]
        browser.close()
