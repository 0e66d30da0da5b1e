"""Find the circuits of a specification: a stage for each seed, the best by validation data, all of them kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsl.objectives import objective_options
from dsl.running.failures import StageError, located
from dsl.running.keys import circuit_digest, describe, describe_method
from dsl.running.sections.graphs import TraceStage
from dsl.running.sections.tasks import TaskStage
from dsl.running.stage import Stage
from dsl.running.storing import read_circuit, read_numbers, settled, write_circuit, write_numbers
from dsl.spec import CircuitSpec, CompositionSpec
from graphir.errors import TrainingError
from passes.option import WeightOptions

if TYPE_CHECKING:
    from dsl.running.workplace import Workplace
    from dsl.spec import AnyCircuit, GraphSpec, MethodSpec, TaskSpec
    from graphir.circuit import Circuit
    from graphir.ir import Graph
    from graphir.run.program import MaskedProgram

SELECT_BY = "kl"
"""What the best of several seeds is chosen by: the smallest divergence from the model on validation data."""
SHARES = ("nodes", "weights", "neurons")
"""Parts whose kept share a method can be held to, besides edges."""
LATER = frozenset({"span", "name", "graph", "task", "method", "sweep", "at", "origin"})
"""Fields of a circuit section that are described on their own, or do not matter."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a method found. `seeds` has the circuit of each seed, `validation` their divergences (empty for one seed),
    `chosen` the seed whose circuit is `circuit`, `interrupted` the step that Ctrl-C came at, `failed` the seeds whose
    learning broke off, with what was said. A circuit that is composed or imported has one seed, 0; of a sum `factors`
    say how often each weight counts."""

    spec: AnyCircuit
    circuit: Circuit
    seeds: Mapping[int, Circuit]
    chosen: int
    validation: Mapping[int, float]
    interrupted: int | None = None
    failed: Mapping[int, str] = field(default_factory=dict)
    factors: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """How it was come by: the method, the formula, or the file."""
        match self.spec:
            case CircuitSpec():
                return self.spec.method.name
            case CompositionSpec():
                return self.spec.formula.text
        return f"{self.spec.format} {self.spec.path}"

    @property
    def method(self) -> MethodSpec | None:
        """What found it; None for what is composed or imported."""
        return self.spec.method if isinstance(self.spec, CircuitSpec) else None

    @property
    def stability(self) -> float | None:
        """The smallest overlap (IoU) of edges between two seeds; None for one seed."""
        kept = [circuit.edges for circuit in self.seeds.values()]
        return min((overlap(a, b) for a, b in combinations(kept, 2)), default=None)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two masks, 1 where both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


class DiscoverStage(Stage["Circuit"]):
    """One run of a method: with a circuit's bounds and one of its seeds, or, without a circuit, for a ranking alone."""

    kind = "discover"

    def __init__(
        self,
        method: MethodSpec,
        graph: GraphSpec,
        task: TaskSpec,
        name: str,
        *,
        seed: int = 0,
        circuit: CircuitSpec | None = None,
        row: str = "",
    ) -> None:
        super().__init__(name, method.span, f"running {method.name}", row)
        self.method, self.graph, self.task, self.seed, self.circuit = method, graph, task, seed, circuit

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """Graph, task, method, seed; bounds and objective of the circuit."""
        found: dict[str, Any] = {
            "graph": TraceStage(self.graph),
            "task": TaskStage(self.task, self.graph.model),
            "method": describe_method(self.method),
            "seed": self.seed,
        }
        if self.circuit is not None:
            found |= {"circuit": describe(self.circuit, without=LATER)}
        if (origin := self.origin) is not None:
            found |= {"origin": origin}
        return found

    @property
    def origin(self) -> DiscoverStage | None:
        """The run that learning starts from: of the circuit that `from` names, with the same seed."""
        origin = self.circuit.origin if self.circuit is not None else None
        if origin is None:
            return None
        return DiscoverStage(
            origin.method, origin.graph, origin.task, origin.name, seed=self.seed, circuit=origin, row=self.row
        )

    def run(self, place: Workplace) -> Circuit:
        """The circuit. `StageError` for what goes wrong, with the last good state on not-a-number. Ctrl-C in the run
        that this one starts from ends it."""
        import passes

        stage = self.origin
        origin = None if stage is None else place.value(stage).with_(name=stage.name)
        if origin is not None and "interrupted" in origin.provenance:
            raise KeyboardInterrupt
        with located(self.doing, self.span):
            program, task = place.program(self.graph), place.task(self.task, self.graph.model)
            bounds = {} if self.circuit is None else bounds_on(self.circuit, program)
            options = {each.name: getattr(self.method.options, each.name) for each in fields(self.method.options)}
            reporter = place.reporter
            with (
                reporter.stage(f"{self.name}: {self.method.name}", prefix=self.name),
                place.checkpoint() as checkpoint,
            ):
                if self.circuit is not None:
                    options |= objective_options(self.circuit)
                found = passes.run(
                    self.method.name, program, task, seed=self.seed, metric=self.task.metric, observer=reporter,
                    checkpoint=checkpoint, origin=origin, **bounds, **options,
                )  # fmt: skip
        traced = place.value(TraceStage(self.graph))
        return found.with_(graph=traced.graph, example=traced.stored_example, provenance=settled(found.provenance))

    def save(self, value: Circuit, folder: Path) -> None:
        """Masks, scores and provenance."""
        write_circuit(folder, value)

    def load(self, folder: Path, place: Workplace) -> Circuit:
        """The circuit over the graph of this run."""
        traced = place.value(TraceStage(self.graph))
        return read_circuit(folder, traced.graph, traced.stored_example)

    def complete(self, value: Circuit) -> bool:
        """Not when Ctrl-C cut it short."""
        return "interrupted" not in value.provenance


