"""Ungrouped key/value ports: each head of grouped attention reads keys and values through ports of its own.

The oracle is the same model with its shared projections written out once a head: the library's own model with as many
key/value heads as query heads, whose graph is the ungrouped one and whose masked runs must be the same.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graphir
from graphir.cost import edge_count, measure_cost, parameter_count
from graphir.errors import GraphirError
from graphir.ir import Graph
from graphir.text import parse_graph
from graphir.verify import verify
from tests import zoo
from tests.test_zoo_counts import Expected, parallel, sequential

H, K = zoo.HEADS, zoo.GROUPS
SPLIT = "attention: head split qkv, key_value: ungrouped"
JOINT = "attention: head joint qkv, key_value: ungrouped"

# Separate projections, one fused matrix, one shared key/value head, a parallel block, norms on queries and keys.
FAMILIES: dict[str, Expected] = {
    "llama": sequential(3, H, H, 1),
    "phi3": sequential(2, H, H, 1),
    "falcon_multi_query": parallel(2, H, H, 1),
    "phi": parallel(2, H, H, 1),
    "qwen3": sequential(2, H, H, 1),
}


@cache
def ungrouped(name: str, granularity: str = SPLIT) -> Graph:
    instance = zoo.build(name)
    return graphir.trace(instance.model, instance.example, granularity=granularity)


@cache
def written_out() -> tuple[Any, Graph]:
    """Llama with every head's key and value projection of its own, holding the shared ones' values."""
    shared, own = zoo.build("llama"), zoo.build("llama", num_key_value_heads=H)
    weights = dict(shared.model.state_dict())
    for name, value in weights.items():
        if "k_proj" in name or "v_proj" in name:
            weights[name] = value.view(K, -1, value.shape[-1]).repeat_interleave(H // K, 0).flatten(0, 1)
    own.model.load_state_dict(weights)
    return own, graphir.trace(own.model, own.example)


def random_mask(graph: Graph, seed: int) -> torch.Tensor:
    return torch.rand(len(graph.edges), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_head_has_its_own_ports_and_the_model_is_the_same(name: str) -> None:
    graph = ungrouped(name)
    assert (len(graph.edges), len(graph.ports)) == (FAMILIES[name].edges, FAMILIES[name].ports)
    assert len(graph.edges) == edge_count(zoo.traced(name)[1], ungrouped=True)
    assert graph.equivalence is not None
    assert graph.equivalence < 1e-4
    assert {f"a1.h{h}.{port}" for h in range(H) for port in "qkv"} <= set(graph.port_index)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("granularity", [SPLIT, JOINT])
def test_a_shared_projection_is_owned_once_by_the_ports_that_share_it(name: str, granularity: str) -> None:
    model, graph = zoo.build(name).model, ungrouped(name, granularity)
    assert verify(graph, {key: tuple(value.shape) for key, value in model.named_parameters()}) == []
    assert parameter_count(graph) == sum(value.numel() for value in model.parameters())
    grouped = zoo.traced(name)[1]
    assert measure_cost(graph).parameters == measure_cost(grouped).parameters
    assert measure_cost(graph).flops == measure_cost(grouped).flops
    assert sorted(graphir.lower(graph).maskable) == sorted(graphir.lower(grouped).maskable)


def test_a_masked_run_and_its_gradient_are_those_of_the_model_with_projections_written_out() -> None:
    instance, theirs = written_out()
    ours = ungrouped("llama")
    assert {str(edge) for edge in ours.edges} == {str(edge) for edge in theirs.edges}
    place = torch.tensor([theirs.edge(str(edge)).index for edge in ours.edges])
    corrupt = {**instance.other, "input_ids": instance.other["input_ids"].flip(0)}
    found = []
    for graph, order in ((ours, None), (theirs, torch.argsort(place))):
        mask = random_mask(ours, 3)
        mask = (mask if order is None else mask[order]).requires_grad_()
        logits = graphir.lower(graph)(instance.other, counterfactual=corrupt, masks=graphir.Masks(edges=mask)).logits
        (gradient,) = torch.autograd.grad(logits.pow(2).sum(), mask)
        found.append((logits, gradient if order is None else gradient[place]))
    (mine, my_gradient), (other, other_gradient) = found
    torch.testing.assert_close(mine, other, atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(my_gradient, other_gradient, atol=2e-2, rtol=2e-3)


@pytest.mark.parametrize("granularity", [SPLIT, JOINT])
@pytest.mark.parametrize("name", ["llama", "phi3", "falcon_multi_query"])
def test_masks_that_are_equal_within_a_group_are_the_groups(name: str, granularity: str) -> None:
    instance, graph = zoo.build(name), ungrouped(name, granularity)
    grouped = graphir.trace(instance.model, instance.example, granularity.partition(", key")[0])
    mask = random_mask(grouped, 1)
    spread = torch.stack([mask[grouped.edge(str(edge)).index] for edge in graph.edges])
    if "joint" in granularity:  # the heads of a group have one port there
        assert len(graph.edges) > len(grouped.edges)
    outputs = [
        graphir.lower(g)(instance.other, masks=graphir.Masks(edges=m), ablation="zero").logits
        for g, m in ((grouped, mask), (graph, spread))
    ]
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-4, rtol=1e-4)


def test_with_all_masks_at_zero_it_is_the_counterfactual_run() -> None:
    instance, graph = zoo.build("llama"), ungrouped("llama")
    corrupt = {**instance.other, "input_ids": instance.other["input_ids"].flip(0)}
    program = graphir.lower(graph)
    masks = graphir.Masks(edges=torch.zeros(len(graph.edges)))
    with torch.no_grad():
        found = program(instance.other, counterfactual=corrupt, masks=masks).logits
        torch.testing.assert_close(found, instance.model(**corrupt).logits, atol=1e-5, rtol=1e-5)


def test_one_head_of_a_group_is_cut_off_alone() -> None:
    """What no mask of shared ports can do: the second head of a group keeps its keys when the first loses them."""
    graph = ungrouped("llama")
    program = graphir.lower(graph)
    batch = zoo.build("llama").other

    def heads(masks: graphir.Masks | None) -> torch.Tensor:
        """The logits of each head of layer 0 by itself."""
        found = []
        for head in range(H):
            mask = torch.ones(len(graph.edges)) if masks is None else masks.edges.clone()  # type: ignore[union-attr]
            for edge in graph.edges:
                if edge.dst_name == "logits.in":
                    mask[edge.index] = float(edge.src_name == f"a0.h{head}")
            found.append(program(batch, masks=graphir.Masks(edges=mask), ablation="zero").logits)
        return torch.stack(found)

    mask = torch.ones(len(graph.edges))
    mask[graph.edge("embed -> a0.h0.k").index] = 0
    with torch.no_grad():
        changed = (heads(None) - heads(graphir.Masks(edges=mask))).abs().amax((1, 2, 3)) > 1e-4
    assert changed.tolist() == [True, *[False] * (H - 1)]


def test_text_and_saves_keep_the_ports(tmp_path: Path) -> None:
    graph = ungrouped("llama")
    assert str(parse_graph(str(graph))) == str(graph)
    graphir.Circuit.full(graph).save(tmp_path / "full")
    loaded = graphir.Circuit.load(tmp_path / "full", zoo.build("llama").model)
    assert [str(edge) for edge in loaded.graph.edges] == [str(edge) for edge in graph.edges]
    assert str(loaded.graph.granularity) == str(graph.granularity)
    assert loaded.graph.ports == graph.ports
    batch = zoo.build("llama").other
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.as_module()(**batch, counterfactual=batch).logits,
            zoo.build("llama").model(**batch).logits,
            atol=1e-4,
            rtol=1e-4,
        )


def test_granularity_is_written_and_read() -> None:
    text = "attention: head split qkv, mlp: layer, key_value: ungrouped, layers 1..2: layer"
    assert str(graphir.Granularity.parse(text)) == text
    assert graphir.Granularity.parse(SPLIT).at(0).key_value == "ungrouped"
    with pytest.raises(GraphirError, match="unknown key/value granularity `loose`"):
        graphir.Granularity.parse("key_value: loose")


def test_scores_of_a_group_are_the_sum_of_its_heads() -> None:
    """The gradient of a mask that is shared is the sum of the gradients of its copies."""
    instance, graph = zoo.build("llama"), ungrouped("llama")
    grouped = zoo.traced("llama")[1]
    corrupt = {**instance.other, "input_ids": instance.other["input_ids"].flip(0)}

    def scores(g: Graph) -> np.ndarray:
        found = graphir.lower(g).attribute(instance.other, corrupt, lambda out: out[0].pow(2).sum())
        return found.numpy()

    summed = np.zeros(len(grouped.edges))
    for edge, score in zip(graph.edges, scores(graph), strict=True):
        summed[grouped.edge(str(edge)).index] += score
    np.testing.assert_allclose(summed, scores(grouped), atol=2e-2, rtol=2e-3)
