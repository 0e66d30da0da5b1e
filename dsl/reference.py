"""The reference of the language, `docs/language.md`, made from the tables that checking reads.

`python -m dsl.reference` writes it anew; a test says when it is out of date.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dsl import schema
from dsl.analysis_quantities import SECTION_QUANTITIES, SECTION_WORDS, Gauge
from dsl.catalog import builtin_data, builtin_models
from dsl.fields import Field, option_table
from dsl.parse import VERSION
from dsl.quantities import QUANTITIES, UNITS
from passes.analysis_options import ANALYSES, DISTANCES
from passes.options import METHODS
from passes.tuning_options import TUNERS

FILE = "docs/language.md"
START = f"""\
# The language of `.circ` files

This page is made from the tables of the checker by `python -m dsl.reference`. `circ explain NAME` shows any part of it.

A file begins with `circ {VERSION}`, the version of the language. Then come sections in any order. Line breaks mean
nothing; a comment goes from `#` to the end of its line; fields in braces are `name: value`, with blanks, `,` or `;`
between them. `circ fmt` lays a file out, `circ check` reports all its mistakes, `circ check --deep` those that only the
model's configuration, its tokenizer and the data show. `circ fmt --migrate` brings a file of an older version up to
date.
"""
VALUES = {
    "`3.4%`": "a share; `0.034` is the same",
    "`10k`, `2M`": "thousands, millions",
    "`1e-4`, `.5`, `1_000`": "numbers",
    "`0..3`": "0, 1, 2 and 3",
    "`0, 2, 5` or `[0, 2, 5]`": "a list",
    "`{head, mlp}`": "a set, behind `in`",
    '`"text"`': 'a text; `\\"`, `\\\\`, `\\n`, `\\t` stand for what they look like',
    "`a9.h6`, `a9.h6.q`, `m9`, `m9.n412`, `embed`, `logits`": "components",
    "`a*.h*.v`, `a{9..11}.h*`, `**`": "patterns of components",
}
OPERATORS = {
    "`+ - * / ^`": "arithmetic; quantities of different units are neither added nor compared, except in objectives",
    "`<= >= < > == !=`": "comparison; `0.1 <= kl <= 0.3` is a chain",
    "`in`": "one of a set or range, in queries: `layer in 0..3`",
    "`and or not`": "logic",
    "`& | - + ~`": "circuits: in both, in either, in the first alone, in either with weights added, the rest",
    "`+ - * /` of vectors": "task vectors: sums, differences, multiples by numbers",
}
STATEMENTS = {
    '`data builtin "NAME" { … }`': "examples from a generator",
    '`data jsonl "FILE" { n: … }`': "a file of JSON lines: clean, counterfactual, answer, distractor, template, "
    "position",
    "`split 50 / 25 / 25 by template`": "training, validation and test; or `by example`",
    "`predict answer vs distractor at last`": "what is predicted, what it is compared with, and behind which token; "
    "`at position`: behind the one that each example of a data file names",
    "`ablate interchange`": "what replaces an ablated value",
    "`metric logit_diff`": "how success is measured",
    "`subtask NAME where CONDITION { … }`": "some of the examples, or the task with other statements",
}


def reference() -> str:
    """The whole page."""
    parts = [
        START,
        _heading(2, "Values"),
        _rows(VALUES, "", ""),
        _heading(2, "Operators"),
        _rows(OPERATORS, "", ""),
        _heading(2, "Sections"),
        *(_section(name) for name in schema.SECTIONS),
        _heading(2, "Words"),
        *_words(),
        _heading(2, "Quantities"),
        _quantities(),
        *_section_quantities(),
        _heading(2, "Conditions of queries"),
        *_conditions(),
        _heading(2, "Discovery methods"),
        *(_options(name, options) for name, options in METHODS.items()),
        _heading(2, "Tuning methods"),
        *(_options(name, options) for name, options in TUNERS.items()),
        _heading(2, "Distances"),
        *(_options(name, options) for name, options in DISTANCES.items()),
        _heading(2, "Clusterings"),
        *(_options(name, ANALYSES[key]) for name, key in schema.CLUSTERINGS.items() if key in ANALYSES),
        _heading(2, "Built-in data"),
        *(_data(name, doc) for name, doc in builtin_data().items()),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _heading(level: int, text: str) -> str:
    return f"{'#' * level} {text}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _rows(rows: Mapping[str, str], left: str, right: str) -> str:
    lines = [f"| {left} | {right} |", "|---|---|", *(f"| {_cell(name)} | {_cell(doc)} |" for name, doc in rows.items())]
    return "\n".join(lines)


def _section(name: str) -> str:
    section = schema.SECTIONS[name]
    parts = [_heading(3, f"`{name}`"), f"```\n{section.form}\n```", section.doc, _fields(section.fields)]
    if name == "task":
        parts.append(_rows(STATEMENTS, "statement", "meaning"))
    if name == "graph":
        parts.append(_rows({"`layers 0..3: …`": f"{schema.REGION.doc}: {schema.REGION.expected}"}, "region", "meaning"))
    return "\n\n".join(part for part in parts if part)


def _fields(fields: Iterable[Field]) -> str:
    rows = [
        f"| `{each.name}` | {_cell(each.expected)}{', ' + each.bounds if each.bounds else ''} | "
        f"{'`' + each.shown_default + '`' if each.shown_default else ''} | {_cell(each.doc)} |"
        for each in fields
    ]
    return "\n".join(["| field | holds | default | meaning |", "|---|---|---|---|", *rows]) if rows else ""


def _options(name: str, options: type[Any]) -> str:
    doc = " ".join((options.__doc__ or "").split())
    return "\n\n".join(
        part for part in (_heading(3, f"`{name}`"), doc, _fields(option_table(options).values())) if part
    )


def _data(name: str, doc: str) -> str:
    return "\n\n".join([_heading(3, f"`{name}`"), doc, _fields(schema.data_fields(name).values())])


def _words() -> Iterable[str]:
    lists: Mapping[str, Mapping[str, str]] = {
        "Model kinds": schema.MODEL_KINDS,
        "Built-in models": builtin_models(),
        "Data kinds": schema.DATA_KINDS,
        "Corpus kinds": schema.CORPUS_KINDS,
        "Splits": schema.SPLITS,
        "Positions of `predict`": schema.POSITIONS,
        "Ablations": schema.ABLATIONS,
        "Metrics": {name: info.doc for name, info in schema.METRICS.items()},
        "Scales of `measure`": schema.SCALES,
        "Units of `analyze` and `cluster`": schema.ANALYSIS_UNITS,
        "Formats of `export`": schema.FORMATS,
        "Formats of `export` for analyses": schema.ANALYSIS_FORMATS,
        "Formats of `report`": schema.REPORT_FORMATS,
        "Formats of `import`": {name: "read from " + ", ".join(s) for name, s in schema.IMPORT_FORMATS.items()},
        "Flavors of `export`": {
            name: "for " + ", ".join(s) for name, s in {**schema.FLAVORS, **schema.ANALYSIS_FLAVORS}.items()
        },
    }
    for title, rows in lists.items():
        yield _heading(3, title)
        yield _rows({f"`{name}`": doc for name, doc in rows.items()}, "word", "meaning")


def _section_quantities() -> Iterable[str]:
    for kind, table in SECTION_QUANTITIES.items():
        yield _heading(3, f"In a check of `{SECTION_WORDS.get(kind, kind)}`")
        rows = [
            f"| `{_cell(name + each.form)}` | {UNITS[each.unit]} | {_cell(each.doc + _asked(each))} |"
            for name, each in table.items()
        ]
        yield "\n".join(["| quantity | unit | meaning |", "|---|---|---|", *rows])


def _asked(gauge: Gauge) -> str:
    """What a section has to be, or to ask for, so that it has a quantity."""
    wanted = [f"`with {method}`" for method in gauge.methods]
    wanted += [f"`{need.advice}`" + (f" for {need.argument}" if need.argument else "") for need in gauge.needs]
    return f" ({', '.join(wanted)})" if wanted else ""


def _quantities() -> str:
    rows = [
        f"| `{_cell(name + each.form)}` | {UNITS[each.unit]} | {', '.join(sorted(each.uses))} | {_cell(each.doc)} |"
        for name, each in QUANTITIES.items()
    ]
    note = "The first argument of each place is meant when it is left out. `stability iou` is `stability(iou)`."
    return "\n".join(["| quantity | unit | may stand in | meaning |", "|---|---|---|---|", *rows]) + f"\n\n{note}"


def _conditions() -> Iterable[str]:
    yield _rows({f"`{name}`": kind.doc for name, kind in schema.QUERIES.items()}, "kind of query", "gives")
    yield _rows({f"`{name}`": doc for name, (_, doc) in schema.NODE_ATTRIBUTES.items()}, "of a node", "meaning")
    yield _rows({f"`{name}`": doc for name, (_, doc) in schema.EDGE_ATTRIBUTES.items()}, "of an edge", "meaning")
    yield _rows({f"`{name}(PATTERN)`": doc for name, (_, doc) in schema.PREDICATES.items()}, "of both", "meaning")
    yield _rows({f"`{name}`": doc for name, (_, doc) in schema.TASK_ATTRIBUTES.items()}, "of an example", "meaning")


if __name__ == "__main__":
    from pathlib import Path

    (Path(__file__).parent.parent / FILE).write_text(reference(), encoding="utf-8")
