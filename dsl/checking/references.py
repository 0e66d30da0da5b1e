"""What the names of circuits stand for: one circuit, a member of a sweep, or several members."""

from __future__ import annotations

from typing import Any

from dsl import tree
from dsl.checking.context import Context
from dsl.spec import AnyCircuit, SweepSpec
from dsl.suggest import suggest

CIRCUITS = (tree.Circuit, tree.Composition, tree.Import)
MANY = (*CIRCUITS, tree.Sweep)


def find_circuits(context: Context, name: tree.Name, *others: type[Any]) -> tuple[AnyCircuit, ...] | None:
    """The circuits a name stands for: one, or the chosen members of a sweep (all of them for its bare name). None,
    and a
    report, when there are none. `others` are kinds of section that the message offers besides."""
    if name.is_missing:
        return None
    if isinstance(name, tree.Selected):
        return _selected(context, name)
    if name.text not in context.declared and "." in name.text:
        return _member(context, name)
    section = context.resolve(name, *MANY, *others)
    if section is None:
        return None
    found = context.specs.get(name.text)
    if isinstance(found, SweepSpec):
        return found.members
    return None if found is None else (found,)


def find_circuit(context: Context, name: tree.Name, *others: type[Any]) -> AnyCircuit | None:
    """The one circuit a name stands for; reports a name of several (C408)."""
    found = find_circuits(context, name, *others)
    if found is None or len(found) == 1:
        return found[0] if found else None
    shown = ", ".join(f"`{each.name}`" for each in found[:4]) + (" …" if len(found) > 4 else "")
    context.error(
        "C408",
        f"`{name.span.text}` is {len(found)} circuits",
        name.span,
        "one is wanted here",
        notes=[f"its members: {shown}"],
        help=f"choose one, for example `{found[0].label}`",
    )
    return None


def is_sweep(context: Context, name: tree.Name) -> bool:
    """Whether a name stands for members of a sweep."""
    return isinstance(context.declared.get(name.text.partition(".")[0]), tree.Sweep)


def _sweep(context: Context, name: tree.Name) -> SweepSpec | None:
    if context.resolve(name, tree.Sweep) is None:
        return None
    found: SweepSpec | None = context.specs.get(name.text)
    return found


def _member(context: Context, name: tree.Name) -> tuple[AnyCircuit, ...] | None:
    """`sizes.2`."""
    head, _, tail = name.text.partition(".")
    if not isinstance(context.declared.get(head), tree.Sweep):
        context.unknown(
            "C202", "circuit", name, [*context.specs], "names of this file", label="not declared in this file"
        )
        return None
    sweep: SweepSpec | None = context.specs.get(head)
    if sweep is None:
        return None
    for index, each in enumerate(sweep.members):
        if name.text == each.name or tail == str(index):
            return (each,)
    last = len(sweep.members) - 1
    context.error(
        "C409", f"`{head}` has no member `{tail}`", name.span, f"its members are `{head}.0` to `{head}.{last}`"
    )
    return None


def _selected(context: Context, name: tree.Selected) -> tuple[AnyCircuit, ...] | None:
    """`sizes[target=2%]`."""
    sweep = _sweep(context, name)
    if sweep is None:
        return None
    at: dict[str, str] = {}
    for selector in name.selectors:
        axis = selector.name.text
        if axis not in sweep.axes:
            context.unknown("C213", "axis", selector.name, sweep.axes, f"axes of `{name.text}`")
            return None
        value = next((each for each in sweep.axes[axis] if same_value(each, selector.value)), None)
        if value is None:
            values = sweep.axes[axis]
            guess = suggest(written(selector.value), values, f"values of `{axis}`")
            word = guess.word if isinstance(selector.value, tree.Name) else None
            context.error(
                "C409",
                f"`{name.text}` has no member with `{axis}={selector.value.span.text}`",
                selector.value.span,
                notes=[f"values of `{axis}`: {', '.join(values)}"],
                help=f"did you mean `{word}`?" if word else "",
                fix=word,
            )
            return None
        at[axis] = value
    return sweep.select(at)


def written(item: tree.Item) -> str:
    """A value of an axis as text."""
    return item.value if isinstance(item, tree.Text) else getattr(item, "text", item.span.text)


def same_value(text: str, item: tree.Item) -> bool:
    """Whether a value as text is an item: `2%` is `2.0%`."""
    if isinstance(item, tree.Number):
        from dsl.build import number_of

        other = number_of(item.span, text)
        return bool(other.text == text and (other.value, other.unit) == (item.value, item.unit))
    return text == written(item)
