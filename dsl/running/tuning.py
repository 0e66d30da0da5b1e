"""Come by any task vector that a file names: one that is tuned, read from a folder, or made of others.

Tuning is a stage, kept with what it chose. The sum of vectors is quick, so nothing of it is kept: what is measured of
it is, under the vectors it is made of.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsl.running.failures import located
from dsl.running.identity import file_digest
from dsl.running.keys import describe_method
from dsl.running.sections.tasks import TaskStage
from dsl.running.stage import Stage
from dsl.running.storing import read_numbers, write_numbers
from dsl.spec import AnyVector, ImportedVectorSpec, ModelSpec, TunedVectorSpec
from graphir.errors import ModelMismatchError
from graphir.task_vectors import MANIFEST, TaskVector

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dsl.running.checkpoints import FileCheckpoint
    from dsl.running.workplace import Workplace

SAVED = "vector"


@dataclass(frozen=True, eq=False)
class Tuned:
    """A vector and how it was found: `chosen` of `total` weights; the model's SHA-256 `before` tuning and `after`."""

    vector: TaskVector
    chosen: int
    total: int
    before: str
    after: str

    def numbers(self) -> dict[str, Any]:
        """All but the vector."""
        return {"chosen": self.chosen, "total": self.total, "before": self.before, "after": self.after}


class TuneStage(Stage[Tuned]):
    """Tune a model's weights for a task. The model has its own bits again afterwards."""

    kind = "tuning"

    def __init__(self, spec: TunedVectorSpec) -> None:
        super().__init__(f"tune {spec.name}", spec.span, f"running {spec.method.name}")
        self.spec = spec

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """Model, task, method."""
        spec = self.spec
        task = TaskStage(spec.task, spec.model)
        return {"model": place.identity(spec.model), "task": task, "method": describe_method(spec.method)}

    def run(self, place: Workplace) -> Tuned:
        """Tune, from where an earlier run was stopped if it had chosen its weights. Ctrl-C stops at once: the weights
        that are tuned are many more than is kept."""
        from graphir.tracing.exported import hash_model
        from passes.tuning import tune

        spec = self.spec
        model = place.model(spec.model).model
        task = place.task(spec.task, spec.model)
        before = hash_of(spec.model, place)
        with located(self.doing, spec.method.span), place.checkpoint() as kept, place.reporter.stage(self.name):
            found = tune(
                model, task, spec.method.options, name=spec.name, observer=place.reporter,
                checkpoint=None if kept is None else _Phases(kept),
            )  # fmt: skip
        return Tuned(found.vector, found.count, found.total, before, hash_model(model))

    def save(self, value: Tuned, folder: Path) -> None:
        """As a saved vector, and JSON."""
        value.vector.save(folder / SAVED)
        write_numbers(folder, value.numbers())

    def load(self, folder: Path, place: Workplace) -> Tuned:
        """The same, under the name it has in this file."""
        vector = replace(TaskVector.load(folder / SAVED), name=self.spec.name)
        return Tuned(vector, **read_numbers(folder))


class _Phases:
    """Keeps the few states that LT-SFT offers, each at once."""

    def __init__(self, kept: FileCheckpoint) -> None:
        self.kept = kept

    def load(self) -> dict[str, Tensor] | None:
        """See `passes.observe.Checkpoint`."""
        return self.kept.load()

    def save(self, step: int, state: dict[str, Tensor]) -> None:
        """See `passes.observe.Checkpoint`."""
        self.kept.write(step, state)


def described(spec: AnyVector, place: Workplace) -> Any:
    """What tells a vector from others, for the keys of stages; it need not be found for that."""
    if isinstance(spec, TunedVectorSpec):
        return TuneStage(spec)
    if isinstance(spec, ImportedVectorSpec):
        return {"sha256": _sum_of(place.spec.folder / spec.path), "model": place.identity(spec.model)}
    made = {"factors": spec.factors, "operands": [described(each, place) for each in spec.operands]}
    return made if spec.operation == "+" else {**made, "operation": spec.operation}


def obtain_vector(spec: AnyVector, place: Workplace) -> TaskVector:
    """The vector. `StageError` for what goes wrong."""
    if isinstance(spec, TunedVectorSpec):
        return place.value(TuneStage(spec)).vector

    def make() -> TaskVector:
        return _read(spec, place) if isinstance(spec, ImportedVectorSpec) else _combined(spec, place)

    return place.once(f"vector {spec.name}", make)


_OPERATIONS: Mapping[str, Callable[[TaskVector, TaskVector], TaskVector]] = {
    "+": operator.add, "|": operator.or_, "&": operator.and_,
}  # fmt: skip


def _combined(spec: AnyVector, place: Workplace) -> TaskVector:
    """Σ factor · operand, added in the order of the formula; or what the set operation makes of them."""
    assert not isinstance(spec, TunedVectorSpec | ImportedVectorSpec)
    operands = [obtain_vector(each, place) for each in spec.operands]
    with located(f"composing `{spec.name}`", spec.span):
        total: TaskVector | None = None
        for each, factor in zip(operands, spec.factors, strict=True):
            if total is not None and spec.operation == "&" and factor < 0:
                total = total.without(each)
                continue
            term = each if factor == 1 else each.scaled(factor)
            total = term if total is None else _OPERATIONS[spec.operation](total, term)
    assert total is not None  # the check lets no formula be without a vector
    changed = {key: delta for key, delta in total.deltas.items() if bool((delta != 0).any())}
    return replace(total, deltas=changed, name=spec.name, operands=(spec.text,))


def _read(spec: ImportedVectorSpec, place: Workplace) -> TaskVector:
    """A saved vector, of the model that the file says."""
    path = place.spec.folder / spec.path
    with located(f"importing `{spec.name}`", spec.span):
        found = TaskVector.load(path)
        own = hash_of(spec.model, place)
        if found.base and found.base != own:
            raise ModelMismatchError(
                f"{path} is a vector of another model: it starts from {found.base[:12]}, and `{spec.model.name}` is "
                f"{own[:12]}",
                ["differences are added to the model that they were taken from, in the same number format"],
            )
        model = place.model(spec.model).model
        # Another name of a tied parameter: it is changed, and counted, under its first name.
        tied = {key for key, _ in model.named_parameters(remove_duplicate=False)} - {*scalars(model)}
        deltas = {key: delta for key, delta in found.deltas.items() if key not in tied}
        return replace(found, deltas=deltas, name=spec.name)


def scalars(model: nn.Module) -> dict[str, int]:
    """How many numbers each parameter of a model has, tied ones once."""
    return {name: p.numel() for name, p in model.named_parameters() if p.is_floating_point()}


def hash_of(spec: ModelSpec, place: Workplace) -> str:
    """SHA-256 (hex) of the model's weights as they were when this run first asked."""
    from graphir.tracing.exported import hash_model

    return place.once(f"hash {spec.name}", lambda: hash_model(place.model(spec).model))


def _sum_of(folder: Path) -> str:
    """SHA-256 (hex) of a saved vector's manifest, which has those of its files; empty where there is none: reading it
    says what is wrong."""
    path = folder / MANIFEST
    try:
        return file_digest(path) if path.is_file() else ""
    except OSError:
        return ""
