"""Tasks: tokenization and its errors, splits, batches, description and identity."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphir.errors import DataError, UnknownNameError
from passes.examples import Example
from passes.splitting import assign_groups
from passes.task import Task
from passes.tokenizing import prompt_ids, single_token_filter, tokenize_example


class Letters:
    """A toy subword tokenizer: words of up to four letters are one token, longer ones are cut; a space belongs to the
    word behind it. Optionally with start, end and mask tokens."""

    def __init__(self, *, start: bool = False, end: bool = False, mask: bool = False) -> None:
        self.vocab: dict[str, int] = {"<pad>": 0, "<s>": 1, "</s>": 2, "[MASK]": 3}
        self.start, self.end = start, end
        self.pad_token_id, self.eos_token_id = 0, 2
        self.mask_token_id = 3 if mask else None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        pieces: list[str] = []
        for index, word in enumerate(text.split(" ")):
            shown = (" " if index else "") + word
            cut = [shown] if word == "[MASK]" else [shown[:5]] + [shown[i : i + 5] for i in range(5, len(shown), 5)]
            pieces += [piece.strip() if piece.strip() == "[MASK]" else piece for piece in cut if piece]
        ids = [self.vocab.setdefault(piece, len(self.vocab)) for piece in pieces]
        if add_special_tokens:
            ids = [1] * self.start + ids + [2] * self.end
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        names = {number: piece for piece, number in self.vocab.items()}
        return [names[i] for i in ids]


def example(index: int = 0, template: str = "t", words: int = 4) -> Example:
    body = " ".join(f"w{index}{chr(97 + i)}" for i in range(words))
    return Example(body, body.replace(f"w{index}b", f"x{index}b"), " yes", " no", template)


def examples(count: int, templates: int) -> list[Example]:
    return [example(i, f"t{i % templates}", 4 + i % 3) for i in range(count)]


def build(data: list[Example], **options: object) -> Task:
    return Task.from_examples("demo", data, Letters(), **options)  # type: ignore[arg-type]


# Tokenization


def test_the_position_is_that_of_the_last_token() -> None:
    row = tokenize_example(example(words=5), Letters())
    assert (len(row), row.position) == (5, 4)


def test_a_start_token_shifts_the_position() -> None:
    row = tokenize_example(example(words=5), Letters(start=True))
    assert (len(row), row.position, row.input_ids[0]) == (6, 5, 1)


def test_an_end_token_behind_the_prompt_is_dropped() -> None:
    ids, position = prompt_ids("a b c", Letters(end=True))
    assert len(ids) == 3 and position == 2 and 2 not in ids


def test_a_mask_token_is_where_the_answer_goes() -> None:
    tokenizer = Letters(start=True, end=True, mask=True)
    row = tokenize_example(Example("the [MASK] ran off", "the [MASK] sat up", "dog", "cat", "m"), tokenizer)
    assert (row.position, len(row)) == (2, 6)
    assert tokenizer.convert_ids_to_tokens([row.answer]) == ["dog"]


def test_a_position_that_an_example_names_counts() -> None:
    asked = Example("a b c", None, " x", None, position=2)
    assert tokenize_example(asked, Letters()).position == 2
    assert tokenize_example(asked, Letters(start=True)).position == 2  # of the tokens that the model gets
    assert tokenize_example(replace(asked, position=0), Letters(mask=True)).position == 0
    with pytest.raises(DataError, match=r"read at position 3, and the prompt has 3 tokens: a \|  b \|  c"):
        tokenize_example(replace(asked, position=3), Letters())
    with pytest.raises(DataError, match="leave `position` out"):
        tokenize_example(asked, Letters(), decoder=(1,))


def test_positions_are_read_in_batches_and_tell_tasks_apart() -> None:
    data = [replace(example(i), position=i % 3) for i in range(6)]
    for padding in ("right", "left"):
        task = build(data, by="example", fractions=(1,), padding=padding)
        batch = next(task.batches("train", 6))
        shifts = (batch.inputs["attention_mask"] == 0).sum(-1) * (padding == "left")
        assert batch.positions is not None
        assert (batch.positions - shifts).tolist() == [row.example.position for row in batch.examples]
    assert build(data, by="example").identity != build([example(i) for i in range(6)], by="example").identity


def test_answers_are_read_behind_the_prompt() -> None:
    tokenizer = Letters()
    row = tokenize_example(Example("a b", None, " yes", " no", "t"), tokenizer)
    assert tokenizer.convert_ids_to_tokens([row.answer, row.distractor or 0]) == [" yes", " no"]


def test_an_answer_of_two_tokens_is_an_error_that_shows_them() -> None:
    with pytest.raises(DataError) as caught:
        build([example(0), replace(example(1), answer=" Elizabeth")])
    assert str(caught.value) == (
        "task `demo`: example 1: the answer ' Elizabeth' is 2 tokens:  Eliz | abeth\n"
        "  help: choose a word that is one token, or write it as it appears in the text (' Elizabeth')"
    )


def test_a_distractor_of_two_tokens_is_an_error() -> None:
    with pytest.raises(DataError, match="the distractor ' Elizabeth' is 2 tokens"):
        build([replace(example(), distractor=" Elizabeth")])


def test_an_answer_that_melts_into_the_prompt_is_an_error() -> None:
    with pytest.raises(DataError, match=r"the answer 'b' melts into the prompt's last token(.|\n)*leading space: ' b'"):
        build([Example("x a", None, "b", None, "t")], ablation="zero")


def test_unequal_lengths_are_an_error_with_index_line_and_tokens() -> None:
    bad = Example("one two", "one two six", " yes", " no", "t", source="pairs.jsonl:7")
    with pytest.raises(DataError) as caught:
        build([example(), bad])
    assert str(caught.value) == (
        "task `demo`: example 1 (pairs.jsonl:7): clean has 2 tokens and counterfactual 3\n"
        "  clean          one |  two\n"
        "  counterfactual one |  two |  six\n"
        "  help: interchange ablation swaps values token by token: change words one for one"
    )


def test_equal_answer_and_distractor_are_an_error() -> None:
    with pytest.raises(DataError, match="answer and distractor are the same token:  yes"):
        build([replace(example(), distractor=" yes")])


@pytest.mark.parametrize("change", [{"clean": ""}, {"answer": ""}])
def test_empty_texts_are_errors(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="is empty"):
        build([replace(example(), **change)])


def test_interchange_needs_counterfactuals() -> None:
    data = [example(0), replace(example(1), counterfactual=None)]
    with pytest.raises(DataError, match="example 1 has no counterfactual, which interchange ablation needs"):
        build(data)
    assert next(build(data, ablation="zero", by="example", fractions=(1,)).batches("train", 2)).counterfactual is None


def test_no_examples_is_an_error() -> None:
    with pytest.raises(DataError, match="task `demo` has no examples"):
        build([])


def test_the_filter_for_generators_says_what_is_one_token() -> None:
    is_single = single_token_filter(Letters())
    assert [is_single(word) for word in (" Mary", " Elizabeth", "")] == [True, False, False]


# Splits


def test_whole_templates_go_to_one_split() -> None:
    task = build(examples(80, 8))
    homes: dict[str, set[str]] = {}
    for name, rows in task.splits.items():
        for row in rows:
            homes.setdefault(row.example.template, set()).add(name)
    assert all(len(where) == 1 for where in homes.values())
    assert {name: len(rows) for name, rows in task.splits.items()} == {"train": 40, "validation": 20, "test": 20}


def test_the_split_is_fixed_by_the_seed_and_varies_with_it() -> None:
    def templates(seed: int) -> set[str]:
        return {row.example.template for row in build(examples(80, 8), seed=seed).splits["test"]}

    assert templates(3) == templates(3)
    assert len({frozenset(templates(seed)) for seed in range(6)}) > 1


def test_too_few_templates_are_an_error() -> None:
    with pytest.raises(DataError, match="3 splits need at least 3 different templates, and the data has 2"):
        build(examples(20, 2))


def test_a_share_of_zero_leaves_its_split_empty() -> None:
    task = build(examples(20, 4), fractions=(50, 0, 50))
    assert [len(task.splits[name]) for name in ("train", "validation", "test")] == [10, 0, 10]
    with pytest.raises(DataError, match="split `validation` of task `demo` is empty"):
        next(task.batches("validation", 4))


def test_by_example_equal_prompts_stay_together() -> None:
    data = [example(i % 15) for i in range(60)]
    task = build(data, by="example")
    homes = {name: {row.input_ids for row in rows} for name, rows in task.splits.items()}
    assert sum(map(len, homes.values())) == 15
    assert len(task) == 60


@pytest.mark.parametrize("fractions", [(), (0, 0), (-1, 2), (1, 1, 1, 1), (float("inf"),)])
def test_shares_that_make_no_sense_are_errors(fractions: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="shares"):
        build(examples(20, 4), fractions=fractions)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=3, max_size=20), st.lists(st.floats(0.05, 1), min_size=3, max_size=3))
def test_shares_are_met_as_well_as_whole_groups_allow(sizes: list[int], shares: list[float]) -> None:
    targets = [share / sum(shares) * sum(sizes) for share in shares]
    assigned = assign_groups(sizes, targets)
    filled = Counter[int]()
    for size, split in zip(sizes, assigned, strict=True):
        filled[split] += size
    assert set(assigned) == {0, 1, 2}
    assert all(abs(filled[s] - targets[s]) <= 2 * max(sizes) for s in range(3))


# Batches


def test_rows_are_padded_on_the_right_and_positions_stay() -> None:
    task = build([example(0, words=3), example(1, words=5)], by="example", fractions=(1,))
    batch = next(task.batches("train", 2))
    assert batch.inputs["input_ids"].shape == (2, 5)
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.positions is not None and batch.positions.tolist() == [2, 4]
    assert batch.inputs["input_ids"][0, 3:].tolist() == [0, 0]
    assert batch.counterfactual is not None
    assert (batch.counterfactual["input_ids"] != batch.inputs["input_ids"]).sum(1).tolist() == [1, 1]
    torch.testing.assert_close(batch.counterfactual["attention_mask"], batch.inputs["attention_mask"])


def test_left_padding_shifts_the_positions() -> None:
    task = build([example(0, words=3), example(1, words=5)], by="example", fractions=(1,), padding="left")
    batch = next(task.batches("train", 2))
    assert batch.inputs["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert batch.positions is not None and batch.positions.tolist() == [4, 4]


def test_without_a_mask_batches_hold_one_length_each() -> None:
    task = build(examples(30, 3), fractions=(1,), attention_mask=False)
    batches = list(task.batches("train", 8))
    assert all(set(batch.inputs) == {"input_ids"} for batch in batches)
    assert all(len({len(row) for row in batch.examples}) == 1 for batch in batches)
    assert sum(map(len, batches)) == 30


def test_shuffling_is_fixed_by_its_seed_and_loses_nothing() -> None:
    task = build(examples(40, 4), fractions=(1,))

    def order(seed: int | None) -> list[tuple[int, ...]]:
        return [row.input_ids for batch in task.batches("train", 7, shuffle=seed) for row in batch.examples]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(None))


def test_short_rows_make_large_batches() -> None:
    task = build(examples(40, 4), fractions=(1,))
    longest = max(map(len, task.examples("train")))
    assert task.rows_for("train", 10 * longest) == 10
    assert task.rows_for("train", 10 * longest - 1) == 9
    assert task.rows_for("train", 1) == 1


def test_a_limit_stops_early() -> None:
    task = build(examples(40, 4), fractions=(1,))
    assert [len(batch) for batch in task.batches("train", 4, limit=10)] == [4, 4, 2]


def test_a_batch_without_distractors_has_none() -> None:
    task = build([replace(example(), distractor=None)], fractions=(1,))
    assert next(task.batches("train", 1)).distractors is None


def test_an_unknown_split_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="did you mean `validation`"):
        build(examples(20, 4)).examples("validate")


def test_a_batch_moves_to_a_device() -> None:
    batch = next(build(examples(20, 4)).batches("train", 4)).to("meta")
    assert batch.inputs["input_ids"].is_meta and batch.answers.is_meta


# Description and identity


def test_the_description() -> None:
    task = build(examples(24, 4))
    assert task.describe().splitlines()[:-1] == [
        "task demo: 24 examples, split by template, interchange ablation",
        "  train         12 (50%), 2 templates, 4-6 tokens",
        "  validation     6 (25%), 1 template, 4-6 tokens",
        "  test           6 (25%), 1 template, 4-6 tokens",
        f"  clean          {task.splits['train'][0].example.clean!r} ->' yes' not' no'",
        f"  counterfactual {task.splits['train'][0].example.counterfactual!r}",
    ]


def test_the_identity_is_that_of_texts_split_ablation_and_tokenizer() -> None:
    data = examples(24, 4)
    one = build(data).identity
    assert len(one) == 64
    assert build([replace(row, source="elsewhere:1") for row in data]).identity == one
    assert build([*data[:-1], example(99, "t3")]).identity != one
    assert build(data, ablation="zero").identity != one
    assert build(data, fractions=(1, 1, 1)).identity != one
