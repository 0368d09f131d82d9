"""The operators' page in a real Chromium, of a real service: what it shows is so, and what it is asked is done."""

from __future__ import annotations

import csv
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from playwright.sync_api import Page

from tests.system.clients import SERVE_FLAGS, SHAPE
from tests.system.page.browser import Faults, open_page, serious, until, walk_to
from tests.system.page.service import answer, counts, endless, status
from tests.system.page.shown import choose, distance_from_paper, pixels, ramp, size, text
from tests.system.serve_process import ServeProcess, serving
from tests.tiny_model import write_tiny_model

HOSTILE = "<img src=x onerror=alert(1)>"
ANSWER = 60
PAGE_BYTES = 150 * 1024
PAGE = Path(__file__).parents[3] / "coordinator/api/http/page"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    folder = tmp_path_factory.mktemp("page")
    write_tiny_model(folder / "tiny.gguf", replace(SHAPE, name=HOSTILE))
    flags = (*SERVE_FLAGS, "--split", "expert", "--replicas", "0")
    with serving(folder / "log", str(folder / "tiny.gguf"), *flags) as server:
        answer(server.address, ANSWER)
        yield server


@pytest.fixture(scope="module")
def opened(server: ServeProcess) -> Iterator[tuple[Page, Faults]]:
    with open_page(server.http) as (page, faults):
        yield page, faults


@pytest.fixture
def page(opened: tuple[Page, Faults]) -> Iterator[Page]:
    """The page, which has done nothing wrong by the end of the test."""
    page, faults = opened
    yield page
    assert page.evaluate("breaches") == []
    assert faults.found == []


def wait_counted(page: Page, server: ServeProcess) -> dict[str, Any]:
    """The service, once the page's counts since the start are those of all that was computed."""
    state = status(server.http)
    positions = state["workers"][0]["tokens"]
    total = SHAPE.layers * SHAPE.active_experts * positions
    until(
        page,
        """async (total) => {
            const { numbersOf } = await import("/ops/packed.js");
            const { experts } = await import("/ops/experts/section.js");
            return experts.map && experts.counts("ever").reduce((sum, some) => sum + some, 0) === total;
        }""",
        total,
    )
    return status(server.http)


def test_all_files_together_are_small() -> None:
    assert sum(path.stat().st_size for path in PAGE.rglob("*") if path.is_file()) < PAGE_BYTES


def test_numbers_are_those_of_the_api(page: Page, server: ServeProcess) -> None:
    state = wait_counted(page, server)
    for worker in state["workers"]:
        card = f"[data-worker='{worker['worker']}']"
        assert text(page, f"{card} .state") == "ready"
        facts = {
            name: text(page, f"{card} [data-fact='{name}']") for name in ("pid", "weights", "off node", "restarts")
        }
        assert facts["pid"] == str(worker["pid"])
        assert size(facts["weights"]) == pytest.approx(worker["weight_bytes"], rel=0.005)
        assert (facts["off node"], facts["restarts"]) == ("0 B", "0")
        assert text(page, f"{card} [data-fact='threads off them']") == f"0 of {worker['process_threads']}"
    node = state["hosts"][0]["nodes"][0]
    assert size(text(page, ".room h5").split(" · ")[1]) == pytest.approx(node["total_bytes"], rel=0.005)
    assert text(page, "[data-flow=running]") == str(state["flow"]["running"]) == "0"
    assert f"length {state['flow']['ended']['length']}" in text(page, "#requests-ended")
    choose(page, "both")
    shares = [float(share.split("\u202f")[0]) for share in page.locator("#shares-legend b").all_inner_texts()]
    assert shares == pytest.approx([100 * share for share in state["ever"]["shares"]], abs=0.06)
    rows = page.locator("#configuration tbody tr").all_inner_texts()
    shown = {tuple(row.replace("\n", "").split("\t")) for row in rows}
    expected = {
        (one["name"].replace("_", " "), one["value"] or "not set", one["origin"]) for one in state["configuration"]
    }
    assert shown == expected
    assert page.locator("#doctor-list li").count() == len(state["findings"])
    assert page.locator("#events-list li").count() == len(state["events"])


