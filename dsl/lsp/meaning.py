"""What a word of the language means, as Markdown: the table in `dsl.schema` and the methods' options, in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dsl import tree
from dsl.fields import option_table
from dsl.schema import PREDICATES, SECTIONS, Field, Kind, MetricInfo, Quantity, QueryKind
from passes.options import METHODS
from passes.tuning_options import TUNERS

MANY = 12


def meaning(word: str, known: Collection[str], what: str) -> str:
    """A known word: its form, its meaning, its values. `known` is where the checker looked it up."""
    entry = known.get(word) if isinstance(known, Mapping) else None
    if isinstance(entry, Field):
        return _field(entry)
    title = code(word)
    match entry:
        case Quantity():
            return paragraphs(code(word + entry.form), entry.doc, f"*{entry.unit}*")
        case QueryKind():
            clauses = ", ".join(f"`{each}`" for each in sorted(entry.clauses))
            return paragraphs(title, entry.doc, f"takes {clauses}" if clauses else "")
        case MetricInfo():
            return paragraphs(title, entry.doc)
        case type():
            doc = " ".join((entry.__doc__ or "").split())
            return _method(word, entry) if word in METHODS or word in TUNERS else paragraphs(title, doc)
        case str():
            return paragraphs(title, entry)
        case (str(), *_) if str(entry[0]).startswith("."):
            return paragraphs(title, "goes with " + ", ".join(f"`{suffix}`" for suffix in entry))
        case (*_, str() as doc) if entry:
            return paragraphs(title, doc)
    if entry is None and word in PREDICATES:
        return paragraphs(code(f"{word}(PATTERN)"), PREDICATES[word][1])
    doc = getattr(entry, "doc", "")
    return paragraphs(title, doc if isinstance(doc, str) else "", listing(known, what))


def listing(known: Collection[str], what: str) -> str:
    """The known words in a line: `metrics: kl, logit_diff`."""
    names = list(known)
    shown = ", ".join(f"`{name}`" for name in names[:MANY])
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return f"{what}: {shown}{more}" if names else ""


def _field(field: Field) -> str:
    default = f", default `{field.shown_default}`" if field.shown_default else ""
    return paragraphs(code(f"{field.name}: …"), field.doc, f"{field.expected}{default}{_bounds(field)}")


def _bounds(field: Field) -> str:
    def show(bound: float) -> str:
        return f"{100 * bound:g}%" if field.kind is Kind.FRACTION else f"{bound:g}"

    parts = [
        f"above {show(field.above)}" if field.above is not None else "",
        f"at least {show(field.minimum)}" if field.minimum is not None else "",
        f"at most {show(field.maximum)}" if field.maximum is not None else "",
    ]
    return "".join(f", {part}" for part in parts if part)


def _method(name: str, options: type[Any]) -> str:
    rows = [f"- `{each.name}`: {each.doc}" for each in option_table(options).values()]
    return paragraphs(code(f"{name} {{ … }}"), " ".join((options.__doc__ or "").split()), "\n".join(rows))


def of_section(keyword: str) -> str:
    """A kind of section: how it is written and what it is for; empty when there is no such section."""
    section = SECTIONS.get(keyword)
    return paragraphs(code(section.form), section.doc) if section else ""


def of_declaration(section: tree.Node) -> str:
    """A declared name: the first line of its section, and what such a section is for."""
    head = section.span.text.partition("\n")[0].strip()
    return paragraphs(code(head), of_section(head.split(" ", 1)[0]).partition("\n\n")[2])


def code(text: str) -> str:
    """A line of the language."""
    return f"```circ\n{text}\n```"


def paragraphs(*parts: str) -> str:
    """Parts that are not empty, apart from each other."""
    return "\n\n".join(part for part in parts if part)
