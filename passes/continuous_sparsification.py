"""Continuous sparsification (Savarese et al. 2020) of a frozen model, as Lepori et al. (2023) use it.

    L = L_faith(W ∘ σ(β l)) + λ · mean σ(β l),   β from 1 to 200 geometrically,   kept where l > 0

The published λ = 1e-8 is per entry; here it is the price of all of them together, so that it means the same whatever is
masked. Under a constraint multipliers take its place.

Savarese et al. learn the weights as well, and divide by the masks' first value; in a frozen model that starts from
half of each weight (l = 0.05, as published) nothing is left of what saturated attention computes. Here l starts at 2,
and its rate is such that it can come down to zero while β is low enough to let it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphir.circuit import Circuit
from passes.base import Pass, RunContext
from passes.learn.control import Constant, priced_or_bounded
from passes.learn.initial import constant_part
from passes.learn.learner import Phase, Settings
from passes.learn.objectives import Objective
from passes.learn.parametrizations import ScheduledSigmoid
from passes.learn.running import learn_circuit
from passes.learned_options import ContinuousSparsificationOptions

_TRAVEL = 5.0
"""How far logits can move in all steps."""


@dataclass(frozen=True)
class ContinuousSparsification(ContinuousSparsificationOptions, Pass):
    """Learn deterministic masks on weights, neurons or nodes (heads), then keep what the bound allows, or l > 0."""

    name: ClassVar[str] = "continuous_sparsification"

    def run(self, context: RunContext) -> Circuit:
        """The circuit, with keep masks on weights for weights and neurons."""
        part = f"{self.level}s"
        masks = ScheduledSigmoid(last=self.final_beta)
        names = self.masked_parameters(context.program) if part == "weights" else None
        options: dict[str, Any] = {"rate": self.learning_rate or _TRAVEL / self.steps, "parameters": names}
        return learn_circuit(
            self, context,
            lambda _: {part: constant_part(context, part, self.initial, masks, **options)},
            lambda _: {part: priced_or_bounded(Constant(self.penalty), context.bound(part), self.steps)},
            Objective.of(context.task, self.faithfulness),
            Settings("continuous-sparsification", self.batch_size, decay=0.0),
            [Phase(self.steps, frozenset({part}))],
        )  # fmt: skip
