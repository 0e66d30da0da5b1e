"""Sheaves on the built-in induction model, whose circuit is known: orders, granularities, controls, bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import passes
from dsl.builtin.truth import ground_truth, prepare
from graphir.circuit import Circuit
from graphir.errors import DataError, GraphirError
from graphir.run.circuit_module import hard_masks
from passes.base import Constraint, RunContext
from passes.discogp import Discogp
from passes.learn.learner import Learner
from passes.learn.results import weights_of_neurons
from passes.measure import Evaluator
from passes.task import Ablation
from tests.learning import KNOWN, Recorder, names, toy


def sheaf(**options: Any) -> Circuit:
    """A sheaf of the larger task, learned in 120 steps of 16 examples."""
    program, task = toy(480)
    return passes.run("discogp", program, task, **{"steps": 100, "batch_size": 16, "completeness": 0.0, **options})


def measured(circuit: Circuit, *, complement: bool = False) -> dict[str, float]:
    program, task = toy(480)
    return Evaluator(program, task).measure(hard_masks(circuit, program, complement=complement))


@pytest.mark.parametrize("order", ["joint", "weights_edges", "edges_weights", "alternating"])
def test_every_order_finds_the_edges_and_does_the_task_with_a_part_of_the_weights(order: str) -> None:
    found = sheaf(edges=5, weights=0.3, order=order, steps=220 if order == "alternating" else 140)
    assert names(found) == KNOWN
    assert found.densities()["weights"] == pytest.approx(0.3, abs=1e-4)
    assert sum(int(mask.sum()) for mask in found.weights.values()) == int(
        0.3 * sum(mask.size for mask in found.weights.values())
    )
    assert measured(found)["accuracy"] > 0.9


def test_weights_alone_and_their_complement() -> None:
    found = sheaf(parts="weights", weights=0.2, completeness=1.0)
    assert found.edges.all()
    assert "edges" not in found.scores
    assert measured(found)["accuracy"] > 0.9
    assert measured(found, complement=True)["accuracy"] < 0.75


def test_training_ends_near_the_target() -> None:
    program, task = toy(480)
    seen = Recorder()
    passes.run("discogp", program, task, weights=0.2, observer=seen, parts="weights", completeness=0.0, hard_steps=0)
    assert seen.steps[-1]["density"] == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("parts", ["edges", "nodes", "weights nodes", "nodes edges"])
def test_granularities_in_any_mixture(parts: str) -> None:
    bounds = {"edges": 5 / 106, "nodes": 5 / 11, "weights": 0.3}
    program, _ = toy(480)
    chosen = {name: bounds[name] for name in parts.split()}
    density = chosen.pop("edges", None)
    found = sheaf(parts=parts, density=density, **chosen)
    assert found.nodes.sum() <= (5 if "nodes" in parts else len(program.graph.nodes))
    assert found.edges.sum() <= (5 if density is not None else len(found.edges))
    assert (len(found.weights) > 0) == ("weights" in parts)
    assert all(((score >= 0) & (score <= 1)).all() for score in found.scores.values())


@pytest.mark.parametrize("options", [
    {"control": "projection"}, {"small_masks": "gumbel"}, {"estimator": "sample", "temperature": 0.5},
    {"initial": "ones"}, {"faithfulness": "two_logit"}, {"faithfulness": "answers"}, {"sharpen": 5.0},
], ids=str)  # fmt: skip
def test_options_run(options: dict[str, Any]) -> None:
    found = sheaf(edges=8, weights=0.3, steps=12, **options)
    assert found.edges.sum() <= 8
    assert found.densities()["weights"] == pytest.approx(0.3, abs=1e-4)


@pytest.fixture
def first_logits(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """The different logits that parts have when learning would begin; filled by a run, which stops there."""
    seen: dict[str, list[float]] = {}

    def watched(learner: Learner) -> int:
        for name, part in learner.parts.items():
            seen[name] = torch.cat([each.flatten() for each in part.logits.values()]).unique().tolist()
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "learn", watched)
    return seen


def test_masks_that_start_all_on_are_as_open_as_asked(first_logits: dict[str, list[float]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        sheaf(edges=8, weights=0.3, initial="ones", initial_logit=3.0)
    assert first_logits == {"weights": [3.0], "edges": [3.0]}


@pytest.mark.parametrize(("name", "edges"), [("induction", 5), ("token_fraction", 4)])
def test_attributions_are_where_masks_start_unless_saturated_attention_leaves_too_few(
    name: str, edges: int, first_logits: dict[str, list[float]]
) -> None:
    program, task = toy(480) if name == "induction" else (prepare(name).program, prepare(name).task)
    with pytest.raises(KeyboardInterrupt):
        passes.run("discogp", program, task, edges=edges, weights=0.1)
    if name == "induction":
        assert len(first_logits["edges"]) > 5 and len(first_logits["weights"]) > 1000
    else:
        assert first_logits == {"weights": [6.0], "edges": [6.0, 7.0]}


@pytest.mark.parametrize(("name", "ablation"), [("token_fraction", "interchange"), ("histogram", "zero")])
def test_the_defaults_find_the_exact_edges_of_programs_with_saturated_attention(name: str, ablation: Ablation) -> None:
    setting, truth = prepare(name, ablation), ground_truth(name, ablation)
    found = passes.run("discogp", setting.program, setting.task, edges=len(truth), weights=0.3, seed=1)
    assert names(found) == truth
    assert Evaluator(setting.program, setting.task).measure_circuit(found)["accuracy"] == 1.0


def test_how_far_logits_can_move_does_not_depend_on_the_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[dict[str, float]] = []

    def watched(learner: Learner) -> int:
        rates.append({name: part.rate for name, part in learner.parts.items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "learn", watched)
    for options in ({"steps": 40}, {"steps": 80}, {"steps": 80, "order": "weights_edges", "first": 0.75},
                    {"steps": 80, "learning_rate": 0.3, "weight_learning_rate": 0.2}):  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            sheaf(edges=8, weights=0.3, initial="ones", **options)
    with pytest.raises(KeyboardInterrupt):
        sheaf(edges=8, weights=0.1, steps=100)
    assert rates.pop() == {"weights": 0.25, "edges": 0.25}, "masks that start at ranks move further"
    assert rates == [
        {"weights": 0.15, "edges": 0.2}, {"weights": 0.075, "edges": 0.1},
        {"weights": pytest.approx(6 / 60), "edges": pytest.approx(8 / 20)}, {"weights": 0.2, "edges": 0.3},
    ]  # fmt: skip


def test_the_published_ramp_needs_no_bounds_and_a_higher_lambda_keeps_less() -> None:
    kept = [
        sheaf(control="ramp", sparsity_weight=weight, ramp_highest=5.0, steps=80).densities() for weight in (0.01, 3.0)
    ]
    assert kept[1]["weights"] < kept[0]["weights"]
    assert kept[1]["edges"] < kept[0]["edges"]


def test_neurons_are_weights_that_go_together() -> None:
    """Cut as weights, a neuron is gone: the program with its mask at zero computes the same."""
    import graphir
    from tests import zoo

    instance = zoo.build("gpt2")
    program = graphir.lower(graphir.trace(instance.model, instance.example))
    total = max(stop for _, stop in program.neurons.values())
    kept = torch.rand(total, generator=torch.Generator().manual_seed(0)) < 0.4
    weights = {name: torch.as_tensor(mask) for name, mask in weights_of_neurons(program, kept).items()}
    assert weights
    from graphir.run.masks import Masks

    with torch.no_grad():
        cut = program.outputs(instance.other, masks=Masks(weights=weights))[0]
        masked = program.outputs(instance.other, masks=Masks(neurons=kept.float()), ablation="zero")[0]
    assert torch.allclose(cut, masked, atol=1e-5)
    shares = [float(np.asarray(mask).mean()) for mask in weights.values()]
    assert sum(shares) / len(shares) == pytest.approx(float(kept.float().mean()), abs=0.02)


# Bad input


@pytest.mark.parametrize(("options", "bounds", "message"), [
    ({}, {"edges": 0.1}, "nothing says how many weights to keep"),
    ({"parts": "edges"}, {"edges": 0.1, "weights": 0.1}, "weights are bounded and not masked"),
    ({"parts": "edges", "order": "alternating"}, {"edges": 0.1}, "needs both weights or neurons and edges or nodes"),
    ({"parts": "weights heads"}, {}, "no part named `heads`"),
    ({"parts": "neurons"}, {"neurons": 0.1}, "no neurons that can be masked"),
    ({}, {"edges": 0.1, "weights": 1e-6}, "leaves nothing to keep"),
    ({}, {"edges": 1e-4, "weights": 0.1}, "leaves nothing to keep"),
])  # fmt: skip
def test_what_does_not_go_together_is_said_before_the_training(
    options: dict[str, Any], bounds: dict[str, float], message: str
) -> None:
    program, task = toy(480)
    constraints = tuple(Constraint(part, density) for part, density in bounds.items())
    with pytest.raises(GraphirError, match=message):
        Discogp(**{"initial": "ones", **options}).run(RunContext(program, task, constraints))


def test_completeness_needs_an_answer_set() -> None:
    program, task = toy(480)
    splits = {
        name: tuple(replace(row, distractor=None, answer=task.examples("train")[0].answer) for row in rows)
        for name, rows in task.splits.items()
    }
    with pytest.raises(DataError, match="completeness needs a set of answers") as caught:
        passes.run("discogp", program, replace(task, splits=splits), edges=5, weights=0.1)
    assert any("completeness: 0" in hint for hint in caught.value.hints)
