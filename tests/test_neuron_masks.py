"""Masks on neurons, against nets whose neurons are known: a compiled program with a branch that changes no probability,
and a feed-forward net with a module that nothing reads."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import passes
from dsl.builtin.programs.planted_modules import MODULES, PLACES
from dsl.builtin.truth import Setting, prepare
from graphir.circuit import Circuit
from graphir.ir import NodeKind
from graphir.run.masks import Masks
from passes.ablations import ReferenceSource
from passes.learn.results import weights_of_neurons
from passes.measure import Evaluator
from passes.task import Ablation


@cache
def setting(name: str, ablation: Ablation = "interchange") -> Setting:
    torch.set_num_threads(1)
    return prepare(name, ablation)


@cache
def needed() -> frozenset[int]:
    """The neurons of `two_branch` without which, one at a time, the program predicts something else."""
    it = setting("two_branch")
    evaluator = Evaluator(it.program, it.task, batch_size=48)
    total = max(stop for _, stop in it.program.neurons.values())
    cut = []
    for neuron in range(total):
        kept = torch.ones(total)
        kept[neuron] = 0
        weights = {name: torch.as_tensor(mask) for name, mask in weights_of_neurons(it.program, kept).items()}
        cut.append(Masks(edges=torch.ones(len(it.program.graph.edges)), weights=weights))
    return frozenset(i for i, found in enumerate(evaluator.measure_several(cut)) if found["kl"] > 1e-3)


def kept_neurons(circuit: Circuit) -> frozenset[int]:
    """By the columns of the last product of each MLP."""
    it, found = setting("two_branch"), set[int]()
    for layer, (start, _) in enumerate(it.program.neurons.values()):
        columns = circuit.weights[f"blocks.{layer}.mlp.down.weight"]
        assert (columns.all(0) == columns.any(0)).all()
        found |= {start + int(i) for i in np.flatnonzero(columns.any(0))}
    return frozenset(found)


def test_the_oracle_is_the_one_table_that_the_answer_goes_through() -> None:
    """One neuron for each letter that is looked up; those that mark letters, and those of the idle MLP, do nothing."""
    (start, stop), _ = setting("two_branch").program.neurons.values()
    assert len(needed()) == 8
    assert all(start <= neuron < stop for neuron in needed())


LEARNERS: dict[str, dict[str, Any]] = {
    "discogp": {"parts": "neurons", "steps": 100, "completeness": 0.1},
    "subnetwork_probing": {"level": "neuron", "steps": 100},
    "continuous_sparsification": {"level": "neuron", "steps": 100},
}


@pytest.mark.parametrize("method", LEARNERS)
def test_methods_find_the_neurons_that_matter(method: str) -> None:
    it = setting("two_branch")
    share = len(needed()) / 32
    circuit = passes.run(method, it.program, it.task, neurons=share, batch_size=16, **LEARNERS[method])
    assert kept_neurons(circuit) == needed()
    assert circuit.densities()["neurons"] == share
    scores = circuit.scores["neurons"]
    assert scores[sorted(needed())].min() > max(scores[i] for i in range(32) if i not in needed())
    evaluator = Evaluator(it.program, it.task, batch_size=48)
    assert evaluator.measure_circuit(circuit)["accuracy"] == evaluator.full["accuracy"] == 1
    assert evaluator.measure_circuit(circuit, complement=True)["accuracy"] <= 0.5  # nothing is told apart


def test_a_penalty_alone_drops_the_idle_neurons() -> None:
    it = setting("two_branch")
    circuit = passes.run(
        "subnetwork_probing", it.program, it.task, level="neuron", steps=100, batch_size=16, penalty=1.0
    )
    assert kept_neurons(circuit) == needed()


@pytest.mark.parametrize("ablation", ["mean", "mean by template"])
def test_what_stands_in_for_a_neuron_is_zero_in_training_as_in_the_circuit(ablation: Ablation) -> None:
    """A circuit cuts neurons out of the weights, whatever stands in for edges."""
    it = setting("two_branch", ablation)
    batch = next(it.task.batches("train", 2))
    assert not ReferenceSource(it.program, it.task)(batch).hidden
    assert ReferenceSource(it.program, it.task, hidden=True)(batch).hidden


PLANTED: dict[str, dict[str, Any]] = {
    "discogp": {"parts": "nodes", "steps": 150, "completeness": 0.0},
    "subnetwork_probing": {"level": "node", "steps": 150},
    "continuous_sparsification": {"level": "node", "steps": 150},
}


@pytest.mark.parametrize("method", PLANTED)
def test_methods_find_the_planted_modules(method: str) -> None:
    """Where neurons are nodes: those of the three modules, and none of the idle one."""
    it = setting("planted_modules", "zero")
    nodes = it.program.graph.nodes
    inner = [i for i, node in enumerate(nodes) if node.ports and node.kind is not NodeKind.OUTPUT]
    wanted = {
        f"{layer}.n{i}" for m in MODULES for layer, place in (("first", 1), ("second", 2)) for i in PLACES[m][place]
    }
    share = (len(nodes) - len(inner) + len(wanted)) / len(nodes)
    circuit = passes.run(method, it.program, it.task, nodes=share, batch_size=16, **PLANTED[method])
    assert {nodes[i].name for i in inner if circuit.nodes[i]} == wanted
