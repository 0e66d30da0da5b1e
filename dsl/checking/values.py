"""Fields and their values: kind, unit, bounds; blocks as mappings with defaults."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dsl import tree
from dsl.checking.context import Context
from dsl.fields import Field, Kind
from dsl.suggest import suggest
from dsl.synonyms import SYNONYMS
from dsl.watching import saw_word
from graphir.diagnostics import Span

MULTIPLES = {"k": 1e3, "K": 1e3, "M": 1e6}
UNITS = ("%", *MULTIPLES)
MAX_COUNTS = 1000


def read_block(
    context: Context, block: tree.Block | None, fields: Mapping[str, Field], owner: str
) -> dict[str, Any] | None:
    """The fields of a block by name, defaults filled in; None when one of them is wrong. Regions are left aside."""
    found: dict[str, Any] = {name: each.default for name, each in fields.items()}
    good = True
    for name, entry in entries(context, block).items():
        if name not in fields:
            context.unknown("C203", "field", entry.name, fields, f"fields of {owner}", label=f"not a field of {owner}")
            good = False
            continue
        value = read_value(context, fields[name], entry.value)
        good &= value is not None
        found[name] = value
    for each in fields.values():
        if each.required and block is not None and found[each.name] is None:
            context.error("C403", f"{owner} needs the field `{each.name}`", block.span, "it is not here")
            good = False
    return found if good else None


def entries(context: Context, block: tree.Block | None) -> dict[str, tree.Entry]:
    """The `name: value` entries of a block; reports a name that comes twice."""
    found: dict[str, tree.Entry] = {}
    for entry in block.entries if block else ():
        if not isinstance(entry, tree.Entry):
            continue
        first = found.setdefault(entry.name.text, entry)
        if first is not entry:
            where = [(first.name.span, "first set here")]
            context.error(
                "C402", f"the field `{entry.name.text}` is set twice", entry.name.span, "set again here", others=where
            )
    return found


def read_value(context: Context, field: Field, value: tree.Value) -> Any:
    """The value of a field as Python data; None (and a report) when it is not what the field wants."""
    if any(getattr(item, "is_missing", False) for item in value.items):
        return None
    if field.kind is Kind.CHOICE:
        return _choice(context, field, value)
    if field.kind is not field.kind.one:
        return _counts(context, field, value) if field.kind is Kind.COUNTS else _several(context, field, value)
    if len(value.items) != 1 or value.is_list:
        return _wrong_type(context, field, value.span, "several values" if value.items else "an empty list")
    item = value.items[0]
    if field.kind is Kind.TEXT:
        return (
            item.value
            if isinstance(item, tree.Text)
            else _wrong_type(context, field, item.span, describe(item), _quoted(item))
        )
    if field.kind is Kind.FLAG:
        return _flag(context, field, item)
    if not isinstance(item, tree.Number):
        return _wrong_type(context, field, item.span, describe(item))
    return _number(context, field, item)


def describe(item: tree.Node) -> str:
    """A value in words."""
    match item:
        case tree.Text():
            return "a text"
        case tree.Number():
            return f"the number {item.text}"
        case tree.Range():
            return "a range"
        case tree.Name() | tree.Pattern():
            return f"the word `{item.text}`"
    return "an expression"


def _quoted(item: tree.Item) -> str | None:
    return f'"{item.text}"' if isinstance(item, tree.Name | tree.Pattern) else None


def _wrong_type(context: Context, field: Field, span: Span, found: str, fix: str | None = None) -> None:
    message = f"`{field.name}` wants {field.expected}, found {found}"
    help = "write" if fix else ""
    context.error("C301", message, span, f"expected {field.expected}", notes=[_meaning(field)], help=help, fix=fix)


def _meaning(field: Field) -> str:
    default = f" (default {field.shown_default})" if field.shown_default else ""
    return f"{field.name}: {field.doc}{default}"


def _choice(context: Context, field: Field, value: tree.Value) -> Any:
    words = [item.text if isinstance(item, tree.Name | tree.Number) else None for item in value.items]
    if value.is_list or not words or None in words or (field.choices and not any(words)):
        found = describe(value.items[0]) if len(value.items) == 1 else "something else"
        text = value.items[0].value if len(value.items) == 1 and isinstance(value.items[0], tree.Text) else None
        _wrong_type(context, field, value.span, found, text if text in field.choices else None)
        return None
    phrase = " ".join(word for word in words if word)
    if phrase in field.choices:
        return field.originals[field.choices.index(phrase)] if field.originals else phrase
    if isinstance(value.items[0], tree.Number):
        _wrong_type(context, field, value.span, describe(value.items[0]))
        return None
    guess = suggest(phrase, field.choices, f"`{field.name}` may be", SYNONYMS["choice"])
    listing = f"`{field.name}` is {field.expected}"
    context.error(
        "C209",
        f"unknown value `{phrase}` for `{field.name}`",
        value.span,
        "not one of its values",
        notes=[listing],
        help=guess.help,
        fix=guess.word,
    )
    return None


def _several(context: Context, field: Field, value: tree.Value) -> tuple[Any, ...] | None:
    """Items of a list that are no whole numbers: each is read as one value would be."""
    if not value.items or (len(value.items) > 1 and not value.is_list):
        fix = ", ".join(item.span.text for item in value.items) if value.items else None
        _wrong_type(context, field, value.span, "values without commas" if value.items else "an empty list", fix)
        return None
    one = replace(field, kind=field.kind.one)
    found = [read_value(context, one, tree.Value(item.span, (item,), is_list=False)) for item in value.items]
    if None in found:
        return None
    seen: dict[Any, tree.Item] = {}
    for item, each in zip(value.items, found, strict=True):
        if not _is_first(context, seen, each, item, item.span.text):
            return None
    return tuple(found)


def _is_first(context: Context, seen: dict[Any, tree.Item], value: Any, item: tree.Item, shown: str) -> bool:
    """Whether a value of a list was not there before; reports one that was."""
    first = seen.setdefault(value, item)
    if first is item:
        return True
    context.error("C402", f"`{shown}` is given twice", item.span, others=[(first.span, "first here")])
    return False


def _flag(context: Context, field: Field, item: tree.Item) -> bool | None:
    words = {"true": True, "false": False}
    if isinstance(item, tree.Name):
        saw_word(item.text, tuple(words), f"`{field.name}` may be")
    if isinstance(item, tree.Name) and item.text in words:
        return words[item.text]
    others = {"yes": "true", "on": "true", "no": "false", "off": "false", "True": "true", "False": "false"}
    fix = others.get(item.text) if isinstance(item, tree.Name) else None
    _wrong_type(context, field, item.span, describe(item), fix)
    return None


def _counts(context: Context, field: Field, value: tree.Value) -> tuple[int, ...] | None:
    found: dict[int, tree.Item] = {}
    if not value.items or (len(value.items) > 1 and not value.is_list):
        fix = ", ".join(item.span.text for item in value.items) if value.items else None
        _wrong_type(context, field, value.span, "values without commas" if value.items else "an empty list", fix)
        return None
    for item in value.items:
        if isinstance(item, tree.Range):
            numbers = read_range(context, item, field)
            if numbers is None:
                return None
            several: Iterable[int] = range(numbers[0], numbers[1] + 1)
        elif isinstance(item, tree.Number):
            number = _number(context, field, item)
            if number is None:
                return None
            several = [int(number)]
        else:
            _wrong_type(context, field, item.span, describe(item))
            return None
        if not all(_is_first(context, found, each, item, str(each)) for each in several):
            return None
    return tuple(found)


def read_range(context: Context, item: tree.Range, field: Field) -> tuple[int, int] | None:
    """First and last of a range of whole numbers; reports a range that is empty or endless."""
    ends = [amount_of(context, each) for each in (item.first, item.last)]
    first, last = (None if each is None else _number(context, field, each) for each in ends)
    if first is None or last is None:
        return None
    if last < first:
        fix = f"{item.last.span.text}..{item.first.span.text}"
        context.error(
            "C304",
            f"the range {item.span.text} is empty",
            item.span,
            "the first is larger than the last",
            help="write",
            fix=fix,
        )
        return None
    if last - first >= MAX_COUNTS:
        context.error("C304", f"the range {item.span.text} is too long", item.span, f"more than {MAX_COUNTS} numbers")
        return None
    return int(first), int(last)


def amount_of(context: Context, amount: tree.Amount | tree.Item) -> tree.Number | None:
    """The number of an amount; reports a name that is no constant."""
    if isinstance(amount, tree.Number):
        return amount
    if not isinstance(amount, tree.Name):
        context.error("C301", f"expected a number, found {describe(amount)}", amount.span)
        return None
    known = [name for name, section in context.declared.items() if isinstance(section, tree.Let)]
    if amount.text in context.broken:
        return None
    if amount.text in known:
        context.error("C308", f"`{amount.text}` is not a number", amount.span, "a number is wanted here")
    elif amount.text not in context.file.lost:
        context.unknown("C211", "constant", amount, known, "constants", label="expected a number or a constant")
    return None


def plain_number(context: Context, number: tree.Number) -> float | None:
    """The value of a number, its unit applied (`3.4%` is 0.034, `10k` is 10000); reports an unknown unit."""
    if number.is_missing:
        return None
    if number.unit and number.unit not in UNITS:
        known = "units: % (hundredth), k (thousand), M (million)"
        context.error(
            "C302",
            f"unknown unit `{number.unit}`",
            number.span,
            "a unit stands directly behind its number",
            notes=[known],
        )
        return None
    value = number.value * MULTIPLES.get(number.unit, 0.01 if number.unit == "%" else 1.0)
    # 3.4% is 0.034, not 0.034000000000000002
    value = float(f"{value:.12g}")
    if not math.isfinite(value):
        context.error("C303", f"the number {number.text} is too large", number.span)
        return None
    return value


def _number(context: Context, field: Field, number: tree.Number) -> float | int | None:
    value = plain_number(context, number)
    if value is None:
        return None
    if number.unit == "%" and field.kind is not Kind.FRACTION:
        context.error(
            "C302", f"`{field.name}` is not a share", number.span, f"expected {field.expected}", notes=[_meaning(field)]
        )
        return None
    if field.kind in (Kind.COUNT, Kind.COUNTS):
        if value != int(value):
            context.error(
                "C301",
                f"`{field.name}` wants a whole number, found {number.text}",
                number.span,
                notes=[_meaning(field)],
            )
            return None
        value = int(value)
    return value if within_bounds(context, field, value, number) else None


def within_bounds(context: Context, field: Field, value: float, number: tree.Number) -> bool:
    """Whether a value is within its field's bounds; reports it otherwise."""
    share = field.kind.one is Kind.FRACTION
    low = field.minimum is not None and value < field.minimum
    low |= field.above is not None and value <= field.above
    high = field.maximum is not None and value > field.maximum
    if not low and not high:
        return True
    # Where shares may pass 1, as targets up to 120% do, 1.3 is one that is too large, not one in percent.
    percent = high and share and value >= (2 if (field.maximum or 0) > 1 else 0)
    fix = f"{number.text}%" if percent and not number.unit and value <= 100 else None
    help = "did you mean percent?" if fix else ""
    context.error(
        "C303",
        f"`{field.name}` is out of range: {number.text}",
        number.span,
        f"must be {field.bounds}",
        notes=[_meaning(field)],
        help=help,
        fix=fix,
    )
    return False
