"""Tables of circuits side by side: members of a sweep, a composition beside its parts. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsl.running.tables import METRICS, densities_text
from graphir.algebra_overlap import HEADERS, overlap_rows
from graphir.display import format_number, simple_table

if TYPE_CHECKING:
    from dsl.running.finding import Found
    from dsl.running.interfering import Interference
    from dsl.running.judging import Judged
    from dsl.spec import SweepSpec


def unjudged_line(found: Found) -> str:
    """A circuit that belongs to no task: its size and where it comes from."""
    return f"{found.spec.kind} {found.spec.name}: {densities_text(found.circuit)}; {found.origin}; not judged on a task"


def sweep_parts(spec: SweepSpec, judged: Mapping[str, Judged]) -> list[Any]:
    """A row for each member that was measured: its values, its size, its metrics."""
    members = [(each, judged[each.name]) for each in spec.members if each.name in judged]
    if not members:
        return []
    shown = [name for name in METRICS if any(name in found.metrics for _, found in members)]
    weights = any(found.circuit.weights for _, found in members)
    headers = (spec.name, *spec.axes, "edges", "density", *(["weights"] if weights else []), *shown)
    rows = [
        (
            each.name.removeprefix(f"{spec.name}."),
            *(each.at[axis] for axis in spec.axes),
            int(found.circuit.edges.sum()),
            f"{found.circuit.density:.2%}",
            *([f"{found.circuit.densities().get('weights', 1.0):.2%}"] if weights else []),
            *(found.metrics.get(name) for name in shown),
        )
        for each, found in members
    ]
    return [f"sweep {spec.name}:", simple_table(headers, rows, headers[1 + len(spec.axes) :])]


def interference_parts(found: Interference) -> list[Any]:
    """What a composition and its parts do on each task, what the composition costs each part on its own task, and how
    much the parts share, of the whole, by kind and in the layers with the most in common."""
    names = [*found.parts, found.name]
    metrics = list(dict.fromkeys((*METRICS[:2], *found.metrics.values(), *METRICS[2:])))
    measured = [each.metrics for circuits in found.measured.values() for each in circuits.values()]
    shown = [name for name in metrics if any(name in each for each in measured)]
    rows: list[tuple[Any, ...]] = []
    for task, circuits in found.measured.items():
        rows += [(task, name, *(circuits[name].metrics.get(m) for m in shown)) for name in names]
        rows.append((task, "model", *(circuits[found.name].full.get(m) for m in shown)))
    headers = ("task", "circuit", *shown)
    parts: list[Any] = [f"{found.name} = {found.formula} on each task of its parts:"]
    parts.append(simple_table(headers, rows, headers[2:]))
    parts += [_change_line(row, found) for row in found.changes()]
    parts.append(f"what {', '.join(found.parts)} share:")
    parts.append(simple_table(HEADERS, overlap_rows(found.overlap), HEADERS[1:]))
    if found.doubled:
        parts.append(f"weights counted more than once: {found.doubled:,}")
    return parts


def _change_line(row: Mapping[str, Any], found: Interference) -> str:
    changes = ", ".join(f"{name} {_signed(each['change'])}" for name, each in row.items() if isinstance(each, Mapping))
    return f"interference with {row['part']} on {row['task']}: {changes}"


def _signed(value: float) -> str:
    return format_number(value) if value < 0 else f"+{format_number(value)}"
