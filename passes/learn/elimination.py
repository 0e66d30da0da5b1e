"""The last choice of edges in a small graph: by trying, where the ranks of learned masks alone miss the bound.

A gradient does not see a step: in a program whose MLPs compare with thresholds, the mask of an edge can halve without
any loss, and closing it costs all prompts it serves. Learned ranks then put it behind what is not needed. In a graph so
small that each edge can be tried, that is mended: the ranks say in which order.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphir.circuit import Circuit
from graphir.errors import GraphirError
from passes.base import RunContext, count_for
from passes.learn.parts import Part
from passes.measure import Evaluator
from passes.smallest import Tolerance, smallest_circuit

TRIED = 512
"""Edges that a graph may have. Twice as many circuits are measured, on the training data."""
LARGEST = 10**9
"""What edges times weights may come to: some minutes on a core."""


def eliminate_to_bound(circuit: Circuit, context: RunContext, parts: Mapping[str, Part]) -> Circuit:
    """The learned circuit; or, where it is further from the model than `passes.smallest.Tolerance` on the training data
    and the smallest circuit within that its own ranking leads to (with its weights) meets the bound on edges, that one,
    with `selection` in its provenance. It is the learned one where graph or model are not small (`TRIED`, `LARGEST`),
    without a bound on edges, and with node masks. Ctrl-C leaves it so, with `interrupted` in its provenance."""
    bound = context.bound("edges")
    if "edges" not in parts or "nodes" in parts or bound is None or not is_small(context):
        return circuit
    try:
        judge = Evaluator(context.program, context.task, "train")
        if Tolerance().allows(judge.measure_circuit(circuit), judge.full):
            return circuit
        found = smallest_circuit(
            context.program, context.task, circuit.scores["edges"], weights=circuit.weights, split="train",
            evaluator=judge, observer=context.observer, provenance=circuit.provenance,
        )  # fmt: skip
    except GraphirError:  # not even all edges are within
        return circuit
    except KeyboardInterrupt:
        return circuit.with_(provenance={**circuit.provenance, "interrupted": circuit.provenance["steps_done"]})
    if found.edges.sum() > count_for(bound, len(context.graph.edges)):
        return circuit
    return found.with_(scores=circuit.scores)


def is_small(context: RunContext) -> bool:
    """Whether each edge can be tried."""
    edges = len(context.graph.edges)
    weights = sum(tensor.numel() for tensor in context.program.traced.tensors.values())
    return edges <= TRIED and edges * weights <= LARGEST
