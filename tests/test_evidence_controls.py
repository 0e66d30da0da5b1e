"""Controls, stability over seeds, and all evidence about one circuit, on the built-in induction model."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import passes
from dsl.builtin import build_builtin
from graphir.algebra_sum import CircuitSum, add
from graphir.circuit import Circuit
from graphir.errors import GraphirError
from graphir.run.program import MaskedProgram
from passes.evidence import Budget, gather_evidence, measure_controls, with_random_weights
from passes.evidence.controls import control_random_weights
from passes.evidence.scoring import Scorer
from passes.evidence.stability import SeedRun, find_seeds, measure_stability
from passes.measure import Evaluator, masks_of
from passes.random_baseline import matched_random
from tests.inducing import BUDGET, KNOWN, evaluator, known, toy

# --- random weights and random circuits ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["normal", "shuffle"])
def test_random_weights_are_a_copy(how: str) -> None:
    """The copy is the model with other matrices, all of its code reads them, and the model stays as it is."""
    program, task = toy()
    before = {name: value.clone() for name, value in program.traced.tensors.items()}
    random = with_random_weights(program, 3, how=how)  # type: ignore[arg-type]
    assert random.graph.model_hash != program.graph.model_hash
    batch = next(task.batches("test", 4))
    model, _ = build_builtin("induction")
    model.load_state_dict({n: random.traced.tensors.get(n, v) for n, v in model.state_dict().items()})
    with torch.no_grad():
        outputs = random.outputs(batch.inputs)[0]
        whole = random.outputs(batch.inputs, batch.counterfactual, masks_of(Circuit.full(random.graph), random))[0]
        wanted = model(**batch.inputs)
    assert torch.allclose(outputs, getattr(wanted, "logits", wanted), atol=1e-4)
    assert torch.allclose(whole, outputs, atol=1e-3)
    assert all(torch.equal(program.traced.tensors[name], value) for name, value in before.items())
    changed = [n for n, v in random.traced.tensors.items() if not torch.equal(v, before[n])]
    assert changed
    for name in changed:
        a, b = random.traced.tensors[name].detach(), before[name].detach()
        if how == "shuffle":
            assert torch.equal(a.flatten().sort().values, b.flatten().sort().values)
        assert float(a.std()) == pytest.approx(float(b.std()), rel=0.2)
    again = with_random_weights(program, 3, how=how)  # type: ignore[arg-type]
    assert all(torch.equal(again.traced.tensors[n], random.traced.tensors[n]) for n in changed)


def test_p_values_and_their_resolution() -> None:
    program, task = toy()
    found = measure_controls(known(), program, task, budget=replace(BUDGET, random_circuits=9), evaluator=evaluator())
    assert found.random.resolution == 0.1
    assert len(found.random.values) == 9
    beaten = sum(v >= found.random.value for v in found.random.values)
    assert found.random.p_value == (1 + beaten) / 10
    assert found.complement.p_value == 0.1
    lower = measure_controls(known(), program, task, metric="kl", budget=BUDGET, evaluator=evaluator()).complement
    assert not lower.higher_is_better
    assert lower.p_value == 0.25
    assert found.random_weights is None
    assert not found.flagged


def test_a_circuit_larger_than_its_complement_loses_one_control_only() -> None:
    program, task = toy()
    found = measure_controls(Circuit.full(program.graph), program, task, budget=BUDGET, evaluator=evaluator())
    assert "complement has" in found.complement.failed
    assert np.isnan(found.complement.p_value)
    assert len(found.random.values) == 3
    assert "complement has" in str(found)


def test_a_mask_that_works_on_random_weights_is_flagged() -> None:
    """A discovery that puts the task into the mask; here, one whose circuit runs the trained model anyway."""
    program, task = toy()

    def cheats(_: int, given: MaskedProgram) -> Circuit:
        given.traced.tensors.update(program.traced.tensors)  # type: ignore[attr-defined]
        return Circuit.full(given.graph)

    found = measure_controls(known(), program, task, discover=cheats, budget=BUDGET, evaluator=evaluator())
    assert found.random_weights is not None
    assert found.random_weights.recovered == pytest.approx(1)
    assert found.flagged
    assert "FLAGGED" in str(found)
    honest = measure_controls(
        known(),
        program,
        task,
        discover=lambda _, given: Circuit.full(given.graph),
        budget=BUDGET,
        evaluator=evaluator(),
    )
    assert not honest.flagged
    assert honest.random_weights is not None
    assert honest.random_weights.chance == 0.5


@pytest.mark.parametrize(("accuracy", "why"), [(0.5, "no better than chance"), (1.0, "the discovery failed: no way")])
def test_where_random_weights_cannot_be_compared_nothing_is_claimed(accuracy: float, why: str) -> None:
    program, task = toy()

    def fails(_: int, __: MaskedProgram) -> Circuit:
        raise GraphirError("no way")

    found = control_random_weights(accuracy, program, task, fails, "test", 0, "normal", BUDGET)
    assert why in found.failed
    assert np.isnan(found.recovered)
    assert found.to_json()["recovered"] is None
    assert not found.flagged


# --- stability -------------------------------------------------------------------------------------------------------


def test_seeds_that_fail_leave_the_others() -> None:
    program, _ = toy()

    def discover(seed: int, _: MaskedProgram) -> Circuit | None:
        if seed == 1:
            raise RuntimeError("out of memory\nmore")
        if seed == 2:
            raise GraphirError("the loss is not-a-number")
        return None if seed == 4 else known(*(["embed -> logits.in"] if seed == 3 else []))

    found = measure_stability(find_seeds(discover, [0, 1, 2, 3, 4, 3], program))
    assert found.seeds == (0, 3)
    assert {run.seed: run.failed for run in found.failed} == {
        1: "RuntimeError: out of memory", 2: "the loss is not-a-number", 4: "no circuit was found",
    }  # fmt: skip
    assert found.parts["edges"].pairs == ((0, 3, 5 / 6),)
    assert found.core.edges.tolist() == known().edges.tolist()
    assert int(found.union.edges.sum()) == 6
    assert np.isnan(found.parts["edges"].low)
    assert "seed 1 failed: RuntimeError: out of memory" in str(found)


def test_interrupted_seeds_end_with_what_there_is() -> None:
    program, _ = toy()

    def discover(seed: int, _: MaskedProgram) -> Circuit:
        if seed == 2:
            raise KeyboardInterrupt
        return known()

    runs = find_seeds(discover, [0, 1, 2, 3], program)
    assert [(run.seed, run.failed) for run in runs] == [(0, ""), (1, ""), (2, "interrupted")]
    assert measure_stability(runs).parts["edges"].mean == 1


def test_intervals_come_from_seeds_drawn_anew() -> None:
    """Every mean is one of seeds drawn with replacement, so the interval lies within the pairs; of equal circuits it is
    a point."""
    program, _ = toy()
    rng = np.random.default_rng(0)
    kept = [rng.random(106) < 0.5 for _ in range(5)]
    nodes = np.ones(len(program.graph.nodes), bool)
    runs = [SeedRun(i, Circuit(program.graph, mask, nodes)) for i, mask in enumerate(kept)]
    part = measure_stability(runs, bootstrap=300).parts["edges"]
    assert len(part.pairs) == 10
    assert part.smallest <= part.low <= part.mean <= part.high <= max(iou for _, _, iou in part.pairs)
    assert part.low < part.high
    assert part.chance == pytest.approx(part.mean, abs=0.1)
    same = measure_stability([SeedRun(i, known()) for i in range(3)], bootstrap=50).parts["edges"]
    assert (same.low, same.high) == (1, 1)


def test_masks_of_weights_are_compared_too() -> None:
    masks = [np.array([1, 1, 0, 0], bool), np.array([1, 0, 0, 0], bool)]
    runs = [SeedRun(i, known().with_(weights={"w": mask})) for i, mask in enumerate(masks)]
    assert measure_stability(runs).parts["weights"].pairs == ((0, 1, 0.5),)


def test_one_seed_has_no_stability() -> None:
    with pytest.raises(GraphirError, match=r"two seeds at least, 1 found one[\s\S]*seed 1: it broke"):
        measure_stability([SeedRun(0, known()), SeedRun(1, None, "it broke")])


# --- all of it -------------------------------------------------------------------------------------------------------


def test_all_evidence_of_one_circuit() -> None:
    program, task = toy()

    def discover(seed: int, given: MaskedProgram) -> Circuit:
        return passes.run("eap", given, task, edges=5 + seed, batch_size=4, examples=4)

    circuit = known().with_(provenance={"seed": 0})
    found = gather_evidence(circuit, program, task, discover=discover, seeds=(0, 1, 2), truth=KNOWN, budget=BUDGET)
    assert found.missing == {}
    assert found.stability is not None
    assert found.stability.seeds == (0, 1, 2)
    assert found.value("accuracy") == 1
    assert found.value("model.accuracy") == 1
    assert found.value("complement.accuracy") == 0
    assert found.value("density.edges") == pytest.approx(5 / 106)
    assert found.value("auroc") == 1
    assert found.value("minimality") == pytest.approx(1, abs=0.1)
    assert found.value("stability") == pytest.approx(5 / 7)
    assert found.value("p.complement") == 0.25
    assert found.value("random_weights") is not None
    assert found.value("nothing") is None
    assert set(json.loads(json.dumps(found.to_json(), allow_nan=False))) >= {"faithfulness", "minimality", "controls"}
    assert "\x1b" not in str(found)
    for words in ("CPR", "edge ROC", "complement:", "minimality of 5 edges", "mean IoU", "resolution"):
        assert words in str(found)


def test_a_circuit_from_elsewhere_gets_what_can_be_measured() -> None:
    """No ranking, no discovery: the rest stands, and what is missing is named."""
    program, task = toy()
    found = gather_evidence(known().with_(scores={}), program, task, budget=BUDGET)
    assert found.missing == {"faithfulness": "the circuit has no ranking of edges"}
    assert found.faithfulness is None
    assert found.stability is None
    assert found.minimality is not None
    assert found.controls is not None
    assert "not measured: faithfulness" in str(found)


def test_what_cannot_be_measured_does_not_stop_the_rest() -> None:
    program, task = toy()
    empty = Circuit(program.graph, np.zeros(106, bool), np.zeros(len(program.graph.nodes), bool))

    def fails(seed: int, _: MaskedProgram) -> Circuit:
        raise ValueError(f"seed {seed}")

    found = gather_evidence(empty, program, task, discover=fails, seeds=(1, 2), truth=[], budget=BUDGET)
    assert set(found.missing) == {"faithfulness", "roc", "minimality", "stability"}
    assert found.controls is not None
    assert found.controls.random_weights is not None
    assert "no better than chance" in found.controls.random_weights.failed
    assert found.value("random_weights") is None
    assert found.value("accuracy") == 0


@pytest.mark.parametrize("field", ["examples", "minimality_runs", "bootstrap"])
def test_a_budget_for_nothing_is_refused(field: str) -> None:
    with pytest.raises(GraphirError, match=f"`{field}` leaves nothing"):
        Budget(**{field: 0})


# --- sums ------------------------------------------------------------------------------------------------------------


def added() -> CircuitSum:
    """The known edges with their writers' weights kept by both operands but for one matrix, of which one keeps half."""
    program, _ = toy()
    shapes = {name: tuple(program.traced.tensors[name].shape) for name in program.maskable}
    whole = {name: np.ones(shape, bool) for name, shape in shapes.items()}
    first = next(iter(shapes))
    half = whole | {first: np.random.default_rng(0).random(shapes[first]) < 0.5}
    return add(known().with_(weights=whole), known().with_(weights=half))


