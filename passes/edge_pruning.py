"""Edge Pruning (Bhaskar et al. 2024): hard-concrete masks on edges and nodes, learned under a sparsity constraint.

    L = KL(model ‖ circuit) + λ · (density of edges) [+ the same for nodes]

with node masks multiplied into those of edges. λ is controlled so that the expected density ends at the target (see
`passes.learn.control`). Departures from the published schedule, for runs of hundreds of steps instead of thousands:
log α starts from the ranks of EAP scores (near zero at the percentile to be kept) where the sampled mask has a
gradient, or where another circuit's masks ended; the target rises from the density that these masks have (or is fixed
from the start), and there is no weight decay. Behind saturated attention edges have no scores: where fewer have one
than are to be kept, and with `initial: ones`, all masks start on and are slower, and the target rises over a third of
the steps. `hard_steps` then go on with the masks that would be kept, hard as they are, by a straight-through gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from graphir.circuit import Circuit
from graphir.errors import GraphirError
from passes.base import Pass, RunContext
from passes.learn.control import Constant, Control, Lagrangian, Projection, Schedule
from passes.learn.initial import HIGHEST, attributed_edges, density_of_origin
from passes.learn.learner import Phase, Settings
from passes.learn.objectives import Objective
from passes.learn.parametrizations import HardConcrete
from passes.learn.parts import Part
from passes.learn.results import pinned_nodes
from passes.learn.running import learn_circuit
from passes.learned_options import EdgePruningOptions

_ON = 2.0
_RATE = 0.2
_TRAVEL = 15.0
"""How far logits can move in all steps where all masks start on."""


@dataclass(frozen=True, eq=False)
class _Start:
    """Of the edge masks: logits (E,), their expected density, their rate, and over how many steps the target rises."""

    logits: torch.Tensor
    density: float
    rate: float
    warmup: int


@dataclass(frozen=True)
class EdgePruning(EdgePruningOptions, Pass):
    """Learn masks on edges (and nodes), then keep the highest log α that the bound allows and what is on a path."""

    name: ClassVar[str] = "edge_pruning"

    def run(self, context: RunContext) -> Circuit:
        """The circuit at the bounds; `scores` rank every edge (and node) by σ(log α), which is in [0, 1]."""
        bound = context.bound("edges")
        if bound is None and self.target is None:
            raise GraphirError(
                "edge pruning needs to know how sparse to become", ["bound the density of edges, or give `target`"]
            )
        target = self.target if self.target is not None else 1.0 - float(bound or 0.0)
        masked = frozenset(("edges", "nodes") if self.node_masks else ("edges",))
        start = self._start(context, target)
        return learn_circuit(
            self, context,
            lambda _: self._parts(context, start),
            lambda parts: self._controls(target, start, context.bound("nodes"), parts),
            Objective.of(context.task), Settings("edge-pruning", self.batch_size, decay=self.decay),
            [Phase(self.steps, masked), Phase(self.hard_steps, masked, hard=True)],
            self.precision,
        )  # fmt: skip

    def _start(self, context: RunContext, target: float) -> _Start:
        """Of the edge masks: by another circuit's masks, by scores, or all on."""
        total = len(context.graph.edges)
        rate, warmup = self.learning_rate or _RATE, self.warmup or 0
        if context.origin is not None:
            if self.start is not None or self.initial == "ones":
                raise GraphirError(
                    "masks that start from a circuit have its density", ["leave `start` and `initial` out"]
                )
            return _Start(torch.full((total,), _ON), density_of_origin(context, "edges"), rate, warmup)
        if self.initial == "ones" and self.start is not None:
            raise GraphirError(
                "masks that are all on at first have no starting density", ["initial: eap", "or leave `start` out"]
            )
        if self.initial == "eap":
            wanted = max(1.0 - target, 0.0)
            density = self.start if self.start is not None else min(2.0 * wanted, 1.0)
            logits = attributed_edges(context, wanted, batch_size=self.batch_size, opened=density)
            if logits is not None:
                return _Start(logits, density, rate, warmup)
        return _Start(
            torch.full((total,), _ON), 1.0,
            self.learning_rate or min(_TRAVEL / self.steps, _RATE),
            self.steps // 3 if self.warmup is None else self.warmup,
        )  # fmt: skip

    def _parts(self, context: RunContext, start: _Start) -> dict[str, Part]:
        device = context.program.device
        parts = {"edges": Part("edges", {"edges": start.logits.to(device)}, HardConcrete(), rate=start.rate)}
        if self.node_masks:
            nodes = torch.full((len(context.graph.nodes),), HIGHEST, device=device)
            pinned = torch.as_tensor(pinned_nodes(context.graph), device=device)
            parts["nodes"] = Part("nodes", {"nodes": nodes}, HardConcrete(), rate=start.rate, pinned=pinned)
        return parts

    def _controls(
        self, target: float, start: _Start, nodes: float | None, parts: Mapping[str, Part]
    ) -> dict[str, Control]:
        total = parts["edges"].total
        density = max(start.density, 1.0 / total)
        found: dict[str, Control] = {"edges": self._control(target, total, density, start.warmup)}
        if "nodes" in parts:
            total = parts["nodes"].total
            found["nodes"] = Constant(0.0) if nodes is None else self._control(1.0 - nodes, total, 1.0, start.warmup)
        return found

    def _control(self, target: float, total: int, start: float, warmup: int) -> Control:
        schedule = Schedule(target, warmup, self.schedule, floor=1.0 / total, start=start)
        if self.control == "projection":
            return Projection(schedule)
        return Lagrangian(schedule, self.lambda_learning_rate)
