"""The masked program: a lifted model that runs under masks, and what its two kinds share.

    X_r = base + Σ_w M[r, w] · (Y_w − A_w),   base = Σ_w A_w + constants

with A the ablation values: zero, a mean, or the writers' values in an unmasked run on the counterfactual input. At
M = 1 the program is the model; at M = 0 under interchange it is the counterfactual run. All else, rotary embeddings,
attention, gates, softmax, stays the model's own traced code.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from graphir.errors import DataError, GraphirError
from graphir.ir import Graph, NodeKind
from graphir.run.masks import Masks, WeightMask
from graphir.tracing.exported import Example, Traced, name_inputs

Env = dict[fx.Node, Any]


@contextmanager
def _told_of_shapes(traced: Traced, batch: Example) -> Iterator[None]:
    """Raise `DataError` for what fails within where the batch varies along axes that the trace has fixed."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        known = traced.named_inputs(traced.example)
        for name, value in traced.named_inputs(batch).items():
            wanted, free = tuple(known[name].shape), traced.dynamic.get(name, (None, None))
            mine = tuple(value.shape)
            fits = len(mine) == len(wanted)
            if not fits or any(mine[a] != wanted[a] for a in range(len(wanted)) if a not in free):
                hints = [f"trace with an example of the shape {mine}", *traced.notes]
                raise DataError(
                    f"`{name}` has the shape {mine}, and the model was traced for {wanted}", hints
                ) from error
        raise


def _differ_at_once(batch: Example, other: Example) -> bool:
    """Whether token ids differ in the first place of every row."""
    mine, theirs = next(iter(name_inputs(batch).values())), next(iter(name_inputs(other).values()))
    ids = mine.dim() == 2 and mine.shape == theirs.shape and mine.numel() > 0 and not mine.is_floating_point()
    return ids and bool((mine[:, 0] != theirs[:, 0]).all())


@dataclass(frozen=True, eq=False)
class Reference:
    """Ablation values. `writers` maps a leaf to its writers' values A (U, …, D) (broadcastable over batch and
    sequence), `hidden` an MLP's exit input to its ablation value, `values` a stream value to the whole base where it
    is known (the counterfactual run); all empty for zero ablation. Of a run with streams there are also `entries`, what
    the products that read them gave, and `surroundings`, what components use beside streams."""

    writers: Mapping[fx.Node, Tensor] = field(default_factory=dict)
    hidden: Mapping[fx.Node, Tensor] = field(default_factory=dict)
    values: Mapping[fx.Node, Tensor] = field(default_factory=dict)
    entries: Mapping[fx.Node, Tensor] = field(default_factory=dict)
    surroundings: Mapping[fx.Node, Any] = field(default_factory=dict)


def lower(graph: Graph) -> MaskedProgram:
    """The masked program of a graph. Raises `GraphirError` for a graph with no traced model behind it."""
    from graphir.run.layer_program import LayerProgram
    from graphir.run.stream_program import StreamProgram
    from graphir.tracing.layers import LayeredModel
    from graphir.tracing.lift import Lifted

    if isinstance(graph.lifted, Lifted):
        return StreamProgram(graph)
    if isinstance(graph.lifted, LayeredModel):
        return LayerProgram(graph)
    raise GraphirError(
        "this graph has no traced model behind it",
        ["a graph read from text or file is data only: trace the model, or `Circuit.load(folder, model)`"],
    )


