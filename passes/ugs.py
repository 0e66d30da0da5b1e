"""Uniform gradient sampling (Li & Janson 2024): masks on edges whose gradient comes from uniform samples.

    L = KL(model ‖ circuit) + λ · Σ σ(θ) + λ_node · tanh(2 N / M) · M / 2

N being how many of the M nodes that read and write are to be expected to have open edges in and out,
λ_node = min(λ / 2, 2e-4). Sampled edges that lie on no open path from an input to an output are closed, as they will be
in the circuit. With several masks in a batch an edge takes the mean gradient of those draws in which it was between
zero and one; with one mask it has a gradient so seldom that the penalty closes edges that matter. Masks on nodes have
no dangling edges, and the first penalty counts them. Under a constraint multipliers take the place of λ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphir.circuit import Circuit
from passes.base import Pass, RunContext
from passes.learn.control import Constant, priced_or_bounded
from passes.learn.initial import attributed_edges
from passes.learn.learner import Phase, Settings
from passes.learn.objectives import Objective
from passes.learn.parametrizations import UniformGradient
from passes.learn.parts import Part
from passes.learn.results import entries_of, pinned_nodes
from passes.learn.running import learn_circuit
from passes.learn.uniform import NodeComplexity, OnPath, UniformPart
from passes.learned_options import UgsOptions

_INITIAL = 1.0
"""The published logit at the start."""


@dataclass(frozen=True)
class Ugs(UgsOptions, Pass):
    """Learn masks down to the bound, or under the penalty (then θ > 0 is kept), and keep what is on a path."""

    name: ClassVar[str] = "ugs"

    def run(self, context: RunContext) -> Circuit:
        """The circuit; `scores` rank every edge (or node) by σ(θ)."""
        part = f"{self.level}s"
        return learn_circuit(
            self, context,
            lambda fresh: {part: self._part(context, part, fresh=fresh)},
            lambda parts: {
                part: priced_or_bounded(
                    Constant(self.penalty * parts[part].total), context.bound(part), self.steps
                )
            },
            Objective.of(context.task), Settings("ugs", self.batch_size, self.masks_per_batch, decay=0.5),
            [Phase(self.steps, frozenset({part}))],
        )  # fmt: skip

    def _part(self, context: RunContext, name: str, *, fresh: bool) -> Part:
        graph, device = context.graph, context.program.device
        options: dict[str, Any] = {"rate": self.learning_rate, "betas": (0.9, 0.995)}
        logits = {name: self._start(context, name, fresh=fresh).to(device)}
        if name == "nodes":
            pinned = torch.as_tensor(pinned_nodes(graph), device=device)
            return UniformPart(name, logits, UniformGradient(), pinned=pinned, **options)
        price = min(self.penalty / 2, 2e-4) if self.node_penalty is None else self.node_penalty
        masks = UniformGradient(alive=OnPath(graph))
        return UniformPart(name, logits, masks, complexity=NodeComplexity(graph, device), price=price, **options)

    def _start(self, context: RunContext, name: str, *, fresh: bool) -> Tensor:
        bound = context.bound("edges")
        ranks = None
        if fresh and self.initial is None and name == "edges" and bound is not None and context.origin is None:
            ranks = attributed_edges(context, bound, batch_size=self.batch_size)
        level = _INITIAL if self.initial is None else self.initial
        return torch.full((entries_of(context, name),), level) if ranks is None else ranks
