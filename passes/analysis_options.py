"""Options of the analyses, torch-free: distances between what nodes represent, and what is made of them.

The same pattern as `passes.options`: each class is the options of one distance or analysis and each field one option,
with its meaning in `metadata["doc"]`. The classes in `passes.analyze` inherit them. `DISTANCES` and `ANALYSES` list
them by the name written in a file; `passes.analyze.registry` finds the classes that compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar, Literal

from passes.option import option


@dataclass(frozen=True)
class DistanceOptions:
    """What every distance has: an interval from subsamples of the examples, where it is asked for."""

    name: ClassVar[str]
    metric: ClassVar[bool] = False
    """Whether it satisfies the metric axioms (up to the invariance it has) as its defaults stand."""

    subsamples: int = option(0, "subsamples for an interval around each distance; 0 for none", minimum=0)
    level: float = option(0.9, "level of that interval", above=0, maximum=0.999, unit="fraction")
    seed: int = option(0, "seed of whatever is drawn", minimum=0)


@dataclass(frozen=True)
class GromovWassersteinOptions(DistanceOptions):
    """Gromov-Wasserstein: how far the distances between examples in one node are from those in another.

    Needs no common space and no pairing of the examples. The problem is not convex: values are the best of several
    starts, an upper bound, beside a lower bound (Mémoli 2011).
    """

    name: ClassVar[str] = "gromov_wasserstein"
    metric: ClassVar[bool] = True

    solver: Literal["exact", "entropic", "low_rank", "sampled"] = option(
        "exact", "exact (conditional gradient), or for many examples: entropic, low_rank, sampled"
    )
    scale: Literal["mean", "median", "max", "none"] = option("mean", "what a node's distances are divided by")
    random_starts: int = option(
        0, "random permutations to start from, besides uniform, identity and the bound's coupling", minimum=0
    )
    largest: int = option(1500, "most examples the exact solver takes", minimum=2)
    epsilon: float = option(0.05, "entropic regularization, in units of the squared scale", above=0)
    rank: int = option(20, "rank of the coupling of the low_rank solver", minimum=1)
    sample: int = option(200, "examples in a draw of the sampled solver", minimum=2)
    draws: int = option(8, "draws of the sampled solver", minimum=2)


@dataclass(frozen=True)
class FusedGromovWassersteinOptions(DistanceOptions):
    """Fused Gromov-Wasserstein: the same with a cost for matching an example to another one (Vayer et al. 2019)."""

    name: ClassVar[str] = "fused_gromov_wasserstein"

    alpha: float = option(0.5, "share of the structure term, the rest is the cost of matching", minimum=0, maximum=1)
    cost: Literal["paired", "features"] = option(
        "paired", "paired: the mean of both nodes' distances; features: between the nodes' values (equal widths)"
    )
    scale: Literal["mean", "median", "max", "none"] = option("mean", "what a node's distances are divided by")
    largest: int = option(1500, "most examples it takes", minimum=2)


@dataclass(frozen=True)
class WassersteinOptions(DistanceOptions):
    """Wasserstein distance between the clouds of examples; nodes of one width."""

    name: ClassVar[str] = "wasserstein"
    metric: ClassVar[bool] = True

    order: Literal[1, 2] = option(2, "order of the distance")
    solver: Literal["exact", "sliced"] = option("exact", "exact, or for many examples: sliced")
    projections: int = option(200, "directions of the sliced solver", minimum=1)
    largest: int = option(4000, "most examples the exact solver takes", minimum=2)


@dataclass(frozen=True)
class CkaOptions(DistanceOptions):
    """Centered kernel alignment: 1 − CKA, or its angle, which is a metric for the biased estimator."""

    name: ClassVar[str] = "cka"

    kernel: Literal["linear", "rbf"] = option("linear", "kernel between examples")
    bandwidth: float = option(1.0, "width of the rbf kernel, in median distances", above=0)
    unbiased: bool = option(True, "the unbiased estimator of HSIC (Song et al. 2012)")
    batch: int = option(0, "examples in a minibatch over which HSIC is averaged; 0 for all at once", minimum=0)
    angle: bool = option(False, "the angle arccos(CKA) instead of 1 − CKA")


@dataclass(frozen=True)
class CcaOptions(DistanceOptions):
    """Canonical correlation analysis: 1 − mean canonical correlation."""

    name: ClassVar[str] = "cca"

    keep: float = option(
        1.0, "share of the variance kept before, by principal components", above=0, maximum=1, unit="fraction"
    )


@dataclass(frozen=True)
class SvccaOptions(CcaOptions):
    """SVCCA: canonical correlations of the principal components that carry most of the variance."""

    name: ClassVar[str] = "svcca"

    keep: float = option(0.99, "share of the variance kept before", above=0, maximum=1, unit="fraction")


@dataclass(frozen=True)
class PwccaOptions(CcaOptions):
    """PWCCA: canonical correlations weighted by how much of the node they account for, both ways averaged."""

    name: ClassVar[str] = "pwcca"


@dataclass(frozen=True)
class RsaOptions(DistanceOptions):
    """Representational similarity analysis: 1 − correlation of the dissimilarities between examples."""

    name: ClassVar[str] = "rsa"

    dissimilarity: Literal["correlation", "euclidean"] = option("correlation", "between two examples in a node")
    compare_by: Literal["spearman", "pearson"] = option("spearman", "between the dissimilarities of two nodes")


@dataclass(frozen=True)
class ProcrustesOptions(DistanceOptions):
    """Orthogonal Procrustes: what is left of the difference after the best rotation, of centered, scaled nodes."""

    name: ClassVar[str] = "procrustes"
    metric: ClassVar[bool] = True


@dataclass(frozen=True)
class CosineOptions(DistanceOptions):
    """1 − cosine between an example's values in two nodes of one width, averaged over the examples."""

    name: ClassVar[str] = "cosine"


