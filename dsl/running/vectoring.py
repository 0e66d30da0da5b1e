"""What task vectors do: sizes and overlaps of what they change, and what a model with a vector does on held-out
examples of its own task, of the other subtasks, of the tasks of its parts, and of the tasks that a check names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsl.running.failures import located
from dsl.running.sections.tasks import TaskStage
from dsl.running.stage import Stage
from dsl.running.storing import read_numbers, write_numbers
from dsl.running.tuning import TuneStage, described, hash_of, obtain_vector, scalars
from dsl.running.vector_tasks import measured_on
from dsl.spec import AnyVector, Spec, TaskSpec, TunedVectorSpec, VectorSumSpec
from dsl.vector_sections import own_tasks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dsl.running.workplace import Workplace
    from passes.task import Batch, Task

SPLIT = "test"
TOKENS, ROWS = 1024, 8
"""Tokens of a batch that is measured, about, and its rows, at least."""


@dataclass(frozen=True)
class Support:
    """What a vector changes: `count` of `total` weights, over `norm`; `counts` by layer and by kind of parameter;
    `overlap` of its parts, as `graphir.support_overlap.SupportOverlap.to_json` has it, where it has several."""

    count: int
    total: int
    norm: float
    by_layer: Mapping[str, int]
    by_kind: Mapping[str, int]
    overlap: Mapping[str, Any] = field(default_factory=dict)

    @property
    def density(self) -> float:
        """The share of weights that change."""
        return self.count / self.total if self.total else 0.0


class SupportStage(Stage[Support]):
    """Count what a vector changes, and what its parts have in common."""

    kind = "support"

    def __init__(self, spec: AnyVector) -> None:
        super().__init__(f"support of {spec.name}", spec.span, f"counting what `{spec.name}` changes")
        self.spec = spec

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """The vector, and the names of its parts."""
        return {"vector": described(self.spec, place), "parts": [each.name for each in _parts(self.spec)]}

    def run(self, place: Workplace) -> Support:
        """Count. `StageError` for parts that do not fit each other."""
        from graphir.support_overlap import support_overlap

        vector = obtain_vector(self.spec, place)
        parts = [obtain_vector(each, place) for each in _parts(self.spec)]
        with located(self.doing, self.span), place.reporter.stage(self.name, minor=True):
            totals = scalars(place.model(self.spec.model).model)
            alone = support_overlap(vector, totals=totals)
            shared = support_overlap(*parts, totals=totals).to_json() if len(parts) > 1 else {}
            layers = {name: each.either for name, each in alone.by_layer().items() if each.either}
            kinds = {name: each.either for name, each in alone.by_kind().items() if each.either}
            return Support(alone.whole.either, alone.whole.total, vector.norm, layers, kinds, shared)

    def save(self, value: Support, folder: Path) -> None:
        """As JSON."""
        write_numbers(folder, asdict(value))

    def load(self, folder: Path, place: Workplace) -> Support:
        """The same."""
        return Support(**read_numbers(folder))


@dataclass(frozen=True)
class Effect:
    """What a vector does on a task: metrics of the model and of the model with the vector, over `examples`; SHA-256 of
    the model's weights before, with the vector, and after it was taken off."""

    model: Mapping[str, float]
    vector: Mapping[str, float]
    examples: int
    before: str
    during: str
    after: str

    @property
    def gain(self) -> float:
        """Accuracy with the vector less that without."""
        return self.vector["accuracy"] - self.model["accuracy"]


class EffectStage(Stage[Effect]):
    """Measure the model with a vector on a task's held-out examples."""

    kind = "effect"

    def __init__(self, spec: AnyVector, task: TaskSpec) -> None:
        name = f"measure {spec.name} on {task.name}"
        super().__init__(name, spec.span, f"measuring `{spec.name}` on `{task.name}`", f"measure {spec.name}")
        self.spec, self.task = spec, task

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """The vector, the model it is added to, the task."""
        task = TaskStage(self.task, self.spec.model)
        return {"vector": described(self.spec, place), "model": place.identity(self.spec.model), "task": task}

    def run(self, place: Workplace) -> Effect:
        """Measure the model, add the vector, measure again, take it off."""
        from graphir.tracing.exported import hash_model

        vector = obtain_vector(self.spec, place)
        model = place.model(self.spec.model).model
        task = place.task(self.task, self.spec.model)
        before = hash_of(self.spec.model, place)
        with located(self.doing, self.span), place.reporter.stage(self.name):
            alone = list(_answers(model, task))
            with vector.applied(model):
                during = hash_model(model)
                found = list(_answers(model, task))
            own, changed = _metrics(alone, alone), _metrics(found, alone)
        return Effect(own, changed, len(task.examples(SPLIT)), before, during, hash_model(model))

    def save(self, value: Effect, folder: Path) -> None:
        """As JSON."""
        write_numbers(folder, asdict(value))

    def load(self, folder: Path, place: Workplace) -> Effect:
        """The same."""
        return Effect(**read_numbers(folder))


def _answers(model: nn.Module, task: Task) -> Iterator[tuple[Batch, Tensor]]:
    """Batches of the held-out split, and the model's logits (B, C) where it answers, in evaluation mode."""
    import torch

    from passes.training import answers_of, evaluating

    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad():
        for batch in task.batches(SPLIT, max(task.rows_for(SPLIT, TOKENS), ROWS)):
            here = batch.to(device)
            yield here, answers_of(model, here).float()


