"""The training loop: gradients of weight masks, complements, resuming to the same bits, interruption, bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import passes
from graphir.circuit import Circuit
from graphir.errors import DataError, GraphirError, SaveFormatError, TrainingError
from graphir.run.circuit_module import hard_masks
from graphir.run.masks import Masks
from passes.base import Constraint, RunContext
from passes.learn import elimination
from passes.learn.initial import LIMIT, constant_part
from passes.learn.learner import Learner, Phase, Settings
from passes.learn.objectives import Objective
from passes.learn.parametrizations import GumbelSigmoid, HardConcrete
from passes.learn.parts import Part
from passes.learn.results import harden, pinned_nodes
from passes.measure import Evaluator
from passes.metrics import kl_from, logits_at
from tests.learning import Memory, Recorder, same, toy


def learner(*phases: Phase, completeness: float = 0.0) -> Learner:
    """Masks on weights, nodes and edges, all at the same logit but for some noise."""
    program, task = toy()
    context = RunContext(program, task)
    parts = {
        "weights": constant_part(context, "weights", 1.0, GumbelSigmoid(), rate=0.1),
        "nodes": constant_part(context, "nodes", 1.0, HardConcrete(), rate=0.1),
        "edges": constant_part(context, "edges", 0.5, HardConcrete(), rate=0.1),
    }
    return Learner(
        context, parts, {}, Objective.of(task, "two_logit"), Settings("test", completeness=completeness), phases,
        lambda name: harden(parts[name], 0.5, program),
    )  # fmt: skip


EVERYTHING = Phase(1, frozenset({"weights", "nodes", "edges"}))


@pytest.mark.parametrize("complement", [False, True])
def test_gradients_of_all_parts_are_those_of_autograd(complement: bool) -> None:
    """Weight masks make their gradient while the backward runs; here against masks in the graph of operations."""
    program, task = toy()
    it = learner(EVERYTHING)
    batch = next(task.batches("train", 4))
    reference = program.reference(batch.counterfactual)  # type: ignore[arg-type]
    drawn = it.draw(EVERYTHING, (0,), complement=complement)

    def loss(masks: Masks) -> Tensor:
        outputs = program.outputs(batch.inputs, masks=masks, reference=reference, positions=batch.positions)
        return logits_at(outputs, batch).square().mean()

    loss(drawn.masks).backward()
    part = it.parts["weights"]
    leaves = {key: value.clone().requires_grad_() for key, value in part.logits.items()}
    masks = {}
    for key, mask in drawn.masks.weights.items():  # type: ignore[union-attr]
        kept = part.parametrization.draw(leaves[key], mask._uniform())  # type: ignore[union-attr]
        masks[key] = 1 - kept if complement else kept
    again = it.draw(EVERYTHING, (0,), complement=complement)
    found = loss(replace(again.masks, weights=masks))
    found.backward()
    for key, leaf in leaves.items():
        assert leaf.grad is not None
        assert torch.allclose(part._gradients[key], leaf.grad, rtol=1e-4, atol=1e-9)
        assert float(leaf.grad.abs().max()) > 0
    for name, leaf in again.leaves.items():
        assert leaf.grad is not None
        assert torch.allclose(drawn.leaves[name].grad, leaf.grad, rtol=1e-4, atol=1e-9)  # type: ignore[arg-type]


def test_the_complement_keeps_what_the_circuit_drops() -> None:
    """Edges whose writer is dropped are dropped, and so in the complement; weights of one noise add up."""
    program, _ = toy()
    it = learner(EVERYTHING)
    masks, rest = it.draw(EVERYTHING).masks, it.draw(EVERYTHING, complement=True).masks
    assert masks.edges is not None
    assert masks.nodes is not None
    assert rest.nodes is None
    kept = masks.edges * masks.nodes[it.writers]
    assert torch.allclose(rest.edges, 1 - kept)  # type: ignore[arg-type]
    for key, weight in ((key, program.traced.tensors[key]) for key in masks.weights or {}):
        both = masks.weights[key](weight) + rest.weights[key](weight)  # type: ignore[index, operator]
        assert torch.equal(both, weight)


def test_idle_parts_are_open_hard_or_sampled() -> None:
    edges = frozenset({"edges"})
    assert learner().draw(Phase(1, edges, "open")).masks.weights is None
    hard = learner().draw(Phase(1, edges, "hard")).masks
    weights = hard.weights
    assert weights is not None
    assert sum(int(mask.sum()) for mask in weights.values()) == sum(m.numel() for m in weights.values()) // 2  # type: ignore[union-attr, misc]
    assert hard.nodes is not None
    assert set(hard.nodes.tolist()) == {0.0, 1.0}
    sampled = learner().draw(Phase(1, edges, "sampled"))
    assert sampled.leaves.keys() == {"edges"}
    assert not sampled.masks.nodes.requires_grad  # type: ignore[union-attr]


def test_hard_complements_of_weights_and_edges() -> None:
    """Masked weights alone leave all edges to the complement; with both, it has what both drop."""
    program, _ = toy()
    name = program.maskable[0]
    weights = {
        name: np.arange(program.traced.tensors[name].numel()).reshape(program.traced.tensors[name].shape) % 3 == 0
    }
    alone = Circuit.full(program.graph, weights=weights)
    assert hard_masks(alone, program, complement=True).edges.all()  # type: ignore[union-attr]
    edges = np.arange(len(program.graph.edges)) % 2 == 0
    both = alone.with_(edges=edges)
    rest = hard_masks(both, program, complement=True)
    assert (rest.edges.numpy().astype(bool) == ~edges).all()  # type: ignore[union-attr]
    assert (rest.weights[name].numpy() == ~weights[name]).all()  # type: ignore[index, union-attr]


RUNS: dict[str, dict[str, Any]] = {
    "edge_pruning": {"method": "edge_pruning", "edges": 5, "node_masks": True, "nodes": 0.8},
    "projected": {"method": "edge_pruning", "edges": 20, "control": "projection"},
    "on_hard_masks": {"method": "edge_pruning", "edges": 10, "steps": 4, "hard_steps": 6},
    "before_hard_masks": {"method": "edge_pruning", "edges": 10, "steps": 6, "hard_steps": 4},
    "sheaf_on_hard_masks": {"method": "discogp", "edges": 10, "weights": 0.2, "steps": 4, "hard_steps": 6},
    "joint": {"method": "discogp", "edges": 10, "weights": 0.2, "completeness_from": 0.0},
    "in_turns": {"method": "discogp", "edges": 10, "weights": 0.2, "order": "alternating", "turn": 3},
    "one_after_the_other": {"method": "discogp", "edges": 10, "weights": 0.2, "order": "weights_edges"},
    "in_order_on_hard_masks": {
        "method": "discogp",
        "edges": 10,
        "weights": 0.2,
        "order": "edges_weights",
        "steps": 4,
        "hard_steps": 6,
    },
    "csordas": {"method": "csordas", "masks_per_batch": 2, "batch_size": 8},
    "matryoshka": {"method": "matryoshka", "edges": 10},
    "ugs": {"method": "ugs", "masks_per_batch": 2, "batch_size": 8},
    "subnetwork_probing": {"method": "subnetwork_probing", "edges": 10},
    "continuous_sparsification": {"method": "continuous_sparsification", "weights": 0.3},
}


def test_a_hard_phase_runs_on_what_would_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    program, task = toy()
    seen: list[Tensor] = []
    original = Learner.draw

    def watched(self: Learner, phase: Phase, *args: Any, **more: Any) -> Any:
        drawn = original(self, phase, *args, **more)
        if phase.hard and drawn.masks.edges is not None:
            assert self.parts["edges"].logits["edges"].abs().max() <= LIMIT
            seen.append(drawn.masks.edges.detach().clone())
        return drawn

    monkeypatch.setattr(Learner, "draw", watched)
    circuit = passes.run("edge_pruning", program, task, edges=10, steps=3, hard_steps=5)
    assert len(seen) == 5
    assert all(set(mask.tolist()) == {0.0, 1.0} and mask.sum() == 10 for mask in seen)
    assert circuit.provenance["steps_done"] == 8


def test_a_sequence_learns_one_part_at_a_time_on_hard_masks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    program, task = toy()
    seen: list[tuple[list[str], bool]] = []
    original = Learner.draw

    def watched(self: Learner, phase: Phase, *args: Any, **more: Any) -> Any:
        seen.append((sorted(phase.learning), phase.hard))
        return original(self, phase, *args, **more)

    monkeypatch.setattr(Learner, "draw", watched)
    passes.run(
        "discogp", program, task, edges=10, weights=0.2, order="weights_edges", steps=5, hard_steps=5, completeness=0.0
    )
    first, second = ["weights"], ["edges"]
    assert seen == [(first, False)] * 3 + [(first, True)] * 3 + [(second, False)] * 2 + [(second, True)] * 2


def test_hard_steps_mend_a_bad_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one step the masks know nothing; the hard ones come to explain the model."""
    monkeypatch.setattr(elimination, "TRIED", 0)
    program, task = toy()
    judge = Evaluator(program, task, "train")
    options: dict[str, Any] = {"edges": 10, "initial": "ones", "steps": 1}
    before = judge.measure_circuit(passes.run("edge_pruning", program, task, **options))["kl"]
    after = judge.measure_circuit(passes.run("edge_pruning", program, task, hard_steps=150, **options))["kl"]
    assert after < 0.5 * before


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_training_goes_on_to_the_same_bits(name: str) -> None:
    program, task = toy()
    options = {"steps": 10, "seed": 3, **RUNS[name]}
    memory = Memory()
    whole = passes.run(program=program, task=task, checkpoint=memory, **options)
    assert all(isinstance(value, Tensor) for value in memory.states[6].values())
    resumed = passes.run(program=program, task=task, checkpoint=Memory(memory.states[6]), **options)
    assert same(whole, resumed)
    again = passes.run(program=program, task=task, **options)
    assert same(whole, again)


