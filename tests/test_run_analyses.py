"""The analyzer's sections in a run: corpora, distances, blocks, clusters, lesions, shrinking; and wrong input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from dsl.options import PlanOptions, RunOptions
from dsl.running.carrying import RunResult, run_spec
from dsl.running.failures import StageError
from tests.running import run_text, spec_of, trace_once

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NET = 'circ 1\nmodel net = builtin "planted_modules"\ngraph g = trace net { mlp: neuron }\n'
FEW = 'corpus s = builtin "planted_modules" { n: 3  length: 10 }\n'
BITS = 'corpus bits = builtin "planted_modules" { n: 48  length: 10 }\n'
TOY = 'circ 1\nmodel toy = builtin "induction"\ngraph g = trace toy { example: "ant bag bat bed" }\n'
WORDS = "ant bag bat bed bee"


@pytest.fixture(autouse=True)
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("analyze")
    text = (EXAMPLES / "analyze.circ").read_text(encoding="utf-8")
    return run_spec(spec_of(text, folder), RunOptions(out=folder / "out", quiet=True, caching=False))


def test_the_example_finds_the_planted_modules_by_their_weights(example: RunResult) -> None:
    groups = example.results["clusters"]["by_weight"].groups
    module = {"first.n0", "first.n4", "second.n3"}
    assert any(module - {"second.n3"} <= set(group) for group in groups.values())
    assert example.results["clusters"]["by_weight"].facts["z"] < 0


def test_the_example_writes_its_files(example: RunResult) -> None:
    out = example.folder
    rows = list(csv.reader((out / "apart.csv").read_text().splitlines()))
    assert rows[0][0] == "gromov_wasserstein"
    assert rows[0][1:] == list(example.results["analyses"]["apart"].names)
    with np.load(out / "apart.npz") as stored:
        np.testing.assert_array_equal(stored["values"], example.results["analyses"]["apart"].values)
    assert "subgraph cluster_0" in (out / "by_weight.dot").read_text()
    for name in ("apart.svg", "along.svg", "tree.svg", "of_clusters.svg"):
        assert "<svg" in (out / name).read_text()


def test_results_are_in_the_manifest_and_in_the_text(example: RunResult) -> None:
    manifest = json.loads((example.folder / "manifest.json").read_text())
    apart = manifest["analyses"]["apart"]
    assert np.shape(apart["distances"]) == (14, 14)
    assert manifest["corpora"]["bits"]["samples"] == 96
    assert set(manifest["blocks"]["along"]["validation"]) == {"lesion"}
    assert {row["statistic"] for row in manifest["lesions"]["of_clusters"]["rows"]} == {"mean", "range", "kl"}
    shown = str(example)
    for start in ("corpus bits:", "analysis apart:", "blocks along:", "cluster tree:", "lesion of_clusters:"):
        assert start in shown


def test_a_second_run_takes_stages_from_the_cache(tmp_path: Path) -> None:
    from dsl.running.caching import standings

    text = (
        NET
        + BITS
        + "analyze m = layers of g on bits with cka\ncluster c = neurons of g with ncut { k: 4  shuffles: 2 }\n"
    )
    first = run_text(text, tmp_path, cache=tmp_path / "cache")
    again = run_text(text, tmp_path, out="again", cache=tmp_path / "cache")
    assert first.manifest["result"] == again.manifest["result"]
    assert all(stage["cached"] for stage in again.manifest["stages"])
    changed = spec_of(text.replace("with cka", "with cka { kernel: rbf }"), tmp_path)
    found = {(s.kind, s.name): s.state for s in standings(changed, PlanOptions(cache=tmp_path / "cache"))}
    assert found["representations", "collect m"] == "cached"
    assert found["analysis", "m"] == "changed"


def test_a_text_is_cut_into_rows_and_drawn_by_the_seed(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(" ".join([WORDS] * 20))
    text = TOY + 'corpus t = text "t.txt" { n: 5  length: 10 }\nanalyze m = heads of g on t with knn { neighbors: 2 }\n'
    result = run_text(text, tmp_path)
    facts = result.results["corpora"][0]
    assert (facts.samples, facts.tokens) == (5, 10)
    assert result.results["analyses"]["m"].samples == 5


def test_where_chooses_units(tmp_path: Path) -> None:
    text = NET + BITS + "analyze m = neurons of g where layer == 1 on bits with euclidean\n"
    names = run_text(text, tmp_path).results["analyses"]["m"].names
    assert len({name.rpartition(".")[0] for name in names}) == 1


def test_a_tree_is_of_signed_features_or_of_magnitudes_and_is_cut_by_number_or_height(tmp_path: Path) -> None:
    head = NET + BITS + "cluster c = neurons of g on bits with hierarchy"
    signed = run_text(f"{head} {{ k: 3 }}\n", tmp_path).results["clusters"]["c"]
    plain = run_text(f"{head} {{ by: magnitude  k: 3 }}\n", tmp_path).results["clusters"]["c"]
    assert signed.tree.features.min() < 0
    np.testing.assert_allclose(plain.tree.features, np.abs(signed.tree.features))
    height = plain.tree.cut_height(5)
    cut = run_text(f"{head} {{ by: magnitude  height: {height} }}\n", tmp_path).results["clusters"]["c"]
    assert len(cut.groups) == 5
    np.testing.assert_array_equal(cut.labels, plain.tree.cut(5))
    assert run_text(f"{head}\n", tmp_path).results["clusters"]["c"].groups == {}


@pytest.mark.parametrize(
    ("rest", "line", "words"),
    [
        (FEW + "analyze m = layers of g on s with cka\n", 5, "too few"),
        (BITS + "analyze m = layers of g on bits with gromov_wasserstein { largest: 20 }\n", 5, "sampled"),
        (BITS + "cluster c = neurons of g with ncut { k: 90 }\n", 5, "90 clusters of"),
        (BITS + "cluster c = neurons of g on bits with hierarchy { k: 90 }\n", 5, "90 modules of 14 units"),
        (BITS + "analyze m = neurons of g on bits with knn\nblocks b = m { count: 90 }\n", 6, "90 blocks of 14"),
        (BITS + "cluster c = layers of g with ncut\n", 5, "not layers"),
        (BITS + "analyze m = neurons of g on bits with cka\n", 5, "hold the same on all 48 samples"),
        (BITS + "cluster c = neurons of g with ncut { k: 2  shuffles: 0 }\n", 5, "pieces"),
        (BITS + "analyze m = neurons of g on bits with knn\nblocks b = m { validate: readout }\n", 6, "needs answers"),
        ('corpus s = text "none.txt"\nanalyze m = layers of g on s with cka\n', 4, "cannot read corpus"),
        ('corpus s = jsonl "bad.jsonl"\nanalyze m = layers of g on s with cka\n', 4, "bad.jsonl:2"),
    ],
)  # fmt: skip
def test_wrong_input_names_the_line(tmp_path: Path, rest: str, line: int, words: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "0 1 0 1 0 1 0 1 0 1"}\n{"words": 3}\n')
    with pytest.raises(StageError) as caught:
        run_text(NET + rest, tmp_path)
    assert caught.value.span.line == line
    assert words in str(caught.value) + " ".join(caught.value.hints)


def test_texts_of_unequal_length_cannot_be_flattened(tmp_path: Path) -> None:
    texts = [" ".join(WORDS.split()[:length]) for length in (3, 3, 5, 5, 5)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    text = TOY + 'corpus t = jsonl "t.jsonl" { n: 5  pooling: flatten }\nanalyze m = heads of g on t with cka\n'
    with pytest.raises(StageError, match=r"flattened.* features on one batch|cannot be flattened") as caught:
        run_text(text, tmp_path)
    assert caught.value.span.line == 5


def test_activations_that_are_not_finite_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import graphir

    def trace(model: torch.nn.Module, *args: object, **options: object) -> object:
        graph = real(model, *args, **options)  # type: ignore[arg-type]
        with torch.no_grad():
            model.get_parameter("second.weight").fill_(float("nan"))
        return graph

    monkeypatch.setattr("tests.running._TRACED", {})  # the sound model may have been traced before, and is again
    real = graphir.trace
    monkeypatch.setattr(graphir, "trace", trace)
    with pytest.raises(StageError, match=r"activations of .* are not finite") as caught:
        run_text(NET + BITS + "analyze m = layers of g on bits with cka\n", tmp_path)
    assert caught.value.span.line == 5


def test_the_example_for_a_real_model_is_checked() -> None:
    text = (EXAMPLES / "smollm2_blocks.circ").read_text(encoding="utf-8")
    spec = spec_of(text, EXAMPLES)
    assert [each.name for each in spec.analyses] == ["gw", "kernel", "near"]
