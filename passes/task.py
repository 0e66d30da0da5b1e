"""Tokenized task data: examples checked against a tokenizer, split, and cut into padded batches."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import LongTensor, Tensor

from graphir.errors import DataError, UnknownNameError
from graphir.names import closest
from passes.examples import Example
from passes.model_inputs import InputForm, Padding
from passes.splitting import SPLITS, SplitBy, split_examples
from passes.tokenizing import TokenizedExample, Tokenizer, tokenize_examples, tokenizer_identity

Ablation = Literal["interchange", "zero", "mean", "mean by position", "mean by template", "noise", "optimal"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one split, padded to one length.

    `inputs` holds `input_ids` and, as the task's model needs them, `attention_mask`, `position_ids`, each (B, S) int64,
    and `decoder_input_ids` (B, 1); it is passed to the model by keyword. `counterfactual` holds the same keys and
    shapes, or is None. `positions` (B,) is the index, in the padded row (in the decoder's, where there is one), of the
    token whose logits predict the answer; None where the model's output has no axis of positions (see
    `passes.tensor_task`). `answers` and `distractors` (B,) are token ids.
    """

    inputs: Mapping[str, Tensor]
    counterfactual: Mapping[str, Tensor] | None
    positions: LongTensor | None
    answers: LongTensor
    distractors: LongTensor | None
    examples: tuple[TokenizedExample, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""

        def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        return Batch(
            inputs=move(self.inputs),
            counterfactual=None if self.counterfactual is None else move(self.counterfactual),
            positions=None if self.positions is None else as_long(self.positions.to(device)),
            answers=as_long(self.answers.to(device)),
            distractors=None if self.distractors is None else as_long(self.distractors.to(device)),
            examples=self.examples,
        )


@dataclass(frozen=True, eq=False)
class Task:
    """A named set of tokenized examples in three splits.

    `identity` is the sha256 over the texts, the splits they are in, the ablation and the tokenizer. `padding` is
    "right" by default; "none" makes batches of one length each, for models that take no mask (`attention_mask=False`).
    `position_ids` says whether batches say where each row begins, `decoder_ids` what a decoder starts from (see
    `passes.model_inputs`).
    """

    name: str
    splits: Mapping[str, tuple[TokenizedExample, ...]]
    ablation: Ablation = "interchange"
    pad_id: int = 0
    padding: Padding = "right"
    attention_mask: bool = True
    position_ids: bool = False
    decoder_ids: tuple[int, ...] = ()
    identity: str = ""
    split_by: SplitBy = "template"
    seed: int = field(default=0)

    @classmethod
    def from_examples(
        cls,
        name: str,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        *,
        fractions: Sequence[float] = (0.5, 0.25, 0.25),
        by: SplitBy = "template",
        seed: int = 0,
        ablation: Ablation = "interchange",
        padding: Padding = "right",
        attention_mask: bool = True,
        form: InputForm | None = None,
    ) -> Task:
        """Tokenize, check and split `examples`.

        `form` says what the model is to be given (`passes.model_inputs.find_form`), in place of `padding` and
        `attention_mask`: a model with an encoder and a decoder needs it, and so does padding on the left.
        `fractions` are the shares of train, validation and test; they are scaled to sum to one. Raises DataError for
        data that cannot be used: none at all, unequal lengths, answers of several tokens, a counterfactual that the
        ablation needs and an example lacks, or too few templates for the splits.
        """
        if not examples:
            raise DataError(f"task `{name}` has no examples")
        if ablation == "interchange":
            check_counterfactuals(name, examples)
        if padding == "right" and not attention_mask:
            padding = "none"
        form = form or InputForm(padding, attention_mask)
        tokenized = tokenize_examples(name, examples, tokenizer, decoder=form.decoder)
        parts = split_examples(tokenized, fractions, by=by, seed=seed)
        splits = dict(zip(SPLITS, parts, strict=True))
        return cls(
            name=name,
            splits=splits,
            ablation=ablation,
            pad_id=pad_token(tokenizer),
            padding=form.padding,
            attention_mask=form.mask,
            position_ids=form.positions,
            decoder_ids=form.decoder,
            identity=hash_task(splits, ablation, tokenizer),
            split_by=by,
            seed=seed,
        )

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))

    def beside(self, judged: Task) -> Task:
        """This task with the examples of another one in a split of their own: what to take means over for circuits that
        were found on this task and are judged on the other. Means are over this one's training examples; where these
        have none, at positions further on or of other templates, the judged examples stand in."""
        rows = tuple(row for split in judged.splits.values() for row in split)
        return replace(self, splits={**self.splits, "judged": rows})

    def examples(self, split: str) -> tuple[TokenizedExample, ...]:
        """The examples of one split; UnknownNameError for a split that is not there."""
        if split not in self.splits:
            raise UnknownNameError("split", split, closest(split, self.splits))
        return self.splits[split]

    def batches(
        self, split: str, size: int, *, shuffle: int | None = None, limit: int | None = None
    ) -> Iterator[Batch]:
        """Batches of at most `size` rows of one split, the first `limit` rows only when given.

        `shuffle` is a seed: the rows come in an order that this seed fixes; None keeps the order of the data. Raises
        DataError for an empty split and ValueError for a size below one.
        """
        if size < 1:
            raise ValueError(f"batch size must be at least 1, not {size}")
        rows = list(self.examples(split))
        if not rows:
            raise DataError(
                f"split `{split}` of task `{self.name}` is empty", ["give it a share, as in `50 / 25 / 25`"]
            )
        if shuffle is not None:
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(shuffle)).tolist()
            rows = [rows[i] for i in order]
        for chunk in self.cut(rows[:limit], size):
            yield self.collate(chunk)

    def rows_for(self, split: str, tokens: int) -> int:
        """How many rows of a split make a batch of some `tokens`; one at least."""
        return max(tokens // max(map(len, self.examples(split)), default=1), 1)

    def cut(self, rows: Sequence[TokenizedExample], size: int) -> Iterator[Sequence[TokenizedExample]]:
        """Chunks of at most `size` rows; without padding, of one length each, in the order the lengths first appear."""
        groups: dict[int, list[TokenizedExample]] = {}
        for row in rows:
            groups.setdefault(len(row) if self.padding == "none" else 0, []).append(row)
        for group in groups.values():
            for start in range(0, len(group), size):
                yield group[start : start + size]

    def collate(self, rows: Sequence[TokenizedExample]) -> Batch:
        """One batch of these rows, padded to the longest."""
        length = max(map(len, rows))
        left = self.padding == "left" and not self.decoder_ids
        shifts = [length - len(row) if left else 0 for row in rows]
        paired = all(row.counterfactual_ids is not None for row in rows)
        told_apart = all(row.distractor is not None for row in rows)
        return Batch(
            inputs=self.pad([row.input_ids for row in rows], length),
            counterfactual=self.pad([row.counterfactual_ids or () for row in rows], length) if paired else None,
            positions=as_long([row.position + shift for row, shift in zip(rows, shifts, strict=True)]),
            answers=as_long([row.answer for row in rows]),
            distractors=as_long([row.distractor for row in rows]) if told_apart else None,
            examples=tuple(rows),
        )

    def pad(self, rows: Sequence[Sequence[int]], length: int) -> dict[str, Tensor]:
        """The model's inputs: `input_ids` and what else it needs, (len(rows), length)."""
        ids = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for index, row in enumerate(rows):
            where = slice(length - len(row), length) if self.padding == "left" else slice(0, len(row))
            ids[index, where] = torch.tensor(row)
            mask[index, where] = 1
        return self.form.inputs(ids, mask)

    @cached_property
    def form(self) -> InputForm:
        """How rows are made into inputs."""
        return InputForm(self.padding, self.attention_mask, self.position_ids, self.decoder_ids)

    def describe(self) -> str:
        """A few lines for people: sizes, templates and token lengths of each split, and the first example."""
        total = len(self)
        lines = [f"task {self.name}: {count(total, 'example')}, split by {self.split_by}, {self.ablation} ablation"]
        for name, rows in self.splits.items():
            if not rows:
                lines.append(f"  {name:<10} empty")
                continue
            templates = count(len(Counter(row.example.template for row in rows)), "template")
            lengths = sorted({len(row) for row in rows})
            span = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]}-{lengths[-1]}"
            lines.append(f"  {name:<10} {len(rows):>5} ({len(rows) / total:.0%}), {templates}, {span} tokens")
        first = next(row for rows in self.splits.values() for row in rows).example
        lines.append(
            f"  clean          {first.clean!r} ->{first.answer!r}"
            + (f" not{first.distractor!r}" if first.distractor else "")
        )
        if first.counterfactual is not None:
            lines.append(f"  counterfactual {first.counterfactual!r}")
        lines.append(f"  identity       {self.identity[:12]}")
        return "\n".join(lines)


