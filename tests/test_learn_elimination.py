"""The last choice of edges in a small graph: where the ranks that were learned do not do, each edge is tried."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import passes
from graphir.circuit import Circuit
from passes.base import Constraint, RunContext, keep_top
from passes.discogp import Discogp
from passes.learn import elimination
from passes.learn.elimination import eliminate_to_bound
from passes.learn.parametrizations import HardConcrete
from passes.learn.parts import Part
from tests.compiled import compiled, true_mask

torch.set_num_threads(1)


def context(allowed: int) -> RunContext:
    return RunContext(compiled().program, compiled().task, (Constraint("edges", allowed / len(true_mask())),))


def parts(*names: str) -> dict[str, Part]:
    return {name: Part(name, {name: torch.zeros(3)}, HardConcrete(), rate=0.1) for name in names}


def learned(scores: np.ndarray, kept: int) -> Circuit:
    graph = compiled().program.graph
    everywhere = np.ones(len(graph.nodes), bool)
    return Circuit(
        graph, keep_top(scores, kept), everywhere, scores={"edges": scores}, ablation="zero",
        provenance={"method": "edge_pruning", "steps_done": 5},
    ).on_path()  # fmt: skip


def misled() -> np.ndarray:
    """Scores that rank one true edge behind all that are not."""
    scores = true_mask().astype(float)
    scores[np.flatnonzero(true_mask())[0]] = -1.0
    return scores


def test_a_true_edge_that_ranks_last_is_found_again() -> None:
    size = int(true_mask().sum())
    found = eliminate_to_bound(learned(misled(), size), context(size), parts("edges"))
    assert (found.edges == true_mask()).all()
    assert (found.scores["edges"] == misled()).all()
    assert found.provenance["selection"]["split"] == "train"
    assert found.provenance["steps_done"] == 5


def test_what_does_the_task_stays_as_it_was_learned() -> None:
    scores = true_mask().astype(float)
    circuit = learned(scores, int(true_mask().sum()) + 2)
    assert eliminate_to_bound(circuit, context(len(scores)), parts("edges")) is circuit


def test_a_bound_that_the_task_does_not_fit_leaves_what_was_learned() -> None:
    size = int(true_mask().sum()) - 1
    circuit = learned(true_mask().astype(float), size)
    assert eliminate_to_bound(circuit, context(size), parts("edges")) is circuit


@pytest.mark.parametrize("names", [("weights",), ("nodes", "edges")])
def test_only_edges_without_node_masks_are_tried(names: tuple[str, ...]) -> None:
    size = int(true_mask().sum())
    circuit = learned(misled(), size)
    assert eliminate_to_bound(circuit, context(size), parts(*names)) is circuit


def test_without_a_bound_nothing_is_tried() -> None:
    circuit = learned(misled(), int(true_mask().sum()))
    free = replace(context(1), constraints=())
    assert eliminate_to_bound(circuit, free, parts("edges")) is circuit


@pytest.mark.parametrize("limit", ["TRIED", "LARGEST"])
def test_in_a_large_graph_or_model_nothing_is_tried(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elimination, limit, len(true_mask()) - 1)
    size = int(true_mask().sum())
    circuit = learned(misled(), size)
    assert eliminate_to_bound(circuit, context(size), parts("edges")) is circuit


def test_weights_that_do_not_do_leave_what_was_learned() -> None:
    size = int(true_mask().sum())
    closed = {name: np.zeros(tuple(compiled().program.traced.tensors[name].shape), bool) for name in maskable()}
    circuit = learned(misled(), size).with_(weights=closed)
    assert eliminate_to_bound(circuit, context(size), parts("weights", "edges")) is circuit


def maskable() -> list[str]:
    return list(Discogp().masked_parameters(compiled().program))


def test_ctrl_c_keeps_what_was_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> Circuit:
        raise KeyboardInterrupt

    monkeypatch.setattr(elimination, "smallest_circuit", interrupted)
    size = int(true_mask().sum())
    circuit = learned(misled(), size)
    found = eliminate_to_bound(circuit, context(size), parts("edges"))
    assert (found.edges == circuit.edges).all()
    assert found.provenance["interrupted"] == 5


def test_a_method_does_it_by_itself() -> None:
    """One step from masks that are all on teaches no ranks."""
    size = int(true_mask().sum())
    found = passes.run("edge_pruning", compiled().program, compiled().task, edges=size, steps=1, initial="ones")
    assert (found.edges == true_mask()).all()
    assert "selection" in found.provenance
