"""The checked sections of a file: what each says, resolved, with defaults filled in. Frozen and torch-free.

Everything keeps the span it was read from, so that what goes wrong later can point at its line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from dsl.records import Record, record
from dsl.tree import Expression
from graphir.diagnostics import Span


@record
class Located(Record):
    """Anything that came from a place in a text."""

    span: Span = field(repr=False, compare=False)


@record
class ModelSpec(Located):
    """A model. `kind` is hf, gguf, builtin, tracr or python; with `package` the reference names an installed Python
    package that holds the GGUF file."""

    name: str
    kind: str
    reference: str
    package: bool = False
    dtype: str = "float32"
    device: str = "auto"
    revision: str | None = None


@record
class Region(Located):
    """Layers `first` to `last`, both included, and the granularity they get (`layer`, `head split qkv`, `neuron` …)."""

    first: int
    last: int
    granularity: str


@record
class GraphSpec(Located):
    """A traced model. `attention` is `head split qkv`, `head joint qkv` or `layer`; `mlp` is `layer` or `neuron`;
    `key_value` is grouped or ungrouped; later regions win over earlier ones and over `attention` and `mlp`."""

    name: str
    model: ModelSpec
    attention: str = "head split qkv"
    mlp: str = "layer"
    key_value: str = "grouped"
    regions: tuple[Region, ...] = ()
    tolerance: float = 1e-4
    example: str | None = None


@record
class DataSpec(Located):
    """Where examples come from. `kind` is builtin (a generator's name and its options) or jsonl (a path as written,
    relative to the file's folder; option `n` limits the number)."""

    kind: str
    reference: str
    options: Mapping[str, Any] = field(default_factory=dict)


@record
class SplitSpec(Located):
    """Shares of training, validation and test data, which sum to 1, and what is kept together: template or example."""

    train: float = 0.5
    validation: float = 0.25
    test: float = 0.25
    by: str = "template"


@record
class TaskSpec(Located):
    """A task. `ablation` is interchange, zero, mean or `mean by position`; without a distractor `against` is None.

    A subtask is a task called `PARENT.NAME`: everything it does not say itself is its parent's. `where` picks some of
    the examples (`dsl.translate.keeps` tells which); the split is made before picking, so that an example is in the
    same part as in the parent.
    """

    name: str
    data: DataSpec
    split: SplitSpec
    target: str = "answer"
    against: str | None = "distractor"
    position: str = "last"
    ablation: str = "interchange"
    metric: str = "logit_diff"
    parent: str | None = None
    where: Expression | None = field(default=None, repr=False)


@record
class MethodSpec(Located):
    """A discovery method and its options: an instance of its class in `passes.options`. `given` are the names of the
    options that the file sets."""

    name: str
    options: Any
    given: frozenset[str] = frozenset()


@record
class Constraint(Located):
    """`quantity(part) operator bound`: `density(edges) <= 0.034`. Shares are fractions, counts whole numbers; `value`
    is None when the bound is an expression that only a run can evaluate."""

    quantity: str
    part: str
    operator: str
    value: float | None
    expression: Expression = field(repr=False)


@record
class Amount(Located):
    """How many edges (or nodes, weights, neurons: `part`) to keep: a share (`fraction`) or a number (`count`), the
    other
    being None."""

    fraction: float | None = None
    count: int | None = None
    part: str = "edges"


@record
class CircuitSpec(Located):
    """A circuit to be found; `kind` is circuit or sheaf (weights and edges together).

    `minimize` is None when the file leaves it to the method (then `kl(model, circuit)`). `top` says how many edges a
    ranking keeps, `origin` whose masks learning starts from. A member of a sweep has its name in `sweep` and its value
    on each axis, as written, in `at`.
    """

    name: str
    graph: GraphSpec
    task: TaskSpec
    method: MethodSpec
    minimize: Expression | None = field(default=None, repr=False)
    constraints: tuple[Constraint, ...] = ()
    top: Amount | None = None
    kind: str = "circuit"
    sweep: str | None = None
    at: Mapping[str, str] = field(default_factory=dict)
    origin: CircuitSpec | None = None

    @property
    def label(self) -> str:
        """How people call it: `names`, of a member of a sweep `sizes[target=2%, seed=0]`."""
        if self.sweep is None:
            return self.name
        return f"{self.sweep}[{', '.join(f'{axis}={value}' for axis, value in self.at.items())}]"

    @property
    def density(self) -> float | None:
        """Largest share of edges allowed, from `density(edges)` and `sparsity(edges)` constraints and `top`."""
        bounds = [
            c.value
            for c in self.constraints
            if c.quantity == "density" and c.part == "edges" and c.operator in ("<=", "<", "==")
        ]
        bounds += [
            1 - c.value
            for c in self.constraints
            if c.quantity == "sparsity"
            and c.part == "edges"
            and c.operator in (">=", ">", "==")
            and c.value is not None
        ]
        bounds += [self.top.fraction] if self.top and self.top.part == "edges" else []
        return min((bound for bound in bounds if bound is not None), default=None)

    @property
    def edge_limit(self) -> int | None:
        """Largest number of edges allowed, from `edges` constraints and `top`."""
        bounds = [
            c.value - (c.operator == "<")
            for c in self.constraints
            if c.quantity == "edges" and c.operator in ("<=", "<", "==") and c.value is not None
        ]
        bounds += [self.top.count] if self.top and self.top.count is not None and self.top.part == "edges" else []
        return min(map(int, bounds), default=None)


@record
class Formula(Record):
    """A formula over circuits: `operator` is `&`, `|`, `-`, `+` (two operands), `~` (one) or empty (none: `circuit` is
    the name of one)."""

    operator: str = ""
    operands: tuple[Formula, ...] = ()
    circuit: str = ""

    def __str__(self) -> str:
        match self.operands:
            case ():
                return self.circuit
            case (only,):
                return f"~{only}"
        return f"({f' {self.operator} '.join(map(str, self.operands))})"

    @property
    def text(self) -> str:
        """As `str`, without parentheses around the whole."""
        return str(self)[1:-1] if len(self.operands) > 1 else str(self)


@record
class CompositionSpec(Located):
    """A circuit made of others, which are all on `graph`; `operands` are the circuits the formula names, each once.

    `task` is what it is judged on, with `ablation` as its own. That is the reference that stands in for what is left
    out, of that task's data: what all operands have, or the one the file says, which it must where they differ
    (`mixed`).
    """

    name: str
    formula: Formula
    operands: tuple[AnyCircuit, ...]
    graph: GraphSpec
    task: TaskSpec
    ablation: str
    mixed: bool = False
    kind: str = "circuit"

    @property
    def label(self) -> str:
        """How people call it."""
        return self.name


@record
class ImportSpec(Located):
    """A circuit in a file (`path`, relative to the specification's folder) of another program: `format` is mib, edges,
    acdc, or circuit for a saved one of ours. Without a task (`task` is None) it is not judged."""

    name: str
    path: str
    format: str
    graph: GraphSpec
    task: TaskSpec | None = None
    kind: str = "circuit"

    @property
    def label(self) -> str:
        """How people call it."""
        return self.name


AnyCircuit = CircuitSpec | CompositionSpec | ImportSpec
"""Whatever `check`, `measure`, `evidence`, `query`, `export` and `report` take for a circuit."""


@record
class SweepSpec(Located):
    """A product of circuits. `axes` has the values of each axis as written; `members` are in the order of the product,
    the last axis fastest, and stand among the circuits of the specification too."""

    name: str
    kind: str
    axes: Mapping[str, tuple[str, ...]]
    members: tuple[CircuitSpec, ...]

    def select(self, at: Mapping[str, str]) -> tuple[CircuitSpec, ...]:
        """The members with these values."""
        return tuple(each for each in self.members if all(each.at[axis] == value for axis, value in at.items()))


@record
class QuerySpec(Located):
    """A query. `start`, `through`, `end` are patterns; `dsl.translate.to_query` makes it a `graphir.query.Query`."""

    name: str
    kind: str
    subject: str
    subject_kind: str
    where: Expression | None = field(default=None, repr=False)
    start: str | None = None
    through: tuple[str, ...] = ()
    end: str | None = None
    top: int | None = None
    by: str = "score"
    limit: int | None = None


@record
class Condition(Located):
    """One condition of a check: a comparison to evaluate (`dsl.translate.holds`), and its text. `seeds` is over how
    many
    seeds its quantities are measured, where the file says `over 3 seeds`."""

    expression: Expression = field(repr=False)
    text: str = ""
    seeds: int | None = None


@record
class CheckSpec(Located):
    """Conditions on a circuit. A check of a sweep is one such for each member."""

    circuit: AnyCircuit
    conditions: tuple[Condition, ...]


@record
class MeasureSpec(Located):
    """A faithfulness curve. `scale` is density, sparsity or edges; `amounts` are fractions, or counts for edges;
    `against` are rankings to compare with at the same sizes."""

    circuits: tuple[AnyCircuit, ...]
    scale: str
    amounts: tuple[float, ...]
    against: tuple[MethodSpec, ...] = ()

    @property
    def densities(self) -> tuple[float, ...] | None:
        """The sizes as shares of edges kept; None when they are counts."""
        if self.scale == "edges":
            return None
        return tuple(1 - amount if self.scale == "sparsity" else amount for amount in self.amounts)


@record
class EvidenceSpec(Located):
    """What is measured beside some circuits: `options` is a `passes.evidence_options.EvidenceOptions`, `given` are the
    names of those that the file sets, `truth` is the circuit that the file says is the true one."""

    circuits: tuple[AnyCircuit, ...]
    options: Any
    given: frozenset[str] = frozenset()
    truth: AnyCircuit | None = None


@record
class ShrinkSpec(Located):
    """A smaller module of a circuit, written to the folder `path`; `options` is a
    `passes.shrink_options.ShrinkOptions`. Without a name in the file it has that of the circuit."""

    circuit: AnyCircuit
    path: str
    options: Any
    name: str = ""


@record
class Target(Located):
    """A file to write: path as written, and format, the name of an exporter in `dsl.export`."""

    path: str
    format: str


@record
class ExportSpec(Located):
    """Files to write from a circuit, a graph, a query's answer or an analysis; `subject_kind` is circuit, graph, query,
    analysis, blocks, cluster or lesion."""

    subject: str
    subject_kind: str
    targets: tuple[Target, ...]


@record
class ReportSpec(Located):
    """Reports to write (formats html, md, json), about these circuits; without any, about the whole run."""

    circuits: tuple[AnyCircuit, ...]
    targets: tuple[Target, ...]