@dataclass(frozen=True)
class EuclideanOptions(DistanceOptions):
    """Root mean square distance between an example's values in two nodes of one width."""

    name: ClassVar[str] = "euclidean"
    metric: ClassVar[bool] = True


@dataclass(frozen=True)
class KnnOptions(DistanceOptions):
    """1 − overlap (Jaccard) of each example's nearest neighbors in two nodes, averaged over the examples."""

    name: ClassVar[str] = "knn"
    metric: ClassVar[bool] = True

    neighbors: int = option(10, "neighbors of an example", minimum=1)


@dataclass(frozen=True)
class BlocksOptions:
    """Blocks of consecutive nodes from a distance matrix, their number chosen against permuted orders."""

    name: ClassVar[str] = "blocks"

    count: int | None = option(None, "number of blocks; chosen against permuted orders when left out", minimum=1)
    largest: int | None = option(None, "most blocks to consider; half the nodes when left out", minimum=1)
    permutations: int = option(200, "permuted orders", minimum=19)
    seed: int = option(0, "seed of the permutations", minimum=0)
    method: Literal["contiguous", "spectral"] = option(
        "contiguous", "runs of consecutive nodes, or spectral clustering of them (needs `count`)"
    )
    replicates: int = option(0, "subsamples of the data on which they are found again; 0 for none", minimum=0)
    share: float = option(0.8, "share of the samples in a subsample", above=0, maximum=1, unit="fraction")
    validate: tuple[Literal["lesion", "readout"], ...] = option(
        (), "what is measured along the nodes: lesions of each, or read-outs of the answers of a task"
    )


