"""Neuron attribution: first-order effects of the hidden features of MLPs that are nodes as a whole.

score(f) = (h_f − a_f) · ∂metric/∂h_f, the derivative of the metric with respect to a mask on the feature at mask one;
a_f is its ablated value. With several steps the gradient is averaged over the path of an MLP's features, all together,
from ablated to clean. Under a bound the best features stay and the others are cut out of the weights, as methods that
learn masks on neurons do: what is cut is zero, whatever value the scores are against. In a graph whose nodes are
neurons (`mlp: neuron`) use `nap`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from graphir.circuit import Circuit
from graphir.errors import GraphirError
from graphir.run.masks import Masks
from graphir.run.program import Reference
from passes.ablations import ReferenceSource
from passes.base import Pass, RunContext, count_for, keep_top, provenance_of
from passes.eap import check_finite, summed
from passes.learn.results import entries_of, weights_of_neurons
from passes.metrics import attributable
from passes.options import NeuronAttributionOptions
from passes.task import Batch


@dataclass(frozen=True)
class NeuronAttribution(NeuronAttributionOptions, Pass):
    """Score every hidden feature of every MLP."""

    name: ClassVar[str] = "neuron_attribution"

    def run(self, context: RunContext) -> Circuit:
        """All nodes and edges, with `scores["neurons"]` (F,) in the order of `program.neurons`; under a bound with
        keep masks on the weights of the neurons that it leaves out.

        Raises `GraphirError` for a model without separable neurons, and for a bound that leaves none.
        """
        bound, count = context.bound("neurons"), 0
        if bound is not None:
            count = count_for(bound, entries_of(context, "neurons"))
        scores = score_neurons(context, batch_size=self.batch_size, examples=self.examples, steps=self.steps)
        weights: dict[str, np.ndarray] = {}
        more: dict[str, Any] = {}
        if bound is not None:
            kept = torch.as_tensor(keep_top(scores, count, absolute=self.absolute))
            weights = weights_of_neurons(context.program, kept)
            more["neurons"] = {"kept": count, "of": len(scores)}
        return Circuit.full(
            context.graph, scores={"neurons": scores}, ablation=context.task.ablation, weights=weights,
            provenance=provenance_of(self, context, **more),
        )  # fmt: skip


def score_neurons(context: RunContext, *, batch_size: int, examples: int, steps: int = 1) -> np.ndarray:
    """Mean score (F,) of every hidden feature, in the order of `program.neurons`.

    Raises `GraphirError` for a model whose MLPs have no separable features.
    """
    program, task = context.program, context.task
    if not program.neurons:
        raise GraphirError(
            "no part of this model has neurons of its own", ["rank its nodes (`nap`) or its edges (`eap`)"]
        )
    metric = attributable(context.metric)
    source = ReferenceSource(program, task, hidden=True)
    total: Tensor | float = 0.0
    available = min(examples, len(task.examples("train")))
    context.observer.begin("neurons", -(-available // batch_size))
    seen = 0
    for number, batch in enumerate(task.batches("train", batch_size, shuffle=context.seed, limit=examples), 1):
        batch = batch.to(program.device)
        total = total + _attribute(context, batch, source(batch), summed(metric, batch), steps)
        seen += len(batch)
        context.observer.step("neurons", number, {"examples": seen})
    context.observer.end("neurons")
    assert isinstance(total, Tensor)
    return check_finite((total / max(seen, 1)).numpy())


def _attribute(
    context: RunContext,
    batch: Batch,
    reference: Reference,
    metric: Callable[[list[Tensor]], Tensor],
    steps: int,
) -> Tensor:
    """Summed scores (F,) of one batch, float64 on the CPU."""
    program = context.program
    size = max(stop for _, stop in program.neurons.values())
    found = torch.zeros(size, dtype=torch.float64)
    # At the clean run one backward pass serves all MLPs; on a path each MLP goes its own.
    spans = [(0, size)] if steps == 1 else list(program.neurons.values())
    for start, stop in spans:
        for step in range(1, steps + 1):
            mask = torch.ones(size, dtype=program.dtype, device=program.device)
            mask[start:stop] = step / steps
            mask.requires_grad_()
            outputs = program.outputs(
                batch.inputs, masks=Masks(neurons=mask), reference=reference, positions=batch.positions
            )
            (gradient,) = torch.autograd.grad(metric(outputs), [mask])
            found[start:stop] += gradient[start:stop].double().cpu() / steps
    return found
