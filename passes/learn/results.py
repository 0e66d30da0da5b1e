"""From learned parts to a circuit: hard masks exact at the bounds, scores in [0, 1] that rank as the logits do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphir.circuit import Circuit
from graphir.errors import GraphirError
from graphir.ir import Graph
from graphir.run.program import MaskedProgram
from graphir.run.stream_program import StreamProgram
from graphir.tracing.canonical import operand
from passes.base import Pass, RunContext, count_for, provenance_of
from passes.learn.harden import keep_highest
from passes.learn.parametrizations import HardConcrete
from passes.learn.parts import Part


def pinned_nodes(graph: Graph) -> np.ndarray:
    """(N,) nodes that every circuit keeps: embeddings, and outputs (which write nothing)."""
    writes = np.zeros(len(graph.nodes), bool)
    writes[np.asarray(graph.edge_src)] = True
    found: np.ndarray = ~writes | np.array([not node.ports for node in graph.nodes], bool)
    return found


def kept_count(part: Part, bound: float | None) -> int:
    """How many entries a hard mask keeps: what the bound allows, or as many as the deterministic mask does.

    The latter is, for hard concrete, the sum of the soft mask (Bhaskar et al. 2024); for others the logits above zero.
    Raises `GraphirError` for a bound that allows nothing, or fewer than the entries that are always kept.
    """
    pinned = 0 if part.pinned is None else int(part.pinned.sum())
    if bound is not None:
        count = count_for(bound, part.total)
        if count < pinned:
            raise GraphirError(
                f"{count} of {part.total} {part.name} are allowed, and {pinned} (inputs and outputs) are always kept",
                [f"allow at least {pinned / part.total:.3%}"],
            )
        return count
    if isinstance(part.parametrization, HardConcrete) and len(part.logits) == 1:
        logits = part.leaf().detach()
        if part.pinned is not None:
            logits = logits.masked_fill(part.pinned, 30.0)
        return max(int(part.parametrization.soft(logits).sum().round()), pinned, 1)
    kept = sum(int((value + part.offset > 0).sum()) for value in part.logits.values())
    return max(kept, pinned, 1)


def harden(part: Part, bound: float | None, program: MaskedProgram) -> dict[str, Tensor]:
    """Boolean masks of a part by key. Under a bound, weights of the program that are zero come last: whether they are
    kept makes no difference, and their masks learn nothing."""
    values = part.logits
    if part.pinned is not None:
        values = {key: value.masked_fill(part.pinned, torch.inf) for key, value in values.items()}
    if part.name == "weights" and bound is not None:
        values = {key: _zeros_last(value, program.traced.tensors[key]) for key, value in values.items()}
    return keep_highest(values, kept_count(part, bound))


def _zeros_last(logits: Tensor, weight: Tensor) -> Tensor:
    zero = weight == 0
    return logits.masked_fill(zero, -torch.inf) if bool(zero.any()) else logits


def scores_of(part: Part) -> np.ndarray:
    """σ(l) (N,), float64: monotone in the logits, pinned entries at one."""
    logits = part.leaf().detach().double().cpu()
    if part.pinned is not None:
        logits = logits.masked_fill(part.pinned.cpu(), torch.inf)
    return torch.sigmoid(logits).numpy()


def learned_circuit(
    found: Pass, context: RunContext, parts: Mapping[str, Part], bounds: Mapping[str, float | None], **more: Any
) -> Circuit:
    """The circuit of the parts: edges among kept nodes, then what is on a path, where these are masked; weights."""
    graph = context.graph
    nodes, edges = np.ones(len(graph.nodes), bool), np.ones(len(graph.edges), bool)
    scores: dict[str, np.ndarray] = {}
    if "nodes" in parts:
        scores["nodes"] = scores_of(parts["nodes"])
        nodes = next(iter(harden(parts["nodes"], bounds.get("nodes"), context.program).values())).cpu().numpy()
    if "edges" in parts:
        part = parts["edges"]
        scores["edges"] = scores_of(part)
        count = kept_count(part, bounds.get("edges"))
        logits = next(iter(part.logits.values())).clone()
        open_ = torch.as_tensor(nodes[np.asarray(graph.edge_src)], device=logits.device)
        logits.masked_fill_(~open_, -torch.inf)
        kept = next(iter(keep_highest({"edges": logits}, min(count, int(open_.sum()))).values()))
        edges = (kept & open_).cpu().numpy()
    weights = {}
    if "weights" in parts:
        kept_weights = harden(parts["weights"], bounds.get("weights"), context.program)
        weights = {name: mask.cpu().numpy() for name, mask in kept_weights.items()}
    if "neurons" in parts:
        scores["neurons"] = scores_of(parts["neurons"])
        kept_neurons = next(iter(harden(parts["neurons"], bounds.get("neurons"), context.program).values()))
        more["neurons"] = {"kept": int(kept_neurons.sum()), "of": len(kept_neurons)}
        for name, mask in weights_of_neurons(context.program, kept_neurons).items():
            weights[name] = weights[name] & mask if name in weights else mask
    circuit = Circuit(
        graph, edges, nodes, scores=scores, ablation=context.task.ablation, weights=weights,
        provenance=provenance_of(found, context, **more),
    )  # fmt: skip
    return circuit.on_path() if "edges" in parts or "nodes" in parts else circuit


def entries_of(context: RunContext, name: str) -> int:
    """How many edges, nodes or neurons there are to mask. `GraphirError` where a model has no neurons to mask."""
    if name == "neurons":
        check_neurons(context.program)
        return max(stop for _, stop in context.program.neurons.values())
    return len(context.graph.edges if name == "edges" else context.graph.nodes)


def check_neurons(program: MaskedProgram) -> None:
    """`GraphirError` for a program without neurons whose weights can be cut out."""
    if not program.neurons or not isinstance(program, StreamProgram):
        raise GraphirError(
            "this model has no neurons that can be masked by themselves",
            ["mask nodes or weights; a layered model traced by neuron has them as nodes"],
        )


def weights_of_neurons(program: MaskedProgram, kept: Tensor) -> dict[str, np.ndarray]:
    """What cutting neurons (those not in `kept` (F,)) means for the weights, by parameter: the neuron's column of the
    MLP's last product, which alone decides, and its rows of the first ones."""
    check_neurons(program)
    assert isinstance(program, StreamProgram)
    found: dict[str, np.ndarray] = {}
    for plan in program.plans:
        name = plan.partition.component.name
        if name not in program.neurons:
            continue
        start, stop = program.neurons[name]
        mask = kept[start:stop].cpu().numpy().astype(bool)
        assert plan.region.exit is not None
        products = [(plan.region.exit, 1), *((entry, 0) for entry in plan.region.entries)]
        for product, axis in products:
            node, flipped = operand(product, 1), axis
            while node.op != "get_attr" and node.all_input_nodes:
                node, flipped = node.all_input_nodes[0], 1 - flipped  # a transposed weight, as in GPT-2
            parameter = str(node.target)
            shape = tuple(program.traced.tensors[parameter].shape)
            if len(shape) != 2 or shape[flipped] != len(mask):
                continue
            found[parameter] = np.broadcast_to(mask if flipped == 1 else mask[:, None], shape).copy()
    return found
