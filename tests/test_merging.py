"""Neurons with the same edges as one writer: the same run, and nothing held for each neuron."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import graphir
from graphir.circuit import Circuit
from graphir.run import masked_run
from graphir.run.circuit_module import hard_masks
from graphir.run.mix import StreamBuffer
from graphir.shrink.compare import merge_equal
from graphir.tracing import regrain
from graphir.tracing.merging import merge_neurons
from tests import zoo


def random_circuit(graph: graphir.Graph, seed: int, **fields: object) -> Circuit:
    """Nodes dropped at random, and in one MLP an edge of every third neuron."""
    rng = np.random.default_rng(seed)
    nodes = rng.random(len(graph.nodes)) < 0.7
    edges = np.ones(len(graph.edges), bool)
    src, last = np.asarray(graph.edge_src), int(np.asarray(graph.edge_dst).max())
    third = [i for i, node in enumerate(graph.nodes) if node.name.startswith("m0.n")][::3]
    edges[np.isin(src, third) & (np.asarray(graph.edge_dst) == last)] = False
    return Circuit(graph, edges, nodes, **{"ablation": "zero", **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "gemma2"])
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_merged_neurons_compute_the_same(name: str, ablation: str) -> None:
    instance, coarse = zoo.traced(name)
    graph = regrain(coarse, "neuron")
    program = graphir.lower(graph)
    circuit = random_circuit(graph, 3, ablation=ablation)
    masks = hard_masks(circuit, program)
    means = program.means([instance.example, instance.other]) if ablation == "mean" else None
    merged, fewer, reference = merge_equal(program, masks, means)
    neurons = sum(node.kind == "neuron" for node in graph.nodes)
    assert len(graph.nodes) - len(merged.graph.nodes) >= neurons - 4 * len(program.neurons)
    for batch in (instance.example, instance.other):
        with torch.no_grad():
            wanted = program.outputs(batch, masks=masks, ablation=ablation, reference=means)
            found = merged.outputs(batch, masks=fewer, ablation=ablation, reference=reference)
        for mine, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-5)


def test_what_is_not_a_neuron_stays_and_edges_are_those_of_a_member() -> None:
    graph = regrain(zoo.traced("llama")[1], "attention: head, mlp: layer, layers 1..1: neuron")
    merged = merge_neurons(graph, lambda _, nodes: np.arange(len(nodes)) // 5)
    assert merged is not None
    for was, became in zip(graph.nodes, (merged.graph.nodes[i] for i in merged.nodes), strict=True):
        assert was.kind == became.kind and (was.kind == "neuron" or was.name == became.name)
    made = merged.graph
    np.testing.assert_array_equal(graph.edge_dst[merged.edges], made.edge_dst)
    np.testing.assert_array_equal(merged.nodes[graph.edge_src[merged.edges]], made.edge_src)
    assert merge_neurons(zoo.traced("llama")[1], lambda _, nodes: nodes - nodes[0]) is None


def test_tracing_by_neuron_and_shrinking_hold_no_row_for_each_neuron(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    class Counting(StreamBuffer):
        def __init__(self, count: int, shape: tuple[int, ...], like: Tensor) -> None:
            rows.append(count)
            super().__init__(count, shape, like)

    monkeypatch.setattr(masked_run, "StreamBuffer", Counting)
    instance = zoo.build("llama")
    graph = graphir.trace(instance.model, instance.example, "neuron")
    neurons = sum(node.kind == "neuron" for node in graph.nodes)
    assert rows and max(rows) <= len(graph.nodes) - neurons + 2 * 3
    rows.clear()
    keep = np.array([node.kind != "neuron" or i % 3 > 0 for i, node in enumerate(graph.nodes)])
    small = Circuit(graph, np.ones(len(graph.edges), bool), keep, ablation="zero").shrink()
    assert small.report is not None and small.report.exact
    assert rows and max(rows) <= len(graph.nodes) - neurons + 2 * 3
