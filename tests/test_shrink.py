"""Shrinking models with streams: the smaller module equals the masked program, and is smaller by the formula."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphir
from graphir.circuit import Circuit
from graphir.errors import GraphirError
from graphir.ir import Graph
from graphir.shrink import ShrinkError
from graphir.tracing import regrain
from tests import zoo
from tests.zoo import HEADS, INNER, WIDTH

HEAD = WIDTH // HEADS


def without(graph: Graph, dropped: Collection[str], **fields: object) -> Circuit:
    """The circuit that drops these nodes and keeps every edge between the others."""
    assert set(dropped) <= set(graph.node_index)
    keep = np.array([node.name not in dropped for node in graph.nodes])
    return Circuit(graph, np.ones(len(graph.edges), bool), keep, **{"ablation": "zero", **fields})  # type: ignore[arg-type]


def scalars(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def logits(output: object) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits  # type: ignore[attr-defined]


def gap(small: nn.Module, circuit: Circuit, *batches: dict[str, Tensor], means: object = None) -> float:
    masked = circuit.as_module()
    if means is not None:
        masked.take_means(means)  # type: ignore[operator]
    with torch.no_grad():
        return max(float((logits(small(**b)) - logits(masked(**b))).abs().max()) for b in batches)


@pytest.fixture(scope="module")
def fine() -> dict[str, tuple[zoo.Instance, Graph]]:
    return {n: (zoo.traced(n)[0], regrain(zoo.traced(n)[1], "neuron")) for n in ("gpt2", "llama", "bert")}


NEURONS = {f"m1.n{i}" for i in range(20)}
REMOVED = {
    # heads own rows of the fused projection with their bias, and columns of the output; neurons a row, bias, column
    "gpt2": ({"a0.h1", "a0.h3", "a2.h0"} | NEURONS, 3 * (3 * (WIDTH + 1) * HEAD + HEAD * WIDTH) + 20 * (2 * WIDTH + 1)),
    # one query head of each group, a whole group with its keys and values; neurons have two rows and no bias
    "llama": ({"a0.h1", "a0.h2", "a1.h2", "a1.h3"} | NEURONS, 4 * 2 * HEAD * WIDTH + 2 * HEAD * WIDTH + 20 * 3 * WIDTH),
    "bert": ({"a0.h1", "a1.h0", "a1.h3"} | NEURONS, 3 * (3 * (WIDTH + 1) * HEAD + HEAD * WIDTH) + 20 * (2 * WIDTH + 1)),
}


@pytest.mark.parametrize("name", REMOVED)
def test_heads_and_neurons_go_and_nothing_else_changes(name: str, fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    instance, graph = fine[name]
    dropped, formula = REMOVED[name]
    circuit = without(graph, dropped)
    small = circuit.shrink()
    assert gap(small, circuit, instance.example, instance.other) < 1e-5
    assert scalars(instance.model) - scalars(small) == formula
    assert small.report.exact and small.report.left == ()
    assert small.report.before.parameters - small.report.after.parameters == formula
    assert small.report.after.flops < small.report.before.flops


def test_names_and_unpruned_parameters_stay(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    instance, graph = fine["llama"]
    small = without(graph, {"a0.h2", "a0.h3"}).shrink()
    before, after = instance.model.state_dict(), small.state_dict()
    assert set(after) == set(before)
    changed = {name for name in before if before[name].shape != after[name].shape}
    assert changed == {f"model.layers.0.self_attn.{x}_proj.weight" for x in "qkvo"}
    assert tuple(after["model.layers.0.self_attn.k_proj.weight"].shape) == (HEAD, WIDTH)
    assert all(torch.equal(before[name], after[name]) for name in set(before) - changed)


def test_tied_embeddings_stay_tied(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    small = without(fine["gpt2"][1], {"m0.n3"}).shrink()
    assert small.get_submodule("lm_head").weight is small.get_submodule("transformer.wte").weight


def test_uneven_groups_keep_a_head_in_shape_and_say_so(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    instance, graph = fine["llama"]
    circuit = without(graph, {"a0.h0"})
    small = circuit.shrink()
    assert gap(small, circuit, instance.example, instance.other) < 1e-5
    assert small.report.left == ("a0.h0 (in shape, its output columns are zero)",)
    assert scalars(small) == scalars(instance.model)


def test_layers_go_whole_and_leave_their_bias(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    instance, graph = fine["gpt2"]
    circuit = without(graph, {n.name for n in graph.nodes if n.layer == 1})
    small = circuit.shrink()
    assert gap(small, circuit, instance.example, instance.other) < 1e-5
    kept = [name for name in small.state_dict() if name.startswith("transformer.h.1.")]
    assert kept == []  # what it still writes is a constant of its own
    constants = [p.numel() for name, p in small.named_parameters() if "constant" in name]
    assert constants == [WIDTH, WIDTH]
    whole = sum(p.numel() for name, p in instance.model.named_parameters() if name.startswith("transformer.h.1."))
    assert scalars(instance.model) - scalars(small) == whole - 2 * WIDTH


def test_means_become_biases(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    instance, graph = fine["llama"]
    circuit = without(graph, {"a0.h1", "a0.h2", "m1.n0", "m1.n7", "m0.n1"}, ablation="mean")
    small = circuit.shrink(means=[instance.example])
    assert gap(small, circuit, instance.example, instance.other, means=[instance.example]) < 1e-5
    assert small.get_submodule("model.layers.0.self_attn.o_proj").bias.shape == (WIDTH,)


def test_what_nobody_reads_goes_too(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    _, graph = fine["gpt2"]
    cut = np.array([not str(edge).startswith("a1.h2 ->") for edge in graph.edges])
    circuit = Circuit(graph, cut, np.ones(len(graph.nodes), bool), ablation="zero")
    assert scalars(circuit.shrink()) == scalars(without(graph, {"a1.h2"}).shrink())


def test_weight_masks_stay_as_zeros(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    instance, graph = fine["gpt2"]
    name = "transformer.h.0.mlp.c_fc.weight"
    mask = np.random.default_rng(0).random(tuple(instance.model.get_parameter(name).shape)) < 0.5
    circuit = without(graph, {"a0.h1"}, weights={name: mask})
    small = circuit.shrink()
    assert gap(small, circuit, instance.example, instance.other) < 1e-5
    assert not small.state_dict()[name][torch.as_tensor(~mask)].any()


def test_weights_alone_can_go_whatever_the_ablation(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    instance, graph = fine["gpt2"]
    name = "transformer.h.1.mlp.c_fc.weight"
    mask = np.random.default_rng(1).random(tuple(instance.model.get_parameter(name).shape)) < 0.5
    circuit = without(graph, set(), weights={name: mask}, ablation="interchange")
    small = circuit.shrink()
    zeros = without(graph, set(), weights={name: mask})
    assert gap(small, zeros, instance.example, instance.other) < 1e-5
    assert not small.state_dict()[name][torch.as_tensor(~mask)].any()


def test_gradients_flow_and_training_changes_only_the_copy(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    instance, graph = fine["bert"]
    before = {n: p.clone() for n, p in instance.model.named_parameters()}
    small = without(graph, {"a0.h0", "m0.n5"}).shrink()
    logits(small(**instance.example)).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert all(torch.equal(before[n], p) for n, p in instance.model.named_parameters())


def test_fused_and_multi_query_attention() -> None:
    for name in ("phi3",):
        instance, graph = zoo.traced(name)
        circuit = without(graph, {"a0.h1", "a1.h0", "a1.h3"})
        assert gap(circuit.shrink(), circuit, instance.example, instance.other) < 1e-5


# --- bad input ----------------------------------------------------------------------------------------------------


def test_dropped_edges_between_kept_nodes_are_refused_or_kept(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    instance, graph = fine["gpt2"]
    edges = np.ones(len(graph.edges), bool)
    edges[graph.edge("a0.h1 -> a1.h0.q").index] = False
    circuit = Circuit(graph, edges, without(graph, {"a0.h0"}).nodes, ablation="zero")
    with pytest.raises(ShrinkError, match=r"1 edges are dropped .* `a0.h1 -> a1.h0.q`") as caught:
        circuit.shrink()
    assert caught.value.left == ("a0.h1 -> a1.h0.q",)
    small = circuit.shrink(strict=False)
    assert small.report.left == ("edge a0.h1 -> a1.h0.q",)
    assert not small.report.exact
    assert gap(small, small.report.circuit, instance.example) < 1e-5
    assert gap(small, circuit, instance.example) > 1e-4


def test_a_norm_after_the_output_keeps_its_units_together() -> None:
    instance, graph = zoo.traced("gemma2")
    circuit = without(graph, {"a0.h1"})
    with pytest.raises(ShrinkError, match="a norm follows the output of `a0`"):
        circuit.shrink()
    small = circuit.shrink(strict=False, tolerance=1e-4)
    assert small.report.left == ("a0.h1",)
    whole = without(graph, {n.name for n in graph.nodes if n.name.startswith("a0.")})
    gone = whole.shrink()
    assert gap(gone, whole, instance.example, instance.other) < 1e-4
    assert scalars(gone) < scalars(instance.model)


@pytest.mark.parametrize("ablation", ["interchange", "noise"])
def test_ablation_by_another_run_is_refused(ablation: str, fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    with pytest.raises(ShrinkError, match="depends on another run"):
        without(fine["gpt2"][1], {"a0.h0"}, ablation=ablation).shrink()


def test_means_of_each_position_are_refused(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    instance, graph = fine["gpt2"]
    with pytest.raises(ShrinkError, match="depends on the position"):
        without(graph, {"a0.h0"}, ablation="mean by position").shrink(means=[instance.example])


def test_means_must_be_given_and_hold_everywhere(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    instance, graph = fine["gpt2"]
    circuit = without(graph, {"a0.h0"}, ablation="mean")
    with pytest.raises(ShrinkError, match="there are none yet"):
        circuit.shrink()
    by_position = graphir.lower(graph).means([instance.example], per_position=True)
    with pytest.raises(ShrinkError, match="each position"):
        circuit.shrink(means=by_position)


def test_a_graph_without_its_model_is_refused(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    graph = fine["gpt2"][1].with_(lifted=None)
    with pytest.raises(GraphirError, match="no model behind it"):
        without(graph, {"a0.h0"}).shrink()


def test_a_stream_with_nothing_in_it_stays_in_shape(fine: dict[str, tuple[zoo.Instance, Graph]]) -> None:
    instance, graph = fine["bert"]
    norm = next(n.name for n in graph.nodes if n.kind == "norm" and n.layer == 0)
    circuit = without(graph, {norm})
    small = circuit.shrink()
    assert gap(small, circuit, instance.example, instance.other) < 1e-5
    assert f"{norm} (multiplied by zero: its shape is read)" in small.report.left


assert INNER > 20  # the neurons that are dropped leave some
