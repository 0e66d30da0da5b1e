"""Tasks whose inputs are tensors and not text: images, features, token ids made elsewhere.

    task = TensorTask.from_tensors("digits", {"x": images}, labels, fractions=(0.6, 0.2, 0.2))
    circuit = passes.run("csordas", program, task)

Everything that takes a `Task` takes one of these: methods, `Evaluator`, evidence. The names of the inputs are those of
the model's `forward`, by which it is called; an `nn.Sequential` is best traced with its input by name as well:
`graphir.trace(model, {"input": images[:2]})`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphir.errors import DataError
from passes.examples import Example
from passes.splitting import SPLITS, SplitBy, split_examples
from passes.task import Ablation, Batch, Task, as_long, count
from passes.tokenizing import TokenizedExample


@dataclass(frozen=True, slots=True)
class TensorRow(TokenizedExample):
    """A row of the tensors of a `TensorTask`, at `row`. `length` is how many positions it has where these are an axis.

    `input_ids` holds one number, the same for rows of equal inputs, so that these stay in one split.
    """

    row: int
    length: int

    def __len__(self) -> int:
        return self.length


@dataclass(frozen=True, eq=False)
class TensorTask(Task):
    """A task over rows of `inputs` (by name, each (N, …)) and, for interchange, of a `counterfactual` of the same form.

    Rows are classified: `answers` (N,) are indices into the model's first output (B, C), or (B, S, C) where
    `positions` (N,) say at which position it is to be read. Build it with `from_tensors`.
    """

    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    counterfactual: Mapping[str, Tensor] | None = None
    positions: Tensor | None = None

    def rows_for(self, split: str, tokens: int) -> int:
        """One: rows are no tokens."""
        return 1

    @classmethod
    def from_tensors(
        cls,
        name: str,
        inputs: Mapping[str, Tensor],
        answers: Tensor | Sequence[int],
        *,
        counterfactual: Mapping[str, Tensor] | None = None,
        distractors: Tensor | Sequence[int] | None = None,
        positions: Tensor | Sequence[int] | None = None,
        groups: Sequence[Hashable] | None = None,
        splits: Mapping[str, Sequence[int]] | None = None,
        fractions: Sequence[float] = (0.5, 0.25, 0.25),
        seed: int = 0,
        ablation: Ablation | None = None,
    ) -> TensorTask:
        """Check the tensors and split their rows.

        `splits` names the rows of each split; without it rows are split by `fractions`: whole `groups` (N,) stay
        together where they are given (as templates of sentences do), else rows of equal inputs. The ablation is
        `interchange` where there is a counterfactual, else `zero`. Raises `DataError` for tensors of different lengths,
        values that are not finite, answers that are no whole numbers or negative, a counterfactual of another form or
        lacking for interchange, and rows in two splits.
        """
        ablation = ablation or ("zero" if counterfactual is None else "interchange")
        labels = _labels(name, "answers", answers)
        total = len(labels)
        given = {key: value.detach().cpu() for key, value in inputs.items()}
        _check_inputs(name, given, total)
        other = None if counterfactual is None else {k: v.detach().cpu() for k, v in counterfactual.items()}
        _check_counterfactual(name, given, other, ablation)
        rivals = None if distractors is None else _labels(name, "distractors", distractors)
        where = None if positions is None else _labels(name, "positions", positions)
        for what, values in (("distractors", rivals), ("positions", where), ("groups", groups)):
            if values is not None and len(values) != total:
                raise DataError(f"task `{name}` has {total} answers and {len(values)} {what}")
        if rivals is not None and bool((same := rivals == labels).any()):
            raise DataError(f"task `{name}`: row {int(same.nonzero()[0])} has its answer for a distractor")
        rows = _rows(given, labels, rivals, where, groups)
        by: SplitBy = "example" if groups is None else "template"
        if splits is None:
            parts = dict(zip(SPLITS, split_examples(rows, fractions, by=by, seed=seed), strict=True))
        else:
            parts = dict(_given_splits(name, rows, splits))
        chosen = {key: parts.get(key, ()) for key in (*SPLITS, *parts)}
        identity = _hash(given, other, labels, rivals, where, chosen, ablation)
        return cls(
            name=name, splits=chosen, ablation=ablation, identity=identity, split_by=by, seed=seed, inputs=given,
            counterfactual=other, positions=where,
        )  # fmt: skip

    def beside(self, judged: Task) -> Task:
        """The task as it is: its inputs are all of one shape."""
        del judged
        return self

    def collate(self, rows: Sequence[TokenizedExample]) -> Batch:
        """One batch of these rows; nothing is padded."""
        index = torch.tensor([_row(row) for row in rows])
        other = self.counterfactual
        rivals = [row.distractor for row in rows]
        return Batch(
            inputs={key: value[index] for key, value in self.inputs.items()},
            counterfactual=None if other is None else {key: value[index] for key, value in other.items()},
            positions=None if self.positions is None else as_long(self.positions[index]),
            answers=as_long([row.answer for row in rows]),
            distractors=None if None in rivals else as_long(rivals),
            examples=tuple(rows),
        )

    def tensors(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        """The inputs and the answers (n,) of a split, in the order of the data: what a trainer needs."""
        batch = self.collate(self.examples(split))
        return dict(batch.inputs), batch.answers

    def describe(self) -> str:
        """A few lines for people: sizes of the splits, shapes of the inputs, classes."""
        total = len(self)
        lines = [f"task {self.name}: {count(total, 'row')}, split by {self.split_by}, {self.ablation} ablation"]
        for name, rows in self.splits.items():
            share = f"({len(rows) / total:.0%}), {len({row.answer for row in rows})} answers" if rows else "empty"
            lines.append(f"  {name:<10} {len(rows):>5} {share}")
        for key, value in self.inputs.items():
            shape = " × ".join(map(str, value.shape[1:])) or "one number"
            lines.append(f"  {key:<14} {shape}, {str(value.dtype).removeprefix('torch.')}")
        lines.append(f"  identity       {self.identity[:12]}")
        return "\n".join(lines)


def _row(row: TokenizedExample) -> int:
    if not isinstance(row, TensorRow):
        raise DataError("a tensor task can make batches of its own rows only")
    return row.row


def _labels(name: str, what: str, values: Tensor | Sequence[int]) -> Tensor:
    found = torch.as_tensor(values).detach().cpu()
    if found.dim() != 1 or len(found) == 0:
        raise DataError(f"task `{name}`: {what} are a vector with one entry a row, not of shape {tuple(found.shape)}")
    if found.is_floating_point() or found.dtype == torch.bool or bool((found < 0).any()):
        raise DataError(f"task `{name}`: {what} are indices: whole numbers from 0", ["for classes, `labels.long()`"])
    return found.long()


def _check_inputs(name: str, inputs: Mapping[str, Tensor], total: int) -> None:
    if not inputs:
        raise DataError(f"task `{name}` has no inputs", ["give them by the names of the model's inputs"])
    for key, value in inputs.items():
        if value.dim() == 0 or len(value) != total:
            size = len(value) if value.dim() else "no"
            raise DataError(f"task `{name}`: input `{key}` has {size} rows, and there are {total} answers")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            row = int((~torch.isfinite(value.reshape(total, -1)).all(1)).nonzero()[0])
            raise DataError(f"task `{name}`: input `{key}` is not finite at row {row}")


def _check_counterfactual(
    name: str, inputs: Mapping[str, Tensor], other: Mapping[str, Tensor] | None, ablation: str
) -> None:
    if other is None:
        if ablation == "interchange":
            raise DataError(
                f"task `{name}` has no counterfactual, which interchange ablation needs",
                ["give `counterfactual`", 'or choose ablation="zero" or "mean"'],
            )
        return
    ours, theirs = ({k: (tuple(v.shape), v.dtype) for k, v in side.items()} for side in (inputs, other))
    if ours != theirs:
        key = next(key for key in (*ours, *theirs) if ours.get(key) != theirs.get(key))
        raise DataError(f"task `{name}`: the counterfactual's `{key}` is not of the form of the input's")


def _rows(
    inputs: Mapping[str, Tensor], labels: Tensor, rivals: Tensor | None, where: Tensor | None,
    groups: Sequence[Hashable] | None,
) -> tuple[TensorRow, ...]:  # fmt: skip
    first = next(iter(inputs.values()))
    length = first.shape[1] if first.dim() > 1 else 1
    equal: dict[bytes, int] = {}
    arrays = [_bytes_by_row(value) for value in inputs.values()]
    return tuple(
        TensorRow(
            example=Example(f"row {i}", None, str(answer), None, "" if groups is None else str(groups[i])),
            input_ids=(equal.setdefault(b"".join(part[i].tobytes() for part in arrays), i),),
            counterfactual_ids=None,
            position=0 if where is None else int(where[i]),
            answer=answer,
            distractor=None if rivals is None else int(rivals[i]),
            row=i,
            length=length,
        )
        for i, answer in enumerate(labels.tolist())
    )


def _bytes_by_row(value: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    flat = value.contiguous().reshape(len(value), -1)
    return flat.view(torch.uint8).numpy() if flat.dtype != torch.bool else flat.to(torch.uint8).numpy()


def _given_splits(
    name: str, rows: Sequence[TensorRow], splits: Mapping[str, Sequence[int]]
) -> dict[str, tuple[TokenizedExample, ...]]:
    seen: dict[int, str] = {}
    for split, indices in splits.items():
        for index in map(int, indices):
            if not 0 <= index < len(rows):
                raise DataError(f"task `{name}`: split `{split}` names row {index}, and there are {len(rows)}")
            if index in seen:
                raise DataError(f"task `{name}`: row {index} is in `{seen[index]}` and again in `{split}`")
            seen[index] = split
    return {split: tuple(rows[int(index)] for index in indices) for split, indices in splits.items()}


def _hash(
    inputs: Mapping[str, Tensor], other: Mapping[str, Tensor] | None, labels: Tensor, rivals: Tensor | None,
    where: Tensor | None, splits: Mapping[str, Sequence[TokenizedExample]], ablation: str,
) -> str:  # fmt: skip
    """Sha256 hex over tensors, splits and ablation."""
    digest = hashlib.sha256(f"tensors\n{ablation}\n".encode())
    for side in (inputs, other or {}):
        for key, value in side.items():
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(_bytes_by_row(value).tobytes())
    for values in (labels, rivals, where):
        digest.update(b"none" if values is None else values.numpy().tobytes())
    for name, rows in splits.items():
        digest.update(f"\n{name} {[_row(row) for row in rows]}".encode())
    return digest.hexdigest()


__all__ = ["TensorRow", "TensorTask"]
