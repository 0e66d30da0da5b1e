"""Circuits: pruning to paths, saving, loading, and what is said of files that are not right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphir.circuit import Circuit
from graphir.diff import diff_circuits, graph_differences
from graphir.errors import GraphirError, ModelMismatchError, SaveFormatError
from graphir.ir import Graph, NodeKind
from graphir.serial import load_graph, save_graph, write_bytes, write_text
from tests.factories import neurons, random_graph, scored, transformer

# --- on a path -----------------------------------------------------------------------------------------------------


def brute_force_on_path(circuit: Circuit) -> tuple[set[str], set[str]]:
    """Nodes and edges on some path from a node without ports to an output, every path walked one by one."""
    graph = circuit.graph
    next_of: dict[int, list[tuple[int, int]]] = {}
    for edge in circuit.kept_edges():
        for reader in graph.ports[edge.dst].nodes:
            if circuit.nodes[edge.src] and circuit.nodes[reader]:
                next_of.setdefault(edge.src, []).append((edge.index, reader))
    nodes: set[str] = set()
    edges: set[str] = set()

    def walk(node: int, passed: list[int], over: list[int]) -> None:
        passed = [*passed, node]
        if graph.nodes[node].kind is NodeKind.OUTPUT:
            nodes.update(graph.nodes[n].name for n in passed)
            edges.update(str(graph.edges[e]) for e in over)
        for edge, reader in next_of.get(node, []):
            walk(reader, passed, [*over, edge])

    for index, node in enumerate(graph.nodes):
        if not node.ports and circuit.nodes[index]:
            walk(index, [], [])
    return nodes, edges


@given(st.integers(0, 10_000), st.floats(0.1, 1.0), st.floats(0.4, 1.0))
@settings(max_examples=150, deadline=None)
def test_pruning_keeps_exactly_what_is_on_a_path(seed: int, edge_share: float, node_share: float) -> None:
    graph, rng = random_graph(seed), np.random.default_rng(seed)
    edges, nodes = rng.random(len(graph.edges)) < edge_share, rng.random(len(graph.nodes)) < node_share
    circuit = Circuit(graph, edges, nodes)
    pruned = circuit.on_path()
    expected = brute_force_on_path(circuit)
    assert ({n.name for n in pruned.kept_nodes()}, {str(e) for e in pruned.kept_edges()}) == expected
    again = pruned.on_path()
    assert np.array_equal(again.edges, pruned.edges)
    assert np.array_equal(again.nodes, pruned.nodes)


def test_a_shared_port_lives_while_one_of_its_heads_does() -> None:
    graph = transformer(1, 2, groups=1)
    kept = Circuit.of_edges(graph, ["embed -> a0.kv0.v", "a0.h1 -> logits.in"]).on_path()
    assert [n.name for n in kept.kept_nodes()] == ["embed", "a0.h1", "logits"]
    assert [str(e) for e in kept.kept_edges()] == ["embed -> a0.kv0.v", "a0.h1 -> logits.in"]


def test_a_node_that_is_not_fed_or_not_read_goes() -> None:
    graph = transformer(2, 1)
    loose = Circuit.of_edges(graph, ["embed -> m0", "m1 -> logits", "a0.h0 -> a1.h0.q", "embed -> logits"])
    assert [str(e) for e in loose.on_path().kept_edges()] == ["embed -> logits.in"]
    assert Circuit.of_edges(graph, ["embed -> m0"]).on_path().counts()["edges"] == 0


# --- the value -----------------------------------------------------------------------------------------------------


def test_counts_density_and_text() -> None:
    circuit = Circuit.of_edges(
        transformer(1, 2),
        ["embed -> a0.h1.v", "a0.h1 -> logits"],
        name="toy",
        metrics={"kl": 0.125},
        scores={"edges": np.linspace(-1, 1, 13)},
    ).on_path()
    assert circuit.counts() == {"edges": 2, "nodes": 3, "embed": 1, "head": 1, "mlp": 0, "output": 1}
    assert circuit.density == pytest.approx(2 / 13)
    assert circuit.sparsity == pytest.approx(11 / 13)
    assert repr(circuit) == "Circuit(toy, toy-1x2: 2/13 edges, kl 0.125)"
    assert str(circuit) == (
        "circuit toy of toy-1x2, interchange ablation\n\n"
        "        kept  of    share\n"
        "edges      2  13   15.38%\n"
        "nodes      3   5   60.00%\n"
        "embed      1   1  100.00%\n"
        "head       1   2   50.00%\n"
        "mlp        0   1    0.00%\n"
        "output     1   1  100.00%\n\n"
        "metric  value\n"
        "kl      0.125\n\n"
        "strongest edges       score\n"
        "a0.h1 -> logits.in   0.8333\n"
        "embed -> a0.h1.v    -0.1667"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"edges": np.ones(3, bool)}, "the graph has 13 edges"),
        ({"nodes": np.ones((5, 1), bool)}, "the graph has 5 nodes"),
        ({"scores": {"edges": np.ones(3)}}, "scores for 13 edges"),
        ({"scores": {"ports": np.ones(3)}}, "not over ports"),
        ({"ablation": "scrambled"}, "no ablation named `scrambled`"),
    ],
)
def test_parts_that_do_not_fit_the_graph_are_refused(fields: dict[str, Any], message: str) -> None:
    whole = {"edges": np.ones(13, bool), "nodes": np.ones(5, bool)}
    with pytest.raises(GraphirError, match=message):
        Circuit(transformer(1, 2), **{**whole, **fields})


def test_masks_cannot_be_changed_afterwards() -> None:
    mask = np.ones(13, bool)
    circuit = Circuit(transformer(1, 2), mask, np.ones(5, bool))
    mask[0] = False
    assert circuit.edges[0]
    with pytest.raises(ValueError, match="read-only"):
        circuit.edges[0] = False


def test_a_circuit_without_a_model_says_how_to_get_one() -> None:
    with pytest.raises(GraphirError, match=r"Circuit\.load\(folder, model\)"):
        Circuit.full(transformer()).as_module()


# --- files ---------------------------------------------------------------------------------------------------------


def assert_same(a: Circuit, b: Circuit) -> None:
    assert graph_differences(a.graph, b.graph) == []
    assert np.array_equal(a.edges, b.edges)
    assert np.array_equal(a.nodes, b.nodes)
    for mine, theirs in ((a.scores, b.scores), (a.weights, b.weights)):
        assert list(mine) == list(theirs)
        for key in mine:
            assert mine[key].dtype == theirs[key].dtype
            assert np.array_equal(mine[key], theirs[key], equal_nan=mine[key].dtype.kind == "f")
    assert dict(a.provenance) == dict(b.provenance)
    assert (a.ablation, a.name) == (b.ablation, b.name)
    assert {k: repr(v) for k, v in a.metrics.items()} == {k: repr(v) for k, v in b.metrics.items()}


@given(st.integers(0, 1000), st.booleans(), st.sampled_from(["interchange", "zero", "mean"]), st.text(max_size=8))
@settings(max_examples=25, deadline=None)
def test_a_circuit_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, seed: int, single: bool, ablation: str, name: str
) -> None:
    circuit = scored(random_graph(seed), seed)
    scores = {k: v.astype(np.float32 if single else np.float64) for k, v in circuit.scores.items()}
    scores["edges"][:1] = np.nan
    weights = {"a.weight": np.arange(15).reshape(3, 5) % 2 == 0, "b.bias": np.ones(9, bool), "scalar": np.array(True)}
    metrics = {"kl": 0.1, "worst": float("inf"), "none": float("nan")}
    circuit = circuit.with_(
        scores=scores, weights=weights, metrics=metrics, ablation=ablation, name=name.encode("utf8", "ignore").decode()
    )
    folder = tmp_path_factory.mktemp("circuit") / "saved"
    assert circuit.save(folder) == folder
    assert_same(Circuit.load(folder), circuit)


def test_the_example_inputs_come_back(tmp_path: Path) -> None:
    from graphir.circuit_files import example_tensors

    example = {"ids": np.array([[1, 2], [3, 4]]), "use_cache": False, "half": np.array([0.5], np.float16)}
    scored(transformer()).with_(example=example).save(tmp_path / "c")
    again = Circuit.load(tmp_path / "c")
    tensors = example_tensors(again.example)
    assert list(tensors) == list(example)
    assert tensors["ids"].tolist() == [[1, 2], [3, 4]]
    assert tensors["use_cache"] is False
    again.save(tmp_path / "d")
    assert example_tensors(Circuit.load(tmp_path / "d").example)["half"].dtype == tensors["half"].dtype


@pytest.mark.parametrize("graph", [transformer(2, 4, groups=2), neurons()], ids=["grouped", "neurons"])
def test_a_graph_comes_back_as_it_was(tmp_path: Path, graph: Graph) -> None:
    again = load_graph(save_graph(graph, tmp_path / "graph"))
    assert graph_differences(graph, again) == []


def test_saving_twice_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    first, second = scored(transformer(), 1), scored(transformer(), 2)
    first.save(tmp_path / "c")
    second.save(tmp_path / "c")
    assert_same(Circuit.load(tmp_path / "c"), second)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SaveFormatError, match="holds something else"):
        scored(transformer()).save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failed_save_leaves_the_old_one(tmp_path: Path) -> None:
    good = scored(transformer())
    good.save(tmp_path / "c")
    with pytest.raises(SaveFormatError, match="cannot be written as JSON"):
        good.with_(provenance={"when": object()}).save(tmp_path / "c")
    assert_same(Circuit.load(tmp_path / "c"), good)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_failed_file_leaves_the_old_one(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(TypeError):
        write_bytes(tmp_path / "a.txt", "no bytes")  # type: ignore[arg-type]
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return scored(transformer()).save(tmp_path / "c")


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("name", ["masks.safetensors", "graph.json", "edges.safetensors", "circuit.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_told(saved: Path, name: str, share: float) -> None:
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SaveFormatError, match=name):
        Circuit.load(saved)


def test_a_changed_byte_is_told(saved: Path) -> None:
    data = bytearray((saved / "masks.safetensors").read_bytes())
    data[-1] ^= 1
    (saved / "masks.safetensors").write_bytes(bytes(data))
    with pytest.raises(SaveFormatError, match="was changed after it was written"):
        Circuit.load(saved)


def test_a_missing_file_is_told(saved: Path) -> None:
    (saved / "masks.safetensors").unlink()
    with pytest.raises(SaveFormatError, match=r"masks\.safetensors cannot be read"):
        Circuit.load(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2; this release reads 1[\\s\\S]*newer release"),
        ({"version": "x"}, "version x"),
        ({"format": "other.thing"}, "says `other.thing`; expected `graphir.circuit`"),
        ({"files": None}, "does not list its files"),
        ({"files": {"../../etc/passwd": {}}}, "is no file of the folder"),
        ({"metrics": None}, "does not describe a circuit"),
        ({"weights": [["w", [10]]]}, "does not describe a circuit"),
        ({"ablation": "scrambled"}, "no ablation named"),
    ],
)
def test_a_manifest_that_is_not_right_is_told(saved: Path, changes: dict[str, Any], message: str) -> None:
    edit(saved / "circuit.json", **changes)
    with pytest.raises(SaveFormatError, match=message):
        Circuit.load(saved)


def test_what_is_no_circuit_is_told(tmp_path: Path) -> None:
    with pytest.raises(SaveFormatError, match="is not a folder"):
        Circuit.load(tmp_path / "nothing")
    with pytest.raises(SaveFormatError, match="holds no circuit"):
        Circuit.load(tmp_path)
    (tmp_path / "circuit.json").write_text("[1, 2]")
    with pytest.raises(SaveFormatError, match="holds a JSON list"):
        Circuit.load(tmp_path)
    (tmp_path / "circuit.json").write_text('<?xml version="1.0"?><project source="2.7.1"/>')
    with pytest.raises(SaveFormatError, match="is not JSON"):
        Circuit.load(tmp_path)


def test_a_huge_file_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphir.serial.MAX_TENSORS", 10)
    with pytest.raises(SaveFormatError, match="more than the limit of 10"):
        Circuit.load(saved)


def test_a_circuit_comes_back_onto_its_model(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import graphir

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    graph = graphir.trace(model, (torch.ones(2, 3),))
    circuit = scored(graph, keep=0.7)
    circuit.save(tmp_path / "c")
    again = Circuit.load(tmp_path / "c", model)
    assert again.graph.lifted is not None
    assert np.array_equal(again.edges, circuit.edges)
    with torch.no_grad():
        model[0].bias += 1
    with pytest.raises(ModelMismatchError, match="belongs to another model"):
        Circuit.load(tmp_path / "c", model)
    assert Circuit.load(tmp_path / "c").graph.lifted is None


def test_another_model_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    circuit = scored(transformer()).with_(example={"x": np.ones((1, 2), np.float32)})
    circuit.save(tmp_path / "c")
    with pytest.raises(ModelMismatchError, match=r"belongs to another model: its hash is abababababab…"):
        Circuit.load(tmp_path / "c", torch.nn.Linear(2, 2))


# --- differences ---------------------------------------------------------------------------------------------------


def test_a_diff_names_what_came_and_went() -> None:
    graph = transformer(1, 2)
    first = Circuit.of_edges(graph, ["embed -> m0", "m0 -> logits"], metrics={"kl": 1.0}).on_path()
    second = Circuit.of_edges(graph, ["embed -> logits", "embed -> m0", "m0 -> logits"], metrics={"kl": 0.5}).on_path()
    diff = diff_circuits(first, second)
    assert diff.edges_added == ("embed -> logits.in",)
    assert diff.edges_removed == ()
    assert diff.edge_iou == pytest.approx(2 / 3)
    assert diff.node_iou == 1.0
    assert not diff.same
    assert diff_circuits(first, first).same
    assert str(diff) == (
        "       added  removed  shared     IoU\n"
        "edges      1        0       2  0.6667\n"
        "nodes      0        0       3       1\n\n"
        "metric  before  after\n"
        "kl           1    0.5\n\n"
        "+ embed -> logits.in"
    )
    assert json.dumps(diff.to_json())


def test_circuits_that_differ_in_weights_alone_differ() -> None:
    graph = transformer(1, 2)
    mask = np.array([[True, True], [True, False]])
    whole, first = Circuit.full(graph), Circuit.full(graph, weights={"w": mask})
    second = first.with_(weights={"w": mask & mask.T[::-1]})
    assert diff_circuits(first, first).same
    assert diff_circuits(whole, whole).weights is None
    assert diff_circuits(first, second).weights == (0, 1, 2)
    assert diff_circuits(first, whole).weights == (1, 0, 3)  # what is not masked is kept
    assert diff_circuits(first, first.with_(weights={"w": mask[:1]})).weights == (2, 3, 0)
    assert not diff_circuits(first, second).same
    assert "weights      0        1       2  0.6667" in str(diff_circuits(first, second))
    assert diff_circuits(first, second).to_json()["weights"] == {"added": 0, "removed": 1, "shared": 2, "iou": 2 / 3}


@given(st.integers(0, 1000), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_diff_splits_the_union(a: int, b: int) -> None:
    graph = transformer(2, 2)
    first, second = scored(graph, a), scored(graph, b)
    diff = diff_circuits(first, second)
    assert len(diff.edges_shared) == int((first.edges & second.edges).sum())
    assert len(diff.edges_added) == int((second.edges & ~first.edges).sum())
    assert len(diff.edges_removed) == int((first.edges & ~second.edges).sum())


def test_circuits_of_different_graphs_compare_by_name() -> None:
    diff = diff_circuits(Circuit.full(transformer(1, 2)), Circuit.full(transformer(2, 2)))
    assert diff.foreign == 46 - 13
    assert len(diff.edges_shared) == 13
