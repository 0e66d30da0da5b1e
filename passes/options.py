"""Options of the discovery methods, torch-free: the language checks a file against them, the passes are made from them.

Each class is the options of one method and each field one option: its name, default and bounds are the field's, its
meaning is `metadata["doc"]`. `learns` tells methods that learn masks under constraints from those that rank; `masks`
are the parts of a graph they can bound; `own_size`, false where left out, whether with these options the method ends at
a size of its own where nothing is bounded. `METHODS` lists the classes by the name written in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from passes.learned_options import (
    ContinuousSparsificationOptions,
    CsordasOptions,
    DiscogpOptions,
    EdgePruningOptions,
    ImpOptions,
    MatryoshkaOptions,
    SubnetworkProbingOptions,
    UgsOptions,
)
from passes.option import WeightOptions, option


@dataclass(frozen=True)
class EapOptions:
    """Edge attribution patching: the gradient of the metric with respect to each mask, at all masks one.

    One forward and one backward pass over the examples.
    """

    name: ClassVar[str] = "eap"
    learns: ClassVar[bool] = False
    masks: ClassVar[tuple[str, ...]] = ("edges",)

    absolute: bool = option(True, "rank by the absolute score")
    examples: int = option(64, "training examples to average over", minimum=1)
    batch_size: int = option(8, "examples in a batch", minimum=1)
    select: Literal["top", "greedy"] = option("top", "the best edges of all, or grown greedily from the outputs")
    variant: Literal["clean", "clean_corrupted"] = option("clean", "gradient at the clean run, or at both ends")


@dataclass(frozen=True)
class EapIgOptions:
    """Edge attribution patching with integrated gradients: EAP averaged along a path from counterfactual to clean.

    As many forward and backward passes as there are points; times the number of layers for `activations`.
    """

    name: ClassVar[str] = "eap_ig"
    learns: ClassVar[bool] = False
    masks: ClassVar[tuple[str, ...]] = ("edges",)

    absolute: bool = option(True, "rank by the absolute score")
    examples: int = option(64, "training examples to average over", minimum=1)
    batch_size: int = option(8, "examples in a batch", minimum=1)
    steps: int = option(5, "points on the path", minimum=1)
    select: Literal["top", "greedy"] = option("top", "the best edges of all, or grown greedily from the outputs")
    variant: Literal["inputs", "activations"] = option("inputs", "path of the embeddings, or of each writer's value")


@dataclass(frozen=True)
class NapOptions:
    """Node attribution patching: the gradient of the metric with respect to each node's mask, at all masks one.

    One forward and one backward pass over the examples. Inputs and outputs are always kept; edges are those among the
    kept nodes.
    """

    name: ClassVar[str] = "nap"
    learns: ClassVar[bool] = False
    masks: ClassVar[tuple[str, ...]] = ("edges", "nodes")

    absolute: bool = option(True, "rank by the absolute score")
    examples: int = option(64, "training examples to average over", minimum=1)
    batch_size: int = option(8, "examples in a batch", minimum=1)
    variant: Literal["clean", "clean_corrupted"] = option("clean", "gradient at the clean run, or at both ends")


@dataclass(frozen=True)
class NapIgOptions:
    """Node attribution patching with integrated gradients, averaged along a path from counterfactual to clean."""

    name: ClassVar[str] = "nap_ig"
    learns: ClassVar[bool] = False
    masks: ClassVar[tuple[str, ...]] = ("edges", "nodes")

    absolute: bool = option(True, "rank by the absolute score")
    examples: int = option(64, "training examples to average over", minimum=1)
    batch_size: int = option(8, "examples in a batch", minimum=1)
    steps: int = option(5, "points on the path", minimum=1)
    variant: Literal["inputs", "activations"] = option("inputs", "path of the embeddings, or of each node's value")


@dataclass(frozen=True)
class NeuronAttributionOptions:
    """Neuron attribution: the gradient of the metric with respect to a mask on each hidden feature of each MLP.

    Scores neurons of a graph whose MLPs are whole; nodes and edges are all kept. Under a bound the best neurons are
    kept, the others cut out of the weights.
    """

    name: ClassVar[str] = "neuron_attribution"
    learns: ClassVar[bool] = False
    masks: ClassVar[tuple[str, ...]] = ("neurons",)
    own_size: ClassVar[bool] = True

    absolute: bool = option(True, "rank by the absolute score")
    examples: int = option(64, "training examples to average over", minimum=1)
    batch_size: int = option(8, "examples in a batch", minimum=1)
    steps: int = option(1, "points on the path of each MLP's neurons from ablated to clean", minimum=1)


@dataclass(frozen=True)
class AcdcOptions:
    """ACDC: cuts edges one by one, from the output backwards, while the divergence from the model grows by less than τ.

    One run of the later layers for each edge into a node that still matters. The result depends on the order.
    """

    name: ClassVar[str] = "acdc"
    learns: ClassVar[bool] = False
    masks: ClassVar[tuple[str, ...]] = ("edges",)

    tau: float | None = option(
        None, "largest growth of the divergence that cutting an edge may cost; swept to meet the bound when left out",
        above=0,
    )  # fmt: skip
    order: Literal["scores", "index", "reverse", "random"] = option(
        "scores", "order of the edges into one layer: smallest EAP score first, as listed, backwards, shuffled"
    )
    compare_orders: bool = option(False, "run every order and record what each gives")
    examples: int = option(16, "training examples that judge each cut", minimum=1)
    batch_size: int = option(16, "examples in a batch", minimum=1)
    per_decade: int = option(2, "thresholds tried for each power of ten of the sweep", minimum=1)
    refine: int = option(4, "bisections of the sweep once the bound is met", minimum=0)

    @property
    def own_size(self) -> bool:
        """With a threshold."""
        return self.tau is not None


@dataclass(frozen=True)
class ActivationPatchingOptions:
    """Exact activation patching: what the metric loses when one node (or edge) is ablated, by a run for each.

    With `direction: denoising` the other way round: what the counterfactual run gains from the clean value.
    """

    name: ClassVar[str] = "activation_patching"
    learns: ClassVar[bool] = False
    masks: ClassVar[tuple[str, ...]] = ("edges", "nodes")

    level: Literal["node", "edge"] = option("node", "what is patched")
    direction: Literal["noising", "denoising"] = option("noising", "ablate in the clean run, or restore in the other")
    absolute: bool = option(True, "rank by the absolute score")
    examples: int = option(16, "training examples to average over", minimum=1)
    batch_size: int = option(16, "examples in a batch", minimum=1)
    max_runs: int = option(20_000, "refuse to make more runs than this", minimum=1)
    select: Literal["top", "greedy"] = option("top", "edges: the best of all, or grown greedily from the outputs")


@dataclass(frozen=True)
class IfrOptions:
    """Information-flow routes: how much of what each port reads its writers made, in one forward pass.

    Needs no counterfactual and no metric.
    """

    name: ClassVar[str] = "ifr"
    learns: ClassVar[bool] = False
    masks: ClassVar[tuple[str, ...]] = ("edges",)

    examples: int = option(64, "training examples to average over", minimum=1)
    batch_size: int = option(8, "examples in a batch", minimum=1)
    select: Literal["top", "greedy"] = option("greedy", "the best edges of all, or grown greedily from the outputs")


@dataclass(frozen=True)
class MagnitudeOptions(WeightOptions):
    """Baseline: the largest weights, or the edges that carry the largest difference, whatever it does to the task."""

    name: ClassVar[str] = "magnitude"
    learns: ClassVar[bool] = False
    masks: ClassVar[tuple[str, ...]] = ("edges", "weights")

    per_layer: bool = option(False, "keep the same share of each layer (of each matrix, for weights)")
    examples: int = option(64, "training examples to average over", minimum=1)
    batch_size: int = option(8, "examples in a batch", minimum=1)


@dataclass(frozen=True)
class RandomOptions(WeightOptions):
    """Baseline: edges, nodes or weights drawn at random by the seed."""

    name: ClassVar[str] = "random"
    learns: ClassVar[bool] = False
    masks: ClassVar[tuple[str, ...]] = ("edges", "nodes", "weights")

    per_layer: bool = option(False, "keep the same share of each layer (of each matrix, for weights)")
    draw: int = option(0, "which random circuit; added to the seed", minimum=0)


@dataclass(frozen=True)
class StructuredOptions:
    """Structured pruning: the channels, neurons and heads of least magnitude go, coupled ones together.

    No data is needed. `shrink` makes a smaller module of what is left.
    """

    name: ClassVar[str] = "structured"
    learns: ClassVar[bool] = False
    masks: ClassVar[tuple[str, ...]] = ("nodes",)
    own_size: ClassVar[bool] = True

    ratio: float = option(0.5, "share of every layer's units that goes", minimum=0, maximum=0.99, unit="fraction")
    order: Literal[1, 2] = option(2, "a unit's magnitude is the sum of its weights' absolute values to this power")


_LEARNED = (
    DiscogpOptions, SubnetworkProbingOptions, ContinuousSparsificationOptions, UgsOptions, MatryoshkaOptions,
    CsordasOptions, ImpOptions,
)  # fmt: skip
_SCORES_AND_SEARCHES = (
    NapOptions, NapIgOptions, NeuronAttributionOptions, ActivationPatchingOptions, AcdcOptions, IfrOptions,
    MagnitudeOptions, RandomOptions, StructuredOptions,
)  # fmt: skip
METHODS: Mapping[str, type[Any]] = {
    options.name: options
    for options in (EapOptions, EapIgOptions, EdgePruningOptions, *_LEARNED, *_SCORES_AND_SEARCHES)
}
"""Discovery methods by the name written in a file."""
