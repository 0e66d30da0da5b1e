"""The smallest circuit of a ranking that still does the task, against the true circuit and every size tried."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphir.circuit import Circuit
from graphir.errors import GraphirError
from passes import smallest
from passes.base import keep_top
from passes.measure import Evaluator, masks_of
from passes.smallest import Tolerance, smallest_circuit
from tests.compiled import compiled, true_mask

torch.set_num_threads(1)


def chosen(scores: np.ndarray, **options: object) -> Circuit:
    return smallest_circuit(compiled().program, compiled().task, scores, **options)  # type: ignore[arg-type]


def random_scores(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=len(true_mask()))


def test_a_perfect_ranking_is_cut_where_the_true_edges_end() -> None:
    scores = true_mask() + 0.1 * random_scores(0)
    assert (chosen(scores, drop_single=False).edges == true_mask()).all()


def test_the_sign_counts_unless_it_is_told_not_to() -> None:
    scores = -(true_mask() + 0.1 * np.abs(random_scores(0)))
    assert (chosen(scores, drop_single=False, absolute=True).edges == true_mask()).all()
    assert chosen(scores, drop_single=False).edges.sum() > true_mask().sum()


@pytest.mark.parametrize("seed", range(3))
def test_single_edges_are_dropped_until_the_true_ones_are_left(seed: int) -> None:
    assert (chosen(random_scores(seed)).edges == true_mask()).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_size_is_the_smallest_that_is_within(seed: int) -> None:
    scores = random_scores(seed)
    judge = Evaluator(compiled().program, compiled().task, "validation", 64)
    full = np.ones(len(compiled().program.graph.nodes), bool)
    tops = [Circuit(compiled().program.graph, keep_top(scores, k), full).on_path() for k in range(1, len(scores) + 1)]
    kl = [judge.measure(masks_of(circuit, compiled().program))["kl"] for circuit in tops]
    first = next(circuit for circuit, value in zip(tops, kl, strict=True) if value <= 0.01)
    assert (chosen(scores, drop_single=False).edges == first.edges).all()


def test_bisection_in_a_large_graph_ends_where_the_scan_does(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = true_mask() + 0.1 * random_scores(1)
    monkeypatch.setattr(smallest, "_SCANNED", 0)
    assert (chosen(scores, drop_single=False).edges == true_mask()).all()


def test_a_wide_tolerance_keeps_less() -> None:
    assert chosen(random_scores(0), tolerance=Tolerance(kl=100.0, accuracy=1.0)).edges.sum() < true_mask().sum()


def test_the_rule_is_recorded_and_the_scores_are_kept() -> None:
    scores = random_scores(4)
    circuit = chosen(scores, provenance={"method": "mine"}, name="small")
    selection = circuit.provenance["selection"]
    assert selection["split"] == "validation" and selection["tolerance"] == {"kl": 0.01, "accuracy": 0.01}
    assert selection["kept"] == true_mask().sum() <= selection["by_size"]
    assert circuit.provenance["method"] == "mine" and circuit.name == "small" and circuit.ablation == "zero"
    np.testing.assert_array_equal(circuit.scores["edges"], scores)


def test_an_evaluator_at_hand_is_used_with_its_split() -> None:
    judge = Evaluator(compiled().program, compiled().task, "train")
    found = chosen(random_scores(0), evaluator=judge)
    assert (found.edges == true_mask()).all()
    assert found.provenance["selection"]["split"] == "train"


def test_every_circuit_tried_has_the_weights_that_are_given() -> None:
    scores, shape = true_mask().astype(float), compiled().program.traced.tensors["blocks.0.mlp.up.weight"].shape
    weights = {"blocks.0.mlp.up.weight": np.ones(shape, bool)}
    assert (chosen(scores, weights=weights).edges == true_mask()).all()
    assert chosen(scores, weights=weights).densities()["weights"] == 1.0
    weights = {"blocks.0.mlp.up.weight": np.zeros(shape, bool)}  # nothing is looked up any more
    with pytest.raises(GraphirError, match="not even all edges are within"):
        chosen(scores, weights=weights)


def test_scores_of_another_length_are_an_error() -> None:
    with pytest.raises(GraphirError, match=r"\(3,\) scores for 37 edges"):
        chosen(np.ones(3))


def test_a_negative_tolerance_is_an_error() -> None:
    with pytest.raises(GraphirError, match="a tolerance is not negative"):
        Tolerance(kl=-0.1)


def test_a_tolerance_that_not_even_the_model_meets_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tolerance, "allows", lambda *_: False)
    with pytest.raises(GraphirError, match="not even all edges are within the tolerance"):
        chosen(random_scores(0))
