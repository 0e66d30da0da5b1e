"""Tables of task vectors: what they change, what they do on each task, what they share. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphir.algebra_overlap import HEADERS, overlap_rows
from graphir.display import format_number, simple_table

if TYPE_CHECKING:
    from dsl.running.vectoring import FoundVector

SHOWN = ("accuracy", "cross_entropy", "kl")
COLUMNS = ("accuracy", "cross_entropy", "kl", "logit_diff")
LAYERS = 3
"""Layers of an overlap that are shown, those with the most in common."""


def vector_parts(found: FoundVector) -> list[Any]:
    """A line on its size, a row for each task with the model alone, the vector's parts and the vector, what its parts
    do to each other, what they share, and whether the model is as it was."""
    support = found.support
    size = f"{support.count:,} of {support.total:,} weights ({support.density:.3%}), norm {format_number(support.norm)}"
    parts: list[Any] = [f"vector {found.name}: {size}; {found.made}"]
    if found.effects:
        parts.append(_effects(found))
    parts += [_change(row, found) for row in found.interference() if found.alone]
    if support.overlap:
        parts.append(simple_table(HEADERS, overlap_rows(support.overlap, layers=LAYERS), HEADERS[1:]))
    if found.effects or found.tuning:
        parts.append(_reverted(found))
    return parts


def _effects(found: FoundVector) -> Any:
    rows: list[tuple[Any, ...]] = []
    shown = [name for name in COLUMNS if all(name in each.vector for each in found.effects.values())]
    for task, effect in found.effects.items():
        rows.append((task, effect.examples, found.model, *(_value(effect.model, name) for name in shown)))
        for part, each in found.alone.get(task, {}).items():
            rows.append(("", "", f"+ {part}", *(_value(each.vector, name) for name in shown)))
        rows.append(("", "", f"+ {found.name}", *(_value(effect.vector, name) for name in shown)))
    headers = ("held-out", "examples", "", *shown)
    return simple_table(headers, rows, ("examples", *shown))


def _value(metrics: Mapping[str, float], name: str) -> float | None:
    return metrics.get(name)


def _change(row: Mapping[str, Any], found: FoundVector) -> str:
    changes = ", ".join(f"{name} {_signed(row[name]['change'])}" for name in SHOWN)
    return f"what the others change of {row['part']} on {row['task']}: {changes}"


def _signed(value: float) -> str:
    return format_number(value) if value < 0 else f"+{format_number(value)}"


def _reverted(found: FoundVector) -> str:
    if found.reverted:
        return f"afterwards {found.model} has its own bits: SHA-256 {found.base[:12]} before and after"
    return f"afterwards {found.model} is NOT what it was: its SHA-256 before was {found.base[:12]}"
