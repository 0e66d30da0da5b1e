"""Drawings of circuits and of groups of units within a page: what Graphviz wrote, taken apart and put together again
from what is known to be harmless, so that no name, whatever it holds, becomes part of the page."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from graphir.errors import GraphirError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from graphir.circuit import Circuit

ELEMENTS = frozenset({"g", "path", "polygon", "polyline", "ellipse", "text"})
ATTRIBUTES = frozenset(
    {
        "d", "points", "cx", "cy", "rx", "ry", "x", "y", "fill", "stroke", "stroke-width", "stroke-dasharray",
        "stroke-linecap", "transform", "text-anchor", "font-family", "font-size", "font-weight",
    }
)  # fmt: skip
VALUE = re.compile(r"[\w\s.,#%()+-]*")
"""What attributes consist of: numbers, colors, transformations; nothing that names a place."""
LONGEST = 400_000
"""Characters of the largest drawing in a page."""


def draw_circuit(circuit: Circuit) -> str | None:
    """The SVG of a circuit; None where nothing can draw, nothing is kept, or the drawing is too large for a page."""
    svg = circuit._repr_svg_()
    return svg if svg and len(svg) <= LONGEST else None


def draw_groups(groups: Mapping[str, Sequence[str]], counts: Mapping[tuple[str, str], int], title: str) -> str | None:
    """The SVG of groups of units over their graph; None where nothing can draw, or it is too large for a page."""
    from dsl.export.diagram import source_of
    from graphir.draw import draw

    try:
        svg = draw(source_of(groups, counts, title), "svg").decode("utf-8", "replace")
    except GraphirError:
        return None
    return svg if len(svg) <= LONGEST else None


def inline_svg(svg: str, label: str) -> str:
    """A drawing as an element of a page; empty where it is no SVG. Texts shown under the pointer are kept."""
    if "<!ENTITY" in svg:  # entities within entities are the one way a small drawing could become a large one
        return ""
    try:
        root = ElementTree.fromstring(svg)  # noqa: S314
    except (ElementTree.ParseError, ValueError):
        return ""
    box = root.get("viewBox", "")
    if not VALUE.fullmatch(box):
        return ""
    sizes = box.split()
    size = f' width="{sizes[2]}" height="{sizes[3]}"' if len(sizes) == 4 else ""
    inner = "".join(_element(each) for each in root)
    return (
        f'<svg class="drawing" role="img" aria-label="{escape(label, quote=True)}" viewBox="{box}"{size}>{inner}</svg>'
    )


def _element(element: ElementTree.Element) -> str:
    name = _local(element.tag)
    if name == "a":  # Graphviz's way of showing a text under the pointer
        tip = next((value for key, value in element.attrib.items() if _local(key) == "title"), "")
        return f"<g>{f'<title>{escape(tip)}</title>' if tip else ''}{''.join(_element(each) for each in element)}</g>"
    if name not in ELEMENTS:
        return ""
    given = "".join(
        f' {key}="{value}"' for key, value in element.attrib.items() if key in ATTRIBUTES and VALUE.fullmatch(value)
    )
    text = escape(element.text or "") if name == "text" else ""
    return f"<{name}{given}>{text}{''.join(_element(each) for each in element)}</{name}>"


def _local(tag: object) -> str:
    """A name without its namespace; empty for comments."""
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""
