"""Fields of sections and options of methods: what each holds, its unit, bounds, default and meaning.

The options of anything that is a pass are read off its frozen dataclass (`passes.options`, `passes.analysis_options`,
`passes.evidence_options`): a field added there is known to the language.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class Kind(enum.Enum):
    """What a field holds; the value is how messages call it."""

    COUNT = "a whole number"
    NUMBER = "a number"
    FRACTION = "a share such as `3.4%`"
    FLAG = "`true` or `false`"
    TEXT = 'a text in `"`'
    CHOICE = "a word"
    COUNTS = "whole numbers such as `0, 1, 2` or `0..2`"
    NUMBERS = "numbers such as `0.1, 0.5`"
    FRACTIONS = "shares such as `1%, 5%`"
    WORDS = "words such as `a, b`"
    TEXTS = 'texts such as `"a", "b"`'

    @property
    def one(self) -> Kind:
        """The kind of one item of a list."""
        return _ONE.get(self, self)


_ONE = {
    Kind.COUNTS: Kind.COUNT,
    Kind.NUMBERS: Kind.NUMBER,
    Kind.FRACTIONS: Kind.FRACTION,
    Kind.WORDS: Kind.CHOICE,
    Kind.TEXTS: Kind.TEXT,
}


@dataclass(frozen=True)
class Field:
    """One field: its kind, default, meaning and bounds. `choices` are words or phrases, `originals` the values they
    stand for where those are no texts; `above` excludes the bound."""

    name: str
    kind: Kind
    default: Any
    doc: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    required: bool = False
    originals: tuple[Any, ...] = ()

    @property
    def expected(self) -> str:
        """What the field wants, in words."""
        if self.kind is Kind.CHOICE:
            return " or ".join(f"`{choice}`" for choice in self.choices)
        if self.kind is Kind.WORDS and self.choices:
            return f"some of {', '.join(f'`{choice}`' for choice in self.choices)}"
        return str(self.kind.value)

    @property
    def shown_default(self) -> str:
        """The default as it is written in a file; empty when there is none."""
        if self.default is None:
            return ""
        if isinstance(self.default, bool):
            return "true" if self.default else "false"
        if isinstance(self.default, float):
            return f"{self.default:g}"
        if isinstance(self.default, tuple):
            return ", ".join(map(str, self.default))
        return str(self.default)

    @property
    def bounds(self) -> str:
        """The bounds in words: `above 0 and at most 100%`; empty when there are none."""

        def show(bound: float) -> str:
            return f"{100 * bound:g}%" if self.kind.one is Kind.FRACTION else f"{bound:g}"

        parts = [
            f"above {show(self.above)}" if self.above is not None else "",
            f"at least {show(self.minimum)}" if self.minimum is not None else "",
            f"at most {show(self.maximum)}" if self.maximum is not None else "",
        ]
        return " and ".join(part for part in parts if part)


@dataclass(frozen=True)
class Section:
    """One section: how it is written, what it means, the fields of its block. Those that are the options of a pass are
    read off `options`, `module:class`, when they are asked for."""

    form: str
    doc: str
    own: tuple[Field, ...] = ()
    options: str = ""

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields of its block, in order."""
        return tuple(self.by_name.values())

    @property
    def by_name(self) -> Mapping[str, Field]:
        """Fields by name."""
        if not self.options:
            return {each.name: each for each in self.own}
        module, _, name = self.options.partition(":")
        return option_table(getattr(importlib.import_module(module), name))


def option_table(options: type[Any]) -> Mapping[str, Field]:
    """The fields of an options dataclass by name, in the order of its signature: keyword-only ones last."""
    if options not in _TABLES:
        _TABLES[options] = _read_table(options)
    return _TABLES[options]


_TABLES: dict[type[Any], Mapping[str, Field]] = {}


def _read_table(options: type[Any]) -> Mapping[str, Field]:
    hints = get_type_hints(options)
    found = {}
    for each in sorted(fields(options), key=lambda each: each.kw_only is True):
        kind, values = _kind_of(hints[each.name], str(each.metadata.get("unit", "")))
        default = None if each.default is MISSING else each.default
        low, high, above = (each.metadata.get(name) for name in ("minimum", "maximum", "above"))
        doc, choices = str(each.metadata.get("doc", "")), tuple(map(str, values))
        found[each.name] = Field(
            each.name, kind, default, doc, choices, low, high, above, originals=values if values != choices else ()
        )
    return MappingProxyType(found)


def _kind_of(annotation: Any, unit: str) -> tuple[Kind, tuple[Any, ...]]:
    """The kind of a field and its choices, from its type; what is not known here is a text."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not NoneType)
    if get_origin(annotation) is Literal:
        return Kind.CHOICE, get_args(annotation)
    share = unit == "fraction"
    if get_origin(annotation) in (tuple, list, frozenset):
        item = next(iter(get_args(annotation)), int)
        if get_origin(item) is Literal:
            return Kind.WORDS, get_args(item)
        many = {int: Kind.COUNTS, float: Kind.FRACTIONS if share else Kind.NUMBERS, str: Kind.TEXTS}
        return many.get(item, Kind.TEXTS), ()
    kinds = {bool: Kind.FLAG, int: Kind.COUNT, float: Kind.FRACTION if share else Kind.NUMBER, str: Kind.TEXT}
    return kinds.get(annotation, Kind.TEXT), ()
