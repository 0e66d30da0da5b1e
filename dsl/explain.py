"""Pages for `circ explain`: one for each code, and one for each section, method, data set and list of words.

The pages of codes are files in `dsl/pages`; the others are made from the table in `schema.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files

from dsl.analysis_quantities import SECTION_QUANTITIES, SECTION_WORDS
from dsl.catalog import builtin_data, builtin_models
from dsl.fields import option_table
from dsl.schema import (
    ABLATIONS,
    ANALYSIS_UNITS,
    CLUSTERINGS,
    CORPUS_KINDS,
    EDGE_ATTRIBUTES,
    FLAVORS,
    FORMATS,
    IMPORT_FORMATS,
    METRICS,
    NODE_ATTRIBUTES,
    PREDICATES,
    QUANTITIES,
    QUERIES,
    REGION,
    REPORT_FORMATS,
    SECTIONS,
    Field,
    Kind,
    data_fields,
    method_fields,
)
from dsl.suggest import suggest
from graphir.errors import UnknownNameError
from passes.analysis_options import ANALYSES, DISTANCES
from passes.options import METHODS
from passes.tuning_options import TUNERS

TASK_STATEMENTS = """\
data builtin "NAME" { … }                   examples from a generator
data jsonl "FILE"                           a file of JSON lines: clean, counterfactual, answer, distractor, template
split 50 / 25 / 25 by template              training, validation and test; or `by example`
predict answer vs distractor at last        what is predicted and what it is compared with
ablate interchange                          what replaces an ablated value: see `circ explain ablations`
metric logit_diff                           how success is measured: see `circ explain metrics`
subtask NAME where CONDITION { … }          some of the examples, or other statements; called TASK.NAME elsewhere"""
WIDTH = 28


def codes() -> tuple[str, ...]:
    """All codes that have a page, in order."""
    names = (page.name for page in files("dsl").joinpath("pages").iterdir())
    return tuple(sorted(name.removesuffix(".md") for name in names if name.endswith(".md")))


def topics() -> tuple[str, ...]:
    """All topics besides codes, in order."""
    lists = ("ablations", "formats", "metrics", "models", "quantities", "units")
    others = (*DISTANCES, *CLUSTERINGS, *TUNERS)
    return tuple(sorted({*SECTIONS, *METHODS, *others, *lists, *(f"data {name}" for name in builtin_data())}))


def explain(topic: str) -> str:
    """The page of a code (`C204`) or topic (`task`, `edge_pruning`, `metrics`). `UnknownNameError` otherwise."""
    word = " ".join(topic.split())
    code = word.upper()
    if code in codes():
        return files("dsl").joinpath("pages", f"{code}.md").read_text(encoding="utf-8")
    word = word.lower().replace("-", "_")
    for found in (word, word.removesuffix("s"), f"{word}s"):
        page = _topic(found)
        if page:
            return page
    word = code if code[:1] == "C" and code[1:].isdigit() else word
    guess = suggest(word, [*topics(), *codes()], "topics").word
    raise UnknownNameError("topic", topic, [guess] if guess else [])


def title(code: str) -> str:
    """The title of a code's page."""
    return explain(code).partition("\n")[0].removeprefix("# ")


def documentation(topic: str) -> str:
    """Where the repository's documentation has more on a code or topic: `docs/methods/eap.md`. `UnknownNameError` for
    a topic that there is not."""
    page = explain(topic)
    word = page.partition("\n")[0].removeprefix("# ").partition(":")[0].removeprefix("data ")
    if word in codes():
        return "docs/errors/README.md"
    if word in METHODS or word in TUNERS:
        return f"docs/methods/{word}.md"
    if word in {*DISTANCES, *CLUSTERINGS}:
        return "docs/methods/analyses.md"
    return f"docs/methods/{word}.md" if word in ("ablations", "evidence") else "docs/language.md"


