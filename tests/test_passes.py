"""Discovery passes on the built-in induction model, whose circuit is known, and against brute force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphir
import passes
import passes.measure
from dsl.builtin import BUILTIN_MODELS, build_builtin
from dsl.builtin.truth import ground_truth, prepare
from dsl.tasks import find_task
from graphir.circuit import Circuit
from graphir.errors import GraphirError, TrainingError, UnknownNameError
from graphir.run.masks import Masks
from graphir.run.program import MaskedProgram
from passes.base import Constraint, RunContext, count_for, keep_top
from passes.eap import score_edges
from passes.edge_pruning import EdgePruning
from passes.measure import Evaluator, curve, masks_of
from passes.metrics import kl_from, logit_diff, logits_at
from passes.observe import SilentObserver
from passes.task import Ablation, Task

KNOWN = set(BUILTIN_MODELS["induction"].circuit["interchange"])


@cache
def toy() -> tuple[MaskedProgram, Task]:
    torch.set_num_threads(1)
    model, tokenizer = build_builtin("induction")
    examples = find_task("induction").generate({"n": 120, "seed": 0})
    task = Task.from_examples("pairs", examples, tokenizer)
    batch = next(task.batches("train", 2))
    return graphir.lower(graphir.trace(model, dict(batch.inputs))), task


def names(circuit: Circuit) -> set[str]:
    return {str(edge) for edge in circuit.kept_edges()}


@pytest.mark.parametrize("method", ["eap", "eap_ig"])
def test_the_known_circuit_has_the_highest_scores(method: str) -> None:
    program, task = toy()
    assert names(passes.run(method, program, task, edges=len(KNOWN))) == KNOWN


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_edge_pruning_finds_the_known_circuit(seed: int) -> None:
    program, task = toy()
    circuit = passes.run("edge_pruning", program, task, edges=len(KNOWN), seed=seed, steps=80)
    assert names(circuit) == KNOWN
    assert circuit.provenance["steps_done"] == 80
    assert "interrupted" not in circuit.provenance


@pytest.mark.parametrize(
    ("name", "ablation"), [("histogram", "interchange"), ("histogram", "zero"), ("token_fraction", "zero")]
)
def test_edge_pruning_finds_the_edges_behind_saturated_attention(name: str, ablation: Ablation) -> None:
    """Where nothing passes a gradient, so that masks cannot start at the ranks of scores."""
    it, truth = prepare(name, ablation), ground_truth(name, ablation)
    circuit = passes.run("edge_pruning", it.program, it.task, edges=len(truth))
    assert names(circuit) == truth


def test_masks_start_all_on_where_fewer_edges_have_a_score_than_are_to_be_kept() -> None:
    first: dict[int, Mapping[str, float]] = {}
    it = prepare("token_fraction", "zero")

    class Watching(SilentObserver):
        def step(self, stage: str, done: int, values: Mapping[str, float]) -> None:
            if stage == "edge-pruning":
                first.setdefault(wanted, values)
                raise KeyboardInterrupt

    for wanted in (1, 5):
        passes.run("edge_pruning", it.program, it.task, edges=wanted, observer=Watching())
    assert first[1]["target"] == pytest.approx(1 / 61)
    assert first[1]["density"] < 0.2
    assert 0.95 < first[5]["target"] < 1.0
    assert 0.8 < first[5]["density"] < 1.0


def test_edge_pruning_comes_down_from_the_density_it_is_told_to_start_at() -> None:
    program, task = toy()
    seen: list[float] = []

    class Watching(SilentObserver):
        def step(self, stage: str, done: int, values: Mapping[str, float]) -> None:
            if stage == "edge-pruning":
                seen.append(values["target"])

    total = len(program.graph.edges)
    options: dict[str, Any] = {"steps": 80, "start": 0.5, "warmup": 20, "schedule": "log", "decay": 0.5}
    circuit = passes.run("edge_pruning", program, task, edges=len(KNOWN), observer=Watching(), **options)
    assert seen[20:] == pytest.approx([len(KNOWN) / total] * 60)
    assert 0.4 < seen[0] < 0.5
    assert seen[:21] == sorted(seen[:21], reverse=True)
    assert names(circuit) == KNOWN


def test_a_target_above_one_presses_further_and_the_soft_mask_says_how_many_edges_are_kept() -> None:
    program, task = toy()
    half, more = (passes.run("edge_pruning", program, task, target=target, steps=40) for target in (0.5, 1.1))
    assert 0 < half.edges.sum() < len(half.edges)
    assert more.edges.sum() < half.edges.sum()


def test_edges_that_are_all_on_at_first_have_no_starting_density() -> None:
    program, task = toy()
    with pytest.raises(GraphirError, match="no starting density"):
        passes.run("edge_pruning", program, task, edges=len(KNOWN), initial="ones", start=0.5)


def test_edge_pruning_finds_it_without_scores_to_start_from() -> None:
    program, task = toy()
    circuit = passes.run("edge_pruning", program, task, edges=len(KNOWN), steps=200, initial="ones", node_masks=True)
    assert names(circuit) == KNOWN


def test_eap_is_the_derivative_of_the_metric_at_mask_one() -> None:
    """Against central differences in float64, edge by edge."""
    torch.manual_seed(0)
    model, tokenizer = build_builtin("induction")
    task = Task.from_examples("pairs", find_task("induction").generate({"n": 40, "seed": 0}), tokenizer)
    batch = next(task.batches("train", 4))
    program = graphir.lower(graphir.trace(model.double(), dict(batch.inputs)))
    context = RunContext(program, task)
    scores = score_edges(context, batch_size=4, examples=4)
    chosen = next(task.batches("train", 4, shuffle=0, limit=4))

    def metric(masks: Tensor) -> float:
        with torch.no_grad():
            outputs = program.outputs(chosen.inputs, chosen.counterfactual, Masks(edges=masks))
            return float(logit_diff(logits_at(outputs, chosen), chosen).mean())

    step = 1e-4
    ones = torch.ones(len(program.graph.edges), dtype=torch.float64)
    for index in range(len(ones)):
        moved = ones.clone()
        moved[index] = 1 + step
        high = metric(moved)
        moved[index] = 1 - step
        assert scores[index] == pytest.approx((high - metric(moved)) / (2 * step), abs=1e-5)
    assert np.abs(scores).max() > 1


def test_integrated_gradients_average_the_gradient_along_the_path() -> None:
    """With the embeddings at step k/m between counterfactual and clean; one step is plain EAP."""
    program, task = toy()
    batch = next(task.batches("train", 4))
    assert batch.counterfactual is not None

    def metric(outputs: list[Tensor]) -> Tensor:
        return logit_diff(logits_at(outputs, batch), batch).sum()

    plain = program.attribute(batch.inputs, batch.counterfactual, metric)
    assert torch.allclose(program.attribute(batch.inputs, batch.counterfactual, metric, steps=1), plain)
    assert not torch.allclose(program.attribute(batch.inputs, batch.counterfactual, metric, steps=5), plain, rtol=0.05)


def test_kl_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    full, found = torch.randn(2, 5, 30, generator=generator)
    wanted = torch.nn.functional.kl_div(found.log_softmax(-1), full.log_softmax(-1), log_target=True, reduction="none")
    assert torch.allclose(kl_from(full, found), wanted.sum(-1), atol=1e-6)


def test_ends_of_the_scale() -> None:
    """The full circuit is the model, the empty one the counterfactual run."""
    program, task = toy()
    evaluator = Evaluator(program, task)
    full = evaluator.measure_circuit(Circuit.full(program.graph))
    assert full["kl"] == pytest.approx(0, abs=1e-5)
    assert full["faithfulness"] == pytest.approx(1, abs=1e-4)
    assert evaluator.empty["faithfulness"] == 0
    assert evaluator.empty["accuracy"] == 0
    for batch in task.batches("test", 8):
        assert batch.counterfactual is not None
        zeros = Masks(edges=torch.zeros(len(program.graph.edges)))
        with torch.no_grad():
            outputs = program.outputs(batch.inputs, batch.counterfactual, zeros)[0]
            wanted = program.outputs(batch.counterfactual)[0]
        assert torch.allclose(outputs, wanted, atol=1e-4)


def test_measured_on_held_out_templates() -> None:
    program, task = toy()
    train = {e.example.template for e in task.examples("train")}
    assert Evaluator(program, task).split == "test"
    assert not train & {e.example.template for e in task.examples("test")}


def test_the_size_of_batches_changes_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    program, task = toy()
    circuit = passes.run("eap", program, task, edges=20)
    together = Evaluator(program, task)
    monkeypatch.setattr(passes.measure, "TOKENS", 1)
    apart = Evaluator(program, task, batch_size=1)
    assert apart.measure_circuit(circuit) == pytest.approx(together.measure_circuit(circuit), rel=1e-4, abs=1e-6)


def test_the_complement_of_the_circuit_does_not_do_the_task() -> None:
    program, task = toy()
    circuit = passes.run("eap", program, task, edges=len(KNOWN))
    evaluator = Evaluator(program, task)
    assert evaluator.measure_circuit(circuit)["accuracy"] == 1
    assert evaluator.measure_circuit(circuit, complement=True)["accuracy"] < 0.2
    kept, left = masks_of(circuit, program).edges, masks_of(circuit, program, complement=True).edges
    assert kept is not None
    assert left is not None
    assert torch.equal(kept + left, torch.ones(len(program.graph.edges)))


def test_a_curve_is_measured_at_the_densities_asked_for() -> None:
    program, task = toy()
    scores = passes.run("eap", program, task).scores["edges"]
    points = curve(Evaluator(program, task), scores, [1.0, 0.1, 0.05], absolute=True)
    assert points[0].metrics["kl"] < 1e-4
    assert [p.edges for p in points] == sorted((p.edges for p in points), reverse=True)
    assert points[1].edges <= 10


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean by position"])
def test_other_ablations(ablation: str) -> None:
    program, task = toy()
    changed = replace(task, ablation=ablation)  # type: ignore[arg-type]
    wanted = len(BUILTIN_MODELS["induction"].circuit["zero"])
    circuit = passes.run("edge_pruning", program, changed, edges=wanted + 2, steps=120)
    assert circuit.ablation == ablation
    assert Evaluator(program, changed).measure_circuit(circuit)["accuracy"] > 0.9


def test_not_a_number_stops_and_keeps_the_last_good_state(monkeypatch: pytest.MonkeyPatch) -> None:
    program, task = toy()
    calls: list[int] = []

    def breaks_down(full: Tensor, found: Tensor) -> Tensor:
        calls.append(1)
        return kl_from(full, found) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr("passes.learn.objectives.kl_from", breaks_down)
    with pytest.raises(TrainingError, match="not-a-number") as caught:
        passes.run("edge_pruning", program, task, edges=5, steps=50)
    circuit = caught.value.circuit
    assert isinstance(circuit, Circuit)
    assert np.isfinite(circuit.scores["edges"]).all()


def test_interrupted_keeps_what_was_learned() -> None:
    program, task = toy()

    class Interrupting:
        def begin(self, stage: str, total: int) -> None: ...
        def end(self, stage: str) -> None: ...
        def step(self, stage: str, done: int, values: Any) -> None:
            if stage == "edge-pruning" and done == 7:
                raise KeyboardInterrupt

    circuit = passes.run("edge_pruning", program, task, edges=5, steps=50, observer=Interrupting())
    assert circuit.provenance["interrupted"] == 7


def test_bounds_hold_exactly() -> None:
    assert count_for(0.05, 106) == 5
    assert count_for(1.0, 106) == 106
    with pytest.raises(GraphirError, match="leaves nothing"):
        count_for(0.001, 106)
    assert keep_top(np.array([1.0, np.nan, 3.0, -4.0]), 2).tolist() == [True, False, True, False]
    assert keep_top(np.array([1.0, np.nan, 3.0, -4.0]), 2, absolute=True).tolist() == [False, False, True, True]


def test_unknown_pass_and_unbounded_pruning() -> None:
    program, task = toy()
    with pytest.raises(UnknownNameError, match="edge_pruning"):
        passes.run("edge_prunning", program, task)
    with pytest.raises(GraphirError, match="how sparse"):
        EdgePruning().run(RunContext(program, task))
    context = RunContext(program, task, (Constraint("edges", 0.5), Constraint("edges", 0.2)))
    assert context.bound("edges") == 0.2
