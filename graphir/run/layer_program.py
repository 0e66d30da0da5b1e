"""The masked program of a layered model: every edge is an entry of a product's weight, or a coordinate that skips.

A product of input x, with x_A the ablation value of what it reads, runs as

    y = y_A + product(x − x_A, W · M)

M holding for each weight (or kernel slice) the mask of its edge times that of the node it reads, and y_A the
product's own output on x_A. A skip of u enters its layer as u_A + m · (u − u_A). Activations, norms and pooling are
the model's own traced code.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from graphir.errors import DataError
from graphir.ir import Graph
from graphir.run.masks import Masks
from graphir.run.program import Env, MaskedProgram, Reference
from graphir.tracing.assemble_layers import Arrangement, arrange
from graphir.tracing.exported import Example
from graphir.tracing.layers import Feed, Layer, LayeredModel
from graphir.tracing.subgraph import Piece, cut


class LayerProgram(MaskedProgram):
    """See the module docstring; `plans` run the layers in order."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.model: LayeredModel = graph.lifted
        assert graph.granularity is not None
        arrangement = arrange(self.model, graph.granularity)
        lookup = EdgeLookup(graph)
        self.plans = tuple(
            LayerPlan(
                layer,
                [FeedPlan(*pair, arrangement, lookup, self.device) for pair in zip(layer.feeds, ports, strict=True)],
            )
            for layer, ports in zip(self.model.layers, arrangement.ports, strict=True)
        )
        self._prologue = self._cut_prologue()
        self.neurons = self._index_neurons()

    def _cut_prologue(self) -> Piece:
        """Everything that depends on no layer, and the inputs' values, cut to what the rest uses."""
        inside = set(self.model.plain)
        outside = [node for node in self.model.graph.nodes if node not in inside]
        used = {n: None for node in outside for n in node.all_input_nodes if n in inside}
        used |= {layer.value: None for layer in self.model.layers if layer.value in inside}
        return cut(self.model.plain, list(used))

    def _index_neurons(self) -> Mapping[str, tuple[int, int]]:
        found, start = {}, 0
        for plan in self.plans:
            layer = plan.layer
            if layer.hidden and layer.letter:
                found[layer.name] = (start, start + layer.count)
                plan.neurons = Gather.of(np.where(layer.units.ids < 0, -1, layer.units.ids + start), self.device)
                start += layer.count
        return found

    def feature_axis(self, leaf: fx.Node) -> int:
        """The axis of a layer's units."""
        return next(plan.layer.units.axis for plan in self.plans if plan.layer.value is leaf)

    def run(self, env: Env, masks: Masks, reference: Reference | None, positions: Tensor | None) -> list[Tensor]:
        """As in `MaskedProgram`; outputs are given whole, whatever the `positions`."""
        del positions
        return _Run(self, env, masks, reference or Reference(), {}).outputs()

    def record(self, env: Env, *, hidden: bool = True) -> Reference:
        """Every layer's value, and every product's output; `hidden` adds nothing: a layer's units are its writers."""
        del hidden
        products: Env = {}
        run = _Run(self, env, Masks(), Reference(), products)
        run.outputs()
        leaves = {plan.layer.value: run.env[plan.layer.value][None] for plan in self.plans if plan.layer.output is None}
        return Reference(writers=leaves, values=products)

    def attribute(
        self, batch: Example, counterfactual: Example | None, metric: Callable[[list[Tensor]], Tensor], *,
        steps: int = 1, ablation: str = "interchange", reference: Reference | None = None,
        positions: Tensor | None = None, points: Sequence[float] | None = None,
    ) -> Tensor:  # fmt: skip
        """As in `MaskedProgram`; what goes from the ablated to the batch's are the model's inputs."""
        points = points or [step / steps for step in range(1, steps + 1)]
        if reference is None:
            reference = self._reference(counterfactual, ablation, Masks(edges=torch.empty(0)))
        clean = {leaf: value[0] for leaf, value in self.reference(batch).writers.items()}
        edges = torch.ones(len(self.graph.edges), dtype=self.dtype, device=self.device, requires_grad=True)
        total = torch.zeros_like(edges)
        for point in points:
            run = _AttributedRun(self, self.bind(batch), Masks(edges=edges), reference, clean, point)
            with torch.enable_grad():
                total += torch.autograd.grad(metric(run.outputs()), [edges])[0]
        return total / len(points)

    def prologue(self, env: Env) -> Env:
        """`env` with everything that depends on no layer added, and the inputs' values."""
        env.update(zip(self._prologue.outputs, self._prologue(env), strict=True))
        return env


