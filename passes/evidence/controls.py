"""Controls: would anything of that size have done as well?

- *Random circuits* of equal size in every layer, and circuits drawn from the complement in the same way: n of each. The
  p-value of the circuit is (1 + how many do at least as well) / (n + 1), so that 1 / (n + 1) is the smallest there is
  (its resolution, stated beside it).
- *Random weights*: the same discovery on a copy of the model whose weights are random, judged on the task. A mask that
  works there too found the task in itself, not in the model, and the circuit is flagged (Lepori et al. found such
  masks; Ramanujan et al. 2020, arXiv 1911.13299, train nothing but masks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphir.algebra_sum import CircuitSum
from graphir.circuit import Circuit
from graphir.columns import columns, json_object
from graphir.errors import GraphirError
from graphir.run.program import MaskedProgram
from passes.evidence.budget import Budget
from passes.evidence.random_weights import How, with_random_weights
from passes.evidence.scoring import evaluator_of
from passes.measure import Evaluator
from passes.metrics import default_metric
from passes.observe import Observer, SilentObserver
from passes.random_baseline import matched_random
from passes.task import Task

Discover = Callable[[int, MaskedProgram], Circuit | None]
"""A discovery: a seed and a program in, the circuit on the program's graph out; None where none is found."""

RECOVERED = 0.5
"""A mask on random weights that closes more than this share of the gap from chance to the circuit is flagged."""

LOWER_IS_BETTER = ("kl", "jsd", "cross_entropy")


@dataclass(frozen=True)
class Null:
    """The circuit against n drawn ones: `values` theirs, `value` its own, `failed` why there are none."""

    name: str
    value: float
    values: tuple[float, ...]
    higher_is_better: bool = True
    failed: str = ""

    @property
    def resolution(self) -> float:
        """The smallest p-value that n draws can give, 1 / (n + 1)."""
        return 1 / (len(self.values) + 1)

    @property
    def p_value(self) -> float:
        """(1 + number of draws at least as good) / (n + 1); not-a-number without draws."""
        if not self.values:
            return float("nan")
        sign = 1 if self.higher_is_better else -1
        return (1 + sum(sign * v >= sign * self.value for v in self.values)) / (len(self.values) + 1)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return json_object(vars(self) | {"p_value": self.p_value, "resolution": self.resolution})


@dataclass(frozen=True)
class RandomWeights:
    """What the same discovery did on random weights: accuracies of the circuit, of the mask on random weights, of the
    random model itself, and chance. Where there is nothing to compare (no circuit was found there, or this one is no
    better than chance) `found` is false and `failed` says why."""

    seed: int
    how: str
    circuit: float
    mask: float
    model: float
    chance: float
    found: bool
    failed: str = ""

    @property
    def recovered(self) -> float:
        """The share of the way from chance to the circuit's accuracy that the mask on random weights goes;
        not-a-number where there is nothing to compare."""
        return (self.mask - self.chance) / (self.circuit - self.chance) if self.found else float("nan")

    @property
    def flagged(self) -> bool:
        """The mask works on random weights too, so that it says nothing about the model."""
        return self.recovered > RECOVERED

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return json_object(vars(self) | {"recovered": self.recovered, "flagged": self.flagged})


@dataclass(frozen=True)
class Controls:
    """All controls of one circuit; `random_weights` is None where there was no discovery to repeat."""

    metric: str
    split: str
    random: Null
    complement: Null
    random_weights: RandomWeights | None = None

    @property
    def flagged(self) -> bool:
        """Whether the mask works on random weights too."""
        return self.random_weights is not None and self.random_weights.flagged

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        weights = None if self.random_weights is None else self.random_weights.to_json()
        return {
            "metric": self.metric, "split": self.split, "random": self.random.to_json(),
            "complement": self.complement.to_json(), "random_weights": weights, "flagged": self.flagged,
        }  # fmt: skip

    def __str__(self) -> str:
        rows: list[tuple[Any, ...]] = []
        for null in (self.random, self.complement):
            best = max(null.values, key=lambda v: v if null.higher_is_better else -v, default=None)
            mean = float(np.mean(null.values)) if null.values else None
            p = null.p_value if null.values else None
            rows.append((null.name, len(null.values), null.value, mean, best, p, null.resolution, null.failed))
        headers = ("control", "draws", f"circuit {self.metric}", "mean", "best", "p", "resolution", "")
        lines = [columns(headers, rows)]
        if (random := self.random_weights) is not None:
            if random.failed:
                lines.append(f"random weights: {random.failed}")
            else:
                lines.append(
                    f"random weights ({random.how}, seed {random.seed}): mask accuracy {random.mask:.4g}, circuit "
                    f"{random.circuit:.4g}, chance {random.chance:.4g}; recovered {random.recovered:.1%}"
                    + ("  FLAGGED: the mask works on random weights too" if random.flagged else "")
                )
        return "\n".join(lines)


