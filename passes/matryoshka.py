"""Matryoshka attribution (Arora et al.): one ranking of edges or nodes for every sparsity at once.

Each step draws a number k and learns scores s under a soft mask of exactly k entries (`passes.learn.matryoshka`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphir.circuit import Circuit
from passes.base import Pass, RunContext
from passes.learn.control import Constant
from passes.learn.initial import constant_part
from passes.learn.learner import Phase, Settings
from passes.learn.matryoshka import TopK
from passes.learn.objectives import Objective
from passes.learn.running import learn_circuit
from passes.learned_options import MatryoshkaOptions


@dataclass(frozen=True)
class Matryoshka(MatryoshkaOptions, Pass):
    """Learn the ranking, then keep the best that the bound allows; all of it where there is no bound."""

    name: ClassVar[str] = "matryoshka"

    def run(self, context: RunContext) -> Circuit:
        """The circuit; `scores` are σ(s), one ranking for all densities."""
        part = f"{self.level}s"
        masks = TopK(self.temperature, self.budgets == "log")
        found = learn_circuit(
            self, context,
            lambda _: {part: constant_part(context, part, 0.0, masks, rate=self.learning_rate)},
            lambda _: {part: Constant(0.0)},
            Objective.of(context.task, self.faithfulness), Settings("matryoshka", self.batch_size, decay=0.2),
            [Phase(self.steps, frozenset({part}))],
        )  # fmt: skip
        if context.bound(part) is not None:
            return found
        whole = Circuit.full(context.graph)
        return found.with_(edges=whole.edges, nodes=whole.nodes)
