"""Programs compiled by Tracr: read exactly, refused where they are not understood, and used from `.circ` files.

Exports are made here: of the programs of this project, whose model is known, and of random weights, against numpy. One
from outside is checked where GRAPHIR_TRACR names it: the `reverse` program of Tracr's examples, as `reverse.npz` and
`reverse.json`, with prompts and streams of the original in `reverse_io.npz`.
"""

from __future__ import annotations

import json
import os
import runpy
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graphir
import passes
from dsl.builtin.programs import find_program
from dsl.builtin.rasp import Copy, Head, Match, Program, Readout, Variable
from dsl.builtin.small_transformer import instantiate
from dsl.builtin.tracr import GAIN, read_tracr
from dsl.builtin.tracr_model import load_tracr
from dsl.builtin.tracr_truth import prepare_tracr, tracr_examples, tracr_truth
from dsl.builtin.truth import Setting
from dsl.models import ModelSource, load_model, model_facts
from dsl.running.identity import identify
from dsl.spec import SpecError
from graphir.circuit import Circuit
from graphir.errors import DataError, GraphirError, UnavailableError
from passes.ground_truth import minimal_edges
from passes.smallest import smallest_circuit
from passes.task import Ablation
from tests.running import run_text, spec_of
from tests.tracr_export import Array, config_of, export_program, random_arrays, stream_of, write_export

torch.set_num_threads(1)


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    """Write an export of random weights, its description changed."""

    def make(**changes: Any) -> Path:
        config = config_of(**changes)
        return write_export(tmp_path / "copy.npz", config, random_arrays(config_of()))

    return make


# --- what is computed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reverse", "histogram", "token_fraction", "compiled_induction", "modular_sum"])
def test_a_program_of_this_project_is_the_same_model_through_an_export(name: str, tmp_path: Path) -> None:
    program = find_program(name)
    model, tokenizer = load_tracr(export_program(program, tmp_path / "p.npz"))
    assert tokenizer.words == tuple(map(str, program.tokens.values))
    ids = torch.randint(0, program.tokens.width, (20, program.positions.width), generator=torch.manual_seed(0))
    mask = torch.ones_like(ids)
    mask[::2, -1] = 0
    original = instantiate(program).double()
    original.load_state_dict({k: torch.from_numpy(v) for k, v in compile_exactly(program).items()})
    assert model.embed.weight.dtype == torch.float64  # as it is stored
    torch.testing.assert_close(model(ids, mask), original(ids, mask), atol=1e-9, rtol=0)


def compile_exactly(program: Program) -> dict[str, Array]:
    from dsl.builtin.compiler import compile_program

    return compile_program(program)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_stream_is_that_of_the_formulas(activation: str, causal: bool, tmp_path: Path) -> None:
    config = config_of(activation=activation, causal=causal)
    arrays = random_arrays(config)
    model, tokenizer = load_tracr(write_export(tmp_path / "p.npz", config, arrays))
    ids = np.random.default_rng(1).integers(0, 4, (6, 5))
    expected = stream_of(config, arrays, ids)
    np.testing.assert_allclose(model.stream(torch.from_numpy(ids)), expected, atol=1e-10)
    # the words in order of their ids, then the answer that is no input; of `copy_2` two directions are read
    assert tokenizer.words == ("b", "a", "BOS", "compiler_pad", "z")
    readout = np.zeros((5, 7))
    readout[1, 0] = readout[4, 1] = GAIN
    np.testing.assert_allclose(model(torch.from_numpy(ids)), expected @ readout.T, atol=1e-9)


def test_a_padded_row_answers_as_it_does_alone(export: Callable[..., Path]) -> None:
    model, tokenizer = load_tracr(export())
    row = torch.tensor([tokenizer("a b")["input_ids"]])
    padded = torch.cat([row, torch.full((1, 2), tokenizer.pad_token_id)], 1)
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    torch.testing.assert_close(model(padded, mask)[:, :3], model(row))


def test_a_number_is_read_as_the_nearest_share(tmp_path: Path) -> None:
    labels = ["share_1", "tokens:a"]
    config = config_of(name="share", numerical_output=True, residual_labels=labels)
    arrays = {name: value * 0 for name, value in random_arrays(config).items()}
    model, tokenizer = load_tracr(write_export(tmp_path / "p.npz", config, arrays))
    shares = sorted({Fraction(part, whole) for whole in range(1, 5) for part in range(whole + 1)})
    assert set(map(str, shares)) <= set(tokenizer.words)
    for share in shares:
        for near in (-0.03, 0, 0.03):  # the nearest two are 1/12 apart
            logits = model.unembed(torch.tensor([float(share) + near, 0.0], dtype=torch.float64))
            assert tokenizer.words[int(logits.argmax())] == str(share)


