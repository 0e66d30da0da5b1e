"""Examples through a tokenizer: ids, the predicting position, single-token answers, and errors that show the tokens.

Torch-free. Any callable that maps a text to a mapping with `input_ids` will do, so every Hugging Face tokenizer does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from graphir.errors import DataError
from passes.examples import Example


class Tokenizer(Protocol):
    """What is asked of a tokenizer. `mask_token_id`, `pad_token_id`, `eos_token_id`, `sep_token_id`,
    `convert_ids_to_tokens`, `get_vocab` and `identity` are used where they exist."""

    def __call__(self, text: str, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """An example as token ids. `position` is the index whose logits predict the answer."""

    example: Example
    input_ids: tuple[int, ...]
    counterfactual_ids: tuple[int, ...] | None
    position: int
    answer: int
    distractor: int | None

    def __len__(self) -> int:
        return len(self.input_ids)


def tokenize_examples(
    name: str, examples: Sequence[Example], tokenizer: Tokenizer, *, decoder: Sequence[int] = ()
) -> tuple[TokenizedExample, ...]:
    """Every example as ids; DataError for the first that cannot be used, with its index, file line and tokens.

    With `decoder`, the ids that a decoder starts from, the prompt is the encoder's and the answer follows those ids.
    """
    rows: list[TokenizedExample] = []
    for index, example in enumerate(examples):
        try:
            rows.append(tokenize_example(example, tokenizer, decoder=decoder))
        except DataError as error:
            where = f"example {index}" + (f" ({example.source})" if example.source else "")
            raise DataError(f"task `{name}`: {where}: {error.message}", error.hints) from None
    return tuple(rows)


def tokenize_example(example: Example, tokenizer: Tokenizer, *, decoder: Sequence[int] = ()) -> TokenizedExample:
    """One example as ids; DataError without its place in the data."""

    def prompt(text: str) -> tuple[tuple[int, ...], int]:
        return encoder_ids(text, tokenizer, decoder) if decoder else prompt_ids(text, tokenizer)

    def answer_of(role: str, text: str) -> int:
        return answer_id(role, text, "" if decoder else example.clean, tokenizer)

    clean, position = prompt(example.clean)
    counterfactual = None
    if example.counterfactual is not None:
        counterfactual, _ = prompt(example.counterfactual)
        if len(counterfactual) != len(clean):
            raise DataError(
                f"clean has {len(clean)} tokens and counterfactual {len(counterfactual)}\n"
                f"  clean          {show_tokens(clean, tokenizer)}\n"
                f"  counterfactual {show_tokens(counterfactual, tokenizer)}",
                ["interchange ablation swaps values token by token: change words one for one"],
            )
    answer = answer_of("answer", example.answer)
    distractor = None
    if example.distractor is not None:
        distractor = answer_of("distractor", example.distractor)
        if distractor == answer:
            raise DataError(f"answer and distractor are the same token: {show_tokens([answer], tokenizer)}")
    if example.position is not None:
        position = check_position(example.position, clean, tokenizer, decoder)
    return TokenizedExample(example, clean, counterfactual, position, answer, distractor)


def check_position(position: int, ids: Sequence[int], tokenizer: Tokenizer, decoder: Sequence[int] = ()) -> int:
    """A given position; DataError, with the tokens by number, where the prompt has none there."""
    if decoder:
        raise DataError("the answer of a model with a decoder is read behind what the decoder starts from", [
            "leave `position` out"
        ])  # fmt: skip
    if not 0 <= position < len(ids):
        raise DataError(
            f"the answer is read at position {position}, and the prompt has {len(ids)} tokens: "
            f"{show_tokens(ids, tokenizer)}",
            [f"positions are 0 to {len(ids) - 1}"],
        )
    return position


def prompt_ids(text: str, tokenizer: Tokenizer) -> tuple[tuple[int, ...], int]:
    """Ids of a prompt, and the index that predicts: the mask token where there is exactly one, else the last token.

    An end-of-text or separator token that the tokenizer appends is dropped from a prompt without a mask token, since
    nothing can be predicted behind it.
    """
    if not text:
        raise DataError("the prompt is empty")
    ids = encode(text, tokenizer)
    mask = getattr(tokenizer, "mask_token_id", None)
    if mask is not None and mask in ids:
        if ids.count(mask) > 1:
            raise DataError(f"the prompt has {ids.count(mask)} mask tokens, and one is predicted")
        return ids, ids.index(mask)
    ends = {getattr(tokenizer, key, None) for key in ("eos_token_id", "sep_token_id")} - {None}
    if len(ids) > 1 and ids[-1] in ends and ids != encode(text, tokenizer, special=False):
        ids = ids[:-1]
    if not ids:
        raise DataError(f"the prompt {text!r} has no tokens")
    return ids, len(ids) - 1


def encoder_ids(text: str, tokenizer: Tokenizer, decoder: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Ids of a prompt for an encoder, the end of the text included, and the index in the decoder that predicts."""
    if not text:
        raise DataError("the prompt is empty")
    ids = encode(text, tokenizer)
    if not ids:
        raise DataError(f"the prompt {text!r} has no tokens")
    return ids, len(decoder) - 1


