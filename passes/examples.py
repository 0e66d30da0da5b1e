"""Task data as text: one prompt, its counterfactual, and the answers to tell apart. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt and what should follow it.

    `answer` and `distractor` are written as they appear after the prompt, with their leading space: `" Mary"`.
    `counterfactual` is a prompt of the same token length which asks for another answer, or None where the ablation
    needs none. `template` names the sentence frame: data are split by it, so that a circuit is judged on frames it
    never saw. `source` is where the example comes from (`"pairs.jsonl:12"`), empty for generated ones. `position` is
    the token whose logits are read, counted from 0 in the prompt's tokens, those that the tokenizer puts in front
    included; None for the mask token of a prompt that has one, else the last.
    """

    clean: str
    counterfactual: str | None
    answer: str
    distractor: str | None
    template: str = ""
    source: str = ""
    position: int | None = None
