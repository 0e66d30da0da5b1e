"""The checked sections of task vectors: tuned, read from a folder, or made of others. Frozen and torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from dsl.records import record
from dsl.sections import Located, MethodSpec, ModelSpec, TaskSpec


@record
class TunedVectorSpec(Located):
    """The vector that tuning a model's own weights for a task finds; `method` has the options of a tuning method in
    `passes.tuning_options.TUNERS`."""

    name: str
    model: ModelSpec
    task: TaskSpec
    method: MethodSpec


@record
class ImportedVectorSpec(Located):
    """A saved vector (`path`, a folder relative to the specification's) of a model. `task` is what it is measured on
    first; None where the file does not say."""

    name: str
    path: str
    model: ModelSpec
    task: TaskSpec | None = None


@record
class VectorSumSpec(Located):
    """Σ factor · operand, of vectors of one model, each once, in the order in which the file's formula (`text`) names
    them. Or with `operation` "|" or "&" their union or intersection; those with factor -1 are taken away."""

    name: str
    text: str
    operands: tuple[AnyVector, ...]
    factors: tuple[float, ...]
    model: ModelSpec
    operation: str = "+"


AnyVector = TunedVectorSpec | ImportedVectorSpec | VectorSumSpec
"""Whatever a vector may be."""


def own_tasks(vector: AnyVector) -> tuple[TaskSpec, ...]:
    """The tasks that a vector, or what it is made of, was tuned for, each once."""
    return tuple({task.name: task for task in _own(vector)}.values())


def _own(vector: AnyVector) -> Iterator[TaskSpec]:
    if isinstance(vector, VectorSumSpec):
        for each in vector.operands:
            yield from _own(each)
    elif vector.task is not None:
        yield vector.task
