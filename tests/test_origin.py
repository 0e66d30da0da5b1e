"""Learning that starts from another circuit's masks: what is taken over, what is not, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import passes
from dsl.options import PlanOptions
from dsl.running.planning import make_plan
from dsl.spec import SpecError
from graphir.circuit import Circuit
from graphir.errors import GraphirError
from passes.learn.initial import LIMIT
from passes.learn.learner import Learner
from passes.learn.results import scores_of
from passes.observe import SilentObserver
from tests.learning import Memory, same, toy
from tests.running import HEAD, run_text, spec_of, trace_once

QUICK: dict[str, Any] = {"edges": 10, "steps": 3}


def starts(monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, np.ndarray]:
    """The scores of all small parts before the first step."""
    program, task = toy()
    seen: dict[str, np.ndarray] = {}
    original = Learner.learn

    def watched(self: Learner) -> int:
        seen.update({name: scores_of(part) for name, part in self.parts.items() if name != "weights"})
        return original(self)

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "learn", watched)
        passes.run(program=program, task=task, **options)
    return seen


class Stages(SilentObserver):
    """The stages that begin, and what the first learning step told."""

    def __init__(self) -> None:
        self.begun, self.first = list[str](), dict[str, float]()

    def begin(self, stage: str, total: int) -> None:
        self.begun.append(stage)

    def step(self, stage: str, done: int, values: Mapping[str, float]) -> None:
        if "loss" in values and done == 1:
            self.first = dict(values)


@pytest.fixture(scope="module")
def origin() -> Circuit:
    program, task = toy()
    return passes.run("edge_pruning", program, task, edges=20, steps=10, node_masks=True)


@pytest.mark.parametrize("method", ["edge_pruning", "subnetwork_probing", "ugs", "matryoshka"])
def test_learning_starts_from_the_masks_of_a_circuit(
    method: str, origin: Circuit, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = starts(monkeypatch, method=method, origin=origin, **QUICK)
    wanted = torch.logit(torch.as_tensor(origin.scores["edges"])).clamp(-LIMIT, LIMIT).sigmoid()
    assert found["edges"] == pytest.approx(wanted.numpy(), abs=1e-6)


def test_parts_that_the_circuit_has_no_masks_on_start_as_ever(origin: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    edges_alone = origin.with_(scores={"edges": origin.scores["edges"]})
    options = {"method": "edge_pruning", "node_masks": True, **QUICK}
    before = starts(monkeypatch, **options)
    found = starts(monkeypatch, origin=edges_alone, **options)
    assert (found["nodes"] == before["nodes"]).all()
    assert (found["edges"] != before["edges"]).any()
    both = starts(monkeypatch, origin=origin, **options)
    assert both["nodes"] == pytest.approx(np.clip(origin.scores["nodes"], 1 / (1 + np.exp(LIMIT)), None), abs=3e-3)


@pytest.mark.parametrize("method", ["edge_pruning", "discogp"])
def test_no_edge_is_attributed_where_masks_are_given(method: str, origin: Circuit) -> None:
    program, task = toy()
    options = QUICK | ({"weights": 0.5} if method == "discogp" else {})
    told, plain = Stages(), Stages()
    passes.run(method, program, task, origin=origin, observer=told, **options)
    passes.run(method, program, task, observer=plain, **options)
    assert "eap" in plain.begun
    assert "eap" not in told.begun


def test_the_first_target_is_the_density_of_the_circuit(origin: Circuit) -> None:
    program, task = toy()
    told = Stages()
    passes.run("edge_pruning", program, task, origin=origin, observer=told, warmup=1000, **QUICK)
    assert told.first["target"] == pytest.approx(float(origin.scores["edges"].mean()), rel=0.02)


def test_a_resumed_training_does_not_start_again(origin: Circuit) -> None:
    program, task = toy()
    options: dict[str, Any] = {"edges": 10, "steps": 8, "origin": origin}
    memory = Memory()
    whole = passes.run("edge_pruning", program, task, checkpoint=memory, **options)
    resumed = passes.run("edge_pruning", program, task, checkpoint=Memory(memory.states[5]), **options)
    assert same(whole, resumed)
    assert whole.provenance["origin"] == origin.name


def test_what_cannot_be_started_from(origin: Circuit) -> None:
    program, task = toy()
    ranking = passes.run("eap", program, task, edges=10)
    with pytest.raises(GraphirError, match="no learned masks on edges"):
        passes.run("edge_pruning", program, task, origin=ranking, **QUICK)
    with pytest.raises(GraphirError, match="learns no masks on edges"):
        passes.run("eap", program, task, origin=origin, edges=10)
    with pytest.raises(GraphirError, match="learns no masks on edges"):
        passes.run("csordas", program, task, origin=origin, steps=2)
    with pytest.raises(GraphirError, match="have its density"):
        passes.run("edge_pruning", program, task, origin=origin, start=0.5, **QUICK)
    edges_alone = origin.with_(scores={"edges": origin.scores["edges"]})
    with pytest.raises(GraphirError, match="no learned masks on nodes"):
        passes.run("discogp", program, task, origin=edges_alone, parts="nodes", nodes=0.9, steps=2)


def test_an_origin_of_another_model() -> None:
    program, task = toy()
    other = Circuit.full(program.graph.with_(model_hash="0" * 64))
    with pytest.raises(GraphirError, match="another model or graph"):
        passes.run("edge_pruning", program, task, origin=other, **QUICK)


# --- in the language -------------------------------------------------------------------------------------------------

WIDE = "circuit wide = discover g for pairs with edge_pruning { steps: 4 } subject to edges <= 20\n"
NARROW = "circuit narrow = discover g for pairs with edge_pruning { steps: 4 } from wide subject to edges <= 5\n"


@pytest.fixture
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


@pytest.mark.usefixtures("_traced_once")
def test_a_file_that_goes_on_from_a_circuit(tmp_path: Path) -> None:
    """In any order in the file; each seed from the same seed; computed again when the origin changes, and only then."""
    text = HEAD + NARROW.replace("steps: 4", "steps: 4  seeds: 0, 1") + WIDE

    def computed(text: str, out: str) -> set[str]:
        result = run_text(text, tmp_path, out=out, cache=tmp_path / "cache", threads=1)
        assert result.judged["narrow"].circuit.provenance["origin"] == "wide"
        return {each["name"] for each in result.manifest["stages"] if not each["cached"]}

    assert {"narrow (seed 0)", "narrow (seed 1)", "wide"} <= computed(text, "one")
    assert not computed(text, "two")
    changed = computed(text.replace(WIDE, WIDE.replace("steps: 4", "steps: 5")), "three")
    assert {"narrow (seed 0)", "narrow (seed 1)", "wide"} <= changed
    assert "narrow (seed 0)" not in computed(text.replace("edges <= 20", "edges <= 20 # wide"), "four")


@pytest.mark.usefixtures("_traced_once")
def test_the_plan_has_no_attribution_for_it(tmp_path: Path) -> None:
    plan = make_plan(spec_of(HEAD + WIDE + NARROW, tmp_path), PlanOptions())
    stages = {stage.name: stage for stage in plan.stages}
    assert stages["narrow: edge_pruning"].examples == 4 * 8
    assert stages["wide: edge_pruning"].examples > 4 * 8


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (NARROW, "C202"),
        (NARROW.replace("from wide", "from narrow"), "C413"),
        (WIDE.replace(" subject", " from narrow subject") + NARROW, "C413"),
        (WIDE + NARROW.replace("from wide", "from g"), "C404"),
        (WIDE + NARROW.replace("from wide", "from wide from wide"), "C402"),
        (WIDE + NARROW.replace("steps: 4", "steps: 4  start: 10%"), "C405"),
        (WIDE + NARROW.replace("edge_pruning { steps: 4 }", "eap"), "C405"),
        (WIDE.replace("edge_pruning { steps: 4 }", "eap") + NARROW, "C405"),
        ("graph h = trace toy\n" + WIDE.replace("discover g", "discover h") + NARROW, "C406"),
    ],
)
def test_mistakes(text: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        spec_of(HEAD + text, tmp_path)
    assert code in {each.code for each in error.value.diagnostics}
