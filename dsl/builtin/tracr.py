"""Programs that Tracr compiled (Lindner et al. 2023), as an `.npz` of weights and a `.json` of the same name: read,
checked, and what it says made plain. Torch-free; `dsl.builtin.tracr_model` makes the model.

The arrays are those of Tracr's Haiku transformer (`transformer.layer_0.attn.query.w`, (in, out)); the description
names the directions of the stream (`residual_labels`) and the words (`vocab`). Anything that is not understood is an
error: a program that is read wrongly still computes something.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dsl.builtin.words import WordTokenizer
from dsl.model_facts import ModelFacts
from graphir.errors import DataError, GraphirError, UnavailableError
from graphir.names import closest

Array = np.ndarray[Any, Any]

GAIN = 8.0
"""What a logit reads of the direction of its word, as in the compiled models that are built in. Tracr itself only takes
the largest."""
ACTIVATIONS = ("relu", "gelu")
NUMBERS = ("num_heads", "num_layers", "key_size", "mlp_hidden", "max_seq_len")
FLAGS = ("layer_norm", "causal", "numerical_output")
REQUIRED = ("name", *NUMBERS, "activation", *FLAGS, "vocab", "residual_labels")
OPTIONAL = ("output", "bos", "pad")
STARTS, PADS = ("BOS", "compiler_bos"), ("compiler_pad",)
MAX_BYTES, MAX_DESCRIPTION = 1 << 30, 1 << 24
BROKEN = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, RuntimeError, ValueError, SyntaxError,
    TypeError, ArithmeticError, AttributeError, MemoryError,
)  # fmt: skip
"""What zipfile and numpy raise for a file that is not what they take it for."""


@dataclass(frozen=True, slots=True)
class TracrTokenizer(WordTokenizer):
    """The words of a program, behind its first token (`bos_token_id`, unless None). Words from `inputs` on are answers
    only; no prompt has them. `specials` are the ids of the first token and of padding. `positions` is the largest
    number of tokens, the first included."""

    bos_token_id: int | None = None
    inputs: int = 0
    positions: int = 0
    specials: tuple[int, ...] = ()

    @property
    def identity(self) -> str:
        """Sha256 hex over the words and what else makes ids."""
        more = (self.pad_token_id, self.bos_token_id, self.inputs, self.positions)
        return hashlib.sha256(f"tracr {more} {' '.join(self.words)}".encode("utf-8", "surrogatepass")).hexdigest()

    def __call__(self, text: str, /, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Ids of the words of `text`. With special tokens it is a prompt, and DataError tells of a word that the
        program does not read and of more tokens than it has positions."""
        ids = WordTokenizer.__call__(self, text)["input_ids"]
        if add_special_tokens:
            if unread := next((self.words[i] for i in ids if i >= self.inputs), None):
                raise DataError(
                    f"the program answers `{unread}` and does not read it",
                    [f"it reads {', '.join(self.words[: self.inputs])}"],
                )
            ids = ids if self.bos_token_id is None else [self.bos_token_id, *ids]
            if len(ids) > self.positions:
                raise DataError(f"the prompt has {len(ids)} tokens, and the program reads {self.positions}")
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}


@dataclass(frozen=True, eq=False)
class TracrProgram:
    """What the two files say. `arrays` are the weights as they are stored, by name. `output` is the variable that is
    read out: `readout` (words, width) and `bias` (words,) make logits of it. `notes` say what was left out."""

    name: str
    layers: int
    heads: int
    causal: bool
    activation: str
    arrays: Mapping[str, Array]
    output: str
    readout: Array
    bias: Array
    tokenizer: TracrTokenizer
    facts: ModelFacts
    notes: tuple[str, ...] = field(default=())


def read_tracr(path: str | Path) -> TracrProgram:
    """Read `NAME.npz` and the `NAME.json` beside it.

    Raises UnavailableError for files that are not there or cannot be read, GraphirError for what is not understood:
    layer norm, an unknown activation, arrays that lack, that are too many, or have other shapes than the description
    says, values that are not finite, and an output that cannot be told.
    """
    path = Path(path)
    config = _description(path.with_suffix(".json"))
    arrays = _arrays(path)
    what = f"`{path.name}`"
    _check_arrays(what, config, arrays)
    return _program(what, path, config, arrays)


