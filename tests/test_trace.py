"""Tracing: what is refused and how it is said, granularities as quotients, neuron and weight masks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphir
from graphir.errors import DataError, EquivalenceError, GraphirError, TraceError
from graphir.granularity import Choice, Granularity
from graphir.ir import NodeKind
from graphir.run.equivalence import largest_difference
from graphir.run.masks import Masks
from graphir.tracing import regrain
from graphir.verify import verify
from tests import modules, zoo


class Branching(nn.Module):
    """Takes a branch on its data, which no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.linear(x).sum() > 0:
            return self.linear(x)
        return x


def test_a_model_that_cannot_be_traced_names_the_line_and_what_to_try() -> None:
    with pytest.raises(TraceError) as caught:
        graphir.trace(Branching(), (torch.ones(2, 4),))
    assert "test_trace.py:" in str(caught.value)
    assert any("torch.where" in hint for hint in caught.value.hints)


def test_wrong_inputs_are_told_apart_from_untraceable_models() -> None:
    with pytest.raises(TraceError, match="fails on the example inputs"):
        graphir.trace(nn.Linear(4, 4), (torch.ones(2, 5),))
    with pytest.raises(TraceError, match="mapping or tuple of tensors"):
        graphir.trace(nn.Linear(4, 4), ())


def test_equivalence_above_the_tolerance_is_an_error() -> None:
    instance = zoo.build("gpt2")
    with pytest.raises(EquivalenceError, match="more than the tolerance"):
        graphir.trace(instance.model, instance.example, tolerance=0.0)


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([math.inf], [math.inf], 0.0),
        ([math.nan], [1.0], math.inf),
        ([1.0], [1.0, 2.0], math.inf),
    ],
)
def test_largest_difference(left: list[float], right: list[float], wanted: float) -> None:
    assert largest_difference(torch.tensor(left), torch.tensor(right)) == wanted


