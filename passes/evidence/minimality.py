"""Minimality: does each component of a circuit matter, with the right others out of the way?

For a component v of a circuit C (Wang et al. 2022, arXiv 2211.00593, section 4.2),

    minimality(v) = max over K ⊆ C - {v} of |F(C-(K+v)) − F(C-K)|

K takes away what backs v up, so that removing v shows. A circuit is minimal when every component scores high; its own
minimality is the smallest score, that of the component which matters least even given the best knock-out set found.
Every search finds some K, so a score is a lower bound; where all subsets of the circuit fit into the budget, all are
tried and the scores are exact.

The search, with a budget of runs (one run: F of one set on a few examples): first every component alone (K = ∅); for
circuits too large for that, gradients at the circuit and at random subsets of it estimate all components at once and
runs go to those that look weakest. Then, the weakest component first, by turns: random sets K, each tried on the
several weakest components, and greedy growth of the best K known, one component at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.algebra_sum import CircuitSum, with_factors
from graphir.circuit import Circuit
from graphir.columns import columns, json_object
from graphir.errors import DataError
from graphir.run.program import MaskedProgram
from passes.ablations import source_of
from passes.evidence.budget import Budget
from passes.evidence.scoring import BudgetSpentError, Scorer, components_of, without
from passes.observe import Observer, SilentObserver
from passes.task import Task

WIDTH = 8
"""How many components a knock-out set is tried on, and how many candidates a step of greedy growth tries."""

GRADIENT_SETS = 4
"""Knock-out sets (the empty one among them) at which gradients estimate a large circuit."""


@dataclass(frozen=True)
class ComponentMinimality:
    """One component: `alone` the loss F(C) − F(C-v), `score` the largest |change| found and `knock_outs` the set K it
    was found with. `tried` counts the sets; 0 where `score` is a first-order estimate from gradients."""

    name: str
    alone: float
    score: float
    knock_outs: tuple[str, ...]
    tried: int

    @property
    def measured(self) -> bool:
        """Whether the score was measured, not estimated."""
        return self.tried > 0


@dataclass(frozen=True)
class Minimality:
    """Scores of all components, in the circuit's order. `metric` is F, `base` F(C), `scale` |F(M) − F(∅)|; `exact` when
    all subsets were tried."""

    metric: str
    of: str
    base: float
    scale: float
    examples: int
    runs: int
    exact: bool
    components: tuple[ComponentMinimality, ...]

    @property
    def smallest(self) -> ComponentMinimality:
        """The component that matters least: measured ones before estimates."""
        measured = [c for c in self.components if c.measured] or list(self.components)
        return min(measured, key=lambda c: c.score)

    @property
    def share(self) -> float:
        """The smallest score as a share of the way from the empty circuit to the model."""
        return self.smallest.score / self.scale if self.scale else float("nan")

    def redundant(self, share: float = 0.01) -> tuple[ComponentMinimality, ...]:
        """Measured components whose score is below `share` of the scale: no K was found for which they matter."""
        return tuple(c for c in self.components if c.measured and c.score < share * self.scale)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        rows = [vars(component) for component in self.components]
        more = {"components": rows, "smallest": vars(self.smallest), "share": self.share}
        return json_object(vars(self) | more)

    def __str__(self) -> str:
        ordered = sorted(self.components, key=lambda c: (not c.measured, c.score))
        bound = "exact" if self.exact else "lower bounds"
        measured = sum(c.measured for c in self.components)
        lines = [
            f"minimality of {len(self.components)} {self.of}: max over K of |F(C-K-v) - F(C-K)| of {self.metric} "
            f"({bound}), {measured} measured, on {self.examples} examples, {self.runs} runs; F spans {self.scale:.4g}",
            f"smallest: {self.smallest.name} {self.smallest.score:.4g} ({self.share:.2%}); "
            f"{len(self.redundant())} below 1 %",
        ]
        rows = [
            (c.name, c.alone, c.score, len(c.knock_outs), c.tried)
            if c.measured
            else (c.name, None, c.score, None, None)
            for c in ordered[:12]
        ]
        return "\n".join([*lines, columns(("component", "alone", "score", "|K|", "sets"), rows)])


def measure_minimality(
    circuit: Circuit | CircuitSum,
    program: MaskedProgram,
    task: Task,
    *,
    of: str = "edges",
    metric: str | None = None,
    split: str = "test",
    seed: int = 0,
    budget: Budget | None = None,
    observer: Observer | None = None,
) -> Minimality:
    """Minimality of each kept edge (or node), within `budget.minimality_runs` runs on `budget.examples` examples.

    Raises `DataError` for a circuit that keeps nothing.
    """
    budget, observer = budget or Budget(), observer or SilentObserver()
    search = _Search(circuit, program, task, of, metric, split, seed, budget)
    observer.begin("minimality", budget.minimality_runs)
    exact = 2**search.count <= search.scorer.left if search.count < 30 else False
    with contextlib.suppress(BudgetSpentError):
        search.every_subset() if exact else search.by_turns(observer)
    observer.end("minimality")
    return Minimality(
        search.scorer.metric, of, search.base, search.scale, search.scorer.examples, search.scorer.runs, exact,
        search.results(),
    )  # fmt: skip


class _Search:
    """Scores so far: `best` (n,) the largest change found, `sets` its K, `tried` (n,) how many K; `estimates` (n,) from
    gradients for components with none."""

    def __init__(
        self, found: Circuit | CircuitSum, program: MaskedProgram, task: Task, of: str, metric: str | None, split: str,
        seed: int, budget: Budget,
    ) -> None:  # fmt: skip
        circuit, weights = with_factors(found)
        self.components = components_of(circuit, of)
        self.count = len(self.components)
        if not self.count:
            raise DataError("the circuit keeps nothing, so nothing can be taken from it")
        self.kept = circuit.effective_edges
        self.scorer = Scorer(
            program, task, split=split, metric=metric, examples=budget.examples, batch_size=budget.batch_size,
            weights=weights, limit=budget.minimality_runs, source=source_of(circuit, program, task),
        )  # fmt: skip
        self.base = self.scorer(self.kept)
        self.scale = abs(self.scorer.model - self.scorer(np.zeros_like(self.kept)))
        self.best = np.zeros(self.count)
        self.alone = np.full(self.count, np.nan)
        self.sets: list[tuple[int, ...]] = [()] * self.count
        self.tried = np.zeros(self.count, np.int64)
        self.estimates = np.zeros(self.count)
        self._generator = np.random.default_rng(seed)

    def value(self, knocked: Sequence[int]) -> float:
        """F(C-K)."""
        return self.scorer(without(self.kept, [self.components[i] for i in knocked]))

    def change(self, v: int, knocked: Sequence[int]) -> float:
        """|F(C-(K+v)) − F(C-K)|, kept where it is the best for v."""
        loss = self.value(knocked) - self.value([*knocked, v])
        self.tried[v] += 1
        if not knocked:
            self.alone[v] = loss
        if abs(loss) > self.best[v]:
            self.best[v], self.sets[v] = abs(loss), tuple(sorted(knocked))
        return abs(loss)

    def every_subset(self) -> None:
        """All K: exact. A set of runs serves every component."""
        members = [[i for i in range(self.count) if bits >> i & 1] for bits in range(2**self.count)]
        for knocked in members:
            for v in range(self.count):
                if v not in knocked:
                    self.change(v, knocked)

    def by_turns(self, observer: Observer) -> None:
        """Alone or by gradients; then random sets and greedy growth by turns until the budget is spent."""
        order = np.arange(self.count)
        if self.count > self.scorer.left * 2 // 3:
            self.estimate()
            order = np.argsort(self.estimates, kind="stable")[: max(1, self.scorer.left // 2)]
        for v in order.tolist():
            self.change(v, ())
        observer.step("minimality", self.scorer.runs, {"smallest": float(self.best[self.tried > 0].min())})
        grown: set[int] = set()
        while self.scorer.left > 0:
            before = self.scorer.runs
            self.random_set()
            self.grow(grown)
            observer.step("minimality", self.scorer.runs, {"smallest": float(self.best[self.tried > 0].min())})
            if self.scorer.runs == before and len(grown) >= self.count:
                break  # nothing new is left to try

    def estimate(self) -> None:
        """First-order losses of all components at once, at the circuit and at random halves of it."""
        for number in range(GRADIENT_SETS):
            out = self._generator.random(self.count) < (0.5 if number else 0.0)
            knocked = [self.components[i] for i in np.flatnonzero(out).tolist()]
            gradient = self.scorer.gradient(without(self.kept, knocked))
            losses = np.array([abs(gradient[c.edges].sum()) for c in self.components])
            self.estimates = np.maximum(self.estimates, np.where(out, 0.0, losses))

    def weakest(self, count: int) -> list[int]:
        """Measured components by score, the weakest first."""
        measured = np.flatnonzero(self.tried > 0)
        found: list[int] = measured[np.argsort(self.best[measured], kind="stable")][:count].tolist()
        return found

    def random_set(self) -> None:
        """One random K, tried on the weakest components outside of it."""
        if self.count < 2:
            return
        size = int(self._generator.integers(1, self.count))
        knocked = self._generator.choice(self.count, size, replace=False).tolist()
        for v in [v for v in self.weakest(2 * WIDTH) if v not in knocked][:WIDTH]:
            self.change(v, sorted(knocked))

    def grow(self, grown: set[int]) -> None:
        """Grow the best K of the weakest component that was not grown since it last improved."""
        v = next((v for v in self.weakest(self.count) if v not in grown), None)
        if v is None:
            return
        grown.add(v)
        knocked = list(self.sets[v])
        while True:
            rest = [u for u in range(self.count) if u != v and u not in knocked]
            candidates = self._generator.permutation(rest)[:WIDTH].tolist()
            before = float(self.best[v])
            for u in candidates:
                self.change(v, sorted([*knocked, u]))
            if self.best[v] <= before:
                return
            knocked = list(self.sets[v])

    def results(self) -> tuple[ComponentMinimality, ...]:
        """In the circuit's order."""
        names = [component.name for component in self.components]
        scores: NDArray[np.float64] = np.where(self.tried > 0, self.best, self.estimates)
        return tuple(
            ComponentMinimality(
                names[i], float(self.alone[i]), float(scores[i]), tuple(names[u] for u in self.sets[i]),
                int(self.tried[i]),
            )
            for i in range(self.count)
        )  # fmt: skip
