"""A circuit as a module: it runs as the masked program does, saved and loaded too, and says what it lacks."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphir
from dsl.builtin import BUILTIN_MODELS, build_builtin
from dsl.tasks import find_task
from graphir.circuit import Circuit
from graphir.errors import DataError, GraphirError, ModelMismatchError, TraceError
from graphir.run.circuit_module import CircuitModule, hard_masks
from passes.measure import masks_of
from passes.task import Batch, Task
from tests.modules import FeedForward

KNOWN = BUILTIN_MODELS["induction"].circuit["interchange"]


@cache
def setting() -> tuple[nn.Module, graphir.Graph, Batch]:
    """The built-in model, its graph, and a batch of its task with padding."""
    model, tokenizer = build_builtin("induction")
    examples = find_task("induction").generate({"n": 60, "seed": 0})
    task = Task.from_examples("pairs", examples, tokenizer)
    batch = next(task.batches("train", 6))
    return model, graphir.trace(model, dict(next(task.batches("train", 2)).inputs)), batch


def known(**fields: Any) -> Circuit:
    return Circuit.of_edges(setting()[1], KNOWN, **fields)


def run(circuit: Circuit, *, complement: bool = False) -> Tensor:
    _, _, batch = setting()
    module = circuit.as_module(complement)
    with torch.no_grad():
        out: Tensor = module(**batch.inputs, counterfactual=batch.counterfactual)
    return out


def test_it_gives_what_the_masked_program_gives() -> None:
    _, graph, batch = setting()
    program = graphir.lower(graph)
    with torch.no_grad():
        expected = program(
            batch.inputs,
            counterfactual=batch.counterfactual,
            masks=graphir.Masks(edges=torch.tensor(known().edges * 1.0).float()),
        )
    assert torch.equal(run(known()), expected)


def test_the_known_circuit_answers_as_the_model_does() -> None:
    model, _, batch = setting()
    rows = torch.arange(len(batch))
    with torch.no_grad():
        full = model(**batch.inputs)[rows, batch.positions]
    found = run(known())[rows, batch.positions]
    assert torch.equal(found.argmax(-1), full.argmax(-1))
    assert torch.equal(found.argmax(-1), batch.answers)


def test_the_full_circuit_is_the_model_and_its_complement_the_counterfactual_run() -> None:
    model, graph, batch = setting()
    assert batch.counterfactual is not None
    with torch.no_grad():
        torch.testing.assert_close(run(Circuit.full(graph)), model(**batch.inputs))
        torch.testing.assert_close(run(Circuit.full(graph), complement=True), model(**batch.counterfactual))


def test_the_complement_keeps_what_the_circuit_drops() -> None:
    circuit = known()
    others = circuit.with_(edges=~circuit.edges, nodes=np.ones(len(circuit.nodes), bool))
    assert torch.equal(run(circuit, complement=True), run(others))


def test_an_edge_is_kept_only_with_the_node_that_writes_it() -> None:
    circuit = known()
    nodes = circuit.nodes.copy()
    nodes[circuit.graph.node_index["a0.h0"]] = False
    masks = hard_masks(circuit.with_(nodes=nodes), graphir.lower(circuit.graph))
    assert masks.edges is not None
    kept = {str(circuit.graph.edges[i]) for i in torch.nonzero(masks.edges)[:, 0].tolist()}
    assert kept == {edge for edge in KNOWN if not edge.startswith("a0.h0")}


@pytest.mark.parametrize("complement", [False, True])
def test_masks_are_those_that_circuits_are_measured_with(complement: bool) -> None:
    name = "blocks.0.attention.out.weight"
    weights = {name: np.random.default_rng(0).random((64, 64)) < 0.5}
    circuit = known(weights=weights)
    program = graphir.lower(circuit.graph)
    ours = hard_masks(circuit, program, complement=complement)
    theirs = masks_of(circuit, program, complement=complement)
    assert ours.edges is not None
    assert theirs.edges is not None
    assert torch.equal(ours.edges, theirs.edges)
    assert ours.weights is not None
    assert theirs.weights is not None
    mine, other = ours.weights[name], theirs.weights[name]
    assert isinstance(mine, torch.Tensor)
    assert isinstance(other, torch.Tensor)
    assert torch.equal(mine, other)
    kept = torch.as_tensor(~weights[name] if complement else weights[name])
    assert torch.equal(mine.to(torch.bool), kept)


def test_zero_ablation_needs_no_counterfactual() -> None:
    _, graph, batch = setting()
    nothing = Circuit(graph, np.zeros(len(graph.edges), bool), np.ones(len(graph.nodes), bool), ablation="zero")
    with torch.no_grad():
        out = nothing.as_module()(**batch.inputs)
    assert torch.equal(out, torch.zeros_like(out))  # no biases in this model


@pytest.mark.parametrize("ablation", ["mean", "mean by position"])
def test_mean_ablation_asks_for_its_means(ablation: str) -> None:
    _, _, batch = setting()
    module = known(ablation=ablation).as_module()
    assert isinstance(module, CircuitModule)
    with pytest.raises(GraphirError, match="there are none yet"):
        module(**batch.inputs)
    module.take_means([batch.inputs])
    with torch.no_grad():
        out = module(**batch.inputs)
        means = module.program.means([batch.inputs], per_position=ablation == "mean by position")
        expected = module.program(batch.inputs, masks=module.masks, reference=means)
    assert torch.equal(out, expected)


def test_a_counterfactual_is_asked_for_and_looked_at() -> None:
    _, _, batch = setting()
    module = known().as_module()
    with pytest.raises(GraphirError, match="needs a counterfactual"):
        module(**batch.inputs)
    shorter = {name: value[:, 1:] for name, value in batch.inputs.items()}
    with pytest.raises(DataError, match="the counterfactual's `input_ids` has shape"):
        module(**batch.inputs, counterfactual=shorter)


def test_inputs_that_the_model_was_not_traced_with() -> None:
    _, _, batch = setting()
    module = known().as_module()
    with pytest.raises(TraceError, match="the batch lacks `attention_mask`"):
        module(input_ids=batch.inputs["input_ids"], counterfactual=batch.counterfactual)
    with pytest.raises(GraphirError, match="all inputs by position or all by name"):
        module(batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"])


def test_it_owns_nothing_and_cannot_be_moved() -> None:
    module = known().as_module()
    assert module.state_dict() == {}
    assert list(module.parameters()) == []
    assert module.to("cpu") is module
    assert module.eval() is module
    with pytest.raises(GraphirError, match="cannot be moved or cast"):
        module.to(torch.float64)
    assert "5/106 edges" in repr(module)


def test_a_module_traced_with_positional_inputs_is_called_with_them() -> None:
    torch.manual_seed(0)
    model = FeedForward().eval()
    x, other = torch.randn(3, 5), torch.randn(3, 5)
    graph = graphir.trace(model, (x,), granularity="neuron")
    module = Circuit.full(graph).as_module()
    with torch.no_grad():
        torch.testing.assert_close(module(x, counterfactual=other), model(x))
        torch.testing.assert_close(module(x, counterfactual=(other,)), model(x))


def test_a_saved_circuit_loads_and_runs_the_same(tmp_path: Path) -> None:
    model, _, _ = setting()
    known().save(tmp_path / "found")
    again = Circuit.load(tmp_path / "found", model)
    assert torch.equal(run(again), run(known()))
    alone = Circuit.load(tmp_path / "found")
    with pytest.raises(GraphirError, match="no model behind it"):
        alone.as_module()


def test_a_saved_circuit_does_not_run_on_another_model(tmp_path: Path) -> None:
    known().save(tmp_path / "found")
    other, _ = build_builtin("induction")
    with torch.no_grad():
        other.unembed.weight[0, 0] += 1
    with pytest.raises(ModelMismatchError, match="belongs to another model"):
        Circuit.load(tmp_path / "found", other)
