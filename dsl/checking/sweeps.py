"""Sweeps: a circuit for each point of a product of values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dsl import tree
from dsl.checking.circuits import check_circuit
from dsl.checking.context import Context
from dsl.checking.references import written
from dsl.constants import put, reserved_words
from dsl.schema import method_fields
from dsl.spec import CircuitSpec, SweepSpec, frozen
from dsl.suggest import suggest
from passes.options import METHODS

MAX_MEMBERS = 1000
PLACEHOLDER = re.compile(r"\{(\w+)\}")
MEMBER_NAME = re.compile(r"[\w.%+-]+")
FIXED = ("graph", "task", "method")
"""Axes that a sweep of a declared circuit always has."""


def check_sweep(context: Context, section: tree.Sweep) -> tuple[SweepSpec, tuple[CircuitSpec, ...]] | None:
    """The sweep and its members, each checked as a circuit of its own."""
    axes = _axes(context, section)
    base = _base(context, section)
    if axes is None or base is None:
        return None
    if not all(_is_used(context, section, base, axis) for axis in section.axes):
        return None
    points = list(itertools.product(*axes.values()))
    names = _names(context, section, list(axes), points)
    if names is None:
        return None
    members = []
    for name, point in zip(names, points, strict=True):
        at = dict(zip(axes, point, strict=True))
        made = _member(base, section, name, at)
        found = check_circuit(context, made)
        if found is not None:
            shown = frozen({axis: written(value) for axis, value in at.items()})
            members.append(replace(found, span=section.span, sweep=section.name.text, at=shown))
    if len(members) < len(points):
        return None
    values = {axis: tuple(map(written, items)) for axis, items in axes.items()}
    return SweepSpec(section.span, section.name.text, base.kind, frozen(values), tuple(members)), tuple(members)


def _axes(context: Context, section: tree.Sweep) -> dict[str, tuple[tree.Item, ...]] | None:
    """The values of each axis, ranges written out."""
    found: dict[str, tuple[tree.Item, ...]] = {}
    good, size = True, 1
    for axis in section.axes:
        name = axis.name.text
        if axis.name.is_missing:
            return None
        if name in found:
            first = next(each for each in section.axes if each.name.text == name)
            where = [(first.name.span, "first given here")]
            context.error("C402", f"the axis `{name}` is given twice", axis.name.span, others=where)
            good = False
            continue
        if name not in FIXED and name in reserved_words() and not isinstance(section.base, tree.Name):
            message = f"an axis cannot be called `{name}`"
            context.error(
                "C414", message, axis.name.span, "means something in the language", help="choose another name"
            )
            good = False
        values = _values(context, axis)
        good &= values is not None
        found[name] = values or ()
        size *= max(1, len(found[name]))
    if size > MAX_MEMBERS:
        message = f"this sweep has {size} circuits"
        context.error("C410", message, section.name.span, f"at most {MAX_MEMBERS}", help="give an axis fewer values")
        return None
    return found if good else None


def _values(context: Context, axis: tree.Axis) -> tuple[tree.Item, ...] | None:
    items: list[tree.Item] = []
    for value in axis.values:
        if isinstance(value, tree.Range):
            whole = _whole(context, value)
            if whole is None:
                return None
            items += whole
        else:
            items.append(value)
    seen: dict[str, tree.Item] = {}
    for item in items:
        first = seen.setdefault(written(item), item)
        if first is not item:
            message = f"the axis `{axis.name.text}` has `{written(item)}` twice"
            context.error("C411", message, item.span, "again here", others=[(first.span, "first here")])
            return None
    return tuple(items)


def _whole(context: Context, value: tree.Range) -> list[tree.Item] | None:
    """The whole numbers of a range."""
    ends = [each for each in (value.first, value.last) if isinstance(each, tree.Number) and not each.unit]
    if len(ends) < 2 or not all(float(each.value).is_integer() for each in ends):
        context.error("C304", f"`{value.span.text}` is no range of whole numbers", value.span, help="list the values")
        return None
    first, last = (int(each.value) for each in ends)
    if not 0 <= last - first < MAX_MEMBERS:
        label = "the first is larger than the last" if last < first else f"more than {MAX_MEMBERS} numbers"
        context.error("C304", f"the range {value.span.text} has no use", value.span, label)
        return None
    return [tree.Number(value.span, float(n), "", str(n)) for n in range(first, last + 1)]


def _base(context: Context, section: tree.Sweep) -> tree.Circuit | None:
    if isinstance(section.base, tree.Circuit):
        return replace(section.base, kind=section.kind)
    found = context.resolve(section.base, tree.Circuit)
    if found is not None and section.kind == "sheaf" and found.kind != "sheaf":
        context.error("C412", f"`{found.name.text}` is a circuit, not a sheaf", section.base.span, help="write `sweep`")
        return None
    return found  # type: ignore[no-any-return]


def _is_used(context: Context, section: tree.Sweep, base: tree.Circuit, axis: tree.Axis) -> bool:
    """Whether an axis changes anything (C213)."""
    name = axis.name.text
    if isinstance(section.base, tree.Name):
        options = _options(base, section)
        if name in FIXED or name in options:
            return True
        known = [*FIXED, *options]
        context.unknown(
            "C213",
            "axis",
            axis.name,
            known,
            f"axes of `{base.name.text}`",
            aliases="field",
            label="changes nothing there",
        )
        return False
    used: set[str] = set()
    put(base, {name: axis.values[:1]}, references=True, used=used)
    if name in used:
        return True
    guess = suggest(name, _open_names(context, section, base), "names in what is discovered")
    message = f"the axis `{name}` changes nothing"
    label = f"`{name}` is not in what is discovered"
    context.error("C213", message, axis.name.span, label, help=guess.help, fix=guess.word)
    return False


def _open_names(context: Context, section: tree.Sweep, base: tree.Circuit) -> list[str]:
    """Names in what is discovered that stand for nothing yet: an axis could be called so."""
    taken = {*context.declared, *METHODS, *reserved_words(), *(axis.name.text for axis in section.axes)}
    names = dict.fromkeys(each.text for each in tree.walk(base) if isinstance(each, tree.Name) and not each.is_missing)
    found = []
    for name in names:
        used: set[str] = set()
        put(base, {name: (tree.Number(base.span, 1.0, "", "1"),)}, references=True, used=used)
        if name in used and name not in taken:
            found.append(name)
    return found


def _options(base: tree.Circuit, section: tree.Sweep) -> tuple[str, ...]:
    """Options that every method of the sweep has; `seed` is one run with that seed; `top` the size of a ranking."""
    methods = next((axis.values for axis in section.axes if axis.name.text == "method"), (base.method.name,))
    tables = [method_fields(written(each)) for each in methods if written(each) in METHODS]
    common = [name for name in (tables[0] if tables else ()) if all(name in table for table in tables)]
    tops = ["top"] if any(isinstance(each, tree.Top) for each in base.clauses) else []
    bounds = ["density"] if any(isinstance(each, tree.SubjectTo) for each in base.clauses) else []
    return (*common, *(["seed"] if "seeds" in common else []), *tops, *bounds)


def _member(base: tree.Circuit, section: tree.Sweep, name: str, at: Mapping[str, tree.Item]) -> tree.Circuit:
    named = replace(base, name=replace(section.name, text=name))
    if isinstance(section.base, tree.Circuit):
        made = put(named, {axis: (value,) for axis, value in at.items()}, references=True)
        return _with_names(made)
    for axis, value in at.items():
        named = _changed(named, axis, value)
    return _with_names(named)


def _changed(circuit: tree.Circuit, axis: str, value: tree.Item) -> tree.Circuit:
    """A declared circuit with one thing changed."""
    if axis in ("graph", "task"):
        named = _as_name(value)
        return replace(circuit, graph=named) if axis == "graph" else replace(circuit, task=named)
    if axis == "method":
        return replace(circuit, method=replace(circuit.method, name=_as_name(value)))
    if axis == "top" and isinstance(value, tree.Number):
        clauses = tuple(replace(c, amount=value) if isinstance(c, tree.Top) else c for c in circuit.clauses)
        return replace(circuit, clauses=clauses)
    if axis == "density" and isinstance(value, tree.Number):
        return replace(circuit, clauses=tuple(_bounded(clause, value) for clause in circuit.clauses))
    field = tree.Name(value.span, "seeds" if axis == "seed" else axis)
    entry = tree.Entry(value.span, field, tree.Value(value.span, (value,), is_list=False))
    block = circuit.method.block
    kept = tuple(
        each
        for each in (block.entries if block else ())
        if not (isinstance(each, tree.Entry) and each.name.text == field.text)
    )
    return replace(circuit, method=replace(circuit.method, block=tree.Block(value.span, (*kept, entry))))


def _bounded(clause: Any, value: tree.Number) -> Any:
    """`density(edges) <= x` with another bound; other constraints stay."""
    if not isinstance(clause, tree.SubjectTo):
        return clause
    return replace(clause, constraints=tuple(_with_bound(each, value) for each in clause.constraints))


def _with_bound(constraint: tree.Expression, value: tree.Number) -> tree.Expression:
    if not isinstance(constraint, tree.Binary) or not isinstance(constraint.left, tree.Call):
        return constraint
    return replace(constraint, right=value) if constraint.left.function.text == "density" else constraint


def _as_name(value: Any) -> tree.Name:
    """A value as a name: patterns (`ioi.abba`) and others for the checks to look up."""
    return value if isinstance(value, tree.Name) else tree.Name(value.span, written(value))


def _with_names(circuit: tree.Circuit) -> tree.Circuit:
    """The same with names in the places where values were put for some."""
    method = replace(circuit.method, name=_as_name(circuit.method.name))
    clauses = tuple(
        replace(each, circuit=_as_name(each.circuit)) if isinstance(each, tree.Origin) else each
        for each in circuit.clauses
    )
    named = replace(circuit, graph=_as_name(circuit.graph), task=_as_name(circuit.task), clauses=clauses)
    return replace(named, method=method)


def _names(
    context: Context, section: tree.Sweep, axes: list[str], points: list[tuple[tree.Item, ...]]
) -> list[str] | None:
    """A name for each member: by number, or by the pattern."""
    head = section.name.text
    if section.pattern is None:
        return [f"{head}.{index}" for index in range(len(points))]
    if not check_placeholders(context, section.pattern, [*axes, "index"]):
        return None
    names = []
    for index, point in enumerate(points):
        values = {axis: written(value) for axis, value in zip(axes, point, strict=True)}
        names.append(f"{head}.{fill(section.pattern.value, {**values, 'index': str(index)})}")
    bad = next((name for name in names if not MEMBER_NAME.fullmatch(name)), None)
    if bad is not None:
        message = f"`{bad}` is not a name"
        context.error("C607", message, section.pattern.span, "letters, digits and `. _ % + -`")
        return None
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        missing = ", ".join(f"`{{{axis}}}`" for axis in axes if f"{{{axis}}}" not in section.pattern.value)
        message = f"two members are called `{twice}`"
        context.error("C606", message, section.pattern.span, help=f"put in {missing or '`{index}`'}")
        return None
    return names


def check_placeholders(context: Context, text: tree.Text, known: list[str]) -> bool:
    """Whether a pattern names only axes, or `{index}`, `{name}`."""
    for match in PLACEHOLDER.finditer(text.value):
        if match[1] not in known:
            listing = ", ".join(f"`{{{each}}}`" for each in known)
            message = f"`{match[0]}` is not an axis"
            context.error("C607", message, text.span, notes=[f"a pattern may have: {listing}"])
            return False
    return True


def fill(pattern: str, values: Mapping[str, str]) -> str:
    """A pattern with values in the place of `{axis}`."""
    return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), pattern)
