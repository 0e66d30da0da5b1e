"""Values out of a manifest, which a stranger may have written: of another type than they should be, they count as
missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dsl.report.content import Cell, Share

SHARES = frozenset({"accuracy", "exact_match"})
"""Metrics that count examples."""
DEEPEST = 6
"""Levels of nesting that are looked into."""


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping, empty where there is none."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The mappings of a list."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list | tuple) else []


def named(value: Any) -> dict[str, Mapping[str, Any]]:
    """The entries of a mapping that are mappings."""
    return {str(name): each for name, each in mapping(value).items() if isinstance(each, Mapping)}


def items(value: Any) -> list[Any]:
    """A list, empty where there is none."""
    return list(value) if isinstance(value, list | tuple) else []


def number(value: Any) -> float | None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond any float
        return None


def numbers(value: Any) -> tuple[float, ...]:
    """The finite numbers of a list."""
    return tuple(each for each in map(number, items(value)) if each is not None)


def share(value: Any) -> Cell:
    """A finite number, to be shown in percent."""
    found = number(value)
    return None if found is None else Share(found)


def metric(name: str, value: Any) -> Cell:
    """A metric's value: shares of examples in percent."""
    return share(value) if name in SHARES else number(value)


def text(value: Any) -> str:
    """A text, empty where there is none; numbers as texts."""
    return value if isinstance(value, str) else "" if value is None else str(value)


def short(value: str, digits: int = 16) -> str:
    """The first digits of a hash."""
    return value if len(value) <= digits else f"{value[:digits]}…"


def leaves(value: Any, path: str = "", depth: int = DEEPEST) -> list[tuple[str, Any]]:
    """The values of nested objects and lists of objects by their paths; what is too deep or a list of plain values is
    one text."""
    if isinstance(value, Mapping) and depth:
        found = [leaves(each, f"{path}.{name}" if path else str(name), depth - 1) for name, each in value.items()]
        return [leaf for each in found for leaf in each]
    if isinstance(value, list | tuple):
        if depth and any(isinstance(each, Mapping) for each in value):
            several = [leaves(each, f"{path}[{place}]", depth - 1) for place, each in enumerate(value)]
            return [leaf for each in several for leaf in each]
        return [(path, ", ".join(text(each) for each in value[:20]) + (" …" if len(value) > 20 else ""))]
    plain = value is None or isinstance(value, str | bool | int | float)
    return [(path, value if plain else f"{len(value):,} entries" if isinstance(value, Mapping) else str(value))]
