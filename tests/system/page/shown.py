"""What a page shows: its texts, and the pixels of its map."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from playwright.sync_api import Page

from tests.system.clients import SHAPE
from tests.system.page.service import Counts


def text(page: Page, selector: str) -> str:
    return page.locator(selector).inner_text().replace("\u202f", " ")


def size(shown: str) -> float:
    """Bytes, of "856 KiB"."""
    number, unit = shown.split(" ")
    return float(number.replace(",", "")) * float(1024 ** ["B", "KiB", "MiB", "GiB"].index(unit))


def choose(page: Page, mode: str, window: str = "ever") -> None:
    page.locator(f"input[value={window}]").check()
    page.locator(f"input[value={mode}]").check()


def pixels(page: Page) -> Counts:
    """[L, E] of the middle of each cell, as 0xRRGGBB."""
    found = page.evaluate(
        """([layers, experts]) => {
            const canvas = document.querySelector("#map canvas");
            const sizes = ["left", "top", "cellWidth", "cellHeight"];
            const [left, top, width, height] = sizes.map((name) => Number(canvas.dataset[name]));
            const context = canvas.getContext("2d");
            const pixel = (layer, expert) => {
                const [x, y] = [left + (expert + 0.5) * width, top + (layer + 0.5) * height];
                const [red, green, blue] = context.getImageData(x, y, 1, 1).data;
                return (red << 16) | (green << 8) | blue;
            };
            const numbers = (many) => Array.from({ length: many }, (_, number) => number);
            return numbers(layers).map((layer) => numbers(experts).map((expert) => pixel(layer, expert)));
        }""",
        [SHAPE.layers, SHAPE.experts],
    )
    return np.array(found, np.int64)


def ramp(page: Page, call: str) -> Counts:
    """[256] the colours of a scale of colours.js, or [1] a colour, as 0xRRGGBB."""
    colours = f"import('/ops/colours.js').then((colours) => colours.{call})"
    found = page.evaluate(f"{colours}.then((found) => found.length ? [...found] : [found])")
    value = np.array(found, np.int64)
    return ((value & 255) << 16) | (value & 0xFF00) | (value >> 16 & 255)


def distance_from_paper(page: Page, colours: Counts) -> Any:
    """How far each is from the paper in brightness."""
    paper = [int(part) for part in re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))]
    weights = np.array([0.2126, 0.7152, 0.0722])
    parts = np.stack([colours >> 16 & 255, colours >> 8 & 255, colours & 255], axis=-1)
    return abs((parts - np.array(paper)) @ weights)
