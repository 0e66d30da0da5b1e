"""Subnetwork probing (Cao et al. 2021): hard-concrete masks under a constant penalty on the expected L0.

    L = L_faith(circuit) + λ · mean P(m > 0)

with the settings of AutoCircuit (Miller et al. 2024): masks on edges or nodes, temperature 2/3, λ = 10. Masks
may lie on the hidden features of MLPs as well; neurons that are dropped are cut out of the weights.
Under a constraint multipliers take the place of λ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from graphir.circuit import Circuit
from passes.base import Pass, RunContext
from passes.learn.control import Constant, priced_or_bounded
from passes.learn.initial import constant_part
from passes.learn.learner import Phase, Settings
from passes.learn.objectives import Objective
from passes.learn.parametrizations import HardConcrete
from passes.learn.running import learn_circuit
from passes.learned_options import SubnetworkProbingOptions


@dataclass(frozen=True)
class SubnetworkProbing(SubnetworkProbingOptions, Pass):
    """Learn masks down to the bound, or under the penalty: then as many are kept as the soft masks add up to."""

    name: ClassVar[str] = "subnetwork_probing"

    def run(self, context: RunContext) -> Circuit:
        """The circuit; `scores` rank every edge (or node, or neuron) by σ(l)."""
        part = f"{self.level}s"
        start = math.log(self.keep / (1 - self.keep))
        masks = HardConcrete(nonzero=True)
        return learn_circuit(
            self, context,
            lambda _: {part: constant_part(context, part, start, masks, rate=self.learning_rate)},
            lambda _: {part: priced_or_bounded(Constant(self.penalty), context.bound(part), self.steps)},
            Objective.of(context.task, self.faithfulness), Settings("subnetwork-probing", self.batch_size, decay=0.0),
            [Phase(self.steps, frozenset({part}))],
        )  # fmt: skip
