"""The words of the language by what they are, read off its tables: what is added there is colored here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from dsl import schema
from dsl.analysis_quantities import SECTION_QUANTITIES
from dsl.lexer import tables
from dsl.recovery import SECTIONS
from passes.options import METHODS
from passes.tuning_options import TUNERS

HEADER = "circ"
FLAGS = frozenset({"true", "false"})


def sections() -> frozenset[str]:
    """Keywords that start a section."""
    return frozenset(SECTIONS)


def keywords() -> frozenset[str]:
    """The other keywords."""
    return frozenset(tables().keywords) - sections()


def methods() -> frozenset[str]:
    """Methods of discovery and of tuning."""
    return frozenset((*METHODS, *TUNERS))


def functions() -> frozenset[str]:
    """What is written like a call: quantities and conditions."""
    of_sections = (name for table in SECTION_QUANTITIES.values() for name in table)
    return frozenset((*schema.QUANTITIES, *of_sections, *schema.PREDICATES, *schema.FUNCTIONS))


@cache
def constants() -> frozenset[str]:
    """Every other word that some table of the language lists: kinds, metrics, values of fields."""
    found = {word for name, table in vars(schema).items() if name.isupper() for word in _words(table)}
    return frozenset(found | FLAGS) - functions() - methods() - keywords() - sections()


def _words(table: Any) -> Iterator[str]:
    """The identifiers among the keys of a mapping or the members of a tuple, and the values of their fields."""
    if not isinstance(table, Mapping | tuple):
        return
    for key in table:
        entry = table[key] if isinstance(table, Mapping) else key
        if isinstance(key, str):
            yield from _identifiers([key])
        for field in getattr(entry, "fields", (entry,) if isinstance(entry, schema.Field) else ()):
            yield from _identifiers(getattr(field, "choices", ()))


def _identifiers(phrases: Iterable[str]) -> Iterator[str]:
    for phrase in phrases:
        yield from (word for word in phrase.split() if word.isidentifier())