def answer_id(role: str, text: str, prompt: str, tokenizer: Tokenizer) -> int:
    """The one token that `text` adds behind `prompt`, which may be nothing.

    Read from the tokens of prompt and answer together, because some tokenizers split a text that stands alone in
    another way. For a masked prompt the text alone counts.
    """
    if not text:
        raise DataError(f"the {role} is empty")
    mask = getattr(tokenizer, "mask_token_id", None)
    before = encode(prompt, tokenizer, special=False) if prompt else ()
    if mask is not None and mask in before:
        added = encode(text.strip(), tokenizer, special=False)
    else:
        joined = encode(prompt + text, tokenizer, special=False)
        if joined[: len(before)] != before:
            raise DataError(
                f"the {role} {text!r} melts into the prompt's last token: {show_tokens(joined[-3:], tokenizer)}",
                [f"write the {role} with its leading space: {' ' + text.lstrip()!r}", "end the prompt without a space"],
            )
        added = joined[len(before) :]
    if len(added) != 1:
        hints = [f"choose a word that is one token, or write it as it appears in the text ({' ' + text.strip()!r})"]
        raise DataError(f"the {role} {text!r} is {len(added)} tokens: {show_tokens(added, tokenizer)}", hints)
    return added[0]


def encode(text: str, tokenizer: Tokenizer, *, special: bool = True) -> tuple[int, ...]:
    """Token ids, with or without the special tokens that the tokenizer adds."""
    if special:
        return tuple(tokenizer(text)["input_ids"])
    call: Callable[..., Mapping[str, Any]] = tokenizer
    try:
        return tuple(call(text, add_special_tokens=False)["input_ids"])
    except TypeError:  # a plain callable, which adds none
        return tuple(tokenizer(text)["input_ids"])


def show_tokens(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Tokens for people: `When | ĠMary | Ġand`, or the ids where the tokenizer has no names for them."""
    convert = getattr(tokenizer, "convert_ids_to_tokens", None)
    tokens = convert(list(ids)) if convert is not None else ids
    return " | ".join(map(str, tokens)) if ids else "(none)"


def single_token_filter(tokenizer: Tokenizer, prompt: str = "and") -> Callable[[str], bool]:
    """A test for generators: whether a word (with its leading space) adds exactly one token behind `prompt`."""

    def is_single(word: str) -> bool:
        try:
            answer_id("word", word, prompt, tokenizer)
        except DataError:
            return False
        return True

    return is_single


def tokenizer_identity(tokenizer: Tokenizer) -> str:
    """What tells two tokenizers apart: their own `identity`, else a sha256 over class name and vocabulary."""
    own = getattr(tokenizer, "identity", None)
    if isinstance(own, str):
        return own
    digest = hashlib.sha256(getattr(type(tokenizer), "__qualname__", "").encode())
    vocabulary = getattr(tokenizer, "get_vocab", None)
    if vocabulary is not None:
        digest.update(json.dumps(sorted(vocabulary().items())).encode())
    return digest.hexdigest()
