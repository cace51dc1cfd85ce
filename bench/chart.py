"""The report's chart as SVG: how far each ratio is from its goal, and what an event costs with
size. Light and dark, with the same in words for those who do not see it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _ROW, _LEFT, _RIGHT = 760, 30, 300, 90
_TOP, _BOTTOM = 64, 34
_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.quiet { fill: #59636e; font-size: 12px }
.met { fill: #1a7f5a }
.missed { fill: #b35900 }
.goal { stroke: #1f2328; stroke-width: 2; stroke-dasharray: 4 3 }
.grid { stroke: #d1d9e0 }
.back { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .quiet { fill: #9198a1 }
  .met { fill: #3fb68b }
  .missed { fill: #e39b4d }
  .goal { stroke: #f0f6fc }
  .grid { stroke: #3d444d }
  .back { fill: #0d1117 }
}"""


@dataclass(frozen=True, slots=True)
class Bar:
    """`of_goal`: the figure as a share of its goal; 1 and less is met. `text` is the figure."""

    name: str
    of_goal: float
    text: str

    @property
    def met(self) -> bool:
        return self.of_goal <= 1.0


def draw(title: str, bars: Sequence[Bar]) -> str:
    """The bars on a logarithmic scale that has the goal as its middle line."""
    reach = max(2.0, *(max(bar.of_goal, 1 / bar.of_goal) for bar in bars))
    reach = 2.0 ** math.ceil(math.log2(reach))
    span, height = _WIDTH - _LEFT - _RIGHT, _TOP + _ROW * len(bars) + _BOTTOM

    def x(of_goal: float) -> float:
        return _LEFT + span * (math.log(of_goal * reach) / math.log(reach * reach))

    missed = [bar.name for bar in bars if not bar.met]
    words = "; ".join(f"{bar.name}: {bar.text}, {_compared(bar)}" for bar in bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        'role="img" aria-labelledby="title description">',
        f'<title id="title">{escape(title)}: {len(bars) - len(missed)} of {len(bars)} goals are '
        "met</title>",
        f'<desc id="description">{escape(words)}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="back" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="16" y="28">{escape(title)}</text>',
        '<text class="quiet" x="16" y="48">Each figure as a multiple of its goal, logarithmic: '
        "left of the dashed line is better than the goal</text>",
    ]
    bottom = _TOP + _ROW * len(bars)
    tick = 1 / reach
    while tick <= reach:
        at, name = f"{x(tick):.1f}", "goal" if tick == 1 else f"{tick:g}×"
        kind = "goal" if tick == 1 else "grid"
        parts += [
            f'<line class="{kind}" x1="{at}" x2="{at}" y1="{_TOP}" y2="{bottom}"/>',
            f'<text class="quiet" x="{at}" y="{bottom + 18}" text-anchor="middle">{name}</text>',
        ]
        tick *= 2 if reach <= 8 else 4
    for place, bar in enumerate(bars):
        y, start, end = _TOP + _ROW * place, *sorted((x(1.0), x(bar.of_goal)))
        parts.append(
            f'<text x="{_LEFT - 10}" y="{y + 20}" text-anchor="end">{escape(bar.name)}</text>'
            f'<rect class="{"met" if bar.met else "missed"}" x="{start:.1f}" y="{y + 7}" '
            f'width="{max(2.0, end - start):.1f}" height="16" rx="2"/>'
            f'<text x="{_WIDTH - 10}" y="{y + 20}" text-anchor="end">{escape(bar.text)}'
            f"{'' if bar.met else ' ✗'}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def _compared(bar: Bar) -> str:
    return "met" if bar.met else f"missed: {bar.of_goal:.1f} times the goal"
