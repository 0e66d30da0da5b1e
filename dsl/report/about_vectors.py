"""What a report says of task vectors: what they change, what they do on each task, what they share.

All of it is read off the manifest, which anybody may have written: what does not fit together is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dsl.report.content import Block, Cell, Name, Remark, Section, Share, facts, table
from dsl.report.reading import items, mapping, mappings, metric, named, number, numbers, text

Data = Mapping[str, Any]
METRICS = ("accuracy", "cross_entropy", "kl", "logit_diff", "prob_diff")
CHANGED = ("accuracy", "cross_entropy", "kl")


def vectors(manifest: Mapping[str, Any]) -> Section | None:
    """A section for each vector."""
    sections = [
        Section(f"vector-{place}", f"Vector {name}", tuple(_vector(name, data)))
        for place, (name, data) in enumerate(named(manifest.get("vectors")).items(), 1)
    ]
    return Section("vectors", "Task vectors", (), tuple(sections)) if sections else None


def _vector(name: str, found: Data) -> Iterator[Block]:
    support, tuning = mapping(found.get("support")), mapping(found.get("tuning"))
    density = number(support.get("density"))
    yield facts(
        {
            "made": text(found.get("made")),
            "model": text(found.get("model")),
            "for": ", ".join(map(text, items(found.get("own")))),
            "weights changed": number(support.get("count")),
            "of": number(support.get("total")),
            "density": None if density is None else Share(density),
            "weights chosen": number(tuning.get("chosen")),
            "norm": number(support.get("norm")),
        }
    )
    yield from _effects(name, found)
    yield from _changes(found)
    yield from _overlap(mapping(mapping(support.get("overlap")).get("weights")))
    for key, title in (("by_kind", "Weights changed, by kind of parameter"), ("by_layer", "Weights changed, by layer")):
        rows = [(Name(part), number(count)) for part, count in mapping(support.get(key)).items()]
        if rows:
            yield table((key.removeprefix("by_"), "weights"), rows, title, folded=True)
    base = text(found.get("base"))
    if base and found.get("reverted") is True:
        yield Remark(f"Afterwards the model had its own bits: SHA-256 of the weights {base[:12]} before and after.")
    elif base:
        yield Remark("Afterwards the model was not what it had been.", "bad")


def _effects(name: str, found: Data) -> Iterator[Block]:
    """A row for each task and for the model alone, each part and the vector."""
    tasks, parts = named(found.get("tasks")), named(found.get("parts"))
    rows: list[tuple[Cell, ...]] = []
    for task, data in tasks.items():
        judged = [("the model", mapping(data.get("model")))]
        judged += [(f"with {part}", mapping(each.get("vector"))) for part, each in named(parts.get(task)).items()]
        judged.append((f"with {name}", mapping(data.get("vector"))))
        for who, values in judged:
            rows.append(
                (Name(task), number(data.get("examples")), who, *(metric(each, values.get(each)) for each in METRICS))
            )
    if rows:
        yield table(("task", "examples", "", *METRICS), rows, "Held-out examples")


def _changes(found: Data) -> Iterator[Block]:
    rows: list[tuple[Cell, ...]] = []
    for row in mappings(found.get("interference")):
        changes = (number(mapping(row.get(each)).get("change")) for each in CHANGED)
        rows.append((text(row.get("part")), text(row.get("task")), *changes))
    if rows:
        yield table(("part", "task", *CHANGED), rows, "Interference: together less alone")


def _overlap(found: Data) -> Iterator[Block]:
    """Of the whole, by kind and by layer."""
    if not found:
        return
    groups = [("all", found)]
    groups += [(f"{key.removeprefix('by_')} {name}", each)
               for key in ("by_kind", "by_layer") for name, each in named(found.get(key)).items()
               if number(each.get("union"))]  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for name, each in groups:
        shares = (
            ", ".join(f"{share:.1%}" for share in numbers(each.get(key)))
            for key in ("shared_fractions", "remaining_fractions")
        )
        values = (number(each.get(key)) for key in ("shared", "union", "iou", "iomin", "chance"))
        rows.append((Name(name), *values, *shares))
    headers = ("of", "shared", "union", "IoU", "IoMin", "chance IoU", "shared of each", "remaining of first")
    yield table(headers, rows, "What its parts share")
