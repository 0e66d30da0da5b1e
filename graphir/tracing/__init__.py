"""Tracing: from a module and example inputs to a checked `Graph`."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from graphir.errors import EquivalenceError, TraceError
from graphir.granularity import Granularity
from graphir.ir import Graph
from graphir.tracing.assemble import assemble
from graphir.tracing.assemble_layers import assemble_layers
from graphir.tracing.exported import Example, Traced, export_model, hash_model
from graphir.tracing.layers import LayeredModel, lift_layers
from graphir.tracing.lift import Lifted, lift
from graphir.tracing.merging import merge_neurons


def trace(
    model: nn.Module, example: Example, granularity: str | Granularity = "head", tolerance: float = 1e-4
) -> Graph:
    """Trace `model` on `example` and lift it into a graph.

    `example` is a mapping of keyword tensors or a tuple of positional ones. `granularity` is a preset (`head`,
    `layer`, `neuron`, `channel`) or clauses as `Granularity.parse` reads them. `graph.equivalence` is
    max |Δoutput| between the model and the lowered program with all masks at one, over the example and another batch
    and length; above `tolerance` (times the largest |output| where that exceeds one: float32 keeps seven digits) it is
    an `EquivalenceError`. Raises `TraceError` where the model cannot be traced.
    """
    from graphir.run.equivalence import measure_equivalence

    graph = _assemble(
        _lift(export_model(model, example)), Granularity.parse(granularity), type(model).__name__, hash_model(model)
    )
    # Neuron by neuron a masked run holds what each of them writes; for its sum two groups an MLP are enough.
    merged = merge_neurons(graph, lambda _, neurons: (neurons - neurons[0]) % 2)
    difference, scale = measure_equivalence(graph if merged is None else merged.graph)
    allowed = tolerance * max(1.0, scale)
    if not difference <= allowed:
        raise EquivalenceError(
            f"the lowered program differs from the model by {difference:.3g}, more than the tolerance allows "
            f"({allowed:.3g})",
            [
                "raise `tolerance` if the model runs in low precision",
                "use float32 weights",
                "report the model: this should not happen",
            ],
        )
    return graph.with_(equivalence=difference)


def regrain(graph: Graph, granularity: str | Granularity) -> Graph:
    """The same traced model at another granularity (coarser or finer): a new graph, no new trace."""
    made = _assemble(graph.lifted, Granularity.parse(granularity), graph.name, graph.model_hash)
    return made.with_(equivalence=graph.equivalence)


def recast(graph: Graph, dtype: torch.dtype) -> Graph:
    """The same graph over a copy of its model with parameters in `dtype`, traced anew: for learning in low precision.

    Buffers (rotary frequencies, running means) keep theirs where the model runs so. `equivalence` is that of `graph`:
    what is found on the copy is to be judged on the original. Raises `TraceError` where the copy cannot be traced or
    has other nodes or edges.
    """
    traced: Traced = graph.lifted.traced
    granularity = graph.granularity or Granularity.parse("head")
    try:
        lifted = _lift(export_model(_cast(traced.model, dtype, buffers=False), traced.example))
    except TraceError:
        lifted = _lift(export_model(_cast(traced.model, dtype, buffers=True), traced.example))
    found = _assemble(lifted, granularity, graph.name, graph.model_hash).with_(equivalence=graph.equivalence)
    same = [node.name for node in found.nodes] == [node.name for node in graph.nodes]
    if not (same and np.array_equal(found.edge_src, graph.edge_src) and np.array_equal(found.edge_dst, graph.edge_dst)):
        raise TraceError(f"in {str(dtype).removeprefix('torch.')} this model has another graph", ["learn in its own"])
    return found


def _cast(model: nn.Module, dtype: torch.dtype, *, buffers: bool) -> nn.Module:
    made = copy.deepcopy(model)
    if buffers:
        return made.to(dtype)
    for parameter in made.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return made


def _lift(traced: Traced) -> Lifted | LayeredModel:
    """The model along its residual streams; layer by layer where it has none that anything reads."""
    lifted = lift(traced)
    return lifted if any(component.region.sites for component in lifted.components) else lift_layers(traced)


def _assemble(lifted: Lifted | LayeredModel, granularity: Granularity, name: str, model_hash: str) -> Graph:
    return (
        assemble(lifted, granularity, name, model_hash)
        if isinstance(lifted, Lifted)
        else assemble_layers(lifted, granularity, name, model_hash)
    )


__all__ = ["Example", "Granularity", "recast", "regrain", "trace"]
