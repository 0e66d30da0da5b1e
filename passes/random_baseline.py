"""Random circuits, a baseline: what a circuit of this size does when it is not chosen.

As a pass, edges, nodes or weights drawn by the seed within the bounds; as a function, circuits matched to another one:
of equal size in every layer, drawn from the whole graph or from its complement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, overload

import numpy as np

from graphir.algebra_sum import CircuitSum
from graphir.circuit import Circuit
from graphir.errors import GraphirError
from passes.base import Pass, RunContext, keep_top
from passes.magnitude import baseline_circuit, layer_groups, select_weights
from passes.options import RandomOptions
from passes.selection import node_circuit


@dataclass(frozen=True)
class RandomCircuit(RandomOptions, Pass):
    """Scores uniform in [0, 1), from the seed and `draw`."""

    name: ClassVar[str] = "random"

    def run(self, context: RunContext) -> Circuit:
        """The best by random scores: nodes where nodes are bounded, else edges; and weights where those are."""
        generator = np.random.default_rng([context.seed, self.draw])
        program, share = context.program, context.bound("weights")
        weights = {}
        if share is not None:
            names = self.masked_parameters(program)
            shapes = {name: tuple(program.traced.tensors[name].shape) for name in names}
            values = {name: generator.random(shape, dtype=np.float32) for name, shape in shapes.items()}
            weights = select_weights(values, share, per_layer=self.per_layer)
        if context.bound("nodes") is not None:
            circuit = node_circuit(self, context, generator.random(len(context.graph.nodes)), absolute=False)
            return circuit.with_(weights=weights)
        scores = generator.random(len(context.graph.edges))
        return baseline_circuit(self, context, scores, weights, per_layer=self.per_layer)


@overload
def matched_random(circuit: Circuit, seed: int, *, complement: bool = False) -> Circuit: ...
@overload
def matched_random(circuit: CircuitSum, seed: int, *, complement: bool = False) -> CircuitSum: ...
def matched_random(circuit: Circuit | CircuitSum, seed: int, *, complement: bool = False) -> Circuit | CircuitSum:
    """A random circuit with as many edges into each layer, and as many weights in each parameter, as `circuit`; for a
    sum, a sum in which as many of them count twice, and so on.

    With `complement`, of the edges and weights that `circuit` leaves out; all edges where it leaves out none but masks
    weights. Raises `GraphirError` where those are too few. All nodes are kept, and what lies on no path stays, so that
    the counts are equal exactly.
    """
    if isinstance(circuit, CircuitSum):
        return _matched_sum(circuit, seed, complement=complement)
    generator = np.random.default_rng(seed)
    kept = circuit.effective_edges
    edges = kept if circuit.masks_weights_alone else _drawn(kept, layer_groups(circuit.graph), generator, complement)
    weights = {
        name: _drawn(mask.reshape(-1), np.zeros(mask.size, np.int8), generator, complement).reshape(mask.shape)
        for name, mask in circuit.weights.items()
    }
    return circuit.with_(
        edges=edges, nodes=np.ones_like(circuit.nodes), weights=weights, scores={}, metrics={},
        provenance={"method": "matched_random", "seed": seed, "complement": complement},
    )  # fmt: skip


def _matched_sum(whole: CircuitSum, seed: int, *, complement: bool) -> CircuitSum:
    drawn = matched_random(whole.circuit, seed, complement=complement)
    generator = np.random.default_rng([seed, 1])
    factors = {}
    for name, counts in whole.factors.items():
        factors[name] = np.zeros_like(counts)
        factors[name][drawn.weights[name]] = generator.permutation(counts[counts > 0])
    return CircuitSum(drawn, factors)


def _drawn(kept: np.ndarray, groups: np.ndarray, generator: np.random.Generator, complement: bool) -> np.ndarray:
    """As many of each group as are in `kept`, drawn from all of it or from the rest."""
    drawn = np.zeros(len(kept), bool)
    for group in np.unique(groups):
        members = np.flatnonzero((groups == group) & ~kept if complement else groups == group)
        count = int((kept & (groups == group)).sum())
        if count > len(members):
            raise GraphirError(
                f"the complement has {len(members)} parts of a layer of which the circuit keeps {count}",
                ["draw from the whole graph, or find a smaller circuit"],
            )
        drawn[members[keep_top(generator.random(len(members)), count)]] = True
    return drawn
