"""Runs that compose circuits, of subtasks too, and that take circuits from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsl.options import PlanOptions, RunOptions
from dsl.running.carrying import RunResult, run_spec
from dsl.running.failures import StageError
from dsl.running.folder import read_run
from dsl.running.planning import make_plan
from dsl.running.progress import Reporter
from dsl.running.workplace import Workplace
from dsl.spec import SpecError
from graphir import algebra
from graphir.algebra import reference_of
from passes.ablations import ReferenceSource
from passes.measure import Evaluator
from tests.running import HEAD, RANKED, run_text, spec_of, trace_once

SHORT = '{"0-0-0", "1-0-2", "0-2-1", "2-1-1", "3-0-0", "1-3-1"}'
SUBTASKS = HEAD.replace("by template", "by example").replace(
    "at last\n",
    f"""at last
  subtask short where template in {SHORT}
  subtask long where not template in {SHORT}
""",
)
PARTS = """\
circuit a = discover g for pairs.short with eap_ig { steps: 1  examples: 8 } top 5
circuit b = discover g for pairs.long with eap { examples: 8 } top 8
"""


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


# Subtasks


def test_examples_of_a_subtask_stay_in_their_part_of_the_split(tmp_path: Path) -> None:
    spec = spec_of(SUBTASKS + PARTS, tmp_path)
    place = Workplace.of(spec, Reporter(quiet=True))
    whole, short, long = (place.task(each, spec.models[0]) for each in spec.tasks)
    for split, rows in whole.splits.items():
        assert set(short.splits[split]) | set(long.splits[split]) == set(rows)
        assert not set(short.splits[split]) & set(long.splits[split])
    assert len({whole.identity, short.identity, long.identity}) == 3


def test_a_subtask_of_held_out_templates_only_has_nothing_to_learn_from(tmp_path: Path) -> None:
    text = SUBTASKS.replace("by example", "by template").replace(SHORT, '{"0-0-0"}') + PARTS
    with pytest.raises(StageError, match=r"`pairs.short` has no (train|test) examples .*the split is that of `pairs`"):
        run_text(text, tmp_path)


# Compositions


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    text = SUBTASKS + PARTS + "circuit either = a | b for pairs\ncircuit mixed = (a & b) - ~either for pairs\n"
    text += "circuit rest = ~either\nquery q = edges of rest\n"
    return run_text(text, tmp_path_factory.mktemp("composed"))


def test_a_formula_is_what_the_algebra_says(composed: RunResult) -> None:
    a, b = composed.circuits["a"], composed.circuits["b"]
    assert np.array_equal(composed.circuits["either"].edges, (a | b).edges)
    assert np.array_equal(composed.circuits["mixed"].edges, ((a & b) - ~(a | b)).edges)
    assert np.array_equal(composed.circuits["rest"].edges, algebra.complement(a | b).edges)
    assert composed.circuits["mixed"].provenance["formula"] == "(a & b) - ~either"


MEANS = SUBTASKS.replace("at last\n", "at last\n  ablate mean\n") + PARTS


def test_means_of_two_subtasks_need_a_rule(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="mean of different data are combined without a rule") as error:
        run_text(MEANS + "circuit u = a | b for pairs\n", tmp_path)
    assert "`a`: mean of `pairs.short`, `b`: mean of `pairs.long`" in str(error.value)


def test_means_of_the_parts_are_not_those_of_another_task_to_be_judged_on(tmp_path: Path) -> None:
    parts = MEANS.replace("for pairs.long", "for pairs.short")
    with pytest.raises(SpecError, match=r"`b`: mean of `pairs.short`; judged on `pairs`"):
        run_text(parts + "circuit u = a | b for pairs\n", tmp_path)


def test_a_part_keeps_its_means_where_it_is_measured_on_another_task(tmp_path: Path) -> None:
    run = run_text(MEANS + "circuit u = a | b for pairs ablate mean\n", tmp_path)
    found: Any = run.results["compositions"]["u"]
    place = Workplace.of(spec_of(MEANS + "query q = edges of a\n", tmp_path / "again"), Reporter(quiet=True))
    graph, (_, short, long) = place.spec.graphs[0], place.spec.tasks
    program = place.program(graph)
    tasks = {name: place.task(each, graph.model) for name, each in (("short", short), ("long", long))}
    circuit = run.circuits["a"].with_(graph=place.graph(graph))

    def measured(judged: str, means: str) -> float:
        source = ReferenceSource(program, tasks[means])
        return Evaluator(program, tasks[judged], "test", source=source).measure_circuit(circuit)["kl"]

    on_long = found.measured["pairs.long"]["a"].metrics["kl"]
    assert on_long == pytest.approx(measured("long", "short"), abs=1e-6)
    assert on_long != pytest.approx(measured("long", "long"), abs=1e-5)
    assert found.measured["pairs.short"]["a"].metrics["kl"] == pytest.approx(measured("short", "short"), abs=1e-6)
    data = {name: reference_of(run.circuits[name]).data for name in ("a", "b", "u")}
    assert len(set(data.values())) == 3


def test_a_composition_is_judged_asked_and_saved_as_any_circuit(composed: RunResult) -> None:
    either, rest = composed.judged["either"], composed.judged["rest"]
    assert either.metrics == rest.complement
    assert either.complement == rest.metrics
    assert len(composed.queries["q"]) == int(composed.circuits["rest"].edges.sum())
    record = read_run(composed.folder)
    assert record["circuits"]["either"]["method"] == "a | b"
    assert (composed.folder / "circuits" / "either").is_dir()


def test_what_a_composition_does_to_its_parts_is_reported(composed: RunResult) -> None:
    found: Any = composed.results["compositions"]["either"]
    assert found.own == {"pairs.short": ("a",), "pairs.long": ("b",)}
    for task, part in (("pairs.short", "a"), ("pairs.long", "b")):
        row = next(each for each in found.changes() if (each["task"], each["part"]) == (task, part))
        alone, together = (found.measured[task][name].metrics["logit_diff"] for name in (part, "either"))
        assert row["logit_diff"] == {"alone": alone, "composed": together, "change": together - alone}
        assert alone == composed.judged[part].metrics["logit_diff"]  # what the part measured on its own task
    a, b = composed.circuits["a"].edges, composed.circuits["b"].edges
    assert found.overlap["edges"]["iou"] == (a & b).sum() / (a | b).sum()
    for groups, some in (("by_layer", {"0", "1"}), ("by_kind", {"q", "k", "v"})):
        several = composed.to_json()["compositions"]["either"]["overlap"]["edges"][groups]
        assert set(several) > some
        assert sum(each["shared"] for each in several.values()) == (a & b).sum()
        assert sum(each["union"] for each in several.values()) == (a | b).sum()
    assert "interference with a on pairs.short: logit_diff" in str(composed)
    table = str(composed).split("what a, b share:", 1)[1].splitlines()
    cells = {line.split("  ")[0].strip() or line.strip().split("  ")[0]: line.split() for line in table[2:20]}
    edges = found.overlap["edges"]
    for name, words in ((" of q", "q"), (" of layer 1", "1"), ("", "")):
        each = edges["by_kind"].get(words) or edges["by_layer"].get(words) or edges
        shown = cells[f"edges{name}"][1 + len(name.split()) :]
        assert shown[:2] == [str(each["shared"]), str(each["union"])]
    assert "rest" not in composed.results["compositions"]  # one part alone has nothing to interfere with
    assert composed.to_json()["compositions"]["either"]["interference"] == found.changes()


def test_parts_with_other_references_are_composed_by_the_rule_and_judged_by_it(tmp_path: Path) -> None:
    text = HEAD + HEAD[HEAD.index("task") :].replace("task pairs", "task zeroed").replace(
        "last\n", "last\n ablate zero\n"
    )
    text += RANKED + RANKED.replace("found", "other").replace("for pairs", "for zeroed")
    run = run_text(text + "circuit both = found | other for pairs ablate zero\n", tmp_path)
    both = run.circuits["both"]
    assert both.ablation == "zero"
    assert [each["ablation"] for each in both.provenance["operands"]] == ["interchange", "zero"]
    # With everything at zero the model prefers neither word; the counterfactual would make it prefer the other.
    assert run.judged["both"].empty["logit_diff"] == pytest.approx(0, abs=1e-3)
    assert run.judged["found"].empty["logit_diff"] < -5


def test_a_plan_has_what_compositions_cost_and_a_second_run_takes_all_from_the_cache(tmp_path: Path) -> None:
    text, cache = SUBTASKS + PARTS + "circuit either = a | b for pairs\n", tmp_path / "cache"
    spec = spec_of(text, tmp_path)
    plan = make_plan(spec, PlanOptions(cache=cache))
    assert {"measure either", "interference in either"} <= {stage.name for stage in plan.stages}
    first = run_spec(spec, RunOptions(out=tmp_path / "one", quiet=True, cache=cache))
    again = make_plan(spec, PlanOptions(cache=cache))
    assert all(each.state == "cached" for each in again.standings)
    second = run_spec(spec, RunOptions(out=tmp_path / "two", quiet=True, cache=cache))
    assert first.manifest["result"] == second.manifest["result"]


# Imports


def test_a_circuit_from_a_file_is_measured_as_the_one_that_was_saved(tmp_path: Path) -> None:
    first = run_text(HEAD + RANKED + 'export found to "found.json", "kept/" as mib\n', tmp_path, out="one")
    text = HEAD + 'import circuit foreign = "one/found.json" as mib on g for pairs\n'
    text += 'import circuit own = "one/kept/" on g for pairs\nimport circuit shown = "one/kept/" on g\n'
    text += 'circuit same = foreign & own\ncheck own { edges == 5 }\nexport shown to "shown.dot"\n'
    run = run_text(text, tmp_path, out="two")
    assert run.passed
    for name in ("foreign", "own", "same"):
        assert run.judged[name].metrics == first.judged["found"].metrics
    assert "shown" not in run.judged
    assert (tmp_path / "two" / "shown.dot").exists()
    assert run.circuits["foreign"].provenance["imported"]["format"] == "mib"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('import circuit x = "no.json" as mib on g for pairs\n', r"no.json.*\n  while importing `x`"),
        ('import circuit x = "kept/" on g\ncheck x { edges <= 5 }\n', "`x` is not judged on a task"),
        (PARTS + "circuit x = a | b for pairs\nmeasure x at density 5%\n", "`x` is composed and has no ranking"),
    ],
)
def test_what_cannot_be_carried_out_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StageError, match=message):
        run_text(SUBTASKS + text, tmp_path)


def test_a_saved_circuit_of_another_granularity_is_refused(tmp_path: Path) -> None:
    run_text(HEAD + RANKED + 'export found to "kept/"\n', tmp_path, out="one")
    other = HEAD.replace("head split qkv", "layer") + 'import circuit x = "one/kept/" on g for pairs\n'
    with pytest.raises(StageError, match="is a circuit of another model or graph"):
        run_text(other, tmp_path, out="two")


def test_circuits_of_two_graphs_are_not_composed(tmp_path: Path) -> None:
    text = HEAD + RANKED + "graph h = trace toy { attention: layer }\n"
    text += RANKED.replace("found", "other").replace("discover g", "discover h") + "circuit x = found | other\n"
    with pytest.raises(SpecError, match="circuits of different graphs"):
        run_text(text, tmp_path)


def test_the_example_with_two_subtasks_runs(tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "examples" / "subtasks.circ"
    text = path.read_text().replace("steps: 60", "steps: 4").replace("accuracy >= 90%", "accuracy >= 0%")
    text = text.replace("jsd <= 0.3", "jsd >= 0").replace("completeness >= 0.5", "completeness <= 9")
    run = run_text(text, tmp_path)
    assert run.passed
    added: Any = run.results["compositions"]["added"]
    core = run.circuits["core"]
    assert added.doubled == sum(int(mask.sum()) for mask in core.weights.values()) > 0
    assert run.judged["added"].metrics["logit_diff"] != run.judged["either"].metrics["logit_diff"]
