"""Constants: `let target = 3.4%`. What their names stand for is put in their place before anything is checked.

A value may be a number, a text, a range, a list of these, or arithmetic over numbers and other constants; units are
kept (`target / 2` of a share is a share).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from dsl import tree
from dsl.analysis_quantities import SECTION_QUANTITIES
from dsl.checking.context import KIND_NAMES
from dsl.checking.expressions import calculate

if TYPE_CHECKING:
    from dsl.checking.context import Context

Values = tuple[tree.Item, ...]

# Where a bare name stands for a value, and not for a section, a method or a word of the grammar.
PLACES: Mapping[type[tree.Node], tuple[str, ...]] = {
    tree.Value: ("items",),
    tree.Set: ("items",),
    tree.Axis: ("values",),
    tree.Range: ("first", "last"),
    tree.Selector: ("value",),
    tree.Top: ("amount",),
    tree.Limit: ("count",),
    tree.Split: ("shares",),
    tree.Measure: ("amounts",),
    tree.Gate: ("condition", "seeds"),
    tree.Binary: ("left", "right"),
    tree.Unary: ("operand",),
    tree.Member: ("left",),
    tree.Call: ("arguments",),
    tree.Minimize: ("expression",),
    tree.SubjectTo: ("constraints",),
    tree.Where: ("condition",),
    tree.Check: ("conditions",),
    tree.Subtask: ("where",),
    tree.Analyze: ("where",),
    tree.Cluster: ("where",),
    tree.VectorSum: ("formula",),
}
# Where a name stands for a section or a method: axes of a sweep may be put there, constants may not.
REFERENCES: Mapping[type[tree.Node], tuple[str, ...]] = {
    tree.Circuit: ("graph", "task"),
    tree.MethodUse: ("name",),
    tree.Origin: ("circuit",),
}
SPREADS = (tree.Value, tree.Set, tree.Axis)
"""Nodes whose items a list takes the place of one of."""


def resolve_constants(context: Context) -> tree.File:
    """The file with constants filled in; reports constants that have no value (C211, C308, C307, C413), that have the
    name of something else (C414), and that nothing uses (C801)."""
    file = context.file
    lets = [each for each in file.sections if isinstance(each, tree.Let) and not each.name.is_missing]
    if not lets:
        return file
    found = _Evaluator(context, {each.name.text: each for each in reversed(lets)})
    for each in lets:
        _check_name(context, each)
        found.values_of(each.name.text)
    others = tuple(each for each in file.sections if not isinstance(each, tree.Let))
    known = {name: values for name, values in found.values.items() if values}
    context.broken = frozenset(found.values) - frozenset(known)
    used: set[str] = set(found.used)
    sections = tuple(put(each, _visible(context, each, known), used=used) for each in others)
    for each in lets:
        if each.name.text not in used | context.broken:
            context.warning("C801", f"the constant `{each.name.text}` is not used", each.name.span)
    return replace(file, sections=(*lets, *sections))


def _visible(context: Context, section: tree.Section, known: Mapping[str, Values]) -> Mapping[str, Values]:
    """The constants that a section sees: an axis of a sweep hides the constant of that name, and so does in the check
    of an analysis one of its quantities."""
    if isinstance(section, tree.Sweep):
        hidden = {axis.name.text for axis in section.axes}
    elif isinstance(section, tree.Check):
        kind = KIND_NAMES.get(type(context.declared.get(section.circuit.text)), "")
        table = SECTION_QUANTITIES.get(kind, {})
        hidden = {*table, *(word for each in table.values() for words in each.arguments for word in words)}
    else:
        return known
    return {name: values for name, values in known.items() if name not in hidden}


def put(node: Any, values: Mapping[str, Values], *, references: bool = False, used: set[str] | None = None) -> Any:
    """A node with names replaced by values; with `references` also the names of graph, task, method and origin.
    Names that were replaced go to `used`. A node in which nothing changes is given back as it is."""
    places = PLACES.get(type(node), ()) + (REFERENCES.get(type(node), ()) if references else ())
    changes: dict[str, Any] = {}
    for each in fields(node):
        if each.name == "span":
            continue
        below = getattr(node, each.name)
        is_place = each.name in places
        if isinstance(below, tuple):
            new: Any = tuple(
                found
                for child in below
                for found in (
                    _replaced(node, child, values, references, used)
                    if is_place
                    else (_below(child, values, references, used),)
                )
            )
        elif isinstance(below, tree.Node):
            if is_place:
                new = _replaced(node, below, values, references, used)[0]
            else:
                new = _below(below, values, references, used)
        else:
            continue
        if new is not below and (not isinstance(below, tuple) or _differ(new, below)):
            changes[each.name] = new
    if isinstance(node, tree.Value) and len(changes.get("items", node.items)) != len(node.items):
        changes["is_list"] = True
    return replace(node, **changes) if changes else node


def _differ(new: tuple[Any, ...], old: tuple[Any, ...]) -> bool:
    return len(new) != len(old) or any(a is not b for a, b in zip(new, old, strict=True))


def _below(node: Any, values: Mapping[str, Values], references: bool, used: set[str] | None) -> Any:
    return put(node, values, references=references, used=used) if isinstance(node, tree.Node) else node


def _replaced(
    parent: tree.Node, child: Any, values: Mapping[str, Values], references: bool, used: set[str] | None
) -> tuple[Any, ...]:
    """What stands in the place of one name."""
    if not isinstance(child, tree.Name) or child.text not in values:
        return (_below(child, values, references, used),)
    if used is not None:
        used.add(child.text)
    items = values[child.text]
    if len(items) > 1 and not isinstance(parent, SPREADS):
        return (child,)
    return tuple(replace(item, span=child.span) for item in items)


def _check_name(context: Context, let: tree.Let) -> None:
    if let.name.text in reserved_words():
        label = "means something in the language"
        context.error(
            "C414", f"a constant cannot be called `{let.name.text}`", let.name.span, label, help="choose another name"
        )


@cache
def reserved_words() -> frozenset[str]:
    """Words that stand where constants can stand and mean something else there."""
    from dsl import schema
    from passes.analysis_options import ANALYSES, DISTANCES
    from passes.options import METHODS
    from passes.tuning_options import TUNERS

    families = [*METHODS.values(), *DISTANCES.values(), *ANALYSES.values(), *TUNERS.values()]
    tables = [schema.option_table(each).values() for each in families]
    every: Iterable[schema.Field] = (
        *(each for section in schema.SECTIONS.values() for each in section.fields),
        *(each for table in tables for each in table),
        schema.REGION,
    )
    choices = {word for each in every for choice in each.choices for word in choice.split()}
    words = {*schema.QUANTITIES, *schema.NODE_ATTRIBUTES, *schema.EDGE_ATTRIBUTES, *schema.TASK_ATTRIBUTES}
    words |= {*schema.NODE_KINDS, *schema.PORT_KINDS, *schema.PREDICATES, *schema.FUNCTIONS, *schema.OBJECTS, "empty"}
    return frozenset(words | choices | {"true", "false", "complement", "iou", "iomin", "embed", "pos", "logits"})


@dataclass
class _Evaluator:
    """Works constants out, each once."""

    context: Context
    lets: Mapping[str, tree.Let]
    values: dict[str, Values] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def values_of(self, name: str) -> Values:
        """The values of a constant; none when it has mistakes."""
        if name not in self.values:
            self.open.append(name)
            found = [self._value(each) for each in self.lets[name].values]
            self.open.pop()
            good = all(each for each in found)
            self.values[name] = tuple(item for each in found for item in each) if good else ()
        return self.values[name]

    def _value(self, node: tree.Expression | tree.Range) -> Values:
        match node:
            case tree.Range():
                ends = [self._value(each) for each in (node.first, node.last)]
                numbers = [each[0] for each in ends if each and isinstance(each[0], tree.Number)]
                return (replace(node, first=numbers[0], last=numbers[1]),) if len(numbers) == 2 else ()
            case tree.Number() | tree.Text():
                return () if node.is_missing else (node,)
            case tree.Name():
                return self._named(node)
            case tree.Unary(operator="-"):
                number = self._number(node.operand)
                return (_number(node, -number.value, number.unit),) if number else ()
            case tree.Binary() if node.operator not in (*tree.COMPARISONS, *tree.LOGIC):
                return self._arithmetic(node)
        self.context.error(
            "C308",
            "this is not the value of a constant",
            node.span,
            "expected a number, text, range, list or arithmetic",
        )
        return ()

    def _named(self, name: tree.Name) -> Values:
        if name.is_missing:
            return ()
        if name.text in self.open:
            chain = " -> ".join([*self.open[self.open.index(name.text) :], name.text])
            self.context.error("C413", f"the constant `{name.text}` is made from itself", name.span, notes=[chain])
            return ()
        if name.text not in self.lets:
            self.context.unknown(
                "C211", "constant", name, list(self.lets), "constants", label="not declared by a `let`"
            )
            return ()
        self.used.add(name.text)
        return self.values_of(name.text)

    def _number(self, node: tree.Expression) -> tree.Number | None:
        found = self._value(node)
        if len(found) == 1 and isinstance(found[0], tree.Number):
            return found[0]
        if found:
            self.context.error("C308", "only numbers can be calculated with", node.span, "this is not a number")
        return None

    def _arithmetic(self, node: tree.Binary) -> Values:
        left, right = self._number(node.left), self._number(node.right)
        if left is None or right is None:
            return ()
        shares = (left.unit == "%", right.unit == "%")
        if node.operator in "+-" and shares[0] != shares[1]:
            label = f"{left.text} and {right.text}"
            self.context.error("C307", "a share and a plain number do not add up", node.span, label)
            return ()
        value = calculate(node.operator, _plain(left), _plain(right))
        if value is None or abs(value) == float("inf"):
            self.context.error("C309", "this has no value", node.span, "division by zero, or too large")
            return ()
        share = {"/": shares[0] and not shares[1], "*": any(shares), "^": shares[0]}.get(node.operator, shares[0])
        return (_number(node, 100 * value if share else value, "%" if share else ""),)


def _plain(number: tree.Number) -> float:
    from dsl.checking.expressions import constant

    value = constant(number)
    return 0.0 if value is None else value


def _number(node: tree.Node, value: float, unit: str) -> tree.Number:
    value = float(f"{value:.12g}")
    return tree.Number(node.span, value, unit, f"{value:g}{unit}")
