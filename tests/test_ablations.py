"""What stands in for an ablated value: means by template, noise, learned constants; and constants that are saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphir
import passes
from dsl.builtin import build_builtin
from graphir.circuit import Circuit
from graphir.errors import DataError, GraphirError
from graphir.run.circuit_module import hard_masks
from graphir.run.constants import constants_of, reference_of, writer_names
from graphir.run.masks import Masks
from graphir.run.noise import noisy_reference
from graphir.run.program import Reference
from passes.ablations import ReferenceSource
from passes.measure import Evaluator
from passes.metrics import kl_from, logits_at
from passes.optimal_constants import divergence, learn_constants, with_optimal_constants
from passes.task import Padding
from tests.attribution_reference import Tiny, random_task, tiny
from tests.test_passes import KNOWN, toy


def by_name(it: Tiny, reference: Reference) -> dict[str, Tensor]:
    """Ablation values by writer."""
    names = writer_names(it.program)
    return {n: row for leaf, rows in reference.writers.items() for n, row in zip(names[leaf], rows, strict=True)}


def test_means_by_position_keep_positions_apart() -> None:
    """Also those of an embedding of positions, which is the same for every row."""
    program, task = toy()
    found = ReferenceSource(program, replace(task, ablation="mean by position"))(next(task.batches("train", 4)))
    leaf = next(w.leaf for w in program.lifted.sources if w.name == "pos")  # type: ignore[attr-defined]
    one = program.reference(next(task.batches("train", 1)).inputs).writers[leaf]
    assert found.writers[leaf].dim() == 4
    assert torch.allclose(found.writers[leaf][:, :, : one.shape[2]], one, atol=1e-6)


def test_means_by_position_reach_as_far_as_held_out_prompts() -> None:
    """Positions of training inputs are averaged over these alone, later ones over the longer inputs of other splits."""
    it = tiny("gpt2")
    task = random_task(rows=12, lengths=(4, 6), ablation="mean by position")
    every = [row for rows in task.splits.values() for row in rows]
    short, long = ([row for row in every if len(row) == length] for length in (4, 6))
    task = replace(task, splits={"train": tuple(short[:3]), "test": tuple(long[:3])})
    found = by_name(it, ReferenceSource(it.program, task)(task.collate(long[:1])))
    known = by_name(it, it.program.means([task.collate(short[:3]).inputs], per_position=True))
    later = by_name(it, it.program.means([task.collate(long[:3]).inputs], per_position=True))
    for name, value in found.items():
        assert torch.allclose(value[..., :4, :], known[name], atol=1e-6)
        assert torch.allclose(value[..., 4:, :], later[name][..., 4:, :], atol=1e-6)
    assert Evaluator(it.program, task).empty["kl"] > 0


def test_neurons_are_scored_against_means_by_position_of_longer_prompts_too() -> None:
    """Scores of short prompts are those against means of as many positions."""
    it = tiny("gpt2")
    task = random_task(rows=12, lengths=(4, 6), ablation="mean by position")
    every = [row for rows in task.splits.values() for row in rows]
    short, long = ([row for row in every if len(row) == length] for length in (4, 6))
    means = it.program.means([task.collate(short).inputs, task.collate(long).inputs], per_position=True)
    batch = task.collate(short)
    masks = Masks(neurons=torch.linspace(0, 1, max(stop for _, stop in it.program.neurons.values())))
    cut = Reference(
        writers={leaf: value[..., :4, :] for leaf, value in means.writers.items()},
        hidden={leaf: value[..., :4, :] for leaf, value in means.hidden.items()},
    )
    (found,), (wanted,) = (it.program.outputs(batch.inputs, masks=masks, reference=each) for each in (means, cut))
    assert torch.equal(found, wanted)
    scores = passes.run("neuron_attribution", it.program, task, batch_size=2).scores["neurons"]
    assert np.isfinite(scores).all() and np.abs(scores).max() > 0


@pytest.mark.parametrize("padding", ["right", "left"])
def test_means_by_template_are_over_equal_prompts(padding: Padding) -> None:
    it = tiny("gpt2")
    task = replace(random_task(rows=8, lengths=(6, 4), ablation="mean by template"), padding=padding)
    batch = next(task.batches("train", 4))
    found = by_name(it, ReferenceSource(it.program, task)(batch))
    for place, row in enumerate(batch.examples):
        alike = [
            other for other in task.examples("train")
            if (other.example.template, len(other)) == (row.example.template, len(row))
        ]  # fmt: skip
        assert len(alike) > 1
        writes = it.reference.writes(task.collate(alike).inputs)
        length = batch.inputs["input_ids"].shape[1]
        own = slice(length - len(row), length) if padding == "left" else slice(0, len(row))
        for writer, value in writes.items():
            values = found[writer].expand(len(batch), *found[writer].shape[1:])
            assert torch.allclose(values[place, own], value.mean(0), atol=1e-10), writer


def test_held_out_templates_have_means_of_their_own() -> None:
    it = tiny("llama")
    task = random_task(rows=8, ablation="mean by template")
    renamed = [replace(r, example=replace(r.example, template="unseen")) for r in task.examples("test")]
    task = replace(task, splits={**task.splits, "test": tuple(renamed)})
    metrics = Evaluator(it.program, task, "test").measure(
        Masks(edges=torch.zeros(len(it.program.graph.edges)).double())
    )
    assert np.isfinite(metrics["kl"])
    batch = next(task.batches("test", 8))
    found = by_name(it, ReferenceSource(it.program, task)(batch))["m1"]
    assert torch.allclose(found[0], it.reference.writes(batch.inputs)["m1"].mean(0), atol=1e-10)


def test_a_template_of_one_example_has_no_mean_of_its_own() -> None:
    """Its mean would be itself: nothing would be ablated, and any circuit would do the task."""
    it = tiny("llama")
    task = random_task(rows=8, ablation="mean by template")
    first, *others = task.examples("train")
    alone = replace(first, example=replace(first.example, template="alone"))
    task = replace(task, splits={**task.splits, "train": (alone, *others)})
    with pytest.raises(DataError, match="have a template and a length that no other has") as error:
        ReferenceSource(it.program, task)
    assert "or ablate mean by position" in error.value.hints


def test_noise_has_the_stated_size_and_runs_through_the_model() -> None:
    it = tiny("llama")
    rows = random_task(rows=32)
    batch = next(rows.batches("train", 32))
    clean = it.reference.writes(batch.inputs)
    found = by_name(it, noisy_reference(it.program, batch.inputs))
    scale = clean["embed"].flatten(1).std(1)[:, None, None]
    noise = (found["embed"] - clean["embed"]) / scale
    assert float(noise.std()) == pytest.approx(3, rel=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=0.1)
    assert (found["m1"] - clean["m1"]).abs().max() > 0.01
    none = by_name(it, noisy_reference(it.program, batch.inputs, scale=0.0))
    assert torch.allclose(none["m1"], clean["m1"], atol=1e-10)


def test_noise_follows_from_the_example_alone() -> None:
    """Whatever else is in the batch, and however far it is padded."""
    it = tiny("gpt2")
    task = random_task(rows=4, lengths=(4, 6))
    rows = task.examples("train")
    alone = by_name(it, noisy_reference(it.program, task.collate(rows[:1]).inputs))
    together = by_name(it, noisy_reference(it.program, task.collate(rows).inputs))
    for writer, value in alone.items():
        assert torch.allclose(together[writer][0][: len(rows[0])], value[0], atol=1e-9), writer


def test_noise_needs_something_to_add_to() -> None:
    table = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Linear(4, 3)).eval()
    example = (torch.tensor([[1], [2], [3]]),)
    program = graphir.lower(graphir.trace(table, example))
    if not hasattr(program, "lifted"):
        with pytest.raises(GraphirError, match="noise ablation needs"):
            noisy_reference(program, example)


def test_constants_go_by_name_and_come_back() -> None:
    it = tiny("gpt2")
    batch = next(it.task.batches("train", 4))
    means = it.program.means([batch.inputs])
    constants = constants_of(it.program, means)
    assert set(it.reference.writers) <= set(constants)
    back = by_name(it, reference_of(it.program, constants))
    for writer, value in by_name(it, means).items():
        assert torch.allclose(back[writer], value, atol=1e-6)
    constants.pop("m1")
    with pytest.raises(DataError, match="no ablation constant for m1"):
        reference_of(it.program, constants)


def test_the_optimal_constant_is_the_minimum() -> None:
    """Of one writer, ablated everywhere: against L-BFGS on the same loss in float64."""
    it = tiny("llama")
    task, batch = it.task, next(it.task.batches("train", 4))
    graph = it.program.graph
    edges = torch.tensor([edge.src_name != "m0" for edge in graph.edges]).double()
    learned = learn_constants(it.program, task, Masks(edges=edges), steps=150, batch_size=4)
    means = it.program.means([batch.inputs])
    leaf = next(leaf for leaf, names in writer_names(it.program).items() if names == ("m0",))
    value = means.writers[leaf].clone().requires_grad_()
    full = logits_at(it.program.outputs(batch.inputs), batch).detach()
    optimizer = torch.optim.LBFGS([value], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def loss() -> Tensor:
        optimizer.zero_grad()
        reference = Reference(writers={**means.writers, leaf: value})
        outputs = it.program.outputs(batch.inputs, masks=Masks(edges=edges), reference=reference)
        total = kl_from(full, logits_at(outputs, batch)).mean()
        total.backward()
        return total

    optimizer.step(loss)
    start = divergence(it.program, task, Masks(edges=edges), means)
    best = float(loss().detach())
    found = divergence(it.program, task, Masks(edges=edges), learned.reference())
    assert best < start
    assert best - 1e-9 <= found <= best + 0.1 * (start - best)


def test_optimal_constants_are_never_worse_than_means() -> None:
    program, task = toy()
    circuit = Circuit.of_edges(program.graph, sorted(KNOWN))
    means = ReferenceSource(program, replace(task, ablation="mean"))(next(task.batches("train", 4)))
    masks = hard_masks(circuit, program)
    before = divergence(program, task, masks, means)
    found = with_optimal_constants(circuit, program, task, steps=60)
    after = divergence(program, task, hard_masks(found, program), Reference())  # the masks bring their constants
    assert after < before
    for steps in (0, 1):
        worse = learn_constants(program, task, masks, steps=steps, learning_rate=1e3)
        assert divergence(program, task, masks, worse.reference()) <= before + 1e-6


def test_under_optimal_ablation_a_circuit_comes_with_its_constants(tmp_path: Path) -> None:
    """They are saved beside the masks, and the circuit runs from them, without data."""
    model, _ = build_builtin("induction")
    program, task = toy()
    optimal = replace(task, ablation="optimal")
    circuit = passes.run("eap", program, optimal, edges=12, examples=8)
    assert circuit.ablation == "optimal"
    assert {"embed", "pos", "a0.h0"} <= set(circuit.constants)
    circuit.save(tmp_path / "found")
    loaded = Circuit.load(tmp_path / "found", model)
    batch = next(task.batches("test", 4))
    with torch.no_grad():
        wanted = circuit.as_module()(**batch.inputs)
        assert torch.equal(loaded.as_module()(**batch.inputs), wanted)
        again = program(batch.inputs, masks=hard_masks(loaded, program), ablation="zero")
    assert torch.allclose(again, wanted, atol=1e-5)
    assert Evaluator(program, optimal).measure_circuit(loaded)["accuracy"] > 0.5


def test_a_circuit_without_its_constants_says_what_is_missing() -> None:
    program, task = toy()
    batch = next(task.batches("test", 2))
    with pytest.raises(GraphirError, match="has none"):
        Circuit.full(program.graph, ablation="optimal").as_module()(**batch.inputs)


def test_noise_runs_in_a_module() -> None:
    program, task = toy()
    batch = next(task.batches("test", 2))
    empty = Circuit.of_edges(program.graph, [], ablation="noise")
    with torch.no_grad():
        got = empty.as_module()(**batch.inputs)
        reference = noisy_reference(program, batch.inputs)
        wanted = program(batch.inputs, masks=hard_masks(empty, program), reference=reference)
    assert torch.allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("ablation", ["mean by template", "noise", "optimal"])
@pytest.mark.parametrize("method", ["eap_ig", "edge_pruning", "nap"])
def test_every_method_runs_under_every_ablation(method: str, ablation: str) -> None:
    program, task = toy()
    changed = replace(task, ablation=ablation)  # type: ignore[arg-type]
    options: Any = {"steps": 3} if method == "edge_pruning" else {"examples": 8}
    circuit = passes.run(method, program, changed, edges=40, **options)
    assert circuit.ablation == ablation
    assert np.isfinite(Evaluator(program, changed).measure_circuit(circuit)["kl"])
