"""Checked expressions in other forms: as sympy, as a query of `graphir`, as a number. Only our own tree is walked; no
text is ever evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dsl import tree
from dsl.checking.expressions import calculate, constant, words_of
from dsl.schema import EDGE_ATTRIBUTES, NODE_ATTRIBUTES, QUANTITIES, Quantity

if TYPE_CHECKING:
    import sympy

    from dsl.spec import QuerySpec
    from graphir.expressions import Expr
    from graphir.query import Query

Lookup = Callable[[str, tuple[str, ...]], float]
"""A quantity's value from its name and its arguments: `lookup("kl", ("model", "circuit"))`."""

COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


Table = Mapping[str, Quantity]
"""Quantities by name: those of circuits, or of a kind of section of the analyzer."""


def quantity_of(expression: tree.Name | tree.Call, table: Table = QUANTITIES) -> tuple[str, tuple[str, ...]]:
    """Name and arguments of a quantity. Arguments that were left out are filled in: `kl` is `kl(model, circuit)`."""
    name = expression.function.text if isinstance(expression, tree.Call) else expression.text
    words = words_of(expression) if isinstance(expression, tree.Call) else ()
    return name, table[name].complete(words) or words


def quantities(expression: tree.Expression, table: Table = QUANTITIES) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Every quantity that an arithmetic expression or a condition names, each once, in order."""
    found: dict[tuple[str, tuple[str, ...]], None] = {}
    _collect(expression, found, table)
    return tuple(found)


def _collect(expression: tree.Expression, found: dict[tuple[str, tuple[str, ...]], None], table: Table) -> None:
    match expression:
        case tree.Name() | tree.Call():
            found[quantity_of(expression, table)] = None
        case tree.Unary():
            _collect(expression.operand, found, table)
        case tree.Binary():
            _collect(expression.left, found, table)
            _collect(expression.right, found, table)


def evaluate(expression: tree.Expression, lookup: Lookup, table: Table = QUANTITIES) -> float:
    """The value of an arithmetic expression. `ArithmeticError` where it has none (division by zero)."""
    match expression:
        case tree.Number():
            value = constant(expression)
        case tree.Name() | tree.Call():
            value = lookup(*quantity_of(expression, table))
        case tree.Unary():
            value = -evaluate(expression.operand, lookup, table)
        case tree.Binary():
            sides = (evaluate(side, lookup, table) for side in (expression.left, expression.right))
            value = calculate(expression.operator, *sides)
        case _:
            value = None
    if value is None:
        message = f"`{expression.span.text}` has no value"
        raise ArithmeticError(message)
    return value


def holds(condition: tree.Expression, lookup: Lookup, table: Table = QUANTITIES) -> bool:
    """Whether a checked condition holds."""
    match condition:
        case tree.Unary(operator="not"):
            return not holds(condition.operand, lookup, table)
        case tree.Binary(operator="and"):
            return holds(condition.left, lookup, table) and holds(condition.right, lookup, table)
        case tree.Binary(operator="or"):
            return holds(condition.left, lookup, table) or holds(condition.right, lookup, table)
        case tree.Binary():
            left, right = (evaluate(side, lookup, table) for side in (condition.left, condition.right))
            return COMPARE[condition.operator](left, right)
    message = f"`{condition.span.text}` is not a condition"
    raise ArithmeticError(message)


def to_sympy(expression: tree.Expression) -> sympy.Basic:
    """An objective, constraint or condition as sympy. Quantities become symbols named as they are written in full:
    `kl(model, circuit)`, `density(edges)`."""
    import sympy

    relations = {"<=": sympy.Le, ">=": sympy.Ge, "<": sympy.Lt, ">": sympy.Gt, "==": sympy.Eq, "!=": sympy.Ne}
    match expression:
        case tree.Number():
            # Exact: 3.4% is 17/500.
            scale = {"%": sympy.Rational(1, 100), "k": 1000, "K": 1000, "M": 1000000}.get(expression.unit, 1)
            digits = expression.text.rstrip("%kKM").replace("_", "")
            return sympy.Rational(digits) * scale
        case tree.Name() | tree.Call():
            return sympy.Symbol(symbol_name(*quantity_of(expression)), real=True)
        case tree.Unary(operator="not"):
            return sympy.Not(to_sympy(expression.operand))
        case tree.Unary():
            return -_as_expr(to_sympy(expression.operand))
        case tree.Binary(operator="and" | "or"):
            join = sympy.And if expression.operator == "and" else sympy.Or
            return join(to_sympy(expression.left), to_sympy(expression.right))
        case tree.Binary() if expression.operator in relations:
            return relations[expression.operator](to_sympy(expression.left), to_sympy(expression.right))
        case tree.Binary():
            left, right = _as_expr(to_sympy(expression.left)), _as_expr(to_sympy(expression.right))
            results = {"+": left + right, "-": left - right, "*": left * right}
            if expression.operator in results:
                return results[expression.operator]
            return left / right if expression.operator == "/" else left**right
    message = f"`{expression.span.text}` is not arithmetic"
    raise TypeError(message)


def _as_expr(value: Any) -> Any:
    """sympy's base class has no arithmetic in its types."""
    return value