class CompareStage(Stage[Mapping[int, float]]):
    """The divergence of each seed's circuit on validation data, or on training data where there is none."""

    kind = "compare"

    def __init__(self, spec: CircuitSpec, seeds: Mapping[int, Circuit]) -> None:
        super().__init__(f"{spec.name}: compare seeds", spec.span, f"choosing among the seeds of `{spec.name}`")
        self.spec, self.seeds = spec, seeds

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """Graph, task and the circuits, in the order of the seeds."""
        return {
            "graph": TraceStage(self.spec.graph),
            "task": TaskStage(self.spec.task, self.spec.graph.model),
            "batch_size": batch_size_of(self.spec),
            "seeds": {str(seed): circuit_digest(circuit) for seed, circuit in self.seeds.items()},
        }

    def run(self, place: Workplace) -> Mapping[int, float]:
        """By seed."""
        from passes.measure import Evaluator, masks_of

        with located(self.doing, self.span):
            program = place.program(self.spec.graph)
            task = place.task(self.spec.task, self.spec.graph.model)
            split = "validation" if task.examples("validation") else "train"
            with place.reporter.stage(self.name):
                evaluator = Evaluator(program, task, split, batch_size_of(self.spec))
                found = evaluator.measure_several([masks_of(each, program) for each in self.seeds.values()])
        return {seed: metrics[SELECT_BY] for seed, metrics in zip(self.seeds, found, strict=True)}

    def save(self, value: Mapping[int, float], folder: Path) -> None:
        """As JSON."""
        write_numbers(folder, {str(seed): number for seed, number in value.items()})

    def load(self, folder: Path, place: Workplace) -> Mapping[int, float]:
        """The same."""
        return {int(seed): float(number) for seed, number in read_numbers(folder).items()}


def seeds_of(spec: CircuitSpec) -> tuple[int, ...]:
    """The seeds of a circuit's method, each once; a method without seeds has one."""
    return tuple(dict.fromkeys(getattr(spec.method.options, "seeds", (0,)))) or (0,)


def discoveries(spec: CircuitSpec, count: int, row: str) -> dict[int, DiscoverStage]:
    """A discovery for each of at least `count` seeds: the circuit's own first, then the next numbers. `row` is where
    the plan shows them."""
    own = seeds_of(spec)
    more = (seed for seed in range(count + len(own)) if seed not in own)
    return {
        seed: DiscoverStage(
            spec.method, spec.graph, spec.task, f"{spec.label} (seed {seed})", seed=seed, circuit=spec, row=row
        )
        for seed in (*own, *more)[: max(count, len(own))]
    }


def discover_stages(spec: CircuitSpec) -> dict[int, DiscoverStage]:
    """The stage of each seed."""
    wanted = seeds_of(spec)
    many = len(wanted) > 1
    row = f"{spec.name}: {spec.method.name}" + (f", {len(wanted)} seeds" if many else "")
    return {
        seed: DiscoverStage(
            spec.method, spec.graph, spec.task, f"{spec.name} (seed {seed})" if many else spec.name,
            seed=seed, circuit=spec, row=row,
        )
        for seed in wanted
    }  # fmt: skip


def find_circuit(spec: CircuitSpec, place: Workplace) -> Found:
    """Run the circuit's method with each seed. `StageError` for what goes wrong, unless another seed came through;
    Ctrl-C ends it with what there is."""
    return place.once(f"circuit {spec.name}", lambda: _find_circuit(spec, place))


