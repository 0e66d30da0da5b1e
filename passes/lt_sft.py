"""LT-SFT, composable sparse fine-tuning (Ansell et al., ACL 2022, arXiv 2110.07560).

    task = sparse_fine_tune(model, Training(data, steps=500), count=10_000)
    task.vector                                   # φ = θ_2 − θ_0, zero but for the 10,000 chosen scalars
    with (language.vector + task.vector).applied(model):   # θ_0 + φ_language + φ_task; afterwards the model's own bits
        ...

Phase one fine-tunes everything, θ_0 → θ_1, and the K scalars of largest |θ_1 − θ_0|, of all parameters together, are
chosen. Phase two goes back to θ_0 and fine-tunes these alone, θ_0 → θ_2. What is not chosen stays at θ_0 (it is not set
to zero, unlike in a lottery ticket), so sparse vectors of several tasks add up with little interference. The sum is not
what training on all tasks gives: each vector was trained with the scalars of the others at θ_0, and a scalar that
several chose moves by the sum of what each moved it, to where none of them left it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from graphir.errors import GraphirError
from graphir.task_vectors import TaskVector
from passes.base import count_for
from passes.learn.harden import keep_highest
from passes.observe import Checkpoint, NoCheckpoint
from passes.training import Recipe, State, borrowed, check_finite, check_parameters, snapshot


@dataclass(frozen=True, eq=False)
class SparseFineTuning:
    """`vector` is φ; `masks` (boolean, by parameter) the chosen scalars, exactly `count`; `dense` the parameters that
    were trained whole and are not counted (the task's head); `tuned` is θ_2 by parameter, bit for bit (θ_0 + φ is
    rounded)."""

    vector: TaskVector
    masks: Mapping[str, Tensor]
    dense: tuple[str, ...]
    tuned: State

    @property
    def count(self) -> int:
        """How many scalars were chosen. `vector.count` is lower where training moved one of them nowhere, and higher by
        what `dense` parameters add."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def total(self) -> int:
        """How many there were to choose from."""
        return sum(mask.numel() for mask in self.masks.values())

    def load(self, model: nn.Module) -> None:
        """Give a model that has the parameters of the base the tuned values, bit for bit."""
        known = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in self.tuned.items():
                known[name].copy_(value)

    def __repr__(self) -> str:
        return f"SparseFineTuning({self.count:,} of {self.total:,} parameters, {self.vector.name or 'unnamed'})"


