"""Masks learned on a bfloat16 copy of the model are masks of the model, and are measured on it."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import graphir
import passes
from dsl.builtin import BUILTIN_MODELS, build_builtin
from dsl.tasks import find_task
from graphir.errors import TraceError
from graphir.run.program import MaskedProgram
from graphir.tracing import recast
from passes.learn import precision
from passes.learn.precision import program_in
from passes.measure import Evaluator
from passes.task import Task

KNOWN = set(BUILTIN_MODELS["induction"].circuit["interchange"])


@cache
def toy() -> tuple[MaskedProgram, Task]:
    model, tokenizer = build_builtin("induction")
    examples = find_task("induction").generate({"n": 120, "seed": 0})
    task = Task.from_examples("pairs", examples, tokenizer)
    batch = next(task.batches("train", 2))
    return graphir.lower(graphir.trace(model, dict(batch.inputs))), task


def tiny(name: str) -> nn.Module:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, intermediate_size=24))
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4, n_positions=32))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_recast_graph_is_the_same_graph_and_leaves_the_model_alone(name: str) -> None:
    model = tiny(name)
    ids = torch.randint(0, 50, (2, 7))
    graph = graphir.trace(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    made = recast(graph, torch.bfloat16)
    assert [str(edge) for edge in made.edges] == [str(edge) for edge in graph.edges]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    quick, exact = graphir.lower(made), graphir.lower(graph)
    assert (quick.dtype, exact.dtype) == (torch.bfloat16, torch.float32)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    other = {**batch, "input_ids": ids.flip(0)}
    masks = exact.new_masks(edges=True)
    assert masks.edges is not None
    with torch.no_grad():
        masks.edges[::3] = 0
    low = quick(batch, counterfactual=other, masks=type(masks)(edges=masks.edges.detach().bfloat16())).logits
    high = exact(batch, counterfactual=other, masks=masks).logits
    torch.testing.assert_close(low.float(), high.detach(), atol=0.05, rtol=0.05)


def test_a_copy_whose_graph_differs_is_refused() -> None:
    class Picky(nn.Module):
        """Adds a layer in float32 only."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x.to(self.first.weight.dtype)))
            return self.second(x) + (torch.tanh(x) if x.dtype == torch.float32 else 0)

    graph = graphir.trace(Picky().eval(), (torch.randn(3, 8),), granularity="layer")
    with pytest.raises(TraceError, match="bfloat16"):
        recast(graph, torch.bfloat16)


def test_masks_learned_in_bfloat16_find_the_known_circuit() -> None:
    program, task = toy()
    circuit = passes.run("edge_pruning", program, task, edges=len(KNOWN), steps=80, precision="bfloat16")
    assert {str(edge) for edge in circuit.kept_edges()} == KNOWN
    assert circuit.graph is program.graph
    assert circuit.provenance["precision"] == "bfloat16"


def test_weights_are_learned_in_bfloat16_too() -> None:
    program, task = toy()
    options: dict[str, Any] = {"steps": 60, "completeness": 0.0, "precision": "bfloat16"}
    sheaf = passes.run("discogp", program, task, density=0.5, weights=0.6, **options)
    assert sheaf.densities()["weights"] <= 0.6
    assert Evaluator(program, task).measure_circuit(sheaf)["accuracy"] > 0.8


def test_the_copy_is_made_once_and_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    program, _ = toy()
    assert program_in(program, "model") is program
    assert program_in(program, "bfloat16") is program_in(program, "bfloat16")
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: False)
    assert program_in(program, "auto") is program
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    assert program_in(program, "auto").dtype == torch.bfloat16
