"""Completeness: does the circuit hold all that does the task? Three tests.

- *Complement*: everything but the circuit should not do the task (DiscoGP's test).
- *Same under knock-outs*: for K ⊂ C, the circuit without K should do what the model without K does. Wang et al. (2022,
  arXiv 2211.00593) call |F(C-K) − F(M-K)| the incompleteness score; K is drawn at random,
- *or greedily*, adding to K the component that raises the score most. A search finds a K, not the worst K: its score is
  a lower bound on the circuit's incompleteness.

The divergences KL(M ‖ C-K) and KL(M ‖ M-K) stand beside (AutoCircuit compares these).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphir.algebra_sum import CircuitSum, with_factors
from graphir.circuit import Circuit
from graphir.columns import columns, json_object
from graphir.run.program import MaskedProgram
from passes.ablations import source_of
from passes.evidence.budget import Budget
from passes.evidence.scoring import Component, Scorer, components_of, evaluator_of, without
from passes.measure import Evaluator
from passes.observe import Observer, SilentObserver
from passes.task import Task

WIDTH = 8
"""Candidates that each step of the greedy search tries."""


@dataclass(frozen=True)
class KnockOut:
    """One set K: its components, F of the circuit and of the model without it, their divergences from the model."""

    components: tuple[str, ...]
    circuit: float
    model: float
    kl_circuit: float
    kl_model: float

    @property
    def incompleteness(self) -> float:
        """|F(C-K) − F(M-K)|."""
        return abs(self.circuit - self.model)


@dataclass(frozen=True)
class Completeness:
    """`metric` is F, `scale` |F(M) − F(∅)|, `complement` the metrics of everything but the circuit on the whole split,
    `random` and `greedy` the knock-out sets tried, `base` the empty one. `examples` and `runs` are those of the
    searches."""

    metric: str
    of: str
    scale: float
    examples: int
    runs: int
    complement: dict[str, float]
    base: KnockOut
    random: tuple[KnockOut, ...]
    greedy: tuple[KnockOut, ...]

    @property
    def worst(self) -> KnockOut:
        """The set with the largest incompleteness score."""
        return max((self.base, *self.random, *self.greedy), key=lambda k: k.incompleteness)

    @property
    def mean_random(self) -> float:
        """Mean incompleteness over the random sets; not-a-number where there are none."""
        return float(np.mean([k.incompleteness for k in self.random])) if self.random else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""

        def row(k: KnockOut) -> dict[str, Any]:
            return vars(k) | {"incompleteness": k.incompleteness}

        return json_object(
            vars(self)
            | {
                "base": row(self.base), "random": [row(k) for k in self.random],
                "greedy": [row(k) for k in self.greedy], "worst": row(self.worst), "mean_random": self.mean_random,
            }
        )  # fmt: skip

    def __str__(self) -> str:
        shown = [n for n in ("accuracy", "logit_diff", "prob_diff", "kl", "exact_match") if n in self.complement]
        lines = ["complement: " + "   ".join(f"{name} {self.complement[name]:.4g}" for name in shown)]
        lines.append(
            f"same under knock-outs of {self.of}: |F(C-K) - F(M-K)| of {self.metric}, on {self.examples} examples, "
            f"{self.runs} runs; F spans {self.scale:.4g}"
        )
        sorts = [("none", [self.base]), ("random", self.random), ("greedy", self.greedy)]
        rows = []
        for name, sets in sorts:
            if sets:
                worst = max(sets, key=lambda k: k.incompleteness)
                mean = float(np.mean([k.incompleteness for k in sets]))
                rows.append((name, len(sets), mean, worst.incompleteness, len(worst.components), _few(worst)))
        return "\n".join([*lines, columns(("sets", "tried", "mean", "worst", "|K|", "worst K"), rows)])


def _few(k: KnockOut) -> str:
    return ", ".join(k.components[:3]) + (" …" if len(k.components) > 3 else "")


def measure_completeness(
    circuit: Circuit | CircuitSum,
    program: MaskedProgram,
    task: Task,
    *,
    of: str = "nodes",
    metric: str | None = None,
    split: str = "test",
    seed: int = 0,
    budget: Budget | None = None,
    evaluator: Evaluator | None = None,
    observer: Observer | None = None,
) -> Completeness:
    """The three tests, knocking out nodes (or `edges`) of the circuit, within `budget.completeness_runs`.

    Half of the runs go to random sets, half to the greedy search. With `evaluator` (of the split) its batches are used
    for the complement.
    """
    budget, observer = budget or Budget(), observer or SilentObserver()
    evaluator = evaluator or evaluator_of(circuit, program, task, split, budget.batch_size)
    search = _Search(circuit, program, task, of, metric, split, seed, budget)
    observer.begin("completeness", budget.completeness_runs)
    base = search.measure(())
    random = search.random(budget.completeness_runs // 2)
    observer.step("completeness", search.runs, {"worst": max((k.incompleteness for k in random), default=0.0)})
    greedy = search.greedy(budget.completeness_runs)
    observer.end("completeness")
    return Completeness(
        search.inside.metric, of, search.scale, search.inside.examples, search.runs,
        evaluator.measure_circuit(circuit, complement=True), base, random, greedy,
    )  # fmt: skip


class _Search:
    def __init__(
        self, found: Circuit | CircuitSum, program: MaskedProgram, task: Task, of: str, metric: str | None, split: str,
        seed: int, budget: Budget,
    ) -> None:  # fmt: skip
        circuit, weights = with_factors(found)
        self.kept = circuit.effective_edges
        self.components = components_of(circuit, of)
        shared: dict[str, Any] = {
            "split": split, "metric": metric, "examples": budget.examples, "batch_size": budget.batch_size,
            "source": source_of(circuit, program, task),
        }  # fmt: skip
        self.inside = Scorer(program, task, weights=weights, **shared)
        self.outside = Scorer(program, task, **shared) if circuit.weights else self.inside
        self._generator = np.random.default_rng(seed)
        self._all = np.ones_like(self.kept)
        empty = self.outside(np.zeros_like(self.kept))
        self.scale = abs(self.outside.model - empty)
        self._nodes = of == "nodes"
        self._sources = np.asarray(circuit.graph.edge_src)

    @property
    def runs(self) -> int:
        return self.inside.runs + (self.outside.runs if self.outside is not self.inside else 0)

    def measure(self, chosen: Sequence[int]) -> KnockOut:
        parts = [self.components[i] for i in chosen]
        circuit = without(self.kept, parts)
        model = without(self._all, [self._in_model(part) for part in parts])
        return KnockOut(
            tuple(part.name for part in parts), self.inside(circuit), self.outside(model),
            self.inside.kl(circuit), self.outside.kl(model),
        )  # fmt: skip

    def _in_model(self, part: Component) -> Component:
        """A node is knocked out of the model with all that it writes, not only with the edges the circuit keeps."""
        if not self._nodes:
            return part
        return Component(part.name, np.flatnonzero(self._sources == self._sources[part.edges[0]]))

    def random(self, limit: int) -> tuple[KnockOut, ...]:
        """Sets of random sizes, until `limit` runs are made in all."""
        found: dict[frozenset[int], KnockOut] = {}
        total = len(self.components)
        for _ in range(limit):
            if self.runs + 2 > limit or total < 2 or len(found) >= 2**total - 2:
                break
            size = int(self._generator.integers(1, total))
            chosen = self._generator.choice(total, size, replace=False).tolist()
            found.setdefault(frozenset(chosen), self.measure(sorted(chosen)))
        return tuple(found.values())

    def greedy(self, limit: int) -> tuple[KnockOut, ...]:
        """The sets of a greedy search, each one component larger than the last and worse than it."""
        chosen: list[int] = []
        found: list[KnockOut] = []
        best = self.measure(())
        while len(chosen) < len(self.components) - 1:
            rest = [i for i in range(len(self.components)) if i not in chosen]
            tried: list[tuple[float, int, KnockOut]] = []
            for i in self._generator.permutation(rest)[:WIDTH].tolist():
                if self.runs + 2 > limit:
                    break
                knocked = self.measure([*chosen, i])
                tried.append((knocked.incompleteness, i, knocked))
            if not tried or max(each[0] for each in tried) <= best.incompleteness:
                break
            _, i, best = max(tried, key=lambda each: each[:2])
            chosen.append(i)
            found.append(best)
        return tuple(found)
