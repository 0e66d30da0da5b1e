"""ACDC, automatic circuit discovery (Conmy et al. 2023): cut edges one by one while the model's prediction holds.

Readers are visited in reverse topological order. For each edge e into one, with H the edges kept so far,

    cut e for good if KL(model ‖ H − e) − KL(model ‖ H) < τ

the ablated value in its place. A reader whose nodes write to nothing any more loses its edges without a run. In the
end nodes on no path are dropped.

The result depends on the order of the edges into one layer (`order`); `compare_orders` records what each gives.
Without τ, τ is swept downwards from the divergence of the empty circuit until the bound on edges no longer holds, then
bisected; an edge's score is the smallest τ it was cut at, as in Miller et al. 2024 (AutoCircuit). With one τ the score
is the growth of the divergence that was measured.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch

from graphir.circuit import Circuit
from graphir.errors import GraphirError
from graphir.ir import Graph, NodeKind
from graphir.reach import links_of, ordered_levels
from passes.ablations import ReferenceSource
from passes.base import Pass, RunContext, count_for, provenance_of
from passes.eap import score_edges
from passes.interventions import Interventions
from passes.options import AcdcOptions

ORDERS = ("scores", "index", "reverse", "random")
_LOWEST_TAU = 1e-6
_STAGE = "acdc"


@dataclass(frozen=True, eq=False)
class Cut:
    """What one search ended with: `kept` (E,), `growth` (E,) of the divergence when each edge was tried, 0 where no run
    was needed; `divergence` of the kept edges; `interrupted`."""

    tau: float
    kept: np.ndarray
    growth: np.ndarray
    divergence: float
    interrupted: bool = False


@dataclass(frozen=True)
class Acdc(AcdcOptions, Pass):
    """Greedy search for the edges that matter, in one order, at a threshold or down to a bound."""

    name: ClassVar[str] = "acdc"

    def run(self, context: RunContext) -> Circuit:
        """The circuit at τ, or the largest the sweep finds within the bound; with neither, every edge with its score.

        Raises `GraphirError` where τ is given and its circuit is larger than the bound.
        """
        search = Search(context, examples=self.examples, batch_size=self.batch_size)
        order = traversal(context.graph, self.order, search.scores(self.order), context.seed)
        bound = context.bound("edges")
        limit = None if bound is None else count_for(bound, len(order))
        if self.tau is not None:
            found = search.cut(order, self.tau)
            scores = found.growth
            self._check_bound(found, limit, context.graph)
        else:
            found, scores = self._sweep(search, order, limit)
        orders = self._compare(search, context, found) if self.compare_orders and not found.interrupted else {}
        more: dict[str, Any] = {"threshold": found.tau, "kl": found.divergence, "runs": search.runs} | orders
        more |= {"interrupted": search.runs} if found.interrupted else {}
        everything = self.tau is None and limit is None
        circuit = Circuit(
            context.graph, np.ones_like(found.kept) if everything else found.kept,
            np.ones(len(context.graph.nodes), bool), scores={"edges": scores}, ablation=context.task.ablation,
            provenance=provenance_of(self, context, **more),
        )  # fmt: skip
        return circuit if everything else circuit.on_path()

    def _check_bound(self, found: Cut, limit: int | None, graph: Graph) -> None:
        size = int(on_path(graph, found.kept).sum())
        if limit is not None and size > limit and not found.interrupted:
            raise GraphirError(
                f"at τ = {found.tau:g} ACDC keeps {size} edges, the bound allows {limit}",
                ["raise `tau`", "leave `tau` out: it is then swept until the bound is met"],
            )

    def _sweep(self, search: Search, order: np.ndarray, limit: int | None) -> tuple[Cut, np.ndarray]:
        """The search of the lowest τ that is within the limit, and the smallest τ that each edge was cut at."""
        highest = max(search.divergence(np.zeros(len(order), bool)), 10 * _LOWEST_TAU)
        scores = np.full(len(order), 2 * highest)
        best: Cut | None = None
        too_low: float | None = None

        def try_(tau: float) -> bool:
            """Whether to go on."""
            nonlocal best, too_low
            found = search.cut(order, tau)
            if found.interrupted:
                best = replace(best or found, interrupted=True)
                return False
            scores[~found.kept] = np.minimum(scores[~found.kept], tau)
            if limit is None or int(on_path(search.graph, found.kept).sum()) <= limit:
                best = found
            else:
                too_low = tau
            return True

        steps = math.ceil(math.log10(highest / _LOWEST_TAU) * self.per_decade)
        for step in range(steps + 1):
            if not try_(highest * 10 ** (-step / self.per_decade)) or too_low is not None:
                break
        if best is None:
            raise GraphirError(
                f"ACDC finds no circuit of {limit} edges: it keeps more even at τ = {highest:.3g}, the divergence of "
                "the empty circuit",
                ["allow more edges", "try another `order`"],
            )
        for _ in range(self.refine):
            if too_low is None or best.interrupted or not try_(math.sqrt(too_low * best.tau)):
                break
        return best, scores

    def _compare(self, search: Search, context: RunContext, chosen: Cut) -> dict[str, Any]:
        """Size, divergence and overlap with the chosen circuit, for each order at the same τ."""
        table = {}
        for how in ORDERS:
            order = traversal(context.graph, how, search.scores(how), context.seed)
            found = chosen if how == self.order else search.cut(order, chosen.tau)
            ours, theirs = on_path(context.graph, chosen.kept), on_path(context.graph, found.kept)
            union = int((ours | theirs).sum())
            table[how] = {
                "edges": int(theirs.sum()), "kl": found.divergence,
                "iou": int((ours & theirs).sum()) / union if union else 1.0,
            }  # fmt: skip
        return {"orders": table}


def on_path(graph: Graph, kept: np.ndarray) -> np.ndarray:
    """The kept edges (E,) that lie on a path from an input to an output."""
    return Circuit(graph, kept, np.ones(len(graph.nodes), bool)).on_path().edges


def traversal(graph: Graph, how: str, scores: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Edges (E,) in the order they are tried: readers' layers from the last to the first; within a layer smallest
    absolute `scores` first, as listed (`index`), backwards (`reverse`) or shuffled by `seed` (`random`)."""
    _, ports = ordered_levels(links_of(graph))
    index = np.arange(len(graph.edge_dst))
    if how == "scores":
        assert scores is not None
        key: np.ndarray = np.abs(scores)
    elif how == "random":
        key = np.random.default_rng(seed).permutation(len(index))
    else:
        key = -index if how == "reverse" else index
    return np.lexsort((key, -ports[graph.edge_dst]))


