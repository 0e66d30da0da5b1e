"""Runs of whole specifications: what comes out, what is written where, what a run refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dsl
import graphir
from dsl.builtin import build_builtin
from dsl.options import RunOptions
from dsl.running.carrying import run_spec
from dsl.running.failures import InterruptedRunError, StageError
from dsl.running.folder import read_run
from dsl.running.judging import stability
from dsl.spec import SpecError
from graphir.circuit import Circuit
from graphir.errors import GraphirError
from tests.running import HEAD, KNOWN, LEARNED, RANKED, run_text, spec_of, trace_once, write_pairs


def names(circuit: Circuit) -> set[str]:
    return {str(edge) for edge in circuit.kept_edges()}


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


# What comes out


def test_a_ranking_is_found_measured_asked_checked_and_written(tmp_path: Path) -> None:
    text = HEAD + RANKED
    text += "query movers = heads of found where layer >= 1\nquery near = edges of movers\n"
    text += "query parts = heads of g where layer == 0\n"
    text += "check found { kl <= 0.01  accuracy(complement) <= 10%  accuracy(model) == 1 }\n"
    text += 'export found to "found.json", "sub/found/"\nexport movers to "movers.csv"\nexport g to "g.dot"\n'
    run = run_text(text, tmp_path)
    assert run.passed
    assert names(run.circuits["found"]) == KNOWN
    assert run.circuits["found"].metrics["accuracy"] == 1
    assert run.judged["found"].split == "test"
    assert run.judged["found"].empty["faithfulness"] == 0
    assert run.judged["found"].full["faithfulness"] == 1
    assert list(run.queries["movers"].names) == ["a1.h2"]
    # Of the embedding, the head and the logits the edges remain that lead from input to output.
    assert set(run.queries["near"].names) == {"embed -> a1.h2.q", "embed -> a1.h2.v", "a1.h2 -> logits.in"}
    assert len(run.queries["parts"]) == 4
    assert [verdict.passed for verdict in run.verdicts] == [True, True, True]
    assert run.files == tuple(tmp_path / "out" / each for each in ("found.json", "sub/found", "movers.csv", "g.dot"))
    assert all(path.exists() for path in run.files)
    assert "check  condition" in str(run)


def test_what_is_written_down_of_a_run(tmp_path: Path) -> None:
    text = HEAD + RANKED + "check found { kl <= 0.01 }\n"
    run = run_text(text, tmp_path, "pairs.seed=1")
    manifest = read_run(run.folder)
    assert manifest["status"] == "finished"
    assert manifest["spec"]["text"] == text
    assert manifest["spec"]["overrides"] == ["pairs.seed=1"]
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["models"]["toy"]["identity"].startswith("builtin:induction@")
    assert manifest["graphs"]["g"]["edges"] == 106
    assert manifest["graphs"]["g"]["equivalence"] <= 1e-4
    assert manifest["tasks"]["pairs"]["train"] + manifest["tasks"]["pairs"]["test"] < 48
    assert manifest["circuits"]["found"]["metrics"]["accuracy"] == 1
    assert manifest["checks"][0]["values"] == {"kl(model, circuit)": run.circuits["found"].metrics["kl"]}
    assert manifest["seconds"]["total"] > 0
    assert manifest["peak_memory_bytes"] > 1e7
    events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["run", "finished"]
    assert ("end", "found: eap-ig") in [(event["event"], event.get("stage")) for event in events]
    assert run.to_json()["passed"] is True
    json.dumps(run.to_json(), allow_nan=False)


def test_the_saved_circuit_says_where_it_comes_from_and_runs(tmp_path: Path) -> None:
    run = run_text(HEAD + RANKED, tmp_path)
    model, _ = build_builtin("induction")
    circuit = Circuit.load(run.folder / "circuits" / "found", model)
    assert circuit.provenance["spec"]["digest"] == spec_of(HEAD + RANKED, tmp_path).digest
    assert circuit.provenance["model_identity"].startswith("builtin:induction@")
    assert circuit.metrics == run.circuits["found"].metrics
    ids = torch.tensor([[1, 2, 3, 4, 1]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    other = {**batch, "input_ids": torch.tensor([[3, 4, 1, 2, 3]])}
    with torch.no_grad():
        saved = circuit.as_module()(**batch, counterfactual=other)
        ours = run.circuits["found"].as_module()(**batch, counterfactual=other)
    assert torch.equal(saved, ours)
    assert saved[0, -1].argmax() == 2


def test_several_seeds_the_best_on_validation_data_is_kept(tmp_path: Path) -> None:
    text = HEAD + LEARNED.replace("STEPS", "40  seeds: 0..1  batch_size: 8") + "check found { stability >= 0.5 }\n"
    run = run_text(text, tmp_path)
    found = run.judged["found"].found
    assert set(found.seeds) == set(found.validation) == {0, 1}
    assert found.validation[found.chosen] == min(found.validation.values())
    first, second = (each.edges for each in found.seeds.values())
    assert found.stability == int((first & second).sum()) / int((first | second).sum())
    assert run.passed
    for seed in (0, 1):
        kept = Circuit.load(run.folder / "circuits" / f"found.seed{seed}")
        assert np.array_equal(kept.edges, found.seeds[seed].edges)
        assert kept.provenance["seed"] == seed


@pytest.mark.parametrize(
    ("first", "second", "iou", "iomin"),
    [([0, 1, 2], [1, 2, 3], 0.5, 2 / 3), ([0], [0, 1], 0.5, 1.0), ([], [], 1.0, 1.0), ([], [3], 0.0, 0.0)],
)
def test_stability_is_the_smallest_overlap(first: list[int], second: list[int], iou: float, iomin: float) -> None:
    graph = run_graph()
    circuits = [Circuit.of_edges(graph, np.isin(np.arange(len(graph.edges)), kept)) for kept in (first, second, second)]
    assert stability(circuits, "edges", "iou") == pytest.approx(iou)
    assert stability(circuits, "edges", "iomin") == pytest.approx(iomin)
    assert np.isnan(stability(circuits[:1]))


def run_graph() -> graphir.Graph:
    model, _ = build_builtin("induction")
    ids = torch.ones(2, 5, dtype=torch.long)
    return graphir.trace(model, {"input_ids": ids, "attention_mask": ids}, "head")


def test_curves_of_a_circuit_and_of_rankings_between_both_ends(tmp_path: Path) -> None:
    text = HEAD + RANKED + "measure found at sparsity 0%, 50%, 95%, 99.9% against eap { examples: 8 }\n"
    ours, theirs = run_text(text, tmp_path).curves
    assert (ours.name, theirs.name, ours.of, theirs.of) == ("found", "eap", "found", "found")
    assert [round(point.density, 3) for point in ours.points] == [1.0, 0.5, 0.05, 0.001]
    assert ours.points[0].metrics == pytest.approx(ours.full, abs=1e-4)
    assert ours.points[0].edges == 106
    # A tenth of a percent of 106 edges is less than one: the empty circuit.
    assert ours.points[-1].edges == 0
    assert ours.points[-1].metrics == pytest.approx(ours.empty)
    assert ours.points[2].edges == 5
    assert all(0 <= point.edges <= round(point.density * 106) for point in (*ours.points, *theirs.points))


def test_a_curve_by_numbers_of_edges(tmp_path: Path) -> None:
    (ours,) = run_text(HEAD + RANKED + "measure found at edges 200, 5, 0\n", tmp_path).curves
    assert [point.edges for point in ours.points] == [106, 5, 0]


def test_a_failed_check_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_text(HEAD + RANKED + "check found {\n  kl <= 0.01\n  edges == 4\n}\n", tmp_path)
    assert not run.passed
    assert [verdict.passed for verdict in run.verdicts] == [True, False]
    assert read_run(run.folder)["status"] == "checks failed"
    assert capsys.readouterr().err == ("error: check of `found` failed: edges == 4 (edges is 5)\n  --> toy.circ:12:3\n")


def test_faithfulness_is_of_the_tasks_own_metric(tmp_path: Path) -> None:
    text = HEAD.replace("at last\n", "at last\n  metric kl\n") + RANKED
    judged = run_text(text, tmp_path).judged["found"]
    assert judged.metrics["faithfulness"] == pytest.approx(1 - judged.metrics["kl"] / judged.empty["kl"])


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean by position"])
def test_other_ablations(ablation: str, tmp_path: Path) -> None:
    text = HEAD.replace("at last\n", f"at last\n  ablate {ablation}\n") + RANKED.replace("top 5", "top 50%")
    circuit = run_text(text, tmp_path).circuits["found"]
    assert circuit.ablation == Circuit.load(tmp_path / "out" / "circuits" / "found").ablation == ablation
    assert circuit.metrics["accuracy"] > 0.5


def test_granularity_by_region(tmp_path: Path) -> None:
    text = HEAD.replace("head split qkv }", "head joint qkv  layers 0: layer }") + RANKED
    graph = run_text(text, tmp_path).graphs["g"]
    # Layer 0 is one node that reads 2 embeddings; each head of layer 1 reads 3 writers; the logits read 7.
    assert len(graph.edges) == 2 + 4 * 3 + 7


def test_a_file_with_a_graph_alone(tmp_path: Path) -> None:
    run = run_text('circ 1\nmodel toy = builtin "induction"\ngraph g = trace toy\n', tmp_path)
    assert len(run.graphs["g"].edges) == 106
    assert run.passed
    text = 'circ 1\nmodel toy = builtin "induction"\ngraph g = trace toy { example: "sun cup map dog sun" }\n'
    assert len(run_text(text, tmp_path, out="other").graphs["g"].edges) == 106


# Data


def test_task_data_from_a_file_beside_the_specification(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    text = HEAD.replace('builtin "induction" { n: 48  seed: 0 }', 'jsonl "pairs.jsonl" { n: 24 }') + RANKED
    run = run_text(text, tmp_path)
    assert names(run.circuits["found"]) == KNOWN
    assert sum(run.manifest["tasks"]["pairs"][split] for split in ("train", "validation", "test")) == 24


def test_a_task_without_distractors(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", distractor=False)
    text = HEAD.replace('builtin "induction" { n: 48  seed: 0 }', 'jsonl "pairs.jsonl"')
    text = text.replace("answer vs distractor at last\n", "answer at last\n  metric kl\n") + RANKED
    judged = run_text(text + "check found { accuracy >= 90% }\n", tmp_path).judged["found"]
    assert "logit_diff" not in judged.metrics
    assert judged.metrics["accuracy"] >= 0.9


def test_missing_counterfactuals_point_at_the_task(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", counterfactual=False)
    text = HEAD.replace('builtin "induction" { n: 48  seed: 0 }', 'jsonl "pairs.jsonl"') + RANKED
    with pytest.raises(StageError, match=r"has no counterfactual.*\n  while preparing task `pairs` \(toy\.circ:4\)"):
        run_text(text, tmp_path)


def test_a_missing_data_file_is_unavailable(tmp_path: Path) -> None:
    text = HEAD.replace('builtin "induction" { n: 48  seed: 0 }', 'jsonl "none.jsonl"') + RANKED
    with pytest.raises(StageError, match="cannot read task data") as caught:
        run_text(text, tmp_path)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()


def test_without_validation_data_seeds_are_compared_on_training_data(tmp_path: Path) -> None:
    text = HEAD.replace("50 / 25 / 25", "70 / 0 / 30") + LEARNED.replace("STEPS", "3  seeds: 0..1")
    run = run_text(text, tmp_path)
    assert set(run.judged["found"].found.validation) == {0, 1}


# What a run refuses


def test_ungrouped_ports_reach_the_graph(tmp_path: Path) -> None:
    text = HEAD.replace("split qkv }", "split qkv  key_value: ungrouped }") + RANKED
    run = run_text(text, tmp_path)
    assert run.graphs["g"].granularity is not None
    assert run.graphs["g"].granularity.at(0).key_value == "ungrouped"
    assert "a0.h1.k" in {port.name for port in run.graphs["g"].ports}


def test_an_objective_that_no_method_has_is_refused_before_any_work(tmp_path: Path) -> None:
    text = HEAD + LEARNED.replace("STEPS", "5").replace("subject", "minimize kl + 0.1 * density(edges) subject")
    with pytest.raises(SpecError, match=r"minimizes `kl\(model, circuit\)` and nothing else") as caught:
        run_text(text, tmp_path)
    assert "minimize kl + 0.1 * density(edges)" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_bound_that_leaves_no_edge_is_infeasible(tmp_path: Path) -> None:
    told = r"leaves nothing to keep\n  while checking what `found` asks of `g` \(toy.circ:9\)"
    with pytest.raises(StageError, match=told):
        run_text(HEAD + RANKED.replace("top 5", "top 0.01%"), tmp_path)


def test_a_constraint_that_the_circuit_does_not_meet_is_an_error(tmp_path: Path) -> None:
    # The third of the ranking, a0.h0 -> a1.h2.k, is on no path without the fourth, and dropped.
    text = HEAD + RANKED.replace("top 5", "subject to edges == 3")
    with pytest.raises(StageError, match=r"does not meet `edges == 3`: edges is 2\n  while running eap_ig"):
        run_text(text, tmp_path)
    assert read_run(tmp_path / "out")["status"] == "failed"
    assert Circuit.load(tmp_path / "out" / "circuits" / "found").edges.sum() == 2


def test_not_a_number_stops_learning_and_keeps_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import passes.learn.objectives
    from passes.metrics import kl_from

    calls: list[int] = []

    def break_off(*args: Any) -> torch.Tensor:
        calls.append(1)
        return kl_from(*args) * (float("nan") if len(calls) > 3 else 1.0)

    monkeypatch.setattr(passes.learn.objectives, "kl_from", break_off)
    with pytest.raises(StageError, match=r"not-a-number\n  while running edge_pruning \(toy.circ:9\)") as caught:
        run_text(HEAD + LEARNED.replace("STEPS", "50"), tmp_path)
    assert any("the last good state is in" in hint for hint in caught.value.hints)
    kept = Circuit.load(tmp_path / "out" / "circuits" / "found")
    assert kept.provenance["failed"].startswith("the loss became not-a-number")
    assert np.isfinite(kept.scores["edges"]).all()
    manifest = read_run(tmp_path / "out")
    assert manifest["status"] == "failed"
    assert "not-a-number" in manifest["reason"]


def test_running_out_of_memory_is_said_with_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import passes

    def run_out(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(passes, "run", run_out)
    with pytest.raises(StageError, match=r"out of memory\n  while running eap_ig") as caught:
        run_text(HEAD + RANKED, tmp_path)
    assert caught.value.hints[0] == "lower `batch_size`"


# The folder


def test_a_run_goes_below_the_working_folder_by_name_and_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = spec_of(HEAD + RANKED, tmp_path)
    run = dsl.run(spec, RunOptions(quiet=True))
    assert run.folder == Path("runs") / "toy" / spec.digest[:8]
    assert (tmp_path / run.folder / "manifest.json").is_file()


def test_a_second_run_replaces_the_first_and_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    first = run_text(HEAD + RANKED + 'export found to "old/found.csv"\n', tmp_path)
    (first.folder / "notes.txt").write_text("mine")
    run_text(HEAD + RANKED.replace("found", "other") + 'export other to "new.csv"\n', tmp_path)
    assert sorted(path.name for path in first.folder.iterdir()) == [
        "circuits", "events.jsonl", "manifest.json", "new.csv", "notes.txt",
    ]  # fmt: skip
    assert [path.name for path in (first.folder / "circuits").iterdir()] == ["other"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_run_that_fails_early_leaves_an_earlier_one_alone(tmp_path: Path) -> None:
    run = run_text(HEAD + RANKED, tmp_path)
    before = (run.folder / "manifest.json").read_bytes()
    with pytest.raises(StageError):
        run_text(HEAD + RANKED.replace("top 5", "top 0.01%"), tmp_path)
    assert (run.folder / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(GraphirError, match="exists and holds something else") as caught:
        run_text(HEAD + RANKED, tmp_path)
    assert caught.value.exit_code == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("path", ["manifest.json", "circuits/found/", "./events.jsonl/x.csv"])
def test_exports_do_not_take_names_of_the_run(path: str, tmp_path: Path) -> None:
    text = HEAD + RANKED + f'export found to "{path}"\n'
    with pytest.raises(StageError, match="is a name of the run's own"):
        run_text(text, tmp_path)


def test_exports_do_not_follow_links_out_of_the_folder(tmp_path: Path) -> None:
    run = run_text(HEAD + RANKED, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (run.folder / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StageError, match=r"`link/found.csv` is outside the output folder\n  while exporting `found`"):
        run_text(HEAD + RANKED + 'export found to "link/found.csv"\n', tmp_path)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_exports_go_elsewhere_when_allowed(tmp_path: Path) -> None:
    text = HEAD + RANKED + f'export found to "{tmp_path}/abroad/found.csv", "../beside.csv"\n'
    run = run_text(text, tmp_path, allow_outside=True)
    assert (tmp_path / "abroad" / "found.csv").is_file()
    assert (tmp_path / "beside.csv").is_file()
    assert run.passed


def test_ctrl_c_while_measuring_keeps_the_circuit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dsl.running.sections.circuits
    from dsl.running.failures import InterruptedRunError

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dsl.running.sections.circuits, "judge", stop)
    with pytest.raises(
        InterruptedRunError, match=r"interrupted; the circuit so far is in .*out/circuits/found"
    ) as caught:
        run_spec(spec_of(HEAD + RANKED, tmp_path), RunOptions(out=tmp_path / "out", quiet=True, caching=False))
    assert caught.value.exit_code == 130
    assert names(Circuit.load(tmp_path / "out" / "circuits" / "found")) == KNOWN
    assert read_run(tmp_path / "out")["status"] == "interrupted"


def test_an_interruption_while_a_run_is_set_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dsl.running.carrying.workplace_for", stopped)
    with pytest.raises(InterruptedRunError, match="nothing was written"):
        run_spec(spec_of(HEAD + RANKED, tmp_path), RunOptions(out=tmp_path / "out"))
    assert list(tmp_path.glob("*out*")) == []
