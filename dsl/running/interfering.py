"""What a composition does on each task of its parts, beside the parts alone: where circuits get in each other's way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dsl.running.judging import MeasureStage
from dsl.running.obtaining import obtain
from dsl.spec import AnyCircuit, CompositionSpec, TaskSpec

if TYPE_CHECKING:
    from dsl.running.judging import Measurement
    from dsl.running.workplace import Workplace

SHOWN = ("kl", "accuracy")
"""Metrics in the table, besides the task's own and faithfulness."""


@dataclass(frozen=True)
class Interference:
    """Measurements by task, then by circuit: every part and, last, the composition. `own` says which parts were found
    for a task, `metrics` what a task is judged by; `overlap` is what the parts share of edges, nodes and weights, in
    all, by layer and by kind, as `graphir.algebra_overlap.CircuitOverlap.to_json` has it; `doubled` are the weights
    that a sum counts more than once."""

    name: str
    formula: str
    parts: tuple[str, ...]
    own: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, str]
    measured: Mapping[str, Mapping[str, Measurement]]
    overlap: Mapping[str, Mapping[str, Any]]
    doubled: int = 0

    def changes(self) -> list[dict[str, Any]]:
        """For each part on the task it was found for: the task's metric, accuracy and divergence of the part alone, of
        the composition, and the difference, composition less part."""
        rows = []
        for task, parts in self.own.items():
            composed = self.measured[task][self.name].metrics
            for part in parts:
                alone = self.measured[task][part].metrics
                names = [name for name in dict.fromkeys((self.metrics[task], *SHOWN)) if name in alone]
                change = {
                    n: {"alone": alone[n], "composed": composed[n], "change": composed[n] - alone[n]} for n in names
                }
                rows.append({"task": task, "part": part, **change})
        return rows

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        tasks = {
            task: {name: dict(each.metrics) for name, each in found.items()} for task, found in self.measured.items()
        }
        return {
            "formula": self.formula,
            "parts": list(self.parts),
            "overlap": {part: dict(each) for part, each in self.overlap.items()},
            "tasks": tasks,
            "interference": self.changes(),
            "weights_counted_more_than_once": self.doubled,
        }


def interference_stages(spec: CompositionSpec, place: Workplace) -> dict[tuple[str, str], MeasureStage]:
    """A measurement of each part and of the composition on each task of a part, by task and circuit. Each circuit keeps
    its own ablation reference, whatever the task says: the kind, and the task whose data the values come from."""
    row = f"interference in {spec.name}"
    found: dict[tuple[str, str], MeasureStage] = {}
    for task in tasks_of_parts(spec):
        for circuit in (*spec.operands, spec):
            on = replace(task, ablation=_reference(circuit))
            found[task.name, circuit.name] = MeasureStage(
                circuit, _obtain(circuit, place), on, reference=circuit.task, row=row
            )
    return found


def measure_interference(spec: CompositionSpec, place: Workplace) -> Interference:
    """Measure it. `StageError` for a task that an ablation is not possible on."""
    from graphir.algebra_overlap import overlap

    measured: dict[str, dict[str, Measurement]] = {}
    for (task, circuit), stage in interference_stages(spec, place).items():
        measured.setdefault(task, {})[circuit] = place.value(stage)
    tasks = tasks_of_parts(spec)
    own = {task.name: tuple(c.name for c in spec.operands if c.task and c.task.name == task.name) for task in tasks}
    parts = [obtain(each, place).circuit for each in spec.operands]
    shared = overlap(*parts).to_json()
    factors = obtain(spec, place).factors
    return Interference(
        spec.name,
        spec.formula.text,
        tuple(each.name for each in spec.operands),
        own,
        {task.name: task.metric for task in tasks},
        measured,
        {part: each for part, each in shared.items() if part != "names"},
        sum(int((counts > 1).sum()) for counts in factors.values()),
    )


def tasks_of_parts(spec: CompositionSpec) -> list[TaskSpec]:
    """The tasks that the parts were found for, each once."""
    return list({each.task.name: each.task for each in spec.operands if each.task is not None}.values())


def _reference(circuit: AnyCircuit) -> str:
    return circuit.task.ablation if circuit.task is not None else "interchange"


def _obtain(circuit: AnyCircuit, place: Workplace) -> Any:
    return lambda: obtain(circuit, place)