def test_a_name_from_a_file_is_text(page: Page) -> None:
    assert text(page, "#model") == HOSTILE
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pixels_of_the_map_are_the_colours_of_the_counts(page: Page, server: ServeProcess, theme: str) -> None:
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    state, dark = wait_counted(page, server), str(theme == "dark").lower()
    chosen, holders = counts(state["ever"]["counts"]), counts(state["experts"]["holders"])
    places = np.round(255 * np.sqrt(chosen / chosen.max())).astype(int)
    owners = holders - 1  # of two workers, each of which holds some whole
    assert set(owners.flat) == {0, 1}
    assert len(set(chosen.flat)) > 4

    choose(page, "owner")
    colours = np.concatenate([ramp(page, f"ownerColour({worker}, {dark})") for worker in range(2)])
    assert (pixels(page) == colours[owners]).all()

    choose(page, "both")
    ramps = np.stack([ramp(page, f"ownerRamp({worker}, {dark})") for worker in range(2)])
    seen = pixels(page)
    assert (seen == ramps[owners, places]).all()
    for worker in range(2):  # whoever is chosen more is further from the paper
        mine = owners == worker
        order = np.argsort(chosen[mine], kind="stable")
        assert (np.diff(distance_from_paper(page, seen[mine][order])) >= -1.5).all()

    choose(page, "choices")
    empty, scale = ramp(page, f"emptyColour({dark})")[0], ramp(page, f"sequential({dark})")
    assert (pixels(page) == np.where(chosen > 0, scale[places], empty)).all()

    choose(page, "load")
    load = chosen / chosen.mean(1, keepdims=True)
    doublings = np.log2(np.where(chosen > 0, load, 1.0))
    middle = np.clip(np.floor(255 * (0.5 + doublings / 6) + 0.5), 0, 255).astype(int)
    scale = ramp(page, f"diverging({dark})")
    assert (pixels(page) == np.where(chosen > 0, scale[middle], empty)).all()

    choose(page, "bytes")
    full = ramp(page, f"sequential({dark})")[255]
    assert (pixels(page) == full).all()  # all experts weigh the same, and none is held twice

    choose(page, "copies")
    assert (pixels(page) == ramp(page, f"sequential({dark})")[0]).all()


def test_keys_tell_of_an_expert_and_list_its_layer(page: Page, server: ServeProcess) -> None:
    state = wait_counted(page, server)
    chosen, holders = counts(state["ever"]["counts"]), counts(state["experts"]["holders"])
    choose(page, "both")
    page.locator("#map").focus()
    for key in ("Home", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert (page.input_value("#expert-layer"), page.input_value("#expert-expert")) == ("1", "3")
    assert text(page, "[data-expert='ever']") == f"{chosen[1, 3]:,}"
    assert text(page, "[data-expert='lives on']") == f"worker {holders[1, 3] - 1}, node 0"
    until(page, "document.querySelector('#expert-said').textContent.startsWith('Layer 1, expert 3: lives on worker')")
    page.keyboard.press("Enter")
    rows = [row.split("\t") for row in page.locator("#layer-rows tr").all_inner_texts()]
    listed = [(int(row[0]), int(row[2].replace(",", ""))) for row in rows]
    assert listed == sorted(enumerate(chosen[1].tolist()), key=lambda one: (-one[1], one[0]))
    page.keyboard.press("Escape")
    assert page.locator("#layer").is_hidden()
    assert page.evaluate("document.activeElement.id") == "map"


def test_a_pointer_tells_the_same(page: Page) -> None:
    box, size = (
        page.locator("#map canvas").first.bounding_box(),
        page.evaluate("({...document.querySelector('#map canvas').dataset})"),
    )
    assert box
    left, top, width, height = (float(size[name]) for name in ("left", "top", "cellWidth", "cellHeight"))
    page.mouse.move(box["x"] + left + 5.5 * width, box["y"] + top + 0.5 * height)
    assert (page.input_value("#expert-layer"), page.input_value("#expert-expert")) == ("0", "5")


def test_the_map_is_saved_as_a_table_and_as_a_picture(page: Page, server: ServeProcess) -> None:
    state = wait_counted(page, server)
    chosen, holders = counts(state["ever"]["counts"]), counts(state["experts"]["holders"])
    with page.expect_download() as saving:
        page.locator("#save-csv").click()
    rows = list(csv.DictReader(saving.value.path().read_text().splitlines()))
    assert [(int(row["layer"]), int(row["expert"]), int(row["choices_ever"]), row["workers"]) for row in rows] == [
        (layer, expert, chosen[layer, expert], str(holders[layer, expert] - 1))
        for layer in range(SHAPE.layers)
        for expert in range(SHAPE.experts)
    ]
    with page.expect_download() as saving:
        page.locator("#save-png").click()
    assert saving.value.path().read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious_and_nothing_sticks_out(page: Page, theme: str, width: int) -> None:
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 900})
    page.locator("#map").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 1280, "height": 900})