def _program(what: str, path: Path, config: Mapping[str, Any], arrays: Mapping[str, Array]) -> TracrProgram:
    """Files that fit together, in plain terms."""
    labels, vocabulary = config["residual_labels"], _words(what, config, arrays)
    output = _output(what, config, arrays)
    values = _values(what, config, output)
    words = (*vocabulary, *(word for word in values if word not in vocabulary))
    readout, bias = np.zeros((len(words), len(labels))), np.zeros(len(words))
    if config["numerical_output"]:
        _read_number(words, values, readout[:, labels.index(output)], bias)
    else:
        for word, value in values.items():
            readout[words.index(word), labels.index(f"{output}:{value}")] = GAIN
    rows = len(arrays["pos_embed.embeddings"])
    bos, pad = (_special(what, config, key, usual) for key, usual in (("bos", STARTS), ("pad", PADS)))
    specials = tuple(each for each in (bos, pad) if each is not None)
    tokenizer = TracrTokenizer(words, pad or 0, None, bos, len(vocabulary), rows, specials)
    facts = ModelFacts(
        "tracr", config["num_layers"], config["num_heads"], config["num_heads"], len(labels), config["mlp_hidden"],
        len(words), rows, sum(value.size for value in arrays.values()) + readout.size, path.stat().st_size,
    )  # fmt: skip
    unknown = [key for key in config if key not in REQUIRED + OPTIONAL]
    notes = (f"left out of the description: {', '.join(unknown)}",) if unknown else ()
    return TracrProgram(
        config["name"], config["num_layers"], config["num_heads"], config["causal"], config["activation"], arrays,
        output, readout, bias, tokenizer, facts, notes,
    )  # fmt: skip


# --- the two files ---------------------------------------------------------------------------------------------------


def _description(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_DESCRIPTION + 1)
    except OSError as error:
        raise UnavailableError(
            f"cannot read `{path}`: {(error.strerror or str(error)).lower()}",
            ["a Tracr export is an .npz and a .json of the same name beside it"],
        ) from None
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise UnavailableError(f"`{path}` is truncated or no JSON") from None
    if not isinstance(config, dict):
        raise GraphirError(f"`{path.name}` is no description of a Tracr program: an object with {', '.join(REQUIRED)}")
    _check_description(f"`{path.name}`", config)
    return config


