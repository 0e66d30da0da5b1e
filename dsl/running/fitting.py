"""Whether graphs have what circuits ask of them: looked at before anything is learned, so that a bound that leaves
nothing in the last section of a file does not cost the work on those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dsl.checking.masks import masks_of
from dsl.running.failures import located
from dsl.running.finding import bounds_of, bounds_on, count_neurons, discover_stages, masked_weights
from graphir.errors import GraphirError

if TYPE_CHECKING:
    from dsl.running.workplace import Workplace
    from dsl.spec import CircuitSpec, Constraint
    from graphir.diagnostics import Span
    from graphir.ir import Graph

NEED_PROGRAM = frozenset({"neurons", "weights"})
"""Parts that only the masked program knows the number of."""


def check_fit(circuits: Sequence[CircuitSpec], place: Workplace) -> None:
    """`StageError` at the first bound that leaves nothing, or less than what is always kept, and at the first method
    that masks what its model has none of. Circuits in the cache have fitted."""
    for spec in circuits:
        if _is_cached(spec, place):
            continue
        graph = place.graph(spec.graph)
        _check_counts(spec, bounds_of(spec, graph), {"edges": len(graph.edges), "nodes": len(graph.nodes)}, graph)
        asked = set(masks_of(spec.method)) & NEED_PROGRAM
        if asked:
            _check_program(spec, asked, place)


def _check_program(spec: CircuitSpec, asked: set[str], place: Workplace) -> None:
    """The same for neurons and weights."""
    from passes.learn.results import check_neurons

    learns, program = bool(getattr(spec.method.options, "learns", False)), place.program(spec.graph)
    bounds, totals = bounds_on(spec, program), dict[str, int]()
    with located(_doing(spec), spec.method.span):
        if "neurons" in asked and (learns or "neurons" in bounds):
            check_neurons(program)
            totals["neurons"] = count_neurons(program)
        if "weights" in asked and (learns or "weights" in bounds):
            totals["weights"] = masked_weights(spec.method, program)
    _check_counts(spec, bounds, totals, program.graph)


def _check_counts(spec: CircuitSpec, bounds: Mapping[str, Any], totals: Mapping[str, int], graph: Graph) -> None:
    from passes.base import count_for

    for part, total in totals.items():
        share = bounds.get("density" if part == "edges" else part)
        count = total
        if share is not None:
            with located(_doing(spec), _span(spec, part)):
                count = count_for(share, total)
                least = _always_kept(spec, graph) if part == "nodes" else 0
                if count < least:
                    raise GraphirError(
                        f"{count} of {total} nodes are allowed, and {least} (inputs and outputs) are always kept",
                        [f"allow at least {least / total:.3%}"],
                    )
        limit = bounds.get("edges") if part == "edges" else None
        _check_least(spec, part, total, count if limit is None else min(count, limit))


def _check_least(spec: CircuitSpec, part: str, total: int, most: int) -> None:
    """That of a part as many may be kept as must be, where one is said as a share and the other as a number."""
    for each in spec.constraints:
        least = _least(each, part, total)
        if least > most:
            with located(_doing(spec), each.span):
                raise GraphirError(
                    f"{most} of {total} {part} are allowed, and this asks for at least {least}",
                    ["the bounds contradict each other: drop one of them"],
                )


def _least(constraint: Constraint, part: str, total: int) -> int:
    """How many of a part a constraint asks for at least; 0 where it does not."""
    if constraint.value is None:
        return 0
    strict = constraint.operator in (">", "<")
    match constraint.quantity, constraint.operator:
        case "density", (">=" | ">" | "==") if constraint.part == part:
            found = constraint.value * total
        case "sparsity", ("<=" | "<" | "==") if constraint.part == part:
            found = (1.0 - constraint.value) * total
        case named, (">=" | ">" | "==") if named == part:
            found = constraint.value
        case _:
            return 0
    whole = math.ceil(found - 1e-9 * total)
    return whole + (strict and whole <= found)


def _always_kept(spec: CircuitSpec, graph: Graph) -> int:
    from passes.learn.results import pinned_nodes
    from passes.selection import fixed_nodes

    learns = getattr(spec.method.options, "learns", False)
    return int((pinned_nodes(graph) if learns else fixed_nodes(graph)).sum())


def _is_cached(spec: CircuitSpec, place: Workplace) -> bool:
    """Whether every seed's circuit is in the cache."""
    if place.cache is None:
        return False
    stages = discover_stages(spec).values()
    try:
        return all(place.cache.find(stage.kind, place.key(stage)) is not None for stage in stages)
    except (GraphirError, OSError, ValueError):  # a damaged entry is computed anew
        return False


def _doing(spec: CircuitSpec) -> str:
    return f"checking what `{spec.label}` asks of `{spec.graph.name}`"


def _span(spec: CircuitSpec, part: str) -> Span:
    """Where the size of a part is given."""
    if spec.top is not None:
        return spec.top.span
    return next((each.span for each in spec.constraints if part in (each.part, each.quantity)), spec.method.span)
