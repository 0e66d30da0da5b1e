"""Differentiable weight masks (Csordás et al. 2021): which weights of a trained model does a function need?

    L = CE(answers of the model with W ∘ m) + (α / batch size) · Σ l,   m = 1[l + logistic noise > 0], straight-through

with K masks in each batch, each for its slice of the examples. The model is frozen and only the gradient of the logits
is clipped. Logits have no floor: kept is l > 0, and they are no graded importance. Published masks cover all matrices
but embeddings; here that of the output, which language models share with their embedding, is masked only where
`outputs` says so. Under a constraint multipliers take the place of α.
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
from passes.learn.parametrizations import GumbelSigmoid
from passes.learn.running import learn_circuit
from passes.learned_options import CsordasOptions

_TRAVEL = 10.0
"""How far logits can move in all steps."""


@dataclass(frozen=True)
class Csordas(CsordasOptions, Pass):
    """Learn masks on weights down to the bound, or under the penalty; then l > 0 is kept."""

    name: ClassVar[str] = "csordas"

    def run(self, context: RunContext) -> Circuit:
        """The circuit of all edges, with keep masks on weights."""
        names = self.masked_parameters(context.program)
        rate = self.learning_rate or _TRAVEL / self.steps
        options: dict[str, Any] = {"rate": rate, "clip": self.clip, "parameters": names}
        return learn_circuit(
            self, context,
            lambda _: {"weights": constant_part(context, "weights", self.initial, GumbelSigmoid(), **options)},
            lambda parts: {
                "weights": priced_or_bounded(
                    Constant(self.alpha / self.batch_size * parts["weights"].total, per_logit=True),
                    context.bound("weights"), self.steps,
                )
            },
            Objective.of(context.task, self.faithfulness),
            Settings("csordas", self.batch_size, self.masks_per_batch, decay=0.0),
            [Phase(self.steps, frozenset({"weights"}))],
        )  # fmt: skip
