"""Hierarchical modules of hidden units by what they take from the inputs and give to the outputs (Watanabe 2019).

A unit's features are the Pearson correlations of its activation with each input and with each output over the data,
signed. For an odd activation (tanh, sigmoid about one half, none) a unit and its negative are equivalent, so their
signs are aligned: units are flipped while the sum of cosines to all others is negative. ReLU units are not equivalent
to their negatives and are never flipped. Ward's linkage on the features gives a tree, which may be cut anywhere.

Units of one module whose weights have signs of their own, one for each weight, share no signed features and no flip of
whole units brings them together; what they share is which inputs and outputs they go with. `magnitude` features, the
correlations' absolute values, which flips do not change, show that (they are ours, not the paper's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from graphir.errors import DataError
from graphir.run.layer_program import LayerProgram
from graphir.run.program import MaskedProgram
from passes.analysis_options import HierarchyOptions
from passes.analyze.blocks import in_order
from passes.analyze.representations import FEWEST

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """A tree of units.

    `features` (U, D + C) are aligned correlations with inputs and outputs, or their magnitudes, `signs` (U,) what the
    alignment multiplied a unit by, `tree` (U − 1, 4) scipy's linkage. `constant` are units that never change: their
    correlations count as zero, and they end up together.
    """

    names: tuple[str, ...]
    features: Array
    signs: Array
    tree: Array
    inputs: int
    constant: tuple[str, ...] = ()

    def cut(self, count: int | None = None, *, height: float | None = None) -> NDArray[np.int64]:
        """Modules (U,) by number or at a height of the tree, numbered in the order they appear.

        Raises `DataError` for more modules than units, or where neither or both are given.
        """
        if count is not None and height is None:
            if not 1 <= count <= len(self.names):
                raise DataError(f"{count} modules of {len(self.names)} units", [f"between 1 and {len(self.names)}"])
            # Not by `maxclust`, which gives fewer where merges are of equal height.
            return in_order(_cut_tree(self.tree, count))
        if height is None or count is not None:
            raise DataError("a tree is cut by `count` or at a `height`")
        return in_order(fcluster(self.tree, height, criterion="distance"))

    def cut_height(self, count: int) -> float | None:
        """A height at which the tree falls into so many modules; None for one, or for the units themselves."""
        last = len(self.tree) - count
        return None if count < 2 or last < 0 else float(self.tree[last : last + 2, 2].mean())

    def representatives(self, labels: NDArray[np.int64]) -> Array:
        """The mean features of each module (modules, D + C), the first `inputs` of them with the inputs."""
        return np.stack([self.features[labels == c].mean(0) for c in range(int(labels.max()) + 1)])


def _cut_tree(tree: Array, count: int) -> NDArray[np.int64]:
    """The clusters that stand after all but the last count − 1 merges."""
    n = len(tree) + 1
    parent = np.arange(2 * n - 1)
    for i in range(n - count):
        parent[[int(tree[i, 0]), int(tree[i, 1])]] = n + i
    roots = np.arange(n)
    while (parent[roots] != roots).any():
        roots = parent[roots]
    return roots.astype(np.int64)


def unit_features(units: NDArray[Any], inputs: NDArray[Any], outputs: NDArray[Any]) -> Array:
    """Pearson correlations (U, D + C) of units (n, U) with inputs (n, D) and outputs (n, C); zero with a constant."""
    if not len(units) == len(inputs) == len(outputs):
        raise DataError(f"unequal sample counts: {len(units)}, {len(inputs)} and {len(outputs)}")
    if len(units) < FEWEST:
        raise DataError(f"{len(units)} samples are too few for correlations: at least {FEWEST}")
    if not all(np.isfinite(a).all() for a in (units, inputs, outputs)):
        raise DataError("activations are not finite", ["try float32 weights"])
    left, right = _standard(units), np.concatenate([_standard(inputs), _standard(outputs)], axis=1)
    found: Array = left.T @ right
    return found


def _standard(array: NDArray[Any]) -> Array:
    values = np.asarray(array, np.float64)
    values = values - values.mean(0)
    norms = np.linalg.norm(values, axis=0)
    still = norms <= 1e-12 * max(float(norms.max(initial=0.0)), 1e-300)
    found: Array = np.divide(values, norms, out=np.zeros_like(values), where=~still)
    return found


def align_signs(features: Array) -> Array:
    """Signs (U,) after which no unit's cosines with all others sum to below zero. Each flip raises the sum over all
    pairs, so it ends."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, norms, out=np.zeros_like(features), where=norms > 0)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, 0.0)
    signs = np.ones(len(features))
    while True:
        pull = signs * (cosines @ signs)
        worst = int(np.argmin(pull))
        if pull[worst] >= -1e-12:
            return signs
        signs[worst] = -signs[worst]


def find_hierarchy(
    units: NDArray[Any],
    inputs: NDArray[Any],
    outputs: NDArray[Any],
    names: Sequence[str],
    *,
    odd: bool,
    by: Literal["signed", "magnitude"] = "signed",
) -> Hierarchy:
    """The tree of units (n, U) by their features; `odd` aligns signs, which magnitudes do not have."""
    if units.ndim != 2 or units.shape[1] != len(names) or len(names) < 2:
        raise DataError(f"a tree needs at least two units with a name each: {units.shape} and {len(names)} names")
    features = unit_features(units, inputs, outputs)
    signs = align_signs(features) if odd and by == "signed" else np.ones(len(features))
    aligned = np.abs(features) if by == "magnitude" else features * signs[:, None]
    constant = tuple(n for n, f in zip(names, features, strict=True) if not f.any())
    return Hierarchy(tuple(names), aligned, signs, linkage(aligned, method="ward"), inputs.shape[1], constant)


def is_odd(program: MaskedProgram, layer: str) -> bool:
    """Whether a layer's activation is odd up to a constant, f(x) + f(−x) = 2 f(0), tried on numbers; so nothing goes by
    its name. False for models with residual streams, and for layers fed by more than one product."""
    if not isinstance(program, LayerProgram):
        return False
    plan = next((p for p in program.plans if p.layer.name == layer), None)
    if plan is None or plan.piece is None or len(plan.feeds) != 1 or plan.feeds[0].feed.product is None:
        return False
    with torch.no_grad():
        env = program.prologue(program.bind(program.graph.lifted.example))
        product, shape = plan.feeds[0].feed.product, None
        for earlier in program.plans:
            if earlier.piece is None:
                continue
            made = {f.feed.product or f.feed.value: f.product(f.read(env), env) if f.feed.product else env[f.feed.value]
                    for f in earlier.feeds}  # fmt: skip
            if earlier is plan:
                shape = made[product].shape
                break
            env[earlier.layer.value] = earlier.combine(made, env)
        assert shape is not None
        x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(program.device, program.dtype)
        there, back, zero = (plan.combine({product: v}, env) for v in (x, -x, torch.zeros_like(x)))
    return bool(torch.allclose(there + back, 2 * zero, atol=1e-5))


def should_align(options: HierarchyOptions, program: MaskedProgram, layers: Sequence[str]) -> bool:
    """What `align` says, `auto` where the activations of all these layers are odd; magnitudes have no signs."""
    if options.by == "magnitude":
        return False
    if options.align != "auto":
        return options.align == "yes"
    return all(is_odd(program, layer) for layer in layers)
