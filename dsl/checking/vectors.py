"""Task vectors: tuned, read from a folder, or sums, differences and multiples of others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dsl import tree
from dsl.checking.context import Context
from dsl.checking.expressions import constant
from dsl.checking.methods import check_use
from dsl.checking.order import named_in
from dsl.checking.paths import relative_path
from dsl.checking.values import describe, plain_number
from dsl.spec import ImportedVectorSpec, MethodSpec, TunedVectorSpec, VectorSumSpec
from passes.options import METHODS
from passes.tuning_options import TUNERS

VECTORS = (tree.Vector, tree.VectorImport, tree.VectorSum)
FORM = "sums, differences and multiples of vectors: `near + far`, `0.5 * near`; or sets: `near | far`, `near & ~far`"


def check_tuned(context: Context, section: tree.Vector) -> TunedVectorSpec | None:
    """A declared model and task, and a method that tunes weights."""
    model, task = context.spec(section.model, tree.Model), context.spec(section.task, tree.Task)
    method = _method(context, section)
    if model is None or task is None or method is None:
        return None
    return TunedVectorSpec(section.span, section.name.text, model, task, method)


def _method(context: Context, section: tree.Vector) -> MethodSpec | None:
    use = section.method
    if use.name.text in METHODS:
        label, notes = "discovers circuits", [f"tuning methods: {', '.join(TUNERS)}"]
        help = f"`circuit {section.name.text} = discover …` finds a circuit with it"
        message = f"`{use.name.text}` tunes no weights"
        context.error("C205", message, use.name.span, label, notes=notes, help=help)
        return None
    method = check_use(context, use, TUNERS, "C205", "tuning method", "tuning methods")
    if method is None or not _one_size(context, use, method) or not _fits(context, section, method):
        return None
    return method


def _one_size(context: Context, use: tree.MethodUse, method: MethodSpec) -> bool:
    """A count or a density."""
    if not {"count", "density"} <= method.given:
        return True
    first, second = sorted((_entry(use, "count"), _entry(use, "density")), key=lambda each: each.span.start)
    others = [(first.span, "already says how many")]
    message = "`count` and `density` both say how many weights are tuned"
    context.error("C405", message, second.span, "leave one of them out", others=others)
    return False


def _fits(context: Context, section: tree.Vector, method: MethodSpec) -> bool:
    """A count that the model has, and that its iterations can share."""
    count, iterations = method.options.count, method.options.iterations
    facts = context.facts.get(section.model.text)
    if count is not None and facts is not None and facts.parameters is not None and count > facts.parameters:
        span, label = _entry(section.method, "count").value.span, f"`{section.model.text}` has {facts.parameters:,}"
        context.error("C303", f"{count:,} weights are more than the model has", span, label)
        return False
    if count is not None and count < iterations:
        span = _entry(section.method, "count").value.span
        message = f"{count:,} weights do not go into {iterations} iterations"
        context.error("C303", message, span, "none is left for some")
        return False
    return True


def _entry(use: tree.MethodUse, name: str) -> tree.Entry:
    assert use.block is not None
    entries = (each for each in use.block.entries if isinstance(each, tree.Entry))
    return next(each for each in entries if each.name.text == name)


def check_vector_import(context: Context, section: tree.VectorImport) -> ImportedVectorSpec | None:
    """A folder, a declared model, and the task to measure on if there is one."""
    model = context.spec(section.model, tree.Model)
    task = context.spec(section.task, tree.Task) if section.task else None
    path = section.path.value
    if section.path.is_missing:
        return None
    if not path.strip() or "\0" in path:
        context.error("C604", "this is not the path of a task vector", section.path.span, 'for example `"near/"`')
        return None
    if not path.endswith("/"):
        fix = f'"{path}/"' if '"' not in path else None
        message = "a task vector is read from a folder"
        context.error("C212", message, section.path.span, "expected a final `/`", help="write", fix=fix)
        return None
    if model is None or (section.task is not None and task is None):
        return None
    where = relative_path(context, section.path)
    return ImportedVectorSpec(section.span, section.name.text, where, model, task)


def check_sum(context: Context, section: tree.VectorSum) -> VectorSumSpec | None:
    """A linear formula over vectors of one model, or a set of them."""
    names = list({each.text: each for each in named_in(section.formula)}.values())
    found = {each.text: context.spec(each, *VECTORS) for each in names}
    if isinstance(section.formula, tree.Combination):
        return _check_set(context, section, section.formula, names, found)
    value = _value(context, section.formula)
    if value is None or any(each is None for each in found.values()):
        return None
    if not value.factors:
        message = f"`{section.name.text}` is made of no vector"
        context.error("C301", message, section.formula.span, "this is a number", help=FORM)
        return None
    if not all(math.isfinite(each) for each in value.factors.values()):
        context.error("C309", "this has no value", section.formula.span, "too large")
        return None
    if not _one_model(context, section, names, found):
        return None
    return _made(section, found, value.factors)


def _made(
    section: tree.VectorSum, found: Mapping[str, Any], factors: Mapping[str, float], operation: str = "+"
) -> VectorSumSpec:
    operands = tuple(found[name] for name in factors)
    text = " ".join(section.formula.span.text.split())
    return VectorSumSpec(
        section.span, section.name.text, text, operands, tuple(factors.values()), operands[0].model, operation
    )


def _check_set(
    context: Context, section: tree.VectorSum, formula: tree.Combination, names: list[tree.Name], found: dict[str, Any]
) -> VectorSumSpec | None:
    """A union, or an intersection of which some may be taken away."""
    members = list(_members(formula))
    if any(each is None for each in found.values()) or any(each.is_missing for each, _ in members):
        return None
    factors: dict[str, float] = {}
    for each, factor in members:
        if factors.setdefault(each.text, factor) != factor:
            context.error("C301", f"`{each.text}` is kept and taken away", each.span, "nothing is left")
            return None
    if 1.0 not in factors.values():
        message = "what a vector leaves alone has no values"
        context.error("C301", message, formula.span, help="take it from another one: `near & ~far`")
        return None
    if not _one_model(context, section, names, found):
        return None
    ordered = dict(sorted(factors.items(), key=lambda item: -item[1]))  # what is kept first, else as they are named
    return _made(section, found, ordered, "|" if formula.operator == "|" else "&")


def _members(formula: tree.Formula) -> Iterator[tuple[tree.Name, float]]:
    """The names of a set with 1, or -1 where they are taken away."""
    if isinstance(formula, tree.Name):
        yield formula, 1.0
    elif formula.operator == "~":
        yield from ((name, -factor) for name, factor in _members(formula.left))
    else:
        yield from _members(formula.left)
        if formula.right is not None:
            yield from _members(formula.right)


def _one_model(context: Context, section: tree.VectorSum, names: list[tree.Name], found: dict[str, Any]) -> bool:
    first = names[0]
    other = next((each for each in names if found[each.text].model.name != found[first.text].model.name), None)
    if other is None:
        return True
    models = [found[each.text].model.name for each in (first, other)]
    message = "vectors of different models do not add up"
    label = f"`{other.text}` is of `{models[1]}`"
    context.error("C406", message, other.span, label, others=[(first.span, f"`{first.text}` is of `{models[0]}`")])
    return False


@dataclass(frozen=True)
class _Linear:
    """Σ factor · vector + number: a formula is a vector or a number, never both."""

    factors: dict[str, float] = field(default_factory=dict)
    number: float = 0.0

    def times(self, factor: float) -> _Linear:
        return _Linear({name: factor * each for name, each in self.factors.items()}, factor * self.number)

    def plus(self, other: _Linear) -> _Linear:
        names = dict.fromkeys((*self.factors, *other.factors))
        factors = {name: self.factors.get(name, 0.0) + other.factors.get(name, 0.0) for name in names}
        return _Linear(factors, self.number + other.number)


def _value(context: Context, node: tree.Expression) -> _Linear | None:
    """What a formula stands for; None, and a report, where it is not linear."""
    match node:
        case tree.Name():
            return None if node.is_missing else _Linear({node.text: 1.0})
        case tree.Number():
            value = None if plain_number(context, node) is None else constant(node)
            return None if value is None else _Linear(number=value)
        case tree.Unary(operator="-"):
            inner = _value(context, node.operand)
            return None if inner is None else inner.times(-1.0)
        case tree.Binary() if node.operator in ("+", "-", "*", "/"):
            left, right = _value(context, node.left), _value(context, node.right)
            return None if left is None or right is None else _combined(context, node, left, right)
    context.error("C301", f"expected a vector, found {describe(node)}", node.span, help=FORM)
    return None


def _combined(context: Context, node: tree.Binary, left: _Linear, right: _Linear) -> _Linear | None:
    if node.operator in ("+", "-"):
        if bool(left.factors) != bool(right.factors):
            number = node.right if left.factors else node.left
            context.error("C301", "a number is not added to a vector", number.span, help="multiply by it")
            return None
        return left.plus(right.times(-1.0 if node.operator == "-" else 1.0))
    if node.operator == "*" and left.factors and right.factors:
        context.error("C301", "vectors are not multiplied with each other", node.span, "one has to be a number")
        return None
    if node.operator == "*":
        return left.times(right.number) if left.factors else right.times(left.number)
    if right.factors or right.number == 0:
        why = "a vector" if right.factors else "zero"
        context.error("C309" if why == "zero" else "C301", f"nothing is divided by {why}", node.right.span)
        return None
    return left.times(1.0 / right.number)
