"""Plots as SVG, small and the same each time: lines over a logarithmic share, dots in rows, a matrix in gray.

Lines are told apart by dash and mark, not by color, so that a page can be printed. Each mark has a title with its
numbers, which a browser shows under the pointer. Coordinates have one decimal.
"""

from __future__ import annotations

import base64
import itertools
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from html import escape

from dsl.report.content import Dots, HeatMap, Plot, Series, Strip
from dsl.report.text import one_line

WIDTH, HEIGHT = 600.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 86.0, 14.0, 44.0
DASHES = ("", "7 3", "2 3", "8 3 2 3", "12 4", "1 5")
MARKS = ("circle", "square", "triangle", "diamond", "cross", "plus")
ROW = 34.0
LONGEST = 28
"""Characters of a name in a plot."""


def plot_svg(plot: Plot) -> str:
    """Lines with marks, levels as thin lines with their names at the right, a legend below where there are several."""
    xs = [x for each in plot.series for x, _ in each.points if x > 0 or plot.scale != "share"]
    ys = [y for each in plot.series for _, y in each.points] + [y for _, y in plot.levels]
    across: _Log | _Plain
    if plot.scale == "share":
        across = _Log(min(xs, default=0.01), max(xs, default=1.0), LEFT, WIDTH - RIGHT)
    else:
        across = _Plain(min(xs, default=0.0), max(xs, default=1.0), LEFT, WIDTH - RIGHT)
    up = _Linear(*_widened(min(ys, default=0.0), max(ys, default=1.0)), HEIGHT - BOTTOM, TOP)
    parts = [*_frame(plot.x, plot.y, HEIGHT), *_x_ticks(across), *_y_ticks(up)]
    for name, level in plot.levels:
        y = up(level)
        parts.append(svg_line(LEFT, y, WIDTH - RIGHT, y, "level"))
        parts.append(svg_text(WIDTH - RIGHT + 6, y + 3.5, name, "start", "small"))
    for place, each in enumerate(plot.series):
        parts += _drawn(each, place, across, up)
    many = len(plot.series) > 1
    rows = -(-len(plot.series) // 3) if many else 0
    if many:
        parts += _legend(plot.series)
    return svg_of(plot.title, WIDTH, HEIGHT + 20 * rows, parts)


def dots_svg(dots: Dots) -> str:
    """A row for each strip: values as circles, the interval as a bar, the mark as a tall line."""
    values = [v for each in dots.strips for v in (*each.values, *(each.interval or ()), each.mark) if v is not None]
    low, high = _widened(min(values, default=0.0), max(values, default=1.0))
    left, right = 190.0, WIDTH - 16
    across = _Linear(low, high, left, right)
    height = TOP + ROW * len(dots.strips) + BOTTOM
    bottom = height - BOTTOM
    parts = [svg_line(left, bottom, right, bottom, "axis")]
    parts.append(svg_text((left + right) / 2, height - 8, dots.x, "middle"))
    for tick in axis_ticks(low, high):
        parts.append(svg_line(across(tick), bottom, across(tick), bottom + 4, "axis"))
        parts.append(svg_text(across(tick), bottom + 17, svg_number(tick), "middle", "small"))
    for place, each in enumerate(dots.strips):
        parts += _strip(each, across, TOP + ROW * (place + 0.5), dots.mark)
    return svg_of(dots.title, WIDTH, height, parts)


def heat_map_svg(heat: HeatMap) -> str:
    """A gray image of one pixel an entry, names beside and above it as far as they can be read."""
    count = len(heat.names)
    values = [value for row in heat.values for value in row]
    low, high = min(values, default=0.0), max(values, default=1.0)
    side = min(max(22.0 * count, 120.0), 420.0)
    margin = 110.0
    size = side / max(count, 1)
    data = base64.b64encode(_png(heat.values, low, high)).decode()
    parts = [
        f'<image x="{margin}" y="{margin}" width="{side:.1f}" height="{side:.1f}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
    ]
    parts += _frames(heat.frames, count, margin, size)
    step = max(1, math.ceil(9 / size))
    for place in range(0, count, step):
        middle = margin + (place + 0.5) * size
        name = heat.names[place]
        parts.append(svg_text(margin - 5, middle + 3, name, "end", "small"))
        turn = f' transform="rotate(-90 {middle:.1f} {margin - 5})"'
        parts.append(svg_text(middle, margin - 2, name, "start", "small", turn))
    scale = f"{heat.label}: black {svg_number(low)}, white {svg_number(high)}"
    parts.append(svg_text(margin, margin + side + 18, scale, "start", "small"))
    return svg_of(heat.title, margin + side + 16, margin + side + 28, parts)


def _frames(starts: Sequence[int], count: int, margin: float, size: float) -> Iterator[str]:
    """A frame around each block, black with white within, which shows on every gray."""
    edges = [0, *starts, count] if starts else []
    for first, last in itertools.pairwise(edges):
        at, side = margin + first * size, (last - first) * size
        place = f'x="{at:.1f}" y="{at:.1f}" width="{side:.1f}" height="{side:.1f}"'
        yield f'<rect class="frame" {place}/><rect class="inner" {place}/>'


class _Linear:
    """Values to coordinates."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        self.low, self.high, self._start, self._stop = low, high, start, stop

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self._start + share * (self._stop - self._start)


class _Log(_Linear):
    """Shares above 0 to coordinates, by their logarithm, over whole decades."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
        super().__init__(float(first), float(max(last, first + 1)), start, stop)

    def __call__(self, value: float) -> float:
        return super().__call__(math.log10(value))

    def ticks(self) -> Iterator[float]:
        """1, 2 and 5 of each decade; only 1 where there are more than three."""
        steps = (1, 2, 5) if self.high - self.low <= 3 else (1,)
        for decade in range(round(self.low), round(self.high) + 1):
            for step in steps:
                if decade + math.log10(step) <= self.high + 1e-9:
                    yield step * 10.0**decade


class _Plain(_Linear):
    """Any numbers to coordinates."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        super().__init__(low, high if high > low else low + max(abs(low), 1.0), start, stop)

    def ticks(self) -> Iterator[float]:
        """About five round numbers."""
        yield from axis_ticks(self.low, self.high)


def _widened(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.06
    return low - room, high + room


def axis_ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two."""
    raw = (high - low) / 5
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * each for each in (1, 2, 5, 10) if base * each >= raw * (1 - 1e-9))
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _frame(x: str, y: str, height: float) -> Iterator[str]:
    bottom, middle = height - BOTTOM, (TOP + height - BOTTOM) / 2
    yield svg_line(LEFT, bottom, WIDTH - RIGHT, bottom, "axis")
    yield svg_line(LEFT, TOP, LEFT, bottom, "axis")
    yield svg_text((LEFT + WIDTH - RIGHT) / 2, height - 8, x, "middle")
    yield svg_text(14, middle, y, "middle", "", f' transform="rotate(-90 14 {middle:.1f})"')


