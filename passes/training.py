"""Training of a model's own weights, as lottery tickets and sparse fine-tuning need it: any part of a run of steps,
with any set of scalars held where they are.

    recipe = Training(task, steps=2000, learning_rate=1e-3)
    recipe(model, start=0, stop=100)                       # in place
    recipe(model, start=100, stop=2000, moves=masks)       # scalars that are False in `masks` keep their bits

A recipe of one's own is any callable like `Recipe`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from graphir.errors import DataError, GraphirError, TrainingError
from passes.metrics import accuracy, logits_at
from passes.observe import Observer, SilentObserver
from passes.task import Batch, Task

State = Mapping[str, Tensor]
Moves = Mapping[str, Tensor]
"""By parameter name, a boolean tensor of the parameter's shape: which scalars training may change."""


class Recipe(Protocol):
    """How a model is trained, in place, from one step to another of `steps`. Scalars that are False in `moves` keep
    their bits; parameters that it does not name move freely. The same `seed` sees the same data at the same step."""

    @property
    def steps(self) -> int:
        """How many steps a whole training has."""

    def __call__(self, model: nn.Module, *, start: int, stop: int, moves: Moves | None = None, seed: int = 0) -> None:
        """Train. Raises `TrainingError` on not-a-number."""


@dataclass(frozen=True, eq=False)
class Training:
    """Cross-entropy on the answers of a task's training split, by Adam or SGD.

    A step's data depend on the seed and its number only, so a training that starts at step k sees what the first one
    saw there; the optimizer starts anew. `decay` lowers the learning rate linearly to zero over all steps,
    after a rise over the first `warmup`. `l1` adds
    l1 · mean |θ − θ_start| (Ansell et al. 2022). `train_mode` puts dropout and batch statistics to work; without it the
    model trains as it stands. Parameters that are frozen are trained like the others, and frozen again afterwards.
    `observer` is told of each step, as one of `stage`.
    """

    task: Task
    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 1e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip: float | None = None
    decay: bool = False
    warmup: int = 0
    l1: float = 0.0
    train_mode: bool = True
    observer: Observer | None = None
    stage: str = "training"

    def __call__(self, model: nn.Module, *, start: int, stop: int, moves: Moves | None = None, seed: int = 0) -> None:
        """See `Recipe`."""
        if not 0 <= start <= stop <= self.steps:
            raise GraphirError(f"steps {start} to {stop} are not part of a training of {self.steps}")
        moves = _checked(model, moves or {})
        devices = [p.device for p in model.parameters() if p.device.type == "cuda"][:1]
        with _training(model, self.train_mode), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed * 1_000_003 + start)
            self._run(model, start, stop, moves, seed)

    def _run(self, model: nn.Module, start: int, stop: int, moves: Moves, seed: int) -> None:
        parameters = {n: p for n, p in model.named_parameters() if n not in moves or bool(moves[n].any())}
        held = {n: (p, moves[n], p.detach().clone()) for n, p in parameters.items() if n in moves}
        anchors = {n: p.detach().clone() for n, p in parameters.items()} if self.l1 else {}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in parameters and parameter.is_floating_point())
        optimizer = self._optimizer(list(parameters.values()))
        observer = self.observer or SilentObserver()
        observer.begin(self.stage, stop - start)
        for step, batch in zip(range(start, stop), self._batches(start, seed), strict=False):
            loss = self._loss(model, batch.to(next(model.parameters()).device), anchors, parameters)
            if not bool(torch.isfinite(loss)):
                raise TrainingError(
                    f"the loss became not-a-number at step {step + 1} of {self.steps}", ["lower `learning_rate`"]
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for parameter, move, _ in held.values():
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(~move, 0.0)
            if self.clip is not None:
                nn.utils.clip_grad_norm_(list(parameters.values()), self.clip)
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * self._share(step)
            optimizer.step()
            with torch.no_grad():  # weight decay and momentum must not move what is held
                for parameter, move, kept in held.values():
                    parameter.copy_(torch.where(move, parameter, kept))
            observer.step(self.stage, step + 1 - start, {"loss": float(loss.detach())})
        observer.end(self.stage)
        optimizer.zero_grad(set_to_none=True)

    def _share(self, step: int) -> float:
        """The learning rate at a step, as a share of the highest."""
        rise = min((step + 1) / (self.warmup + 1), 1.0)
        return rise * (1 - step / self.steps) if self.decay else rise

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if self.optimizer == "adam":
            return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

    def _loss(
        self, model: nn.Module, batch: Batch, anchors: Mapping[str, Tensor], parameters: Mapping[str, Tensor]
    ) -> Tensor:
        loss = nn.functional.cross_entropy(answers_of(model, batch).float(), batch.answers)
        if anchors:
            total = sum(value.numel() for value in anchors.values())
            moved = torch.stack([(parameters[name] - value).abs().sum() for name, value in anchors.items()]).sum()
            loss = loss + self.l1 * moved / total
        return loss

    def _batches(self, start: int, seed: int) -> Iterator[Batch]:
        """Batches from step `start` on, epoch after epoch, each in an order of its own."""
        each = sum(1 for _ in self.task.cut(self.task.examples("train"), self.batch_size))
        if not each:
            next(self.task.batches("train", self.batch_size))  # says what is wrong
        epoch, skip = divmod(start, each)
        while True:
            order = self.task.batches("train", self.batch_size, shuffle=seed * 1_000_003 + epoch)
            yield from islice(order, skip, None)
            epoch, skip = epoch + 1, 0


def answers_of(model: nn.Module, batch: Batch) -> Tensor:
    """The model's logits (B, C) for a batch, at the predicting positions where its output has positions."""
    found: Any = model(**batch.inputs)
    found = getattr(found, "logits", found)
    if not isinstance(found, Tensor):
        found = found[0] if isinstance(found, (tuple, list)) else next(iter(found.values()))
    if not isinstance(found, Tensor) or found.dim() < 2:
        raise DataError("the model's first output are no logits", ["wrap the model so that it returns them"])
    return logits_at([found], batch)


def model_accuracy(model: nn.Module, task: Task, split: str = "test", batch_size: int = 256) -> float:
    """The model's own accuracy on a split (see `passes.metrics.accuracy`), in evaluation mode."""
    device = next(model.parameters()).device
    right = rows = 0.0
    with evaluating(model), torch.no_grad():
        for batch in task.batches(split, batch_size):
            batch = batch.to(device)
            right += float(accuracy(answers_of(model, batch), batch).sum())
            rows += len(batch)
    return right / max(rows, 1)


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """The model in evaluation mode, and afterwards as it was."""
    return _mode(model, training=False)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@contextmanager
def borrowed(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The model's state at the start, whose very bits the model has again at the end, whatever happens between."""
    kept = snapshot(model)
    try:
        yield kept
    finally:
        model.load_state_dict(kept)


def matrices(model: nn.Module) -> tuple[str, ...]:
    """Parameters that pruning is about: weights of two or more axes of anything but embeddings. No norms, no biases."""
    tables = {id(p) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for p in m.parameters()}
    return tuple(n for n, p in model.named_parameters() if p.dim() >= 2 and id(p) not in tables)


def check_parameters(model: nn.Module, names: tuple[str, ...]) -> None:
    """`GraphirError` for no names, or names that are no parameters of the model."""
    known = dict(model.named_parameters())
    if not names:
        raise GraphirError("the model has no weights to choose from", ["name `parameters`"])
    if unknown := [name for name in names if name not in known]:
        raise GraphirError(
            f"the model has no parameter `{unknown[0]}`", ["names are those of `model.named_parameters()`"]
        )


def check_finite(model: nn.Module) -> None:
    """`TrainingError` where a parameter is not finite."""
    for name, value in model.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise TrainingError(f"`{name}` is not finite after training", ["lower the learning rate"])


def _checked(model: nn.Module, moves: Moves) -> Moves:
    check = dict(model.named_parameters())
    for name, move in moves.items():
        if name not in check or check[name].shape != move.shape:
            raise GraphirError(f"there is no parameter `{name}` of shape {tuple(move.shape)} in the model")
    return {name: move.to(check[name].device, torch.bool) for name, move in moves.items()}


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _training(model: nn.Module, train_mode: bool) -> Iterator[None]:
    """Gradients for every parameter, and afterwards as it was."""
    frozen = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with _mode(model, training=train_mode or model.training), torch.enable_grad():
        try:
            yield
        finally:
            for parameter, needed in frozen:
                parameter.requires_grad_(needed)
                parameter.grad = None
