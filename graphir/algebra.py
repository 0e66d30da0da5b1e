"""Circuits as sets: union, intersection, difference, complement. The operators of `Circuit` are these functions.

    both = first | second          # graphir.algebra.union(first, second)
    rest = ~both
    mixed = union(first, second, ablation="left")    # operands with different ablation references need a rule

What is combined is what runs: an edge counts as kept when its writing node is kept too (as in the masks of a circuit),
and a weight when its mask keeps it. The nodes of a result follow from its edges (`needed_nodes`), so that the usual
identities (idempotence, commutativity, associativity, absorption, De Morgan, involution) hold for edges, nodes and
weights alike, and running `~c` is running the complement of `c`. Nothing is changed in place, neither mask is inverted
as a side effect (a defect of the published code for mask composition).

Weights: a parameter that a circuit does not name is kept whole by it, and by its complement. So are the edges of a
circuit that masks weights and drops no edge. The identities that involve a complement therefore hold among operands
that mask the same parameters, and that all mask edges or all do not.

A circuit without its ablation reference (what stands in for a part that is not kept) is not defined: each result keeps
the references of its operands in its provenance, and operands whose references differ are refused unless `ablation`
says which one holds. Mean ablation with means of two data sets counts as two references. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir import circuit as circuits
from graphir.circuit import Circuit
from graphir.diff import graph_differences
from graphir.errors import GraphirError, ModelMismatchError
from graphir.ir import Graph, NodeKind
from graphir.names import closest
from graphir.reach import links_of

Mask = NDArray[np.bool_]

OF_THE_INPUT = ("zero", "interchange", "noise")
"""Ablations whose values come from the input itself; those of all others come from a data set."""


class AblationMismatchError(GraphirError):
    """Circuits that were found against different ablation references."""


@dataclass(frozen=True, slots=True)
class AblationReference:
    """What stands in for parts that are not kept: the kind, and the identity of the data its values come from (empty
    for `OF_THE_INPUT`, whose values come from no data set, and where it is not known)."""

    kind: str
    data: str = ""

    def __str__(self) -> str:
        return f"{self.kind} of data {self.data[:8]}" if self.data else self.kind


def reference_of(circuit: Circuit) -> AblationReference:
    """The ablation reference of a circuit."""
    data = "" if circuit.ablation in OF_THE_INPUT else str(circuit.provenance.get("data") or "")
    return AblationReference(circuit.ablation, data)


# --- the operations --------------------------------------------------------------------------------------------------


def union(first: Circuit, *others: Circuit, ablation: str | None = None, name: str = "") -> Circuit:
    """What any of the circuits keeps.

    `ablation` is the rule for operands whose references differ: `left`, `right` (the first or last operand's), or the
    name of an ablation. Raises `ModelMismatchError` for circuits of different graphs, `AblationMismatchError` for
    different references without a rule.
    """
    return _combine("union", (first, *others), np.logical_or, ablation, name)


def intersection(first: Circuit, *others: Circuit, ablation: str | None = None, name: str = "") -> Circuit:
    """What all of the circuits keep (arguments as of `union`)."""
    return _combine("intersection", (first, *others), np.logical_and, ablation, name)


def difference(first: Circuit, *others: Circuit, ablation: str | None = None, name: str = "") -> Circuit:
    """What the first circuit keeps and none of the others does: `first & ~other & …` (arguments as of `union`)."""
    return _combine("difference", (first, *others), _without, ablation, name)


def symmetric_difference(first: Circuit, second: Circuit, *, ablation: str | None = None, name: str = "") -> Circuit:
    """What exactly one of the two keeps (arguments as of `union`)."""
    return _combine("symmetric difference", (first, second), np.logical_xor, ablation, name)


def complement(circuit: Circuit, *, name: str = "") -> Circuit:
    """The edges and weights that the circuit does not keep. Parameters that it does not mask stay whole, and so do
    edges where it masks weights alone."""
    edges = _others_edges(circuit)
    weights = {parameter: ~np.asarray(kept, bool) for parameter, kept in circuit.weights.items()}
    reference = reference_of(circuit)
    return _result("complement", circuit.graph, edges, weights, (circuit,), reference, None, name)


# --- what the operations share ---------------------------------------------------------------------------------------


def _others_edges(circuit: Circuit) -> Mask:
    """(E,) the edges of the complement."""
    return circuit.effective_edges if circuit.masks_weights_alone else ~circuit.effective_edges


def _without(a: Mask, b: Mask) -> Mask:
    return a & ~b


def needed_nodes(graph: Graph, edges: Mask) -> Mask:
    """(N,) the nodes that a set of edges needs: those that write one, the outputs that read one, and, behind a port
    that would otherwise serve nobody, the nodes that use it. A circuit whose edges all lie on paths has just these."""
    links = links_of(graph)
    outputs = np.array([node.kind is NodeKind.OUTPUT for node in graph.nodes], bool)
    nodes = np.zeros(links.n_nodes, bool)
    nodes[links.src[edges]] = True
    fed = np.zeros(links.n_ports, bool)
    fed[links.dst[edges]] = True
    behind = fed[links.link_port]
    nodes[links.link_node[behind & outputs[links.link_node]]] = True
    served = np.zeros(links.n_ports, bool)
    served[links.link_port[nodes[links.link_node]]] = True
    nodes[links.link_node[behind & ~served[links.link_port]]] = True
    return nodes


def common_graph(operands: Sequence[Circuit], *, across_models: bool = False) -> Graph:
    """The graph of all operands, one with a model behind it where there is one.

    Raises `ModelMismatchError` where model hashes or graphs differ; with `across_models` only the graphs' structures
    must be the same (a circuit of a model beside one of its randomly initialized copy).
    """
    first = operands[0].graph
    for other in (circuit.graph for circuit in operands[1:]):
        if other is first:
            continue
        if first.model_hash != other.model_hash and not across_models:
            raise ModelMismatchError(
                f"the circuits belong to different models: {_model(first)} and {_model(other)}",
                ["set operations combine circuits of one model; `graphir.diff` compares across models by name"],
            )
        if found := graph_differences(first, other, structure=True):
            raise ModelMismatchError(
                f"the circuits' graphs differ: {'; '.join(found[:3])}",
                ["trace both at one granularity, on one release"],
            )
    return next((c.graph for c in operands if c.graph.lifted is not None), first)


def _model(graph: Graph) -> str:
    return f"{graph.name or 'unnamed'} ({graph.model_hash[:8] or 'no hash'})"


def common_reference(operands: Sequence[Circuit], rule: str | None) -> AblationReference:
    """The one ablation reference of the operands, or that which the rule gives.

    Raises `AblationMismatchError` for different references without a rule, `GraphirError` for an unknown rule.
    """
    references = [reference_of(circuit) for circuit in operands]
    known = ("left", "right", *circuits.ABLATIONS)
    if rule is not None and rule not in known:
        near = closest(rule, known)
        raise GraphirError(
            f"no ablation rule `{rule}`",
            [f"did you mean `{near[0]}`?" if near else f"one of {', '.join(known)}"],
        )
    if rule == "left":
        return references[0]
    if rule == "right":
        return references[-1]
    if rule is not None:
        same = [reference for reference in references if reference.kind == rule]
        return same[0] if len(set(same)) == 1 else AblationReference(rule)
    if len(set(references)) > 1:
        shown = " and ".join(dict.fromkeys(map(str, references)))
        raise AblationMismatchError(
            f"the circuits were found against different ablation references: {shown}",
            [
                'say which one the result has: ablation="left" or "right", or its name, such as "zero"',
                "or find both with the same ablation on the same data",
            ],
        )
    return references[0]


def common_weights(operands: Sequence[Circuit]) -> list[dict[str, Mask]]:
    """Each operand's weight masks over the parameters that any of them names; whole where it does not name one."""
    shapes: dict[str, tuple[int, ...]] = {}
    for circuit in operands:
        for parameter, kept in circuit.weights.items():
            if shapes.setdefault(parameter, np.shape(kept)) != np.shape(kept):
                raise GraphirError(
                    f"the masks of `{parameter}` have shapes {shapes[parameter]} and {np.shape(kept)}",
                    ["masks of one parameter have its shape"],
                )
    return [
        {
            parameter: np.asarray(circuit.weights[parameter], bool)
            if parameter in circuit.weights
            else np.ones(shape, bool)
            for parameter, shape in shapes.items()
        }
        for circuit in operands
    ]


def operand_record(circuit: Circuit) -> dict[str, Any]:
    """What a result's provenance keeps of an operand, as JSON values."""
    reference = reference_of(circuit)
    return {
        "name": circuit.name,
        "ablation": reference.kind,
        "ablation_data": reference.data,
        "edges": int(circuit.effective_edges.sum()),
        "provenance": dict(circuit.provenance),
    }


def _combine(
    operation: str,
    operands: tuple[Circuit, ...],
    combine: Callable[[Mask, Mask], Mask],
    rule: str | None,
    name: str,
) -> Circuit:
    graph = common_graph(operands)
    reference = common_reference(operands, rule)
    edges = [circuit.effective_edges for circuit in operands]
    masks = common_weights(operands)
    if operation == "difference":  # what an operand does not mask, it does not take away either
        edges[1:] = [~_others_edges(circuit) for circuit in operands[1:]]
        masks[1:] = [
            {p: kept if p in circuit.weights else np.zeros_like(kept) for p, kept in mask.items()}
            for circuit, mask in zip(operands[1:], masks[1:], strict=True)
        ]
    elif operation == "symmetric difference" and all(circuit.masks_weights_alone for circuit in operands):
        edges = edges[:1]
    weights = {parameter: reduce(combine, [mask[parameter] for mask in masks]) for parameter in masks[0]}
    return _result(operation, graph, reduce(combine, edges), weights, operands, reference, rule, name)


def _result(
    operation: str,
    graph: Graph,
    edges: Mask,
    weights: Mapping[str, Mask],
    operands: tuple[Circuit, ...],
    reference: AblationReference,
    rule: str | None,
    name: str,
) -> Circuit:
    data = {str(circuit.provenance.get("data") or "") for circuit in operands}
    provenance: dict[str, Any] = {
        "operation": operation,
        "operands": [operand_record(circuit) for circuit in operands],
        "model": graph.model_hash,
        "data": reference.data or (data.pop() if len(data) == 1 else ""),
    }
    if rule is not None:
        provenance["ablation_rule"] = rule
    return Circuit(
        graph,
        np.asarray(edges, bool),
        needed_nodes(graph, np.asarray(edges, bool)),
        provenance=provenance,
        ablation=reference.kind,
        name=name,
        weights=weights,
        example=next((c.example for c in operands if c.example is not None), None),
    )
