"""The true circuit of a program that Tracr compiled, on what the program itself answers.

    it = prepare_tracr("reverse.npz", "zero")
    truth = minimal_edges(it.program, it.task)

Prompts are drawn from the words that the program reads; at each position the right answer is the program's own. So no
data are needed beside the file, and every example says at which position it is read.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dsl.builtin.truth import Setting
from graphir.errors import DataError, GraphirError
from passes.examples import Example

if TYPE_CHECKING:
    from dsl.builtin.tracr import TracrTokenizer
    from dsl.builtin.tracr_model import TracrModel
    from passes.ground_truth import MinimalEdges
    from passes.task import Ablation

EXAMPLES = 160
_DRAWS = 4
"""Prompts of one length that are drawn, as a multiple of the examples asked for; all where there are fewer."""
_CLEAR = 1.0
"""An answer counts where its logit is that much above all others: a program may say nothing at a position."""

Prompt = tuple[str, ...]
Answers = Mapping[Prompt, Sequence[str | None]]


def prepare_tracr(
    path: str | Path, ablation: Ablation = "interchange", *, examples: int = EXAMPLES, seed: int = 0,
    lengths: Sequence[int] | None = None,
) -> Setting:  # fmt: skip
    """Load, trace and lower a Tracr export, and draw examples (see `tracr_examples`).

    Raises what `read_tracr` and `tracr_examples` raise.
    """
    import graphir
    from dsl.builtin.tracr_model import load_tracr
    from passes.task import Task

    model, tokenizer = load_tracr(path)
    drawn = tracr_examples(model, tokenizer, n=examples, seed=seed, lengths=lengths)
    task = Task.from_examples(Path(path).stem, drawn, tokenizer, by="example", ablation=ablation)
    longest = sorted(task.examples("train"), key=len)[-2:]  # traced on one token, the length would be fixed
    graph = graphir.trace(model, dict(task.collate(longest).inputs), granularity="head")
    return Setting(graphir.lower(graph), task)


def tracr_truth(path: str | Path, ablation: Ablation = "interchange", *, examples: int = EXAMPLES) -> MinimalEdges:
    """The minimal edges of a Tracr export under an ablation (see `passes.ground_truth`). Raises GraphirError where
    there are several minimal circuits, and what `prepare_tracr` raises."""
    from passes.ground_truth import minimal_edges

    it = prepare_tracr(path, ablation, examples=examples)
    truth = minimal_edges(it.program, it.task)
    if not truth.unique:
        raise GraphirError(f"`{Path(path).name}` has several minimal circuits under {ablation} ablation on its data")
    return truth


def tracr_examples(
    model: TracrModel, tokenizer: TracrTokenizer, *, n: int = EXAMPLES, seed: int = 0,
    lengths: Sequence[int] | None = None,
) -> list[Example]:  # fmt: skip
    """About `n` prompts, each to be read at one position, with the program's own answer there, and for counterfactual
    another prompt of the same length that it answers differently. Each place of each length is asked equally often, or
    the few short prompts would not count; prompts come again, with other counterfactuals, where there are few.

    `lengths` are numbers of words; all that the program reads unless given. Fixed by `seed`. Raises DataError where the
    program gives the same answer to everything, and for lengths that it does not read.
    """
    start = tokenizer.bos_token_id is not None
    longest = tokenizer.positions - start
    chosen = range(1, longest + 1) if lengths is None else lengths
    if any(not 1 <= length <= longest for length in chosen):
        raise DataError(f"the program reads 1 to {longest} words")
    words = [word for i, word in enumerate(tokenizer.words[: tokenizer.inputs]) if i not in tokenizer.specials]
    rng = random.Random(f"tracr/{seed}")
    places = sum(chosen)
    found: list[Example] = []
    for length in chosen:
        answers = answers_of(model, tokenizer, _prompts(words, length, _DRAWS * n, rng))
        for at in range(length):
            asked = [prompt for prompt, said in answers.items() if said[at] is not None]
            if len({answers[prompt][at] for prompt in asked}) > 1:
                rng.shuffle(asked)
                prompts = itertools.islice(itertools.cycle(asked), -(-n // places))
                found += (_example(prompt, at, start, answers, rng) for prompt in prompts)
    if not found:
        raise DataError("the program gives the same answer, or none, to every prompt")
    return found


def answers_of(model: TracrModel, tokenizer: TracrTokenizer, prompts: Sequence[Prompt]) -> Answers:
    """What the model answers at each word of prompts of one length, None where no logit stands out."""
    import torch

    ids = torch.tensor([tokenizer(" ".join(prompt))["input_ids"] for prompt in prompts])
    with torch.no_grad():
        logits = model(ids)[:, -len(prompts[0]) :]
    best = logits.topk(2)
    clear = (best.values[..., 0] - best.values[..., 1] >= _CLEAR).tolist()
    said = best.indices[..., 0].tolist()
    return {
        prompt: [tokenizer.words[word] if sure else None for word, sure in zip(*row, strict=True)]
        for prompt, *row in zip(prompts, said, clear, strict=True)
    }


def _prompts(words: Sequence[str], length: int, most: int, rng: random.Random) -> list[Prompt]:
    """All prompts of a length, or `most` of them drawn."""
    if len(words) ** length <= most:
        return list(itertools.product(words, repeat=length))
    return list(dict.fromkeys(tuple(rng.choices(words, k=length)) for _ in range(most)))


def _example(prompt: Prompt, at: int, start: bool, answers: Answers, rng: random.Random) -> Example:
    answer = answers[prompt][at]
    other = rng.choice([other for other, said in answers.items() if said[at] not in (answer, None)])
    return Example(
        clean=" ".join(prompt),
        counterfactual=" ".join(other),
        answer=f" {answer}",
        distractor=f" {answers[other][at]}",
        template=f"{len(prompt)} words, word {at}",
        position=at + start,
    )


__all__ = ["answers_of", "prepare_tracr", "tracr_examples", "tracr_truth"]
