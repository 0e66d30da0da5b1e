"""Task vectors in a run: what is tuned and how much, what is measured on what, sums, the model's own bits, the cache,
going on after Ctrl-C, files, checks, the plan, the report; and wrong input."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dsl.cli import main
from dsl.models import load_model
from dsl.options import PlanOptions
from dsl.report.making import read_report
from dsl.running.carrying import RunResult
from dsl.running.failures import InterruptedRunError, StageError
from dsl.running.planning import make_plan
from dsl.running.progress import Reporter
from dsl.running.workplace import Workplace
from graphir.task_vectors import TaskVector
from graphir.tracing.exported import hash_model
from passes.task import Task
from passes.training import Training
from tests.running import run_text, spec_of

TOTAL = 40_960
TASKS = """\
circ 1
model toy = builtin "induction"
task pairs {
  data builtin "induction" { n: 96  seed: 0 }
  split 50 / 25 / 25 by example
  subtask short where template in {"0-0-0", "1-0-2", "0-2-1", "2-1-1"}
  subtask long where template in {"5-2-4", "3-4-5", "4-1-2", "1-5-3"}
}
task others { data builtin "induction" { n: 48  seed: 3 } }
"""
NEAR = "vector near = tune toy for pairs.short with lt_sft { count: 300  steps: 4  learning_rate: 0.003 }\n"
FAR = "vector far = tune toy for pairs.long with lt_sft { density: 1%  steps: 3  learning_rate: 0.003  seed: 1 }\n"
ALL = f"""{TASKS}{NEAR}{FAR}
vector both = near + far
vector odd = 2 * both - near / 2
vector less = -near
vector either = near | far
vector common = near & far
vector only = near & ~far
check both {{ accuracy(pairs.short) >= 50%  gain(others) >= -1  iou <= 100%  count >= 600 }}
check near {{ accuracy >= 50%  kl <= 1e-12 }}
export near to "near/"
export far to "far/"
export both to "both/"
report "r.md", "r.html", "r.json"
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> RunResult:
    return run_text(ALL, tmp_path_factory.mktemp("vectors"), cache=cache)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Models and tasks as the run has them, made anew."""
    return Workplace.of(spec_of(ALL, tmp_path_factory.mktemp("place")), Reporter(quiet=True))


def model_of(place: Workplace) -> nn.Module:
    return place.model(place.spec.models[0]).model


def held_out(place: Workplace, task: str) -> list[Any]:
    spec = next(each for each in place.spec.tasks if each.name == task)
    return list(place.task(spec, place.spec.models[0]).batches("test", 1))


def oracle(model: nn.Module, base: nn.Module, batches: list[Any]) -> dict[str, float]:
    """Accuracy, cross-entropy and divergence from `base`, one example at a time in float64."""
    right, surprise, divergence = [], [], []
    for batch in batches:
        place = int(batch.positions[0])
        with torch.no_grad():
            found, before = (m.double()(**batch.inputs) for m in (model, base))
            logits, own = ((x.logits if hasattr(x, "logits") else x)[0, place] for x in (found, before))
        answer, rival = int(batch.answers[0]), int(batch.distractors[0])
        right.append(float(logits[answer] > logits[rival]))
        surprise.append(-float(logits.log_softmax(-1)[answer]))
        divergence.append(float((own.softmax(-1) * (own.log_softmax(-1) - logits.log_softmax(-1))).sum()))
    n = len(batches)
    return {"accuracy": sum(right) / n, "cross_entropy": sum(surprise) / n, "kl": sum(divergence) / n}


# What is tuned


def test_exactly_so_many_weights_change(run: RunResult) -> None:
    found = run.results["vectors"]
    assert (found["near"].support.count, found["near"].support.total) == (300, TOTAL)
    assert found["far"].support.count == int(0.01 * TOTAL)
    assert found["near"].tuning["chosen"] == 300
    assert sum(found["near"].support.by_layer.values()) == sum(found["near"].support.by_kind.values()) == 300
    assert TaskVector.load(run.folder / "near").count == 300


def test_only_training_examples_are_tuned_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    splits, real, train = set[str](), Task.batches, Training.__call__
    inside: list[int] = []

    def watched(self: Training, *arguments: Any, **options: Any) -> None:
        inside.append(1)
        train(self, *arguments, **options)
        inside.pop()

    def batches(self: Task, split: str, *arguments: Any, **options: Any) -> Iterator[Any]:
        if inside:
            splits.add(split)
        return real(self, split, *arguments, **options)

    monkeypatch.setattr(Training, "__call__", watched)
    monkeypatch.setattr(Task, "batches", batches)
    run_text(f"{TASKS}vector v = tune toy for pairs with lt_sft {{ steps: 1 }}\n", tmp_path)
    assert splits == {"train"}


def test_what_is_frozen_stays_and_what_is_dense_is_not_counted(tmp_path: Path) -> None:
    options = 'count: 100  steps: 1  frozen: "embed*", "position*"  dense: "unembed*"'
    found = run_text(f"{TASKS}vector v = tune toy for pairs with lt_sft {{ {options} }}\n", tmp_path)
    kinds = dict(found.results["vectors"]["v"].support.by_kind)
    assert kinds.pop("unembed.weight") > 100 and sum(kinds.values()) == 100
    assert not any(name.startswith(("embed", "position")) for name in kinds)


# What is measured


@pytest.mark.parametrize(("name", "task"), [("near", "pairs.short"), ("near", "pairs.long"), ("odd", "pairs.long")])
def test_numbers_are_those_of_the_held_out_examples(run: RunResult, place: Workplace, name: str, task: str) -> None:
    near, both = (TaskVector.load(run.folder / each) for each in ("near", "both"))
    vector = near if name == "near" else 2 * both + near.scaled(-0.5)
    effect = run.results["vectors"][name].effects[task]
    batches, base = held_out(place, task), load_model(place.spec.models[0], folder=Path()).model.eval()
    assert effect.examples == len(batches)
    tuned = vector.apply(base)
    assert effect.vector == pytest.approx(effect.vector | oracle(tuned, base, batches), rel=1e-3, abs=1e-6)
    assert effect.model == pytest.approx(effect.model | oracle(base, base, batches), rel=1e-3, abs=1e-6)


def test_a_vector_is_measured_on_siblings_tasks_of_parts_and_what_a_check_names(run: RunResult) -> None:
    found = run.results["vectors"]
    assert list(found["near"].effects) == ["pairs.short", "pairs.long"]
    assert set(found["both"].effects) == {"pairs.short", "pairs.long", "others"}
    assert set(found["both"].alone["others"]) == {"near", "far"}


def test_interference_is_together_less_alone(run: RunResult) -> None:
    found = run.results["vectors"]
    row = next(each for each in found["both"].interference() if each["part"] == "far")
    assert row["task"] == "pairs.long"
    together, alone = (found[name].effects["pairs.long"].vector["kl"] for name in ("both", "far"))
    assert row["kl"] == {"alone": alone, "together": together, "change": together - alone}
    assert together != alone


# The algebra


def test_sums_are_those_of_the_vectors(run: RunResult, place: Workplace) -> None:
    near, far, both = (TaskVector.load(run.folder / each) for each in ("near", "far", "both"))
    total = near + far
    assert both.deltas.keys() == total.deltas.keys() and both.operands == ("near + far",)
    assert all(torch.equal(both.deltas[name], delta) for name, delta in total.deltas.items())
    model = model_of(place)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with both.applied(model):
        for name, value in model.named_parameters():
            delta = both.deltas.get(name, torch.zeros(()))
            assert torch.equal(value.detach(), before[name] + delta)
    assert run.results["vectors"]["less"].support.norm == pytest.approx(near.norm)


def test_sets_are_those_of_the_vectors(run: RunResult) -> None:
    near, far = (TaskVector.load(run.folder / each) for each in ("near", "far"))
    counts = {name: run.results["vectors"][name].support.count for name in ("either", "common", "only")}
    assert counts == {"either": (near | far).count, "common": (near & far).count, "only": near.without(far).count}
    assert counts["common"] + counts["only"] == near.count
    assert run.results["vectors"]["only"].support.norm == pytest.approx(near.without(far).norm)


def test_overlaps_are_those_of_sets(run: RunResult) -> None:
    first, second = (
        {(name, int(i)) for name, mask in each.support().items() for i in mask.ravel().nonzero()[0]}
        for each in (TaskVector.load(run.folder / name) for name in ("near", "far"))
    )
    told = run.results["vectors"]["both"].support.overlap["weights"]
    assert told["sizes"] == [len(first), len(second)] == [300, int(0.01 * TOTAL)] and told["total"] == TOTAL
    assert (told["shared"], told["union"]) == (len(first & second), len(first | second))
    assert told["iou"] == told["shared"] / told["union"] and told["iomin"] == told["shared"] / 300
    assert told["shared_fractions"][0] == told["shared"] / 300
    for groups in ("by_layer", "by_kind"):
        assert sum(each["shared"] for each in told[groups].values()) == told["shared"]


# The model's own bits


def test_the_model_has_its_own_bits_again(run: RunResult, place: Workplace) -> None:
    own = hash_model(load_model(place.spec.models[0], folder=Path()).model)
    for found in run.results["vectors"].values():
        assert found.reverted and found.base == own
        for effect in found.effects.values():
            assert effect.before == effect.after == own != effect.during
    assert "afterwards toy has its own bits" in str(run)


def test_a_model_that_is_not_restored_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = TaskVector.applied

    @contextlib.contextmanager
    def leaky(self: TaskVector, model: nn.Module, factor: float = 1.0) -> Iterator[nn.Module]:
        with real(self, model, factor):
            yield model
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] += 1e-3

    monkeypatch.setattr(TaskVector, "applied", leaky)
    found = run_text(f"{TASKS}{NEAR}", tmp_path)
    assert not found.results["vectors"]["near"].reverted
    assert "is NOT what it was" in str(found)


# The cache


def test_a_second_run_takes_all_from_the_cache(
    run: RunResult, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("dsl.models.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    text = "".join(line for line in ALL.splitlines(keepends=True) if not line.startswith("export"))
    again = run_text(text, tmp_path, cache=cache)
    assert all(stage["cached"] for stage in again.manifest["stages"])
    assert again.manifest["result"] == run.manifest["result"]
    assert str(again.results["vectors"]["odd"].to_json()) == str(run.results["vectors"]["odd"].to_json())


def test_another_option_tunes_anew_and_another_name_does_not(run: RunResult, cache: Path, tmp_path: Path) -> None:
    spec = spec_of(ALL.replace("near", "close").replace("steps: 3", "steps: 2"), tmp_path)
    states = {each.name: each.state for each in make_plan(spec, PlanOptions(cache=cache)).standings}
    assert states["tune close"] == "cached" and states["tune far"] != "cached"


@pytest.mark.parametrize("iterations", [1, 2])
def test_a_run_that_was_stopped_goes_on_from_what_was_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, iterations: int
) -> None:
    text = TASKS + NEAR.replace("steps: 4", f"steps: 4  iterations: {iterations}")
    whole = run_text(f'{text}export near to "near/"\n', tmp_path, out="whole")
    calls, real = list[str](), Training.__call__

    def stopped(self: Training, *arguments: Any, **options: Any) -> None:
        calls.append(self.stage)
        if len(calls) == 2 * iterations:  # in the last second phase
            raise KeyboardInterrupt
        real(self, *arguments, **options)

    kept = tmp_path / "cache"
    monkeypatch.setattr(Training, "__call__", stopped)
    with pytest.raises(InterruptedRunError):
        run_text(text, tmp_path, cache=kept)
    again = run_text(f'{text}export near to "near/"\n', tmp_path, cache=kept, out="again")
    assert calls[2 * iterations :] == ["tuning the chosen weights"]
    assert [s["resumed_at"] for s in again.manifest["stages"] if s["kind"] == "tuning"] == [4 * iterations]
    first, second = (TaskVector.load(each.folder / "near") for each in (whole, again))
    assert first.deltas.keys() == second.deltas.keys()
    assert all(torch.equal(first.deltas[name], second.deltas[name]) for name in first.deltas)
    assert again.results["vectors"]["near"].reverted


# Files


def test_an_exported_vector_is_imported_again(run: RunResult, tmp_path: Path) -> None:
    (tmp_path / "both").symlink_to(run.folder / "both")
    lines = 'import vector old = "both/" on toy for pairs.short\nimport vector mute = "both/" on toy\n'
    found = run_text(f"{TASKS}{lines}vector twice = old + old\ncheck mute {{ accuracy(others) >= 0.1 }}\n", tmp_path)
    old, both = found.results["vectors"]["old"], run.results["vectors"]["both"]
    assert old.support.count == both.support.count
    assert old.effects["pairs.short"].vector == both.effects["pairs.short"].vector
    assert list(found.results["vectors"]["mute"].effects) == ["others"]
    assert found.results["vectors"]["twice"].support.norm == pytest.approx(2 * both.support.norm)


@pytest.mark.parametrize(("text", "words"), [
    ('import vector old = "near/" on toy', "is a vector of another model"),
    ('import vector old = "nothing/" on toy', "is not a folder"),
    ('import vector old = "empty/" on toy', "there is no `task_vector.json`"),
    ('import vector old = "changed/" on toy', "was changed after it was written"),
])  # fmt: skip
def test_a_vector_that_cannot_be_imported_is_told_at_its_place(
    run: RunResult, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "near").symlink_to(run.folder / "near")
    (tmp_path / "empty").mkdir()
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in (run.folder / "near").iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    values = bytearray((changed / "values.safetensors").read_bytes())
    values[-1] ^= 1
    (changed / "values.safetensors").write_bytes(bytes(values))
    tasks = TASKS.replace('model toy = builtin "induction"', 'model toy = builtin "induction" { dtype: float64 }')
    with pytest.raises(StageError) as caught:
        run_text(f"{tasks if 'near' in text else TASKS}{text} for pairs\n", tmp_path)
    assert words in str(caught.value) and "toy.circ:10" in str(caught.value)


@pytest.mark.parametrize(("options", "words"), [
    ('count: 40_000  steps: 1  frozen: "embed*"', "is more than there are"),
    ('steps: 1  frozen: "nothing*"', "no parameter named `nothing*`"),
    ('steps: 1  frozen: "*"', "leaves nothing to tune"),
    ("steps: 2  learning_rate: 1e30  clip: 1e30", "not-a-number"),
])  # fmt: skip
def test_what_only_the_model_can_tell_is_told_at_its_place(tmp_path: Path, options: str, words: str) -> None:
    with pytest.raises(StageError) as caught:
        run_text(f"{TASKS}vector v = tune toy for pairs with lt_sft {{ {options} }}\n", tmp_path)
    assert words in str(caught.value) or ("not finite" in str(caught.value) and words == "not-a-number")
    assert "toy.circ:10" in str(caught.value)


# Checks, the plan, the report


def test_conditions_are_evaluated_on_what_was_found(run: RunResult) -> None:
    values = {(each.circuit, name): value for each in run.verdicts for name, value in each.values.items()}
    found = run.results["vectors"]
    assert values["both", "accuracy(pairs.short)"] == found["both"].effects["pairs.short"].vector["accuracy"]
    assert values["both", "gain(others)"] == found["both"].effects["others"].gain
    assert values["both", "iou"] == found["both"].support.overlap["weights"]["iou"]
    assert values["near", "kl"] == found["near"].effects["pairs.short"].vector["kl"]
    assert [(each.circuit, each.text) for each in run.verdicts if not each.passed] == [("near", "kl <= 1e-12")]


def test_the_exit_code_says_whether_conditions_hold(
    run: RunResult, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.circ"
    file.write_text(f"{TASKS}{NEAR}check near {{ kl <= 1e-12 }}\n")
    assert main(["run", str(file), "--out", str(tmp_path / "out"), "--cache", str(cache), "--quiet"]) == 1
    assert "check of `near` failed" in capsys.readouterr().err


def test_a_plan_has_a_row_for_tuning_measuring_and_counting(tmp_path: Path) -> None:
    plan = make_plan(spec_of(ALL, tmp_path), PlanOptions(caching=False))
    rows = {each.name: each for each in plan.stages}
    assert {"tune near", "measure near", "support of near", "measure both"} <= set(rows) and "tune both" not in rows
    assert rows["tune near"].backward == 8 and rows["tune far"].backward == 6
    assert plan.seconds is not None and plan.memory is not None
    assert all((each.seconds or 0) > 0 for each in plan.stages if each.name.startswith(("tune", "measure")))
    own = make_plan(spec_of(ALL, tmp_path), PlanOptions(cache=tmp_path / "cache")).standings
    assert {each.row for each in own if each.kind in ("tuning", "effect", "support")} <= set(rows)


def test_the_manifest_and_the_report_tell_all_of_it(run: RunResult) -> None:
    manifest = json.loads((run.folder / "manifest.json").read_text())
    told = manifest["vectors"]["both"]
    assert told["support"]["count"] == run.results["vectors"]["both"].support.count and told["reverted"] is True
    assert set(manifest["tasks"]) == {"pairs.short", "pairs.long", "others"}
    text = (run.folder / "r.md").read_text()
    assert "### Vector both" in text and "What its parts share" in text and "had its own bits" in text
    assert "Vector both" in (run.folder / "r.html").read_text()
    again = read_report(run.folder).section("vector-1")
    assert again.title == "Vector near"
