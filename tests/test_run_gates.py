"""What checks ask for beyond what is measured of every circuit: only that is measured, and it is what it should be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

import graphir
from dsl.options import PlanOptions
from dsl.running.carrying import RunResult
from dsl.running.failures import StageError
from dsl.running.planning import make_plan
from dsl.running.progress import Reporter
from dsl.running.workplace import Workplace
from passes.measure import Evaluator, masks_of
from tests.running import HEAD, RANKED, run_text, spec_of, trace_once

LEARNED = "circuit found = discover g for pairs with edge_pruning { steps: 12 } subject to edges <= 30\n"


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


def values(run: RunResult) -> Mapping[str, float]:
    return {name: value for verdict in run.verdicts for name, value in verdict.values.items()}


def kinds(run: RunResult) -> list[str]:
    return [stage["kind"] for stage in run.manifest["stages"]]


def test_agreement_and_completeness_are_those_of_the_definitions(tmp_path: Path) -> None:
    text = HEAD + RANKED.replace("top 5", "top 2") + "check found { jsd >= 0  kendall_tau >= -1  completeness <= 9 }\n"
    run = run_text(text + "check found { jsd(model, complement) >= 0  exact_match >= 0 }\n", tmp_path)
    found = values(run)
    judged, circuit = run.judged["found"], run.runnable("found")
    spec = spec_of(text, tmp_path)
    task = Workplace.of(spec, Reporter(quiet=True)).task(spec.tasks[0], spec.models[0])
    evaluator = Evaluator(graphir.lower(circuit.graph), task, "test", 8)
    ours, rest = (evaluator.measure(masks_of(circuit, evaluator.program, complement=c)) for c in (False, True))
    assert found["jsd(model, circuit)"] == pytest.approx(ours["jsd"], abs=1e-6)
    assert found["kendall_tau(model, circuit)"] == pytest.approx(ours["kendall_tau"], abs=1e-6)
    assert found["jsd(model, complement)"] == pytest.approx(rest["jsd"], abs=1e-6)
    full, low, other = (each["logit_diff"] for each in (judged.full, judged.empty, judged.complement))
    assert found["completeness"] == (full - other) / (full - low)
    assert "evidence" not in kinds(run)


def test_a_gate_of_the_evidence_measures_that_test_alone(tmp_path: Path) -> None:
    text = HEAD + RANKED + "check found { cmd <= 1  auroc >= 0.5  control random_circuit <= 20% }\n"
    run = run_text(text, tmp_path)
    found = values(run)
    assert run.passed
    assert found["auroc"] == 1  # the five true edges are ranked first
    assert 0 < found["control(random_circuit)"] <= 0.2
    assert kinds(run).count("evidence") == 3
    stage_names = {stage["name"] for stage in run.manifest["stages"]}
    assert {f"evidence of found: {part}" for part in ("faithfulness", "roc", "controls")} <= stage_names
    assert math.isfinite(found["cmd"])


def test_the_truth_of_a_model_is_that_of_its_own_task_alone(tmp_path: Path) -> None:
    """A part of the examples may be done by a part of the edges."""
    part = 'at last\n  subtask short where template in {"0-0-0", "1-0-2", "0-2-1", "2-1-1", "3-0-0", "1-3-1"}\n'
    text = HEAD.replace("by template", "by example").replace("at last\n", part) + RANKED.replace("pairs", "pairs.short")
    with pytest.raises(StageError, match=r"`auroc` cannot be measured"):
        run_text(text + "check found { auroc >= 0 }\n", tmp_path)


def test_a_check_and_an_evidence_section_share_what_is_measured(tmp_path: Path) -> None:
    section = "evidence found { controls: random_circuit  samples: 4  curve: true  completeness: false "
    section += "minimality: false  seeds: 1 }\n"
    run = run_text(HEAD + RANKED + section + "check found { cmd <= 1  control random_circuit <= 100% }\n", tmp_path)
    assert kinds(run).count("evidence") == 4  # metrics, faithfulness, roc, controls: each once
    assert values(run)["control(random_circuit)"] in [pytest.approx(k / 5) for k in range(1, 6)]


def test_a_gate_over_seeds_holds_for_every_seed(tmp_path: Path) -> None:
    gates = "check found { stability >= 0  over 2 seeds  edges <= 30 over 2 seeds }\n"
    run = run_text(HEAD + LEARNED + gates, tmp_path)
    assert run.passed
    found = values(run)
    assert 0 <= found["stability(edges, iou)"] <= 1
    assert {"edges (seed 0)", "edges (seed 1)"} <= set(found)
    assert kinds(run).count("discover") == 2


def test_a_plan_has_the_gates(tmp_path: Path) -> None:
    gates = "check found { stability >= 0 over 3 seeds  jsd <= 1  minimality >= 0 }\n"
    plan = make_plan(spec_of(HEAD + LEARNED + gates, tmp_path), PlanOptions(cache=tmp_path / "cache"))
    rows = {stage.name: stage for stage in plan.stages}
    assert {"gates of found", "evidence of found"} <= set(rows)
    assert rows["gates of found"].backward == 2 * rows["found: edge_pruning"].backward
    assert all(stage.cache for stage in plan.stages)


def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    text = HEAD + RANKED + "circuit rest = ~found\ncheck rest { cpr >= 0 }\n"
    with pytest.raises(StageError, match="`cpr` cannot be measured") as caught:
        run_text(text, tmp_path)
    assert any("no ranking" in hint for hint in caught.value.hints)


def test_only_the_circuit_that_is_kept_has_evidence(tmp_path: Path) -> None:
    text = HEAD + LEARNED + "check found { minimality >= 0 over 2 seeds }\n"
    with pytest.raises(StageError, match="for the circuit that is kept"):
        run_text(text, tmp_path)
