"""The other methods that learn masks, on the built-in induction model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import passes
from dsl.builtin.truth import prepare
from graphir.circuit import Circuit
from graphir.errors import GraphirError
from passes.measure import Evaluator, curve
from tests.learning import KNOWN, Recorder, names, toy


def accuracy(circuit: Circuit, *, complement: bool = False) -> float:
    program, task = toy(480)
    return Evaluator(program, task).measure_circuit(circuit, complement=complement)["accuracy"]


@pytest.mark.parametrize(("method", "options"), [
    ("subnetwork_probing", {"steps": 120}), ("ugs", {"steps": 100, "masks_per_batch": 4}),
])  # fmt: skip
def test_the_known_edges_rank_first(method: str, options: dict[str, int]) -> None:
    program, task = toy()
    circuit = passes.run(method, program, task, edges=len(KNOWN), **options)  # type: ignore[arg-type]
    assert names(circuit) == KNOWN
    scores = circuit.scores["edges"]
    assert ((scores >= 0) & (scores <= 1)).all()
    kept = np.array([str(edge) in KNOWN for edge in program.graph.edges])
    assert scores[kept].min() > scores[~kept].max()


@pytest.mark.parametrize("method", ["subnetwork_probing", "ugs", "matryoshka"])
def test_nodes_can_be_ranked_too(method: str) -> None:
    program, task = toy()
    circuit = passes.run(method, program, task, nodes=0.5, level="node", steps=50)
    assert circuit.nodes.sum() <= 5
    assert len(circuit.scores["nodes"]) == len(program.graph.nodes)
    assert {"a0.h0", "a1.h2"} <= {node.name for node in circuit.kept_nodes()}


def test_one_matryoshka_ranking_serves_every_sparsity() -> None:
    program, task = toy()
    circuit = passes.run("matryoshka", program, task, steps=150)
    assert circuit.edges.all()
    assert {str(program.graph.edges[i]) for i in np.argsort(-circuit.scores["edges"])[: len(KNOWN)]} == KNOWN
    points = curve(Evaluator(program, task), circuit.scores["edges"], [1.0, 0.3, 0.1, 5 / 106])
    assert all(point.metrics["accuracy"] > 0.9 for point in points)


def test_a_higher_penalty_keeps_fewer_edges() -> None:
    program, task = toy()
    for method, prices in (("subnetwork_probing", (0.0, 30.0)), ("ugs", (0.0, 3e-2))):
        low, high = (passes.run(method, program, task, steps=60, penalty=price).edges.sum() for price in prices)
        assert high < low


@pytest.mark.parametrize(("method", "bound", "prices"), [
    ("subnetwork_probing", {"edges": 12}, ({}, {"penalty": 0.0})), ("ugs", {"edges": 12}, ({}, {"penalty": 1.0})),
    ("csordas", {"weights": 0.3}, ({}, {"alpha": 1.0})),
    ("continuous_sparsification", {"weights": 0.3}, ({}, {"penalty": 0.0})),
])  # fmt: skip
def test_a_constraint_leads_the_masks_to_its_density_whatever_the_price(
    method: str, bound: dict[str, Any], prices: tuple[dict[str, Any], ...]
) -> None:
    program, task = toy()
    found = []
    for price in prices:
        seen = Recorder()
        more: dict[str, Any] = bound | price | ({"node_penalty": 0.0} if method == "ugs" else {})
        passes.run(method, program, task, observer=seen, **more)
        found.append(seen.steps[-1]["density"])
    wanted = bound.get("weights", 12 / len(program.graph.edges))
    assert found[0] == found[1]
    assert 0.5 * wanted < found[0] < 1.3 * wanted


def test_continuous_sparsification_ends_with_masks_of_zero_and_one() -> None:
    program, task = toy(480)
    circuit = passes.run("continuous_sparsification", program, task, steps=120, batch_size=16, weights=0.25)
    assert circuit.densities()["weights"] == pytest.approx(0.25, abs=1e-4)
    assert accuracy(circuit) > 0.9
    free = passes.run("continuous_sparsification", program, task, steps=40, penalty=2.0)
    assert 0 < free.densities()["weights"] < 0.9


@pytest.mark.parametrize("name", ["histogram", "token_fraction"])
def test_continuous_sparsification_keeps_what_saturated_attention_needs(name: str) -> None:
    it = prepare(name, "zero")
    circuit = passes.run("continuous_sparsification", it.program, it.task)
    assert circuit.densities()["weights"] < 0.02
    assert Evaluator(it.program, it.task).measure_circuit(circuit)["accuracy"] > 0.9


def test_differentiable_weight_masks_keep_the_task_and_drop_weights() -> None:
    program, task = toy(480)
    circuit = passes.run("csordas", program, task, steps=90, learning_rate=0.1, alpha=1e-3)
    assert circuit.edges.all()
    assert circuit.densities()["weights"] < 0.7
    assert accuracy(circuit) > 0.9
    assert accuracy(circuit, complement=True) < 0.8


@pytest.mark.parametrize("masks", [1, 4])
def test_a_gradient_that_is_clipped_to_nothing_moves_nothing(masks: int) -> None:
    program, task = toy()
    options: dict[str, Any] = {"steps": 20, "learning_rate": 1.0, "alpha": 0.0, "masks_per_batch": masks}
    still = passes.run("csordas", program, task, clip=1e-14, **options)
    assert all(mask.all() for mask in still.weights.values())
    moved = passes.run("csordas", program, task, clip=1.0, **options)
    assert not all(mask.all() for mask in moved.weights.values())


def test_the_output_is_masked_where_it_is_asked_for() -> None:
    program, task = toy()
    named = {
        outputs: set(passes.run("csordas", program, task, steps=1, outputs=outputs).weights)
        for outputs in (False, True)
    }
    assert named[False] == set(program.maskable)
    assert named[True] - named[False] == set(program.parameters_of(outputs=True)) - set(program.maskable) != set()
    assert set(program.parameters_of(embeddings=True)) >= named[True]


# Bad input


@pytest.mark.parametrize(("method", "options", "bounds", "message"), [
    ("eap", {}, {"weights": 0.1}, "`eap` cannot bound weights: it has masks on edges only"),
    ("csordas", {}, {"edges": 5}, "`csordas` cannot bound edges: it has masks on weights only"),
    ("ugs", {"level": "edge"}, {"nodes": 0.5}, "`ugs` cannot bound nodes: it has masks on edges only"),
    ("continuous_sparsification", {"level": "node"}, {"weights": 0.5}, "masks on nodes only"),
    ("edge_pruning", {}, {"nodes": 0.5}, "`edge_pruning` cannot bound nodes"),
    ("structured", {}, {"nodes": 0.5}, "meets no other bound"),
    ("subnetwork_probing", {"level": "neuron"}, {"neurons": 0.5}, "no neurons that can be masked"),
    ("csordas", {}, {"weights": 1e-7}, "leaves nothing to keep"),
    ("matryoshka", {"level": "node"}, {"nodes": 0.1}, "are always kept"),
])  # fmt: skip
def test_a_bound_that_a_method_cannot_meet_is_said_before_it_learns(
    method: str, options: dict[str, str], bounds: dict[str, float], message: str
) -> None:
    program, task = toy()
    with pytest.raises(GraphirError, match=message):
        passes.run(method, program, task, **options, **bounds)  # type: ignore[arg-type]
