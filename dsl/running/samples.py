"""The samples that analyses look at: rows of tokens of a corpus, or the prompts of a task, with answers if it has any.

A text file is tokenized and cut into rows of equal length, of which the seed draws `n`; of a JSONL file each line is a
sample, of a generator each prompt. No more of a file is read than the draw can need (`SPARE` times as much).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsl.running.failures import located
from dsl.running.identity import file_digest
from dsl.running.keys import describe
from dsl.running.loading import input_form, single_token_test, tokenizer_of
from dsl.running.sections.tasks import TaskStage
from dsl.running.stage import Stage
from dsl.running.storing import read_numbers, write_numbers
from dsl.spec import CorpusSpec, TaskSpec
from graphir.errors import DataError, UnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from dsl.models import LoadedModel
    from dsl.running.workplace import Workplace
    from dsl.spec import ModelSpec
    from passes.model_inputs import InputForm
    from passes.tokenizing import Tokenizer

Data = CorpusSpec | TaskSpec
BATCH = 16
SPARE = 4
"""How many times the samples asked for are read, to draw from."""
CHARACTERS = 16
"""Characters that a token is taken to have at most, on average, when a text is read."""
MAX_LINE = 1 << 20


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows of token ids, in the order of `batches`. `labels` (n,) are the tokens that a task asks for behind them.

    With `masked` rows are padded to one length, right, and there is an attention mask; without it every batch has rows
    of one length, and rows are in the order in which their lengths first appear. `form` says what the model is given
    beside the tokens.
    """

    name: str
    rows: tuple[tuple[int, ...], ...]
    pad: int = 0
    masked: bool = True
    labels: NDArray[np.int64] | None = None
    asked: int = field(default=0)
    form: InputForm | None = None

    @classmethod
    def made(
        cls, name: str, rows: Sequence[tuple[int, ...]], *, pad: int, masked: bool,
        labels: Sequence[int] | None = None, asked: int = 0, form: InputForm | None = None,
    ) -> Samples:  # fmt: skip
        """Put rows into the order of batches."""
        order = list(range(len(rows)))
        if not masked:
            first = {length: i for i, length in reversed(list(enumerate(map(len, rows))))}
            order.sort(key=lambda i: first[len(rows[i])])
        told = None if labels is None else np.array([labels[i] for i in order], np.int64)
        return cls(name, tuple(rows[i] for i in order), pad, masked, told, asked or len(rows), form)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(map(len, self.rows), default=0)

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of the tokens and labels."""
        labels = None if self.labels is None else self.labels.tolist()
        return hashlib.sha256(json.dumps([self.rows, labels]).encode()).hexdigest()

    def batches(self, size: int = BATCH) -> Iterator[dict[str, Tensor]]:
        """Inputs by name, at most `size` rows each."""
        import torch

        for part in self._cut(size):
            longest = max(map(len, part))
            ids = torch.tensor([[*row, *[self.pad] * (longest - len(row))] for row in part])
            lengths = torch.tensor([len(row) for row in part])
            mask = (torch.arange(longest)[None, :] < lengths[:, None]).long()
            if self.form is not None:
                yield self.form.inputs(ids, mask)
            else:
                yield {"input_ids": ids, "attention_mask": mask} if self.masked else {"input_ids": ids}

    def _cut(self, size: int) -> Iterator[list[tuple[int, ...]]]:
        part: list[tuple[int, ...]] = []
        for row in self.rows:
            if part and (len(part) == size or (not self.masked and len(row) != len(part[0]))):
                yield part
                part = []
            part.append(row)
        if part:
            yield part


@dataclass(frozen=True)
class CorpusFacts:
    """A corpus in numbers: SHA-256 of its tokens, samples, samples asked for, tokens of the longest."""

    name: str
    identity: str
    samples: int
    asked: int
    tokens: int


class CorpusStage(Stage[CorpusFacts]):
    """Read or generate a corpus, tokenize it, draw from it. What is kept is what the manifest says of it."""

    kind = "corpus"
    code = ("dsl.running.samples", "dsl.tasks", "passes.tokenizing")

    def __init__(self, spec: CorpusSpec, model: ModelSpec) -> None:
        super().__init__(f"corpus {spec.name}", spec.span, f"reading corpus `{spec.name}`")
        self.spec, self.model = spec, model

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """The section, the content of its file, the model for its tokenizer."""
        found = {name: value for name, value in describe(self.spec).items() if name not in ("reference", "pooling")}
        if self.spec.kind == "builtin":
            found["reference"] = self.spec.reference
        else:
            try:
                found["sha256"] = file_digest(place.spec.folder / self.spec.reference)
            except OSError:
                found["sha256"] = None  # reading it says what is wrong, with its place
        return found | {"model": place.identity(self.model)}

    def run(self, place: Workplace) -> CorpusFacts:
        """Its numbers; the samples stay in `place`."""
        made = corpus_samples(self.spec, self.model, place)
        return CorpusFacts(self.spec.name, made.identity, len(made), made.asked, made.longest)

    def save(self, value: CorpusFacts, folder: Path) -> None:
        """As JSON."""
        write_numbers(folder, vars(value))

    def load(self, folder: Path, place: Workplace) -> CorpusFacts:
        """The same, under the name it has in this file."""
        return CorpusFacts(**{**read_numbers(folder), "name": self.spec.name})


def data_stage(data: Data, model: ModelSpec) -> Stage[Any]:
    """What stands for samples in the key of a stage."""
    return CorpusStage(data, model) if isinstance(data, CorpusSpec) else TaskStage(data, model)


def samples_of(data: Data, model: ModelSpec, place: Workplace, split: str | None = None) -> Samples:
    """The samples of a corpus; of a task all prompts, or those of one split."""
    if isinstance(data, CorpusSpec):
        return corpus_samples(data, model, place)
    task = place.task(data, model)
    parts = list(task.splits) if split is None else [split]
    rows = [row for part in parts for row in task.examples(part)]
    if any(row.example.position not in (None, len(row) - 1) for row in rows):
        raise DataError(
            f"analyses look at the last token of a prompt, and task `{data.name}` reads its answers `at position`",
            ["analyze a corpus, or a task that predicts `at last`"],
        )
    return Samples.made(
        data.name, [row.input_ids for row in rows], pad=task.pad_id, masked=task.padding != "none",
        labels=[row.answer for row in rows], form=task.form,
    )  # fmt: skip


def corpus_samples(spec: CorpusSpec, model: ModelSpec, place: Workplace) -> Samples:
    """The samples of a corpus, made once in a run. `StageError` for a file that cannot be read or has no text."""
    return place.once(f"corpus {spec.name} {model.name}", lambda: _read(spec, place, place.model(model)))


def first_sample(spec: CorpusSpec, model: ModelSpec, place: Workplace, rows: int) -> dict[str, Tensor]:
    """The first sample as inputs, repeated in each row: what a model is traced with."""
    from dsl.running.loading import device_of

    loaded = place.model(model)
    samples = corpus_samples(spec, model, place)
    one = Samples(spec.name, samples.rows[:1] * rows, samples.pad, samples.masked)
    return {name: value.to(device_of(loaded.model)) for name, value in next(one.batches()).items()}


def _read(spec: CorpusSpec, place: Workplace, loaded: LoadedModel) -> Samples:
    from passes.task import pad_token

    with located(f"reading corpus `{spec.name}`", spec.span), place.reporter.stage(f"corpus {spec.name}", minor=True):
        tokenizer = tokenizer_of(loaded)
        if spec.kind == "builtin":
            rows = _generated(spec, tokenizer)
        elif spec.kind == "jsonl":
            rows = _lines(place.spec.folder / spec.reference, spec, tokenizer)
        else:
            rows = _pieces(place.spec.folder / spec.reference, spec, tokenizer)
        rows = _drawn(rows, spec)
        if not rows:
            raise DataError(
                f"corpus `{spec.name}` has no sample", [f"write more text, or lower `length: {spec.length}`"]
            )
        form = input_form(loaded)
        masked = form.padding != "none"
        return Samples.made(spec.name, rows, pad=pad_token(tokenizer), masked=masked, asked=spec.n, form=form)


def _drawn(rows: list[tuple[int, ...]], spec: CorpusSpec) -> list[tuple[int, ...]]:
    """`n` of the rows, in their order."""
    if len(rows) <= spec.n:
        return rows
    chosen = random.Random(f"corpus/{spec.seed}").sample(range(len(rows)), spec.n)
    return [rows[i] for i in sorted(chosen)]


def _generated(spec: CorpusSpec, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    from dsl.tasks import find_task
    from passes.tokenizing import prompt_ids

    kind = find_task(spec.reference)
    examples = kind.generate({"n": spec.n, "seed": spec.seed}, single_token_test(tokenizer))
    return [prompt_ids(example.clean, tokenizer)[0][: spec.length] for example in examples]


def _lines(path: Path, spec: CorpusSpec, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    from passes.tokenizing import prompt_ids

    rows: list[tuple[int, ...]] = []
    try:
        with path.open("rb") as file:
            number = 0
            while len(rows) < SPARE * spec.n and (line := file.readline(MAX_LINE + 1)):
                number += 1
                text = _text_of(line, f"{path.name}:{number}")
                if text is not None:
                    rows.append(prompt_ids(text, tokenizer)[0][: spec.length])
    except OSError as error:
        raise _unreadable(path, error) from None
    return rows


def _text_of(line: bytes, source: str) -> str | None:
    """The text of a line, None for an empty one."""
    if len(line) > MAX_LINE:
        raise DataError(f"{source}: the line is longer than {MAX_LINE} bytes", ["write one JSON object a line"])
    if not line.strip():
        return None
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise DataError(f"{source}: not JSON in UTF-8", ['write one object a line: {"text": "…"}']) from None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str) or not text:
        raise DataError(f"{source}: no text", ['each line has a field `text`: {"text": "…"}'])
    return text


def _pieces(path: Path, spec: CorpusSpec, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """A text in rows of `length` tokens, behind the special tokens that begin a text of this tokenizer. What is left
    over is a row only where there would be none."""
    from passes.tokenizing import encode

    limit = SPARE * CHARACTERS * spec.n * spec.length
    try:
        with path.open("r", encoding="utf-8-sig") as file:
            text = file.read(limit)
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: not UTF-8 at byte {error.start}", ["save the file as UTF-8"]) from None
    start = _prefix(text, tokenizer)
    size = max(1, spec.length - len(start))
    ids = encode(text, tokenizer, special=False) if text.strip() else ()
    rows = [start + ids[i : i + size] for i in range(0, len(ids) - size + 1, size)]
    return rows or ([start + ids] if ids else [])


def _prefix(text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Special tokens before a text."""
    from passes.tokenizing import encode

    word = next(iter(text.split()), "")
    if not word:
        return ()
    whole, bare = encode(word, tokenizer), encode(word, tokenizer, special=False)
    places = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare]
    return whole[: places[0]] if places and bare else ()


def _unreadable(path: Path, error: OSError) -> UnavailableError:
    return UnavailableError(f"cannot read corpus `{path}`: {(error.strerror or str(error)).lower()}")
