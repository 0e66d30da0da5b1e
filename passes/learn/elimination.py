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

TRIED = 256
"""Edges a graph may have. Some hundred circuits are measured, on the training data: about what the training took."""


def eliminate_to_bound(circuit: Circuit, context: RunContext, parts: Mapping[str, Part]) -> Circuit:
    """The learned circuit; or, where it is further from the model than `passes.smallest.Tolerance` on the training data
    and the smallest circuit within that its own ranking leads to (with its weights) meets the bound on edges, that one,
    with `selection` in its provenance. Of graphs with more than `TRIED` edges, without a bound on edges, and with node
    masks it is the learned one. Ctrl-C leaves it so, with `interrupted` in its provenance."""
    bound = context.bound("edges")
    if "edges" not in parts or "nodes" in parts or bound is None or len(context.graph.edges) > TRIED:
        return circuit
    try:
        judge = Evaluator(context.program, context.task, "train")
        if Tolerance().allows(judge.measure_circuit(circuit), judge.full):
            return circuit
        found = smallest_circuit(
            context.program, context.task, circuit.scores["edges"], weights=circuit.weights, split="train",
            observer=context.observer, provenance=circuit.provenance,
        )  # fmt: skip
    except GraphirError:  # not even all edges are within
        return circuit
    except KeyboardInterrupt:
        return circuit.with_(provenance={**circuit.provenance, "interrupted": circuit.provenance["steps_done"]})
    if found.edges.sum() > count_for(bound, len(context.graph.edges)):
        return circuit
    return found.with_(scores=circuit.scores)
