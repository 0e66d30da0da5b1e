"""The smallest circuit of a ranking that still does what the model does, without being told how large that is.

    circuit = smallest_circuit(program, task, scores)

First the size: of the circuits that keep the k best edges, the smallest within a tolerance on validation data. Then,
unless it is turned off, elimination: edges are dropped one by one, the worst first, while the circuit stays within.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.circuit import Circuit
from graphir.errors import GraphirError
from graphir.run.program import MaskedProgram
from passes.base import keep_top
from passes.measure import Evaluator, Metrics, masks_of
from passes.observe import Observer, SilentObserver
from passes.task import Task

_SCANNED = 512
_GROWTH = 1.25

Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a circuit may be from the model: mean KL(model ‖ circuit) in nats, and accuracy lost, as a share of one.

    Raises GraphirError for a bound below zero."""

    kl: float = 0.01
    accuracy: float = 0.01

    def __post_init__(self) -> None:
        if not (self.kl >= 0 and self.accuracy >= 0):
            raise GraphirError(f"a tolerance is not negative, as KL {self.kl} and accuracy {self.accuracy} are")

    def allows(self, found: Metrics, full: Metrics) -> bool:
        """Whether measured values are within; not-a-number never is."""
        return found["kl"] <= self.kl and found["accuracy"] >= full["accuracy"] - self.accuracy


@dataclass(frozen=True, eq=False)
class _Judge:
    """Measures circuits on one split; what was measured is not measured again."""

    evaluator: Evaluator
    tolerance: Tolerance
    known: dict[bytes, bool]

    def __call__(self, circuit: Circuit) -> bool:
        key = circuit.edges.tobytes() + circuit.nodes.tobytes()
        if key not in self.known:
            found = self.evaluator.measure(masks_of(circuit, self.evaluator.program))
            self.known[key] = self.tolerance.allows(found, self.evaluator.full)
        return self.known[key]


def smallest_circuit(
    program: MaskedProgram,
    task: Task,
    scores: Scores,
    *,
    tolerance: Tolerance | None = None,
    absolute: bool = False,
    drop_single: bool = True,
    weights: Mapping[str, NDArray[np.bool_]] | None = None,
    split: str = "validation",
    batch_size: int = 64,
    evaluator: Evaluator | None = None,
    observer: Observer | None = None,
    **fields: Any,
) -> Circuit:
    """The smallest circuit within `tolerance` on `split` that the ranking `scores` (E,) leads to.

    All sizes are tried, from one edge up, in a graph of up to 512 edges; in a larger one sizes grow by a quarter until
    one is within, and bisection finds the smallest between it and the one before. `absolute` ranks by |score|;
    `drop_single` turns elimination on; `weights` are keep masks that every circuit tried has, such as a sheaf's. An
    `evaluator` at hand is used, with its split, and saves running the model again. The provenance holds the rule and
    both sizes under `selection`; `fields` are other fields of the circuit. Raises GraphirError for scores of another
    length, and where not even the whole graph is within.
    """
    if np.shape(scores) != (len(program.graph.edges),):
        raise GraphirError(f"{np.shape(scores)} scores for {len(program.graph.edges)} edges")
    limits, watch = tolerance or Tolerance(), observer or SilentObserver()
    judge = _Judge(evaluator or Evaluator(program, task, split, batch_size), limits, {})
    ranking = np.abs(scores) if absolute else np.asarray(scores)
    found = _smallest_size(judge, ranking, weights or {})
    size = int(found.edges.sum())
    if drop_single:
        found = drop_edges(judge, found, ranking, watch)
    used, kept = judge.evaluator.split, int(found.edges.sum())
    rule = {"split": used, "tolerance": asdict(limits), "by_size": size, "kept": kept}
    provenance = {**fields.pop("provenance", {}), "selection": rule}
    ablation = fields.pop("ablation", task.ablation)
    return found.with_(scores={"edges": np.asarray(scores)}, provenance=provenance, ablation=ablation, **fields)


def _smallest_size(judge: _Judge, ranking: Scores, weights: Mapping[str, NDArray[np.bool_]]) -> Circuit:
    graph, total = judge.evaluator.program.graph, len(ranking)

    def top(size: int) -> Circuit:
        return Circuit(graph, keep_top(ranking, size), np.ones(len(graph.nodes), bool), weights=weights).on_path()

    below, size = 0, 1
    while not judge(top(size)):
        if size == total:
            raise GraphirError(
                "not even all edges are within the tolerance",
                ["raise the tolerance, use float32 weights, or keep more weights"],
            )
        below = size
        size = min(total, size + 1 if total <= _SCANNED else max(size + 1, round(size * _GROWTH)))
    while size - below > 1:
        middle = (below + size) // 2
        below, size = (below, middle) if judge(top(middle)) else (middle, size)
    return top(size)


def drop_edges(judge: _Judge, circuit: Circuit, ranking: Scores, observer: Observer) -> Circuit:
    """The circuit without each edge it can do without, the lowest ranked tried first, again until none goes."""
    while True:
        before = int(circuit.edges.sum())
        candidates = np.flatnonzero(circuit.edges)
        observer.begin("eliminate", before)
        for done, index in enumerate(candidates[np.argsort(ranking[candidates], kind="stable")].tolist(), 1):
            if circuit.edges[index]:  # else it went with another
                edges = circuit.edges.copy()
                edges[index] = False
                smaller = circuit.with_(edges=edges).on_path()
                if smaller.edges.any() and judge(smaller):
                    circuit = smaller
            observer.step("eliminate", done, {"edges": int(circuit.edges.sum())})
        observer.end("eliminate")
        if int(circuit.edges.sum()) == before:
            return circuit
