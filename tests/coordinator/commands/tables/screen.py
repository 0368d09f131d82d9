"""What a table looks like on a screen of some width, as text."""

from __future__ import annotations

from rich.console import Console, RenderableType


def shown(renderable: RenderableType, width: int = 140) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()