def _metrics(found: list[tuple[Batch, Tensor]], alone: list[tuple[Batch, Tensor]]) -> dict[str, float]:
    """Means over examples; `kl` is from the model alone."""
    from passes.metrics import SCORED, kl_from

    names = ["accuracy", "answer_log_prob"]
    names += ["logit_diff", "prob_diff"] if all(batch.distractors is not None for batch, _ in found) else []
    rows = sum(len(batch) for batch, _ in found)
    sums = {name: sum(float(SCORED[name](logits, batch).double().sum()) for batch, logits in found) for name in names}
    divergence = sum(
        float(kl_from(base, logits).double().sum()) for (_, logits), (_, base) in zip(found, alone, strict=True)
    )
    means = {name: value / rows for name, value in sums.items()}
    cross_entropy = -means.pop("answer_log_prob")
    return {"accuracy": means.pop("accuracy"), "cross_entropy": cross_entropy, "kl": divergence / rows, **means}


# --- a vector and its parts ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundVector:
    """All that is known of a vector. `own` are the tasks it is for; `effects` what it does by task, `alone` by task and
    part what each of its parts does without the others; `tuning` how it was tuned, where it was."""

    name: str
    made: str
    model: str
    base: str
    own: tuple[str, ...]
    support: Support
    effects: Mapping[str, Effect]
    alone: Mapping[str, Mapping[str, Effect]]
    tasks: Mapping[str, tuple[str, ...]]
    tuning: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reverted(self) -> bool:
        """Whether the model had its own bits again every time, as far as it was looked at."""
        hashes = {each for effect in self._effects() for each in (effect.before, effect.after)}
        hashes |= {self.tuning[key] for key in ("before", "after") if key in self.tuning}
        return len(hashes) <= 1

    def _effects(self) -> Iterator[Effect]:
        yield from self.effects.values()
        for parts in self.alone.values():
            yield from parts.values()

    def interference(self) -> list[dict[str, Any]]:
        """For each part, on the tasks it is for, what the others change: metrics alone, together, the difference."""
        rows = []
        for part, tasks in self.tasks.items():
            for task in tasks:
                alone, together = self.alone[task][part].vector, self.effects[task].vector
                changes = {
                    name: {"alone": alone[name], "together": together[name], "change": together[name] - alone[name]}
                    for name in ("accuracy", "cross_entropy", "kl")
                }
                rows.append({"task": task, "part": part, **changes})
        return rows

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        support = {**asdict(self.support), "density": self.support.density}
        told: dict[str, Any] = {
            "made": self.made, "model": self.model, "base": self.base, "own": list(self.own), "support": support,
            "tasks": {task: _told(effect) for task, effect in self.effects.items()}, "reverted": self.reverted,
        }  # fmt: skip
        if self.alone:
            told["parts"] = {task: {p: _told(e) for p, e in parts.items()} for task, parts in self.alone.items()}
            told["interference"] = self.interference()
        return told | ({"tuning": dict(self.tuning)} if self.tuning else {})


def _told(effect: Effect) -> dict[str, Any]:
    return {
        "examples": effect.examples, "split": SPLIT, "model": dict(effect.model), "vector": dict(effect.vector),
        "gain": effect.gain, "sha256": {"before": effect.before, "with": effect.during, "after": effect.after},
    }  # fmt: skip


def find_vector(spec: AnyVector, whole: Spec, place: Workplace) -> FoundVector:
    """Find, count and measure a vector. What is in the cache needs no model."""
    tuning: dict[str, Any] = {}
    if isinstance(spec, TunedVectorSpec):
        tuning = {"method": spec.method.name, "task": spec.task.name, **place.value(TuneStage(spec)).numbers()}
    tasks, parts = measured_on(spec, whole), _parts(spec)
    effects = {task.name: place.value(EffectStage(spec, task)) for task in tasks}
    alone = {task.name: {part.name: place.value(EffectStage(part, task)) for part in parts} for task in tasks if parts}
    known = {*effects}
    own = {part.name: tuple(task.name for task in own_tasks(part) if task.name in known) for part in parts}
    base = tuning.get("before") or next((each.before for each in effects.values()), "")
    support = place.value(SupportStage(spec))
    names = tuple(task.name for task in own_tasks(spec))
    return FoundVector(spec.name, made_of(spec), spec.model.name, base, names, support, effects, alone, own, tuning)


def vector_stages(spec: AnyVector, whole: Spec) -> Iterator[Stage[Any]]:
    """The stages of `find_vector`, each once."""
    if isinstance(spec, TunedVectorSpec):
        yield TuneStage(spec)
    for task in measured_on(spec, whole):
        yield EffectStage(spec, task)
        for part in _parts(spec):
            if task not in measured_on(part, whole):
                yield EffectStage(part, task)
    yield SupportStage(spec)


def _parts(spec: AnyVector) -> tuple[AnyVector, ...]:
    """What a sum of several is made of."""
    return spec.operands if isinstance(spec, VectorSumSpec) and len(spec.operands) > 1 else ()


def made_of(spec: AnyVector) -> str:
    """How a vector came about, in words."""
    if isinstance(spec, TunedVectorSpec):
        return f"tuned for {spec.task.name} with {spec.method.name}"
    return f"= {spec.text}" if isinstance(spec, VectorSumSpec) else f"from {spec.path}"