def as_long(values: Any) -> LongTensor:
    """Int64 tensor of `values`; typed as the subclass that torch has for annotations only."""
    tensor: LongTensor = torch.as_tensor(values, dtype=torch.long)  # type: ignore[assignment]
    return tensor


def count(number: int, noun: str) -> str:
    """`1 template`, `3 templates`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def check_counterfactuals(name: str, examples: Sequence[Example]) -> None:
    """DataError naming the first example without a counterfactual."""
    for index, example in enumerate(examples):
        if example.counterfactual is None:
            where = f"example {index}" + (f" ({example.source})" if example.source else "")
            raise DataError(
                f"task `{name}`: {where} has no counterfactual, which interchange ablation needs",
                ["add `counterfactual` to each line", "or choose `ablate zero` or `ablate mean`"],
            )


def pad_token(tokenizer: Tokenizer) -> int:
    """The id to pad with. Padding is masked out, so any id does where the tokenizer names none."""
    for attribute in ("pad_token_id", "eos_token_id"):
        value = getattr(tokenizer, attribute, None)
        if isinstance(value, int):
            return value
    return 0


def hash_task(splits: Mapping[str, Sequence[TokenizedExample]], ablation: str, tokenizer: Tokenizer) -> str:
    """Sha256 hex over texts, token ids, splits, ablation and tokenizer. Where an example is from does not count."""
    digest = hashlib.sha256(f"{ablation}\n{tokenizer_identity(tokenizer)}\n".encode())
    for name, rows in splits.items():
        for row in rows:
            texts = {key: value for key, value in asdict(row.example).items() if key != "source"}
            if row.example.position is None:  # tasks are what they were before examples could say one
                del texts["position"]
            digest.update(
                json.dumps([name, texts, row.input_ids, row.counterfactual_ids], sort_keys=True).encode(
                    "utf-8", "surrogatepass"
                )
            )
    return digest.hexdigest()


__all__ = ["Ablation", "Batch", "Padding", "Task", "TokenizedExample", "Tokenizer"]
