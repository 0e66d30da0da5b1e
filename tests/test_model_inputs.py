"""What a task's batches carry beside tokens, and that padding changes nothing.

Masked runs of rows of unequal length are compared with each row run alone, on both sides of padding, for absolute,
rotary and computed positions and for an encoder with a decoder.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphir
import passes
from graphir.errors import DataError
from passes.examples import Example
from passes.metrics import logits_at
from passes.model_inputs import InputForm, find_form
from passes.task import Task
from tests import zoo
from tests.running import run_text

torch.set_num_threads(1)

WORDS = ["<0>", "<1>", "<end>", "<unknown>", "<4>", "<5>", "<6>", "<pad>", *(f"w{i}" for i in range(8, zoo.VOCABULARY))]
PAD = 7
"""Embedded like any other, so that padding that is looked at shows."""


class Words:
    """One token a word; pads on the side it is told."""

    def __init__(self, side: str, *, end: bool = False) -> None:
        self.padding_side, self.pad_token_id, self.eos_token_id, self.end = side, PAD, 2, end

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [WORDS.index(word) for word in text.split()]
        return {"input_ids": ids + [2] * (self.end and add_special_tokens)}


def examples(count: int = 4) -> list[Example]:
    """Prompts of 4 to 6 words."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for i in range(count):
        clean, other = torch.randint(8, zoo.VOCABULARY, (2, 4 + i % 3), generator=generator).tolist()
        text, changed = (" ".join(WORDS[t] for t in ids) for ids in (clean, other))
        found.append(Example(text, changed, " w20", " w21", f"t{i % 2}"))
    return found


def form_of(model: nn.Module, side: str) -> InputForm:
    return find_form(model, side=side, sample=[9, 10, 11, 12, 13, 14], pad=PAD)


@cache
def prepared(name: str, side: str) -> tuple[graphir.Graph, Task]:
    model = zoo.build(name).model
    task = Task.from_examples(
        "words", examples(), Words(side, end=name == "t5"), fractions=(1, 0, 0), by="example",
        form=form_of(model, side),
    )  # fmt: skip
    return graphir.trace(model, next(task.batches("train", 2)).inputs), task


LEFT = {  # forward names position_ids, or positions are read off the mask
    "gpt2": True,
    "llama": True,
    "gpt_neox": True,
    "opt": True,
    "bloom": False,
}


@pytest.mark.parametrize("name", LEFT)
def test_left_padding_says_where_rows_begin_where_the_model_can_be_told(name: str) -> None:
    form = form_of(zoo.build(name).model, "left")
    assert (form.padding, form.mask, form.positions, form.decoder) == ("left", True, LEFT[name], ())
    assert form_of(zoo.build(name).model, "right") == InputForm("right")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "t5"])
def test_a_masked_batch_of_unequal_lengths_is_each_row_alone(name: str, side: str) -> None:
    graph, task = prepared(name, side)
    batch = next(task.batches("train", 4))
    assert len({len(row) for row in batch.examples}) == 3
    assert task.padding == side
    program = graphir.lower(graph)
    masks = graphir.Masks(edges=torch.rand(len(graph.edges), generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        together = logits_at(program.outputs(batch.inputs, batch.counterfactual, masks), batch)
        for i, row in enumerate(batch.examples):
            alone = task.collate([row])
            found = logits_at(program.outputs(alone.inputs, alone.counterfactual, masks), alone)
            torch.testing.assert_close(together[i], found[0], atol=2e-4, rtol=2e-4)
            at = logits_at(program.outputs(alone.inputs, positions=alone.positions), alone)
            own = program.traced.model(**{k: v for k, v in alone.inputs.items() if k != "position_ids"}).logits
            assert alone.positions is not None
            torch.testing.assert_close(at[0], own[0, int(alone.positions[0])], atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_of_a_padded_batch_are_those_of_its_rows(side: str) -> None:
    graph, task = prepared("gpt2", side)
    program = graphir.lower(graph)

    def scores(batch: Any) -> Tensor:
        return program.attribute(batch.inputs, batch.counterfactual, lambda out: logits_at(out, batch)[:, 20].sum())

    batch = next(task.batches("train", 4))
    alone = torch.stack([scores(task.collate([row])) for row in batch.examples]).sum(0)
    torch.testing.assert_close(scores(batch), alone, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_positions_as_an_input_leave_the_graph_as_it_is(name: str) -> None:
    graph, task = prepared(name, "left")
    assert task.position_ids
    assert [str(edge) for edge in graph.edges] == [str(edge) for edge in zoo.traced(name)[1].edges]


class Absolute(nn.Module):
    """Looks up positions by column and cannot be told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(zoo.VOCABULARY, 8), nn.Embedding(16, 8)
        self.out = nn.Linear(8, zoo.VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        logits: Tensor = self.out((x * attention_mask[..., None]).cumsum(1))
        return logits


def test_where_left_padding_cannot_be_exact_rows_of_one_length_go_together() -> None:
    form = form_of(Absolute(), "left")
    assert form == InputForm("none")
    task = Task.from_examples("words", examples(), Words("left"), fractions=(1, 0, 0), by="example", form=form)
    assert sorted(len(batch) for batch in task.batches("train", 4)) == [1, 1, 2]


def test_a_decoder_starts_from_the_token_its_configuration_names() -> None:
    model: Any = zoo.build("t5").model
    assert form_of(model, "right").decoder == (0,)
    model.config.decoder_start_token_id = 5
    assert form_of(model, "right").decoder == (5,)
    for config in (model.config, model.generation_config):
        for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
            setattr(config, name, None)
    with pytest.raises(DataError, match="does not say which token it starts from"):
        form_of(model, "right")


def test_an_encoder_reads_the_whole_prompt_and_the_decoder_answers() -> None:
    _, task = prepared("t5", "right")
    batch = next(task.batches("train", 4))
    assert all(row.input_ids[-1] == 2 for row in batch.examples)  # the end of the text is the encoder's to see
    assert batch.inputs["decoder_input_ids"].tolist() == [[0]] * 4
    assert batch.positions is not None
    assert batch.positions.tolist() == [0] * 4
    assert batch.counterfactual is not None
    assert set(batch.counterfactual) == set(batch.inputs)


def test_a_circuit_of_an_encoder_and_decoder_is_found() -> None:
    graph, task = prepared("t5", "right")
    circuit = passes.run("eap_ig", graphir.lower(graph), task, steps=2, edges=40)
    assert circuit.edges.any()
    kept = {edge.dst_name.partition(".")[0] for edge in circuit.kept_edges()}
    assert "decoder" in kept or "logits" in kept


def test_a_file_about_an_encoder_and_decoder_runs(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path / "translator"
    zoo.build("t5").model.save_pretrained(folder)  # type: ignore[operator]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast: Any = PreTrainedTokenizerFast
    fast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>", padding_side="left"
    ).save_pretrained(folder)
    lines = [
        f'{{"clean": "{e.clean}", "counterfactual": "{e.counterfactual}", "answer": "w20", "distractor": "w21"}}\n'
        for e in examples(12)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    run = run_text(
        'circ 1\nmodel m = hf "translator"\ngraph g = trace m\n'
        'task t { data jsonl "pairs.jsonl"  split 50 / 25 / 25 by example  predict answer vs distractor at last }\n'
        "circuit c = discover g for t with eap { } top 40\n",
        tmp_path,
    )
    assert run.circuits["c"].edges.any()
    assert run.graphs["g"].opaque == ()