def sparse_fine_tune(
    model: nn.Module,
    recipe: Recipe,
    *,
    count: int | None = None,
    density: float | None = None,
    iterations: int = 1,
    dense: Sequence[str] = (),
    frozen: Sequence[str] = (),
    sparse_recipe: Recipe | None = None,
    seed: int = 0,
    name: str = "",
    checkpoint: Checkpoint | None = None,
) -> SparseFineTuning:
    """A sparse fine-tuning of exactly `count` scalars (or ⌊`density` · N⌋); the model has its own bits back at the end.

    With several `iterations` the count is split over them: each fine-tunes everything from where the last one ended,
    adds its share of the scalars not yet chosen, goes back and fine-tunes all chosen ones. `dense` parameters are
    trained whole and are not counted, `frozen` ones not at all. The second phase follows `sparse_recipe` if given.
    `checkpoint` is offered what is chosen at the end of each first phase, and the tuning goes on from there.

    Raises `GraphirError` before any training for counts that leave nothing or exceed what is there, and where training
    changes statistics that are no parameters (batch norms); `TrainingError` on not-a-number, the model restored.
    """
    known = dict(model.named_parameters())
    check_parameters(model, tuple(known))
    for given in (tuple(dense), tuple(frozen)):
        if given:
            check_parameters(model, given)
    free = {key: p for key, p in known.items() if key not in {*dense, *frozen} and p.is_floating_point()}
    number = _count(count, density, sum(p.numel() for p in free.values()), iterations)
    fixed = {key: torch.zeros_like(known[key], dtype=torch.bool) for key in frozen}
    masks = {key: torch.zeros_like(p, dtype=torch.bool) for key, p in free.items()}
    second, kept = sparse_recipe or recipe, checkpoint or NoCheckpoint()
    with borrowed(model) as base:
        state = kept.load() or {}
        done = int(state["iteration"]) if state else -1
        for iteration in range(max(done, 0), iterations):
            if iteration == done:
                masks = _go_on(model, base, state, free)
            before = snapshot(model)
            if iteration != done:
                recipe(model, start=0, stop=recipe.steps, moves=fixed, seed=seed + iteration)
                check_finite(model)
                masks = _choose(model, before, masks, number * (iteration + 1) // iterations)
                kept.save((iteration + 1) * recipe.steps, _phase(iteration, masks, before))
            model.load_state_dict(before)
            second(model, start=0, stop=second.steps, moves={**fixed, **masks}, seed=seed + iteration)
            check_finite(model)
        tuned = {key: value.detach().clone() for key, value in model.named_parameters() if key not in fixed}
        _check_statistics(model, base)
    # The base is the model again here, so the vector knows its hash.
    after = {**snapshot(model), **tuned}
    whole = TaskVector.between(model, _with_ties(model, after), name)
    # A tied parameter goes by its first name, so that it is counted, added and saved once.
    vector = replace(whole, deltas={key: delta for key, delta in whole.deltas.items() if key in known})
    return SparseFineTuning(vector, masks, tuple(dense), tuned)


def _phase(iteration: int, masks: Mapping[str, Tensor], before: State) -> dict[str, Tensor]:
    """What the second phase of an iteration needs: the choice and, where it is not the base, where to start."""
    state = {"iteration": torch.tensor(iteration), **{f"mask.{key}": mask for key, mask in masks.items()}}
    return state | ({f"start.{key}": value for key, value in before.items()} if iteration else {})


def _go_on(model: nn.Module, base: State, state: State, free: State) -> dict[str, Tensor]:
    """The choice that was kept; the model is where that iteration started."""
    model.load_state_dict({key: state.get(f"start.{key}", value) for key, value in base.items()})
    return {key: state[f"mask.{key}"].to(value.device) for key, value in free.items()}


def _count(count: int | None, density: float | None, total: int, iterations: int) -> int:
    if (count is None) == (density is None):
        raise GraphirError("say how many scalars to tune: `count`, or `density` of all")
    if iterations < 1:
        raise GraphirError(f"sparse fine-tuning needs at least one iteration, not {iterations}")
    if not total:
        raise GraphirError("what is frozen or dense leaves nothing to tune", ["fewer or narrower patterns"])
    if density is not None:
        if not 0 < density <= 1:
            raise GraphirError(f"a density is above 0 and at most 1, not {density:g}")
        count = count_for(density, total)
    assert count is not None
    if not iterations <= count <= total:
        why = "leaves nothing to tune" if count < 1 else "is more than there are" if count > total else "is too few"
        raise GraphirError(
            f"{count} of {total} parameters in {iterations} iteration{'s' * (iterations > 1)} {why}",
            [f"a count from {iterations} to {total}"],
        )
    return count


def _choose(model: nn.Module, before: State, masks: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The chosen scalars and, of the others, those that moved most, `count` in all."""
    known = dict(model.named_parameters())
    moved = {
        key: (known[key].detach() - before[key]).abs().float().masked_fill(mask, torch.inf)
        for key, mask in masks.items()
    }
    return keep_highest(moved, count)


def _check_statistics(model: nn.Module, base: State) -> None:
    for key, value in model.named_buffers():
        if key in base and value.is_floating_point() and not torch.equal(value, base[key]):
            raise GraphirError(
                f"training changed `{key}`, which is a statistic and no parameter: it cannot be sparse nor composed",
                ["train with the statistics as they stand: `Training(…, train_mode=False)` on a model in `eval()`"],
            )


def _with_ties(model: nn.Module, state: State) -> dict[str, Tensor]:
    """A state whose tied parameters (one storage, several names) all have the value of the first."""
    found, first = dict(state), dict[int, str]()
    for key, value in model.state_dict(keep_vars=True).items():
        found[key] = state[first.setdefault(value.data_ptr(), key)] if value.numel() else state[key]
    return found
