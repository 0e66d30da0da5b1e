"""What a run would do and cost, without loading weights and without torch.

    forward pass      F = 2·P·B·S + 4·L·B·S²·D FLOPs for P multiplied parameters, batch B, length S, L layers, width D
    reads of streams  M = 2·E·D·B·S for E edges: what masking adds to a forward pass, twice that to a backward one
    learning step     the model, the counterfactual, the masked program and its gradient: 4F + 3M (weights are frozen,
                      so going back costs as much as going forth)
    ranking batch     (2 + 2k)F + kM with k points on the path
    measuring batch   the counterfactual once, then F + M for each circuit

    memory            weights; writers·B·S·D values, as many ablation values and, for learning, as many gradients; what
                      a backward pass keeps; logits

Time is FLOPs over the speed of a short matrix product on this machine, times a factor measured on real models, plus a
fixed cost for each pass. Expect it to be right within a factor of two or three.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dsl.options import PlanOptions
from dsl.running.caching import CACHED, OFF, Standing, by_row, standings
from dsl.running.failures import located
from dsl.running.finding import batch_size_of
from dsl.running.loading import read_examples
from dsl.running.progress import plain
from dsl.running.sizes import GraphSize, ModelSize, graph_size, model_size, tensor_shapes
from dsl.running.stage import refuse_unsupported
from dsl.translate import keeps
from graphir.display import render, simple_table
from graphir.errors import DataError, UnavailableError

if TYPE_CHECKING:
    from dsl.model_facts import ModelFacts
    from dsl.spec import AnyCircuit, CircuitSpec, MethodSpec, ModelSpec, Spec, TaskSpec

EFFICIENCY = 0.6
"""Speed of a model over that of a square matrix product, as measured; the rest goes into attention and moving data."""
READ_FACTOR = 2.5
"""How much slower the reads of streams are for their FLOPs: they move much memory for little arithmetic."""
PASS_SECONDS_PER_LAYER = 6e-4
"""Fixed cost of one layer in one pass, as measured on the smallest models."""
BASE_BYTES = 600e6
"""What Python, torch and transformers take."""
START_SECONDS = 5.0
TRACE_SECONDS_PER_LAYER = 0.3
LOAD_BYTES_PER_SECOND = 3e8
UNPACK_BYTES_PER_SECOND = 1e7
UNPACK_COPIES = 2.5
"""Quantized weights are unpacked in Python: slowly, and into the model from a copy."""
BENCHMARK_SIZE, BENCHMARK_SECONDS = 512, 0.05
MEASURED_TOKENS = 512
"""Tokens of a batch that is measured, at least (`passes.measure.TOKENS`)."""
WARM_START_EXAMPLES = 64
"""Examples that learning with `initial: eap` ranks first."""


@dataclass(frozen=True)
class Stage:
    """One part of a run: examples it sees, passes over batches, FLOPs, seconds and bytes (None: not known); how it
    stands with the cache (`dsl.running.caching`). `seconds` and the rest are what it takes when it is not cached."""

    name: str
    line: int
    examples: int
    forward: int
    backward: int
    flops: float | None
    seconds: float | None
    memory: float | None
    cache: str = ""

    @property
    def cached(self) -> bool:
        """Whether all of it is in the cache."""
        return self.cache == CACHED


@dataclass(frozen=True)
class Plan:
    """Sizes of models, graphs and tasks, and the stages of a run. All sizes of graphs are estimates. `standings` says
    of each stage whether it is in the cache, and why not."""

    models: Mapping[str, ModelSize | None]
    graphs: Mapping[str, GraphSize | None]
    tasks: Mapping[str, Mapping[str, Any]]
    stages: tuple[Stage, ...]
    gflops: float
    notes: tuple[str, ...] = field(default=())
    standings: tuple[Standing, ...] = field(default=())

    @property
    def ahead(self) -> tuple[Stage, ...]:
        """The stages that are not in the cache."""
        return tuple(stage for stage in self.stages if not stage.cached)

    @property
    def seconds(self) -> float | None:
        """Time of the stages that are not in the cache, None where one is not known."""
        return _sum(stage.seconds for stage in self.ahead)

    @property
    def memory(self) -> float | None:
        """The largest memory of any of them, None where one is not known."""
        known = [stage.memory for stage in self.ahead if stage.memory is not None]
        return max(known, default=0.0) if len(known) == len(self.ahead) else None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        data = {
            "models": {name: each and asdict(each) for name, each in self.models.items()},
            "graphs": {name: each and {**asdict(each), "estimate": True} for name, each in self.graphs.items()},
            "tasks": self.tasks,
            "stages": [asdict(stage) for stage in self.stages],
            "seconds": self.seconds,
            "memory": self.memory,
            "gflops": self.gflops,
            "notes": list(self.notes),
            "cache": [standing.to_json() for standing in self.standings],
        }
        result: dict[str, Any] = plain(data)
        return result

    def __str__(self) -> str:
        lines = [_model_line(name, each) for name, each in self.models.items()]
        lines += [_graph_line(name, each) for name, each in self.graphs.items()]
        lines += [
            f"task {name}: {task['examples']:,} examples, {task['train']:,} to learn from, {task['test']:,} to judge "
            f"on, about {task['tokens']} tokens"
            for name, task in self.tasks.items()
        ]
        headers: tuple[str, ...]
        headers = ("stage", "line", "examples", "forward", "backward", "GFLOP", "time", "memory")
        rows: list[tuple[Any, ...]] = [
            (s.name, s.line, s.examples, s.forward, s.backward, _giga(s.flops), _time(s.seconds), _bytes(s.memory))
            for s in self.stages
        ]
        total = ("total", "", "", sum(s.forward for s in self.ahead), sum(s.backward for s in self.ahead))
        rows.append((*total, _giga(_sum(s.flops for s in self.ahead)), _time(self.seconds), _bytes(self.memory)))
        numbers = headers[1:]
        if any(s.cache for s in self.stages):
            headers = (*headers, "cache")
            rows = [(*row, s.cache.partition(":")[0]) for row, s in zip(rows, self.stages, strict=False)] + [
                (*rows[-1], "")
            ]
        reasons = [f"{s.name}: {s.cache}" for s in self.stages if ": " in s.cache]
        notes = [f"note: {note}" for note in self.notes]
        return render(*lines, "", simple_table(headers, rows, numbers), "", *reasons, *notes)


@dataclass(frozen=True)
class Work:
    """What a circuit works on: sizes, rows in a batch, tokens in a row, examples by split."""

    model: ModelSize | None
    graph: GraphSize | None
    batch: int
    tokens: int
    examples: Mapping[str, int]

    @property
    def pass_flops(self) -> float:
        """F of the module docstring."""
        assert self.model is not None
        tokens = self.batch * self.tokens
        return 2.0 * self.model.body * tokens + 4.0 * self.model.layers * tokens * self.tokens * self.model.width

    @property
    def read_flops(self) -> float:
        """M of the module docstring."""
        assert self.model is not None
        assert self.graph is not None
        return 2.0 * self.graph.edges * self.model.width * self.batch * self.tokens

    def memory(self, *, learning: bool) -> float | None:
        """Bytes at the peak of a stage."""
        if self.model is None or self.graph is None:
            return None
        m, tokens = self.model, self.batch * self.tokens
        buffers = (3 if learning else 2) * self.graph.writers * tokens * m.width * m.item
        ports = (m.heads + 2 * m.groups) * tokens * m.width * m.item
        kept = m.layers * tokens * (16 * m.width + 4 * m.hidden) * m.item if learning else 0
        scores = m.layers * m.heads * tokens * self.tokens * m.item * (2 if learning else 0)
        logits = 4 * self.batch * m.vocab * 4
        return BASE_BYTES + m.parameters * m.item + buffers + 2 * ports + kept + scores + logits

    def stage(
        self, name: str, line: int, examples: int, forward: int, backward: int, reads: float, gflops: float
    ) -> Stage:
        """A stage from its passes over batches; `reads` counts masked passes (M each)."""
        flops = seconds = None
        if self.model is not None and self.graph is not None:
            flops = (forward + backward) * self.pass_flops + reads * self.read_flops
            slowed = (forward + backward) * self.pass_flops + READ_FACTOR * reads * self.read_flops
            fixed = (forward + backward + reads) * self.model.layers * PASS_SECONDS_PER_LAYER
            seconds = slowed / (gflops * 1e9 * EFFICIENCY) + fixed
        return Stage(name, line, examples, forward, backward, flops, seconds, self.memory(learning=backward > 0))


def make_plan(spec: Spec, options: PlanOptions) -> Plan:
    """See `dsl.execute.plan_spec`."""
    from dsl.running.planning_analyses import analysis_stages
    from dsl.running.planning_more import more_stages
    from dsl.running.planning_vectors import vector_rows

    refuse_unsupported(spec)
    notes: list[str] = []
    facts: dict[str, ModelFacts | None] = {}
    models: dict[str, ModelSize | None] = {}
    for model in spec.models:
        facts[model.name], models[model.name] = _read_model(model, spec, notes)
    graphs: dict[str, GraphSize | None] = {}
    for graph in spec.graphs:
        size = models[graph.model.name]
        graphs[graph.name] = None if size is None else graph_size(graph, size)
    tasks = {task.name: _read_task(task, spec) for task in spec.tasks}
    gflops = measure_speed()
    stages = [_load_stage(model, facts[model.name], models[model.name]) for model in spec.models]
    stages += [_trace_stage(graph.name, graph.span.line, models[graph.model.name]) for graph in spec.graphs]

    def work_of(circuit: AnyCircuit, task: TaskSpec) -> Work:
        shape = tasks[task.name]
        sizes = models[circuit.graph.model.name], graphs[circuit.graph.name]
        return Work(*sizes, batch_size_of(circuit), int(shape["tokens"]), shape)

    for circuit in spec.circuits:
        stages += _circuit_stages(circuit, work_of(circuit, circuit.task), gflops)
    for measure in spec.measures:
        for each in measure.circuits:
            if each.task is None:
                continue
            work = work_of(each, each.task)
            stages += _curve_stages(each, measure.against, len(measure.amounts), measure.span.line, work, gflops)
    stages += more_stages(spec, work_of, gflops)
    stages += analysis_stages(spec, models, graphs, tasks, gflops)
    stages += vector_rows(spec, models, tasks, gflops)
    found = standings(spec, options)
    stages = _with_standings(stages, found)
    notes += [note for size in models.values() if size for note in size.notes]
    notes.append("graph sizes are estimates: attention and MLP one after the other, nothing opaque")
    threads = f"{options.threads} threads" if options.threads else "all threads"
    notes.append(f"{gflops:.0f} GFLOP/s in a matrix product with {threads}; times are rough, within a factor of 2 or 3")
    return Plan(models, graphs, tasks, tuple(stages), gflops, tuple(dict.fromkeys(notes)), found)


def _with_standings(stages: Sequence[Stage], found: tuple[Standing, ...]) -> list[Stage]:
    """The stages with what the cache has of them. A model is loaded only for a stage that computes; a graph that is in
    the cache is traced again for one."""
    if all(each.state == OFF for each in found):
        return list(stages)
    idle = all(each.state == CACHED for each in found)
    rows = {stage.name: by_row(found, stage.name) for stage in stages}
    told = []
    for stage in stages:
        text = rows[stage.name]
        if stage.name.startswith("load ") and not text:
            text = CACHED if idle else "needed"
        elif stage.name.startswith("trace ") and text == CACHED and not idle:
            text = "needed"
        told.append(replace(stage, cache=text))
    return told


def measure_speed() -> float:
    """GFLOP/s of a single-precision matrix product by numpy, the best of a few in a twentieth of a second."""
    matrix = np.random.default_rng(0).random((BENCHMARK_SIZE, BENCHMARK_SIZE), dtype=np.float32)
    best, stop = math.inf, time.perf_counter() + BENCHMARK_SECONDS
    while time.perf_counter() < stop:
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
    return float(2 * BENCHMARK_SIZE**3 / best / 1e9)


def _read_model(model: ModelSpec, spec: Spec, notes: list[str]) -> tuple[ModelFacts | None, ModelSize | None]:
    from dsl.models import model_facts

    with located(f"reading `{model.name}`", model.span):
        try:
            facts = model_facts(model, folder=spec.folder)
        except UnavailableError as error:
            if model.kind != "hf":
                raise
            notes.append(f"{model.name}: {error.message}, so its sizes are not known")
            return None, None
    size = model_size(model, facts, tensor_shapes(model, spec.folder))
    if size is None:
        notes.append(f"{model.name}: its configuration does not tell layers, heads and width of one decoder")
    return facts, size


def _read_task(task: TaskSpec, spec: Spec) -> dict[str, Any]:
    """Numbers of examples by split, and tokens of the longest, counted as words and punctuation marks."""
    with located(f"reading task `{task.name}`", task.data.span):
        examples = read_examples(task, spec)
        if task.where is not None:
            examples = [each for each in examples if keeps(task.where, each)]
        if not examples:
            raise DataError(f"no example of `{task.parent}` is in the subtask `{task.name}`")
    total = len(examples)
    tokens = max(len(re.findall(r"\w+|[^\w\s]", example.clean)) for example in examples)
    split = task.split
    shares = {"train": split.train, "validation": split.validation, "test": split.test}
    return {"examples": total, "tokens": tokens} | {name: round(share * total) for name, share in shares.items()}


def _load_stage(model: ModelSpec, facts: ModelFacts | None, size: ModelSize | None) -> Stage:
    speed = UNPACK_BYTES_PER_SECOND if model.kind == "gguf" else LOAD_BYTES_PER_SECOND
    seconds = None if facts is None else START_SECONDS + (facts.bytes or 0) / speed
    copies = UNPACK_COPIES if model.kind == "gguf" else 1.0
    memory = None if size is None else BASE_BYTES + copies * size.parameters * size.item
    return Stage(f"load {model.name}", model.span.line, 0, 0, 0, 0.0, seconds, memory)


def _trace_stage(name: str, line: int, size: ModelSize | None) -> Stage:
    seconds = None if size is None else 1.0 + size.layers * TRACE_SECONDS_PER_LAYER
    memory = None if size is None else BASE_BYTES + 2.0 * size.parameters * size.item
    # The model and the program, on the example and on another batch, and the run that probes units.
    return Stage(f"trace {name}", line, 0, 6, 0, 0.0, seconds, memory)


def _circuit_stages(circuit: CircuitSpec, work: Work, gflops: float) -> Iterator[Stage]:
    seeds = len(set(getattr(circuit.method.options, "seeds", (0,)))) or 1
    line = circuit.span.line
    if not getattr(circuit.method.options, "learns", True) and hasattr(circuit.method.options, "examples"):
        yield _ranking_stage(f"{circuit.name}: {circuit.method.name}", circuit.method, line, work, gflops)
    else:
        yield learning_stage(circuit, work, seeds, gflops)
    if seeds > 1:
        yield measuring_stage(f"{circuit.name}: compare seeds", line, work, "validation", seeds, gflops)
    # The circuit and its complement, and the empty circuit and the model beside them.
    yield measuring_stage(f"measure {circuit.name}", line, work, "test", 3, gflops)


def learning_stage(circuit: CircuitSpec, work: Work, seeds: int, gflops: float) -> Stage:
    """Learning the circuit from so many seeds."""
    options = circuit.method.options
    steps = _optimizer_steps(options) * seeds
    forward, backward, reads, examples = 3 * steps, steps, 3.0 * steps, steps * work.batch
    if getattr(options, "initial", "") in ("eap", "attribution") and circuit.origin is None:
        batches = seeds * math.ceil(min(WARM_START_EXAMPLES, work.examples["train"]) / work.batch)
        forward, backward, reads = forward + 3 * batches, backward + batches, reads + batches
        examples += seeds * min(WARM_START_EXAMPLES, work.examples["train"])
    name = f"{circuit.name}: {circuit.method.name}" + (f", {seeds} seeds" if seeds > 1 else "")
    return work.stage(name, circuit.span.line, examples, forward, backward, reads, gflops)


def _optimizer_steps(options: Any) -> int:
    """Of one seed: of the masks, or of the weights in all rounds, each but the first from where they go back to."""
    steps, rounds = int(getattr(options, "steps", 1)), int(getattr(options, "rounds", 0))
    return int(getattr(options, "total_steps", steps)) + rounds * max(steps - int(getattr(options, "rewind", 0)), 0)


def _ranking_stage(name: str, method: MethodSpec, line: int, work: Work, gflops: float) -> Stage:
    options = method.options
    examples = min(int(options.examples), work.examples["train"])
    batches, points = math.ceil(examples / int(options.batch_size)), int(getattr(options, "steps", 1))
    return work.stage(name, line, examples, batches * (2 + points), batches * points, float(batches * points), gflops)


def measuring_stage(name: str, line: int, work: Work, split: str, masks: int, gflops: float) -> Stage:
    """Measuring so many masks on a split, in batches as `passes.measure.Evaluator` makes them."""
    work = replace(work, batch=max(work.batch, MEASURED_TOKENS // max(work.tokens, 1)))
    examples = work.examples[split]
    batches = math.ceil(examples / work.batch)
    return work.stage(name, line, examples, batches * (2 + masks), 0, float(batches * masks), gflops)


def _curve_stages(
    circuit: AnyCircuit, against: Sequence[MethodSpec], sizes: int, line: int, work: Work, gflops: float
) -> Iterator[Stage]:
    for method in against:
        yield _ranking_stage(f"rank by {method.name}", method, line, work, gflops)
    yield measuring_stage(f"curve of {circuit.name}", line, work, "test", sizes * (1 + len(against)), gflops)


# --- text ------------------------------------------------------------------------------------------------------------


def _model_line(name: str, size: ModelSize | None) -> str:
    if size is None:
        return f"model {name}: sizes not known before it is loaded"
    shape = f"{size.layers} layers, {size.heads} heads ({size.groups} key/value), width {size.width:,}"
    return f"model {name}: {size.parameters:,} parameters, {shape}"


def _graph_line(name: str, size: GraphSize | None) -> str:
    return f"graph {name}: " + (f"about {size.nodes:,} nodes, {size.edges:,} edges" if size else "size not known")


def _sum(values: Iterator[float | None]) -> float | None:
    known = list(values)
    return None if None in known else float(sum(value for value in known if value is not None))


def _giga(flops: float | None) -> str:
    if not flops:
        return "-" if flops is None else ""
    return f"{flops / 1e9:,.3g}" if flops < 1e12 else f"{flops / 1e9:,.0f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _bytes(count: float | None) -> str:
    return "-" if count is None else f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