def test_the_switch_changes_the_theme(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.locator("#theme").click()
    assert page.evaluate(paper) != light
    page.locator("#theme").click()
    assert page.evaluate(paper) == light


def test_a_stream_that_drops_is_told_and_comes_back(
    page: Page, opened: tuple[Page, Faults], server: ServeProcess
) -> None:
    faults = opened[1]
    faults.is_disturbed = True
    os.kill(server.process.pid, signal.SIGSTOP)  # the connection stays, and says nothing
    try:
        until(page, "/^stale · [0-9]+\\u202fs old$/.test(document.querySelector('#life').textContent)")
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    until(page, "document.querySelector('#life').textContent === 'live'")
    page.context.set_offline(True)
    page.evaluate("endStream()")
    until(page, "document.documentElement.classList.contains('stale')")
    page.context.set_offline(False)
    until(page, "document.querySelector('#life').textContent === 'live'")
    faults.is_disturbed = False


def test_a_request_is_seen_and_aborted_by_keyboard(page: Page, server: ServeProcess) -> None:
    with endless(server.address, HOSTILE) as call:
        page.wait_for_selector("#requests-rows tr")
        assert text(page, "#requests-rows .id") == HOSTILE
        assert text(page, "#requests-rows .phase") == "decode"
        page.set_viewport_size({"width": 390, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.set_viewport_size({"width": 1280, "height": 900})
        until(page, "document.querySelector('[data-worker=\"0\"] .unit').textContent === '% fill'")
        walk_to(page, f"Abort request {HOSTILE}")
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")  # asked, and not done
        assert page.locator("#confirm").is_hidden()
        page.keyboard.press("Enter")
        walk_to(page, "Abort the request")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#notice').textContent.startsWith('1 request aborted')")
        with pytest.raises(grpc.RpcError):
            for _ in call:
                pass
    until(page, "document.querySelectorAll('#requests-rows tr').length === 0")
    assert text(page, "#events-list li:first-child b") == "request aborted"


def test_idle_workers_are_told_from_a_step_that_takes_long(page: Page, server: ServeProcess) -> None:
    told = page.evaluate(
        """async () => {
            const { render } = await import("/ops/machine.js");
            const state = await (await fetch("/ops/status")).json();
            const show = (flow, worker = {}) => {
                const workers = state.workers.map((one) => ({ ...one, fill: null, ...worker }));
                render({ ...state, workers, flow: { ...state.flow, running: 1, queued: 0, ...flow } });
                return document.querySelector("[data-worker='0'] .figure").textContent.replace("\\u202f", " ");
            };
            const long = { step_age: 14.2 };
            const short = { step_age: 0.1 };
            return [show({ running: 0, step_age: null }), show(long), show(short), show(long, { state: "lost" })];
        }"""
    )
    assert told == ["idle, no request", "step running for 14 s", "no step in the last 10 s", "\u2013"]
    pid = status(server.http)["workers"][1]["pid"]
    with endless(server.address, "long"):
        os.kill(pid, signal.SIGSTOP)  # whoever waits for it makes the step take long
        try:
            until(
                page,
                "/ready · step running for [0-9]+\u202fs/.test(document.querySelector('#machine-summary').textContent)",
            )
        finally:
            os.kill(pid, signal.SIGCONT)
    until(page, "!document.querySelector('#machine-summary').textContent.includes('step running')")


def test_moves_of_experts_change_the_owners(page: Page, server: ServeProcess) -> None:
    choose(page, "owner")
    first, second = (ramp(page, f"ownerColour({worker}, false)")[0] for worker in range(2))
    assert set(pixels(page).flat) == {first, second}
    walk_to(page, "Drain worker 1 of its experts")
    page.keyboard.press("Enter")
    walk_to(page, "Drain worker 1")
    page.keyboard.press("Enter")
    until(page, "/^[0-9]+ experts will move/.test(document.querySelector('#notice').textContent)")
    until(page, "document.querySelector('#shares-legend li:last-child .quiet').textContent === '0 experts'")
    assert set(pixels(page).flat) == {first}
    walk_to(page, "Rebalance…")
    page.keyboard.press("Enter")
    walk_to(page, "Rebalance")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#events-list b').textContent === 'rebalance ended'")
    until(page, "document.querySelector('#shares-legend li:last-child .quiet').textContent !== '0 experts'")
    assert set(pixels(page).flat) == {first, second}
    holders = counts(status(server.http)["experts"]["holders"])
    assert (pixels(page) == np.where(holders == 1, first, second)).all()


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_experts_that_moved_in_the_last_seconds_are_framed_and_no_others(page: Page, motion: Any) -> None:
    page.emulate_media(reduced_motion=motion)
    frames = page.evaluate(
        """async () => {
            const { render } = await import("/ops/experts/section.js");
            const state = await (await fetch("/ops/status")).json();
            const [base, over] = document.querySelectorAll("#map canvas");
            const sizes = ["left", "top", "cellWidth", "cellHeight"];
            const [left, top, width, height] = sizes.map((name) => Number(base.dataset[name]));
            const [layers, experts] = state.experts.holders.shape;
            const isFramed = (index) => {
                const [x, y] = [left + (index % experts) * width, top + (Math.floor(index / experts) + 0.5) * height];
                return over.getContext("2d").getImageData(x + width + 1, y, 1, 1).data[3] > 100; // not the cursor
            };
            const framed = (moved) => {
                render({ ...state, experts: { ...state.experts, moved } });
                return Array.from({ length: layers * experts }, (_, index) => index).filter(isFramed);
            };
            const at = (seconds, experts) => ({ at: state.now - seconds, experts });
            return [framed([at(1, [3, 9]), at(60, [4])]), framed([at(9, [3, 9])])];
        }"""
    )
    page.emulate_media(reduced_motion="no-preference")
    assert frames == [[3, 9], []]


def test_a_killed_worker_is_lost_within_two_seconds_and_ready_again(page: Page, server: ServeProcess) -> None:
    """Every time, though a loss may be over before the next second; counted in messages, of which one comes each."""
    page.evaluate(
        """() => {
            const card = document.querySelector("[data-worker='1'] .state");
            window.losses = [];
            new MutationObserver(() => {
                const colour = getComputedStyle(card).color;
                if (card.classList.contains("lost")) losses.push([messagesSeen, colour, card.textContent]);
            }).observe(card, { attributeFilter: ["class"] });
        }"""
    )
    for number in range(1, 4):
        answer(server.address, 2)  # three losses without a step between end a service
        pid = int(text(page, "[data-worker='1'] [data-fact=pid]"))
        before = page.evaluate("messagesSeen")
        os.kill(pid, signal.SIGKILL)
        until(page, "(number) => losses.length === number", number)
        seen, colour, told = page.evaluate("losses.at(-1)")
        assert seen - before <= 2
        red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
        assert red > 2 * max(green, blue)
        assert told == "lost"
        page.wait_for_selector("[data-worker='1'] .state.ready")
        page.wait_for_selector("#state.serving")
        until(
            page,
            "(shown) => document.querySelector(\"[data-worker='1'] [data-fact=pid]\").textContent !== shown",
            str(pid),
        )
        until(
            page,
            "(many) => document.querySelector(\"[data-worker='1'] [data-fact=restarts]\").textContent.startsWith(many)",
            f"{number}, ",
        )
        assert re.fullmatch(rf"{number}, \d+ s ago", text(page, "[data-worker='1'] [data-fact=restarts]"))


def test_the_service_is_drained_by_keyboard(page: Page, opened: tuple[Page, Faults], server: ServeProcess) -> None:
    opened[1].is_disturbed = True  # as the service ends
    walk_to(page, "Drain the service…")
    page.keyboard.press("Enter")
    walk_to(page, "Drain and end")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#notice').textContent.startsWith('Draining: 0 requests')")
    assert server.wait()[0] == 0
    until(page, "document.documentElement.classList.contains('stale')")