class MaskedProgram(abc.ABC):
    """Runs a lifted model under masks. Call it with a batch as the model was traced (see `__call__`)."""

    neurons: Mapping[str, tuple[int, int]]
    """Where each MLP's hidden features lie in `Masks.neurons`, by component name."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.traced: Traced = graph.lifted.traced
        self.device = next((t.device for t in self.traced.tensors.values()), torch.device("cpu"))
        self.dtype = next((t.dtype for t in self.traced.tensors.values() if t.is_floating_point()), torch.float32)
        nodes = self.traced.graph.nodes
        self._parameters = {n: str(n.target) for n in nodes if n.op == "get_attr"}
        self._placeholders = [n for n in nodes if n.op == "placeholder"]

    @property
    def maskable(self) -> tuple[str, ...]:
        """Parameters that weight masks cover by default: the matrices of heads, MLPs and layers; not embeddings,
        norms, biases or the output."""
        kinds = (NodeKind.HEAD, NodeKind.MLP, NodeKind.NEURON, NodeKind.LAYER, NodeKind.CHANNEL, NodeKind.OPAQUE)
        sets = [n.weights for n in self.graph.nodes if n.kind in kinds] + [p.weights for p in self.graph.ports]
        names = dict.fromkeys(part.parameter for owned in sets for part in owned if len(part.shape) >= 2)
        return tuple(names)

    def parameters_of(self, *, embeddings: bool = False, outputs: bool = False, norms: bool = False) -> tuple[str, ...]:
        """`maskable`, and on request the weights of embeddings and outputs, those of outputs alone, and those of norms
        (never their biases)."""
        names = dict.fromkeys(self.maskable)
        if embeddings or outputs:
            kinds = (NodeKind.EMBED, NodeKind.OUTPUT) if embeddings else (NodeKind.OUTPUT,)
            ends = [n for n in self.graph.nodes if n.kind in kinds]
            names |= {part.parameter: None for node in ends for part in node.weights if len(part.shape) >= 2}
        if norms:
            one = [part.parameter for part in self.graph.rest if len(part.shape) == 1]
            one += [part.parameter for n in self.graph.nodes for part in n.weights if len(part.shape) == 1]
            names |= {name: None for name in one if not name.endswith("bias")}
        return tuple(names)

    def new_masks(
        self,
        *,
        edges: bool = False,
        nodes: bool = False,
        neurons: bool = False,
        weights: bool = False,
        requires_grad: bool = True,
    ) -> Masks:
        """Masks of ones, float, on the model's device, for what is asked."""

        def ones(*shape: int) -> Tensor:
            return torch.ones(*shape, dtype=self.dtype, device=self.device, requires_grad=requires_grad)

        total = max((stop for _, stop in self.neurons.values()), default=0)
        return Masks(
            edges=ones(len(self.graph.edges)) if edges else None,
            nodes=ones(len(self.graph.nodes)) if nodes else None,
            neurons=ones(total) if neurons else None,
            weights={name: ones(*self.traced.tensors[name].shape) for name in self.maskable} if weights else None,
        )

    def __call__(
        self,
        batch: Example,
        *,
        counterfactual: Example | None = None,
        masks: Masks | None = None,
        ablation: str = "interchange",
        reference: Reference | None = None,
    ) -> Any:
        """The model's own output on `batch` under `masks`.

        `ablation` is `interchange` (needs `counterfactual`, a batch of the same shape, or its `reference`), `zero`, or
        `mean` (needs a `reference` from `means`). Without masks the model runs as it is.
        Raises `DataError` where shapes differ, `GraphirError` where the ablation lacks what it needs.
        """
        return self.traced.output_rebuild(self.outputs(batch, counterfactual, masks, ablation, reference))

    def outputs(
        self, batch: Example, counterfactual: Example | None = None, masks: Masks | None = None,
        ablation: str = "interchange", reference: Reference | None = None, positions: Tensor | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """The output tensors alone, in the order of `traced.output_names` (arguments as in `__call__`).

        With `positions` (B,), outputs computed token by token are given at those positions only, (B, 1, …): the logits
        of a large vocabulary cost as much as several layers.
        """
        masks = masks or Masks()
        reference = masks.reference or reference
        if reference is None and (masks.mixes or masks.neurons is not None):
            reference = self._reference(counterfactual, ablation, masks)
            if counterfactual is not None and positions is None and _differ_at_once(batch, counterfactual):
                reference = replace(reference, entries={})  # for a run at some tokens, which this one cannot be
        self._check_masks(masks)
        with _told_of_shapes(self.traced, batch):
            return self.run(self.bind(batch, masks.weights, self.later(masks)), masks, reference, positions)

    @abc.abstractmethod
    def run(self, env: Env, masks: Masks, reference: Reference | None, positions: Tensor | None) -> list[Tensor]:
        """The output tensors from bound inputs and parameters."""

    @abc.abstractmethod
    def record(self, env: Env, *, hidden: bool) -> Reference:
        """The ablation values of an unmasked run."""

    def feature_axis(self, leaf: fx.Node) -> int:
        """The axis (negative) of a leaf's value along which it has units: features, or channels. Means keep it."""
        return -1

    def later(self, masks: Masks) -> Collection[fx.Node]:
        """Parameters (their nodes) that a run masks itself, where it uses them; none of a program that does not."""
        del masks
        return ()

    def bind(
        self, batch: Example, weights: Mapping[str, WeightMask] | None = None, later: Collection[fx.Node] = ()
    ) -> Env:
        """The graph's inputs and parameters, the latter masked by `weights` where given, but for those to be masked
        `later`. Parameters are frozen: no gradient reaches them, only the masks. Raises `DataError` for a mask of a
        parameter that is not there or of another shape."""
        self._check_weights(weights or {})
        named = name_inputs(batch, self.traced.input_names)
        env: Env = dict(zip(self._placeholders, named.values(), strict=True))
        for node, name in self._parameters.items():
            value = self.traced.tensors[name].detach()
            mask = None if weights is None or node in later else weights.get(name)
            if mask is not None:
                value = mask(value) if callable(mask) else value * mask
            env[node] = value
        return env

    def _check_weights(self, weights: Mapping[str, WeightMask]) -> None:
        for name, mask in weights.items():
            if name not in self.traced.tensors:
                raise DataError(f"there is a mask for `{name}`, and the model has no such parameter")
            shape = tuple(self.traced.tensors[name].shape)
            if isinstance(mask, Tensor) and tuple(mask.shape) != shape:
                raise DataError(f"the mask of `{name}` has shape {tuple(mask.shape)}, the parameter {shape}")

    def _check_masks(self, masks: Masks) -> None:
        expected = {"edges": len(self.graph.edges), "nodes": len(self.graph.nodes)}
        for name, size in expected.items():
            mask = getattr(masks, name)
            if mask is not None and mask.shape != (size,):
                raise DataError(f"the {name} mask has shape {tuple(mask.shape)}, the graph has {size} {name}")

    def _reference(self, counterfactual: Example | None, ablation: str, masks: Masks) -> Reference:
        if ablation == "zero":
            return Reference()
        if ablation == "interchange":
            if counterfactual is None:
                raise GraphirError(
                    "interchange ablation needs a counterfactual batch", ['pass counterfactual=…, or ablation="zero"']
                )
            return self.reference(counterfactual, hidden=masks.neurons is not None)
        raise GraphirError(
            f"ablation `{ablation}` needs a reference" if ablation == "mean" else f"unknown ablation `{ablation}`",
            ["interchange, zero, or mean with reference=program.means(batches)"],
        )

    def reference(self, counterfactual: Example, *, hidden: bool = False) -> Reference:
        """Ablation values of an unmasked run on `counterfactual`, without gradient; MLPs' `hidden` ones if asked."""
        with torch.no_grad(), _told_of_shapes(self.traced, counterfactual):
            return self.record(self.bind(counterfactual), hidden=hidden)

    @abc.abstractmethod
    def attribute(
        self,
        batch: Example,
        counterfactual: Example | None,
        metric: Callable[[list[Tensor]], Tensor],
        *,
        steps: int = 1,
        ablation: str = "interchange",
        reference: Reference | None = None,
        positions: Tensor | None = None,
        points: Sequence[float] | None = None,
    ) -> Tensor:
        """∂metric/∂mask (E,) at all masks one: how much `metric` (a scalar of the output tensors) gains from each edge.

        To first order, what cutting the edge costs: (Y_w − A_w) · ∂metric/∂X_r. With `steps` > 1 the gradient is
        averaged over runs whose embeddings go from the ablated to the batch's (EAP-IG, inputs): step/steps of the way,
        or the shares of the way given as `points` (0 the ablated embeddings, 1 the batch's).
        """

    def means(self, batches: Iterable[Example], *, per_position: bool = False) -> Reference:
        """Ablation values for `ablation="mean"`: see `graphir.run.ablation.mean_reference`."""
        from graphir.run.ablation import mean_reference

        return mean_reference(self, batches, per_position=per_position)
