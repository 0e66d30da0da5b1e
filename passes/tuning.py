"""Run a tuning method from its options: what `vector v = tune MODEL for TASK with METHOD` does to a model.

found = tune(model, task, LtSftOptions(count=10_000), name="v")
found.vector, found.count
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from graphir.errors import UnknownNameError
from graphir.names import closest
from passes.lt_sft import SparseFineTuning, sparse_fine_tune
from passes.observe import Checkpoint, Observer
from passes.task import Task
from passes.training import Training
from passes.tuning_options import LtSftOptions

WHOLE, SPARSE = "tuning all weights", "tuning the chosen weights"


def tune(
    model: nn.Module,
    task: Task,
    options: LtSftOptions | None = None,
    *,
    name: str = "",
    observer: Observer | None = None,
    checkpoint: Checkpoint | None = None,
) -> SparseFineTuning:
    """LT-SFT on the task's training split; the model has its own bits back at the end. Errors are those of
    `sparse_fine_tune`, and `UnknownNameError` for a pattern that no parameter's name matches."""
    options = options or LtSftOptions()
    known = [key for key, _ in model.named_parameters()]
    first = _recipe(task, options, options.steps, observer, WHOLE)
    second = _recipe(task, options, options.sparse_steps or options.steps, observer, SPARSE)
    return sparse_fine_tune(
        model, first, count=options.count, density=options.share, iterations=options.iterations,
        dense=_matching(options.dense, known), frozen=_matching(options.frozen, known), sparse_recipe=second,
        seed=options.seed, name=name, checkpoint=checkpoint,
    )  # fmt: skip


def _recipe(task: Task, options: LtSftOptions, steps: int, observer: Observer | None, stage: str) -> Training:
    return Training(
        task, steps, batch_size=options.batch_size, learning_rate=options.learning_rate, optimizer=options.optimizer,
        weight_decay=options.weight_decay, clip=options.clip, decay=options.decay, l1=options.l1,
        train_mode=options.dropout, observer=observer, stage=stage,
    )  # fmt: skip


def _matching(patterns: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The parameters that patterns name, each once, in the model's order."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UnknownNameError("parameter", pattern, closest(pattern, known))
    return tuple(name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns))
