"""Methods whose size follows from a penalty, a rate or λ run from a file without a bound, and keep what their own rule
says; neurons that an attribution ranks are cut where a bound says so."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphir.circuit import Circuit
from passes.learn.parts import Part
from passes.learn.results import learned_circuit
from tests.running import HEAD as TOY
from tests.running import run_text, spec_of, trace_once
from tests.test_every_method import HEAD

CASES: Mapping[str, tuple[str, str, str, tuple[str, str]]] = {
    # word and method, its options for a short training, the part, and two prices: what is free and what is dear
    "csordas": ("sheaf", "steps: 8  learning_rate: 1", "weights", ("alpha: 0", "alpha: 1000")),
    "continuous_sparsification": ("sheaf", "steps: 6  learning_rate: 1", "weights", ("penalty: 0", "penalty: 10000")),
    "subnetwork_probing": ("circuit", "steps: 6  learning_rate: 0.5", "edges", ("penalty: 0", "penalty: 10000")),
    "ugs": ("circuit", "steps: 8  learning_rate: 0.5", "edges", ("penalty: 0", "penalty: 10")),
    "discogp": (
        "sheaf", "control: ramp  steps: 12  learning_rate: 1  weight_learning_rate: 1", "weights",
        ("sparsity_weight: 0", "sparsity_weight: 10000"),
    ),
}  # fmt: skip


def soft_total(logits: np.ndarray) -> float:
    """Σ of the mask that Edge Pruning evaluates (Bhaskar et al. 2024): σ(0.8 l / β) at β = 2/3, of which the smallest
    are zero, as many as are expected to be: Σ σ(β log(0.1 / 1.1) − l)."""
    soft = np.sort(1 / (1 + np.exp(-1.2 * logits)))
    zeros = round(float((1 / (1 + np.exp(logits - 2 / 3 * log(0.1 / 1.1)))).sum()))
    return float(soft[zeros:].sum())


def learned(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Circuit, Mapping[str, Part]]:
    """The circuit of a file, and the parts it was made of."""
    seen: dict[str, Part] = {}

    def record(found: Any, context: Any, parts: Mapping[str, Part], bounds: Any, **more: Any) -> Circuit:
        assert set(bounds.values()) == {None}
        seen.update(parts)
        return learned_circuit(found, context, parts, bounds, **more)

    monkeypatch.setattr("passes.learn.running.learned_circuit", record)
    trace_once(monkeypatch)
    return run_text(HEAD + text, folder).circuits["found"], seen


@pytest.mark.parametrize("method", CASES)
def test_a_method_with_a_price_finds_its_own_size_from_a_file(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word, options, part, prices = CASES[method]
    shares = []
    for price in prices:
        text = f"{word} found = discover g for t with {method} {{ {options}  {price} }}\n"
        circuit, parts = learned(text, tmp_path / price.split()[1], monkeypatch)
        made = parts[part]
        assert circuit.provenance["constraints"] == {}
        if part == "weights":
            open_ = {name: (logits > 0).numpy() for name, logits in made.logits.items()}
            if any(mask.any() for mask in open_.values()):
                assert all((circuit.weights[name] == mask).all() for name, mask in open_.items())
            else:  # a circuit of nothing is none
                assert sum(int(mask.sum()) for mask in circuit.weights.values()) == 1
        else:
            (logits,) = made.logits.values()
            kept = (logits > 0).numpy()
            if method == "subnetwork_probing":
                kept = np.zeros(len(logits), bool)
                kept[np.argsort(-logits.numpy(), kind="stable")[: max(round(soft_total(logits.numpy())), 1)]] = True
            expected = Circuit(circuit.graph, kept, np.ones_like(circuit.nodes)).on_path()
            assert (circuit.edges == expected.edges).all()
        shares.append(circuit.densities()[part])
    free, dear = shares
    assert dear < free


def test_a_ticket_drops_its_rate_in_each_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)
    text = "sheaf found = discover g for t with imp { rounds: 2  steps: 2  rate: 30% }\n"
    circuit = run_text(HEAD + text, tmp_path).circuits["found"]
    total = left = sum(mask.size for mask in circuit.weights.values())
    for _ in range(2):
        left -= ceil(0.3 * left - 1e-9)
    assert sum(int(mask.sum()) for mask in circuit.weights.values()) == left < total


def test_a_sweep_goes_over_prices_and_a_plan_and_evidence_need_no_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsl.options import PlanOptions
    from dsl.running.planning import make_plan

    trace_once(monkeypatch)
    text = TOY + (
        "sweep sizes = discover g for pairs with subnetwork_probing { steps: 4  learning_rate: 0.5  penalty: p } "
        "over p in 0, 10000\n"
        "circuit on = discover g for pairs with ugs { steps: 2 } from first\n"
        "circuit first = discover g for pairs with subnetwork_probing { steps: 2 }\n"
        "evidence first { seeds: 2  controls: random_model  curve: false  minimality: false  completeness: false }\n"
    )
    plan = make_plan(spec_of(text, tmp_path), PlanOptions(caching=False))
    assert "first: subnetwork_probing" in {stage.name for stage in plan.stages}
    cache = tmp_path / "cache"
    run = run_text(text, tmp_path, cache=cache)
    free, dear = run.circuits["sizes.0"], run.circuits["sizes.1"]
    assert dear.density < free.density
    again = run_text(text, tmp_path, out="again", cache=cache)
    stages = again.manifest["stages"]
    assert all(each["cached"] for each in stages)


# --- neurons ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["subject to density(neurons) <= 25%", "top 25%", "top 25% neurons", "top 8 neurons"])
def test_neuron_attribution_keeps_the_best_neurons_that_a_bound_allows(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_once(monkeypatch)
    circuit = run_text(HEAD + f"circuit found = discover g for t with neuron_attribution {size}\n", tmp_path).circuits[
        "found"
    ]
    scores = np.abs(circuit.scores["neurons"])
    best = set(np.argsort(-scores, kind="stable")[:8].tolist())
    assert len(scores) == 32
    columns = np.concatenate([circuit.weights[f"blocks.{layer}.mlp.down.weight"].any(0) for layer in range(2)])
    assert set(np.flatnonzero(columns).tolist()) == best
    assert circuit.edges.all()
    assert circuit.densities()["neurons"] == 0.25


def test_stability_compares_the_neurons_of_two_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the columns of the last products, which only kept neurons have."""
    trace_once(monkeypatch)
    text = (
        "circuit found = discover g for t with subnetwork_probing { steps: 12  level: neuron  learning_rate: 1 } "
        "subject to density(neurons) <= 25%\n"
        "check found { stability(neurons, iou) >= 0 over 2 seeds  stability(neurons, iomin) >= 0 over 2 seeds }\n"
    )
    text += text.splitlines()[0].replace("found", "other").replace("steps", "seeds: 1  steps") + "\n"
    run = run_text(HEAD + text, tmp_path)
    first, second = (
        np.concatenate([run.circuits[name].weights[f"blocks.{layer}.mlp.down.weight"].any(0) for layer in range(2)])
        for name in ("found", "other")
    )
    iou, iomin = (next(iter(verdict.values.values())) for verdict in run.verdicts)
    assert first.sum() == second.sum() == 8
    assert iou == (first & second).sum() / (first | second).sum()
    assert iomin == (first & second).sum() / 8