def _check_description(what: str, config: Mapping[str, Any]) -> None:
    if missing := [key for key in REQUIRED if key not in config]:
        near = [f"did you mean `{missing[0]}` by `{name}`?" for name in closest(missing[0], [*config])[:1]]
        raise GraphirError(f"{what} lacks {_some(missing)}", near or [f"it has {_some(list(config))}"])
    for key in NUMBERS:
        value = config[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise GraphirError(f"{what}: `{key}` is a whole number from 1, not {value!r}")
    for key in FLAGS:
        if not isinstance(config[key], bool):
            raise GraphirError(f"{what}: `{key}` is true or false, not {config[key]!r}")
    if config["layer_norm"]:
        raise GraphirError(
            f"{what}: a program with layer norm is not read",
            ["Tracr compiles without it; export the compiled program itself"],
        )
    if config["activation"] not in ACTIVATIONS:
        raise GraphirError(
            f"{what}: unknown activation {config['activation']!r}", [f"it is {' or '.join(ACTIVATIONS)}"]
        )
    for key in ("name", *(key for key in OPTIONAL if key in config)):
        if not isinstance(config[key], str):
            raise GraphirError(f"{what}: `{key}` is a text, not {config[key]!r}")
    labels = config["residual_labels"]
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise GraphirError(f"{what}: `residual_labels` are texts, one for each direction of the stream")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise GraphirError(f"{what}: two directions of the stream are called `{twice}`")


def _arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz by name; nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
            if size > MAX_BYTES:
                raise GraphirError(f"`{path.name}` unpacks to {size:,} bytes", [f"at most {MAX_BYTES:,} are read"])
            return {name.removesuffix(".npy"): _array(path, packed.read(name)) for name in packed.namelist()}
    except OSError as error:
        raise UnavailableError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from None
    except BROKEN:
        raise UnavailableError(f"`{path}` is truncated or no .npz file") from None


def _array(path: Path, data: bytes) -> Array:
    """An array in numpy's form that is as large as its header says: memory is taken by what that says."""
    content = io.BytesIO(data)
    version = np.lib.format.read_magic(content)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(content)
    if kind.hasobject:
        raise GraphirError(
            f"`{path.name}` holds Python objects, which are not read: they could run code",
            ["save plain arrays of numbers"],
        )
    if math.prod(shape) * kind.itemsize != len(data) - content.tell():
        raise ValueError("an array is not as large as its header says")
    content.seek(0)
    found: Array = np.lib.format.read_array(content, allow_pickle=False)
    return found


def expected_shapes(config: Mapping[str, Any], words: int, positions: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all arrays of a program by name; matrices are (in, out)."""
    width, inner, hidden = (
        len(config["residual_labels"]),
        config["num_heads"] * config["key_size"],
        config["mlp_hidden"],
    )
    found: dict[str, tuple[int, ...]] = {
        "token_embed.embeddings": (words, width),
        "pos_embed.embeddings": (positions, width),
    }
    for layer in range(config["num_layers"]):
        sizes = {f"attn.{part}": (width, inner) for part in ("query", "key", "value")}
        sizes |= {"attn.linear": (inner, width), "mlp.linear_1": (width, hidden), "mlp.linear_2": (hidden, width)}
        for part, (inputs, outputs) in sizes.items():
            found[f"transformer.layer_{layer}.{part}.w"] = (inputs, outputs)
            found[f"transformer.layer_{layer}.{part}.b"] = (outputs,)
    return found


def _check_arrays(what: str, config: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    rows = [len(np.atleast_1d(arrays.get(f"{kind}_embed.embeddings", ()))) for kind in ("token", "pos")]
    wanted = expected_shapes(config, *rows)
    if missing := [name for name in wanted if name not in arrays]:
        raise GraphirError(f"{what} lacks {_some(missing)}", [f"it has {_some(list(arrays))}"])
    if unknown := [name for name in arrays if name not in wanted]:
        hints = ["a program with layer norm is not read"] if any("norm" in name for name in unknown) else []
        raise GraphirError(f"{what} has arrays that are not understood: {_some(unknown)}", hints)
    for name, shape in wanted.items():
        value = arrays[name]
        if value.shape != shape:
            raise GraphirError(
                f"{what}: `{name}` is {_shape(value.shape)}, and the description says {_shape(shape)}",
                ["matrices are (in, out), as Haiku has them"] if value.shape == shape[::-1] and len(shape) == 2 else [],
            )
        if value.dtype.kind != "f" or value.dtype.itemsize > 8:
            raise GraphirError(f"{what}: `{name}` holds {value.dtype}, not floating-point numbers of up to 64 bits")
        if not np.isfinite(value).all():
            raise GraphirError(f"{what}: `{name}` is not finite everywhere")
    if rows[1] < config["max_seq_len"]:
        raise GraphirError(f"{what} has {rows[1]} positions, and the description says {config['max_seq_len']}")


# --- words and output ------------------------------------------------------------------------------------------------


def _words(what: str, config: Mapping[str, Any], arrays: Mapping[str, Array]) -> tuple[str, ...]:
    """The words that the program reads, in the order of their ids."""
    vocabulary, rows = config["vocab"], len(arrays["token_embed.embeddings"])
    if not isinstance(vocabulary, dict) or sorted(map(repr, vocabulary.values())) != sorted(map(repr, range(rows))):
        raise GraphirError(f"{what}: `vocab` gives each word an id, 0 to {rows - 1}, and each id to one word")
    words = tuple(sorted(vocabulary, key=vocabulary.__getitem__))
    _writable(what, words)
    return words


def _writable(what: str, words: tuple[str, ...]) -> None:
    if wrong := next((word for word in words if word.split() != [word]), None):
        hint = "prompts are split at white space; call the word something else in the .json"
        raise GraphirError(f"{what}: the word {wrong!r} cannot be written in a prompt", [hint])


def _special(what: str, config: Mapping[str, Any], key: str, usual: tuple[str, ...]) -> int | None:
    """The id of the first token or of padding: what the description says, or the word Tracr uses, if it has it."""
    if key in config and config[key] not in config["vocab"]:
        raise GraphirError(f"{what}: `{key}` is `{config[key]}`, which is no word of the program")
    word = config.get(key) or next((each for each in usual if each in config["vocab"]), None)
    return None if word is None else int(config["vocab"][word])


def _output(what: str, config: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    """The variable that the program computes: the one the description names (`output`), or that is called like the
    program (Tracr adds a number), or the only one that layers write and none reads."""
    variables: list[str] = list(dict.fromkeys(label.partition(":")[0] for label in config["residual_labels"]))
    if "output" in config:
        if config["output"] not in variables:
            raise GraphirError(f"{what}: no variable `{config['output']}`", [f"variables are {_some(variables, 20)}"])
        return str(config["output"])
    named = [each for each in variables if re.fullmatch(rf"{re.escape(config['name'])}(_\d+)?", each)]
    if len(named) == 1:
        return named[0]
    last = [each for each in named or variables if each in _unread(config, arrays)]
    if len(last) == 1:
        return last[0]
    raise GraphirError(
        f"{what}: which variable is the output cannot be told: {_some(last or variables, 20)}",
        ['name it in the .json: "output": "VARIABLE"'],
    )


def _unread(config: Mapping[str, Any], arrays: Mapping[str, Array]) -> set[str]:
    """Variables that a layer writes and no layer reads."""
    width = len(config["residual_labels"])
    written, read = np.zeros(width, bool), np.zeros(width, bool)
    for name, value in arrays.items():
        if name.endswith((".linear.w", ".linear_2.w")):
            written |= (value != 0).any(0)
        elif name.endswith((".query.w", ".key.w", ".value.w", ".linear_1.w")):
            read |= (value != 0).any(1)
    variables = [label.partition(":")[0] for label in config["residual_labels"]]
    return {variables[i] for i in np.flatnonzero(written)} - {variables[i] for i in np.flatnonzero(read)}


def _values(what: str, config: Mapping[str, Any], output: str) -> dict[str, Any]:
    """The values of the output by the word that stands for each: those of its labels; of a number, all fractions that
    shares of up to `max_seq_len` tokens can be."""
    own = [label for label in config["residual_labels"] if label.partition(":")[0] == output]
    numerical = own == [output]
    if numerical != config["numerical_output"] or (not numerical and output in own):
        kind = "a number" if config["numerical_output"] else "one of several values"
        raise GraphirError(f"{what}: the output `{output}` is {kind}, and its directions are {_some(own)}")
    if numerical:
        shares = {Fraction(part, whole) for whole in range(1, config["max_seq_len"] + 1) for part in range(whole + 1)}
        return {str(share): share for share in sorted(shares)}
    values = {label.partition(":")[2]: label.partition(":")[2] for label in own}
    _writable(what, tuple(values))
    return values


def _read_number(words: tuple[str, ...], values: Mapping[str, Fraction], readout: Array, bias: Array) -> None:
    """Logits that are largest for the nearest value v of a number x, −(x − v)² but for x² which all have, so that the
    nearest two values are GAIN apart; other words are GAIN below."""
    ordered = sorted(values.values())
    gap = min((float(b - a) for a, b in itertools.pairwise(ordered)), default=1.0)
    bias[:] = -GAIN
    for word, value in values.items():
        readout[words.index(word)] = 2 * float(value) * GAIN / gap**2
        bias[words.index(word)] = -(float(value) ** 2) * GAIN / gap**2


def _some(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{name}`" for name in names[:most]) + more


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "one number"


__all__ = ["TracrProgram", "TracrTokenizer", "expected_shapes", "read_tracr"]
