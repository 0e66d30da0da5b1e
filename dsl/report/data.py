"""A report as plain data."""

from __future__ import annotations

import math
from typing import Any

from dsl.report import content
from dsl.report.content import Block, Report, Section
from dsl.report.text import visible

FORMAT, VERSION = "graphir.report", 1
FIELDS = {
    content.Remark: ("text", "tone"),
    content.Table: ("headers", "rows", "caption", "more"),
    content.Code: ("text", "language", "caption"),
    content.HeatMap: ("title", "names", "values", "label", "frames"),
    content.Drawing: ("title",),
}
"""What is written of a block; of the others everything. A drawing is left to the page: its edges stand beside it."""


def report_data(report: Report) -> dict[str, Any]:
    """Title, status and sections; a block is an object with its `kind`."""
    sections = [_section(each) for each in report.sections]
    head = {"format": FORMAT, "version": VERSION, "title": visible(report.title), "status": visible(report.status)}
    return {**head, "sections": sections}


def _section(section: Section) -> dict[str, Any]:
    data: dict[str, Any] = {"key": section.key, "title": visible(section.title)}
    data["blocks"] = [_block(each) for each in section.blocks]
    return data | ({"sections": [_section(each) for each in section.sections]} if section.sections else {})


def _block(block: Block) -> dict[str, Any]:
    kind = type(block).__name__.lower()
    if isinstance(block, content.Facts):
        return {"kind": kind, "facts": {visible(name): _plain(value) for name, value in block.pairs}}
    names = FIELDS.get(type(block)) or tuple(vars(block))
    return {"kind": kind} | {name: _plain(getattr(block, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if hasattr(value, "item"):  # a numpy number
        return _plain(value.item())
    return {name: _plain(each) for name, each in vars(value).items()}
