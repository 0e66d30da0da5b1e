"""From sections of a specification to what passes work on: granularities, inputs, tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dsl.spec import GraphSpec, Spec, TaskSpec
from graphir.errors import DataError, GraphirError
from graphir.granularity import Choice, Granularity

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dsl.models import LoadedModel
    from passes.examples import Example
    from passes.model_inputs import InputForm
    from passes.task import Task
    from passes.tokenizing import Tokenizer

FALLBACK_TEXT = "The quick brown fox jumps over the lazy dog"
"""What a model is traced with where the file has neither an example nor a task."""
TRACE_ROWS = 2
"""Rows of the example a model is traced with: with one row, `torch.export` would take the batch size for a constant."""


def granularity_of(spec: GraphSpec) -> Granularity:
    """The granularity a graph section asks for."""
    base = _attention(Choice(mlp=spec.mlp, key_value=spec.key_value), spec.attention)
    return Granularity(base, tuple((r.first, r.last, _region(base, r.granularity)) for r in spec.regions))


def _attention(choice: Choice, words: str) -> Choice:
    if words == "layer":
        return replace(choice, attention="layer", qkv="joint")
    return replace(choice, attention="head", qkv="joint" if "joint" in words else "split")


def _region(base: Choice, words: str) -> Choice:
    if words == "layer":
        return Choice("layer", "joint", "layer")
    return replace(base, mlp="neuron") if words == "neuron" else _attention(base, words)


def text_inputs(text: str, loaded: LoadedModel) -> dict[str, Tensor]:
    """A text as the model's inputs, repeated in each row."""
    import torch

    from passes.tokenizing import encode

    tokenizer = tokenizer_of(loaded)
    try:
        ids = encode(text, tokenizer)
    except DataError:
        if text != FALLBACK_TEXT:
            raise
        # A tokenizer of few words does not know the fox, and its model may read few positions.
        ids = (encode(known_word(tokenizer), tokenizer) * 4)[: loaded.facts.context]
    rows = torch.tensor([ids] * TRACE_ROWS, device=device_of(loaded.model))
    return input_form(loaded).inputs(rows, torch.ones_like(rows))


def input_form(loaded: LoadedModel) -> InputForm:
    """What the model is to be given: padding on the side that its tokenizer says, where that is exact."""
    from passes.model_inputs import find_form
    from passes.task import pad_token
    from passes.tokenizing import encode

    tokenizer = tokenizer_of(loaded)
    side = str(getattr(tokenizer, "padding_side", "right"))
    sample: Sequence[int] = ()
    if side == "left":
        try:
            sample = encode(FALLBACK_TEXT, tokenizer)
        except DataError:
            sample = encode(known_word(tokenizer), tokenizer) * 4
    return find_form(loaded.model, side=side, sample=sample, pad=pad_token(tokenizer))


def build_task(spec: TaskSpec, whole: Spec, loaded: LoadedModel) -> Task:
    """A task from its section: examples generated or read, tokenized, split."""
    from passes.task import Task

    tokenizer = tokenizer_of(loaded)
    examples = read_examples(spec, whole, tokenizer)
    if spec.against is None:
        examples = [replace(example, distractor=None) for example in examples]
    split: Any = spec.split
    task = Task.from_examples(
        spec.name,
        examples,
        tokenizer,
        fractions=(split.train, split.validation, split.test),
        by=split.by,
        seed=int(spec.data.options.get("seed") or 0),
        ablation=spec.ablation,  # type: ignore[arg-type]  # checked against the same words
        form=input_form(loaded),
    )
    return task if spec.where is None else pick_examples(task, spec, tokenizer)


def pick_examples(task: Task, spec: TaskSpec, tokenizer: Tokenizer) -> Task:
    """The examples of a subtask, each in the part of the split that it has in the whole task, so that nothing that one
    subtask is judged on was learned from in another. `DataError` where training or held-out data have none."""
    from dsl.translate import keeps
    from passes.task import hash_task

    condition = spec.where
    assert condition is not None
    splits = {name: tuple(row for row in rows if keeps(condition, row.example)) for name, rows in task.splits.items()}
    for name, rows in task.splits.items():
        if rows and not splits[name] and name in ("train", "test"):
            found = ", ".join(f"{len(kept)} {part}" for part, kept in splits.items())
            raise DataError(
                f"the subtask `{spec.name}` has no {name} examples ({found}): the split is that of `{spec.parent}`",
                ["split by example, so that each template is in all parts", "or pick examples of several templates"],
            )
    return replace(task, splits=splits, identity=hash_task(splits, task.ablation, tokenizer))


def read_examples(spec: TaskSpec, whole: Spec, tokenizer: Tokenizer | None = None) -> list[Example]:
    """The task's examples as text. Without a tokenizer every word counts as one token. Torch-free."""
    from dsl.tasks import find_task
    from dsl.tasks.jsonl import read_jsonl

    if spec.data.kind == "jsonl":
        return read_jsonl(whole.folder / spec.data.reference, limit=spec.data.options.get("n"), at=spec.position)
    kind = find_task(spec.data.reference)
    options = {name: value for name, value in spec.data.options.items() if value is not None}
    return kind.generate(options, single_token_test(tokenizer) if tokenizer is not None else None)


def single_token_test(tokenizer: Tokenizer) -> Callable[[str], bool]:
    """Whether a word is one token behind a prompt that the tokenizer knows."""
    from passes.tokenizing import single_token_filter

    return single_token_filter(tokenizer, known_word(tokenizer))


def known_word(tokenizer: Tokenizer) -> str:
    """`and`, or the first word of a vocabulary that has no `and`."""
    from passes.tokenizing import encode

    try:
        if encode("and", tokenizer, special=False):
            return "and"
    except DataError:
        pass
    vocabulary: Mapping[str, int] = getattr(tokenizer, "get_vocab", dict)()
    return str(next(iter(vocabulary), "and"))


def tokenizer_of(loaded: LoadedModel) -> Tokenizer:
    """The model's tokenizer; `GraphirError` where it has none."""
    if loaded.tokenizer is None:
        raise GraphirError(
            "the model has no tokenizer, and a task is text",
            ["put tokenizer files beside the weights", "let a Python factory return `(model, tokenizer)`"],
        )
    return loaded.tokenizer


def device_of(model: nn.Module) -> Any:
    """Where the model's weights are."""
    import torch

    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
