"""Magnitude, a baseline that knows nothing of the task's answers.

Weights rank by their absolute value. Edges of a layered model are weights (or kernel slices) and rank by the sum of
theirs; edges between residual writers and readers rank by what they carry, E‖Y_w − A_w‖₂ over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from graphir.circuit import Circuit
from graphir.ir import Graph
from graphir.run.ablation import subtract
from graphir.run.constants import writer_names
from graphir.run.layer_program import LayerProgram
from graphir.run.masks import Masks
from graphir.run.program import MaskedProgram
from passes.ablations import ReferenceSource
from passes.base import Pass, RunContext, count_for, keep_top, provenance_of
from passes.eap import check_finite
from passes.options import MagnitudeOptions


@dataclass(frozen=True)
class Magnitude(MagnitudeOptions, Pass):
    """Keep the largest."""

    name: ClassVar[str] = "magnitude"

    def run(self, context: RunContext) -> Circuit:
        """The largest edges within the bound on edges, the largest weights within the one on weights; all of what is
        not bounded."""
        share = context.bound("weights")
        weights: dict[str, np.ndarray] = {}
        if share is not None:
            names = self.masked_parameters(context.program)
            weights = largest_weights(context.program, share, names, per_layer=self.per_layer)
        scores = edge_magnitudes(context, batch_size=self.batch_size, examples=self.examples)
        return baseline_circuit(self, context, scores, weights, per_layer=self.per_layer)


def baseline_circuit(
    found: Pass, context: RunContext, scores: np.ndarray, weights: dict[str, np.ndarray], *, per_layer: bool
) -> Circuit:
    """The best edges within the bound, or the bound's share of each layer's; and weights."""
    graph = context.graph
    bound = context.bound("edges")
    count = len(scores) if bound is None else count_for(bound, len(scores))
    kept = keep_top_of_each(scores, layer_groups(graph), count) if per_layer else keep_top(scores, count)
    circuit = Circuit(
        graph, kept, np.ones(len(graph.nodes), bool), scores={"edges": scores}, ablation=context.task.ablation,
        weights=weights, provenance=provenance_of(found, context),
    )  # fmt: skip
    return circuit if bound is None else circuit.on_path()


def edge_magnitudes(context: RunContext, *, batch_size: int, examples: int) -> np.ndarray:
    """The magnitude of every edge (E,), as in the module's description."""
    if isinstance(context.program, LayerProgram):
        return check_finite(_weights_of_edges(context.program))
    return check_finite(_carried(context, batch_size, examples))


def _weights_of_edges(program: LayerProgram) -> np.ndarray:
    """Σ |W| behind each edge: the gradient of Σ M · |W| with respect to the masks of edges. A skip counts as one."""
    masks = program.new_masks(edges=True)
    assert masks.edges is not None
    total = torch.zeros((), dtype=program.dtype, device=program.device)
    for feed in (feed for plan in program.plans for feed in plan.feeds):
        mask = feed.mask(Masks(edges=masks.edges))
        assert mask is not None
        product = feed.feed.product
        if product is None:
            total = total + feed.spread(mask).sum()
            continue
        weight = program.traced.tensors[str(product.args[1].target)].detach().abs()  # type: ignore[union-attr]
        total = total + (mask * weight.flatten(2).sum(2) if weight.dim() > 2 else mask * weight).sum()
    (found,) = torch.autograd.grad(total, [masks.edges])
    return found.double().cpu().numpy()


def _carried(context: RunContext, batch_size: int, examples: int) -> np.ndarray:
    """Mean over examples of Σ ‖Y_w − A_w‖ over tokens, for each edge that of its writer."""
    program, task = context.program, context.task
    source = ReferenceSource(program, task)
    names = writer_names(program)
    nodes = np.zeros(len(context.graph.nodes))
    for batch in task.batches("train", batch_size, shuffle=context.seed, limit=examples):
        batch = batch.to(program.device)
        clean, ablated = program.reference(batch.inputs), source(batch)
        mask = batch.inputs.get("attention_mask")
        for leaf, value in clean.writers.items():
            sizes = subtract(value, ablated.writers.get(leaf)).double().norm(dim=-1)
            sizes = sizes.expand(-1, len(batch), *sizes.shape[2:])  # a position embedding is the same for every row
            if mask is not None and sizes.shape[1:] == mask.shape:
                sizes = sizes * mask
            places = [context.graph.node_index[name] for name in names[leaf]]
            nodes[places] += sizes.flatten(1).sum(1).cpu().numpy()
    carried: np.ndarray = nodes[np.asarray(context.graph.edge_src)] / max(min(examples, len(task.examples("train"))), 1)
    return carried


def largest_weights(
    program: MaskedProgram, share: float, parameters: Sequence[str], *, per_layer: bool
) -> dict[str, np.ndarray]:
    """Keep masks of these parameters: exactly ⌊share · size⌋ of all scalars, or of each parameter's; ties go to the
    earlier one. Raises `GraphirError` where that is none."""
    values = {n: program.traced.tensors[n].detach().abs().float().cpu().numpy() for n in parameters}
    return select_weights(values, share, per_layer=per_layer)


def select_weights(values: dict[str, np.ndarray], share: float, *, per_layer: bool) -> dict[str, np.ndarray]:
    """Keep masks of the highest values: a share of all of them, or of each array's."""
    if per_layer:
        return {n: keep_top(v.reshape(-1), count_for(share, v.size)).reshape(v.shape) for n, v in values.items()}
    flat = np.concatenate([value.reshape(-1) for value in values.values()])
    kept = keep_top(flat, count_for(share, len(flat)))
    ends = np.cumsum([value.size for value in values.values()])
    parts = np.split(kept, ends[:-1])
    return {name: part.reshape(values[name].shape) for name, part in zip(values, parts, strict=True)}


def layer_groups(graph: Graph) -> np.ndarray:
    """For each edge (E,) the layer of its reader; -1 for readers without one, such as the output."""
    layers = [graph.nodes[port.nodes[0]].layer for port in graph.ports]
    numbers = np.array([-1 if layer is None else layer for layer in layers], np.int64)
    found: np.ndarray = numbers[np.asarray(graph.edge_dst)]
    return found


def keep_top_of_each(scores: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """`count` entries in all, each group's share of them by size (largest remainders), the highest of each group."""
    names, sizes = np.unique(groups, return_counts=True)
    kept = np.zeros(len(scores), bool)
    for name, number in zip(names, share_out(sizes.tolist(), count), strict=True):
        members = np.flatnonzero(groups == name)
        kept[members[keep_top(scores[members], number)]] = True
    return kept


def share_out(sizes: Sequence[int], count: int) -> list[int]:
    """Whole numbers proportional to `sizes` that add up to `count`, none above its size (largest remainders)."""
    exact = np.array(sizes) * (count / max(sum(sizes), 1))
    whole = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(-(exact - whole), kind="stable")
    whole[order[: count - int(whole.sum())]] += 1
    return [int(number) for number in whole]
