"""Run one component of the masked program: K reads in, one value a writer out."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional

from graphir.run.program import Env
from graphir.run.shares import Shares, build_shares
from graphir.run.tokens import Tokens
from graphir.tracing.canonical import aten, operand, shape_of
from graphir.tracing.components import Region
from graphir.tracing.partition import Partition, entry_offsets, share_turns
from graphir.tracing.subgraph import Piece, cut

# Operators that act on the last axis or elementwise, so that a leading axis of ports passes through them unchanged.
_RANK_FREE = {
    aten.layer_norm.default, aten.rms_norm.default, aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor,
    aten.pow.Tensor_Scalar, aten.rsqrt.default, aten.sqrt.default, aten.to.dtype, aten.to.dtype_layout,
    aten.type_as.default, aten.neg.default, aten.relu.default, aten.tanh.default, aten._to_copy.default,
    aten.add.Scalar, aten.mul.Scalar, aten.abs.default, aten.square.default, aten.reciprocal.default,
    aten.silu.default, aten.gelu.default, aten.sigmoid.default, aten.exp.default, aten.erf.default, aten.clamp.default,
    aten.softplus.default, aten.leaky_relu.default,
}  # fmt: skip


def _has_rows(node: fx.Node) -> bool:
    return node.op == "get_attr" and len(shape_of(node)) > 1


def is_rank_free(nodes: tuple[fx.Node, ...]) -> bool:
    """Whether `nodes` compute the same with extra leading axes."""
    for node in nodes:
        if node.target is aten.mean.dim or node.target is aten.var.correction:
            axes = node.args[1]
            if axes != [-1]:
                return False
        elif node.target not in _RANK_FREE or any(_has_rows(n) for n in node.all_input_nodes if n not in nodes):
            return False
    return True


def acts_by_token(nodes: Sequence[fx.Node], inputs: Iterable[fx.Node]) -> bool:
    """Whether `nodes` compute each token of `inputs` (…, D) from that token alone, whatever their number."""
    inside = {*nodes, *inputs}
    data = [n for node in nodes for n in node.all_input_nodes if n not in inside and n.op != "get_attr"]
    return not data and all(node.target is aten.linear.default or is_rank_free((node,)) for node in nodes)


def _reads_tokens(region: Region) -> bool:
    """Whether all that a region reads is of shape (B, S, D)."""
    return all(len(shape_of(site.value)) == 3 for site in region.sites)


def weight_and_bias(product: fx.Node, env: Env) -> tuple[Tensor, Tensor | None]:
    """The parameters of a `linear` node."""
    has_bias = len(product.args) > 2 and product.args[2] is not None
    return env[operand(product, 1)], env[operand(product, 2)] if has_bias else None


@dataclass(frozen=True, eq=False)
class FeatureGroups:
    """Disjoint feature sets laid side by side: `order` concatenates them, `inverse` undoes it; None when in place."""

    sizes: tuple[int, ...]
    order: Tensor | None
    inverse: Tensor | None

    @property
    def equal(self) -> bool:
        """Whether all sets are of one size."""
        return len(set(self.sizes)) == 1


def group_features(sets: list[np.ndarray], width: int, device: torch.device) -> FeatureGroups:
    """`FeatureGroups` of index sets that together cover range(width)."""
    order = np.concatenate(sets)
    if len(order) != width:
        raise AssertionError("feature sets must cover the axis")
    sizes = tuple(len(s) for s in sets)
    if np.array_equal(order, np.arange(width)):
        return FeatureGroups(sizes, None, None)
    forward = torch.as_tensor(order, device=device)
    return FeatureGroups(sizes, forward, torch.argsort(forward))


@dataclass(frozen=True, eq=False)
class EntryPlan:
    """One entry product: the rows of its site's read that feed it and the features each of them fills."""

    node: fx.Node
    rows: tuple[int, ...]
    groups: FeatureGroups

    def apply(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """rows (R, …, D), one a port → (…, F): feature f is computed from the row of the port that owns it."""
        if len(rows) == 1:
            return functional.linear(rows[0], weight, bias)
        ordered = weight if self.groups.order is None else weight[self.groups.order]
        lead = rows.shape[1:-1]
        flat = rows.flatten(1, -2)
        made: Tensor
        if self.groups.equal:
            blocks = ordered.view(len(rows), -1, ordered.shape[1])
            made = torch.bmm(flat, blocks.transpose(1, 2)).transpose(0, 1).flatten(1).unflatten(0, lead)
        else:
            parts = zip(flat, ordered.split(self.groups.sizes), strict=True)
            made = torch.cat([functional.linear(x, w) for x, w in parts], -1).unflatten(0, lead)
        if self.groups.inverse is not None:
            made = made.index_select(-1, self.groups.inverse)
        return made if bias is None else made + bias


@dataclass(frozen=True, eq=False)
class SitePlan:
    """A read: which ports (positions in the component) share it and how their rows reach the entry products, for each
    turn (see `ComponentPlan`)."""

    ports: tuple[int, ...]
    before: Piece | None
    rank_free: bool
    turns: tuple[tuple[EntryPlan, ...], ...]

    def deal(self, values: list[Tensor], turn: int) -> list[Tensor]:
        """To each entry product its rows of its value (K, …, D); one split where all share a value and deal it out."""
        entries = self.turns[turn]
        sizes = [len(entry.rows) for entry in entries]
        dealt = [row for entry in entries for row in entry.rows]
        if len(values) > 1 and all(v is values[0] for v in values) and dealt == list(range(len(values[0]))):
            return list(values[0].split(sizes))
        whole = list(range(len(values[0])))
        return [
            v if list(entry.rows) == whole else v[list(entry.rows)] for v, entry in zip(values, entries, strict=True)
        ]


class ComponentPlan:
    """How to run one component at one granularity.

    Where heads that share a key/value projection read it through ports of their own, its features are wanted once a
    head: the component is then computed in turns, in each of which one head of every group has its keys and values in
    the place of the shared ones, and the heads' results are put together.
    """

    def __init__(self, partition: Partition, device: torch.device) -> None:
        self.partition = partition
        self.region = region = partition.component.region
        self.whole: Piece | None = cut(region.body, [region.leaf]) if region.body else None
        self.by_token = _reads_tokens(region) and acts_by_token(region.body, [site.value for site in region.sites])
        self.front_by_token = self.back_by_token = False
        self.shares: Shares | None = None
        if region.exit is None:
            self.sites = tuple(SitePlan((i,), None, True, ((),)) for i in range(len(region.sites)))
            return
        self._turn_of = share_turns(partition)
        self.turns = int(self._turn_of.max(initial=0)) + 1
        self.front_by_token = _reads_tokens(region) and all(acts_by_token(s.before, [s.value]) for s in region.sites)
        self.back_by_token = acts_by_token(region.after, [region.exit])
        self.kept = region.entries if self.front_by_token and not self.by_token else ()
        inner = tuple(n for n in region.body if n not in {region.exit, *region.after})
        self.head = cut(inner, [operand(region.exit), *self.kept])
        self.tail = cut((region.exit, *region.after), [region.leaf])
        self.core = cut(region.core, [operand(region.exit)])
        self.shares = build_shares(region)
        self.sites = tuple(self._plan_site(i, device) for i in range(len(region.sites)))
        features = [w.features for w in partition.writers if w.features is not None]
        width = int(shape_of(region.exit.args[0])[-1])
        self.exit_groups = group_features(features, width, device)
        by_turn = [
            np.concatenate([f for f, at in zip(features, self._turn_of, strict=True) if at == turn])
            for turn in range(self.turns)
        ]
        self._taken = [torch.as_tensor(taken, device=device) for taken in by_turn]
        self._put_back = torch.argsort(torch.cat(self._taken))

    def _plan_site(self, index: int, device: torch.device) -> SitePlan:
        site, offsets = self.region.sites[index], entry_offsets(self.partition.component)
        ports = [p for p, port in enumerate(self.partition.ports) if port.site == index]

        ports.sort(key=lambda port: int(self._features(port)[0]))
        turns: list[tuple[EntryPlan, ...]] = []
        for turn in range(self.turns):
            owners = self._owners(ports, turn, int(offsets[-1]))
            plans = []
            for entry in site.entries:
                here = owners[offsets[entry] : offsets[entry + 1]]
                rows = tuple(np.unique(here).tolist())
                groups = group_features([np.flatnonzero(here == row) for row in rows], len(here), device)
                plans.append(EntryPlan(self.region.entries[entry], rows, groups))
            turns.append(tuple(plans))
        data = [operand(self.region.entries[e]) for e in site.entries]
        before = cut(site.before, list(dict.fromkeys(data))) if site.before else None
        return SitePlan(tuple(ports), before, is_rank_free(site.before), tuple(turns))

    def _features(self, port: int) -> np.ndarray:
        found = self.partition.ports[port].features
        assert found is not None
        return found

    def _owners(self, ports: list[int], turn: int, width: int) -> np.ndarray:
        """For each entry feature the row, among those of `ports`, that it is computed from in a turn; -1 elsewhere."""
        owners = np.full(width, -1)
        for row in reversed(range(len(ports))):
            owners[self._features(ports[row])] = row
        for row, port in enumerate(ports):
            if any(self._turn_of[writer] == turn for writer in self.partition.ports[port].writers):
                owners[self._features(port)] = row
        return owners

    def run_whole(self, reads: list[Tensor], env: Env) -> Tensor:
        """The leaf, from one read (…, D) a site."""
        bound = {site.value: value for site, value in zip(self.region.sites, reads, strict=True)}
        if self.whole is None:
            return bound[self.region.leaf] if self.region.leaf in bound else env[self.region.leaf]
        result: Tensor = self.whole(ChainMap(bound, env))[0]
        return result

    def run_output(self, reads: list[Tensor], env: Env, positions: Tensor | None) -> Tensor:
        """An output from its reads, at `positions` (B,) only where it is computed token by token: then (B, 1, …)."""
        if positions is not None and self.by_token:
            rows = torch.arange(len(positions), device=positions.device)
            reads = [read[rows, positions][:, None] for read in reads]
        return self.run_whole(reads, env)

    def plain_hidden(self, reads: list[Tensor], env: Env) -> Tensor:
        """The exit product's input (…, F) by the model's own operators, from one unmasked read (…, D) a site."""
        return self.plain_features(reads, env)[0]

    def plain_features(self, reads: list[Tensor], env: Env) -> tuple[Tensor, Env]:
        """`plain_hidden`, and what the entry products gave where a run at some tokens needs it for the others."""
        bound = {site.value: value for site, value in zip(self.region.sites, reads, strict=True)}
        hidden, *entries = self.head(ChainMap(bound, env))
        return hidden, dict(zip(self.kept, entries, strict=True))

    def hidden(
        self, reads: list[Tensor], env: Env, known: tuple[Tokens, Mapping[fx.Node, Tensor]] | None = None
    ) -> Tensor:
        """The exit product's input (…, F), from reads (K, …, D) of each site (rows in the site plan's order).

        With `known`, reads are (K, n, D) at some tokens and the entry products' values at the others are given.
        """
        sites = list(zip(self.region.sites, self.sites, reads, strict=True))
        prepared = [self._before(site.value, plan, read, env) for site, plan, read in sites]
        found: list[Tensor] = []
        for turn in range(self.turns):
            entries: Env = {}
            for plan, values in zip(self.sites, prepared, strict=True):
                for entry, data in zip(plan.turns[turn], plan.deal(values, turn), strict=True):
                    made = entry.apply(data, *weight_and_bias(entry.node, env))
                    entries[entry.node] = made if known is None else known[0].put(known[1][entry.node], made)
            found.append(self.core(ChainMap(entries, env))[0])
        if self.turns == 1:
            return found[0]
        parts = [each.index_select(-1, taken) for each, taken in zip(found, self._taken, strict=True)]
        return torch.cat(parts, -1).index_select(-1, self._put_back)

    def _before(self, value: fx.Node, plan: SitePlan, read: Tensor, env: Env) -> list[Tensor]:
        """The value that each entry product of a site reads, after the site's norm, rows kept apart."""
        data = [operand(entry.node) for entry in plan.turns[0]]
        if plan.before is None:
            return [read] * len(data)
        if plan.rank_free:
            values = plan.before(ChainMap({value: read}, env))
        elif len(read) == 1:
            values = tuple(v[None] for v in plan.before(ChainMap({value: read[0]}, env)))
        else:
            inputs = [read if n is value else env[n] for n in plan.before.inputs]
            values = torch.vmap(plan.before.call, in_dims=tuple(0 if n is value else None for n in plan.before.inputs))(
                *inputs
            )
        found = {**dict(zip(plan.before.outputs, values, strict=True)), value: read}
        return [found[node] for node in data]

    def leaf(self, hidden: Tensor, env: Env) -> Tensor:
        """The whole write (…, D) from the exit's input, by the model's own operators."""
        assert self.region.exit is not None
        result: Tensor = self.tail(ChainMap({operand(self.region.exit): hidden}, env))[0]
        return result

    def write(self, hidden: Tensor, env: Env) -> tuple[Tensor, Tensor | None]:
        """Writers' values (U, …, D) and what the leaf has beyond their sum (biases), from the exit's input."""
        assert self.region.exit is not None
        weight, bias = weight_and_bias(self.region.exit, env)
        groups = self.exit_groups
        if groups.order is not None:
            hidden, weight = hidden.index_select(-1, groups.order), weight[:, groups.order]
        count, lead = len(groups.sizes), hidden.shape[:-1]
        if count == 1:
            values = functional.linear(hidden, weight)[None]
        elif groups.equal:
            flat = hidden.flatten(0, -2).unflatten(-1, (count, -1)).transpose(0, 1)
            blocks = weight.view(weight.shape[0], count, -1).permute(1, 2, 0)
            values = torch.bmm(flat, blocks).view(count, *lead, weight.shape[0])
        else:
            parts = zip(hidden.split(groups.sizes, -1), weight.split(groups.sizes, 1), strict=True)
            values = torch.stack([functional.linear(h, w) for h, w in parts])
        if self.shares is None:
            return values, bias
        total = values.sum(0) if bias is None else values.sum(0) + bias
        return self.shares.split(values, total, env)
