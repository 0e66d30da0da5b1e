"""Scores of edges, nodes and neurons against finite differences in float64; information flow against its formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

import passes
from graphir.errors import GraphirError, TrainingError
from graphir.run.masks import Masks
from passes.base import RunContext
from passes.eap import score_edges
from passes.ifr import score_flow
from passes.metrics import logit_diff, logits_at
from passes.nap import score_nodes
from passes.neuron_attribution import score_neurons
from passes.task import Batch
from tests.attribution_reference import FiniteDifferences, Tiny, random_task, tiny

FAMILIES = ("gpt2", "llama", "gpt_neox")


def train_batch(it: Tiny) -> Batch:
    """The batch that scores are taken over: all training rows, in the order of seed 0."""
    rows = len(it.task.examples("train"))
    return next(it.task.batches("train", rows, shuffle=0, limit=rows))


def oracle(it: Tiny, ablated: dict[str, Tensor] | None = None) -> FiniteDifferences:
    """Finite differences under interchange, or with the ablation values given."""
    batch = train_batch(it)
    assert batch.counterfactual is not None

    def metric(logits: Tensor) -> Tensor:
        copies = len(logits) // len(batch)
        last = logits[:, -1]
        answers, distractors = batch.answers.repeat(copies), batch.distractors.repeat(copies)  # type: ignore[union-attr]
        return (last.gather(1, answers[:, None]) - last.gather(1, distractors[:, None]))[:, 0]

    return FiniteDifferences(it, batch.inputs, ablated or it.reference.writes(batch.counterfactual), metric)


def assert_same_scores(it: Tiny, got: np.ndarray, wanted: dict[str, float]) -> None:
    """Relative error below 1e-3 of the largest score everywhere, rank correlation 1.0."""
    slow = np.array([wanted[str(edge)] for edge in it.program.graph.edges])
    assert np.abs(slow).max() > 1e-3
    assert np.abs(got - slow).max() / np.abs(slow).max() < 1e-5
    large = np.abs(slow) > 1e-6 * np.abs(slow).max()
    assert (np.abs(got - slow)[large] / np.abs(slow)[large]).max() < 1e-3
    assert spearmanr(got[large], slow[large]).statistic == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_eap(name: str) -> None:
    it = tiny(name)
    got = score_edges(it.context, batch_size=3, examples=4)
    assert_same_scores(it, got, oracle(it).at_embeddings([1.0]))


@pytest.mark.parametrize("name", FAMILIES)
def test_eap_ig_over_inputs(name: str) -> None:
    it = tiny(name)
    got = score_edges(it.context, batch_size=3, examples=4, steps=3)
    assert_same_scores(it, got, oracle(it).at_embeddings([1 / 3, 2 / 3, 1.0]))


def test_eap_clean_corrupted_takes_both_ends() -> None:
    it = tiny("llama")
    got = score_edges(it.context, batch_size=3, examples=4, variant="clean_corrupted")
    assert_same_scores(it, got, oracle(it).at_embeddings([0.0, 1.0]))


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_eap_ig_over_activations(name: str) -> None:
    it = tiny(name)
    got = score_edges(it.context, batch_size=3, examples=4, steps=2, variant="activations")
    assert_same_scores(it, got, oracle(it).at_values(2))


def test_under_zero_ablation_the_path_starts_at_zero_embeddings() -> None:
    it = tiny("gpt2")
    zero = it._replace(task=replace(it.task, ablation="zero"))
    zeros = {writer: torch.zeros_like(value) for writer, value in oracle(it).clean.items()}
    got = score_edges(zero.context, batch_size=4, examples=4, steps=2)
    assert_same_scores(it, got, oracle(it, zeros).at_embeddings([0.5, 1.0]))


def slope_of(it: Tiny, change: Callable[[Masks, float], Masks]) -> float:
    """The central difference of the metric as masks change by a small amount."""
    batch = train_batch(it)
    reference = it.program.reference(batch.counterfactual, hidden=True)  # type: ignore[arg-type]

    def value(amount: float) -> float:
        masks = change(it.program.new_masks(nodes=True, neurons=True, requires_grad=False), amount)
        with torch.no_grad():
            outputs = it.program.outputs(batch.inputs, masks=masks, reference=reference)
        return float(logit_diff(logits_at(outputs, batch), batch).mean())

    return (value(1e-4) - value(-1e-4)) / 2e-4


def test_a_nodes_score_is_the_slope_of_its_mask() -> None:
    it = tiny("llama")
    got = score_nodes(it.context, batch_size=4, examples=4)

    def slope(node: int) -> float:
        def change(masks: Masks, amount: float) -> Masks:
            assert masks.nodes is not None
            masks.nodes[node] += amount
            return replace(masks, neurons=None)

        return slope_of(it, change)

    slow = np.array([slope(node) for node in range(len(got))])
    assert got == pytest.approx(slow, rel=1e-4, abs=1e-7)
    assert got[it.program.graph.node_index["logits"]] == 0


def test_a_neurons_score_is_the_slope_of_its_mask() -> None:
    it = tiny("llama")
    got = score_neurons(it.context, batch_size=3, examples=4)

    def slope(neuron: int) -> float:
        def change(masks: Masks, amount: float) -> Masks:
            assert masks.neurons is not None
            masks.neurons[neuron] += amount
            return replace(masks, nodes=None)

        return slope_of(it, change)

    chosen = range(0, len(got), 5)
    assert got[list(chosen)] == pytest.approx(np.array([slope(neuron) for neuron in chosen]), rel=1e-4, abs=1e-7)


def test_neurons_on_a_path_add_up_to_the_effect_of_their_mlp() -> None:
    """Integrated gradients are complete: with many steps, an MLP's neurons sum to what ablating all of them costs."""
    it = tiny("llama")
    got = score_neurons(it.context, batch_size=4, examples=4, steps=50)
    batch = train_batch(it)
    reference = it.program.reference(batch.counterfactual, hidden=True)  # type: ignore[arg-type]
    for start, stop in it.program.neurons.values():
        values = []
        for kept in (1.0, 0.0):
            mask = torch.ones(len(got), dtype=torch.float64)
            mask[start:stop] = kept
            with torch.no_grad():
                outputs = it.program.outputs(batch.inputs, masks=Masks(neurons=mask), reference=reference)
            values.append(float(logit_diff(logits_at(outputs, batch), batch).mean()))
        assert got[start:stop].sum() == pytest.approx(values[0] - values[1], rel=0.05, abs=1e-4)