def symbol_name(name: str, arguments: tuple[str, ...]) -> str:
    """The name of a quantity's symbol: `kl(model, circuit)`."""
    return f"{name}({', '.join(arguments)})" if arguments else name


def to_query(spec: QuerySpec) -> Query:
    """A checked query as data for `graphir.query.run_query`."""
    from graphir.query import Query

    attributes = EDGE_ATTRIBUTES if spec.kind == "edges" else NODE_ATTRIBUTES
    where = _to_expr(spec.where, attributes) if spec.where is not None else None
    return Query(spec.kind, spec.subject, where, spec.start, spec.end, spec.through, spec.limit, spec.top, spec.by)


def keeps(condition: tree.Expression, example: Any) -> bool:
    """Whether a subtask's condition holds for an example: something with the attributes of
    `dsl.schema.TASK_ATTRIBUTES`."""
    match condition:
        case tree.Binary(operator="and"):
            return keeps(condition.left, example) and keeps(condition.right, example)
        case tree.Binary(operator="or"):
            return keeps(condition.left, example) or keeps(condition.right, example)
        case tree.Unary(operator="not"):
            return not keeps(condition.operand, example)
        case tree.Member(left=tree.Name() as name):
            return any(_is_value(getattr(example, name.text), item) for item in condition.choices.items)
        case tree.Binary(left=tree.Name() as name):
            return _is_value(getattr(example, name.text), condition.right) == (condition.operator == "==")
    message = f"`{condition.span.text}` is not a condition on examples"
    raise ArithmeticError(message)


def _is_value(value: str | None, item: tree.Node) -> bool:
    """Whether a text of an example is what a file says; blanks around it do not count, answers begin with one."""
    if isinstance(item, tree.Range):
        number = (value or "").strip()
        first, last = (getattr(end, "value", 0.0) for end in (item.first, item.last))
        return number.isdigit() and first <= int(number) <= last
    wanted = item.value if isinstance(item, tree.Text) else getattr(item, "text", "")
    return (value or "").strip() == wanted.strip()


def _choice(left: Expr, item: tree.Item, attributes: Mapping[str, Any]) -> Expr:
    """`left` is one of a range, or an item."""
    from graphir.expressions import And, Compare

    if isinstance(item, tree.Range):
        first, last = (_to_expr(end, attributes) for end in (item.first, item.last))
        return And((Compare(">=", left, first), Compare("<=", left, last)))
    return Compare("==", left, _to_expr(item, attributes))


def _to_expr(expression: tree.Expression, attributes: Mapping[str, Any]) -> Expr:
    """A checked condition of a query as an expression of `graphir`."""
    from graphir.expressions import And, Call, Compare, Field, Literal, Not, Or

    match expression:
        case tree.Binary(operator="and"):
            return And((_to_expr(expression.left, attributes), _to_expr(expression.right, attributes)))
        case tree.Binary(operator="or"):
            return Or((_to_expr(expression.left, attributes), _to_expr(expression.right, attributes)))
        case tree.Unary(operator="not"):
            return Not(_to_expr(expression.operand, attributes))
        case tree.Member():
            left = _to_expr(expression.left, attributes)
            return Or(tuple(_choice(left, item, attributes) for item in expression.choices.items))
        case tree.Binary():
            return Compare(
                expression.operator, _to_expr(expression.left, attributes), _to_expr(expression.right, attributes)
            )
        case tree.Call():
            arguments = tuple(_to_expr(each, attributes) for each in expression.arguments)
            return Call(expression.function.text, arguments)
        case tree.Name() | tree.Pattern():
            return Field(expression.text) if expression.text in attributes else Literal(expression.text)
        case tree.Text():
            return Literal(expression.value)
    value = constant(expression)
    if value is None:
        message = f"`{expression.span.text}` has no value"
        raise ArithmeticError(message)
    return Literal(value)
