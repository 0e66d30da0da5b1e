"""A tree of units as SVG: leaves below, merges at their heights, a dashed line where it is cut."""

from __future__ import annotations

from dsl.report.content import Tree
from dsl.report.plots import axis_ticks, svg_line, svg_number, svg_of, svg_text, svg_title

TOP, LEFT, HEIGHT, NAMES = 14.0, 58.0, 220.0, 110.0
STEP = 14.0
"""Width of a leaf."""
WIDEST = 900.0


def tree_svg(tree: Tree) -> str:
    """The tree with all its names, as far as they can be read, and an axis of heights."""
    count = len(tree.names)
    order = _order(tree)
    step = min(STEP, WIDEST / max(count, 1))
    across = {leaf: LEFT + 10 + step * (place + 0.5) for place, leaf in enumerate(order)}
    top = max((height for _, _, height in tree.merges), default=1.0) or 1.0
    bottom = TOP + HEIGHT

    def up(height: float) -> float:
        return bottom - HEIGHT * height / (1.05 * top)

    parts = [svg_line(LEFT, TOP, LEFT, bottom, "axis")]
    for tick in axis_ticks(0.0, 1.05 * top):
        parts += [svg_line(LEFT - 4, up(tick), LEFT, up(tick), "axis")]
        parts += [svg_text(LEFT - 7, up(tick) + 3.5, svg_number(tick), "end", "small")]
    ends = dict.fromkeys(range(count), bottom)
    for place, (left, right, height) in enumerate(tree.merges):
        x1, x2, y = across[left], across[right], up(height)
        path = f"M{x1:.1f},{ends[left]:.1f}V{y:.1f}H{x2:.1f}V{ends[right]:.1f}"
        parts.append(f'<path class="line" d="{path}">{svg_title(svg_number(height))}</path>')
        across[count + place], ends[count + place] = (x1 + x2) / 2, y
    width = LEFT + 20 + step * count
    if tree.cut is not None:
        parts.append(svg_line(LEFT, up(tree.cut), width - 10, up(tree.cut), "cut"))
    every = max(1, round(9 / step))
    for leaf in order[::every]:
        turn = f' transform="rotate(-90 {across[leaf] + 3:.1f} {bottom + 6:.1f})"'
        parts.append(svg_text(across[leaf] + 3, bottom + 6, tree.names[leaf], "end", "small", turn))
    middle = (TOP + bottom) / 2
    turned = f' transform="rotate(-90 14 {middle:.1f})"'
    parts.append(svg_text(14, middle, tree.label, "middle", "", turned))
    return svg_of(tree.title, max(width, 160.0), bottom + NAMES, parts)


def _order(tree: Tree) -> list[int]:
    """The leaves from left to right, so that no two branches cross."""
    count = len(tree.names)
    below = {count + place: (left, right) for place, (left, right, _) in enumerate(tree.merges)}
    found: list[int] = []
    ahead = [count + len(tree.merges) - 1]
    while ahead:
        node = ahead.pop()
        if node in below:
            left, right = below[node]
            ahead += [right, left]
        else:
            found.append(node)
    return found
