"""Uniform gradient sampling on a graph: dangling edges, the price of nodes, gradients averaged over draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import passes
from graphir.circuit import Circuit
from graphir.ir import Graph, NodeKind
from passes.learn.parametrizations import UniformGradient
from passes.learn.uniform import NodeComplexity, OnPath, UniformPart
from tests.factories import random_graph, transformer
from tests.learning import KNOWN, names, toy

SMALL = transformer(1, 2)


def probabilities(graph: Graph, seed: int) -> torch.Tensor:
    return torch.rand(len(graph.edges), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.9))
def test_a_draw_keeps_of_its_open_edges_what_a_circuit_would(seed: int, density: float) -> None:
    graph = random_graph(seed % 7)
    opened = probabilities(graph, seed) < density
    kept = OnPath(graph)(opened).numpy()
    circuit = Circuit(graph, opened.numpy(), np.ones(len(graph.nodes), bool)).on_path()
    assert (kept == circuit.edges).all()


def test_dangling_edges_are_closed_and_have_no_gradient() -> None:
    logits = torch.zeros(4, requires_grad=True)
    alive = torch.tensor([True, True, False, False])
    masks = UniformGradient(alive=lambda opened: opened & alive)
    drawn = masks.draw(logits, torch.tensor([0.0, 0.5, 0.0, 0.5]))
    assert drawn.tolist() == [1.0, 0.5, 0.0, 0.0]
    drawn.sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [0.0, 0.25, 0.0, 0.0]


def used(graph: Graph, opened: np.ndarray) -> int:
    """Nodes, neither inputs nor outputs, with an open edge into one of their ports and an open edge out."""
    count = 0
    for index, node in enumerate(graph.nodes):
        if not node.ports or node.kind is NodeKind.OUTPUT:
            continue
        into = [e for e in np.flatnonzero(opened) if index in graph.ports[graph.edge_dst[e]].nodes]
        out = [e for e in np.flatnonzero(opened) if graph.edge_src[e] == index]
        count += bool(into) and bool(out)
    return count


def test_the_price_of_nodes_is_that_of_the_expected_number() -> None:
    """Against the expectation over every set of open edges, each node's two ends being independent."""
    graph = SMALL
    drop = np.zeros(len(graph.edges), bool)
    free = list(range(0, len(graph.edges), 3))[:10]
    p = probabilities(graph, 0)
    expected = 0.0
    for bits in itertools.product([False, True], repeat=len(free)):
        opened = drop.copy()
        opened[free] = bits
        chance = np.prod([p[e] if b else 1 - p[e] for e, b in zip(free, bits, strict=True)])
        expected += float(chance) * used(graph, opened)
    logits = torch.full((len(graph.edges),), -60.0, dtype=torch.float64)
    logits[free] = p[free].logit()
    complexity = NodeComplexity(graph, torch.device("cpu"))
    m = complexity.nodes
    assert m == sum(bool(n.ports) and n.kind is not NodeKind.OUTPUT for n in graph.nodes)
    assert float(complexity(logits)) == pytest.approx(np.tanh(2 * expected / m) * m / 2, rel=1e-9)
    assert torch.autograd.gradcheck(complexity, logits[:].requires_grad_())


def test_gradients_are_means_over_the_draws_that_have_one() -> None:
    """With four draws of a quarter each: an entry seen in one has that draw's whole gradient, as one seen in all."""
    part = UniformPart("edges", {"edges": torch.zeros(3)}, UniformGradient(), rate=0.1)
    for draw in range(4):
        part.accumulate("edges", torch.tensor([2.0 if draw == 1 else 0.0, 2.0, 0.0]) / 4)
    seen: list[torch.Tensor] = []
    part.step(lambda logits: seen.append(logits) or torch.zeros_like(logits))  # type: ignore[func-returns-value]
    first, second = (state["exp_avg"] for state in [next(iter(part._optimizers["edges"].state.values()))] * 2)
    assert first[:2].tolist() == pytest.approx([0.2, 0.2])
    assert second[2] == 0
    assert len(seen) == 1


def ends(graph: Graph, node: int) -> tuple[list[int], list[int]]:
    """The edges into a node's ports, and those out of it."""
    into = [e for e, port in enumerate(graph.edge_dst.tolist()) if node in graph.ports[port].nodes]
    return into, [e for e, source in enumerate(graph.edge_src.tolist()) if source == node]


def test_the_price_presses_on_the_last_uses_of_a_node() -> None:
    """Of a node with one edge in, that edge costs more than any of the many into another."""
    graph = transformer(2, 2)
    inner = [i for i, n in enumerate(graph.nodes) if n.ports and n.kind is NodeKind.HEAD and n.layer == 1]
    one, many = (ends(graph, node) for node in inner[:2])
    logits = torch.full((len(graph.edges),), -12.0, dtype=torch.float64)
    logits[one[0][:1] + one[1][:1] + many[0] + many[1]] = 1.0
    leaf = logits.requires_grad_()
    NodeComplexity(graph, torch.device("cpu"))(leaf).backward()
    assert leaf.grad is not None
    assert float(leaf.grad[one[0][0]]) > 10 * float(leaf.grad[many[0]].max()) > 0


def test_several_masks_in_a_batch_find_the_known_edges() -> None:
    program, task = toy()
    circuit = passes.run("ugs", program, task, edges=len(KNOWN), steps=80, masks_per_batch=4)
    assert names(circuit) == KNOWN
