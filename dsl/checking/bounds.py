"""Constraints and conditions that no circuit can meet, as far as the text alone tells."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dsl.checking.context import Context
from dsl.checking.expressions import Bound
from graphir.diagnostics import Span

NOTHING = {
    "density": "an empty circuit computes nothing",
    "edges": "an empty circuit computes nothing",
    "nodes": "an empty circuit computes nothing",
}


@dataclass(frozen=True)
class _Interval:
    """What is still possible for one quantity, and which bounds say so."""

    low: float
    high: float
    low_open: bool
    high_open: bool
    low_from: Span | None = None
    high_from: Span | None = None

    @property
    def is_empty(self) -> bool:
        return self.low > self.high or (self.low == self.high and (self.low_open or self.high_open))


def _natural(bound: Bound) -> _Interval:
    """The range of a quantity; sizes exclude the empty circuit."""
    about = bound.about
    return _Interval(about.minimum, about.maximum, bound.quantity in NOTHING, False)


def _as_density(bound: Bound) -> Bound:
    """`sparsity(x) >= a` is `density(x) <= 1 - a`."""
    if bound.quantity != "sparsity":
        return bound
    flipped = {"<=": ">=", ">=": "<=", "<": ">", ">": "<"}.get(bound.operator, bound.operator)
    return replace(bound, quantity="density", operator=flipped, value=float(f"{1 - bound.value:.12g}"))


def check_bounds(context: Context, bounds: Iterable[Bound], what: str) -> bool:
    """Whether the bounds can hold together; reports each that cannot (C501, C502) or that says nothing (C503).

    `what` is `constraint` or `condition`.
    """
    possible: dict[tuple[str, tuple[str, ...]], _Interval] = {}
    good = True
    for written in bounds:
        bound = _as_density(written)
        key = bound.key
        natural = _natural(bound)
        alone = _narrow(natural, bound)
        if alone.is_empty:
            _report_impossible(context, written, bound, what)
            good = False
            continue
        if bound.operator in ("<=", ">=", "<", ">") and (alone.low, alone.high, alone.high_open) == (
            natural.low,
            natural.high,
            natural.high_open,
        ):
            context.warning(
                "C503",
                f"this {what} always holds",
                written.expression.span,
                f"`{bound.quantity}` is {_range(bound)}",
            )
        before = possible.get(key, natural)
        after = _narrow(before, bound)
        if after.is_empty:
            other = before.low_from if bound.operator in ("<=", "<") else before.high_from
            other = other or before.low_from or before.high_from
            where = [(other, "this one excludes it")] if other else []
            message = f"these {what}s contradict each other"
            context.error("C502", message, written.expression.span, "cannot hold together with the other", others=where)
            good = False
            continue
        possible[key] = after
    return good


def _narrow(interval: _Interval, bound: Bound) -> _Interval:
    value, operator, span = bound.value, bound.operator, bound.expression.span
    if operator in ("<=", "<", "==") and (value < interval.high or (value == interval.high and operator == "<")):
        interval = replace(interval, high=value, high_open=operator == "<", high_from=span)
    if operator in (">=", ">", "==") and (value > interval.low or (value == interval.low and operator == ">")):
        interval = replace(interval, low=value, low_open=operator == ">", low_from=span)
    if operator == "==" and not interval.low <= value <= interval.high:
        interval = replace(interval, low=math.inf, high=-math.inf)
    return interval


def _report_impossible(context: Context, written: Bound, bound: Bound, what: str) -> None:
    empty = bound.quantity in NOTHING and bound.value == 0
    note = NOTHING[bound.quantity] if empty else f"`{written.quantity}` is {_range(written)}"
    label = "leaves nothing" if empty else f"`{bound.quantity}` is {_range(bound)}"
    context.error(
        "C501", f"this {what} can never hold", written.expression.span, label, notes=[] if label == note else [note]
    )


def _range(bound: Bound) -> str:
    """The natural range of a quantity in words."""
    interval = _natural(bound)
    scale, unit = (100, "%") if bound.about.unit == "fraction" else (1, "")
    low = f"above 0{unit}" if interval.low_open else f"at least {scale * interval.low:g}{unit}"
    high = f"at most {scale * interval.high:g}{unit}"
    parts = [low if math.isfinite(interval.low) else "", high if math.isfinite(interval.high) else ""]
    return " and ".join(part for part in parts if part) or "any number"