class FixedLength(modules.NormFreeTransformer):
    """Adds its whole table of positions, so that it takes prompts of one length alone; with `rows`, as many of them."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed.tokens(ids.reshape(self.rows, modules.LENGTH)) + self.embed.positions.weight
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.unembed(x)
        return logits


@pytest.mark.parametrize(
    ("rows", "note"),
    [(-1, "sequence length is fixed at the example's"), (2, "batch and sequence length are fixed at the example's")],
)
def test_what_cannot_vary_is_fixed_and_noted(rows: int, note: str) -> None:
    model = modules.prepared(FixedLength(rows))
    graph = graphir.trace(model, modules.token_example(2, modules.LENGTH))
    assert graph.notes == (note,)
    assert graph.equivalence is not None
    assert graph.equivalence < 1e-4
    assert note in str(graph)
    batch = modules.token_example(2 if rows == 2 else 3, modules.LENGTH, seed=2)
    torch.testing.assert_close(graphir.lower(graph)(batch), model(*batch), atol=1e-4, rtol=1e-4)
    assert graphir.trace(zoo.build("gpt2").model, zoo.build("gpt2").example).notes == ()


def test_the_model_is_left_as_it_was() -> None:
    model: Any = zoo.build("llama").model
    model.train()
    before = [p.requires_grad for p in model.parameters()]
    model.config.use_cache = True
    graphir.trace(model, zoo.build("llama").example)
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == before
    assert model.config.use_cache is True


def test_batches_that_do_not_fit_are_refused() -> None:
    instance = zoo.build("gpt2")
    program = graphir.lower(graphir.trace(instance.model, instance.example))
    edges = torch.ones(len(program.graph.edges))
    with pytest.raises(TraceError, match="lacks `attention_mask`"):
        program({"input_ids": instance.example["input_ids"]})
    with pytest.raises(DataError, match="equal length"):
        program(instance.example, counterfactual=instance.other, masks=Masks(edges=edges))
    with pytest.raises(DataError, match="the graph has"):
        program(instance.example, masks=Masks(edges=edges[1:]), ablation="zero")
    with pytest.raises(GraphirError, match="needs a counterfactual"):
        program(instance.example, masks=Masks(edges=edges))
    with pytest.raises(GraphirError, match="unknown ablation"):
        program(instance.example, masks=Masks(edges=edges), ablation="noise")


# --- granularity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["head", "layer", "neuron", "attention: head joint qkv, mlp: neuron", "head, layers 0..3: layer, layers 5: neuron"],
)
def test_granularity_prints_and_reads_back(text: str) -> None:
    parsed = Granularity.parse(text)
    assert Granularity.parse(str(parsed)) == parsed


@pytest.mark.parametrize("text", ["heads", "attention: neuron", "mlp: head", "mlp: neuron, width: 3"])
def test_unknown_granularity_is_refused(text: str) -> None:
    with pytest.raises(GraphirError, match="unknown"):
        Granularity.parse(text)


def test_the_last_region_that_covers_a_layer_wins() -> None:
    found = Granularity.parse("head, layers 0..3: layer, layers 2: neuron")
    assert found.at(1) == Choice("layer", "joint", "layer")
    assert found.at(2).mlp == "neuron"
    assert found.at(4) == Choice() == found.at(None)


H, N, L = 4, 128, 3  # heads, neurons and layers of the tiny GPT-2


def count(writers: list[int], ports: list[int]) -> int:
    """Edges of a sequential pre-norm stack with two embeddings: `writers` and `ports` of attention, MLP, … in order."""
    edges, seen = 0, 2
    for wrote, read in zip(writers, ports, strict=True):
        edges += read * seen
        seen += wrote
    return edges + seen


@pytest.mark.parametrize(
    ("granularity", "writers", "ports"),
    [
        ("head", [H, 1] * L, [3 * H, 1] * L),
        ("attention: head joint qkv", [H, 1] * L, [H, 1] * L),
        ("layer", [1, 1] * L, [1, 1] * L),
        ("neuron", [H, N] * L, [3 * H, 1] * L),
        ("head, layers 0..1: layer", [1, 1] * 2 + [H, 1], [1, 1] * 2 + [3 * H, 1]),
        ("attention: layer, mlp: neuron", [1, N] * L, [1, 1] * L),
    ],
)
def test_counts_at_every_granularity(granularity: str, writers: list[int], ports: list[int]) -> None:
    graph = regrain(gpt2(), granularity)
    assert len(graph.edges) == count(writers, ports)
    assert verify(graph, {name: tuple(p.shape) for name, p in graph.lifted.traced.model.named_parameters()}) == []


_GRAPHS: dict[str, Any] = {}


def gpt2() -> graphir.Graph:
    if "gpt2" not in _GRAPHS:
        instance = zoo.build("gpt2")
        _GRAPHS["gpt2"] = graphir.trace(instance.model, instance.example)
    return _GRAPHS["gpt2"]


@pytest.mark.parametrize("granularity", ["layer", "neuron", "attention: head joint qkv", "head, layers 1..1: layer"])
def test_a_coarser_mask_is_the_finer_mask_with_equal_entries(granularity: str) -> None:
    """A quotient: one entry a class, so the finest program under the gathered mask gives the same output."""
    instance = zoo.build("gpt2")
    fine, coarse = regrain(gpt2(), "neuron"), regrain(gpt2(), granularity)
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(len(coarse.edges), generator=generator)
    gathered = torch.empty(len(fine.edges))
    for edge in fine.edges:
        writer, port = coarse_node(coarse, edge.src_name), coarse_port(coarse, edge.dst_name)
        gathered[edge.index] = mask[coarse.edge_lookup[coarse.node_index[writer], coarse.port_index[port]]]
    with torch.no_grad():
        wanted = graphir.lower(fine)(instance.other, masks=Masks(edges=gathered), ablation="zero").logits
        found = graphir.lower(coarse)(instance.other, masks=Masks(edges=mask), ablation="zero").logits
    assert torch.allclose(found, wanted, atol=2e-5)


def coarse_node(graph: graphir.Graph, name: str) -> str:
    return name if name in graph.node_index else name.rpartition(".")[0]


def coarse_port(graph: graphir.Graph, name: str) -> str:
    head, _, _ = name.rpartition(".")
    candidates = [name, f"{head}.in", f"{head.rpartition('.')[0]}.in"]
    return next(c for c in candidates if c in graph.port_index)


# --- other masks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_neuron_masks_scale_hidden_features(name: str) -> None:
    """Against hooks on the input of every down projection of the original model."""
    instance = zoo.build(name)
    program = graphir.lower(graphir.trace(instance.model, instance.example))
    masks = program.new_masks(neurons=True)
    assert masks.neurons is not None
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(len(masks.neurons), generator=generator)
    outs = {"gpt2": "mlp.c_proj", "llama": "mlp.down_proj"}
    modules = [m for n, m in instance.model.named_modules() if n.endswith(outs[name])]
    width = len(values) // len(modules)

    def scaling(part: Tensor) -> Any:
        return lambda module, args: (args[0] * part,)

    with torch.no_grad():
        found = program(instance.other, masks=Masks(neurons=values), ablation="zero").logits
        hooks = [
            m.register_forward_pre_hook(scaling(values[i * width : (i + 1) * width])) for i, m in enumerate(modules)
        ]
        wanted = instance.model(**instance.other).logits
        for hook in hooks:
            hook.remove()
        zeros = Masks(neurons=torch.zeros_like(values), edges=torch.ones(len(program.graph.edges)))
        lost = program(instance.other, masks=zeros, ablation="zero").logits
        nodes = torch.tensor([float(node.kind is not NodeKind.MLP) for node in program.graph.nodes])
        without = program(instance.other, masks=Masks(nodes=nodes), ablation="zero").logits
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(lost, without, atol=1e-5)
    assert not torch.allclose(found, lost, atol=1e-2)


def test_weight_masks_multiply_parameters() -> None:
    instance = zoo.build("llama")
    program = graphir.lower(graphir.trace(instance.model, instance.example))
    masks = program.new_masks(weights=True)
    assert masks.weights is not None
    assert not any("norm" in name or "embed" in name or "lm_head" in name for name in masks.weights)
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in masks.weights.items() if isinstance(tensor, torch.Tensor)}
    assert len(shapes) == len(masks.weights)
    drawn = {n: (torch.rand(s, generator=generator) < 0.9).float().requires_grad_() for n, s in shapes.items()}
    found = program(instance.other, masks=Masks(weights=drawn)).logits
    found.logsumexp(-1).sum().backward()
    pruned = zoo.build("llama").model
    with torch.no_grad():
        for name, parameter in pruned.named_parameters():
            if name in drawn:
                parameter.mul_(drawn[name])
    pruned.requires_grad_(True)
    wanted = pruned(**instance.other).logits
    wanted.logsumexp(-1).sum().backward()
    assert torch.allclose(found, wanted, atol=1e-5)
    original = dict(instance.model.named_parameters())
    for name, mask in drawn.items():
        gradient = pruned.get_parameter(name).grad
        assert gradient is not None
        assert mask.grad is not None
        assert torch.allclose(mask.grad, gradient * original[name], atol=1e-4, rtol=1e-4), name


def test_a_batch_of_another_length_than_a_fixed_one_is_an_error_that_says_so() -> None:
    graph = graphir.trace(modules.prepared(FixedLength(-1)), modules.token_example(2, modules.LENGTH))
    program = graphir.lower(graph)
    shorter = modules.token_example(2, modules.LENGTH - 1)
    with pytest.raises(DataError, match=r"has the shape \(2, \d+\), and the model was traced for") as told:
        program(shorter)
    assert any("fixed" in hint for hint in told.value.hints)
    with pytest.raises(DataError, match="was traced for"):
        program.reference(shorter)


def test_norms_and_embeddings_are_masked_only_where_it_is_asked_for() -> None:
    instance, graph = zoo.traced("llama")
    program, names = graphir.lower(graph), {name for name, _ in instance.model.named_parameters()}
    plain = set(program.parameters_of())
    norms = {name for name in names if "norm" in name}
    ends = {name for name in names if "embed" in name or "lm_head" in name}
    assert plain == names - norms - ends
    assert set(program.parameters_of(norms=True)) - plain == norms
    assert set(program.parameters_of(embeddings=True)) - plain == ends


def test_edges_and_weights_are_masked_together() -> None:
    """Weight masks inside the mixed program: all edges kept is the pruned model."""
    instance = zoo.build("gpt2")
    program = graphir.lower(gpt2())
    masks = program.new_masks(edges=True, weights=True)
    assert masks.weights is not None
    ones = {name: tensor for name, tensor in masks.weights.items() if isinstance(tensor, torch.Tensor)}
    drawn = {n: (torch.rand(m.shape) < 0.9).float().requires_grad_() for n, m in ones.items()}
    both = program(instance.other, masks=Masks(edges=masks.edges, weights=drawn), ablation="zero").logits
    alone = program(instance.other, masks=Masks(weights=drawn)).logits
    assert torch.allclose(both, alone, atol=2e-5)
    both.logsumexp(-1).sum().backward()
    assert all(m.grad is not None and m.grad.abs().sum() > 0 for m in drawn.values())
    assert masks.edges is not None and masks.edges.grad is not None and masks.edges.grad.abs().sum() > 0
