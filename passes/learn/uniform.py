"""What uniform gradient sampling (Li and Janson 2024) knows of the graph: which sampled edges dangle, how many nodes a
mask makes use of, and how to average a gradient over the draws that have one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphir.ir import Graph, NodeKind
from graphir.reach import links_of, live
from passes.learn.parts import Part


class OnPath:
    """Called with the edges (E,) that a draw opens, bool: those of them on some path of open edges from an input to an
    output. The others dangle: in the circuit they are dropped, so in training they are closed and get no gradient."""

    def __init__(self, graph: Graph) -> None:
        self._links = links_of(graph)
        no_ports = np.zeros(self._links.n_ports, bool)
        self._start = (np.array([not node.ports for node in graph.nodes], bool), no_ports)
        self._end = (np.array([node.kind is NodeKind.OUTPUT for node in graph.nodes], bool), no_ports)
        self._allowed = np.ones(self._links.n_nodes, bool)

    def __call__(self, edges: Tensor) -> Tensor:
        """See the class."""
        opened = edges.detach().cpu().numpy()
        kept = live(self._links, self._start, self._end, opened, self._allowed)[2]
        return torch.as_tensor(kept, device=edges.device)


class NodeComplexity:
    """tanh(2 N / M) · M / 2, M being the nodes that read and write, N how many of these are to be expected to have both
    an open edge in and an open edge out: Σ (1 − Π_in (1 − p)) (1 − Π_out (1 − p)), p = σ(θ).

    About N while few nodes are used, and flat where most are: it presses on the last uses of a node, not on all nodes
    of a dense mask. M is published as layers times heads, for graphs of heads alone.
    """

    def __init__(self, graph: Graph, device: torch.device) -> None:
        links = links_of(graph)
        self._sizes = (links.n_nodes, links.n_ports)
        writes = np.zeros(links.n_nodes, bool)
        writes[links.src] = True
        self._src, self._dst, self._link_port, self._link_node = (
            torch.as_tensor(array, device=device) for array in (links.src, links.dst, links.link_port, links.link_node)
        )
        inner = writes & np.array([bool(node.ports) for node in graph.nodes], bool)
        self._inner = torch.as_tensor(inner, device=device)
        self.nodes = int(inner.sum())

    def __call__(self, logits: Tensor) -> Tensor:
        """A scalar, differentiable in the logits (E,) of the edges."""
        closed = torch.nn.functional.logsigmoid(-logits)  # log(1 − p)
        nodes, ports = self._sizes
        unfed = closed.new_zeros(ports).index_add(0, self._dst, closed)
        unfed = closed.new_zeros(nodes).index_add(0, self._link_node, unfed[self._link_port])
        unread = closed.new_zeros(nodes).index_add(0, self._src, closed)
        expected = (torch.expm1(unfed) * torch.expm1(unread))[self._inner].sum()
        return torch.tanh(2 * expected / max(self.nodes, 1)) * self.nodes / 2


class UniformPart(Part):
    """A part whose entries take the mean gradient of the draws of a step in which they were between zero and one (the
    published g = B / n), and with `penalty` the gradient of that many times the complexity."""

    def __init__(
        self,
        name: str,
        logits: Mapping[str, Tensor],
        parametrization: Any,
        *,
        complexity: NodeComplexity | None = None,
        price: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(name, logits, parametrization, **options)
        self._complexity, self._price = complexity, price
        self._draws = 0
        self._open: dict[str, Tensor] = {}

    def accumulate(self, key: str, gradient: Tensor) -> None:
        """Add to what `step` will use, and count the entries that have a gradient."""
        seen = gradient != 0
        self._open[key] = self._open[key] + seen if key in self._open else seen.int()
        self._draws += 1
        super().accumulate(key, gradient)

    def step(self, extra: Callable[[Tensor], Tensor] | None = None) -> None:
        """See the class."""
        for key, seen in self._open.items():
            self._gradients[key] = self._gradients[key] * (self._draws / seen.clamp(min=1))
        self._draws, self._open = 0, {}
        if self._complexity is None or not self._price:
            super().step(extra)
            return

        def push(logits: Tensor) -> Tensor:
            found = self._slope(logits)
            return found if extra is None else found + extra(logits)

        super().step(push)

    def _slope(self, logits: Tensor) -> Tensor:
        assert self._complexity is not None
        leaf = logits.detach().clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._price * self._complexity(leaf), leaf)
        return gradient