def _x_ticks(across: _Log | _Plain) -> Iterator[str]:
    bottom = HEIGHT - BOTTOM
    for tick in across.ticks():
        yield svg_line(across(tick), bottom, across(tick), bottom + 4, "axis")
        yield svg_text(across(tick), bottom + 17, _place(across, tick), "middle", "small")


def _place(across: _Log | _Plain, x: float) -> str:
    """A place on the axis in words."""
    return f"{100 * x:.4g}%" if isinstance(across, _Log) else svg_number(x)


def _y_ticks(up: _Linear) -> Iterator[str]:
    for tick in axis_ticks(up.low, up.high):
        yield svg_line(LEFT - 4, up(tick), LEFT, up(tick), "axis")
        yield svg_text(LEFT - 7, up(tick) + 3.5, svg_number(tick), "end", "small")


def _drawn(series: Series, place: int, across: _Log | _Plain, up: _Linear) -> Iterator[str]:
    points = [(x, y) for x, y in series.points if x > 0 or isinstance(across, _Plain)]
    path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
    dash = DASHES[place % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    yield f'<polyline class="line"{dashed} points="{path}"/>'
    for x, y in points:
        tip = f"{series.name}: {svg_number(y)} at {_place(across, x)}"
        yield _mark(across(x), up(y), place, tip)


def _legend(series: Sequence[Series]) -> Iterator[str]:
    for place, each in enumerate(series):
        x, y = LEFT + 180 * (place % 3), HEIGHT + 6 + 20 * (place // 3)
        dash = DASHES[place % len(DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        yield f'<polyline class="line"{dashed} points="{x:.1f},{y:.1f} {x + 30:.1f},{y:.1f}"/>'
        yield _mark(x + 15, y, place, each.name)
        yield svg_text(x + 36, y + 4, each.name, "start", "small")


def _strip(strip: Strip, across: _Linear, y: float, mark: str) -> Iterator[str]:
    yield svg_text(182, y + 4, strip.name, "end")
    if strip.interval is not None:
        low, high = strip.interval
        width = max(across(high) - across(low), 1.0)
        yield f'<rect class="interval" x="{across(low):.1f}" y="{y - 7:.1f}" width="{width:.1f}" height="14"/>'
    for value in strip.values:
        yield f'<circle class="dot" cx="{across(value):.1f}" cy="{y:.1f}" r="4">{svg_title(svg_number(value))}</circle>'
    if strip.mark is not None:
        x = across(strip.mark)
        tip = svg_title(f"{mark}: {svg_number(strip.mark)}")
        yield f'<rect class="mark" x="{x - 1.5:.1f}" y="{y - 12:.1f}" width="3" height="24">{tip}</rect>'


def _mark(x: float, y: float, place: int, tip: str) -> str:
    shape, title = MARKS[place % len(MARKS)], svg_title(tip)
    r = max(5.0 - 0.8 * place, 3.0)  # where lines coincide, each mark shows within the one before
    if shape == "circle":
        return f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="{r}">{title}</circle>'
    outlines = {
        "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "triangle": [(0, -r), (r, r), (-r, r)],
        "diamond": [(0, -r * 1.3), (r * 1.3, 0), (0, r * 1.3), (-r * 1.3, 0)],
        "cross": [(-r, -r), (0, 0), (r, -r), (0, 0), (r, r), (0, 0), (-r, r), (0, 0)],
        "plus": [(0, -r), (0, 0), (r, 0), (0, 0), (0, r), (0, 0), (-r, 0), (0, 0)],
    }
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in outlines[shape])
    return f'<polygon class="point" points="{corners}">{title}</polygon>'


def svg_of(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    """A whole plot."""
    label = escape(one_line(title), quote=True)
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return f'<svg class="plot" role="img" aria-label="{label}" {size}>{"".join(parts)}</svg>'


def svg_line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A line of a kind that the page's styles know."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def svg_text(x: float, y: float, text: str, anchor: str, kind: str = "", more: str = "") -> str:
    """A text on one line, escaped and cut; `more` are further attributes."""
    shown = one_line(text)
    shown = shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(shown)}</text>'


def svg_title(text: str) -> str:
    """What a browser shows under the pointer."""
    return f"<title>{escape(one_line(text))}</title>"


def svg_number(value: float) -> str:
    """Four digits; what rounding left of zero is zero."""
    return f"{value:.4g}" if abs(value) >= 1e-12 else "0"


def _png(values: Sequence[Sequence[float]], low: float, high: float) -> bytes:
    """An 8-bit gray PNG, black at `low` and white at `high`."""
    span = (high - low) or 1.0
    rows = b"".join(b"\0" + bytes(round(255 * (value - low) / span) for value in row) for row in values)
    head = struct.pack(">IIBBBBB", len(values[0]) if values else 0, len(values), 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