def test_a_prompt_begins_with_the_first_token_and_has_words_that_are_read(export: Callable[..., Path]) -> None:
    _, tokenizer = load_tracr(export())
    assert tokenizer("a b a")["input_ids"] == [2, 1, 0, 1]
    assert tokenizer("a z", add_special_tokens=False)["input_ids"] == [1, 4]
    with pytest.raises(DataError, match="answers `z` and does not read it"):
        tokenizer("a z")
    with pytest.raises(DataError, match="the prompt has 6 tokens, and the program reads 5"):
        tokenizer("a a a a a")
    with pytest.raises(DataError, match="does not know the word `q`"):
        tokenizer("q")


def test_the_output_is_the_variable_that_nothing_reads_where_none_has_the_name(tmp_path: Path) -> None:
    config = config_of(name="something else")
    arrays = random_arrays(config)
    for name, value in arrays.items():
        if name.endswith((".linear.w", ".linear_2.w")):
            value[:, 2:] = 0
        elif name.endswith((".query.w", ".key.w", ".value.w", ".linear_1.w")):
            value[:2] = 0
    assert read_tracr(write_export(tmp_path / "p.npz", config, arrays)).output == "copy_2"
    named = write_export(tmp_path / "q.npz", config | {"output": "tokens"}, arrays)
    assert read_tracr(named).output == "tokens"


def test_keys_that_are_not_known_are_named(export: Callable[..., Path]) -> None:
    assert read_tracr(export(author="someone")).notes == ("left out of the description: author",)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm": True}, "a program with layer norm is not read"),
        ({"activation": "swish"}, "unknown activation 'swish'\n  help: it is relu or gelu"),
        ({"causal": None}, "lacks `causal`"),
        ({"key_size": 0}, "`key_size` is a whole number from 1, not 0"),
        ({"num_heads": True}, "`num_heads` is a whole number from 1, not True"),
        ({"causal": 1}, "`causal` is true or false, not 1"),
        ({"num_layers": 3}, "lacks `transformer.layer_2.attn.query.w`"),
        ({"num_layers": 1}, "has arrays that are not understood: `transformer.layer_1.attn.query.w`"),
        ({"num_heads": 3}, "`transformer.layer_0.attn.query.w` is 7×6, and the description says 7×9"),
        ({"mlp_hidden": 4}, "`transformer.layer_0.mlp.linear_1.w` is 7×5, and the description says 7×4"),
        ({"residual_labels": ["a", "b"]}, "`token_embed.embeddings` is 4×7, and the description says 4×2"),
        ({"residual_labels": ["x", "x"]}, "two directions of the stream are called `x`"),
        ({"residual_labels": [1]}, "`residual_labels` are texts"),
        ({"max_seq_len": 9}, "has 5 positions, and the description says 9"),
        ({"vocab": {"a": 0, "b": 0, "c": 1, "d": 2}}, "`vocab` gives each word an id, 0 to 3"),
        ({"vocab": {"a": 0, "b c": 1, "d": 2, "e": 3}}, "the word 'b c' cannot be written in a prompt"),
        ({"name": "other"}, "which variable is the output cannot be told"),
        ({"output": "other"}, "no variable `other`"),
        ({"bos": "start"}, "`bos` is `start`, which is no word of the program"),
        ({"numerical_output": True}, "the output `copy_2` is a number, and its directions are `copy_2:a`, `copy_2:z`"),
        ({"output": "one"}, "the output `one` is one of several values, and its directions are `one`"),
    ],
)
def test_a_description_that_is_not_understood_is_refused(
    changes: dict[str, Any], message: str, export: Callable[..., Path]
) -> None:
    with pytest.raises(GraphirError) as caught:
        load_tracr(export(**changes))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("transformer.layer_0.attn.key.b", None, "lacks `transformer.layer_0.attn.key.b`"),
        (
            "layer_norm.scale",
            lambda _: np.ones(7),
            "are not understood: `layer_norm.scale`\n  help: a program with layer",
        ),
        ("transformer.layer_0.attn.key.w", np.transpose, "matrices are (in, out)"),
        ("transformer.layer_0.attn.key.w", lambda v: v * np.inf, "is not finite everywhere"),
        ("transformer.layer_0.attn.key.w", lambda v: v.astype(int), "holds int64, not floating-point numbers"),
        ("token_embed.embeddings", lambda _: np.float64(1), "`token_embed.embeddings` is one number"),
    ],
)
def test_arrays_that_are_not_understood_are_refused(
    name: str, change: Callable[[Array], Array] | None, message: str, tmp_path: Path
) -> None:
    config = config_of()
    arrays = random_arrays(config)
    old = arrays.pop(name, np.zeros(0))
    if change is not None:
        with np.errstate(invalid="ignore"):
            arrays[name] = change(old)
    with pytest.raises(GraphirError) as caught:
        load_tracr(write_export(tmp_path / "p.npz", config, arrays))
    assert message in str(caught.value)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_python_objects_are_refused_and_never_made(tmp_path: Path) -> None:
    arrays = random_arrays(config_of())
    arrays["token_embed.embeddings"] = np.array([Trap(tmp_path / "sprung")], dtype=object)
    path = write_export(tmp_path / "p.npz", config_of(), arrays)
    with pytest.raises(GraphirError, match="holds Python objects, which are not read"):
        load_tracr(path)
    assert not (tmp_path / "sprung").exists()


