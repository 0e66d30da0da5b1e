"""`task t { … }`: examples in a model's tokens. What is kept is what the manifest says of them; the examples themselves
are made anew when a stage works on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsl.running.identity import data_identity
from dsl.running.keys import describe
from dsl.running.stage import Section, Stage
from dsl.running.storing import read_numbers, write_numbers
from dsl.running.vector_tasks import measured_on
from graphir.errors import UnavailableError

if TYPE_CHECKING:
    from dsl.running.carrying import Run
    from dsl.running.workplace import Workplace
    from dsl.spec import AnyCircuit, ModelSpec, Spec, TaskSpec


@dataclass(frozen=True)
class TaskFacts:
    """A task in numbers: identity (sha256 of texts, splits, ablation, tokenizer), ablation, examples of each split."""

    name: str
    identity: str
    ablation: str
    sizes: Mapping[str, int]


class TaskStage(Stage[TaskFacts]):
    """Make or read the examples of a task, tokenize and split them."""

    kind = "task"
    code = ("passes", "dsl.tasks", "dsl.running.loading")

    def __init__(self, spec: TaskSpec, model: ModelSpec) -> None:
        super().__init__(f"task {spec.name}", spec.span, f"preparing task `{spec.name}`")
        self.spec, self.model = spec, model

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """The section, the content of its data, and the model, for its tokenizer."""
        try:
            data = data_identity(self.spec.data, place.spec.folder)
        except UnavailableError:
            data = {}  # making the task says what is wrong, with its place
        found = {name: value for name, value in describe(self.spec).items() if name != "data"}
        return {"name": self.spec.name, **found, "data": data, "model": place.identity(self.model)}

    def run(self, place: Workplace) -> TaskFacts:
        """Its numbers; the task itself stays in `place`."""
        task = place.task(self.spec, self.model)
        return TaskFacts(task.name, task.identity, task.ablation, {k: len(v) for k, v in task.splits.items()})

    def save(self, value: TaskFacts, folder: Path) -> None:
        """As JSON."""
        write_numbers(folder, asdict(value))

    def load(self, folder: Path, place: Workplace) -> TaskFacts:
        """The same."""
        return TaskFacts(**read_numbers(folder))


def used(spec: Spec) -> list[TaskStage]:
    """Each task that a circuit or a vector uses, with each model and under each ablation it is used with."""
    found = {}
    named: tuple[AnyCircuit, ...] = (*spec.circuits, *spec.imports, *spec.compositions)
    for each in named:
        if each.task is not None:
            found[each.task.name, each.task.ablation, each.graph.model.name] = (each.task, each.graph.model)
    for vector in spec.vectors:
        for task in measured_on(vector, spec):
            found[task.name, task.ablation, vector.model.name] = (task, vector.model)
    return [TaskStage(*pair) for pair in found.values()]


class Tasks(Section):
    """Prepares the tasks of a file. Nothing is shown: a task is there for the circuits and vectors."""

    kind, order = "tasks", 20

    def carry_out(self, run: Run) -> None:
        """All that a circuit or a vector uses."""
        run.results[self.kind] = [run.place.value(stage) for stage in used(run.spec)]

    def stages(self, spec: Spec, place: Workplace) -> Iterator[Stage[Any]]:
        """One for each task and model."""
        return iter(used(spec))

    def record(self, run: Run) -> Mapping[str, Any]:
        """Identity, ablation, sizes of splits."""
        found: list[TaskFacts] = run.results.get(self.kind, [])
        return {
            "tasks": {each.name: {"identity": each.identity, "ablation": each.ablation, **each.sizes} for each in found}
        }


SECTION = Tasks()
