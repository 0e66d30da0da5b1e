"""ACDC against a slow and obvious search with hooks, its orders and bounds, and runs that resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphir
import passes
from graphir.circuit import Circuit
from graphir.errors import GraphirError
from graphir.run.masks import Masks
from graphir.run.resume import ResumableRun
from passes.ablations import ReferenceSource
from passes.acdc import ORDERS, Search, traversal
from passes.base import RunContext
from passes.interventions import Interventions
from tests.attribution_reference import Tiny, tiny
from tests.modules import feature_example, prepared
from tests.running import HEAD, run_text
from tests.test_passes import KNOWN, names, toy


def slow_search(it: Tiny, order: list[str], tau: float) -> tuple[set[str], float]:
    """The kept edges, before those on no path are dropped: every cut judged by a whole run with hooks."""
    rows = len(it.task.examples("train"))
    batch = next(it.task.batches("train", rows, shuffle=0))
    assert batch.counterfactual is not None
    ablated = it.reference.writes(batch.counterfactual)
    kept = dict.fromkeys(it.reference.edges, 1.0)

    def prediction() -> Tensor:
        edges = {name: torch.tensor(value) for name, value in kept.items()}
        with torch.no_grad():
            return it.reference.masked(batch.inputs, ablated, edges, {})[:, -1].log_softmax(-1)

    full = prediction()

    def divergence() -> float:
        return float((full.exp() * (full - prediction())).sum(-1).mean())

    now = divergence()
    for name in order:
        readers = it.program.graph.port(name.split(" -> ")[1]).nodes
        used = [it.program.graph.nodes[node].name for node in readers]
        if "logits" not in used and not any(kept[edge] for edge in kept if edge.split(" -> ")[0] in used):
            kept[name] = 0.0
            continue
        kept[name] = 0.0
        after = divergence()
        if after - now < tau:
            now = after
        else:
            kept[name] = 1.0
    return {name for name, value in kept.items() if value}, now


@pytest.mark.parametrize(("name", "how", "tau"), [("llama", "index", 3e-3), ("gpt2", "random", 5e-4)])
def test_it_is_the_slow_search(name: str, how: str, tau: float) -> None:
    it = tiny(name)
    search = Search(it.context, examples=4, batch_size=4)
    order = traversal(it.program.graph, how, seed=0)
    found = search.cut(order, tau)
    edges = it.program.graph.edges
    wanted, divergence = slow_search(it, [str(edges[i]) for i in order.tolist()], tau)
    assert {str(edges[i]) for i in np.flatnonzero(found.kept).tolist()} == wanted
    assert 5 < len(wanted) < len(edges) - 5
    assert found.divergence == pytest.approx(divergence, abs=1e-7)


def test_a_resumed_run_is_a_whole_run() -> None:
    """Random changes of random edges, early and late; what lies before the first changed reader is not run again."""
    it = tiny("gpt2")
    batch = next(it.task.batches("train", 4))
    assert batch.counterfactual is not None
    reference = it.program.reference(batch.counterfactual)
    run = ResumableRun(it.program, batch.inputs, reference, batch.positions)
    generator = torch.Generator().manual_seed(0)
    edges = torch.ones(len(it.program.graph.edges), dtype=torch.float64)
    starts = set()
    for _ in range(12):
        chosen = torch.randint(0, len(edges), (2,), generator=generator)
        edges[chosen] = 1 - edges[chosen]
        got = run(edges)[0]
        starts.add(run.resumed_from)
        with torch.no_grad():
            wanted = it.program.outputs(
                batch.inputs, masks=Masks(edges=edges), reference=reference, positions=batch.positions
            )[0]
        assert torch.equal(got, wanted)
    assert len(starts) > 3


def test_layered_models_are_run_whole() -> None:
    model = prepared(torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)))
    example = feature_example()
    program = graphir.lower(graphir.trace(model, example))
    other = program.reference((example[0].flip(0),))
    run = ResumableRun(program, example, other)
    edges = torch.ones(len(program.graph.edges))
    assert torch.allclose(run(edges)[0], model(*example), atol=1e-6)
    assert torch.allclose(run(torch.zeros_like(edges))[0], model(example[0].flip(0)), atol=1e-6)


def test_readers_come_in_reverse_topological_order() -> None:
    it = tiny("llama")
    graph = it.program.graph
    position = {name: place for place, name in enumerate(["a0", "m0", "a1", "m1", "logits"])}
    for how in ORDERS:
        order = traversal(graph, how, scores=np.arange(len(graph.edges))[::-1].copy(), seed=1)
        assert sorted(order.tolist()) == list(range(len(graph.edges)))
        layers = [position[graph.ports[graph.edge_dst[i]].name.partition(".")[0]] for i in order.tolist()]
        assert layers == sorted(layers, reverse=True)
    assert (traversal(graph, "random", seed=1) != traversal(graph, "random", seed=2)).any()
    into_logits = traversal(graph, "scores", scores=-np.arange(len(graph.edges)))[:3]
    assert into_logits.tolist() == sorted(into_logits.tolist())


@pytest.mark.parametrize("order", ["scores", "random"])
def test_the_sweep_finds_the_known_circuit_within_its_bound(order: str) -> None:
    program, task = toy()
    circuit = passes.run("acdc", program, task, edges=len(KNOWN), order=order, examples=8, per_decade=1)
    assert names(circuit) == KNOWN
    scores = circuit.scores["edges"]
    assert scores[circuit.edges].min() > scores[~circuit.edges].max()


def test_it_reports_what_each_order_gives() -> None:
    it = tiny("llama")
    circuit = passes.run("acdc", it.program, it.task, tau=3e-3, order="index", compare_orders=True, examples=4)
    table = circuit.provenance["orders"]
    assert tuple(table) == ORDERS
    assert table["index"]["iou"] == 1
    assert table["index"]["edges"] == circuit.edges.sum()
    assert any(row["iou"] < 1 for row in table.values())  # the order matters
    other = passes.run("acdc", it.program, it.task, tau=3e-3, order="reverse", examples=4)
    union = (circuit.edges | other.edges).sum()
    assert table["reverse"]["iou"] == pytest.approx((circuit.edges & other.edges).sum() / union)
    assert table["reverse"]["edges"] == other.edges.sum()


def test_without_bound_and_threshold_it_ranks_every_edge() -> None:
    program, task = toy()
    circuit = passes.run("acdc", program, task, examples=8, per_decade=1)
    assert circuit.edges.all()
    assert set(np.argsort(-circuit.scores["edges"])[:5]) == {program.graph.edge(name).index for name in KNOWN}


def test_a_bound_that_the_threshold_does_not_meet_is_refused() -> None:
    it = tiny("llama")
    with pytest.raises(GraphirError, match="the bound allows 1") as caught:
        passes.run("acdc", it.program, it.task, edges=1, tau=1e-9, examples=4)
    assert "raise `tau`" in caught.value.hints


class Stopping:
    """An observer that stops after some steps of the search."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def begin(self, stage: str, total: int) -> None: ...
    def end(self, stage: str) -> None: ...
    def step(self, stage: str, done: int, values: object) -> None:
        self.steps -= stage == "acdc"
        if self.steps < 0:
            raise KeyboardInterrupt