def test_evidence_of_a_sum_is_that_of_its_added_weights() -> None:
    """Every number that runs the sum is that of a model with its matrices multiplied, not of the union."""
    program, task = toy()
    summed = added()
    judge = Evaluator(program, task, batch_size=BUDGET.batch_size)
    wanted = judge.measure(summed.masks(program))
    assert wanted["kl"] != pytest.approx(judge.measure_circuit(summed.circuit)["kl"], rel=1e-2)
    found = gather_evidence(summed, program, task, budget=BUDGET)
    assert found.missing.keys() <= {"stability", "faithfulness"}
    assert found.metrics["kl"] == pytest.approx(wanted["kl"], rel=1e-5)
    assert found.controls is not None
    assert found.controls.random.value == pytest.approx(wanted["logit_diff"], rel=1e-5)
    few = Evaluator(program, task, batch_size=4).measure(summed.masks(program))["logit_diff"]
    scorer = Scorer(program, task, weights=summed.factors, examples=len(task.examples("test")))
    assert scorer(summed.circuit.edges) == pytest.approx(few, rel=1e-5)
    assert found.completeness is not None
    assert found.minimality is not None
    base = Scorer(program, task, weights=summed.factors, examples=BUDGET.examples, batch_size=BUDGET.batch_size)
    assert found.minimality.base == pytest.approx(base(summed.circuit.edges), rel=1e-6)
    assert found.completeness.base.circuit == pytest.approx(base(summed.circuit.edges), rel=1e-6)


@pytest.mark.parametrize("complement", [False, True])
def test_a_sum_is_matched_by_sums_that_count_as_many_weights_as_often(complement: bool) -> None:
    graph = toy()[0].graph
    counts = np.array([[0, 0, 0, 0, 0, 0], [1, 2, 0, 1, 0, 0]], np.uint8)
    summed = CircuitSum(known().with_(weights={"w": counts > 0}), {"w": counts})
    drawn = matched_random(summed, 3, complement=complement)
    assert sorted(drawn.factors["w"].ravel()) == sorted(counts.ravel())
    assert (drawn.factors["w"].ravel() != counts.ravel()).any()
    assert drawn.circuit.graph is graph
    if complement:
        assert not (drawn.circuit.weights["w"] & (counts > 0)).any()
