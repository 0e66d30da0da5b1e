"""Options of the methods that learn: masks under a constraint, and tickets. Torch-free; see `passes.options`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from passes.option import WeightOptions, option


@dataclass(frozen=True)
class EdgePruningOptions:
    """Edge Pruning: hard-concrete masks on edges (and nodes), learned by gradient descent under constraints."""

    name: ClassVar[str] = "edge_pruning"
    learns: ClassVar[bool] = True
    masks: ClassVar[tuple[str, ...]] = ("edges", "nodes")

    steps: int = option(300, "optimizer steps", minimum=1)
    batch_size: int = option(8, "examples in a step", minimum=1)
    learning_rate: float | None = option(
        None,
        "learning rate of the masks; 0.2 when left out, or 15 / steps if that is less and masks start all on",
        above=0,
    )
    lambda_learning_rate: float = option(0.2, "how fast the Lagrange multipliers move towards the target", above=0)
    target: float | None = option(
        None,
        "sparsity the multipliers aim at; follows from the constraint when left out",
        minimum=0,
        maximum=1.2,
        unit="fraction",
    )
    warmup: int | None = option(
        None,
        "steps over which the target rises; 0 when left out, and a third of `steps` for masks that start all on",
        minimum=0,
    )
    start: float | None = option(
        None,
        "density of the starting masks, from which the target rises; twice the target's when left out, and 1 of masks "
        "that start all on",
        above=0,
        maximum=1,
        unit="fraction",
    )
    decay: float = option(
        1.0, "share of the steps, at the end, over which the learning rate falls to 0", above=0, maximum=1,
        unit="fraction",
    )  # fmt: skip
    hard_steps: int = option(
        0,
        "further steps on the hard masks themselves, at the learning rate falling to 0 once more",
        minimum=0,
    )
    initial: Literal["eap", "ones"] = option(
        "eap",
        "starting masks: percentiles of EAP scores (where fewer edges have one than are to be kept, all on), or all on",
    )
    seeds: tuple[int, ...] = option((0,), "one run for each seed; the best on validation data is kept", minimum=0)
    node_masks: bool = option(False, "learn a mask for each node as well")
    schedule: Literal["linear", "log"] = option("linear", "how the target rises over the warm-up")
    control: Literal["lagrangian", "projection"] = option(
        "lagrangian", "push towards the target by multipliers, or shift all masks so that they are there at each step"
    )
    precision: Literal["model", "bfloat16", "auto"] = option(
        "model", "what masks are learned in: the model's own, a bfloat16 copy of it, or that where the device has "
        "instructions for it (about twice as fast); measures are always in the model's own"
    )  # fmt: skip

    @property
    def total_steps(self) -> int:
        """With those on hard masks."""
        return self.steps + self.hard_steps

    @property
    def own_size(self) -> bool:
        """With a target."""
        return self.target is not None


@dataclass(frozen=True)
class DiscogpOptions(WeightOptions):
    """DiscoGP: a sheaf, that is masks on weights and edges (or neurons and nodes) that do the task, learned together.

    What is left out is trained to know nothing of the answer. Densities are those of the constraints, or where λ leads.
    """

    name: ClassVar[str] = "discogp"
    learns: ClassVar[bool] = True
    masks: ClassVar[tuple[str, ...]] = ("edges", "nodes", "weights", "neurons")

    steps: int = option(400, "optimizer steps", minimum=1)
    hard_steps: int | None = option(
        None,
        "further steps on the hard masks themselves, at the learning rate falling to 0 once more; of a sequence, after "
        "each part; an eighth of `steps` when left out, under `control: ramp` none",
        minimum=0,
    )
    batch_size: int = option(8, "examples in a step", minimum=1)
    parts: Literal[
        "weights edges", "weights", "neurons", "nodes", "edges", "weights neurons", "weights nodes", "neurons nodes",
        "neurons edges", "nodes edges", "weights neurons nodes", "weights neurons edges", "weights nodes edges",
        "neurons nodes edges", "weights neurons nodes edges",
    ] = option("weights edges", "what is masked, in any mixture")  # fmt: skip
    order: Literal["joint", "weights_edges", "edges_weights", "alternating"] = option(
        "joint", "weights (and neurons) and edges (and nodes) in one step, one after the other, or by turns"
    )
    first: float = option(0.6, "sequential orders: share of the steps that goes to the first", above=0, maximum=0.99,
                          unit="fraction")  # fmt: skip
    turn: int = option(10, "alternating order: steps of a turn", minimum=1)
    faithfulness: Literal["kl", "two_logit", "answers", "cross_entropy", "logit_diff"] = option(
        "kl",
        "divergence from the model over the whole vocabulary; cross-entropy between answer and distractor, among all "
        "answers, or over the vocabulary; or minus the logit difference",
    )
    completeness: float = option(1.0, "weight of the complement's loss; 0 leaves it out", minimum=0)
    completeness_from: float = option(
        0.3, "share of the steps after which the complement is trained", minimum=0, maximum=1, unit="fraction"
    )
    completeness_every: int = option(2, "train the complement in every so many steps", minimum=1)
    control: Literal["lagrangian", "projection", "ramp"] = option(
        "lagrangian", "push to the constraints by multipliers, shift all masks there, or the published ramp of λ"
    )
    warmup: float = option(
        0.5, "share of the steps over which targets fall, or λ rises", minimum=0, maximum=1, unit="fraction"
    )
    schedule: Literal["linear", "log"] = option("log", "how the targets fall over the warm-up")
    lambda_learning_rate: float = option(0.2, "how fast the multipliers move towards the targets", above=0)
    sparsity_weight: float = option(1.0, "λ of the ramp at its start", minimum=0)
    ramp_highest: float = option(100.0, "λ of the ramp at its height, as a multiple", minimum=1)
    ramp_lowest: float = option(1.0, "λ of the ramp at its end, as a multiple", minimum=0)
    cooldown: float = option(0.25, "share of the steps over which λ falls", minimum=0, maximum=1, unit="fraction")
    learning_rate: float | None = option(
        None,
        "learning rate of masks on edges, nodes and neurons; when left out 25 / steps of those that start at ranks, "
        "8 / steps of others, under `control: ramp` 0.2",
        above=0,
    )
    weight_learning_rate: float | None = option(
        None,
        "learning rate of masks on weights; when left out 25 / steps if they start at ranks, else 6 / steps, under "
        "`control: ramp` 0.1",
        above=0,
    )
    gradient_floor: float = option(
        0.3, "gradients on weights below this multiple of their mean move masks in proportion, not at the full rate",
        minimum=0,
    )  # fmt: skip
    small_masks: Literal["hard_concrete", "gumbel"] = option(
        "hard_concrete", "masks on edges, nodes and neurons: stretched and soft, or zero and one"
    )
    temperature: float = option(1.0, "of Gumbel-sigmoid masks", above=0)
    estimator: Literal["mean", "sample"] = option(
        "mean", "gradient of masks of zeros and ones: what it is on average, or that of the drawn soft mask"
    )
    sharpen: float = option(1.0, "how much less noise masks of zeros and ones have at the end than at first", minimum=1)
    initial: Literal["attribution", "ones"] = option("attribution", "starting masks: ranks of attributions, or all on")
    initial_spread: float = option(
        2.0, "how far apart the logits of ranks start: above 1, masks are drawn with less noise at first", above=0
    )
    initial_logit: float = option(
        6.0,
        "logit of weights and edges that start all on: 2 keeps one with probability 0.88, 4 with 0.98, 6 with 0.998",
        above=0,
    )
    seeds: tuple[int, ...] = option((0,), "one run for each seed; the best on validation data is kept", minimum=0)
    precision: Literal["model", "bfloat16", "auto"] = option(
        "model", "what masks are learned in: the model's own, a bfloat16 copy of it, or that where the device has "
        "instructions for it (about twice as fast); measures are always in the model's own"
    )  # fmt: skip

    @property
    def total_steps(self) -> int:
        """With those on hard masks."""
        return self.steps + self.last_steps

    @property
    def last_steps(self) -> int:
        """Those on hard masks."""
        if self.hard_steps is not None:
            return self.hard_steps
        return 0 if self.control == "ramp" else self.steps // 8

    @property
    def own_size(self) -> bool:
        """Where λ decides."""
        return self.control == "ramp"


@dataclass(frozen=True)
class SubnetworkProbingOptions:
    """Subnetwork probing: hard-concrete masks on edges, nodes or neurons under a constant penalty on what is open."""

    name: ClassVar[str] = "subnetwork_probing"
    learns: ClassVar[bool] = True
    masks: ClassVar[tuple[str, ...]] = ("edges", "nodes", "neurons")
    own_size: ClassVar[bool] = True

    steps: int = option(300, "optimizer steps", minimum=1)
    batch_size: int = option(8, "examples in a step", minimum=1)
    level: Literal["edge", "node", "neuron"] = option("edge", "what is masked")
    faithfulness: Literal["kl", "two_logit", "answers", "cross_entropy", "logit_diff"] = option(
        "kl", "what the circuit is compared with the model by"
    )
    learning_rate: float = option(0.1, "learning rate of the masks", above=0)
    penalty: float = option(10.0, "λ, the price of having everything open; not used under a constraint", minimum=0)
    keep: float = option(0.9, "how likely each part is open at first", above=0, maximum=0.999, unit="fraction")
    seeds: tuple[int, ...] = option((0,), "one run for each seed; the best on validation data is kept", minimum=0)


@dataclass(frozen=True)
class ContinuousSparsificationOptions(WeightOptions):
    """Continuous sparsification: masks σ(βl) whose temperature falls until they are zero or one."""

    name: ClassVar[str] = "continuous_sparsification"
    learns: ClassVar[bool] = True
    masks: ClassVar[tuple[str, ...]] = ("weights", "neurons", "nodes")
    own_size: ClassVar[bool] = True

    steps: int = option(400, "optimizer steps", minimum=1)
    batch_size: int = option(8, "examples in a step", minimum=1)
    level: Literal["weight", "neuron", "node"] = option("weight", "what is masked")
    faithfulness: Literal["kl", "two_logit", "answers", "cross_entropy", "logit_diff"] = option(
        "kl", "what the circuit is compared with the model by"
    )
    learning_rate: float | None = option(
        None, "learning rate of the logits; 5 / steps when left out, and they can cross 0 in half of the steps", above=0
    )
    initial: float = option(2.0, "logit at the start: 2 has all weights at 0.88, the published 0.05 at half")
    final_beta: float = option(200.0, "inverse temperature at the end; 1 at the start, geometric between", minimum=1)
    penalty: float = option(0.1, "λ, the price of having everything open; not used under a constraint", minimum=0)
    seeds: tuple[int, ...] = option((0,), "one run for each seed; the best on validation data is kept", minimum=0)


@dataclass(frozen=True)
class UgsOptions:
    """Uniform gradient sampling: masks of zeros and ones, but where the gradient is asked for."""

    name: ClassVar[str] = "ugs"
    learns: ClassVar[bool] = True
    masks: ClassVar[tuple[str, ...]] = ("edges", "nodes")
    own_size: ClassVar[bool] = True

    steps: int = option(400, "optimizer steps", minimum=1)
    batch_size: int = option(8, "examples in a step", minimum=1)
    masks_per_batch: int = option(8, "masks drawn in a step, each for a part of the examples", minimum=1)
    level: Literal["edge", "node"] = option("edge", "what is masked")
    penalty: float = option(1e-3, "λ, the price of each open edge; not used under a constraint", minimum=0)
    node_penalty: float | None = option(
        None, "edges: price of each node with edges in and out; half of λ, at most 2e-4, when left out", minimum=0
    )
    learning_rate: float = option(0.15, "learning rate of the masks", above=0)
    initial: float | None = option(
        None, "logit at the start; when left out, of edges under a constraint at ranks of attributions, else 1"
    )
    seeds: tuple[int, ...] = option((0,), "one run for each seed; the best on validation data is kept", minimum=0)


@dataclass(frozen=True)
class MatryoshkaOptions:
    """Matryoshka: one ranking for every sparsity, by soft masks of as many entries as each step draws."""

    name: ClassVar[str] = "matryoshka"
    learns: ClassVar[bool] = True
    masks: ClassVar[tuple[str, ...]] = ("edges", "nodes")

    steps: int = option(500, "optimizer steps", minimum=1)
    batch_size: int = option(8, "examples in a step", minimum=1)
    level: Literal["edge", "node"] = option("edge", "what is ranked")
    faithfulness: Literal["kl", "two_logit", "answers", "cross_entropy", "logit_diff"] = option(
        "kl", "what the circuit is compared with the model by"
    )
    learning_rate: float = option(0.05, "learning rate of the scores", above=0)
    temperature: float = option(0.5, "softness of the masks", above=0)
    budgets: Literal["log", "even"] = option("log", "numbers of entries drawn: evenly in the logarithm, or evenly")
    seeds: tuple[int, ...] = option((0,), "one run for each seed; the best on validation data is kept", minimum=0)


@dataclass(frozen=True)
class CsordasOptions(WeightOptions):
    """Differentiable weight masks: straight-through Gumbel-sigmoid masks, several in each batch."""

    name: ClassVar[str] = "csordas"
    learns: ClassVar[bool] = True
    masks: ClassVar[tuple[str, ...]] = ("weights",)
    own_size: ClassVar[bool] = True

    steps: int = option(400, "optimizer steps", minimum=1)
    batch_size: int = option(8, "examples in a step", minimum=1)
    masks_per_batch: int = option(2, "masks drawn in a step, each for a part of the examples", minimum=1)
    faithfulness: Literal["kl", "two_logit", "answers", "cross_entropy", "logit_diff"] = option(
        "cross_entropy", "what is learned: the answer, or what the model says"
    )
    learning_rate: float | None = option(None, "learning rate of the logits; 10 / steps when left out", above=0)
    initial: float = option(6.0, "logit at the start: 6 keeps with probability 0.998, the published 2 with 0.88")
    alpha: float = option(
        1e-4, "price of each logit, divided by the batch size; not used under a constraint", minimum=0
    )
    clip: float = option(1.0, "largest norm of the gradient", above=0)
    outputs: bool = option(False, "mask the weights of the output, too, as published")
    seeds: tuple[int, ...] = option((0,), "one run for each seed; the best on validation data is kept", minimum=0)


@dataclass(frozen=True)
class ImpOptions(WeightOptions):
    """Lottery ticket by iterative magnitude pruning: weights are trained, the smallest dropped, the rest set back.

    Trains the weights of a copy anew in each round. The bound on weights is met exactly (with `scope: layer` in
    each matrix); without one each round drops its rate.
    """

    name: ClassVar[str] = "imp"
    learns: ClassVar[bool] = True
    masks: ClassVar[tuple[str, ...]] = ("weights",)
    own_size: ClassVar[bool] = True

    rounds: int = option(5, "rounds of pruning", minimum=1)
    steps: int = option(200, "optimizer steps of each training", minimum=1)
    batch_size: int = option(8, "examples in a step", minimum=1)
    learning_rate: float = option(1e-4, "learning rate of the weights", above=0)
    rate: float = option(
        0.2, "share of the weights left that a round drops; not used under a bound", above=0, maximum=0.999,
        unit="fraction",
    )  # fmt: skip
    scope: Literal["global", "layer"] = option("global", "rank the weights of all matrices together, or of each")
    rewind: int = option(0, "step of the first training that weights go back to; 0: the model's own", minimum=0)
    seeds: tuple[int, ...] = option((0,), "one run for each seed; the best on validation data is kept", minimum=0)
