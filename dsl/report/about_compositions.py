"""What a report says of compositions: what they do on the tasks of their parts, and how much the parts share.

All of it is read off the manifest, which anybody may have written: what does not fit together is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dsl.report.content import Block, Cell, Name, Section, facts, table
from dsl.report.reading import items, mapping, mappings, metric, named, number, numbers, share, text

Data = Mapping[str, Any]
METRICS = ("accuracy", "kl", "logit_diff", "prob_diff", "exact_match", "faithfulness")
"""Metrics in the table, those that were measured; the manifest has the others."""
PARTS = ("edges", "nodes", "weights")
MOST = 500
"""Rows of a table of layers or kinds."""


def compositions(manifest: Data, names: tuple[str, ...]) -> Section | None:
    """A section for each composition of these circuits."""
    found = {name: each for name, each in named(manifest.get("compositions")).items() if name in names}
    sections = [
        Section(f"composition-{place}", f"Composition {name}", tuple(_composition(name, data)))
        for place, (name, data) in enumerate(found.items(), 1)
    ]
    return Section("compositions", "Compositions", (), tuple(sections)) if sections else None


def _composition(name: str, found: Data) -> Iterator[Block]:
    yield facts(
        {
            "formula": Name(text(found.get("formula"))),
            "parts": ", ".join(map(text, items(found.get("parts")))),
            "weights counted more than once": number(found.get("weights_counted_more_than_once")) or None,
        }
    )
    yield from _measured(name, found)
    yield from _changes(found)
    yield from overlap_blocks(mapping(found.get("overlap")), "What the parts share")


def _measured(name: str, found: Data) -> Iterator[Block]:
    """A row for each circuit on each task, the composition last."""
    tasks = named(found.get("tasks"))
    measured = [(task, circuit, values) for task, data in tasks.items() for circuit, values in named(data).items()]
    shown = [each for each in METRICS if any(each in values for _, _, values in measured)]
    rows = [
        (Name(task), Name(circuit), *(metric(each, values.get(each)) for each in shown))
        for task, circuit, values in measured
    ]
    if rows:
        yield table(("task", "circuit", *shown), rows, f"{name} and its parts, on held-out examples", limit=MOST)


def _changes(found: Data) -> Iterator[Block]:
    rows: list[tuple[Cell, ...]] = []
    for row in mappings(found.get("interference")):
        for name, each in named(row).items():
            values = (metric(name, each.get(key)) for key in ("alone", "composed", "change"))
            rows.append((Name(text(row.get("part"))), Name(text(row.get("task"))), name, *values))
    if rows:
        headers = ("part", "task", "metric", "alone", "composed", "change")
        yield table(headers, rows, "Interference with each part on the task it was found for", limit=MOST)


def overlap_blocks(found: Data, title: str) -> Iterator[Block]:
    """Overlaps as `graphir.algebra_overlap.CircuitOverlap.to_json` has them: the whole and the kinds of each part, then
    every layer. Kinds and layers of which no circuit keeps anything are left out."""
    parts = {part: mapping(found.get(part)) for part in PARTS if mapping(found.get(part))}
    rows: list[tuple[Cell, ...]] = []
    for part, whole in parts.items():
        rows.append(_row(part, whole))
        rows += [_row(f"{part} of {name}", each) for name, each in _kept(whole.get("by_kind")).items()]
    if rows:
        headers = ("part", "shared", "union", "IoU", "IoMin", "IoU by chance", "shared of each", "remaining of first")
        yield table(headers, rows, title, limit=MOST)
    layers = {part: _kept(whole.get("by_layer")) for part, whole in parts.items()}
    names = sorted({name for own in layers.values() for name in own}, key=_in_order)
    by_layer = [
        (_layer(name), *(cell for own in layers.values() for cell in _counts(own.get(name, {})))) for name in names
    ]
    if by_layer:
        columns = ("layer", *(f"{part}{what}" for part in layers for what in (" shared", ", union", ", IoU")))
        yield table(columns, by_layer, f"{title}, layer by layer", limit=MOST)


def _kept(groups: Any) -> dict[str, Data]:
    return {name: each for name, each in named(groups).items() if number(each.get("union"))}


def _row(name: str, found: Data) -> tuple[Cell, ...]:
    shares = (share(found.get(key)) for key in ("iou", "iomin", "chance"))
    each = (
        ", ".join(f"{part:.0%}" for part in numbers(found.get(key)))
        for key in ("shared_fractions", "remaining_fractions")
    )
    return (name, number(found.get("shared")), number(found.get("union")), *shares, *each)


def _counts(found: Data) -> tuple[Cell, ...]:
    return number(found.get("shared")), number(found.get("union")), share(found.get("iou"))


def _in_order(name: str) -> tuple[bool, int, str]:
    """Layers by their numbers, what is in none at the end."""
    known = name.isascii() and name.isdigit() and len(name) < 10
    return not known, int(name) if known else 0, name


def _layer(name: str) -> str:
    return "none" if name == "-" else name
