"""A picture of the rows, as SVG: a chart for each figure over the number of cores, drawn without any library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import log2

from bench.scaling.measuring import Row

# Title, and each line's name, colour and field of Row.
CHARTS = (
    ("decode, tokens/s", (("measured", "#1f5fa8", "decode_tokens"), ("simulated", "#c06a1c", "simulated_tokens"))),
    ("fill of the bandwidth", (("decode", "#1f5fa8", "fill"),)),
    ("prompt of 512, GOP/s", (("measured", "#1f5fa8", "prompt_gigaops"),)),
    ("share of time waited", (("decode", "#1f5fa8", "decode_waiting"), ("prompt", "#c06a1c", "prompt_waiting"))),
)
WIDTH, HEIGHT, LEFT, TOP, GAP = 360, 200, 56, 56, 64


def picture(rows: Sequence[Row], title: str) -> str:
    """The whole file."""
    width, height = 2 * (WIDTH + LEFT) + GAP, 2 * (HEIGHT + TOP) + GAP
    parts = [f'<text x="{LEFT}" y="22" font-size="14">{escape(title)}</text>']
    for number, (name, lines) in enumerate(CHARTS):
        x, y = LEFT + number % 2 * (WIDTH + LEFT + 8), TOP + number // 2 * (HEIGHT + TOP)
        parts += _chart(rows, name, lines, x, y)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _chart(rows: Sequence[Row], name: str, lines: Sequence[tuple[str, str, str]], left: int, top: int) -> Iterator[str]:
    most = max(getattr(row, field) or 0.0 for row in rows for _, _, field in lines) or 1.0
    doublings = max(1.0, log2(rows[-1].cores))

    def place(row: Row, value: float) -> tuple[float, float]:
        return left + 12 + (WIDTH - 40) * log2(row.cores) / doublings, top + HEIGHT - 20 - (HEIGHT - 50) * value / most

    yield f'<text x="{left}" y="{top + 8}" font-weight="bold">{escape(name)}</text>'
    base = top + HEIGHT - 20
    yield f'<line x1="{left}" y1="{base}" x2="{left + WIDTH - 20}" y2="{base}" stroke="#888"/>'
    for row in rows:
        x, _ = place(row, 0.0)
        label = f"{row.cores}" if row.workers == 1 else f"{row.workers}x{row.cores // row.workers}"
        yield f'<text x="{x:.1f}" y="{base + 14}" text-anchor="middle">{label}</text>'
    for number, (label, colour, field) in enumerate(lines):
        known = [(row, value) for row in rows if (value := getattr(row, field)) is not None]
        points = [place(row, value) for row, value in known]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for (x, y), (_, value) in zip(points, known, strict=True):
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
            offset = -7 if number == 0 else 15
            yield f'<text x="{x:.1f}" y="{y + offset:.1f}" text-anchor="middle" fill="{colour}">{value:.3g}</text>'
        if len(lines) > 1:
            x = left + 170 + 80 * number
            yield f'<text x="{x}" y="{top + 8}" fill="{colour}">{escape(label)}</text>'
