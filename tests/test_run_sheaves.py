"""Runs that find sheaves: circuits with masks on weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import passes
from dsl.running.folder import read_run
from dsl.spec import SpecError
from graphir.circuit import Circuit
from graphir.run.program import MaskedProgram
from tests.running import HEAD, run_text, trace_once

WEIGHTS = "sheaf half = discover g for pairs with magnitude subject to density(weights) <= 50%\n"
LEARNED = (
    "sheaf s = discover g for pairs with discogp { steps: 3  batch_size: 4 PARTS }\n  OBJECTIVE subject to BOUNDS\n"
)
BOUNDS = "density(weights) <= 30%, density(edges) <= 20%"


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


def learned(objective: str = "", bounds: str = BOUNDS, parts: str = "") -> str:
    return HEAD + LEARNED.replace("OBJECTIVE", objective).replace("BOUNDS", bounds).replace("PARTS", parts)


def test_a_sheaf_meets_both_bounds_and_shows_both_densities(tmp_path: Path) -> None:
    text = learned() + 'check s { density(weights) <= 30%  density(edges) <= 20%  weights <= 10k }\nexport s to "s/"\n'
    run = run_text(text, tmp_path)
    assert run.passed
    shares = run.circuits["s"].densities()
    assert 0 < shares["weights"] <= 0.3
    assert 0 < shares["edges"] <= 0.2
    assert "sheaf s: " in str(run)
    assert f"{shares['weights']:.2%}" in str(run)
    record = read_run(run.folder)["circuits"]["s"]
    assert (record["kind"], record["densities"]["weights"]) == ("sheaf", shares["weights"])
    saved = Circuit.load(tmp_path / "out" / "s")
    assert all(np.array_equal(mask, run.circuits["s"].weights[name]) for name, mask in saved.weights.items())


def test_weights_alone_can_be_bounded_by_number(tmp_path: Path) -> None:
    run = run_text(learned(bounds="weights <= 5k", parts="parts: weights"), tmp_path)
    kept = sum(int(mask.sum()) for mask in run.circuits["s"].weights.values())
    assert 4_000 < kept <= 5_000
    assert run.circuits["s"].edges.all()


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("minimize faith + 0.5 * complete", {"faithfulness": "kl", "completeness": 0.5}),
        ("minimize cross_entropy + complete", {"faithfulness": "cross_entropy", "completeness": 1.0}),
    ],
)
def test_an_objective_is_the_methods_own(tmp_path: Path, objective: str, options: dict[str, object]) -> None:
    made = run_text(learned(objective), tmp_path).circuits["s"].provenance
    assert {name: made[name] for name in options} == options


@pytest.mark.parametrize("objective", ["minimize 2 * kl", "minimize complete", "minimize kl + density(weights)"])
def test_an_objective_that_the_method_has_not_is_refused(tmp_path: Path, objective: str) -> None:
    with pytest.raises(SpecError, match=r"minimizes `kl\(model, circuit\)`, `faith` or `cross_entropy`"):
        run_text(learned(objective), tmp_path)


def test_a_sum_counts_a_weight_as_often_as_it_is_kept(tmp_path: Path) -> None:
    """With every edge kept and each weight of the masked matrices counted twice, the sum of a sheaf with itself is the
    model with these matrices doubled: nothing like the union, which is the sheaf."""
    text = HEAD + WEIGHTS + WEIGHTS.replace("half", "more").replace("50%", "80%")
    run = run_text(text + "sheaf added = half + more + half\nsheaf either = half | more | half\n", tmp_path)
    half, more = run.circuits["half"], run.circuits["more"]
    found = run.judged["added"].found.factors
    for name, counts in found.items():
        assert np.array_equal(counts, 2 * half.weights[name].astype(int) + more.weights[name])
    # Magnitude keeps the largest: half is within more, so the union is more, bit for bit.
    assert run.judged["either"].metrics == run.judged["more"].metrics
    assert run.judged["added"].metrics["kl"] != run.judged["either"].metrics["kl"]
    assert run.results["compositions"]["added"].doubled == sum(int(m.sum()) for m in half.weights.values())


def test_the_evidence_of_a_sum_is_of_its_added_weights(tmp_path: Path) -> None:
    text = HEAD + WEIGHTS + WEIGHTS.replace("half", "more").replace("50%", "80%")
    text += "sheaf added = half + more + half\nsheaf either = half | more | half\n"
    options = "{ seeds: 1  curve: false  minimality: false  completeness: false  samples: 2 }"
    run = run_text(text + f"evidence added {options}\nevidence either {options}\n", tmp_path)
    found = run.manifest["evidence"]
    for name in ("added", "either"):
        assert found[name]["metrics"]["kl"] == pytest.approx(run.judged[name].metrics["kl"], rel=1e-5)
        assert "sum" not in found[name]["missing"]
    assert found["added"]["controls"]["random"]["value"] != found["either"]["controls"]["random"]["value"]


def test_the_method_meets_its_bounds_on_numbers_on_random_weights_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound on how many weights may be kept, which is no share, reaches the control; and so does the objective."""
    real, seen = passes.run, []

    def watched(method: str, program: MaskedProgram, *args: Any, **options: Any) -> Circuit:
        found = real(method, program, *args, **options)
        seen.append((program.graph.model_hash, sum(int(mask.sum()) for mask in found.weights.values()), options))
        return found

    monkeypatch.setattr(passes, "run", watched)
    text = (
        HEAD
        + """\
sheaf s = discover g for pairs with discogp { parts: weights  steps: 3  completeness: 0 }
  minimize cross_entropy  subject to weights <= 1000
evidence s { seeds: 1  curve: false  minimality: false  completeness: false  controls: random_model }
"""
    )
    run_text(text, tmp_path)
    (_, kept, options), (marked, again, others) = seen
    assert 990 < kept == again <= 1000
    assert options["faithfulness"] == others["faithfulness"] == "cross_entropy"
    assert marked.startswith("random-")


def test_nodes_can_be_bounded(tmp_path: Path) -> None:
    text = HEAD + "circuit few = discover g for pairs with nap { examples: 8 } top 6 nodes\n"
    circuit = run_text(text + "check few { nodes <= 6 }\n", tmp_path).circuits["few"]
    assert 0 < int(circuit.nodes.sum()) <= 6


@pytest.mark.parametrize("ablation", ["mean by template", "noise", "optimal"])
def test_every_reference_there_is_can_be_ablated_to(tmp_path: Path, ablation: str) -> None:
    text = HEAD.replace("at last\n", f"at last\n  ablate {ablation}\n").replace("n: 48", "n: 24")
    text += "circuit few = discover g for pairs with eap { examples: 4 } top 20\ncircuit rest = ~few\n"
    run = run_text(text, tmp_path)
    assert run.circuits["few"].ablation == ablation
    assert bool(run.circuits["rest"].constants) is (ablation == "optimal")
    assert np.isfinite(run.judged["rest"].metrics["kl"])
