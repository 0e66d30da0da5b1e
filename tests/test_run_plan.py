"""Plans: sizes of graphs before there are any, against traced graphs and the published closed form; passes; times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dsl.cli import main
from dsl.execute import plan_spec
from dsl.model_facts import ModelFacts
from dsl.options import PlanOptions
from dsl.running.failures import StageError
from dsl.running.loading import granularity_of
from dsl.running.planning import MEASURED_TOKENS, Plan, measure_speed
from dsl.running.sizes import GraphSize, ModelSize, graph_size, model_size
from dsl.spec import GraphSpec, ModelSpec
from graphir.cost import transformer_edges
from graphir.diagnostics import Source
from graphir.tracing import regrain
from passes.measure import TOKENS
from tests.running import HEAD, LEARNED, RANKED, spec_of, write_pairs
from tests.zoo import traced

SPAN = Source("x", "").span(0, 0)


def size_of(layers: int, heads: int, groups: int, hidden: int = 64, embeddings: int = 1) -> ModelSize:
    return ModelSize(layers, heads, groups, 16, hidden, 100, 10_000, 8_000, embeddings, 4)


def graph_of(**fields: Any) -> GraphSpec:
    return GraphSpec(SPAN, "g", ModelSpec(SPAN, "m", "builtin", "x"), **fields)


@pytest.mark.parametrize(
    ("layers", "heads", "groups", "embeddings"),
    [(12, 12, 12, 1), (12, 12, 12, 2), (30, 9, 3, 1), (24, 14, 2, 1), (1, 1, 1, 1)],
)
def test_edges_agree_with_the_closed_form(layers: int, heads: int, groups: int, embeddings: int) -> None:
    found = graph_size(graph_of(), size_of(layers, heads, groups, embeddings=embeddings))
    assert found.edges == transformer_edges(layers, heads, groups, embeddings=embeddings)
    assert found.nodes == embeddings + layers * (heads + 1) + 1


def test_the_published_counts() -> None:
    assert graph_size(graph_of(), size_of(12, 12, 12)).edges == 32_491
    assert graph_size(graph_of(), size_of(12, 12, 12, embeddings=2)).edges == 32_936
    assert graph_size(graph_of(), size_of(24, 14, 2)).edges == 79_813


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"attention": "head joint qkv"},
        {"attention": "layer"},
        {"mlp": "neuron"},
    ],
)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_estimates_are_the_sizes_of_traced_graphs(name: str, fields: dict[str, str]) -> None:
    instance, graph = traced(name)
    spec = graph_of(**fields)
    graph = regrain(graph, granularity_of(spec))
    expected = GraphSize(len(graph.nodes), len(graph.nodes) - 1, len(graph.ports), len(graph.edges))
    assert graph_size(spec, size_from_headers(instance.model)) == expected


def size_from_headers(model: nn.Module) -> ModelSize:
    """The size of a model as its configuration and the shapes of its tensors tell it."""
    config: Any = model.config
    facts = ModelFacts(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=getattr(config, "num_key_value_heads", None),
        d_model=config.hidden_size,
        d_mlp=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        vocab=config.vocab_size,
        context=config.max_position_embeddings,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    size = model_size(ModelSpec(SPAN, "m", "hf", "x"), facts, shapes)
    assert size is not None
    return size


def test_too_little_is_known_of_some_models() -> None:
    spec = ModelSpec(SPAN, "m", "hf", "x")
    assert model_size(spec, ModelFacts(), {}) is None
    both = ModelFacts(layers=2, heads=2, d_model=8, vocab=10, decoder_layers=2)
    assert model_size(spec, both, {}) is None
    alone = model_size(spec, ModelFacts(layers=2, heads=2, d_model=8, vocab=10), {})
    assert alone is not None
    assert any("assumed" in note for note in alone.notes)


def plan_of(text: str, folder: Path) -> Plan:
    return plan_spec(spec_of(text, folder), PlanOptions(cache=folder / "cache"))


def test_every_round_of_a_lottery_ticket_is_counted_from_where_it_is_rewound_to(tmp_path: Path) -> None:
    text = HEAD + "sheaf ticket = discover g for pairs with imp { rounds: 3  steps: 50  rewind: 10  batch_size: 8 }\n"
    (stage,) = (stage for stage in plan_of(text, tmp_path).stages if stage.name == "ticket: imp")
    assert stage.backward == 50 + 3 * 40
    assert stage.examples == 8 * stage.backward


def test_attributions_to_start_from_are_counted(tmp_path: Path) -> None:
    text = HEAD + "sheaf s = discover g for pairs with discogp { steps: 50  batch_size: 8  SET }\n"
    text += "  subject to density(weights) <= 9%, edges <= 9\n"
    backward = [
        next(stage.backward for stage in plan_of(text.replace("SET", more), tmp_path).stages if "discogp" in stage.name)
        for more in ("", "initial: ones")
    ]
    assert backward == [50 + 6 + 3, 50 + 6]  # an eighth more on hard masks; 24 examples


def test_measuring_is_planned_in_the_batches_that_are_measured() -> None:
    assert MEASURED_TOKENS == TOKENS


def test_passes_are_counted(tmp_path: Path) -> None:
    text = HEAD + LEARNED.replace("STEPS", "100  batch_size: 8  seeds: 0..1")
    text += "circuit ranked = discover g for pairs with eap_ig { steps: 3  examples: 20  batch_size: 8 } top 5\n"
    text += "measure found at edges 9, 5 against eap { examples: 8 }\n"
    plan = plan_of(text, tmp_path)
    passes = {stage.name: (stage.forward, stage.backward, stage.examples) for stage in plan.stages}
    # Two seeds of a hundred steps: model, counterfactual, circuit forth and back; before that, 24 examples ranked.
    assert passes["found: edge_pruning, 2 seeds"] == (3 * 200 + 3 * 6, 200 + 6, 1600 + 48)
    assert passes["ranked: eap_ig"] == (3 * (2 + 3), 3 * 3, 20)
    # Twelve examples of 17 tokens are measured in one batch.
    assert passes["found: compare seeds"] == (2 + 2, 0, 12)
    assert passes["measure ranked"] == (2 + 3, 0, 12)
    assert passes["rank by eap"] == (3, 1, 8)
    assert passes["curve of found"] == (2 + 4, 0, 12)
    assert plan.graphs["g"] == GraphSize(11, 10, 25, 106)
    assert plan.tasks["pairs"] == {"examples": 48, "tokens": 17, "train": 24, "validation": 12, "test": 12}
    assert plan.seconds is not None
    assert 0 < plan.seconds < 600
    assert plan.memory is not None
    assert 1e8 < plan.memory < 1e10
    assert sum(stage.flops or 0 for stage in plan.stages) > 1e8


def test_more_steps_take_longer_and_larger_batches_more_memory(tmp_path: Path) -> None:
    def stage(options: str) -> Any:
        plan = plan_of(HEAD + LEARNED.replace("STEPS", options), tmp_path)
        return next(stage for stage in plan.stages if stage.name == "found: edge_pruning")

    few, many, wide = stage("100"), stage("1000"), stage("100  batch_size: 64")
    assert many.flops > 8 * few.flops
    assert wide.memory > few.memory


def test_a_model_that_is_not_downloaded_has_no_sizes_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    text = HEAD.replace('builtin "induction"\ngraph', 'hf "nobody/no-such-model"\ngraph') + RANKED
    (tmp_path / "toy.circ").write_text(text)
    assert main(["plan", str(tmp_path / "toy.circ"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["graphs"]["g"] is None
    assert data["seconds"] is None
    assert any("not in the cache" in note for note in data["notes"])
    assert main(["plan", str(tmp_path / "toy.circ")]) == 0
    assert "graph g: size not known" in capsys.readouterr().out


def test_a_missing_file_is_unavailable_and_says_where(tmp_path: Path) -> None:
    text = HEAD.replace('builtin "induction"\ngraph', 'gguf "none.gguf"\ngraph') + RANKED
    with pytest.raises(StageError, match=r"while reading `toy` \(toy.circ:2\)") as caught:
        plan_of(text, tmp_path)
    assert caught.value.exit_code == 3


def test_a_plan_of_a_data_file(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    text = HEAD.replace('builtin "induction" { n: 48  seed: 0 }', 'jsonl "pairs.jsonl"') + RANKED
    assert plan_of(text, tmp_path).tasks["pairs"]["examples"] == 24


def test_a_plan_as_text(tmp_path: Path) -> None:
    lines = str(plan_of(HEAD + RANKED, tmp_path)).splitlines()
    assert lines[0] == "model toy: 40,960 parameters, 2 layers, 4 heads (4 key/value), width 64"
    assert lines[1] == "graph g: about 11 nodes, 106 edges"
    assert lines[2] == "task pairs: 48 examples, 24 to learn from, 12 to judge on, about 17 tokens"
    assert lines[4].split() == ["stage", "line", "examples", "forward", "backward", "GFLOP", "time", "memory", "cache"]
    assert any(line.startswith("total") for line in lines)
    assert any("estimates" in line for line in lines)


def test_the_speed_of_this_machine_is_measured() -> None:
    assert 0.1 < measure_speed() < 1e6
