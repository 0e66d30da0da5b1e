"""Blocks: groups of nodes that hold alike, from a distance matrix, with a score and a test in place of the eye.

Contiguous blocks minimize Σ_b Σ_{i<j∈b} M[i, j] / |b| by dynamic programming. Their gain is by how much that is less
than the mean over permuted orders of the nodes, as in the gap statistic (Tibshirani, Walther and Hastie 2001), and
their number the fewest whose gain is within a standard error of the largest (Dudoit and Fridlyand 2002). The largest
itself is no rule: along a smooth drift the gain is flat around it, and another sample has another number.
Spectral clustering of exp(−(M / median)²) finds groups that need not be contiguous.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.errors import DataError
from passes.analysis_options import BlocksOptions
from passes.analyze.distances.base import DistanceMatrix, Matrix

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class BlockScore:
    """How good blocks are.

    `separation` is 1 − mean distance within / mean distance between blocks: 0 none, 1 perfect. `silhouette` is the
    mean silhouette (Rousseeuw 1987). `contrast` is the mean distance of neighbors across a boundary over that of
    neighbors inside a block: 1 for a smooth drift along the depth, which also separates ends; `contrast_p` the share
    of ways to place as many boundaries that have a contrast as high. Not-a-number where a side is empty.
    """

    separation: float
    silhouette: float
    contrast: float
    contrast_p: float


@dataclass(frozen=True, eq=False)
class Blocks:
    """Groups of nodes: `labels` (N,), numbered from 0 in the order they appear.

    `p` is the share of permuted orders that gain as much over the others, at any number of blocks (add-one). `gaps`
    maps each number considered to its gain. `method` is `contiguous` or `spectral`.
    """

    names: tuple[str, ...]
    labels: Labels
    score: BlockScore
    method: str
    p: float = float("nan")
    gaps: Mapping[int, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return int(self.labels.max()) + 1

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The names in each block."""
        return tuple(
            tuple(n for n, label in zip(self.names, self.labels, strict=True) if label == b) for b in range(self.count)
        )

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Positions of the nodes that differ in block from the node before."""
        return tuple(int(i) for i in np.flatnonzero(np.diff(self.labels)) + 1)

    def __str__(self) -> str:
        spans = [group[0] if len(group) == 1 else f"{group[0]}–{group[-1]}" for group in self.groups]
        listed = " | ".join(spans) if self.method == "contiguous" else " | ".join(" ".join(g) for g in self.groups)
        return f"{self.count} blocks: {listed} (separation {self.score.separation:.2f}, p {self.p:.3f})"


def find_blocks(matrix: DistanceMatrix, options: BlocksOptions | None = None) -> Blocks:
    """Contiguous blocks of nodes in their order.

    Where no number of blocks gains over permuted orders at p ≤ 0.05, there is one block: none was found. A smooth drift
    along the nodes gains as well: whether blocks are more than that, `score.contrast_p` says. Raises `DataError` for
    more blocks than nodes, or fewer than three nodes.
    """
    options = options or BlocksOptions()
    n = len(matrix)
    _check_count(options.count, n)
    if n < 3:
        raise DataError(f"blocks of {n} nodes: at least three are needed")
    most = min(options.count or options.largest or max(2, n // 2), n)
    costs, places = segmentations(matrix.values[None], most)
    rng = np.random.default_rng(options.seed)
    orders = np.stack([rng.permutation(n) for _ in range(options.permutations)])
    permuted, _ = segmentations(matrix.values[orders[:, :, None], orders[:, None, :]], most)
    expected = permuted.mean(0)
    gaps, random_gaps = expected - costs[0], expected - permuted
    tolerance = 1e-9 * max(float(costs.max()), 1e-300)
    p = float(((random_gaps.max(1) >= gaps.max() - tolerance).sum() + 1) / (options.permutations + 1))
    errors = permuted.std(0) * np.sqrt(1 + 1 / options.permutations)
    count = options.count or (_fewest(gaps, errors) if p <= 0.05 else 1)
    labels = _labels_of(places[0], count, n)
    listed = {k + 1: float(g) for k, g in enumerate(gaps)}
    about = {"permutations": options.permutations, "seed": options.seed, "count": options.count}
    return Blocks(matrix.names, labels, score_blocks(matrix.values, labels), "contiguous", p, listed, about)


def _fewest(gaps: NDArray[np.float64], errors: NDArray[np.float64]) -> int:
    """The least number whose gain is within a standard error of the largest."""
    most = int(np.argmax(gaps))
    return int(np.argmax(gaps >= gaps[most] - errors[most])) + 1


def spectral_blocks(matrix: DistanceMatrix, count: int, *, seed: int = 0) -> Blocks:
    """`count` groups of nodes, contiguous or not, by spectral clustering of exp(−(M / median)²).

    Raises `DataError` for more groups than nodes or fewer than two.
    """
    from sklearn.cluster import SpectralClustering  # type: ignore[import-untyped]

    _check_count(count, len(matrix))
    if not 2 <= count < len(matrix):
        raise DataError(
            f"spectral clustering makes between 2 and {len(matrix) - 1} groups of {len(matrix)} nodes, not {count}"
        )
    apart = matrix.values[np.triu_indices(len(matrix), 1)]
    median = float(np.median(apart)) or float(apart.mean()) or 1.0
    affinity = np.exp(-((matrix.values / median) ** 2))
    found = SpectralClustering(count, affinity="precomputed", random_state=seed, n_init=20).fit_predict(affinity)
    labels = in_order(found)
    return Blocks(matrix.names, labels, score_blocks(matrix.values, labels), "spectral", settings={"seed": seed})


def _check_count(count: int | None, n: int) -> None:
    if count is not None and not 1 <= count <= n:
        raise DataError(f"{count} blocks of {n} nodes", [f"between 1 and {n}"])


def segmentations(values: NDArray[np.float64], most: int) -> tuple[Matrix, NDArray[np.int64]]:
    """Least cost (P, most) of 1, 2, … contiguous segments of each of P matrices (P, N, N), and where they start.

    `places[p, k, j]` is the start of the last of k + 1 segments of the first j nodes.
    """
    batch, n = values.shape[:2]
    upper = np.triu(values, 1)
    # integral[i, j] sums the pairs whose first node is before i and second before j; those in nodes i … j − 1 remain
    # of all before j when it is taken away.
    integral = np.zeros((batch, n + 1, n + 1))
    integral[:, 1:, 1:] = upper.cumsum(1).cumsum(2)
    corner = integral[:, np.arange(n + 1), np.arange(n + 1)]
    total = corner[:, None, :] - integral
    length = np.arange(n + 1)[None, :] - np.arange(n + 1)[:, None]
    cost = np.where(length > 0, total / np.maximum(length, 1), np.inf)
    best = np.full((batch, most, n + 1), np.inf)
    places = np.zeros((batch, most, n + 1), np.int64)
    best[:, 0, 1:] = cost[:, 0, 1:]
    for k in range(1, most):
        candidates = best[:, k - 1, :, None] + cost
        places[:, k] = candidates.argmin(1)
        best[:, k] = candidates.min(1)
    return best[:, :, n], places


def _labels_of(places: NDArray[np.int64], count: int, n: int) -> Labels:
    labels = np.zeros(n, np.int64)
    end = n
    for k in range(count - 1, 0, -1):
        start = int(places[k, end])
        labels[start:end] = k
        end = start
    return labels


def in_order(labels: NDArray[Any]) -> Labels:
    """The same groups, numbered from 0 in the order they appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def score_blocks(values: Matrix, labels: Labels) -> BlockScore:
    """The scores of any grouping of the nodes of a distance matrix."""
    from sklearn.metrics import silhouette_score  # type: ignore[import-untyped]

    n = len(labels)
    upper = np.triu_indices(n, 1)
    same = labels[upper[0]] == labels[upper[1]]
    apart = values[upper]
    if not 2 <= len(np.unique(labels)) < n or not apart.any():
        return BlockScore(0.0, 0.0, float("nan"), float("nan"))
    between = float(apart[~same].mean())
    within = float(apart[same].mean())
    silhouette = float(silhouette_score(values, labels, metric="precomputed"))
    steps = np.diagonal(values, 1)
    contrast, p = contrast_of(steps, labels)
    return BlockScore(1 - within / between if between > 0 else 0.0, silhouette, contrast, p)


def contrast_of(steps: NDArray[np.floating[Any]], labels: Labels) -> tuple[float, float]:
    """Mean of `steps` (N − 1,) across block boundaries over that inside blocks, and the share of as many boundaries
    placed anywhere that give as high a ratio (all ways, or 10,000 drawn ones)."""
    cut = np.diff(labels) != 0
    many = int(cut.sum())
    total, among = float(steps.sum()), len(steps)
    if not 0 < many < among or total == 0:
        return float("nan"), float("nan")

    def ratio(inside_cut: Any) -> Any:
        rest = (total - inside_cut) / (among - many)
        return np.divide(inside_cut / many, rest, out=np.full(np.shape(rest), np.inf), where=rest > 0)

    found = float(ratio(np.asarray(steps[cut].sum())))
    ways = list(combinations(range(among), many)) if comb(among, many) <= 10_000 else None
    if ways is None:
        rng = np.random.default_rng(0)
        ways = [tuple(rng.choice(among, many, replace=False)) for _ in range(10_000)]
    sums = np.asarray(steps)[np.array(ways)].sum(1)
    return found, float((ratio(sums) >= found * (1 - 1e-12)).mean())