@dataclass(frozen=True)
class ClusterOptions:
    """Clusters of units by spectral n-cut of a graph of weights or of activations, against shuffled networks."""

    name: ClassVar[str] = "cluster"

    k: int = option(12, "number of clusters", minimum=2)
    graph: Literal["weights", "activations"] = option("weights", "what an edge between two units is")
    shuffles: int = option(50, "shuffled networks to compare with; 0 for none", minimum=0)
    shuffle: Literal["all", "nonzero"] = option("all", "what is permuted in a layer: all weights, or those not zero")
    balance: bool = option(False, "balance each unit's incoming and outgoing weights: invariant to rescaling units")
    fold_norms: bool = option(True, "fold batch norms into the weights before them")
    disconnected: Literal["keep", "largest"] = option(
        "keep", "of a graph in several pieces: keep all of them, or cluster the largest"
    )
    starts: int = option(25, "starts of k-means", minimum=1)
    seed: int = option(0, "seed of shuffles and starts", minimum=0)


@dataclass(frozen=True)
class LesionOptions:
    """What ablating groups of units does, against random groups of equal size."""

    name: ClassVar[str] = "lesion"

    random_groups: int = option(19, "random groups for each group", minimum=1)
    ablation: Literal["zero", "mean"] = option("zero", "what stands in for an ablated unit")
    smallest: int = option(2, "least units in a group", minimum=1)
    seed: int = option(0, "seed of the random groups", minimum=0)


@dataclass(frozen=True)
class HierarchyOptions:
    """A tree of hidden units by what they take from the inputs and give to the outputs (Watanabe 2019)."""

    name: ClassVar[str] = "hierarchy"

    by: Literal["signed", "magnitude"] = option(
        "signed", "correlations with their signs, or their magnitudes: for modules whose single weights differ in sign"
    )
    align: Literal["auto", "yes", "no"] = option(
        "auto", "flip signs of units; auto: where the activation is odd, and features are signed"
    )
    k: int | None = option(None, "modules to cut the tree into; the tree alone when left out", minimum=1)
    height: float | None = option(None, "height to cut the tree at, in place of `k`", minimum=0)


@dataclass(frozen=True)
class CommunitiesOptions:
    """Communities, centralities, motifs and dominators of a circuit's graph."""

    name: ClassVar[str] = "communities"

    resolution: float = option(1.0, "resolution of the modularity: larger for smaller communities", above=0)
    weighted: bool = option(True, "weigh edges by their score where the circuit has scores")
    random_graphs: int = option(100, "random graphs of equal degrees that motifs are compared with", minimum=0)
    seed: int = option(0, "seed of whatever is drawn", minimum=0)


@dataclass(frozen=True)
class DriftOptions:
    """How far units move, and whether their blocks stay, over checkpoints of a training or sparsities of a model."""

    name: ClassVar[str] = "drift"

    steps: tuple[float, ...] = option(
        (), "a number for each analysis, for example of training steps; 0, 1, 2 … when left out"
    )
    count: int | None = option(
        None, "number of blocks of each step; chosen against permuted orders when left out", minimum=1
    )
    permutations: int = option(200, "permuted orders", minimum=19)
    seed: int = option(0, "seed of the permutations", minimum=0)


DISTANCES: Mapping[str, type[Any]] = {
    options.name: options
    for options in (
        GromovWassersteinOptions, FusedGromovWassersteinOptions, WassersteinOptions, CkaOptions, CcaOptions,
        SvccaOptions, PwccaOptions, RsaOptions, ProcrustesOptions, CosineOptions, EuclideanOptions, KnnOptions,
    )
}  # fmt: skip
"""Distances by the name written in a file."""

ANALYSES: Mapping[str, type[Any]] = {
    options.name: options
    for options in (
        BlocksOptions, ClusterOptions, LesionOptions, HierarchyOptions, CommunitiesOptions, DriftOptions,
    )
}  # fmt: skip
"""Analyses by the name written in a file."""


def analysis_fields(name: str) -> tuple[Field[Any], ...]:
    """The options of a distance or analysis, in order."""
    return fields({**DISTANCES, **ANALYSES}[name])
