"""The same analysis over time: checkpoints of one training, or sparsities of one model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graphir.errors import DataError
from graphir.run.program import MaskedProgram
from graphir.tracing.exported import Example
from passes.analysis_options import BlocksOptions
from passes.analyze.blocks import Blocks, find_blocks
from passes.analyze.distances.base import Distance, DistanceMatrix
from passes.analyze.representations import Pooling, Representations, collect_representations
from passes.analyze.stability import agreement


@dataclass(frozen=True, eq=False)
class Dynamics:
    """One distance matrix and its blocks a step, and how far each node moved.

    `steps` (T) are training steps or sparsities, in order. `from_before` (T − 1, N) and `from_first`, `to_last` (T, N)
    are distances of a node to itself at another step, on the same samples, by the same distance. `agreement` (T − 1)
    is the adjusted Rand index of the blocks of consecutive steps; `mean` (T) the mean distance between nodes.
    """

    names: tuple[str, ...]
    steps: tuple[float, ...]
    matrices: tuple[DistanceMatrix, ...]
    blocks: tuple[Blocks, ...]
    from_before: NDArray[np.float64]
    from_first: NDArray[np.float64]
    to_last: NDArray[np.float64]
    agreement: NDArray[np.float64]
    mean: NDArray[np.float64]


def collect_steps(
    programs: Iterable[tuple[float, MaskedProgram]],
    batches: Sequence[Example],
    nodes: Sequence[str] | None = None,
    *,
    pooling: Pooling = "last",
    samples: int | None = None,
) -> dict[float, Representations]:
    """Representations at each step, one program at a time: `programs` may load checkpoints as it goes."""
    return {
        step: collect_representations(program, batches, nodes, pooling=pooling, samples=samples)
        for step, program in programs
    }


def collect_sparsities(
    program: MaskedProgram,
    weights: Mapping[float, Mapping[str, Tensor]],
    batches: Sequence[Example],
    nodes: Sequence[str] | None = None,
    *,
    pooling: Pooling = "last",
    samples: int | None = None,
) -> dict[float, Representations]:
    """Representations of one model at each sparsity: `weights` are its weight masks (parameter name to mask) by it."""
    return {
        sparsity: collect_representations(program, batches, nodes, pooling=pooling, samples=samples, weights=masks)
        for sparsity, masks in weights.items()
    }


def follow(
    distance: Distance,
    by_step: Mapping[float, Representations],
    options: BlocksOptions | None = None,
    *,
    known: Mapping[float, DistanceMatrix] | None = None,
) -> Dynamics:
    """Matrices, blocks and drift over steps; `known` are matrices of steps that need not be computed. Raises
    `DataError` for fewer than two steps, or steps that differ in nodes or in the number of samples."""
    steps = sorted(by_step)
    if len(steps) < 2:
        raise DataError("dynamics need at least two steps")
    first = by_step[steps[0]]
    for step in steps:
        if by_step[step].names != first.names or by_step[step].samples != first.samples:
            raise DataError(
                f"step {step:g} has other nodes or another number of samples than step {steps[0]:g}",
                ["collect every step with the same nodes, on the same data"],
            )
    matrices = tuple((known or {}).get(step) or distance.matrix(by_step[step]) for step in steps)
    blocks = tuple(find_blocks(matrix, options) for matrix in matrices)
    drift = np.zeros((len(steps) - 1, len(first)))
    whole = np.zeros((len(first), len(steps), len(steps)))
    for node, name in enumerate(first.names):
        arrays = tuple(by_step[step][name] for step in steps)
        labels = tuple(f"{name}@{step:g}" for step in steps)
        whole[node] = distance.matrix(Representations(labels, arrays)).values
        drift[:, node] = np.diagonal(whole[node], 1)
    agreed = np.array([agreement(a.labels, b.labels) for a, b in pairwise(blocks)])
    upper = np.triu_indices(len(first), 1)
    return Dynamics(
        first.names, tuple(steps), matrices, blocks, drift, whole[:, 0, :].T, whole[:, -1, :].T, agreed,
        np.array([m.values[upper].mean() for m in matrices]),
    )  # fmt: skip
