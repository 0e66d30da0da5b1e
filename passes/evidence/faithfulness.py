"""Faithfulness over the size of the circuit, and its two integrals, as the MIB benchmark defines them.

    x = .001, .002, .005, .01, .02, .05, .1, .2, .5, 1 (shares of the ranked edges), k = ⌊x · n⌋
    f(x) = (m(C_x) − m(∅)) / (m(M) − m(∅)),  C_x the top k edges less those on no path, ∅ all ablated
    CPR = ∫ f dx          of the ranking by signed scores; higher is better
    CMD = ∫ |1 − f| dx    of the ranking by absolute scores; lower is better

by the trapezoid rule over x as it stands, from the first share to the last (Mueller et al., MIB, arXiv 2504.13151, and
its evaluation code). f is not clipped: a circuit that does more of the task than the model raises CPR, so that CPR
alone can be gamed; hence both, with the curves, and the edge ROC where the truth is known. An edge without a score (not
a number) is always kept and does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.circuit import Circuit
from graphir.columns import columns, json_object
from graphir.errors import DataError, GraphirError
from passes.base import keep_top
from passes.measure import Evaluator, masks_of
from passes.metrics import default_metric

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class FaithfulnessPoint:
    """One circuit of a ranking: the share of edges asked for, the k it comes to, the edges left on paths, f, and all
    metrics."""

    share: float
    asked: int
    edges: int
    faithfulness: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class FaithfulnessCurves:
    """f over x for both rankings; `metric` is m, `empty` and `full` its ends."""

    metric: str
    split: str
    examples: int
    empty: dict[str, float]
    full: dict[str, float]
    signed: tuple[FaithfulnessPoint, ...]
    absolute: tuple[FaithfulnessPoint, ...]

    @property
    def cpr(self) -> float:
        """∫ f dx of the signed ranking; higher is better, values above 1 are possible."""
        return integral([p.share for p in self.signed], [p.faithfulness for p in self.signed])

    @property
    def cmd(self) -> float:
        """∫ |1 − f| dx of the absolute ranking; lower is better."""
        return integral([p.share for p in self.absolute], [abs(1 - p.faithfulness) for p in self.absolute])

    @property
    def above_model(self) -> float:
        """Largest f of the signed ranking less 1, at least 0: how far CPR profits from going beyond the model."""
        return max(0.0, max(p.faithfulness for p in self.signed) - 1)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""

        def rows(points: tuple[FaithfulnessPoint, ...]) -> list[dict[str, Any]]:
            return [vars(point) for point in points]

        return json_object(
            {
                "metric": self.metric, "split": self.split, "examples": self.examples, "cpr": self.cpr,
                "cmd": self.cmd, "above_model": self.above_model, "empty": self.empty, "full": self.full,
                "signed": rows(self.signed), "absolute": rows(self.absolute),
            }
        )  # fmt: skip

    def __str__(self) -> str:
        title = f"faithfulness of {self.metric} on {self.examples} examples of {self.split}"
        integrals = f"CPR {self.cpr:.4g} (higher is better)   CMD {self.cmd:.4g} (lower is better)"
        if self.above_model > 0.05:
            integrals += f"   beyond the model by {self.above_model:.2f}: CPR profits from it"
        names = [n for n in ("accuracy", "kl", "jsd", "exact_match", "kendall_tau") if n in self.full]
        rows = [
            (f"{s.share:.1%}", s.edges, s.faithfulness, a.edges, a.faithfulness, *(a.metrics[n] for n in names))
            for s, a in zip(self.signed, self.absolute, strict=True)
        ]
        rows.append(("model", "-", 1.0, "-", 1.0, *(self.full[n] for n in names)))
        headers = ("edges", "signed", "f", "absolute", "f", *names)
        return f"{title}\n{integrals}\n{columns(headers, rows)}"


def integral(x: Sequence[float], y: Sequence[float]) -> float:
    """Σ (x_{i+1} − x_i)(y_i + y_{i+1}) / 2."""
    return float(np.trapezoid(np.asarray(y, float), np.asarray(x, float)))


def measure_faithfulness(
    evaluator: Evaluator,
    scores: NDArray[np.floating[Any]],
    *,
    metric: str | None = None,
    shares: Sequence[float] = SHARES,
) -> FaithfulnessCurves:
    """The curves of a ranking of edges (E,) on the evaluator's split.

    `metric` is what f is taken of (by default the logit difference, KL without distractors). Weights stay whole.
    Raises `DataError` for scores of another length or none that is a number, `GraphirError` for shares that are not
    ascending within (0, 1].
    """
    graph, name = evaluator.program.graph, metric or default_metric(evaluator.task, evaluator.split)
    values = np.asarray(scores, np.float64)
    if values.shape != (len(graph.edges),):
        raise DataError(f"{values.shape} scores for {len(graph.edges)} edges")
    if np.isnan(values).all():
        raise DataError("no edge has a score", ["a curve needs a ranking: the scores of a circuit, or of `eap_ig`"])
    if name not in evaluator.full:
        raise DataError(f"there is no `{name}` on this task", [f"one of {', '.join(evaluator.full)}"])
    steps = np.asarray(shares, float)
    if len(steps) < 2 or (np.diff(steps) <= 0).any() or steps[0] <= 0 or steps[-1] > 1:
        raise GraphirError("the shares of a curve rise from above 0 to at most 1", ["0.001, 0.01, 0.1, 1"])
    curves = []
    for absolute in (False, True):
        circuits = [ranked(evaluator, values, share, absolute=absolute) for share in shares]
        found = evaluator.measure_several([masks_of(circuit, evaluator.program) for circuit, _ in circuits])
        low, high = evaluator.empty[name], evaluator.full[name]
        curves.append(
            tuple(
                FaithfulnessPoint(
                    share, asked, int(circuit.edges.sum()),
                    (metrics[name] - low) / (high - low) if high != low else float("nan"), metrics,
                )
                for share, (circuit, asked), metrics in zip(shares, circuits, found, strict=True)
            )
        )  # fmt: skip
    examples = len(evaluator.task.examples(evaluator.split))
    return FaithfulnessCurves(name, evaluator.split, examples, evaluator.empty, evaluator.full, *curves)


def ranked(evaluator: Evaluator, scores: NDArray[np.float64], share: float, *, absolute: bool) -> tuple[Circuit, int]:
    """The circuit of the top ⌊share · n⌋ edges, pruned to what is on a path, and that number."""
    graph, unscored = evaluator.program.graph, np.isnan(scores)
    asked = int(share * int((~unscored).sum()))
    kept = keep_top(scores, asked, absolute=absolute) | unscored
    return Circuit(graph, kept, np.ones(len(graph.nodes), bool)).on_path(), asked
