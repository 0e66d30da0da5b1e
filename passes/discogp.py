"""DiscoGP (Yu et al. 2024): a sheaf, the weights and edges that do a task, by masks of zeros and ones.

    L = L_faith(sheaf) + λ · densities,    then, with an optimizer step of its own,    L_complete(complement)

The complement keeps the edges and the weights that the sheaf drops, and is pushed to the uniform distribution over the
answers. The released code masks weights first and edges afterwards (`order: weights_edges`); here both may learn in one
step (`joint`), and a part may be neurons or nodes. Weights that are dropped are zero, everything else that is dropped
takes the task's ablation value. Other departures: full-vocabulary KL by default, control of the density by
multipliers, a start from attributions, no weight decay, and one mask for all heads that share a parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from graphir.circuit import Circuit
from graphir.errors import GraphirError
from passes.base import Pass, RunContext
from passes.eap import score_edges
from passes.learn.control import Constant, Control, Lagrangian, Projection, Ramp, Schedule
from passes.learn.initial import HIGHEST, attributed_weights, density_of_origin, is_attributed, ranked
from passes.learn.learner import Phase, Settings
from passes.learn.objectives import Objective
from passes.learn.parametrizations import GumbelSigmoid, HardConcrete, Parametrization
from passes.learn.parts import PARTS, Part
from passes.learn.results import check_neurons, pinned_nodes
from passes.learn.running import learn_circuit
from passes.learned_options import DiscogpOptions

Logits = dict[str, dict[str, Tensor]]
"""Of parts, by key."""

_EXAMPLES = 64
_TRAVEL = 25.0
"""How far logits that start at ranks can move: the steps times the rate."""
_TRAVELS = (8.0, 6.0)
"""How far those of edges (nodes, neurons), and of weights, can move that start all on. As far as they need and no
faster: at higher rates what a compiled program needs is closed before it is felt."""
_RAMP_RATES = (0.2, 0.1)
"""Where the masks themselves say how many are kept, and so have to get below zero."""
_WEIGHT_LIKE = frozenset({"weights", "neurons"})


@dataclass(frozen=True)
class Discogp(DiscogpOptions, Pass):
    """Learn masks on the parts, then keep what the bounds allow and, of edges and nodes, what is on a path."""

    name: ClassVar[str] = "discogp"

    def run(self, context: RunContext) -> Circuit:
        """The sheaf: a circuit with keep masks on weights. `scores` rank edges and nodes by σ(l)."""
        wanted = self._wanted(context)
        settings = Settings(
            "discogp", self.batch_size, decay=0.4, completeness=self.completeness,
            completeness_from=self.completeness_from, completeness_every=self.completeness_every,
        )  # fmt: skip
        phases = self._phases(frozenset(wanted))
        steps = {name: _steps_of(name, phases) for name in wanted}
        return learn_circuit(
            self, context,
            lambda fresh: self._parts(context, steps, fresh=fresh),
            lambda parts: self._controls(context, parts, phases),
            Objective.of(context.task, self.faithfulness, completeness=self.completeness > 0), settings, phases,
            self.precision,
        )  # fmt: skip

    def _wanted(self, context: RunContext) -> tuple[str, ...]:
        """The parts to mask, in order. Raises `GraphirError` for what does not go together."""
        wanted = tuple(name for name in PARTS if name in self.parts.split())
        if unknown := set(self.parts.split()) - set(PARTS):
            raise GraphirError(f"no part named `{min(unknown)}`", [f"parts are {', '.join(PARTS)}"])
        bounded = [name for name in PARTS if context.bound(name) is not None]
        if extra := [name for name in bounded if name not in wanted]:
            raise GraphirError(
                f"{extra[0]} are bounded and not masked", [f"parts: {' '.join([*wanted, *extra])}", "or drop the bound"]
            )
        if self.control != "ramp" and (free := [name for name in wanted if name not in bounded]):
            raise GraphirError(
                f"nothing says how many {free[0]} to keep",
                [f"bound the density of {free[0]}", "or let λ decide: control: ramp"],
            )
        if "neurons" in wanted:
            check_neurons(context.program)
        weight_like = _WEIGHT_LIKE & set(wanted)
        if self.order != "joint" and (not weight_like or weight_like == set(wanted)):
            raise GraphirError(
                f"order `{self.order}` needs both weights or neurons and edges or nodes",
                ["order: joint", "or add to `parts`"],
            )
        if "weights" in wanted:
            self.masked_parameters(context.program)
        return wanted

    # --- what learns -------------------------------------------------------------------------------------------------

    def _rate(self, name: str, steps: int, *, at_ranks: bool) -> float:
        """Of a part that learns for so many steps: as given, or such that it moves its logits as far as it needs."""
        given = self.weight_learning_rate if name == "weights" else self.learning_rate
        if given is not None:
            return given
        if self.control == "ramp":
            return _RAMP_RATES[name == "weights"]
        return (_TRAVEL if at_ranks else _TRAVELS[name == "weights"]) / steps

    def _parts(self, context: RunContext, steps: Mapping[str, int], *, fresh: bool) -> dict[str, Part]:
        gumbel = GumbelSigmoid(self.temperature, self.estimator, self.sharpen)
        small: Parametrization = gumbel if self.small_masks == "gumbel" else HardConcrete()
        found: dict[str, Part] = {}
        ranks, on = self._starts(context, steps) if self.initial == "attribution" and fresh else ({}, {})
        rates = {name: self._rate(name, count, at_ranks=name in ranks) for name, count in steps.items()}
        if "weights" in rates:
            start = ranks.get("weights") or self._open_weights(context)
            found["weights"] = Part("weights", start, gumbel, rate=rates["weights"], epsilon=self.gradient_floor)
        sizes = {
            "neurons": max((stop for _, stop in context.program.neurons.values()), default=0),
            "nodes": len(context.graph.nodes), "edges": len(context.graph.edges),
        }  # fmt: skip
        device = context.program.device
        for name in (name for name in rates if name in sizes):
            values = torch.full((sizes[name],), self.initial_logit if name == "edges" else HIGHEST)
            logits = ranks.get(name) or on.get(name) or {name: values.to(device)}
            pinned = torch.as_tensor(pinned_nodes(context.graph), device=device) if name == "nodes" else None
            found[name] = Part(name, logits, small, rate=rates[name], pinned=pinned)
        return found

    def _starts(self, context: RunContext, wanted: Iterable[str]) -> tuple[Logits, Logits]:
        """Logits of edges and weights: those at ranks of attributions, and those that are on. Where too few of either
        have an attribution all are on, and edges by their share of the largest a little further."""
        device = context.program.device
        densities = {name: 0.5 if (bound := context.bound(name)) is None else bound for name in wanted}
        found: Logits = {}
        on: Logits = {}
        if "edges" in wanted and context.origin is None:
            scores = np.abs(score_edges(context, batch_size=self.batch_size, examples=_EXAMPLES))
            shares = torch.as_tensor(scores / max(scores.max(), np.finfo(np.float32).tiny), dtype=torch.float32)
            on["edges"] = {"edges": (self.initial_logit + shares).to(device)}
            if not is_attributed([torch.as_tensor(scores)], densities["edges"]):
                return {}, on
            found["edges"] = {"edges": ranked(scores, densities["edges"], self.initial_spread).to(device)}
        if "weights" in wanted:
            weights = attributed_weights(
                context, list(self.masked_parameters(context.program)), densities["weights"],
                batch_size=self.batch_size, examples=_EXAMPLES, spread=self.initial_spread,
            )  # fmt: skip
            if weights is None:
                return {}, on
            found["weights"] = weights
        return found, {}

    def _open_weights(self, context: RunContext) -> dict[str, Tensor]:
        tensors, names = context.program.traced.tensors, self.masked_parameters(context.program)
        return {name: torch.full_like(tensors[name], self.initial_logit, dtype=torch.float32) for name in names}

    # --- when and how far --------------------------------------------------------------------------------------------

    def _phases(self, parts: frozenset[str]) -> list[Phase]:
        """What learns when. Steps on hard masks come last, in a sequence at the end of each of the two."""
        together = Phase(self.last_steps, parts, hard=True)
        if self.order == "joint":
            return [Phase(self.steps, parts), together]
        weights, edges = parts & _WEIGHT_LIKE, parts - _WEIGHT_LIKE
        if self.order == "alternating":
            turns = range(0, self.steps, self.turn)
            return [
                Phase(min(self.turn, self.steps - start), (edges if number % 2 else weights), "sampled")
                for number, start in enumerate(turns)
            ] + [together]
        first, second = (weights, edges) if self.order == "weights_edges" else (edges, weights)
        steps = min(max(round(self.steps * self.first), 1), max(self.steps - 1, 1))
        hard = round(self.last_steps * self.first)
        return [
            Phase(steps, first, "open"), Phase(hard, first, "open", hard=True),
            Phase(self.steps - steps, second, "hard"), Phase(self.last_steps - hard, second, "hard", hard=True),
        ]  # fmt: skip

    def _controls(self, context: RunContext, parts: Mapping[str, Part], phases: list[Phase]) -> dict[str, Control]:
        found: dict[str, Control] = {}
        for name, part in parts.items():
            steps = _steps_of(name, phases)
            warmup, bound = round(self.warmup * steps), context.bound(name)
            if self.control == "ramp":
                found[name] = Ramp(
                    self.sparsity_weight, self.ramp_highest, self.ramp_lowest, warmup, round(self.cooldown * steps)
                )
                continue
            if bound is None:
                found[name] = Constant(0.0)
                continue
            start = density_of_origin(context, name)
            schedule = Schedule(1.0 - bound, warmup, self.schedule, floor=1.0 / part.total, start=start)
            found[name] = (
                Projection(schedule)
                if self.control == "projection"
                else Lagrangian(schedule, self.lambda_learning_rate)
            )
        return found


def _steps_of(name: str, phases: Iterable[Phase]) -> int:
    """In how many a part learns, apart from those on hard masks; at least 1."""
    return max(sum(phase.steps for phase in phases if name in phase.learning and not phase.hard), 1)