class EdgeLookup:
    """Finds edges of a graph by port and writer."""

    def __init__(self, graph: Graph) -> None:
        self._nodes = len(graph.nodes)
        self._keys = graph.edge_dst.astype(np.int64) * self._nodes + graph.edge_src

    def find(self, ports: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Edge positions for arrays of port and node indices; -1 where there is none (or an index is negative)."""
        wanted = ports.astype(np.int64) * self._nodes + nodes
        places = np.minimum(np.searchsorted(self._keys, wanted), max(len(self._keys) - 1, 0))
        hit = (ports >= 0) & (nodes >= 0)
        hit &= self._keys[places] == wanted if len(self._keys) else False
        return np.where(hit, places, -1)


@dataclass(frozen=True, eq=False)
class Gather:
    """Picks entries of a mask vector into an array of its own shape; where the index is -1 it is one."""

    index: Tensor
    missing: Tensor | None
    span: tuple[int, int] | None

    @classmethod
    def of(cls, index: np.ndarray, device: torch.device) -> Gather:
        """A gather of `index`; a run of consecutive entries is only a view of the mask."""
        flat = index.reshape(-1)
        run = len(flat) > 0 and flat[0] >= 0 and np.array_equal(flat, np.arange(flat[0], flat[0] + len(flat)))
        missing = torch.as_tensor(index < 0, device=device) if (index < 0).any() else None
        span = (int(flat[0]), int(flat[0]) + len(flat)) if run else None
        return cls(torch.as_tensor(np.maximum(index, 0), device=device), missing, span)

    def __call__(self, mask: Tensor) -> Tensor:
        """The picked entries, differentiable in `mask`."""
        if self.span is not None:
            return mask[self.span[0] : self.span[1]].view(self.index.shape)
        picked = mask.index_select(0, self.index.reshape(-1)).view(self.index.shape)
        return picked if self.missing is None else picked.masked_fill(self.missing, 1.0)


class FeedPlan:
    """How one feed runs: which edges and nodes mask it, and for a product how its input is made from the layers."""

    def __init__(
        self, feed: Feed, ports: np.ndarray, arrangement: Arrangement, lookup: EdgeLookup, device: torch.device
    ) -> None:
        self.feed = feed
        writes, reads = _pick(ports, feed.writes), _pick(arrangement.node, feed.reads)
        self.route: Piece | None = None
        self.shared = len(np.unique(reads)) == 1 and len(np.unique(writes)) == 1
        if feed.product is None:
            self.edges, self.nodes = Gather.of(lookup.find(writes, reads), device), Gather.of(reads, device)
            return
        if feed.route:
            self.route = cut(feed.route, [feed.value])
        # Ungrouped: a mask of distinct ports × distinct nodes, spread over rows and columns of the weight.
        self.rows = self.columns = None
        if feed.groups == 1:
            distinct, rows = np.unique(writes, return_inverse=True)
            sources, columns = np.unique(reads, return_inverse=True)
            self.rows = None if np.array_equal(rows, np.arange(len(distinct))) else torch.as_tensor(rows, device=device)
            self.columns = (
                None if np.array_equal(columns, np.arange(len(sources))) else torch.as_tensor(columns, device=device)
            )
            grid = np.broadcast_to(distinct[:, None], (len(distinct), len(sources)))
            self.edges, self.nodes = (
                Gather.of(lookup.find(grid, np.broadcast_to(sources, grid.shape)), device),
                Gather.of(sources, device),
            )
            return
        inputs = np.repeat(np.split(reads, feed.groups), len(writes) // feed.groups, axis=0)
        outs = np.broadcast_to(writes[:, None], inputs.shape)
        self.edges, self.nodes = Gather.of(lookup.find(outs, inputs), device), Gather.of(inputs, device)

    def mask(self, masks: Masks) -> Tensor | None:
        """The mask of a product's weight (out, in / groups), or of a skip's coordinates."""
        found = None if masks.edges is None else self.edges(masks.edges)
        if masks.nodes is not None:
            found = self.nodes(masks.nodes) if found is None else found * self.nodes(masks.nodes)
            if masks.edges is None and self.feed.product is not None and self.feed.groups == 1:
                found = found.expand(self.edges.index.shape)
        if found is None or self.feed.product is None:
            return found
        found = found if self.rows is None else found.index_select(0, self.rows)
        return found if self.columns is None else found.index_select(1, self.columns)

    def product(self, value: Tensor, env: Env, mask: Tensor | None = None, *, biased: bool = True) -> Tensor:
        """The product of `value` with its weight, masked where a mask is given."""
        node = self.feed.product
        assert node is not None
        weight, bias = env[node.args[1]], (*node.args, None)[2]  # type: ignore[index]
        if mask is not None:
            weight = weight * mask.to(weight.dtype).view(*mask.shape, *[1] * (weight.dim() - 2))
        rest = fx.map_arg(node.args[3:], env.__getitem__)
        kwargs = {key: value for key, value in node.kwargs.items() if key != "bias"}
        result: Tensor = node.target(
            value, weight, env[bias] if biased and isinstance(bias, fx.Node) else None, *rest, **kwargs
        )  # type: ignore[operator]
        return result

    def read(self, values: Mapping[fx.Node, Tensor]) -> Tensor:
        """The product's input from the layers' `values`."""
        result: Tensor = values[self.feed.value] if self.route is None else self.route(values)[0]
        return result

    def spread(self, mask: Tensor) -> Tensor:
        """A skip's mask along its axis; one entry where all coordinates share it, however many there are."""
        return mask[0] if self.shared else mask.view(-1, *[1] * (-self.feed.axis - 1))


def _pick(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.where(index < 0, -1, table[np.maximum(index, 0)])


class LayerPlan:
    """One layer: its feeds, and the piece that computes its value from them."""

    def __init__(self, layer: Layer, feeds: Sequence[FeedPlan]) -> None:
        self.layer, self.feeds = layer, tuple(feeds)
        self.products = tuple(f.feed.product for f in feeds if f.feed.product is not None)
        self.neurons: Gather | None = None
        self.piece: Piece | None = cut(layer.body, [layer.value]) if layer.feeds or layer.output is not None else None

    def combine(self, bound: Env, env: Env) -> Tensor:
        """The layer's value from its feeds' values."""
        assert self.piece is not None
        result: Tensor = self.piece(ChainMap(bound, env))[0]
        return result


class _Run:
    """One run. `env` collects every layer's value, `ablated` its ablation value (none: zero), `products` what each
    product made."""

    def __init__(self, program: LayerProgram, env: Env, masks: Masks, reference: Reference, products: Env) -> None:
        self.program, self.masks, self.reference, self.products = program, masks, reference, products
        self.env = program.prologue(env)
        self.ablated: Env = {}

    def outputs(self) -> list[Tensor]:
        """The output tensors, in order."""
        results = []
        for plan in self.program.plans:
            if plan.piece is None:  # an input
                value = self.env[plan.layer.value]
            else:
                value = plan.combine(
                    {feed.feed.product or feed.feed.value: self._feed(feed) for feed in plan.feeds}, self.env
                )
            if plan.layer.output is not None:
                results.append(value)
            else:
                self._store(plan, value)
        return results

    def _store(self, plan: LayerPlan, value: Tensor) -> None:
        layer = plan.layer
        ablated = self.reference.writers.get(layer.value)
        if ablated is not None:
            self.ablated[layer.value] = _match(ablated[0], value, means=not self.reference.values)
        if self.masks.neurons is not None and plan.neurons is not None:
            mask = plan.neurons(self.masks.neurons).view(-1, *[1] * (-layer.units.axis - 1))
            value = _mix(value, self.ablated.get(layer.value), mask)
        self.env[layer.value] = value

    def _feed(self, plan: FeedPlan) -> Tensor:
        mask = plan.mask(self.masks)
        if plan.feed.product is None:
            value: Tensor = self.env[plan.feed.value]
            return value if mask is None else _mix(value, self.ablated.get(plan.feed.value), plan.spread(mask))
        result = self._product(plan, mask)
        self.products[plan.feed.product] = result
        return result

    def _product(self, plan: FeedPlan, mask: Tensor | None) -> Tensor:
        read = plan.read(self.env)
        if mask is None or not self.ablated:
            return plan.product(read, self.env, mask)
        ablated = plan.read(ChainMap(self.ablated, self.env))
        known = self.reference.values.get(plan.feed.product) if self.masks.weights is None else None  # type: ignore[arg-type]
        base = plan.product(ablated, self.env) if known is None else known
        return base + plan.product(read - ablated, self.env, mask, biased=False)


class _AttributedRun(_Run):
    """An unmasked run from inputs that lie between the ablated ones and the batch's, whose gradient in the edge masks
    is that of the outputs here times what the writers differ by on the batch: every feed gets a masked difference more
    and the same unmasked less, which is nothing but for the gradient."""

    def __init__(
        self, program: LayerProgram, env: Env, masks: Masks, reference: Reference, clean: Env, point: float
    ) -> None:
        super().__init__(program, env, masks, reference, {})
        self.clean, self.point = clean, point
        self.start = {
            leaf: _match(reference.writers[leaf][0], value, means=not reference.values)
            if leaf in reference.writers
            else torch.zeros_like(value)
            for leaf, value in clean.items()
        }

    def _store(self, plan: LayerPlan, value: Tensor) -> None:
        leaf = plan.layer.value
        if plan.piece is None:
            value = self.start[leaf] + self.point * (self.clean[leaf] - self.start[leaf])
        self.env[leaf] = value

    def _feed(self, plan: FeedPlan) -> Tensor:
        mask = plan.mask(self.masks)
        assert mask is not None
        if plan.feed.product is None:
            value: Tensor = self.env[plan.feed.value]
            difference: Tensor = self.clean[plan.feed.value] - self.start[plan.feed.value]
            spread = plan.spread(mask).to(value.dtype)
            return value + (spread - spread.detach()) * difference
        difference = plan.read(ChainMap(self.clean, self.env)) - plan.read(ChainMap(self.start, self.env))
        masked = plan.product(difference, self.env, mask, biased=False)
        return plan.product(plan.read(self.env), self.env) + masked - masked.detach()


def _mix(value: Tensor, ablated: Tensor | None, mask: Tensor) -> Tensor:
    mask = mask.to(value.dtype)
    return value * mask if ablated is None else ablated + mask * (value - ablated)


def _match(ablated: Tensor, value: Tensor, *, means: bool) -> Tensor:
    """Ablation values in the shape of a batch's: means broadcast over it, those by position cut to its length."""
    if means and value.dim() == ablated.dim() == 3 and ablated.shape[1] > value.shape[1]:
        ablated = ablated[:, : value.shape[1]]
    try:
        return ablated.expand(value.shape)
    except RuntimeError as error:
        hints = [
            "clean and counterfactual must be of equal shape",
            "per-position means cover the lengths they were taken over",
        ]
        raise DataError(
            f"ablation values of shape {tuple(ablated.shape)} do not fit the batch's {tuple(value.shape)}", hints
        ) from error
