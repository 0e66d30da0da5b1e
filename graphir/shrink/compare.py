"""Whether the smaller module computes what the masked program does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphir.circuit import Circuit
from graphir.run.circuit_module import hard_masks
from graphir.run.equivalence import largest_difference, vary_example
from graphir.run.masks import Masks
from graphir.run.program import MaskedProgram, Reference, lower
from graphir.shrink.module import ShrunkModule
from graphir.tracing.merging import Merged, merge_neurons


def measure_difference(
    program: MaskedProgram, module: ShrunkModule, circuit: Circuit, reference: Reference | None
) -> tuple[float, float]:
    """(max |Δoutput|, max |output|) of module and masked program, on the example and another batch and length."""
    ablation = "zero" if reference is None else "mean"
    program, masks, reference = merge_equal(program, hard_masks(circuit, program), reference)
    worst = scale = 0.0
    with torch.no_grad():
        for batch in (program.traced.example, vary_example(program.traced)):
            theirs = program.outputs(batch, masks=masks, ablation=ablation, reference=reference)
            mine = module.outputs(*program.traced.named_inputs(batch).values())
            for left, right in zip(mine, theirs, strict=True):
                worst = max(worst, largest_difference(left, right))
                scale = max(scale, float(right[right.isfinite()].abs().max()) if right.isfinite().any() else 0.0)
    return worst, scale


def merge_equal(
    program: MaskedProgram, masks: Masks, reference: Reference | None
) -> tuple[MaskedProgram, Masks, Reference | None]:
    """The same run with one writer for all neurons of an MLP that have the same edges: as a rule two an MLP, the kept
    and the dropped ones, where every neuron's values would take width × tokens numbers."""
    assert masks.edges is not None
    kept = masks.edges.cpu().numpy() != 0
    merged = merge_neurons(program.graph, lambda _, nodes: _equal_edges(program, kept, nodes))
    if merged is None:
        return program, masks, reference
    edges = masks.edges[torch.as_tensor(merged.edges, device=masks.edges.device)]
    own = None if masks.reference is None else _merge_reference(program, masks.reference, merged)
    reference = None if reference is None else _merge_reference(program, reference, merged)
    return lower(merged.graph), replace(masks, edges=edges, reference=own), reference


def _equal_edges(program: MaskedProgram, kept: NDArray[np.bool_], nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each of consecutive nodes, which the same ports read: that of those with the same edges."""
    src = np.asarray(program.graph.edge_src)
    mine = kept[(src >= nodes[0]) & (src <= nodes[-1])].reshape(-1, len(nodes))
    return np.unique(mine, axis=1, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _merge_reference(program: MaskedProgram, reference: Reference, merged: Merged) -> Reference:
    """Ablation values of merged writers: the sums of their members'."""
    first = {node.name: i for i, node in enumerate(program.graph.nodes)}
    writers = dict(reference.writers)
    for component in program.graph.lifted.components:
        leaf, start = component.region.leaf, first.get(f"{component.name}.n0")
        if leaf in writers and start is not None:
            value: Tensor = writers[leaf]
            place = merged.nodes[start : start + len(value)]
            group = torch.as_tensor(place - place.min(), device=value.device)
            made = value.new_zeros((int(group.max()) + 1, *value.shape[1:]))
            writers[leaf] = made.index_add_(0, group, value)
    return replace(reference, writers=writers)
