"""Arithmetic over quantities: names, arguments and units of objectives, constraints and conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dsl import tree
from dsl.analysis_quantities import SECTION_QUANTITIES, SECTION_WORDS
from dsl.checking.context import Context
from dsl.checking.values import describe, plain_number
from dsl.quantities import PARTS, QUANTITIES, UNITS, Quantity

USES = {
    "check": "a check", "objective": "an objective", "constraint": "a constraint",
    **{f"check {kind}": f"a check of {'blocks' if kind == 'blocks' else f'a {kind}'}" for kind in SECTION_QUANTITIES},
    "check analysis": "a check of an analysis", "check shrink": "a check of a smaller module",
}  # fmt: skip
"""What an expression is part of; `check blocks` is a check of that kind of section, with quantities of its own."""
SHOWN = 8
SUCH = {
    "check analysis": "distance <= 0.3", "check blocks": "count >= 3", "check cluster": "count >= 3",
    "check lesion": "q <= 5%", "check shrink": "parameters <= 3.1M", "check drift": "moved <= 0.3",
    "check vector": "accuracy >= 90%",
}  # fmt: skip
"""A bound as an example of a use."""
FLIPPED = {"<=": ">=", ">=": "<=", "<": ">", ">": "<", "==": "==", "!=": "!="}


@dataclass(frozen=True)
class Bound:
    """A comparison of one quantity with a constant: `quantity(arguments) operator value`; `number` is the literal, when
    the constant is one."""

    quantity: str
    arguments: tuple[str, ...]
    operator: str
    value: float
    number: tree.Number | None
    expression: tree.Binary
    table: Mapping[str, Quantity] = field(default_factory=lambda: QUANTITIES, repr=False)

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """The quantity with all its arguments: `kl` and `kl(model, circuit)` are one."""
        return self.quantity, self.about.complete(self.arguments) or self.arguments

    @property
    def about(self) -> Quantity:
        """What is bounded."""
        return self.table[self.quantity]

    @property
    def text(self) -> str:
        """The quantity as it is written."""
        return f"{self.quantity}({', '.join(self.arguments)})" if self.arguments else self.quantity


def check_arithmetic(context: Context, expression: tree.Expression, use: str) -> bool:
    """Whether an expression is arithmetic over quantities that this use knows; reports what is not."""
    match expression:
        case tree.Number():
            return plain_number(context, expression) is not None
        case tree.Name():
            return _check_name(context, expression, use)
        case tree.Call():
            return _check_call(context, expression, use)
        case tree.Unary(operator="-"):
            return check_arithmetic(context, expression.operand, use)
        case tree.Binary() if expression.operator not in (*tree.COMPARISONS, *tree.LOGIC):
            # Both sides are checked, so that both are reported.
            sides = [check_arithmetic(context, side, use) for side in (expression.left, expression.right)]
            return all(sides) and (use == "objective" or _adds_up(context, expression, use))
        case tree.Pattern():
            label = "a component is not a number"
            context.error("C207", f"unknown name `{expression.text}`", expression.span, label, notes=[_listing(use)])
        case tree.Text():
            context.error("C301", "expected a number, found a text", expression.span)
        case tree.Member():
            context.error("C301", "expected a number, found a choice", expression.span, "`in` belongs to queries")
        case _:
            context.error(
                "C301", "expected a number, found a condition", expression.span, "this is true or false, not a number"
            )
    return False


def table_of(use: str) -> Mapping[str, Quantity]:
    """The quantities of a use: those of circuits, or of a kind of section."""
    return SECTION_QUANTITIES.get(use.removeprefix("check "), QUANTITIES)


def _known(use: str) -> dict[str, Quantity]:
    return {name: quantity for name, quantity in table_of(use).items() if use.partition(" ")[0] in quantity.uses}


def _listing(use: str) -> str:
    names = sorted(_known(use))
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    kind = use.removeprefix("check ")
    page = SECTION_WORDS.get(kind, kind) if kind in SECTION_QUANTITIES else "quantities"
    return f"{USES[use]} may name: {shown}; see `circ explain {page}`"


def _check_name(context: Context, name: tree.Name, use: str) -> bool:
    quantity = _quantity(context, name, use)
    if quantity is None:
        return False
    if not quantity.bare:
        part = quantity.arguments[0][0]
        fix = f"{name.text}({part})"
        context.error(
            "C306",
            f"`{name.text}` of what?",
            name.span,
            f"expected `{name.text}{quantity.form}`",
            help=f"write `{fix}`",
            fix=fix,
        )
        return False
    return True


def _quantity(context: Context, name: tree.Name, use: str) -> Quantity | None:
    if name.is_missing:
        return None
    known = _known(use)
    if name.text in known:
        return known[name.text]
    if name.text in QUANTITIES:
        label = f"not something {USES[use]} can name"
        context.error("C207", f"`{name.text}` cannot be used in {USES[use]}", name.span, label, notes=[_listing(use)])
    else:
        context.unknown("C207", "quantity", name, known, f"{USES[use]} may name")
    return None


def _check_call(context: Context, call: tree.Call, use: str) -> bool:
    quantity = _quantity(context, call.function, use)
    if quantity is None:
        return False
    name, wanted = call.function.text, (("TASK",),) if quantity.tasks else quantity.arguments
    least = 0 if quantity.bare else 1
    if not least <= len(call.arguments) <= len(wanted):
        count = f"{len(wanted)} argument{'s' if len(wanted) != 1 else ''}" if wanted else "no arguments"
        form = f"expected `{name}{quantity.form}`"
        context.error("C306", f"`{name}` takes {count}, found {len(call.arguments)}", call.span, form)
        return False
    if len(call.arguments) == len(wanted):
        places = wanted
    else:
        places = (tuple(dict.fromkeys(word for words in wanted for word in words)),) * len(call.arguments)
    good = [
        _check_argument(context, call, argument, words, quantity)
        for argument, words in zip(call.arguments, places, strict=True)
    ]
    if not all(good):
        return False
    if quantity.complete(words_of(call)) is None:
        context.error(
            "C306", f"these are not the arguments of `{name}`", call.span, f"expected `{name}{quantity.form}`"
        )
        return False
    return True


def _check_argument(
    context: Context, call: tree.Call, argument: tree.Expression, words: tuple[str, ...], quantity: Quantity
) -> bool:
    name = call.function.text
    if quantity.tasks:
        return _is_task(context, call, argument)
    if not isinstance(argument, tree.Name):
        label = f"expected {' or '.join(f'`{word}`' for word in words)}"
        message = f"`{name}` takes {label.removeprefix('expected ')}, found {describe(argument)}"
        context.error("C301", message, argument.span, label)
        return False
    if argument.text not in words and argument.text not in {word for each in quantity.arguments for word in each}:
        label = f"not something `{name}` takes"
        context.unknown("C207", "argument", argument, words, f"`{name}{quantity.form}` takes", label=label)
        return False
    return not argument.is_missing


def _is_task(context: Context, call: tree.Call, argument: tree.Expression) -> bool:
    """Whether an argument names a task; one with a dot (`pairs.short`) was read as a component."""
    if isinstance(argument, tree.Name | tree.Pattern):
        return context.resolve(tree.Name(argument.span, argument.text), tree.Task) is not None
    message = f"`{call.function.text}` is of a task, found {describe(argument)}"
    context.error("C301", message, argument.span, "expected the name of a task")
    return False


def words_of(call: tree.Call) -> tuple[str, ...]:
    """The arguments of a call that are words."""
    return tuple(each.text for each in call.arguments if isinstance(each, tree.Name | tree.Pattern))


def unit_of(expression: tree.Expression, table: Mapping[str, Quantity] = QUANTITIES) -> str | None:
    """The unit of an arithmetic expression over the quantities of a table: one of `dsl.quantities.UNITS`, None when it
    fits any (a plain number)."""
    match expression:
        case tree.Number():
            return "fraction" if expression.unit == "%" else None
        case tree.Name():
            return _plain_unit(expression.text, table)
        case tree.Call():
            return _plain_unit(expression.function.text, table)
        case tree.Unary():
            return unit_of(expression.operand, table)
        case tree.Binary():
            left, right = unit_of(expression.left, table), unit_of(expression.right, table)
            if expression.operator in "+-":
                return left or right
            if expression.operator == "*":
                return left if right in (None, "fraction") else right if left in (None, "fraction") else None
            if expression.operator == "/":
                return left if right in (None, "fraction") else "fraction" if left == right else None
    return None


def _plain_unit(name: str, table: Mapping[str, Quantity]) -> str | None:
    unit = table[name].unit if name in table else "number"
    return None if unit == "number" else unit


def _adds_up(context: Context, expression: tree.Binary, use: str) -> bool:
    """Whether the two sides of a sum, difference or comparison have one unit (C307)."""
    left, right = (unit_of(side, table_of(use)) for side in (expression.left, expression.right))
    if expression.operator in ("*", "/", "^") or None in (left, right) or left == right:
        return True
    words = "compared" if expression.operator in tree.COMPARISONS else "added"
    message = f"{UNITS[str(left)]} and {UNITS[str(right)]} cannot be {words}"
    others = [(expression.right.span, UNITS[str(right)])]
    context.error("C307", message, expression.left.span, UNITS[str(left)], others=others)
    return False


def constant(expression: tree.Expression) -> float | None:
    """The value of an expression without names; None when it has some, or no value (division by zero)."""
    match expression:
        case tree.Number():
            scale = {"%": 0.01, "k": 1e3, "K": 1e3, "M": 1e6}.get(expression.unit, 1.0)
            return float(f"{expression.value * scale:.12g}")
        case tree.Unary(operator="-"):
            value = constant(expression.operand)
            return None if value is None else -value
        case tree.Binary():
            left, right = constant(expression.left), constant(expression.right)
            return None if left is None or right is None else calculate(expression.operator, left, right)
    return None


def calculate(operator: str, left: float, right: float) -> float | None:
    """`left operator right`; None where that is no real number."""
    try:
        match operator:
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
            case "/":
                return left / right
            case "^":
                power = left**right
                return power if isinstance(power, float | int) else None
    except (ZeroDivisionError, OverflowError):
        return None
    return None


def conjuncts(expression: tree.Expression) -> Iterator[tree.Expression]:
    """The parts of a chain of `and`."""
    if isinstance(expression, tree.Binary) and expression.operator == "and":
        yield from conjuncts(expression.left)
        yield from conjuncts(expression.right)
    else:
        yield expression


def check_condition(context: Context, expression: tree.Expression, use: str) -> list[Bound] | None:
    """The bounds that must all hold for a condition (those of an `or` do not count); None when it has mistakes."""
    match expression:
        case tree.Binary() if expression.operator == "and":
            parts = [check_condition(context, side, use) for side in (expression.left, expression.right)]
            return None if None in parts else [bound for part in parts for bound in part or ()]
        case tree.Binary() if expression.operator == "or" and use.startswith("check"):
            parts = [check_condition(context, side, use) for side in (expression.left, expression.right)]
            return None if None in parts else []
        case tree.Unary(operator="not") if use.startswith("check"):
            return None if check_condition(context, expression.operand, use) is None else []
        case tree.Binary() if expression.operator in tree.COMPARISONS:
            return _check_comparison(context, expression, use)
        case tree.Binary() if expression.operator == "or":
            context.error(
                "C301",
                "constraints cannot be alternatives",
                expression.span,
                "all constraints must hold",
                help="separate them by `,`",
            )
        case _:
            missing = isinstance(expression, tree.Name | tree.Number) and expression.is_missing
            if not missing and check_arithmetic(context, expression, use):
                label = "compared with nothing"
                context.error(
                    "C301",
                    f"{USES[use]} is a comparison",
                    expression.span,
                    label,
                    help=f"compare it with a bound, such as `{SUCH.get(use, 'kl <= 0.3')}`",
                )
    return None


def _check_comparison(context: Context, expression: tree.Binary, use: str) -> list[Bound] | None:
    sides = [check_arithmetic(context, side, use) for side in (expression.left, expression.right)]
    if not all(sides):
        return None
    if use == "constraint" and expression.operator == "!=":
        context.error("C301", "`!=` cannot be a constraint", expression.span, help="bound it by `<=` or `>=`")
        return None
    bound = as_bound(expression, table_of(use))
    if (bound is None or bound.number is None) and not _adds_up(context, expression, use):
        return None
    if bound is None:
        if constant(expression.left) is not None and constant(expression.right) is not None:
            context.error("C301", "both sides are constants", expression.span, "nothing to decide here")
            return None
        return []
    return [bound] if _check_unit(context, bound) else None


def as_bound(expression: tree.Binary, table: Mapping[str, Quantity] = QUANTITIES) -> Bound | None:
    """A comparison as a bound on one quantity of a table, if it is that."""
    for side, other, operator in (
        (expression.left, expression.right, expression.operator),
        (expression.right, expression.left, FLIPPED[expression.operator]),
    ):
        value = constant(other)
        if value is None or not isinstance(side, tree.Name | tree.Call):
            continue
        name = side.function.text if isinstance(side, tree.Call) else side.text
        arguments = words_of(side) if isinstance(side, tree.Call) else ()
        number = other if isinstance(other, tree.Number) else None
        return Bound(name, arguments, operator, value, number, expression, table)
    return None


def _check_unit(context: Context, bound: Bound) -> bool:
    quantity, number = bound.about, bound.number
    if number is None:
        return True
    if number.unit == "%" and quantity.unit != "fraction":
        what = "a whole number" if quantity.unit == "count" else "a plain number"
        what = f"a number of {bound.quantity}" if bound.quantity in PARTS else what
        help = f"a share is written `density({bound.quantity})`" if bound.quantity in PARTS else ""
        context.error("C302", f"`{bound.quantity}` is not a share", number.span, f"expected {what}", help=help)
        return False
    if quantity.unit == "count" and not float(bound.value).is_integer():
        context.error("C301", f"`{bound.quantity}` is a whole number", number.span, f"found {number.text}")
        return False
    if quantity.unit == "fraction" and quantity.maximum == 1 and not number.unit and 1 < bound.value <= 100:
        message = f"`{bound.text}` is a share, and {number.text} is {100 * bound.value:g}%"
        context.error(
            "C302",
            message,
            number.span,
            "expected percent, or a number up to 1",
            help="did you mean percent?",
            fix=f"{number.text}%",
        )
        return False
    return True
