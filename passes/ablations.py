"""The ablation values a task asks for, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional

from graphir.errors import DataError
from graphir.run.constants import reference_of
from graphir.run.noise import noisy_reference
from graphir.run.program import MaskedProgram, Reference
from passes.task import Batch, Task
from passes.tokenizing import TokenizedExample

if TYPE_CHECKING:
    from graphir.circuit import Circuit
    from passes.optimal_constants import LearnedConstants

_LEARNED: WeakKeyDictionary[MaskedProgram, dict[str, LearnedConstants]] = WeakKeyDictionary()


class ReferenceSource:
    """Called with a batch, gives its `Reference`.

    - `interchange`: the values of the counterfactual run;
    - `zero`: none;
    - `mean`, `mean by position`: means over the training split's clean inputs, taken once; at positions that none of
      those has, over the longer inputs of the other splits, so that held-out templates may be longer;
    - `mean by template`: for each example the mean, position by position, over the examples of its template and length;
    - `noise`: the values of a run with noisy embeddings (`graphir.run.noise`);
    - `optimal`: the learned `constants` of a circuit, or where none are given those learned for random masks.

    With `hidden`, references hold the ablation values of MLPs' hidden features too. `learned` is what constants are
    learned by, None for other ablations or given constants.
    """

    def __init__(
        self,
        program: MaskedProgram,
        task: Task,
        *,
        batch_size: int = 8,
        hidden: bool = False,
        constants: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._program, self._ablation, self._hidden = program, task.ablation, hidden
        self._fixed: Reference | None = None
        self._templates: TemplateMeans | None = None
        self.learned: LearnedConstants | None = None
        if task.ablation == "zero":
            self._fixed = Reference()
        elif task.ablation == "mean":
            self._fixed = program.means(_inputs(program, task, task.examples("train"), batch_size))
        elif task.ablation == "mean by position":
            self._fixed = _position_means(program, task, batch_size)
        elif task.ablation == "mean by template":
            self._templates = TemplateMeans(program, task, batch_size)
        elif task.ablation == "optimal" and constants:
            self._fixed = reference_of(program, constants)
        elif task.ablation == "optimal":
            self.learned = _learn(program, task)

    def __call__(self, batch: Batch) -> Reference:
        found = self._values(batch)
        # Without `hidden`, masks on neurons are masks on their weights: zero is what stands in for them.
        return found if self._hidden or not found.hidden else replace(found, hidden={})

    def _values(self, batch: Batch) -> Reference:
        if self._fixed is not None:
            return self._fixed
        if self._templates is not None:
            return self._templates.reference(batch)
        if self.learned is not None:
            return _detached(self.learned.reference())
        if self._ablation == "noise":
            return noisy_reference(self._program, batch.inputs, hidden=self._hidden)
        if batch.counterfactual is None:
            raise DataError(
                "interchange ablation needs a counterfactual for every example",
                ["add counterfactuals, or `ablate zero` or `ablate mean`"],
            )
        return self._program.reference(batch.counterfactual, hidden=self._hidden)


def source_of(circuit: Circuit, program: MaskedProgram, task: Task) -> ReferenceSource:
    """What evidence about a circuit is gathered with: under `optimal` its own constants, so that what is knocked out
    of it, and what it is compared with, have the values that it was measured with."""
    return ReferenceSource(program, task, constants=circuit.constants)


def _inputs(
    program: MaskedProgram, task: Task, rows: Sequence[TokenizedExample], batch_size: int
) -> Iterator[Mapping[str, Tensor]]:
    """The clean inputs of rows, in batches."""
    return (task.collate(chunk).to(program.device).inputs for chunk in task.cut(rows, batch_size))


def _position_means(program: MaskedProgram, task: Task, batch_size: int) -> Reference:
    """See `ReferenceSource`."""
    rows = task.examples("train")
    found = program.means(_inputs(program, task, rows, batch_size), per_position=True)
    longest = max(map(len, rows), default=0)
    longer = [row for split in task.splits.values() for row in split if len(row) > longest]
    if not longer:
        return found
    more = program.means(_inputs(program, task, longer, batch_size), per_position=True)
    return Reference(
        writers={leaf: _extended(value, more.writers[leaf]) for leaf, value in found.writers.items()},
        hidden={leaf: _extended(value, more.hidden[leaf]) for leaf, value in found.hidden.items()},
    )


def _extended(value: Tensor, longer: Tensor) -> Tensor:
    """(…, S, D) with the positions from S on of a longer (…, S', D); a value without positions as it is."""
    known = value.shape[-2]
    return torch.cat([value, longer[..., known:, :]], -2) if longer.shape[-2] > known else value


def _learn(program: MaskedProgram, task: Task) -> LearnedConstants:
    """The constants learned for random masks, once for each program and task."""
    from passes.optimal_constants import learn_constants

    known = _LEARNED.setdefault(program, {})
    key = task.identity or str(id(task))
    if key not in known:
        known[key] = learn_constants(program, task)
    return known[key]


def _detached(reference: Reference) -> Reference:
    writers = {leaf: value.detach() for leaf, value in reference.writers.items()}
    return Reference(writers=writers, hidden=reference.hidden)


class TemplateMeans:
    """Means by position over the examples of one template and token length (Wang et al. 2023): of the training split
    where it has any, else of all splits, so that held-out templates have means too. Taken when first asked for.

    Raises `DataError` for an example that is alone in its group.
    """

    def __init__(self, program: MaskedProgram, task: Task, batch_size: int = 8) -> None:
        self._program, self._task, self._batch_size = program, task, batch_size
        self._known: dict[tuple[str, int], Reference] = {}
        self._groups: dict[tuple[str, int], list[TokenizedExample]] = {}
        everything = [row for rows in task.splits.values() for row in rows]
        for rows in (task.splits.get("train", ()), everything):
            found: dict[tuple[str, int], list[TokenizedExample]] = {}
            for row in rows:
                found.setdefault(_key(row), []).append(row)
            self._groups = {**found, **self._groups}
        alone = [rows[0] for rows in self._groups.values() if len(rows) == 1]
        if alone:
            # The mean of one example is the example: nothing of it would be ablated, and every circuit would do.
            raise DataError(
                f"{len(alone)} of {len(everything)} examples have a template and a length that no other has (one is "
                f"`{alone[0].example.clean}`): a mean by template leaves them as they are",
                ["name the template of each example in the data", "or ablate mean by position"],
            )

    def reference(self, batch: Batch) -> Reference:
        """Ablation values of a batch, row by row; zero at padding."""
        means = [self._mean(row) for row in batch.examples]
        length = max(map(len, batch.examples))
        left = self._task.padding == "left"

        def joined(values: list[Tensor]) -> Tensor:
            """Rows (U, 1, S, D) as one value; those of a decoder, which is as long for all, are not padded."""
            rows = []
            for value, row in zip(values, batch.examples, strict=True):
                gap = length - len(row) if value.dim() == 4 and value.shape[2] == len(row) else 0
                rows.append(_padded(value, (gap, 0) if left else (0, gap)))
            return torch.cat(rows, 1)

        first = means[0]
        return Reference(
            writers={leaf: joined([m.writers[leaf] for m in means]) for leaf in first.writers},
            hidden={leaf: joined([m.hidden[leaf][None] for m in means])[0] for leaf in first.hidden},
        )

    def _mean(self, example: TokenizedExample) -> Reference:
        """(U, 1, S, D) for each leaf, S the example's length."""
        key = _key(example)
        if key not in self._known:
            self._known[key] = self._take(self._groups.get(key) or [example])
        return self._known[key]

    def _take(self, rows: list[TokenizedExample]) -> Reference:
        writers: dict[fx.Node, Tensor] = {}
        hidden: dict[fx.Node, Tensor] = {}
        for start in range(0, len(rows), self._batch_size):
            batch = self._task.collate(rows[start : start + self._batch_size]).to(self._program.device)
            found = self._program.reference(batch.inputs, hidden=True)
            share = len(batch) / len(rows)
            for leaf, value in found.writers.items():
                writers[leaf] = writers.get(leaf, 0.0) + share * value.mean(1, keepdim=True)
            for leaf, value in found.hidden.items():
                hidden[leaf] = hidden.get(leaf, 0.0) + share * value.mean(0, keepdim=True)
        return Reference(writers=writers, hidden=hidden)


def _key(row: TokenizedExample) -> tuple[str, int]:
    return row.example.template, len(row)


def _padded(value: Tensor, pad: tuple[int, int]) -> Tensor:
    """(U, 1, S, D) with positions added before and behind; values without positions as they are."""
    return functional.pad(value, (0, 0, *pad)) if value.dim() == 4 and any(pad) else value
