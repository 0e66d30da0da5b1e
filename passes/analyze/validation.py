"""What blocks are worth: linear read-out accuracy along the nodes and lesions, within blocks and across boundaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.errors import DataError
from passes.analyze.blocks import Blocks, contrast_of
from passes.analyze.lesions import Lesions
from passes.analyze.representations import Representations


@dataclass(frozen=True, eq=False)
class BlockValidation:
    """A quantity along the nodes, and whether it changes at block boundaries.

    `values` (N,) is the quantity; `by_block` its mean in each block; `contrast` the mean change between neighbors
    across a boundary over that inside a block, `p` the share of ways to place as many boundaries with a contrast as
    high.
    """

    what: str
    values: NDArray[np.float64]
    by_block: tuple[float, ...]
    contrast: float
    p: float


def readout_accuracy(
    representations: Representations, labels: NDArray[Any], *, folds: int = 5, penalty: float = 1.0, seed: int = 0
) -> NDArray[np.float64]:
    """Cross-validated accuracy (N,) of a linear read-out of `labels` (n,) from each node.

    Ridge regression to ±1 targets on standardized features, in closed form; folds are stratified. Raises `DataError`
    where a class has fewer samples than folds, or there is one class only.
    """
    from sklearn.linear_model import RidgeClassifier  # type: ignore[import-untyped]
    from sklearn.model_selection import StratifiedKFold, cross_val_score  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    labels = np.asarray(labels)
    if len(labels) != representations.samples:
        raise DataError(f"{len(labels)} labels for {representations.samples} samples")
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or counts.min() < folds:
        raise DataError(
            f"a read-out needs two classes with at least {folds} samples each, the smallest of {len(classes)} has "
            f"{counts.min()}",
            ["more samples", "fewer folds"],
        )
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    found = []
    for array in representations.arrays:
        model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=penalty * array.shape[1]))
        found.append(cross_val_score(model, np.asarray(array, np.float64), labels, cv=splits).mean())
    return np.array(found)


def validate_by_readout(
    blocks: Blocks, representations: Representations, labels: NDArray[Any], *, folds: int = 5, seed: int = 0
) -> BlockValidation:
    """Read-out accuracy of `labels` along the nodes of `blocks`.

    `labels` are (n,), or (n, Q) for Q questions at once: `values` and the changes along the nodes are then means over
    the questions. What a block begins to hold one question may not ask, and one that every node answers says nothing.
    """
    chosen = representations.select(blocks.names)
    questions = np.asarray(labels) if np.ndim(labels) == 2 else np.asarray(labels)[:, None]
    found = np.stack([readout_accuracy(chosen, answers, folds=folds, seed=seed) for answers in questions.T])
    return along(blocks, found.mean(0), "read-out accuracy", changes=np.abs(np.diff(found, axis=1)).mean(0))


def validate_by_lesion(blocks: Blocks, lesions: Lesions, groups: Mapping[str, Sequence[str]]) -> BlockValidation:
    """KL to the intact model when each node's layer alone is ablated; `groups` are the nodes to ablate by layer."""
    missing = [name for name in blocks.names if name not in groups]
    if missing:
        raise DataError(f"no nodes to ablate for `{missing[0]}`", ["`layer_groups(program)`"])
    return along(blocks, np.array([lesions.effect(groups[name]).kl for name in blocks.names]), "lesion kl")


@dataclass(frozen=True)
class BlockLesion:
    """The KL of ablating a whole block, and of ablating each other run of as many consecutive layers."""

    block: int
    layers: int
    kl: float
    others: tuple[float, ...]

    @property
    def rank(self) -> float:
        """The share of the other runs that do at least as much."""
        return float(np.mean([other >= self.kl for other in self.others])) if self.others else float("nan")


def lesion_blocks(blocks: Blocks, lesions: Lesions, groups: Mapping[str, Sequence[str]]) -> tuple[BlockLesion, ...]:
    """Each contiguous block ablated whole, against all other runs of as many layers (those that straddle blocks)."""
    known: dict[tuple[int, int], float] = {}

    def kl(start: int, size: int) -> float:
        if (start, size) not in known:
            run = [node for name in blocks.names[start : start + size] for node in groups[name]]
            known[start, size] = lesions.effect(run).kl
        return known[start, size]

    found = []
    edges = [0, *blocks.boundaries, len(blocks.names)]
    for number, (start, stop) in enumerate(pairwise(edges)):
        size = stop - start
        others = [kl(s, size) for s in range(len(blocks.names) - size + 1) if s != start]
        found.append(BlockLesion(number, size, kl(start, size), tuple(others)))
    return tuple(found)


def along(
    blocks: Blocks, values: NDArray[np.float64], what: str, *, changes: NDArray[np.float64] | None = None
) -> BlockValidation:
    """How a quantity along the nodes changes within and across blocks; `changes` (N − 1,) are |Δ values| by default."""
    contrast, p = contrast_of(np.abs(np.diff(values)) if changes is None else changes, blocks.labels)
    by_block = tuple(float(values[blocks.labels == b].mean()) for b in range(blocks.count))
    return BlockValidation(what, values, by_block, contrast, p)