def test_neuron_attribution_keeps_everything_and_bounds_neurons_only() -> None:
    it = tiny("llama")
    circuit = passes.run("neuron_attribution", it.program, it.task, examples=2)
    assert circuit.edges.all()
    assert circuit.scores["neurons"].shape == (max(stop for _, stop in it.program.neurons.values()),)
    with pytest.raises(GraphirError, match="cannot bound edges: it has masks on neurons only"):
        passes.run("neuron_attribution", it.program, it.task, edges=5)


@pytest.mark.parametrize("name", FAMILIES)
def test_information_flow_is_its_formula(name: str) -> None:
    """max(‖y‖₁ − ‖y − x_w‖₁, 0) over its sum over writers, averaged over tokens that are not padding."""
    it = tiny(name)
    task = random_task(lengths=(6, 4))
    got = score_flow(RunContext(it.program, task), batch_size=3, examples=4)
    totals, tokens = dict.fromkeys(it.reference.edges, 0.0), 0
    for row in task.examples("train"):
        writes = it.reference.writes(task.collate([row]).inputs)
        tokens += len(row)
        for port, writers in it.reference.upstream.items():
            biases = [getattr(projection, "bias", None) for projection in it.reference.biases[port]]
            read = sum(writes[w] for w in writers) + sum(b for b in biases if b is not None)
            assert isinstance(read, Tensor)
            near = torch.stack([read.abs().sum(-1) - (read - writes[w]).abs().sum(-1) for w in writers]).clamp(min=0)
            shares = (near / near.sum(0)).sum((1, 2))
            for writer, share in zip(writers, shares.tolist(), strict=True):
                totals[f"{writer} -> {port}"] += share
    slow = np.array([totals[str(edge)] / tokens for edge in it.program.graph.edges])
    assert got == pytest.approx(slow, abs=1e-9)


def test_not_a_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    it = tiny("llama")
    wrong = torch.full((len(it.program.graph.edges),), torch.nan)
    monkeypatch.setattr(it.program, "attribute", lambda *_, **__: wrong)
    with pytest.raises(TrainingError, match="not finite"):
        passes.run("nap", it.program, it.task)