def _topic(word: str) -> str | None:
    if word in SECTIONS:
        return _section(word)
    if word in METHODS:
        doc = " ".join((METHODS[word].__doc__ or "").split())
        return _page(word, doc, f"… with {word} {{ … }}", _fields(method_fields(word).values()))
    family = {**DISTANCES, **TUNERS, **{name: ANALYSES[key] for name, key in CLUSTERINGS.items() if key in ANALYSES}}
    if word in family:
        doc = " ".join((family[word].__doc__ or "").split())
        return _page(word, doc, f"… with {word} {{ … }}", _fields(option_table(family[word]).values()))
    name = word.removeprefix("data ")
    if name in builtin_data():
        return _page(
            f"data {name}", builtin_data()[name], f'data builtin "{name}" {{ … }}', _fields(data_fields(name).values())
        )
    lists: Mapping[str, Mapping[str, str]] = {
        "metrics": {name: info.doc for name, info in METRICS.items()},
        "ablations": ABLATIONS,
        "formats": FORMATS,
        "models": builtin_models(),
        "quantities": {name + q.form: f"{q.doc} ({', '.join(sorted(q.uses))})" for name, q in QUANTITIES.items()},
        "units": {
            "3.4%": "hundredths; shares may also be written 0.034",
            "10k": "thousands",
            "2M": "millions",
            "0..3": "0, 1, 2 and 3",
            "0, 2, 5": "a list, also `[0, 2, 5]`",
        },
    }
    return _page(word, "", "", _rows(lists[word])) if word in lists else None


def _section(word: str) -> str:
    section = SECTIONS[word]
    extra = {
        "task": TASK_STATEMENTS,
        "graph": _rows({"layers 0..3": f"{REGION.doc}: {REGION.expected}"}),
        "circuit": "methods: "
        + ", ".join(METHODS)
        + "\nminimize and `subject to` name quantities: see `circ explain quantities`",
        "check": _rows({name + q.form: q.doc for name, q in QUANTITIES.items() if "check" in q.uses}),
        "query": "\n\n".join(
            [
                "kinds\n" + _rows({name: kind.doc for name, kind in QUERIES.items()}),
                "conditions on nodes\n" + _rows({name: doc for name, (_, doc) in NODE_ATTRIBUTES.items()}),
                "conditions on edges\n" + _rows({name: doc for name, (_, doc) in EDGE_ATTRIBUTES.items()}),
                "conditions on both\n" + _rows({f"{name}(PATTERN)": doc for name, (_, doc) in PREDICATES.items()}),
            ]
        ),
        "sheaf": "methods with weight masks: "
        + ", ".join(name for name, options in METHODS.items() if "weights" in options.masks),
        "analyze": "units\n" + _rows(ANALYSIS_UNITS) + "\n\ndistances: " + ", ".join(DISTANCES),
        "cluster": "units\n" + _rows(ANALYSIS_UNITS) + "\n\nmethods: " + ", ".join(CLUSTERINGS),
        "corpus": _rows(CORPUS_KINDS),
        "vector": "tuning methods: " + ", ".join(TUNERS),
        "import": _rows({name: "from " + ", ".join(s) for name, s in IMPORT_FORMATS.items()}),
        "report": _rows(REPORT_FORMATS),
        "export": "formats\n"
        + _rows(FORMATS)
        + "\n\nflavors\n"
        + _rows({name: "for " + ", ".join(s) for name, s in FLAVORS.items()}),
    }
    kind = next((kind for kind, name in SECTION_WORDS.items() if name == word), word)
    asked = {name + q.form: q.doc for name, q in SECTION_QUANTITIES.get(kind, {}).items()}
    checks = f"`check NAME {{ … }}` may name\n{_rows(asked)}" if asked else ""
    return _page(word, section.doc, section.form, _fields(section.fields), extra.get(word, ""), checks)


def _page(heading: str, doc: str, form: str, *parts: str) -> str:
    blocks = [f"# {heading}", doc, f"    {form}" if form else "", *parts]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _fields(fields: Iterable[Field]) -> str:
    return "\n".join(_field(each) for each in fields)


def _field(field: Field) -> str:
    default = f" (default {field.shown_default})" if field.shown_default else ""
    wanted = "" if field.kind is Kind.FLAG else f"\n{' ' * WIDTH}  {field.expected}"
    return f"{field.name:<{WIDTH}}  {field.doc}{default}{wanted}"


def _rows(rows: Mapping[str, str]) -> str:
    return "\n".join(f"{name:<{WIDTH}}  {doc}" for name, doc in rows.items())