def measure_controls(
    circuit: Circuit | CircuitSum,
    program: MaskedProgram,
    task: Task,
    *,
    discover: Discover | None = None,
    metric: str | None = None,
    split: str = "test",
    seed: int = 0,
    how: How = "normal",
    budget: Budget | None = None,
    evaluator: Evaluator | None = None,
    observer: Observer | None = None,
) -> Controls:
    """The controls, `budget.random_circuits` draws each. A control that cannot be made (a circuit larger than its
    complement in some layer, a discovery that fails on random weights) says so; the others stand."""
    budget, observer = budget or Budget(), observer or SilentObserver()
    evaluator = evaluator or evaluator_of(circuit, program, task, split, budget.batch_size)
    name = metric or default_metric(task, split)
    own = evaluator.measure_circuit(circuit)
    observer.begin("controls", 2 * budget.random_circuits)
    draws = budget.random_circuits
    random = _null(circuit, evaluator, name, own[name], False, seed, draws)
    observer.step("controls", draws, {"p": random.p_value})
    complement = _null(circuit, evaluator, name, own[name], True, seed, draws)
    observer.step("controls", 2 * draws, {"p": complement.p_value})
    observer.end("controls")
    weights = None
    if discover is not None:
        weights = control_random_weights(own["accuracy"], program, task, discover, split, seed, how, budget)
    return Controls(name, split, random, complement, weights)


def _null(
    circuit: Circuit | CircuitSum,
    evaluator: Evaluator,
    metric: str,
    value: float,
    complement: bool,
    seed: int,
    draws: int,
) -> Null:
    name = "drawn from the complement" if complement else "random, same size per layer"
    values, failed = [], ""
    try:
        for draw in range(draws):
            drawn = matched_random(circuit, seed + draw, complement=complement)
            values.append(evaluator.measure_circuit(drawn)[metric])
    except GraphirError as error:
        failed = error.message
    return Null(name, value, tuple(values), metric not in LOWER_IS_BETTER, failed)


def chance_of(task: Task, split: str = "test") -> float:
    """The accuracy of guessing: one half between answer and distractor, else the share of the commonest answer."""
    rows = task.examples(split)
    if all(row.distractor is not None for row in rows):
        return 0.5
    answers = [row.answer for row in rows]
    return max(answers.count(answer) for answer in set(answers)) / len(answers)


def control_random_weights(
    accuracy: float, program: MaskedProgram, task: Task, discover: Discover, split: str, seed: int, how: How,
    budget: Budget,
) -> RandomWeights:  # fmt: skip
    """The same discovery on random weights, and what its mask does there on the task."""
    chance, nan = chance_of(task, split), float("nan")
    if accuracy <= chance:
        why = f"the circuit's accuracy of {accuracy:.4g} is no better than chance, {chance:.4g}"
        return RandomWeights(seed, how, accuracy, nan, nan, chance, False, why)
    try:
        random = with_random_weights(program, seed, how=how)
        evaluator = Evaluator(random, task, split, budget.batch_size)
        model = evaluator.full["accuracy"]
        found = discover(seed, random)
    except Exception as error:  # whatever a discovery raises, the other evidence stands
        message = str(error).split("\n")[0]
        return RandomWeights(seed, how, accuracy, nan, nan, chance, False, f"the discovery failed: {message}")
    if found is None:
        return RandomWeights(seed, how, accuracy, nan, model, chance, False, "the discovery found no circuit")
    mask = evaluator.measure_circuit(found)["accuracy"]
    return RandomWeights(seed, how, accuracy, mask, model, chance, True)
