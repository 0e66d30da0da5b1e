"""What the stages of a run work with: models, graphs, tasks, programs, evaluators, each made when something first asks
for it; and the results of stages, from this run, from the cache, or computed and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from dsl.running.cache import CHECKPOINTS, Cache, Entry
from dsl.running.checkpoints import FileCheckpoint
from dsl.running.failures import located
from dsl.running.identity import identify
from dsl.running.keys import code_digest, describe, digest
from dsl.running.loading import FALLBACK_TEXT, TRACE_ROWS, build_task, device_of, granularity_of, text_inputs
from dsl.running.stage import PendingError, Stage
from dsl.running.threads import Setting
from dsl.spec import CorpusSpec, TaskSpec
from graphir.errors import GraphirError, SaveFormatError, UnavailableError

if TYPE_CHECKING:
    from torch import Tensor

    from dsl.models import LoadedModel
    from dsl.running.progress import Reporter
    from dsl.spec import AnyCircuit, GraphSpec, ModelSpec, Spec
    from graphir.ir import Graph
    from graphir.run.program import MaskedProgram
    from passes.measure import Evaluator
    from passes.task import Task

T = TypeVar("T")


@dataclass
class StageRecord:
    """What became of a stage, for the manifest. `seconds` is how long it took when it was computed."""

    kind: str
    name: str
    key: str
    cached: bool
    seconds: float | None
    resumed_at: int | None = None
    note: str = ""


@dataclass(eq=False)
class Workplace:
    """Makes what stages need, and keeps it. With `planning` nothing is computed: `value` raises `PendingError` for what
    is in no cache."""

    spec: Spec
    reporter: Reporter
    cache: Cache | None = None
    setting: Setting = field(default_factory=Setting)
    planning: bool = False
    models: dict[str, LoadedModel] = field(default_factory=dict)
    traced: dict[str, Graph] = field(default_factory=dict)
    tasks: dict[tuple[str, ...], Task] = field(default_factory=dict)
    programs: dict[str, MaskedProgram] = field(default_factory=dict)
    evaluators: dict[tuple[Any, ...], Evaluator] = field(default_factory=dict)
    records: dict[str, StageRecord] = field(default_factory=dict)
    _values: dict[str, Any] = field(default_factory=dict)
    _failed: dict[str, GraphirError] = field(default_factory=dict)
    _made: dict[str, Any] = field(default_factory=dict)
    _identities: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _open: ExitStack = field(default_factory=ExitStack)
    _current: tuple[str, FileCheckpoint | None] = ("", None)

    @classmethod
    def of(cls, spec: Spec, reporter: Reporter) -> Workplace:
        """One without a cache."""
        return cls(spec, reporter)

    def close(self) -> None:
        """Undo what the run set in torch."""
        self._open.close()

    # --- results of stages -----------------------------------------------------------------------------------------

    def value(self, stage: Stage[T]) -> T:
        """The stage's result. `PendingError` while planning, for one that is in no cache."""
        key = self.key(stage)
        if key in self._failed:
            raise self._failed[key]
        if key not in self._values:
            found, value = self._cached(stage, key)
            if not found and self.planning:
                raise PendingError(f"waits for `{stage.name}`")
            try:
                self._values[key] = value if found else self._computed(stage, key)
            except GraphirError as error:
                self._failed[key] = error
                raise
        result: T = self._values[key]
        return result

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once in this run: for what several stages derive from the results of others."""
        if name not in self._made:
            self._made[name] = make()
        result: T = self._made[name]
        return result

    def key(self, stage: Stage[Any]) -> str:
        """SHA-256 (hex) of all that the stage's result depends on. `PendingError` as `value`."""
        return digest(self.description(stage))

    def description(self, stage: Stage[Any]) -> dict[str, Any]:
        """All that the stage's result depends on, as plain data."""
        return {
            "kind": stage.kind,
            "version": stage.version,
            "code": code_digest(*stage.code),
            **{name: self._described(each) for name, each in stage.inputs(self).items()},
        }

    def _described(self, value: Any) -> Any:
        if isinstance(value, Stage):
            return self.description(value)
        if isinstance(value, Mapping):
            return {str(name): self._described(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._described(each) for each in value]
        return describe(value)

    def _cached(self, stage: Stage[Any], key: str) -> tuple[bool, Any]:
        """Whether the cache has the result, and the result."""
        if self.cache is None:
            return False, None
        note = ""
        try:
            entry = self.cache.find(stage.kind, key, using=not self.planning)
            if entry is None:
                return False, None
            value = stage.load(entry.folder, self)
        except (GraphirError, OSError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            if isinstance(error, PendingError):
                raise
            note = error.message if isinstance(error, SaveFormatError) else f"{type(error).__name__}: {error}"
            self.records[key] = StageRecord(stage.kind, stage.name, key, False, None, note=f"damaged: {note}")
            if not self.planning:
                self.reporter.warn(f"the cached result of `{stage.name}` is damaged and computed anew: {note}")
                self.cache.drop(stage.kind, key)
            return False, None
        self._remember(stage, key, entry)
        return True, value

    def _remember(self, stage: Stage[Any], key: str, entry: Entry) -> None:
        seconds = entry.head.get("seconds")
        taken = float(seconds) if isinstance(seconds, int | float) else None
        self.records[key] = StageRecord(stage.kind, stage.name, key, True, taken)
        if not self.planning:
            self.reporter.cached(stage.name, key)

    def _computed(self, stage: Stage[T], key: str) -> T:
        """Compute the result and keep it. A cache that cannot be written is no reason to stop."""
        before, self._current = self._current, (key, None)
        started = time.monotonic()
        try:
            value = stage.run(self)
        finally:
            checkpoint = self._current[1]
            self._current = before
        taken = time.monotonic() - started
        note = self.records[key].note if key in self.records else ""
        resumed = None if checkpoint is None else checkpoint.loaded_step
        self.records[key] = StageRecord(stage.kind, stage.name, key, False, taken, resumed, note)
        if self.cache is not None and stage.complete(value):
            self._keep(stage, key, value, taken)
            if checkpoint is not None:
                checkpoint.remove()
        self.reporter.computed(stage.name, key)
        if checkpoint is not None and checkpoint.asked:
            raise KeyboardInterrupt  # it came when there was no next step to wait for
        return value

    def _keep(self, stage: Stage[T], key: str, value: T, taken: float) -> None:
        assert self.cache is not None
        head = {
            "stage": stage.name,
            "file": self.spec.source.name,
            "inputs": self.description(stage),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": taken,
        }
        try:
            self.cache.put(stage.kind, key, head, lambda folder: stage.save(value, folder))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            self.reporter.warn(f"the result of `{stage.name}` is not kept in {self.cache.folder}: {reason}")

    @contextmanager
    def checkpoint(self) -> Iterator[FileCheckpoint | None]:
        """The checkpoint of the stage that is running, for a pass; within, Ctrl-C waits for the pass's next step. None
        without a cache."""
        key, _ = self._current
        if self.cache is None or not key:
            yield None
            return
        try:
            self.cache.prepare(CHECKPOINTS)
        except OSError as error:
            self.reporter.warn(f"no checkpoints in {self.cache.folder}: {(error.strerror or str(error)).lower()}")
        log = self.reporter.log
        made = FileCheckpoint(
            self.cache.checkpoint(key),
            key,
            warn=self.reporter.warn,
            saved=lambda step: log.write("checkpoint", done=step),
        )
        self._current = (key, made)
        with made.deferring():
            yield made

    # --- models, graphs, tasks -------------------------------------------------------------------------------------

    def identity(self, spec: ModelSpec) -> Mapping[str, Any]:
        """What tells the model from others, without loading it where that can be told. A model that is not here yet is
        downloaded; one that Python code makes is made."""
        if spec.name not in self._identities:
            try:
                found = identify(spec, self.spec.folder)
            except UnavailableError as error:
                if self.planning:
                    raise PendingError(error.message) from None
                self.model(spec)
                found = identify(spec, self.spec.folder)
            if found is None:
                found = self._made_identity(spec)
            self._identities[spec.name] = {**found, **self.setting.describe()}
        return self._identities[spec.name]

    def _made_identity(self, spec: ModelSpec) -> Mapping[str, Any]:
        if self.planning:
            raise PendingError(f"`{spec.name}` is made by Python code: what is cached shows when it runs")
        from dsl.running.identity import identify_made

        return identify_made(self.model(spec))

    def model(self, spec: ModelSpec) -> LoadedModel:
        """The loaded model."""
        from dsl.models import load_model

        if spec.name not in self.models:
            self._open.enter_context(self.setting.applied())
            with located(f"loading `{spec.name}`", spec.span), self.reporter.stage(f"load {spec.name}"):
                allowed = self.spec.allow_code
                self.models[spec.name] = load_model(
                    spec, folder=self.spec.folder, allow_code=allowed, device=spec.device
                )
        return self.models[spec.name]

    def graph(self, spec: GraphSpec) -> Graph:
        """The graph, its equivalence measured: traced in this run, or from the cache and then without the model. The
        same object throughout the run."""
        from dsl.running.sections.graphs import TraceStage

        return self.value(TraceStage(spec)).graph

    def live_graph(self, spec: GraphSpec) -> Graph:
        """The graph traced in this run."""
        import graphir

        if spec.name not in self.traced:
            loaded = self.model(spec.model)
            with located(f"tracing `{spec.model.name}`", spec.span):
                example = self._example(spec, loaded)
                with self.reporter.stage(f"trace {spec.model.name}"):
                    self.traced[spec.name] = graphir.trace(
                        loaded.model, example, granularity=granularity_of(spec), tolerance=spec.tolerance
                    )
        return self.traced[spec.name]

    def program(self, spec: GraphSpec) -> MaskedProgram:
        """The graph's masked program. `GraphirError` where the graph in the cache is not the one traced now."""
        import graphir

        if spec.name not in self.programs:
            cached = self.graph(spec)
            graph = self.live_graph(spec)
            with located(f"lowering `{spec.name}`", spec.span), self.reporter.stage(f"lower {spec.name}", minor=True):
                _check_same(cached, graph)
                self.programs[spec.name] = graphir.lower(graph)
        return self.programs[spec.name]

    def task(self, spec: TaskSpec, model: ModelSpec) -> Task:
        """The task's examples in the model's tokens."""
        key = (spec.name, spec.ablation, model.name)
        if key not in self.tasks:
            loaded = self.model(model)
            stage = self.reporter.stage(f"task {spec.name}", minor=True)
            with located(f"preparing task `{spec.name}`", spec.span), stage:
                self.tasks[key] = build_task(spec, self.spec, loaded)
        return self.tasks[key]

    def evaluator(
        self, graph: GraphSpec, task: TaskSpec, split: str, batch_size: int, reference: TaskSpec | None = None
    ) -> Evaluator:
        """Measures masks on a split, with means over the data of `reference` in place of the task's own where it is
        given; the model and the empty circuit are measured when it is made."""
        from passes.ablations import ReferenceSource
        from passes.measure import Evaluator

        key = (graph.name, task.name, task.ablation, split, batch_size, reference and reference.name)
        if key not in self.evaluators:
            program, examples = self.program(graph), self.task(task, graph.model)
            with self.reporter.stage(f"measure model of {task.name}"):
                source = None
                if reference is not None:
                    theirs = self.task(replace(reference, ablation=task.ablation), graph.model)
                    source = ReferenceSource(program, theirs.beside(examples))
                made = Evaluator(program, examples, split, batch_size, source=source)
                _ = made.empty  # now, so that its time is not counted with a circuit's
            self.evaluators[key] = made
        return self.evaluators[key]

    def users(self, spec: GraphSpec) -> list[TaskSpec]:
        """The tasks of circuits on a graph, in the file's order, those that are discovered first; then of analyses."""
        discovered: tuple[AnyCircuit, ...] = (*self.spec.circuits, *self.spec.imports)
        named = [(each.graph.name, each.task) for each in discovered]
        named += [(graph.name, data) for graph, data in self._analyzed() if isinstance(data, TaskSpec)]
        return [task for graph, task in named if graph == spec.name and task is not None]

    def corpora(self, spec: GraphSpec) -> list[CorpusSpec]:
        """The corpora that a graph is analyzed on, in the file's order."""
        return [data for graph, data in self._analyzed() if graph.name == spec.name and isinstance(data, CorpusSpec)]

    def _analyzed(self) -> list[tuple[GraphSpec, Any]]:
        found: list[tuple[GraphSpec, Any]] = [(each.graph, each.data) for each in self.spec.analyses]
        return found + [(each.graph, each.data) for each in self.spec.clusters]

    def _example(self, spec: GraphSpec, loaded: LoadedModel) -> Mapping[str, Tensor]:
        """What to trace with: the text given, else the first examples of a task that uses the graph, or the first
        sample of a corpus that it is analyzed on."""
        users = self.users(spec)
        if spec.example is None and users:
            batch = next(self.task(users[0], spec.model).batches("train", TRACE_ROWS))
            return dict(batch.to(device_of(loaded.model)).inputs)
        if spec.example is None and (corpora := self.corpora(spec)):
            from dsl.running.samples import first_sample

            return first_sample(corpora[0], spec.model, self, TRACE_ROWS)
        return text_inputs(spec.example or FALLBACK_TEXT, loaded)


def _check_same(cached: Graph, traced: Graph) -> None:
    if cached is traced:
        return
    from graphir.diff import graph_differences

    differences = graph_differences(cached, traced, structure=True)
    if differences or cached.model_hash != traced.model_hash:
        message = f"the graph in the cache is not the model's: {'; '.join(differences[:3]) or 'other weights'}"
        raise GraphirError(message, ["run again with `--no-cache`", "delete the folder of the cache"])