@dataclass(eq=False)
class Search:
    """Searches on fixed training examples, the first `examples` in the order of the seed. `runs` counts forward runs
    over them."""

    context: RunContext
    examples: int
    batch_size: int
    _scores: np.ndarray | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        context = self.context
        batches = context.task.batches("train", self.batch_size, shuffle=context.seed, limit=self.examples)
        source = ReferenceSource(context.program, context.task)
        self._interventions = Interventions(context.program, list(batches), source)
        self.graph = context.graph
        self._links = links_of(context.graph)
        self._outputs = np.array([n.kind is NodeKind.OUTPUT for n in self.graph.nodes], bool)
        self._by_writer = np.argsort(self.graph.edge_src, kind="stable")
        self._first = np.searchsorted(self.graph.edge_src[self._by_writer], np.arange(len(self.graph.nodes) + 1))
        self._state = context.checkpoint.load() or {}

    @property
    def runs(self) -> int:
        """Forward runs so far."""
        return self._interventions.runs

    def divergence(self, kept: np.ndarray) -> float:
        """Mean KL(model ‖ circuit) of the kept edges."""
        return self._interventions.divergence(kept)

    def scores(self, how: str) -> np.ndarray | None:
        """EAP scores where the order needs them, made once."""
        if how == "scores" and self._scores is None:
            self._scores = score_edges(self.context, batch_size=self.batch_size, examples=self.examples)
        return self._scores

    def cut(self, order: np.ndarray, tau: float) -> Cut:
        """One search at `tau` over edges in `order`. Ctrl-C ends it early with what is kept so far."""
        kept, growth = np.ones(len(order), bool), np.zeros(len(order))
        observer, ports = self.context.observer, self.graph.edge_dst[order]
        key = f"{tau!r} {hash_order(order)}"
        start, now = self._restore(key, kept, growth)
        observer.begin(_STAGE, len(order))
        try:
            now = self.divergence(kept) if math.isnan(now) else now
            for place in range(start, len(order)):
                edge = order[place]
                if not self._is_read(int(ports[place]), kept):
                    kept[edge] = False
                    continue
                kept[edge] = False
                after = self.divergence(kept)
                growth[edge] = after - now
                if after - now < tau:
                    now = after
                else:
                    kept[edge] = True
                observer.step(_STAGE, place + 1, {"edges": int(kept.sum()), "kl": now, "tau": tau})
                self._keep(key, place + 1, kept, growth, now)
        except KeyboardInterrupt:
            return Cut(tau, kept, growth, now, interrupted=True)
        observer.end(_STAGE)
        return Cut(tau, kept, growth, now)

    def _is_read(self, port: int, kept: np.ndarray) -> bool:
        """Whether some node behind the port is an output or still writes to someone."""
        nodes = self._links.link_node[self._links.link_port == port]
        if self._outputs[nodes].any():
            return True
        return bool(kept[self._written(nodes)].any())

    def _written(self, nodes: np.ndarray) -> np.ndarray:
        """Edges that leave `nodes`."""
        spans = [self._by_writer[self._first[n] : self._first[n + 1]] for n in nodes.tolist()]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)

    def _keep(self, key: str, place: int, kept: np.ndarray, growth: np.ndarray, now: float) -> None:
        values = {"kept": kept, "growth": growth, "at": np.array([place, now])}
        self._state |= {f"{key} {name}": torch.as_tensor(value.copy()) for name, value in values.items()}
        self.context.checkpoint.save(self.runs, dict(self._state))

    def _restore(self, key: str, kept: np.ndarray, growth: np.ndarray) -> tuple[int, float]:
        if f"{key} at" not in self._state:
            return 0, math.nan
        kept[:] = self._state[f"{key} kept"].numpy()
        growth[:] = self._state[f"{key} growth"].numpy()
        place, now = self._state[f"{key} at"].tolist()
        return int(place), float(now)


def hash_order(order: np.ndarray) -> str:
    """Tells orders apart."""
    return hashlib.sha256(np.ascontiguousarray(order, np.int64).tobytes()).hexdigest()[:16]
