"""Circuits of other tools on a graph: MIB and EAP-IG, Edge-Pruning, ACDC; and files that do not fit."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsl.export import export
from dsl.export.edge_list import edge_list
from dsl.importing import read_circuit
from dsl.importing import reading as importing_reading
from dsl.importing.resolving import ForeignNodesError
from graphir.circuit import Circuit
from graphir.errors import DataError, SaveFormatError, UnknownNameError
from graphir.ir import Graph
from tests.factories import scored, transformer

GRAPH = transformer(2, 2)


def names(circuit: Circuit) -> set[str]:
    return {str(edge) for edge in circuit.kept_edges()}


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


# --- MIB -------------------------------------------------------------------------------------------------------------


def mib_tensors(circuit: Circuit) -> dict[str, Any]:
    """The benchmark's PT form of a circuit of `GRAPH`, in the order of its own tables."""
    sources = ["input", *(x for i in range(2) for x in (f"a{i}.h0", f"a{i}.h1", f"m{i}"))]
    readers = [x for i in range(2) for x in (*(f"a{i}.h{h}<{k}>" for k in "qkv" for h in range(2)), f"m{i}")]
    readers.append("logits")
    kept, scores = torch.zeros(len(sources), len(readers)).bool(), torch.zeros(len(sources), len(readers))
    for edge in circuit.graph.edges:
        reader = edge.dst_name.removesuffix(".in")
        reader = f"{reader[:-2]}<{reader[-1]}>" if reader[-2] == "." and reader[-1] in "qkv" else reader
        place = sources.index("input" if edge.src_name == "embed" else edge.src_name), readers.index(reader)
        kept[place], scores[place] = bool(circuit.edges[edge.index]), float(circuit.scores["edges"][edge.index])
    nodes = torch.tensor([bool(circuit.nodes[circuit.graph.node_index[n.replace("input", "embed")]]) for n in sources])
    return {
        "cfg": {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8}, "src_nodes": sources,
        "dst_nodes": readers, "edges_scores": scores, "edges_in_graph": kept, "nodes_in_graph": nodes,
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_a_benchmark_file_is_read(suffix: str, tmp_path: Path) -> None:
    circuit = scored(GRAPH, 1)
    path = tmp_path / f"ioi.{suffix}"
    if suffix == "json":
        export(circuit, path, "mib")
    else:
        torch.save(mib_tensors(circuit), path)
    found = read_circuit(path, GRAPH)
    assert names(found) == names(circuit)
    assert np.array_equal(found.nodes, circuit.nodes)
    assert np.allclose(found.scores["edges"], circuit.scores["edges"])
    assert found.name == "ioi"
    assert found.provenance["imported"]["format"] == ("mib" if suffix == "json" else "mib_pt")
    assert found.provenance["model"] == GRAPH.model_hash


def with_neurons(path: Path, node: str, kept: list[bool]) -> Path:
    """A file of either form in which a node has these of its eight neurons, all others all of theirs."""
    circuit = scored(GRAPH, 1)
    if path.suffix == ".json":
        export(circuit, path, "mib")
        value = json.loads(path.read_text())
        for name, each in value["nodes"].items():
            each["neurons"] = kept if name == node else [True] * 8
        return write_json(path, value)
    tensors = mib_tensors(circuit)
    table = torch.ones(len(tensors["src_nodes"]), 8, dtype=torch.bool)
    table[tensors["src_nodes"].index(node)] = torch.tensor(kept)
    torch.save({**tensors, "neurons_in_graph": table}, path)
    return path


@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_a_node_without_neurons_is_not_in_the_circuit(suffix: str, tmp_path: Path) -> None:
    whole = scored(GRAPH, 1)
    node = next(each.name for each in whole.kept_nodes() if each.kind.value == "head")
    found = read_circuit(with_neurons(tmp_path / f"c.{suffix}", node, [False] * 8), GRAPH)
    assert {each.name for each in whole.kept_nodes()} - {each.name for each in found.kept_nodes()} == {node}
    assert (
        read_circuit(with_neurons(tmp_path / f"d.{suffix}", node, [True] * 8), GRAPH).nodes.sum() == whole.nodes.sum()
    )


@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_a_node_with_some_of_its_neurons_is_refused(suffix: str, tmp_path: Path) -> None:
    node = next(each.name for each in scored(GRAPH, 1).kept_nodes() if each.kind.value == "head")
    path = with_neurons(tmp_path / f"c.{suffix}", node, [True, False] * 4)
    with pytest.raises(DataError, match=f"keeps 4 of the 8 neurons of `{node}`"):
        read_circuit(path, GRAPH)


def test_a_table_of_neurons_that_does_not_fit(tmp_path: Path) -> None:
    torch.save({**mib_tensors(scored(GRAPH, 1)), "neurons_in_graph": torch.ones(3, 8)}, tmp_path / "c.pt")
    with pytest.raises(DataError, match=r"`neurons_in_graph` has shape \(3, 8\) for 7 writers"):
        read_circuit(tmp_path / "c.pt", GRAPH)


def test_heads_of_a_file_fall_together_on_shared_ports(tmp_path: Path) -> None:
    grouped = transformer(2, 2, groups=1)
    circuit = scored(GRAPH, 1)
    torch.save(mib_tensors(circuit), tmp_path / "c.pt")
    # A graph answers to each head's name of a port that heads share.
    assert names(read_circuit(tmp_path / "c.pt", grouped)) == {str(grouped.edge(name)) for name in names(circuit)}


# --- Edge-Pruning ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [GRAPH, transformer(2, 2, embeddings=2), transformer(2, 4, groups=2)])
def test_edge_lists_come_back(graph: Graph, tmp_path: Path) -> None:
    circuit = scored(graph, 2)
    found = read_circuit(write_json(tmp_path / "edges.json", edge_list(circuit)), graph)
    assert names(found) == names(circuit)
    assert np.array_equal(found.nodes, circuit.nodes)


def test_pairs_within_a_head_are_no_edges(tmp_path: Path) -> None:
    pairs = [["tok_embeds", "a0.h1.q"], ["a0.h1.q", "a0.h1"], ["a0.h1", "resid_post"], ["pos_embeds", "m0"]]
    found = read_circuit(write_json(tmp_path / "edges.json", pairs), GRAPH)
    assert names(found) == {"embed -> a0.h1.q", "a0.h1 -> logits.in", "embed -> m0.in"}


# --- ACDC ------------------------------------------------------------------------------------------------------------


def acdc_rows() -> list[list[Any]]:
    return [
        ["blocks.1.hook_resid_post", [None], "blocks.1.attn.hook_result", [None, None, 0], True],
        ["blocks.1.hook_resid_post", [None], "blocks.0.hook_mlp_out", [None], True],
        ["blocks.1.hook_resid_post", [None], "blocks.1.hook_mlp_out", [None], False],
        ["blocks.1.attn.hook_result", [None, None, 0], "blocks.1.attn.hook_q", [None, None, 0], True],
        ["blocks.1.attn.hook_q", [None, None, 0], "blocks.1.hook_q_input", [None, None, 0], True],
        ["blocks.1.attn.hook_k", [None, None, 0], "blocks.1.hook_k_input", [None, None, 0], False],
        ["blocks.1.hook_q_input", [None, None, 0], "blocks.0.attn.hook_result", [None, None, 1], True],
        ["blocks.1.hook_k_input", [None, None, 0], "blocks.0.attn.hook_result", [None, None, 1], True],
        ["blocks.0.hook_mlp_out", [None], "blocks.0.hook_mlp_in", [None], True],
        ["blocks.0.hook_mlp_in", [None], "blocks.0.hook_resid_pre", [None], True],
        ["blocks.0.hook_v_input", [None, None, 1], "blocks.0.hook_resid_pre", [None], True],
    ]


ACDC_EDGES = {
    "a1.h0 -> logits.in", "m0 -> logits.in", "a0.h1 -> a1.h0.q", "embed -> m0.in", "embed -> a0.h1.v",
}  # fmt: skip


def test_a_saved_subgraph_is_read(tmp_path: Path) -> None:
    subgraph = OrderedDict(((r, tuple(ri), s, tuple(si)), present) for r, ri, s, si, present in acdc_rows())
    torch.save(subgraph, tmp_path / "subgraph.pth")
    assert names(read_circuit(tmp_path / "subgraph.pth", GRAPH)) == ACDC_EDGES
    assert names(read_circuit(write_json(tmp_path / "rows.json", acdc_rows()), GRAPH)) == ACDC_EDGES


def test_the_edges_that_are_present_alone(tmp_path: Path) -> None:
    rows = [row[:4] for row in acdc_rows() if row[4] and "k_input" not in row[0]]
    assert names(read_circuit(write_json(tmp_path / "rows.json", rows), GRAPH, ablation="zero")) == ACDC_EDGES


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["mib", "mib_pt", "edge_pruning", "acdc"])
def test_nodes_that_the_model_lacks_are_named_in_one_error(form: str, tmp_path: Path) -> None:
    """All of them, with what was probably meant."""
    small = transformer(1, 1)
    values: dict[str, Any] = {
        "edge_pruning": [["tok_embeds", "a0.h1.q"], ["a0.h1", "m1"], ["m1", "resid_post"], ["m0", "resid_post"]],
        "acdc": [
            ["blocks.0.hook_mlp_in", [None], "blocks.0.attn.hook_result", [None, None, 1]],
            ["blocks.1.hook_mlp_in", [None], "blocks.0.hook_mlp_out", [None]],
        ],
    }
    path = tmp_path / "c.json"
    if form == "mib":
        export(scored(GRAPH, 1), path, "mib")
    elif form == "mib_pt":
        path = tmp_path / "c.pt"
        torch.save(mib_tensors(scored(GRAPH, 1)), path)
    else:
        write_json(path, values[form])
    with pytest.raises(ForeignNodesError) as caught:
        read_circuit(path, small, form=form)
    lacking = {"a0.h1", "m1"} | ({"a1.h0", "a1.h1"} if form.startswith("mib") else set())
    assert set(caught.value.nodes) == lacking
    assert "the graph has no nodes `a0.h1`, " in str(caught.value)
    assert "`a0.h1`: did you mean `a0.h0`?" in str(caught.value)
    assert "the graph has 1 layers, 1 heads, 4 nodes" in str(caught.value)


