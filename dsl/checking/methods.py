"""Methods and their options: of discovery, distances, clusterings, evidence. All are read off dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsl import tree
from dsl.checking.context import Context
from dsl.checking.values import read_block
from dsl.fields import option_table
from dsl.spec import MethodSpec
from passes.options import METHODS
from passes.tuning_options import TUNERS


def check_method(context: Context, use: tree.MethodUse) -> MethodSpec | None:
    """A known discovery method with options it has."""
    if use.name.text in TUNERS:
        name = use.name.text
        help = f"`vector NAME = tune MODEL for TASK with {name}` does"
        context.error("C205", f"`{name}` finds no circuit", use.name.span, "tunes weights", help=help)
        return None
    return check_use(context, use, METHODS, "C205", "method", "methods")


def check_use(
    context: Context, use: tree.MethodUse, known: Mapping[str, type[Any]], code: str, what: str, plural: str
) -> MethodSpec | None:
    """One of the known methods with options it has; reports an unknown one under `code`."""
    name = context.word(code, what, use.name, known, plural)
    if name is None:
        return None
    options = check_options(context, use.block, known[name], f"`{name}`")
    return None if options is None else MethodSpec(use.span, name, *options)


def check_options(
    context: Context, block: tree.Block | None, options: type[Any], owner: str
) -> tuple[Any, frozenset[str]] | None:
    """An options dataclass made from a block, and the names of the options it sets."""
    values = read_block(context, block, option_table(options), owner)
    if values is None:
        return None
    entries = block.entries if block else ()
    given = frozenset(entry.name.text for entry in entries if isinstance(entry, tree.Entry))
    region = next((entry for entry in entries if isinstance(entry, tree.Region)), None)
    if region is not None:
        context.error("C203", f"{owner} has no regions", region.span, "regions belong to a graph")
        return None
    return options(**values), given
