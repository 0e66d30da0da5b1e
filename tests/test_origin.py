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
from dsl.running.failures import InterruptedRunError
from dsl.running.planning import make_plan
from dsl.spec import SpecError
from graphir.circuit import Circuit
from graphir.errors import GraphirError
from graphir.run.program import MaskedProgram
from passes.learn.initial import LIMIT
from passes.learn.learner import Learner
from passes.learn.results import scores_of
from passes.observe import SilentObserver
from passes.task import Task
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


def test_projected_masks_do_not_open_again(origin: Circuit) -> None:
    program, task = toy()
    told = Stages()
    passes.run(
        "discogp", program, task, origin=origin, observer=told, parts="edges", control="projection", edges=10, steps=50
    )
    assert told.first["density"] <= float(origin.scores["edges"].mean())


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
SHEAF = (
    "sheaf s = discover g for pairs with discogp { steps: 4  initial: ones } from wide"
    " subject to density(weights) <= 50%, density(edges) <= 50%\n"
)
NODES = (
    "circuit c = discover g for pairs with subnetwork_probing { steps: 4  level: node } from wide"
    " subject to density(nodes) <= 50%\n"
)


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


@pytest.mark.usefixtures("_traced_once")
def test_the_plan_counts_what_other_seeds_and_controls_start_from(tmp_path: Path) -> None:
    only = "curve: false  minimality: false  completeness: false  seeds: 2  controls: random_model"
    plan = make_plan(spec_of(HEAD + WIDE + NARROW + f"evidence narrow {{ {only} }}\n", tmp_path), PlanOptions())
    (row,) = (stage for stage in plan.stages if stage.name == "evidence of narrow")
    assert row.backward > 2 * (4 + 4)  # another seed and random weights, four steps each of both; EAP ranks for one


@pytest.mark.usefixtures("_traced_once")
def test_the_control_on_random_weights_starts_as_the_circuit_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both discoveries are repeated there: learning on random weights does not start from masks of the real model."""
    ran: list[tuple[str, int, str]] = []
    original = passes.run

    def watched(method: str, program: MaskedProgram, task: Task, **options: Any) -> Circuit:
        origin = options.get("origin")
        ran.append((program.graph.model_hash, options["edges"], origin.graph.model_hash if origin else ""))
        return original(method, program, task, **options)

    monkeypatch.setattr(passes, "run", watched)
    only = "curve: false  minimality: false  completeness: false  seeds: 1  controls: random_model"
    run_text(HEAD + WIDE + NARROW + f"evidence narrow {{ {only} }}\n", tmp_path)
    (real, *_), *_, (random, *_) = ran
    assert ran == [(real, 20, ""), (real, 5, real), (random, 20, ""), (random, 5, random)]
    assert random.startswith("random-")


@pytest.mark.usefixtures("_traced_once")
def test_nothing_starts_from_a_circuit_that_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where only another seed of it was: what would be learned from half a circuit must not be kept."""
    original, ran = passes.run, list[int]()

    def watched(method: str, program: MaskedProgram, task: Task, **options: Any) -> Circuit:
        ran.append(options["edges"])
        found = original(method, program, task, **options)
        told = {**found.provenance, "interrupted": 2}
        return found.with_(provenance=told) if options["seed"] == 1 else found

    monkeypatch.setattr(passes, "run", watched)
    with pytest.raises(InterruptedRunError, match=r"the circuit so far is in .*wide"):
        run_text(HEAD + NARROW.replace("steps: 4", "steps: 4  seeds: 1") + WIDE, tmp_path)
    assert ran == [20, 20]


def test_a_sweep_over_what_learning_starts_from(tmp_path: Path) -> None:
    other = WIDE.replace("wide", "other")
    sweep = NARROW.replace("circuit", "sweep").replace("from wide", "from start").rstrip()
    spec = spec_of(HEAD + WIDE + other + f"{sweep} over start in wide, other\n", tmp_path)
    assert [each.origin.name for each in spec.circuits if each.origin] == ["wide", "other"]


def test_a_sheaf_may_choose_how_its_weights_start(tmp_path: Path) -> None:
    spec = spec_of(HEAD + WIDE + SHEAF, tmp_path)
    assert spec.circuits[1].origin is spec.circuits[0]


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
        (WIDE + SHEAF.replace("steps: 4", "steps: 4  parts: weights"), "C405"),
        (WIDE + NODES, "C405"),
        (WIDE + NODES.replace("level: node", "keep: 50%").replace("nodes", "edges"), "C405"),
        ("graph h = trace toy\n" + WIDE.replace("discover g", "discover h") + NARROW, "C406"),
    ],
)
def test_mistakes(text: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        spec_of(HEAD + text, tmp_path)
    assert code in {each.code for each in error.value.diagnostics}