def test_edges_that_go_backwards_are_named(tmp_path: Path) -> None:
    path = write_json(tmp_path / "edges.json", [["m1", "a0.h0.q"], ["m0", "m0"], ["m0", "m1"]])
    with pytest.raises(ForeignNodesError, match=r"no edges `m1 -> a0.h0.q`, `m0 -> m0`") as caught:
        read_circuit(path, GRAPH)
    assert caught.value.nodes == ()


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        pytest.param({"a": 1}, SaveFormatError, "no circuit file of a tool that is known", id="object"),
        pytest.param([["a", "b", "c"]], SaveFormatError, "no circuit file of a tool that is known", id="triples"),
        pytest.param([["tok_embeds", 3]], DataError, "an edge is a pair of names", id="number"),
        pytest.param([["a", [], 3, [], True]], DataError, "an edge is", id="acdc sender"),
        pytest.param([["a", [], "b", [], "yes"]], DataError, "whether it is present", id="acdc presence"),
    ],
)
def test_other_content_is_told(value: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        read_circuit(write_json(tmp_path / "c.json", value), GRAPH)


def test_a_pickle_of_objects_is_not_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Loud:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return print, ("it ran",)

    torch.save({"cfg": Loud()}, tmp_path / "c.pt")
    with pytest.raises(SaveFormatError, match=r"more than tensors[\s\S]*never loaded"):
        read_circuit(tmp_path / "c.pt", GRAPH)
    assert "it ran" not in capsys.readouterr().out


def test_files_that_are_cut_short_missing_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(mib_tensors(scored(GRAPH, 1)), tmp_path / "c.pt")
    data = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "short.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(SaveFormatError, match="or is damaged"):
        read_circuit(tmp_path / "short.pt", GRAPH)
    for name in ("none.pt", "none.json"):
        with pytest.raises(SaveFormatError, match="cannot be read"):
            read_circuit(tmp_path / name, GRAPH)
    (tmp_path / "short.json").write_text("[[")
    with pytest.raises(SaveFormatError, match="is not JSON"):
        read_circuit(tmp_path / "short.json", GRAPH)
    monkeypatch.setattr(importing_reading, "MAX_TENSORS", 100)
    with pytest.raises(SaveFormatError, match="more than the limit of 100"):
        read_circuit(tmp_path / "c.pt", GRAPH)
    with pytest.raises(UnknownNameError, match="`acdc`"):
        read_circuit(tmp_path / "c.pt", GRAPH, form="acdd")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("edges_scores", None, "it has no `edges_scores`"),
        ("edges_in_graph", torch.zeros(2, 2), r"has shape \(2, 2\) for 7 writers and 15 readers"),
    ],
)
def test_tables_that_do_not_fit(key: str, value: Any, message: str, tmp_path: Path) -> None:
    tensors = {**mib_tensors(scored(GRAPH, 1)), key: value}
    if value is None:
        del tensors[key]
    torch.save(tensors, tmp_path / "c.pt")
    with pytest.raises(DataError, match=message):
        read_circuit(tmp_path / "c.pt", GRAPH)
