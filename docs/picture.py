"""Draws docs/demo.svg, the picture of the demo in README.md, from a real run of `connector demo`:

    .venv/bin/python docs/picture.py [SECONDS]

The demo runs for SECONDS (8) against its sandboxes on loopback. The last view that it showed and
its summary become the picture; every number in it was measured in this run. The picture fetches
nothing: no font and no address of elsewhere is left in it.
"""

from __future__ import annotations

import asyncio
import io
import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.terminal_theme import DIMMED_MONOKAI

from connector.cli import demo

PICTURE = Path(__file__).with_name("demo.svg")
WIDTH = 116
_RATE = 20.0
_FONT_FACE = re.compile(r"@font-face\s*\{.*?\}\s*", re.S)
_COMMENT = re.compile(r"<!--.*?-->\s*", re.S)
_FAMILY = re.compile(r"font-family: ?[^;\"]*(;|(?=\"))")


class Watched:
    """The demo's own pictures of itself, kept as it makes them."""

    def __init__(self) -> None:
        self.view: RenderableType = ""
        self.output: list[str] = []
        self._look, self._sum_up = demo.render_view, demo.print_summary

    async def look(self, *args: Any) -> RenderableType:
        self.view = await self._look(*args)
        return self.view

    async def sum_up(self, console: Console, *args: Any) -> int:
        with console.capture() as captured:
            result = await self._sum_up(console, *args)
        self.output = captured.get().strip().splitlines()
        console.print("\n".join(self.output))
        return result


def draw(watched: Watched) -> str:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print("$ connector demo\n", style="bold", highlight=False)
    console.print(watched.view)
    console.print()
    for line in watched.output:
        console.print(
            line, style="bold green" if line == "all checks passed" else None, highlight=False
        )
    svg = console.export_svg(title="connector demo", theme=DIMMED_MONOKAI, unique_id="demo")
    return local(svg)


def local(svg: str) -> str:
    """The picture without anything that a viewer would have to fetch."""
    svg = _COMMENT.sub("", _FONT_FACE.sub("", svg))
    svg = _FAMILY.sub("font-family: monospace;", svg)
    return "\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n"


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    watched = Watched()
    demo.render_view, demo.print_summary = watched.look, watched.sum_up
    result = asyncio.run(demo.demonstrate(0, seconds, _RATE))
    if result == 0:
        PICTURE.write_text(draw(watched))
        print(f"{PICTURE.name}: {PICTURE.stat().st_size:,} bytes")
    return result


if __name__ == "__main__":
    raise SystemExit(main())
