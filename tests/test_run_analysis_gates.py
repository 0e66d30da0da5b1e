"""Checks of what the analyzer finds, drifts, smaller modules and communities in a run: values, verdicts, exit codes,
the manifest, the report, the files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsl.analysis_quantities import SECTION_QUANTITIES, Gauge
from dsl.cli import main
from dsl.running.carrying import RunResult
from dsl.running.failures import StageError
from dsl.running.gauging import GAUGES, RESULTS
from graphir.shrink import load_shrunk
from tests.running import HEAD, RANKED, run_text, trace_once

NET = """\
circ 1
model net = builtin "planted_modules"
graph g = trace net { mlp: neuron }
task parts {
  data builtin "planted_modules" { n: 80  seed: 0 }
  split 50 / 25 / 25 by example
  predict answer vs distractor at last
}
corpus bits = builtin "planted_modules" { n: 24  length: 10 }
"""
ALL = f"""{NET}
analyze m = neurons of g on bits with euclidean {{ subsamples: 3 }}
analyze again = neurons of g where layer >= 0 on bits with euclidean {{ subsamples: 3 }}
analyze draws = layers of g on bits with gromov_wasserstein {{ solver: sampled  sample: 8  draws: 2 }}
blocks b = m {{ replicates: 2  permutations: 19  validate: lesion }}
cluster c = neurons of g with ncut {{ k: 4  shuffles: 5 }}
cluster tree = neurons of g on bits with hierarchy {{ k: 3 }}
cluster groups = nodes of g with communities {{ random_graphs: 3 }}
lesion l = c for parts {{ random_groups: 3 }}
drift d = m, again {{ steps: 0, 1k  permutations: 19 }}
check m {{ units == 14  distance(largest) >= 0.1  width <= 10 }}
check b {{ count >= 1  stability <= 1.0 }}
check c {{ count == 4  z <= 100  p(less) + p >= 50% }}
check tree {{ count == 3  size(smallest) >= 1 }}
check groups {{ modularity >= 99% }}
check l {{ groups >= 1  accuracy >= 90% }}
check d {{ moved <= 1e-9  agreement >= 99%  steps == 2 }}
export d to "d.csv", "d.json", "d.npz", "d.svg", "d.png", "d.pdf"
export groups to "groups.csv", "groups.json", "groups.npz", "groups.svg", "groups.dot"
export tree to "tree.svg", "tree.npz"
export b to "b.svg", "b.npz", "b.json"
export b to "b.dot" as diagram
export m to "m.png", "m.json"
export m to "mt.svg" as dendrogram
report "r.html", "r.md", "r.json"
"""


@pytest.fixture(autouse=True)
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("gates")
    with pytest.MonkeyPatch.context() as patch:
        trace_once(patch)
        return run_text(ALL, folder)


@pytest.fixture(scope="module")
def manifest(run: RunResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "manifest.json").read_text())
    return found


def values(run: RunResult, name: str) -> dict[str, float]:
    return {key: value for each in run.verdicts if each.circuit == name for key, value in each.values.items()}


# Gates


def test_conditions_are_evaluated_on_what_was_found(run: RunResult) -> None:
    matrix = run.results["analyses"]["m"]
    apart = matrix.values[np.triu_indices(14, 1)]
    assert values(run, "m")["distance(largest)"] == apart.max()
    assert values(run, "b")["count"] == run.results["blocks"]["b"].blocks.count
    assert values(run, "b")["stability(mean)"] == run.results["blocks"]["b"].stability.agreement
    assert values(run, "c")["z"] == run.results["clusters"]["c"].facts["z"]
    assert values(run, "groups")["modularity"] == run.results["clusters"]["groups"].facts["modularity"]
    assert values(run, "l")["accuracy"] == run.results["lesions"]["l"].accuracy


def test_a_condition_that_fails_fails_the_run(run: RunResult, manifest: dict[str, Any]) -> None:
    failed = [each for each in run.verdicts if not each.passed]
    assert [(each.circuit, each.kind, each.text) for each in failed] == [("groups", "cluster", "modularity >= 99%")]
    assert not run.passed
    assert manifest["status"] == "checks failed"
    told = [each for each in manifest["checks"] if not each["passed"]]
    assert told[0]["subject"] == "groups" and told[0]["kind"] == "cluster" and told[0]["line"] == 24
    assert "FAIL" in str(run) and "1 of 16 conditions failed" in str(run)


def test_exit_codes_say_whether_conditions_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.circ"
    text = NET + "analyze m = neurons of g on bits with euclidean\ncheck m { units == 14 }\n"
    commands = ["--out", str(tmp_path / "out"), "--no-cache", "--quiet"]
    for wanted, written in ((0, text), (1, text.replace("== 14", "== 15"))):
        file.write_text(written)
        assert main(["run", str(file), *commands]) == wanted
    assert "check of `m` failed: units == 15 (units is 14)" in capsys.readouterr().err


def _arguments(quantity: Gauge) -> list[tuple[str, ...]]:
    return [(word,) for word in quantity.arguments[0]] if quantity.arguments else [()]


NOT_HERE = {("blocks", "readout"), ("blocks", "accuracy"), ("cluster", "motif")}


@pytest.mark.parametrize(
    ("kind", "name"),
    [("analysis", "m"), ("blocks", "b"), ("cluster", "c"), ("cluster", "tree"), ("cluster", "groups"),
     ("lesion", "l"), ("drift", "d")],
)  # fmt: skip
def test_every_quantity_of_the_table_has_a_value(kind: str, name: str, run: RunResult) -> None:
    found = run.results[RESULTS[kind]][name]
    for quantity, about in SECTION_QUANTITIES[kind].items():
        method = getattr(found, "method", None)
        if about.methods and method not in about.methods:
            continue
        for arguments in _arguments(about):
            if not {(kind, quantity), *((kind, word) for word in arguments)} & NOT_HERE:
                assert isinstance(float(GAUGES[kind](found, quantity, arguments)), float)


def test_what_was_not_measured_is_an_error_at_the_condition(tmp_path: Path) -> None:
    text = NET + "analyze m = neurons of g on bits with knn\ncheck m { width <= 1 }\n"
    with pytest.raises(StageError, match="knn has no bounds here") as caught:
        run_text(text, tmp_path)
    assert caught.value.span.line == 11
    assert caught.value.span.text == "width <= 1"


def test_constant_and_duplicate_units_are_compared_where_that_is_defined(run: RunResult) -> None:
    matrix = run.results["analyses"]["m"]
    assert matrix.between("second.n2", "second.n4") == 0  # neither is ever active on these samples
    assert np.isfinite(matrix.values).all()


def test_too_many_samples_are_compared_by_draws_with_their_error(run: RunResult) -> None:
    drawn = run.results["analyses"]["draws"]
    assert drawn.settings["solver"] == "sampled"
    assert drawn.lower is not None and (drawn.lower <= drawn.values).all() and (drawn.values <= drawn.upper).all()


# Communities and trees


def test_communities_are_those_of_the_whole_graph(run: RunResult, manifest: dict[str, Any]) -> None:
    found = run.results["clusters"]["groups"]
    assert found.method == "communities"
    assert len(found.names) == 34 and set(found.labels.tolist()) == set(range(len(found.groups)))
    told = manifest["clusters"]["groups"]["facts"]
    assert set(told["centrality"]) == set(found.names)
    assert set(told["motifs"]) == {"021D", "021U", "021C", "030T"}
    assert told["dominators"]["first.n0"] == "(inputs)"


def test_communities_of_a_circuit_are_of_what_it_keeps(tmp_path: Path) -> None:
    found = run_text(HEAD + RANKED + "cluster k = nodes of found with communities\ncheck k { units >= 2 }\n", tmp_path)
    circuit = found.circuits["found"]
    kept = {node.name for node, keep in zip(circuit.graph.nodes, circuit.nodes, strict=True) if keep}
    assert set(found.results["clusters"]["k"].names) == kept
    assert found.passed


# Drift


def test_a_drift_follows_units_over_steps(run: RunResult) -> None:
    found = run.results["drifts"]["d"]
    assert found.steps == (0.0, 1000.0) and found.labels == ("m", "again")
    assert found.names == run.results["analyses"]["m"].names
    np.testing.assert_allclose(found.from_first, 0, atol=1e-9)
    assert found.agreement.tolist() == [1.0]
    assert "drift d: 14 units over 2 steps by euclidean" in str(run)


def test_sparsities_of_a_circuit_of_weights_are_steps(tmp_path: Path) -> None:
    """What a circuit of weights leaves out is zero in what is collected."""
    sheaf = "sheaf {0} = discover g for pairs with magnitude subject to density(weights) <= {1}\n"
    text = HEAD + "".join(sheaf.format(*each) for each in (("half", "50%"), ("most", "10%")))
    for name, subject in (("whole", "g"), ("a", "half"), ("b", "most")):
        text += f"analyze {name} = heads of {subject} on pairs with euclidean\n"
    text += "drift d = whole, a, b { steps: 0, 50, 90  permutations: 19 }\n"
    found = run_text(text, tmp_path).results["drifts"]["d"]
    assert (found.from_first[1:] > 0).all()
    assert found.from_first[2].mean() > found.from_first[1].mean()


# Files


def test_every_export_is_written(run: RunResult) -> None:
    for name in (each for line in ALL.splitlines() if line.startswith("export") for each in line.split('"')[1::2]):
        assert (run.folder / name).stat().st_size, name
    for name in ("d.svg", "groups.svg", "tree.svg", "b.svg", "mt.svg"):
        assert "<svg" in (run.folder / name).read_text()
    assert (run.folder / "m.png").read_bytes().startswith(b"\x89PNG")
    assert (run.folder / "d.pdf").read_bytes().startswith(b"%PDF")


def test_a_drift_is_a_row_a_unit_and_step(run: RunResult) -> None:
    rows = list(csv.DictReader((run.folder / "d.csv").read_text().splitlines()))
    assert len(rows) == 2 * 14
    assert {row["analysis"] for row in rows} == {"m", "again"} and rows[0]["from_before"] == ""
    with np.load(run.folder / "d.npz") as stored:
        assert stored["from_first"].shape == (2, 14) and stored["names"].tolist()[0] == "first.n0"


def test_arrays_of_groups_are_stored_without_pickles(run: RunResult) -> None:
    with np.load(run.folder / "groups.npz") as stored:
        assert stored["labels"].tolist() == run.results["clusters"]["groups"].labels.tolist()
    with np.load(run.folder / "tree.npz") as stored:
        assert stored["tree"].shape == (13, 4)
    assert "stroke-dasharray" in (run.folder / "tree.svg").read_text()  # a dashed line where the tree is cut
    with np.load(run.folder / "b.npz") as stored:
        assert stored["distances"].shape == (14, 14) and stored["lesion"].shape == (14,)
    assert "subgraph cluster_0" in (run.folder / "b.dot").read_text()


# Smaller modules


@pytest.fixture(scope="module")
def shrunk(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("shrinks")
    text = HEAD.replace("at last\n", "at last\n  ablate zero\n") + RANKED
    text += 'shrink small = found to "small/" { strict: false }\n'
    text += 'shrink found to "half/" { strict: false  dtype: bfloat16 }\n'
    text += "check small { parameters <= 1M  share <= 100%  max_difference <= 1e-5  flops(before) >= 1  left <= 1k }\n"
    text += "check small { share(flops) >= 2 }\n"
    with pytest.MonkeyPatch.context() as patch:
        trace_once(patch)
        return run_text(text + 'report "r.md"\n', folder)


def test_a_circuit_is_shrunk_into_a_folder(shrunk: RunResult) -> None:
    report = shrunk.results["shrinks"]["small"]
    assert report.after.parameters < report.before.parameters
    assert report.difference <= 1e-5
    module = load_shrunk(shrunk.folder / "small")
    assert sum(each.numel() for each in module.parameters()) == report.after.parameters
    assert {each.dtype for each in load_shrunk(shrunk.folder / "half").parameters()} == {torch.bfloat16}
    assert set(shrunk.results["shrinks"]) == {"small", "found"}


def test_smaller_modules_are_in_manifest_text_and_report(shrunk: RunResult) -> None:
    told = json.loads((shrunk.folder / "manifest.json").read_text())["shrinks"]["small"]
    assert told["sizes"][-1]["kind"] == "all"
    assert told["sizes"][-1]["parameters_after"] == shrunk.results["shrinks"]["small"].after.parameters
    assert "shrink small:" in str(shrunk)
    assert "## Analyses" in (text := (shrunk.folder / "r.md").read_text()) and "Smaller module small" in text


def test_a_smaller_module_has_gates(shrunk: RunResult) -> None:
    failed = [each.text for each in shrunk.verdicts if not each.passed]
    assert failed == ["share(flops) >= 2"]
    assert values(shrunk, "small")["parameters(after)"] == shrunk.results["shrinks"]["small"].after.parameters
    for quantity, about in SECTION_QUANTITIES["shrink"].items():
        for arguments in _arguments(about):
            assert np.isfinite(GAUGES["shrink"](shrunk.results["shrinks"]["small"], quantity, arguments))


def test_what_no_smaller_module_computes_is_refused_at_its_line(tmp_path: Path) -> None:
    text = HEAD.replace("at last\n", "at last\n  ablate zero\n") + RANKED
    with pytest.raises(StageError, match="edges are dropped") as caught:
        run_text(text + 'shrink found to "small/"\n', tmp_path)
    assert caught.value.span.line == 11
    assert not (tmp_path / "out" / "small").exists()
