"""Edge ROC against a circuit that is known, twice: as the benchmark draws it, and of the ranking itself.

The benchmark (MIB, InterpBench) grows a circuit greedily from the outputs at each share of the edges, prunes what is on
no path, and takes TPR = TP / (TP + FN), FPR = FP / (FP + TN); its AUROC is the trapezoid over these points, here with
the origin added. (Its code counts an edge that a submission leaves out as found; here a submission scores all edges.)
The second AUROC is that of the scores, thresholded everywhere: the chance that a true edge outranks another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.circuit import Circuit
from graphir.columns import columns, json_object
from graphir.errors import DataError
from graphir.ir import Graph
from passes.evidence.faithfulness import SHARES, integral
from passes.selection import greedy_edges

Truth = Circuit | NDArray[np.bool_] | Iterable[str]


@dataclass(frozen=True)
class EdgeRoc:
    """`points` are (share asked for, edges kept, FPR, TPR) of greedy circuits; `greedy_auroc` their integral,
    `auroc` that of the ranking; `precision` and `recall` are the circuit's own (not-a-number where only scores were
    given), `exact` whether it is the true circuit."""

    true_edges: int
    points: tuple[tuple[float, int, float, float], ...]
    greedy_auroc: float
    auroc: float
    precision: float
    recall: float
    exact: bool
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return json_object(vars(self))

    def __str__(self) -> str:
        title = f"edge ROC against {self.true_edges} true edges: AUROC {self.auroc:.4g}, greedy {self.greedy_auroc:.4g}"
        own = f"the circuit: precision {self.precision:.4g}, recall {self.recall:.4g}"
        rows = [(f"{share:.1%}", edges, fpr, tpr) for share, edges, fpr, tpr in self.points]
        return f"{title}\n{own}{', exact' if self.exact else ''}\n{columns(('share', 'edges', 'FPR', 'TPR'), rows)}"


def edge_roc(circuit: Circuit, truth: Truth, *, absolute: bool = True, shares: Sequence[float] = SHARES) -> EdgeRoc:
    """The ROC of a circuit's edge scores (without scores, of its mask) against the true edges: a circuit, a mask (E,),
    or names. Raises `DataError` where none or all edges are true, `UnknownNameError` for a name that is not there."""
    from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

    graph, real = circuit.graph, true_mask(circuit.graph, truth)
    if not real.any() or real.all():
        raise DataError("a ROC needs edges that are true and edges that are not", [f"{int(real.sum())} are true"])
    kept = circuit.effective_edges
    scores = np.asarray(circuit.scores.get("edges", kept.astype(float)), np.float64)
    values = np.abs(scores) if absolute else scores
    values = np.where(np.isnan(values), np.inf, values)  # no score: always kept
    points = tuple(_point(graph, values, real, share) for share in shares)
    path = sorted([(0.0, 0.0), *((fpr, tpr) for _, _, fpr, tpr in points), (1.0, 1.0)])
    ranks = np.unique(values, return_inverse=True)[1]
    names = [str(edge) for edge in graph.edges]
    hits = int((kept & real).sum())
    return EdgeRoc(
        int(real.sum()),
        points,
        integral([fpr for fpr, _ in path], [tpr for _, tpr in path]),
        float(roc_auc_score(real, ranks)),
        hits / int(kept.sum()) if kept.any() else float("nan"),
        hits / int(real.sum()),
        bool(np.array_equal(kept, real)),
        tuple(names[i] for i in np.flatnonzero(real & ~kept).tolist()),
        tuple(names[i] for i in np.flatnonzero(kept & ~real).tolist()),
    )


def true_mask(graph: Graph, truth: Truth) -> NDArray[np.bool_]:
    """The true edges as a mask (E,)."""
    if isinstance(truth, Circuit):
        return truth.effective_edges
    if isinstance(truth, np.ndarray):
        if truth.shape != (len(graph.edges),):
            raise DataError(f"a mask {truth.shape} of true edges for {len(graph.edges)} edges")
        return truth.astype(bool)
    mask = np.zeros(len(graph.edges), bool)
    mask[[graph.edge(text).index for text in truth]] = True
    return mask


def _point(
    graph: Graph, values: NDArray[np.float64], real: NDArray[np.bool_], share: float
) -> tuple[float, int, float, float]:
    grown = greedy_edges(graph, values, int(share * len(values)))
    kept = Circuit(graph, grown, np.ones(len(graph.nodes), bool)).on_path().edges
    true_rate = int((kept & real).sum()) / int(real.sum())
    false_rate = int((kept & ~real).sum()) / int((~real).sum())
    return share, int(kept.sum()), false_rate, true_rate
