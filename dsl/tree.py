"""The syntax tree of a `.circ` file. Every node carries the span it was read from; equality ignores spans.

What recovery from a mistake had to invent is there with an empty text (`is_missing`), so that checking can go on
without reporting the same mistake again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, fields

from dsl.records import record
from dsl.syntax import (
    COMPARISONS,
    LOGIC,
    Amount,
    Binary,
    Block,
    Call,
    Entry,
    Expression,
    Gate,
    Item,
    Member,
    Name,
    Node,
    Number,
    Pattern,
    Range,
    Region,
    Selected,
    Selector,
    Set,
    Text,
    Unary,
    Value,
)
from graphir.diagnostics import Source

# fmt: off
__all__ = [
    "COMPARISONS", "LOGIC", "Ablate", "Along", "Amount", "Analyze", "Axis", "Between", "Binary", "Block",
    "Blocks", "Call", "Check", "Circuit", "Cluster", "Combination", "Comment", "Composition", "Corpus", "Data",
    "Declaration", "Drift", "Entry", "Evidence", "Export", "Expression", "File", "ForTask", "Formula", "Gate",
    "GraphSection", "Import", "Include", "Item", "Lesion", "Let", "Limit", "Measure", "Member", "MethodUse",
    "Metric", "Minimize", "Model", "Name", "Node", "Number", "Origin", "Pattern", "Predict", "Query",
    "QueryClause", "Range", "Region", "Report", "Section", "Selected", "Selector", "Set", "Shrink", "Split",
    "Statement", "SubjectTo", "Subtask", "Sweep", "Task", "Text", "Through", "Top", "Unary", "Value", "Vector",
    "VectorImport", "VectorSum", "Where", "children", "walk",
]
# fmt: on


@record
class Model(Node):
    """`model NAME = KIND [package] "reference" { … }`."""

    name: Name
    kind: Name
    package: bool
    reference: Text
    block: Block | None


@record
class GraphSection(Node):
    """`graph NAME = trace MODEL { … }`."""

    name: Name
    model: Name
    block: Block | None


@record
class Data(Node):
    """`data KIND "reference" { … }`."""

    kind: Name
    reference: Text
    block: Block | None


@record
class Split(Node):
    """`split 50 / 25 / 25 by template`."""

    shares: tuple[Amount, ...]
    by: Name | None


@record
class Predict(Node):
    """`predict answer vs distractor at last`."""

    target: Name
    against: Name | None
    at: Name | None


@record
class Ablate(Node):
    """`ablate mean by position`."""

    kind: Name
    by: Name | None


@record
class Metric(Node):
    """`metric logit_diff`."""

    name: Name


@record
class Subtask(Node):
    """`subtask NAME where CONDITION { statements }` within a task: some of its examples, or other ones."""

    name: Name
    where: Expression | None
    statements: tuple[Statement, ...]


Statement = Data | Split | Predict | Ablate | Metric | Subtask


@record
class Task(Node):
    """`task NAME { statements }`."""

    name: Name
    statements: tuple[Statement, ...]

    @property
    def subtasks(self) -> tuple[Subtask, ...]:
        """Its subtasks, in order."""
        return tuple(each for each in self.statements if isinstance(each, Subtask))


@record
class MethodUse(Node):
    """A discovery method with options."""

    name: Name
    block: Block | None


@record
class Minimize(Node):
    """`minimize expression`."""

    expression: Expression


@record
class SubjectTo(Node):
    """`subject to constraint, constraint`."""

    constraints: tuple[Expression, ...]


@record
class Top(Node):
    """`top 3.4%`, `top 200 edges`, in a query `top 10 by score` (`by` says which)."""

    amount: Amount
    word: Name | None


@record
class Origin(Node):
    """`from CIRCUIT`: where learning starts."""

    circuit: Name


@record
class Circuit(Node):
    """`circuit NAME = discover GRAPH for TASK with METHOD { … } clauses`; `kind` is circuit or sheaf."""

    name: Name
    graph: Name
    task: Name
    method: MethodUse
    clauses: tuple[Origin | Minimize | SubjectTo | Top, ...]
    kind: str = "circuit"


@record
class Combination(Node):
    """`left & right`, `left | right`, `left - right`, `left + right`; `~left` has no right."""

    operator: str
    left: Formula
    right: Formula | None


Formula = Name | Combination


@record
class ForTask(Node):
    """`for TASK`: what a composition is judged on."""

    task: Name


@record
class Composition(Node):
    """`circuit NAME = a | b for TASK ablate KIND`."""

    name: Name
    formula: Formula
    clauses: tuple[ForTask | Ablate, ...]
    kind: str = "circuit"


@record
class Axis(Node):
    """`over NAME in value, value`."""

    name: Name
    values: tuple[Item, ...]


@record
class Sweep(Node):
    """`sweep NAME = discover … over AXIS in values` or `sweep NAME = CIRCUIT over …`. `base` is what members are made
    from: a section without a name of its own, or the name of a circuit."""

    name: Name
    base: Circuit | Name
    axes: tuple[Axis, ...]
    pattern: Text | None
    kind: str = "circuit"


@record
class Where(Node):
    """`where condition`."""

    condition: Expression


@record
class Between(Node):
    """`from pattern to pattern`."""

    source: Name | Pattern
    target: Name | Pattern


@record
class Through(Node):
    """`through pattern, pattern`."""

    patterns: tuple[Name | Pattern, ...]


@record
class Along(Node):
    """`along pattern -> pattern -> pattern`."""

    patterns: tuple[Name | Pattern, ...]


@record
class Limit(Node):
    """`limit 20`."""

    count: Amount


QueryClause = Where | Between | Through | Along | Top | Limit


@record
class Query(Node):
    """`query NAME = KIND of SUBJECT clauses`."""

    name: Name
    kind: Name
    subject: Name
    clauses: tuple[QueryClause, ...]


@record
class Check(Node):
    """`check CIRCUIT { conditions }`."""

    circuit: Name
    conditions: tuple[Expression, ...]


@record
class Measure(Node):
    """`measure CIRCUITS at SCALE amounts against METHODS`."""

    circuits: tuple[Name, ...]
    scale: Name
    amounts: tuple[Amount, ...]
    against: tuple[MethodUse, ...]


@record
class Export(Node):
    """`export SUBJECT to "path", "path" as FLAVOR`."""

    subject: Name
    targets: tuple[Text, ...]
    flavor: Name | None


@record
class Evidence(Node):
    """`evidence CIRCUITS against CIRCUIT { fields }`."""

    circuits: tuple[Name, ...]
    truth: Name | None
    block: Block | None


@record
class Report(Node):
    """`report SUBJECTS to "path"`; without subjects it is about the whole file."""

    subjects: tuple[Name, ...]
    targets: tuple[Text, ...]


@record
class Include(Node):
    """`include "path"`."""

    path: Text


@record
class Let(Node):
    """`let NAME = value`: a number, text, range or list, or an expression of numbers and other constants."""

    name: Name
    values: tuple[Expression | Range, ...]


@record
class Import(Node):
    """`import circuit NAME = "path" as FORMAT on GRAPH for TASK`."""

    name: Name
    path: Text
    form: Name | None
    graph: Name
    task: Name | None
    kind: str = "circuit"


@record
class Corpus(Node):
    """`corpus NAME = KIND "reference" { … }`."""

    name: Name
    kind: Name
    reference: Text
    block: Block | None


@record
class Analyze(Node):
    """`analyze NAME = UNITS of GRAPH where CONDITION on CORPUS with METHOD { … }`. Without a name it is called after
    its units and its subject."""

    name: Name
    units: Name
    subject: Name
    where: Expression | None
    corpus: Name | None
    method: MethodUse


@record
class Cluster(Node):
    """`cluster NAME = UNITS of GRAPH where CONDITION on CORPUS with METHOD { … }`."""

    name: Name
    units: Name
    subject: Name
    where: Expression | None
    corpus: Name | None
    method: MethodUse


@record
class Blocks(Node):
    """`blocks NAME = ANALYSIS { … }`."""

    name: Name
    analysis: Name
    block: Block | None


@record
class Lesion(Node):
    """`lesion NAME = SUBJECT for TASK { … }`, or `on CORPUS`."""

    name: Name
    subject: Name
    task: Name | None
    corpus: Name | None
    block: Block | None


@record
class Drift(Node):
    """`drift NAME = ANALYSIS, ANALYSIS { … }`: the same analysis at several steps."""

    name: Name
    steps: tuple[Name, ...]
    block: Block | None


@record
class Shrink(Node):
    """`shrink NAME = SUBJECT to "folder" { … }`; where the name is left out it is empty."""

    name: Name
    subject: Name
    target: Text
    block: Block | None


@record
class Vector(Node):
    """`vector NAME = tune MODEL for TASK with METHOD { … }`."""

    name: Name
    model: Name
    task: Name
    method: MethodUse


@record
class VectorSum(Node):
    """`vector NAME = a + b`, `a - b`, `0.5 * a`; or, as sets, `a | b`, `a & b`, `a & ~b`."""

    name: Name
    formula: Expression | Formula


@record
class VectorImport(Node):
    """`import vector NAME = "folder/" on MODEL for TASK`."""

    name: Name
    path: Text
    model: Name
    task: Name | None


Declaration = (
    Model | GraphSection | Task | Circuit | Composition | Sweep | Import | Query | Corpus | Analyze | Cluster
    | Blocks | Lesion | Drift | Shrink | Vector | VectorSum | VectorImport | Let
)  # fmt: skip
"""A section that gives something a name."""

Section = Declaration | Check | Measure | Evidence | Export | Report | Include


@record
class Comment(Node):
    """A comment, `#` included."""

    text: str


@record
class File(Node):
    """A whole file. `lost` names the declarations recovery had to skip, which later lines may still mention."""

    source: Source = field(compare=False, repr=False)
    version: Number | None
    sections: tuple[Section, ...]
    comments: tuple[Comment, ...] = field(default=(), compare=False)
    lost: frozenset[str] = field(default=frozenset(), compare=False)


def children(node: Node) -> Iterator[Node]:
    """The nodes directly below, in the order of their fields."""
    for each in fields(node):
        below = getattr(node, each.name)
        for child in below if isinstance(below, tuple) else (below,):
            if isinstance(child, Node):
                yield child


def walk(node: Node) -> Iterator[Node]:
    """A node and everything below it, outside in."""
    yield node
    for child in children(node):
        yield from walk(child)