def test_a_header_that_lies_takes_no_memory(export: Callable[..., Path]) -> None:
    path = export()
    header = np.lib.format.header_data_from_array_1_0(np.zeros(1)) | {"shape": (1 << 50,)}
    with zipfile.ZipFile(path, "a") as packed, packed.open("big.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(UnavailableError, match=r"is truncated or no \.npz file"):
        load_tracr(path)


@pytest.mark.parametrize("keep", [0, 40, 1000, -60])
def test_a_truncated_file_is_unavailable(keep: int, export: Callable[..., Path]) -> None:
    path = export()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UnavailableError, match=r"is truncated or no \.npz file"):
        load_tracr(path)


def test_a_file_that_would_not_fit_is_not_unpacked(
    export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsl.builtin.tracr.MAX_BYTES", 1000)
    with pytest.raises(GraphirError, match=r"unpacks to [\d,]+ bytes"):
        load_tracr(export())


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\0"])
def test_a_broken_description_is_unavailable(text: str, export: Callable[..., Path]) -> None:
    path = export()
    path.with_suffix(".json").write_text(text)
    with pytest.raises(UnavailableError, match="is truncated or no JSON"):
        load_tracr(path)


# --- as a model ------------------------------------------------------------------------------------------------------


def test_a_tracr_model_loads_by_source(export: Callable[..., Path]) -> None:
    source = ModelSource("tracr", export().name)
    folder = export().parent
    loaded = load_model(source, folder=folder)
    assert loaded.identity.startswith("tracr:copy.npz@") and not loaded.model.training
    assert next(loaded.model.parameters()).dtype == torch.float32  # what the section says
    facts = model_facts(source, folder=folder)
    assert facts == loaded.facts
    assert (facts.layers, facts.heads, facts.d_model, facts.d_mlp, facts.vocab, facts.context) == (2, 2, 7, 5, 5, 5)
    assert facts.parameters == sum(parameter.numel() for parameter in loaded.model.parameters())


def test_the_identity_follows_both_files(export: Callable[..., Path]) -> None:
    folder = export().parent
    source = ModelSource("tracr", "copy.npz")
    text = 'circ 1\nmodel t = tracr "copy.npz"\ngraph g = trace t {}\n'
    seen = []
    for changes in ({}, {"author": "x"}):
        export(**changes)
        seen.append(
            (load_model(source, folder=folder).identity, str(identify(spec_of(text, folder).models[0], folder)))
        )
    arrays = random_arrays(config_of(), seed=1)
    write_export(folder / "copy.npz", config_of(), arrays)
    seen.append((load_model(source, folder=folder).identity, str(identify(spec_of(text, folder).models[0], folder))))
    for column in zip(*seen, strict=True):
        assert len(set(column)) == 3


def test_what_is_not_there_is_unavailable(export: Callable[..., Path]) -> None:
    path = export()
    for reference, message in (("cop.npz", "did you mean `copy.npz`"), ("copy.json", "is no .npz file")):
        for ask in (model_facts, load_model):
            with pytest.raises(UnavailableError, match=message):
                ask(ModelSource("tracr", reference), folder=path.parent)
    path.with_suffix(".json").unlink()
    with pytest.raises(UnavailableError, match=r"copy\.json`\n  help: a Tracr export is an \.npz with a \.json"):
        load_model(ModelSource("tracr", "copy.npz"), folder=path.parent)


# --- from a file, with answers in the middle of prompts --------------------------------------------------------------

letters = Variable("tokens", ("a", "b"))
places = Variable("positions", (0, 1, 2))
first = Variable("first", letters.values)
FIRST = Program(
    "first", letters, places, 1, 1, (Head(0, 0, first, Copy(letters), (Match(None, places, lambda at: at == 0),)),),
    (Readout(first),), causal=False,
)  # fmt: skip
"""At every position the first letter."""

FILE = """\
circ 1
model t = tracr "first.npz"
graph g = trace t { attention: head split qkv }
task pairs {
  data jsonl "pairs.jsonl"
  split 50 / 25 / 25 by example
  predict answer vs distractor at position
  ablate zero
}
circuit found = discover g for pairs with eap_ig { steps: 2 } top 3
check found { accuracy >= 1 }
"""


def write_answers(folder: Path, **changes: Any) -> None:
    """All prompts of three letters, read at all places; the first line with changes."""
    lines = []
    for i in range(8):
        word = ["ab"[i >> bit & 1] for bit in range(3)]
        other = "b" if word[0] == "a" else "a"
        for at in range(3):
            texts = {"clean": " ".join(word), "counterfactual": " ".join([other, *word[1:]])}
            lines.append({**texts, "answer": f" {word[0]}", "distractor": f" {other}", "position": at})
    lines[0] = {key: value for key, value in (lines[0] | changes).items() if value != "none"}
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_a_circuit_of_a_tracr_model_is_found_from_a_file(tmp_path: Path) -> None:
    export_program(FIRST, tmp_path / "first.npz")
    write_answers(tmp_path)
    result = run_text(FILE, tmp_path)
    kept = {str(edge) for edge in Circuit.load(tmp_path / "out" / "circuits" / "found").kept_edges()}
    assert kept == {"embed -> a0.v", "pos -> a0.k", "a0 -> logits.in"}
    assert result is not None


@pytest.mark.parametrize(
    ("change", "at", "message"),
    [
        ({"position": 3}, "position", "(pairs.jsonl:1): the answer is read at position 3, and the prompt has 3 tokens"),
        ({"position": -1}, "position", "pairs.jsonl:1: `position` is a whole number from 0, not -1"),
        ({"position": "1"}, "position", "pairs.jsonl:1: `position` is a whole number from 0, not \"1\""),
        ({"position": True}, "position", "pairs.jsonl:1: `position` is a whole number from 0, not true"),
        ({"position": "none"}, "position", "pairs.jsonl:1: no field `position`, and the task reads"),
        ({}, "last", "pairs.jsonl:1: has a `position`, and the task reads the answer `at last`"),
    ],
)  # fmt: skip
def test_positions_that_do_not_fit_are_told_with_their_line(
    change: dict[str, Any], at: str, message: str, tmp_path: Path
) -> None:
    export_program(FIRST, tmp_path / "first.npz")
    write_answers(tmp_path, **change)
    with pytest.raises(GraphirError) as caught:
        run_text(FILE.replace("at position", f"at {at}"), tmp_path)
    assert message in str(caught.value)


def test_generated_data_say_no_positions(tmp_path: Path) -> None:
    text = FILE.replace('jsonl "pairs.jsonl"', 'builtin "reverse" {}')
    with pytest.raises(SpecError, match="`at position` does not go with `builtin` data"):
        spec_of(text, tmp_path)


def test_analyses_are_not_made_at_other_positions_than_those_asked(tmp_path: Path) -> None:
    export_program(FIRST, tmp_path / "first.npz")
    write_answers(tmp_path)
    text = FILE + "analyze s = layers of g on pairs with cka\n"
    with pytest.raises(GraphirError, match="analyses look at the last token of a prompt"):
        run_text(text, tmp_path)


# --- its true circuit ------------------------------------------------------------------------------------------------


def test_examples_are_what_the_program_answers(tmp_path: Path) -> None:
    model, tokenizer = load_tracr(export_program(FIRST, tmp_path / "first.npz"))
    drawn = tracr_examples(model, tokenizer)
    assert {len(each.clean.split()) for each in drawn} == {1, 2, 3}
    for each in drawn:
        assert each.answer == f" {each.clean[0]}" and each.counterfactual is not None
        assert each.distractor == f" {each.counterfactual[0]}" != each.answer
        assert each.position is not None and 0 <= each.position < len(each.clean.split())
    assert drawn == tracr_examples(model, tokenizer)
    # each of the six places of the three lengths equally often, four prompts or two again and again
    assert set(Counter(each.template for each in tracr_examples(model, tokenizer, n=60)).values()) == {10}
    assert len(tracr_examples(model, tokenizer, n=4, lengths=(2,))) == 4
    with pytest.raises(DataError, match="the program reads 1 to 3 words"):
        tracr_examples(model, tokenizer, lengths=(4,))


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_the_true_circuit_of_an_export_is_computed(ablation: Ablation, tmp_path: Path) -> None:
    moved = {"embed -> a0.v", "a0 -> logits.in"}
    found = tracr_truth(export_program(FIRST, tmp_path / "first.npz"), ablation)
    assert found.edges == (moved if ablation == "interchange" else moved | {"pos -> a0.k"})


# --- one from outside ------------------------------------------------------------------------------------------------

OUTSIDE = os.environ.get("GRAPHIR_TRACR", "")
outside = pytest.mark.skipif(not OUTSIDE, reason="GRAPHIR_TRACR names no file (`reverse.npz` of Tracr's examples)")
# The edges that AutoCircuit lists for this program, by ablation; its `Resid Start` is token and position embedding.
RESAMPLE = {"start -> a3.v", "a3 -> logits.in"}
ZERO = RESAMPLE | {
    "m2 -> a3.q", "start -> a3.k", "m1 -> m2.in", "m0 -> m1.in", "start -> m1.in", "a0 -> m0.in", "start -> m0.in",
    "start -> a0.v",
}  # fmt: skip
LISTED = {"interchange": RESAMPLE, "zero": ZERO}
# Where all prompts are of one length, nothing has to find it out: these two carry it.
LENGTH = {"a0 -> m0.in", "start -> a0.v"}


def merged(edges: frozenset[str]) -> set[str]:
    """Edges with both embeddings under one name."""
    return {edge.replace("embed ->", "start ->").replace("pos ->", "start ->") for edge in edges}


@pytest.fixture(scope="module")
def settings() -> Callable[..., Setting]:
    made: dict[Any, Setting] = {}

    def get(ablation: Ablation, lengths: tuple[int, ...] | None = None) -> Setting:
        if lengths not in made:
            made[lengths] = prepare_tracr(OUTSIDE, lengths=lengths)
        it = made[lengths]
        return Setting(it.program, replace(it.task, ablation=ablation))

    return get


@outside
def test_the_program_from_outside_computes_what_it_did_there() -> None:
    path = Path(OUTSIDE)
    model, tokenizer = load_tracr(path)
    with np.load(path.with_name(f"{path.stem}_io.npz"), allow_pickle=False) as stored:
        ids, expected = torch.from_numpy(stored["ids"]), stored["resid"]
    np.testing.assert_allclose(model.stream(ids), expected, atol=1e-5)
    assert (model(ids)[:, 1:].argmax(-1) == ids[:, 1:].flip(1)).all()
    assert ids.tolist() == [tokenizer(tokenizer.decode(row[1:]))["input_ids"] for row in ids.tolist()]
    graph = graphir.trace(model, {"input_ids": ids[:2]}, granularity="head")
    assert (len(graph.nodes), len(graph.edges)) == (11, 94)


@outside
@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_the_true_edges_of_the_program_from_outside_are_those_that_are_listed(
    ablation: Ablation, settings: Callable[..., Setting]
) -> None:
    it = settings(ablation)
    found = minimal_edges(it.program, it.task, orders=2, subsets=0)
    assert found.unique and merged(found.edges) == LISTED[ablation]


@outside
def test_prompts_of_one_length_do_not_need_the_edges_that_find_it_out(settings: Callable[..., Setting]) -> None:
    it = settings("zero", (3,))
    found = minimal_edges(it.program, it.task, orders=2, subsets=0)
    assert found.unique and merged(found.edges) == ZERO - LENGTH


# Under zero ablation the joint sheaf prunes weights that the circuit needs in some seeds; the benchmark counts them.
@outside
@pytest.mark.parametrize(
    ("method", "ablation"), [("edge_pruning", "interchange"), ("edge_pruning", "zero"), ("discogp", "interchange")]
)
def test_learned_masks_recover_the_edges_of_the_program_from_outside(
    method: str, ablation: Ablation, settings: Callable[..., Setting]
) -> None:
    pytest.importorskip("sklearn")
    benchmark = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "ground_truth.py"))
    it = settings(ablation)
    circuit = passes.run(method, it.program, it.task, **benchmark[method.upper()])
    found = smallest_circuit(it.program, it.task, circuit.scores["edges"], weights=circuit.weights)
    assert merged(frozenset(str(edge) for edge in found.kept_edges())) == LISTED[ablation]


@outside
@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_told_how_many_are_true_the_defaults_find_them(ablation: Ablation, settings: Callable[..., Setting]) -> None:
    it = settings(ablation)
    truth = minimal_edges(it.program, it.task, orders=2, subsets=0).edges
    assert set(map(str, passes.run("edge_pruning", it.program, it.task, edges=len(truth)).kept_edges())) == truth