def _find_circuit(spec: CircuitSpec, place: Workplace) -> Found:
    seeds: dict[int, Circuit] = {}
    failures: dict[int, StageError] = {}
    interrupted = None
    stages = discover_stages(spec)
    for seed, stage in stages.items():
        try:
            found = place.value(stage)
        except StageError as error:
            if len(stages) == 1 or not isinstance(error.__cause__, TrainingError):
                raise
            failures[seed] = error
            place.reporter.warn(f"seed {seed} of `{spec.name}` failed: {error.message.splitlines()[0]}")
            continue
        stopped = found.provenance.get("interrupted")
        if stopped is None or not seeds:
            seeds[seed] = found.with_(name=spec.name)
        if stopped is not None:
            interrupted = int(stopped)
            break
    if not seeds:
        raise next(iter(failures.values()))
    validation = {} if len(seeds) == 1 or interrupted is not None else place.value(CompareStage(spec, seeds))
    chosen = min(seeds, key=lambda seed: (np.nan_to_num(validation.get(seed, 0.0), nan=np.inf), seed))
    failed = {seed: error.message for seed, error in failures.items()}
    return Found(spec, seeds[chosen], seeds, chosen, validation, interrupted, failed)


def batch_size_of(spec: AnyCircuit) -> int:
    """Rows in a batch when the circuit is measured: the method's, of a composition that of its first operand."""
    if isinstance(spec, CompositionSpec):
        return batch_size_of(spec.operands[0])
    return int(getattr(spec.method.options, "batch_size", 8)) if isinstance(spec, CircuitSpec) else 8


def bounds_of(spec: CircuitSpec, graph: Graph, weights: int = 0, neurons: int = 0) -> dict[str, Any]:
    """The circuit's bounds as `passes.run` takes them; `weights` is the number of weights that the method masks,
    `neurons` that of neurons."""
    bounds: dict[str, Any] = {"density": spec.density, "edges": spec.edge_limit}
    numbers = {"nodes": len(graph.nodes), "weights": weights, "neurons": neurons}
    for part in SHARES:
        number = numbers[part]
        shares = [share for each in spec.constraints if (share := _share(each, part, number)) is not None]
        if spec.top is not None and getattr(spec.top, "part", "edges") == part and spec.top.fraction is not None:
            shares.append(spec.top.fraction)
        if number and spec.top is not None and spec.top.part == part and spec.top.count is not None:
            shares.append(min(spec.top.count / number, 1.0))
        bounds |= {part: min(shares)} if shares else {}
    return bounds


def bounds_on(spec: CircuitSpec, program: MaskedProgram) -> dict[str, Any]:
    """`bounds_of` for the weights that the circuit's method masks in a program."""
    top = spec.top.part if spec.top is not None and spec.top.count is not None else ""
    counted = top == "weights" or any(each.quantity == "weights" for each in spec.constraints)
    weights = masked_weights(spec.method, program) if counted else 0
    return bounds_of(spec, program.graph, weights, count_neurons(program) if top == "neurons" else 0)


def count_neurons(program: MaskedProgram) -> int:
    """How many neurons there are to mask."""
    return max((stop for _, stop in program.neurons.values()), default=0)


def masked_weights(method: MethodSpec, program: MaskedProgram) -> int:
    """How many weights the method's masks cover."""
    options = method.options
    names = options.masked_parameters(program) if isinstance(options, WeightOptions) else program.maskable
    return sum(program.traced.tensors[name].numel() for name in names)


def _share(constraint: Any, part: str, total: int) -> float | None:
    """The largest share of a part that a constraint allows, None where it bounds something else; of nodes and weights
    also by their number, of so many in all."""
    if constraint.value is None:
        return None
    upper = constraint.operator in ("<=", "<", "==")
    match constraint.quantity, constraint.part:
        case "density", named if upper and named == part:
            return float(constraint.value)
        case "sparsity", named if constraint.operator in (">=", ">", "==") and named == part:
            return 1.0 - float(constraint.value)
        case ("nodes" | "weights") as named, _ if upper and part == named and total:
            return float(constraint.value - (constraint.operator == "<")) / total
    return None


def method_ranking_stage(circuit: AnyCircuit, method: MethodSpec) -> DiscoverStage:
    """The stage that gives another method's ranking for the circuit's graph and task."""
    assert circuit.task is not None
    return DiscoverStage(method, circuit.graph, circuit.task, method.name, row=f"rank by {method.name}")