class Kept:
    """A checkpoint in memory."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] | None = None

    def load(self) -> dict[str, Tensor] | None:
        return self.state

    def save(self, step: int, state: dict[str, Tensor]) -> None:
        self.state = {name: value.clone() for name, value in state.items()}


def test_stopped_it_gives_what_it_has_and_goes_on_from_there_to_the_same_bits() -> None:
    it = tiny("llama")
    options: Any = {"order": "index", "tau": 3e-3, "examples": 4}
    whole = passes.run("acdc", it.program, it.task, **options)
    kept = Kept()
    stopped = passes.run("acdc", it.program, it.task, checkpoint=kept, observer=Stopping(40), **options)
    assert stopped.provenance["interrupted"] > 0
    assert whole.edges.sum() < stopped.edges.sum()
    resumed = passes.run("acdc", it.program, it.task, checkpoint=kept, **options)
    assert np.array_equal(resumed.edges, whole.edges)
    assert np.array_equal(resumed.scores["edges"], whole.scores["edges"])
    assert resumed.provenance["runs"] < whole.provenance["runs"]


def test_the_ends_of_the_scale() -> None:
    """Nothing cut, the divergence is zero; everything cut, it is that of the counterfactual run."""
    it = tiny("gpt2")
    batch = next(it.task.batches("train", 4))
    source = ReferenceSource(it.program, it.task)
    interventions = Interventions(it.program, [batch], source)
    count = len(it.program.graph.edges)
    assert interventions.divergence(np.ones(count, bool)) == pytest.approx(0, abs=1e-9)
    assert batch.counterfactual is not None
    with torch.no_grad():
        other = it.program.outputs(batch.counterfactual, positions=batch.positions)[0][:, 0]
    assert torch.allclose(interventions.logits(np.zeros(count, bool))[0], other, atol=1e-9)
    assert interventions.runs == 2
    masked = Circuit(it.program.graph, np.zeros(count, bool), np.ones(len(it.program.graph.nodes), bool))
    assert masked.on_path().edges.sum() == 0
    assert RunContext(it.program, replace(it.task)).bound("edges") is None


def test_a_run_and_its_report_show_what_each_order_gives(tmp_path: Path) -> None:
    text = HEAD.replace("at last\n", "at last\n  ablate zero\n")
    text += "circuit c = discover g for pairs with acdc { examples: 4  tau: 0.1  compare_orders: true }\n"
    run = run_text(text + 'report "r.md"\n', tmp_path)
    orders = run.circuits["c"].provenance["orders"]
    for shown in (str(run), (run.folder / "r.md").read_text(encoding="utf-8")):
        assert "IoU with the circuit" in shown
        assert all(name in shown and f"{each['edges']}" in shown for name, each in orders.items())