def test_a_foreign_checkpoint_is_refused() -> None:
    program, task = toy()
    with pytest.raises(SaveFormatError, match="another training"):
        passes.run("edge_pruning", program, task, edges=5, checkpoint=Memory({"step": torch.tensor(3)}))


def test_interrupted_in_the_first_step_passes_on_and_later_keeps_the_state() -> None:
    program, task = toy()
    sheaf = passes.run("discogp", program, task, edges=10, weights=0.2, steps=30, observer=Recorder(4))
    assert sheaf.provenance["interrupted"] == 4
    assert sheaf.densities()["weights"] == pytest.approx(0.2, abs=1e-4)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_not_a_number_stops_with_the_last_good_state(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, task = toy()
    calls: list[int] = []

    def broken(full: Tensor, found: Tensor) -> Tensor:
        calls.append(1)
        loss = kl_from(full, found)
        if len(calls) < 5:
            return loss
        # A square root at zero: the loss is a number, its gradient is none.
        return loss * float("nan") if where == "loss" else loss + (found.sum() * 0).sqrt()

    monkeypatch.setattr("passes.learn.objectives.kl_from", broken)
    with pytest.raises(TrainingError, match="not-a-number") as caught:
        passes.run("discogp", program, task, edges=10, weights=0.2, steps=30, completeness=0.0)
    sheaf = caught.value.circuit
    assert isinstance(sheaf, Circuit)
    assert sheaf.provenance["steps_done"] == 4
    assert np.isfinite(sheaf.scores["edges"]).all()
    assert sheaf.densities()["weights"] == pytest.approx(0.2, abs=1e-4)


def test_a_gradient_floor_makes_small_steps_of_small_gradients() -> None:
    def moved(floor: float) -> Tensor:
        part = Part("edges", {"edges": torch.zeros(4)}, GumbelSigmoid(), rate=0.1, epsilon=floor)
        for _ in range(3):
            part.accumulate("edges", torch.tensor([1.0, 1e-3, -1e-3, 0.0]))
            part.step()
        return part.logits["edges"]

    assert torch.allclose(moved(0.0)[:3].abs(), torch.full((3,), 0.3), rtol=1e-3)
    graded = moved(1.0).abs()
    assert float(graded[0]) > 100 * float(graded[1]) > 0


# Bad input


def test_objectives_need_what_they_compare() -> None:
    _, task = toy()
    alone = replace(
        task,
        splits={split: tuple(replace(row, distractor=None) for row in rows) for split, rows in task.splits.items()},
    )
    with pytest.raises(DataError, match="compares an answer with a distractor"):
        Objective.of(alone, "two_logit")
    one = replace(alone, splits={s: tuple(replace(r, answer=5) for r in rows) for s, rows in alone.splits.items()})
    with pytest.raises(DataError, match=r"completeness needs a set of answers.*task has 1"):
        Objective.of(one, "kl", completeness=True)
    assert Objective.of(alone, "kl", completeness=True).paired is False


def test_completeness_is_zero_where_nothing_is_known_and_cross_entropy_is_torchs() -> None:
    _, task = toy()
    batch = next(task.batches("train", 6))
    flat = torch.zeros(6, 400)
    random = torch.randn(6, 400)
    for kind in ("two_logit", "answers"):
        objective = Objective.of(task, kind, completeness=True)
        assert float(objective.complete(flat, batch)) == pytest.approx(0, abs=1e-6)
        assert float(objective.complete(random, batch)) > 0
    assert batch.distractors is not None
    pairs = torch.stack([random.gather(1, t[:, None])[:, 0] for t in (batch.answers, batch.distractors)], 1)
    wanted = torch.nn.functional.cross_entropy(pairs, torch.zeros(6, dtype=torch.long))
    assert torch.allclose(Objective.of(task, "two_logit").faithful(random, random, batch), wanted)
    tokens = Objective.of(task, "answers").tokens
    assert tokens is not None
    place = torch.tensor([tokens.tolist().index(answer) for answer in batch.answers.tolist()])
    wanted = torch.nn.functional.cross_entropy(random[:, tokens], place)
    assert torch.allclose(Objective.of(task, "answers").faithful(random, random, batch), wanted)


def test_masks_of_parameters_that_are_not_there_are_refused() -> None:
    program, task = toy()
    batch = next(task.batches("train", 2))
    with pytest.raises(DataError, match="no such parameter"):
        program.outputs(batch.inputs, masks=Masks(weights={"nothing": torch.ones(2)}))
    name = program.maskable[0]
    with pytest.raises(DataError, match=r"has shape \(2,\)"):
        program.outputs(batch.inputs, masks=Masks(weights={name: torch.ones(2)}))


def test_a_bound_on_nodes_holds_with_inputs_and_outputs_counted() -> None:
    program, task = toy()
    total, always = len(program.graph.nodes), int(pinned_nodes(program.graph).sum())
    circuit = passes.run(
        "edge_pruning", program, task, edges=30, nodes=7 / total, node_masks=True, steps=30, initial="ones"
    )
    assert circuit.nodes.sum() <= 7
    with pytest.raises(GraphirError, match=f"{always} .inputs and outputs. are always kept"):
        passes.run("edge_pruning", program, task, edges=30, nodes=(always - 0.5) / total, node_masks=True)
    assert Constraint("nodes", 0.5).density == 0.5
