"""Plots as SVG text: bars and lines, small, deterministic, and readable on a light and a dark page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

from bench.figures import Spread

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 46
COLORS = ("#1f77b4", "#d6604d", "#4d9221", "#8073ac", "#b8860b", "#5e7f87")
FEW_DECADES = 200
STYLE = "text { font: 12px system-ui, sans-serif; fill: #888 } .title { font-size: 14px; font-weight: 600 }"

Lines = Mapping[str, Sequence[tuple[float, Spread]]]
"""By subject, points from left to right, each with its spread."""


class Axis(NamedTuple):
    """A logarithmic axis: values from `low` to `high` become pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """The powers of ten on it; where these are few, twice and five times them too."""
        powers = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        factors = (1, 2, 5) if self.high / self.low < FEW_DECADES else (1,)
        every = (factor * 10.0**power for power in powers for factor in factors)
        return [value for value in every if self.low * 0.999 <= value <= self.high * 1.001]


def line_plot(title: str, across: str, up: str, lines: Lines) -> str:
    """Lines over two logarithmic axes, with a bar from the smallest to the largest value at each point."""
    places = sorted({place for points in lines.values() for place, _ in points})
    values = [value for points in lines.values() for _, spread in points for value in spread]
    x = Axis(places[0] / 1.15, places[-1] * 1.15, LEFT, WIDTH - RIGHT)
    y = Axis(_down(min(values)), _up(max(values)), HEIGHT - BOTTOM, TOP)
    parts = [*_frame(title, across, up, y)]
    parts += [_text(x(place), HEIGHT - BOTTOM + 18, f"{place:,.0f}", "middle") for place in places]
    for number, (name, points) in enumerate(lines.items()):
        color = COLORS[number % len(COLORS)]
        path = " ".join(f"{x(place)},{y(spread.median)}" for place, spread in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for place, spread in points:
            parts.append(_stroke(x(place), y(spread.low), x(place), y(spread.high), color))
            parts.append(f'<circle cx="{x(place)}" cy="{y(spread.median)}" r="3.5" fill="{color}"/>')
        parts += _legend(number, name, color)
    return _svg(title, parts)


def bar_plot(title: str, up: str, groups: Mapping[str, Mapping[str, Spread]]) -> str:
    """Groups of bars over a logarithmic axis; the groups' bars have the same names in the same order."""
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    values = [value for bars in groups.values() for spread in bars.values() for value in spread]
    y = Axis(_down(min(values)), _up(max(values)), HEIGHT - BOTTOM, TOP)
    parts = [*_frame(title, "", up, y)]
    room = (WIDTH - LEFT - RIGHT) / len(groups)
    breadth = room * 0.8 / len(names)
    for place, (group, bars) in enumerate(groups.items()):
        left = LEFT + place * room + room * 0.1
        parts.append(_text(left + room * 0.4, HEIGHT - BOTTOM + 18, group, "middle"))
        for name, spread in bars.items():
            number = names.index(name)
            at, top, foot = round(left + number * breadth, 1), y(spread.median), HEIGHT - BOTTOM
            color = COLORS[number % len(COLORS)]
            size = f'width="{breadth * 0.9:.1f}" height="{foot - top:.1f}"'
            parts.append(f'<rect x="{at}" y="{top}" {size} fill="{color}"/>')
    for number, name in enumerate(names):
        parts += _legend(number, name, COLORS[number % len(COLORS)])
    return _svg(title, parts)


def _svg(title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def _frame(title: str, across: str, up: str, y: Axis) -> list[str]:
    right, foot = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>']
    for value in y.ticks():
        parts.append(_stroke(LEFT, y(value), right, y(value), "#8884"))
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:,g}", "end"))
    parts.append(_stroke(LEFT, foot, right, foot, "#888"))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 8, across, "middle"))
    parts.append(
        f'<text transform="translate(16 {(TOP + foot) / 2}) rotate(-90)" text-anchor="middle">{escape(up)}</text>'
    )
    return parts


def _legend(number: int, name: str, color: str) -> list[str]:
    x, y = WIDTH - RIGHT + 16, TOP + 10 + 20 * number
    return [f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{color}"/>', _text(x + 16, y, name, "start")]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{round(x, 1)}" y="{round(y, 1)}" text-anchor="{anchor}">{escape(text)}</text>'


def _stroke(x1: float, y1: float, x2: float, y2: float, color: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{color}"/>'


def _down(value: float) -> float:
    """Half of the value, or the power of ten below, whichever is nearer."""
    return max(10.0 ** floor(log10(value)), value / 2)


def _up(value: float) -> float:
    return min(10.0 ** ceil(log10(value) + 1e-9), value * 2)
