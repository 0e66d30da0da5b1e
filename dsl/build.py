"""From the parse tree of a section to the nodes of `tree.py`."""

from __future__ import annotations

import itertools
import re
from typing import Any

from dsl import tree
from dsl.lexer import LOOKALIKES, Token
from graphir.diagnostics import Diagnostic, Label, Source, Span

NUMBER = re.compile(r"((?:\d[\d_]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+(?!\w))?)(.*)", re.DOTALL)
ESCAPES = {'"': '"', "\\": "\\", "/": "/", "n": "\n", "t": "\t"}


STATEMENTS = (tree.Data, tree.Split, tree.Predict, tree.Ablate, tree.Metric, tree.Subtask)


def _of(children: list[Any], kind: Any) -> tuple[Any, ...]:
    return tuple(child for child in children if isinstance(child, kind))


def number_of(span: Span, text: str) -> tree.Number:
    """A number and its unit from the text of a NUMBER token; 0 for one that recovery invented."""
    match = NUMBER.fullmatch(text)
    value, unit = (float(match[1].replace("_", "")), match[2]) if match else (0.0, "")
    return tree.Number(span, value, unit, text)


class Builder:
    """Makes the nodes of a file. The parser calls the method that a rule is named after, with where its symbols stand
    and their values; `mistakes` collects what only shows here (escapes)."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.mistakes: list[Diagnostic] = []

    # Leaves

    def name(self, span: Span, children: list[Any]) -> tree.Name:
        return tree.Name(span, str(children[0]))

    def pattern_path(self, span: Span, children: list[Any]) -> tree.Pattern:
        return tree.Pattern(span, str(children[0]))

    def number(self, span: Span, children: list[Any]) -> tree.Number:
        return number_of(span, str(children[0]))

    def ref(self, span: Span, children: list[Any]) -> tree.Name:
        """`ioi.singular`: a name with a dot, not a component."""
        return tree.Name(span, str(children[0]))

    def selected(self, span: Span, children: list[Any]) -> tree.Selected:
        return tree.Selected(span, str(children[0]), _of(children, tree.Selector))

    def selector(self, span: Span, children: list[Any]) -> tree.Selector:
        return tree.Selector(span, children[0], children[-1])

    def negative(self, span: Span, children: list[Any]) -> tree.Number:
        number = number_of(span, str(children[-1]))
        return tree.Number(number.span, -number.value, number.unit, f"-{number.text}")

    def text(self, span: Span, children: list[Any]) -> tree.Text:
        token = children[0]
        if token.type == "QUOTED" or not token:
            return tree.Text(span, str(token).strip("'“”„\""))
        return tree.Text(span, self._unescape(span, str(token)[1:-1]))

    def _unescape(self, span: Span, inner: str) -> str:
        """The text a literal stands for; reports escapes that mean nothing."""

        def replace(match: re.Match[str]) -> str:
            if match[1] not in ESCAPES:
                place = self.source.span(span.start + 1 + match.start(), span.start + 1 + match.end())
                note = "a backslash itself is written `\\\\`; paths may use `/`"
                self.mistakes.append(Diagnostic("C105", f"unknown escape `{match[0]}`", (Label(place),), (note,)))
            return ESCAPES.get(match[1], match[1])

        return re.sub(r"\\(.)", replace, inner)

    # Values and blocks

    def range(self, span: Span, children: list[Any]) -> tree.Range:
        numbers = _of(children, (tree.Number, tree.Name))
        return tree.Range(span, numbers[0], numbers[-1])

    def set(self, span: Span, children: list[Any]) -> tree.Set:
        return tree.Set(span, tuple(children))

    def words(self, span: Span, children: list[Any]) -> tree.Value:
        return tree.Value(span, tuple(children), is_list=False)

    def listing(self, span: Span, children: list[Any]) -> tree.Value:
        return tree.Value(span, tuple(children), is_list=True)

    def entry(self, span: Span, children: list[Any]) -> tree.Entry:
        field, value = children
        name = tree.Name(self.source.span(field.start_pos, field.end_pos), str(field))
        return tree.Entry(span, name, value)

    def region(self, span: Span, children: list[Any]) -> tree.Region:
        _, layers, value = children
        if isinstance(layers, tree.Number):
            layers = tree.Range(layers.span, layers, layers)
        return tree.Region(span, layers, value)

    def block(self, span: Span, children: list[Any]) -> tree.Block:
        return tree.Block(span, _of(children, (tree.Entry, tree.Region)))

    # Expressions

    def _chain(self, children: list[Any], operator: str = "") -> tree.Expression:
        """Left-associative chain; `children` are operands, with operator tokens between them unless one is given."""
        operands = [child for child in children if not isinstance(child, Token)]
        operators = [operator] * (len(operands) - 1) if operator else [str(c) for c in children if isinstance(c, Token)]
        result: tree.Expression = operands[0]
        for sign, operand in zip(operators, operands[1:], strict=True):
            result = tree.Binary(result.span.to(operand.span), LOOKALIKES.get(sign, sign), result, operand)
        return result

    def sum(self, span: Span, children: list[Any]) -> tree.Expression:
        return self._chain(children)

    product = power = sum

    def conjunction(self, span: Span, children: list[Any]) -> tree.Expression:
        return self._chain([c for c in children if not isinstance(c, Token)], "and")

    def expression(self, span: Span, children: list[Any]) -> tree.Expression:
        return self._chain([c for c in children if not isinstance(c, Token)], "or")

    def comparison(self, span: Span, children: list[Any]) -> tree.Expression:
        """`a <= b <= c` means `a <= b and b <= c`."""
        pairs: list[Any] = []
        for left, sign, right in zip(children[0::2], children[1::2], children[2::2], strict=False):
            operator = "==" if sign == "=" else LOOKALIKES.get(str(sign), str(sign))
            pairs.append(tree.Binary(left.span.to(right.span), operator, left, right))
        return self._chain(pairs, "and")

    def negate(self, span: Span, children: list[Any]) -> tree.Unary:
        return tree.Unary(span, "not", children[-1])

    def minus(self, span: Span, children: list[Any]) -> tree.Unary:
        return tree.Unary(span, "-", children[-1])

    def call(self, span: Span, children: list[Any]) -> tree.Call:
        return tree.Call(span, children[0], tuple(children[1:]))

    def member(self, span: Span, children: list[Any]) -> tree.Member:
        return tree.Member(span, children[0], children[-1])

    def over_seeds(self, span: Span, children: list[Any]) -> tree.Gate:
        return tree.Gate(span, children[0], _of(children[1:], (tree.Number, tree.Name))[0])

    def phrase(self, span: Span, children: list[Any]) -> tree.Call:
        """`stability iou` is `stability(iou)`, `complement accuracy` is `accuracy(complement)`."""
        first, second = children
        from dsl.schema import QUANTITIES

        if first.text not in QUANTITIES and second.text in QUANTITIES:
            first, second = second, first
        return tree.Call(span, first, (second,))

    def phrased(self, span: Span, children: list[Any]) -> tree.Expression:
        return self.comparison(span, children)

    # Sections

    def include(self, span: Span, children: list[Any]) -> tree.Include:
        return tree.Include(span, children[-1])

    def let(self, span: Span, children: list[Any]) -> tree.Let:
        _, name, *values = children
        return tree.Let(span, name, tuple(values))

    def model(self, span: Span, children: list[Any]) -> tree.Model:
        package = any(isinstance(c, Token) and c.type == "PACKAGE" for c in children)
        name, kind = _of(children, tree.Name)
        return tree.Model(span, name, kind, package, _of(children, tree.Text)[0], self._block(children))

    def _block(self, children: list[Any]) -> tree.Block | None:
        return next(iter(_of(children, tree.Block)), None)

    def graph(self, span: Span, children: list[Any]) -> tree.GraphSection:
        name, model = _of(children, tree.Name)
        return tree.GraphSection(span, name, model, self._block(children))

    def task(self, span: Span, children: list[Any]) -> tree.Task:
        return tree.Task(span, _of(children, tree.Name)[0], _of(children, STATEMENTS))

    def subtask(self, span: Span, children: list[Any]) -> tree.Subtask:
        _, name, *rest = (c for c in children if not (isinstance(c, Token) and c.type == "SEPARATOR"))
        where = rest[1] if rest and isinstance(rest[0], Token) and rest[0].type == "WHERE" else None
        return tree.Subtask(span, name, where, _of(rest[2 if where else 0 :], STATEMENTS))

    def data(self, span: Span, children: list[Any]) -> tree.Data:
        kind, reference = _of(children, tree.Name)[0], _of(children, tree.Text)[0]
        return tree.Data(span, kind, reference, self._block(children))

    def split(self, span: Span, children: list[Any]) -> tree.Split:
        by = _behind(children, "BY")
        shares = tuple(each for each in _of(children, (tree.Number, tree.Name)) if each is not by)
        return tree.Split(span, shares, by)

    def predict(self, span: Span, children: list[Any]) -> tree.Predict:
        target = _of(children, tree.Name)[0]
        return tree.Predict(span, target, _behind(children, "VS"), _behind(children, "AT"))

    def ablate(self, span: Span, children: list[Any]) -> tree.Ablate:
        return tree.Ablate(span, _of(children, tree.Name)[0], _behind(children, "BY"))

    def metric(self, span: Span, children: list[Any]) -> tree.Metric:
        return tree.Metric(span, _of(children, tree.Name)[0])

    def circuit(self, span: Span, children: list[Any]) -> tree.Circuit:
        return self._discovery(span, _after(children, "CIRCUIT") or _after(children, "SHEAF"), children)

    def _discovery(self, span: Span, name: tree.Name, children: list[Any]) -> tree.Circuit:
        """`discover GRAPH for TASK with METHOD { … } clauses`, under a name."""
        graph, task, method = (_after(children, word) for word in ("DISCOVER", "FOR", "WITH"))
        block = self._block(children)
        use = tree.MethodUse(method.span.to(block.span) if block else method.span, method, block)
        clauses = _of(children, (tree.Origin, tree.Minimize, tree.SubjectTo, tree.Top))
        return tree.Circuit(span, name, graph, task, use, clauses, _circuit_kind(children))

    def composition(self, span: Span, children: list[Any]) -> tree.Composition:
        _, name, formula, *clauses = children
        return tree.Composition(span, name, formula, tuple(clauses), _circuit_kind(children))

    def union(self, span: Span, children: list[Any]) -> tree.Combination:
        result: tree.Combination = children[0]
        for sign, operand in zip(children[1::2], children[2::2], strict=True):
            result = tree.Combination(result.span.to(operand.span), str(sign), result, operand)
        return result

    overlap = vector_set = union

    def complement(self, span: Span, children: list[Any]) -> tree.Combination:
        return tree.Combination(span, "~", children[-1], None)

    def for_task(self, span: Span, children: list[Any]) -> tree.ForTask:
        return tree.ForTask(span, children[-1])

    def sweep(self, span: Span, children: list[Any]) -> tree.Sweep:
        name, *rest = (c for c in children[1:] if not (isinstance(c, Token) and c.type == "SHEAF"))
        base = rest[0]
        if isinstance(base, Token):
            last = next(c for c in reversed(rest) if not isinstance(c, Token | tree.Axis | tree.Text))
            base = self._discovery(base_span(self.source, base, last), name, children)
        text = _after(children, "AS")
        return tree.Sweep(span, name, base, _of(children, tree.Axis), text, _circuit_kind(children))

    def axis(self, span: Span, children: list[Any]) -> tree.Axis:
        _, name, _, *values = children
        return tree.Axis(span, name, tuple(values))

    def origin(self, span: Span, children: list[Any]) -> tree.Origin:
        return tree.Origin(span, children[-1])

    def minimize(self, span: Span, children: list[Any]) -> tree.Minimize:
        return tree.Minimize(span, children[-1])

    def subject(self, span: Span, children: list[Any]) -> tree.SubjectTo:
        return tree.SubjectTo(span, tuple(c for c in children if not isinstance(c, Token)))

    def top(self, span: Span, children: list[Any]) -> tree.Top:
        amount, *word = _of(children, (tree.Number, tree.Name))
        return tree.Top(span, amount, word[0] if word else None)

    query_top = top

    def query(self, span: Span, children: list[Any]) -> tree.Query:
        name, kind, subject = _of(children, tree.Name)
        clauses = (tree.Where, tree.Between, tree.Through, tree.Along, tree.Top, tree.Limit)
        return tree.Query(span, name, kind, subject, _of(children, clauses))

    def where(self, span: Span, children: list[Any]) -> tree.Where:
        return tree.Where(span, children[-1])

    def between(self, span: Span, children: list[Any]) -> tree.Between:
        source, target = _of(children, (tree.Name, tree.Pattern))
        return tree.Between(span, source, target)

    def through(self, span: Span, children: list[Any]) -> tree.Through:
        return tree.Through(span, _of(children, (tree.Name, tree.Pattern)))

    def along(self, span: Span, children: list[Any]) -> tree.Along:
        return tree.Along(span, _of(children, (tree.Name, tree.Pattern)))

    def limit(self, span: Span, children: list[Any]) -> tree.Limit:
        return tree.Limit(span, children[-1])

    def check(self, span: Span, children: list[Any]) -> tree.Check:
        circuit, *conditions = (c for c in children if not isinstance(c, Token))
        return tree.Check(span, circuit, tuple(conditions))

    def measure(self, span: Span, children: list[Any]) -> tree.Measure:
        at = next(index for index, child in enumerate(children) if isinstance(child, Token) and child.type == "AT")
        scale, *amounts = _of(children[at:], (tree.Name, tree.Number))
        uses = _of(children, tree.MethodUse)
        return tree.Measure(span, _of(children[:at], tree.Name), scale, tuple(amounts), uses)

    def method(self, span: Span, children: list[Any]) -> tree.MethodUse:
        return tree.MethodUse(span, children[0], self._block(children))

    def export(self, span: Span, children: list[Any]) -> tree.Export:
        flavor = _behind(children, "AS")
        return tree.Export(span, _of(children, tree.Name)[0], _of(children, tree.Text), flavor)

    def report(self, span: Span, children: list[Any]) -> tree.Report:
        return tree.Report(span, _of(children, tree.Name), _of(children, tree.Text))

    def evidence(self, span: Span, children: list[Any]) -> tree.Evidence:
        truth = _behind(children, "AGAINST")
        circuits = tuple(name for name in _of(children, tree.Name) if name is not truth)
        return tree.Evidence(span, circuits, truth, self._block(children))

    def import_(self, span: Span, children: list[Any]) -> tree.Import:
        name = _after(children, "CIRCUIT") or _after(children, "SHEAF")
        form, graph, task = (_behind(children, word) for word in ("AS", "ON", "FOR"))
        assert graph is not None
        return tree.Import(span, name, _of(children, tree.Text)[0], form, graph, task, _circuit_kind(children))

    def vector(self, span: Span, children: list[Any]) -> tree.Vector:
        _, name, *_ = children
        model, task, method = (_after(children, word) for word in ("TUNE", "FOR", "WITH"))
        block = self._block(children)
        use = tree.MethodUse(method.span.to(block.span) if block else method.span, method, block)
        return tree.Vector(span, name, model, task, use)

    def vector_sum(self, span: Span, children: list[Any]) -> tree.VectorSum:
        return tree.VectorSum(span, children[1], children[-1])

    def vector_import(self, span: Span, children: list[Any]) -> tree.VectorImport:
        name, model, task = (_after(children, word) for word in ("VECTOR", "ON", "FOR"))
        return tree.VectorImport(span, name, _of(children, tree.Text)[0], model, task)

    def corpus(self, span: Span, children: list[Any]) -> tree.Corpus:
        name, kind = _of(children, tree.Name)
        return tree.Corpus(span, name, kind, _of(children, tree.Text)[0], self._block(children))

    def analyze(self, span: Span, children: list[Any]) -> tree.Analyze:
        return tree.Analyze(span, *self._grouping(children))

    def cluster(self, span: Span, children: list[Any]) -> tree.Cluster:
        return tree.Cluster(span, *self._grouping(children))

    def _grouping(self, children: list[Any]) -> tuple[Any, ...]:
        """Name, units, subject, condition, corpus and method of an `analyze` or `cluster`."""
        of = next(index for index, child in enumerate(children) if isinstance(child, Token) and child.type == "OF")
        *named, units = children[1:of]
        subject, method = children[of + 1], _after(children, "WITH")
        called = tree.Name(units.span, f"{units.text}_of_{subject.text.replace('.', '_')}")
        block = self._block(children)
        use = tree.MethodUse(method.span.to(block.span) if block else method.span, method, block)
        name = named[0] if named else called
        return name, units, subject, _after(children, "WHERE"), _behind(children, "ON"), use

    def blocks(self, span: Span, children: list[Any]) -> tree.Blocks:
        return tree.Blocks(span, children[1], children[2], self._block(children))

    def lesion(self, span: Span, children: list[Any]) -> tree.Lesion:
        _, name, subject, *_ = children
        return tree.Lesion(
            span, name, subject, _behind(children, "FOR"), _behind(children, "ON"), self._block(children)
        )

    def shrink(self, span: Span, children: list[Any]) -> tree.Shrink:
        *named, subject = _of(children, tree.Name)
        name = named[0] if named else tree.Name(self.source.span(span.start, span.start), "")
        return tree.Shrink(span, name, subject, _of(children, tree.Text)[0], self._block(children))

    def drift(self, span: Span, children: list[Any]) -> tree.Drift:
        name, *steps = _of(children, tree.Name)
        return tree.Drift(span, name, tuple(steps), self._block(children))


def base_span(source: Source, first: Token, last: tree.Node) -> Span:
    """From a token to the end of a node."""
    return source.span(first.start_pos, last.span.stop)


def _circuit_kind(children: list[Any]) -> str:
    """`circuit` or `sheaf`."""
    return "sheaf" if any(isinstance(c, Token) and c.type == "SHEAF" for c in children) else "circuit"


def _after(children: list[Any], keyword: str) -> Any:
    """What follows a keyword; None without it."""
    for child, following in itertools.pairwise(children):
        if isinstance(child, Token) and child.type == keyword:
            return following
    return None


def _behind(children: list[Any], keyword: str) -> tree.Name | None:
    """The name that follows a keyword."""
    for child, following in itertools.pairwise(children):
        if isinstance(child, Token) and child.type == keyword and isinstance(following, tree.Name):
            return following
    return None
