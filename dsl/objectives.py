"""What `minimize …` means for a method: options of its own. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dsl import tree
from dsl.checking.expressions import constant
from dsl.translate import quantity_of
from graphir.errors import GraphirError

if TYPE_CHECKING:
    from dsl.spec import CircuitSpec

KL = ("kl", ("model", "circuit"))
COMPLETE = "complete"


def objective_options(spec: CircuitSpec) -> dict[str, Any]:
    """The options of the method that make it minimize what the file says; none where it says nothing.

    An objective is one measure of faithfulness, with factor 1, and, for methods that train the complement, `complete`
    with any factor: `faith + 0.5 * complete` (also with `kl(model, circuit)` or `cross_entropy` for `faith`). Raises
    `GraphirError` for what the method cannot minimize.
    """
    if spec.minimize is None:
        return {}
    options = spec.method.options
    choice, completes = hasattr(options, "faithfulness"), hasattr(options, "completeness")
    found: dict[str, Any] = {}
    faithful = 0
    for factor, term in _terms(spec.minimize, 1.0):
        name, arguments = term
        if name == COMPLETE and completes and factor >= 0:
            found["completeness"] = found.get("completeness", 0.0) + factor
            continue
        faithful += 1
        if factor != 1:
            raise _refusal(spec)
        if (name, arguments) == KL:
            found |= {"faithfulness": "kl"} if choice else {}
        elif name == "cross_entropy" and arguments[-1] == "circuit" and choice:
            found["faithfulness"] = "cross_entropy"
        elif name != "faith":
            raise _refusal(spec)
    if faithful != 1:
        raise _refusal(spec)
    return found


def _terms(expression: tree.Expression, factor: float) -> Iterator[tuple[float, tuple[str, tuple[str, ...]]]]:
    """The terms of a sum with their constant factors; a term that is no quantity comes under its text."""
    match expression:
        case tree.Name() | tree.Call():
            yield factor, quantity_of(expression)
            return
        case tree.Binary(operator="+" | "-"):
            yield from _terms(expression.left, factor)
            yield from _terms(expression.right, factor if expression.operator == "+" else -factor)
            return
        case tree.Binary(operator="*"):
            for number, other in ((expression.left, expression.right), (expression.right, expression.left)):
                value = constant(number)
                if value is not None:
                    yield from _terms(other, factor * value)
                    return
        case tree.Unary(operator="-"):
            yield from _terms(expression.operand, -factor)
            return
    yield factor, (expression.span.text, ())


def _refusal(spec: CircuitSpec) -> GraphirError:
    options = spec.method.options
    text = "`kl(model, circuit)`"
    text += ", `faith` or `cross_entropy`" if hasattr(options, "faithfulness") else ""
    text += " (plus `complete` with a factor)" if hasattr(options, "completeness") else ""
    return GraphirError(
        f"`{spec.method.name}` minimizes {text} and nothing else",
        ["write `minimize kl(model, circuit)`, and put sizes under `subject to`"],
    )
