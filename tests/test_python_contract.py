"""The names that programs may rely on, used as they are promised."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest
import torch

import dsl
import graphir
import passes
from graphir.circuit import Circuit
from passes.eap import EapIg
from tests import zoo
from tests.attribution_reference import random_task
from tests.running import HEAD, RANKED

torch.set_num_threads(1)


def test_a_graph_is_traced_and_asked() -> None:
    graph = zoo.traced("llama")[1]
    assert isinstance(graph, graphir.Graph)
    assert graph.equivalence is not None
    assert 0 <= graph.equivalence < 1e-4
    assert [node.name for node in graph.nodes[:2]] == ["embed", "a0.h0"]
    assert (len(graph.edges), graph.opaque) == (len(graph.edge_src), ())
    assert sum(part.size for part in graph.node("a1.h3").weights) == graph.node("a1.h3").weights.size > 0
    edge = graph.edge("a0.h2 -> a1.h3.q")
    assert (str(edge), graph.edges[edge.index]) == ("a0.h2 -> a1.h3.q", edge)
    assert isinstance(graph.to_networkx(), nx.DiGraph)
    assert "a1.h3" in str(graph)


def test_a_program_runs_under_masks() -> None:
    instance, graph = zoo.traced("llama")
    program = graphir.lower(graph)
    assert isinstance(program, graphir.MaskedProgram)
    masks = program.new_masks(edges=True, nodes=True)
    assert masks.edges is not None
    assert masks.nodes is not None
    assert (masks.edges.shape, masks.nodes.shape) == ((len(graph.edges),), (len(graph.nodes),))
    assert bool((masks.edges == 1).all())
    corrupt = {**instance.other, "input_ids": instance.other["input_ids"].flip(0)}
    out = program(instance.other, counterfactual=corrupt, masks=masks, ablation="interchange")
    assert type(out) is type(instance.model(**instance.other))
    torch.testing.assert_close(out.logits, instance.model(**instance.other).logits, atol=1e-4, rtol=1e-4)
    out.logits.logsumexp(-1).sum().backward()
    assert masks.edges.grad is not None
    assert bool(masks.edges.grad.abs().max() > 0)


def test_a_pass_runs_by_name_or_class_and_its_circuit_is_kept_and_run(tmp_path: Path) -> None:
    instance, graph = zoo.traced("llama")
    program, task = graphir.lower(graph), random_task()
    circuit = passes.run("eap_ig", program, task, steps=2, edges=60)
    again = passes.run(EapIg, program, task, steps=2, edges=60)
    assert (circuit.edges == again.edges).all()
    circuit.save(tmp_path / "found")
    loaded = graphir.Circuit.load(tmp_path / "found", instance.model)
    assert isinstance(loaded, Circuit)
    batch = next(task.batches("train", 2))
    with torch.no_grad():
        outputs = [c.as_module()(**batch.inputs, counterfactual=batch.counterfactual).logits for c in (circuit, loaded)]
    assert torch.equal(outputs[0], outputs[1])


def test_a_file_is_loaded_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("toy.circ").write_text(HEAD + RANKED)
    spec = dsl.load("toy.circ")
    run = dsl.run(spec)
    assert int(run.circuits["found"].edges.sum()) == 5
