"""What a report says of curves, checks, answers to queries and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dsl.report.content import Block, Cell, Name, Plot, Remark, Section, Series, Share, facts, table
from dsl.report.reading import items, mapping, mappings, metric, named, number, share, text
from graphir.display import all_hold, some_fail

Manifest = Mapping[str, Any]
METRICS = ("kl", "accuracy", "faithfulness")


def curves(manifest: Manifest, names: tuple[str, ...]) -> Section | None:
    """Rankings at several sizes: a plot and a table for each circuit they belong to."""
    found = [each for each in mappings(manifest.get("curves")) if text(each.get("of")) in names]
    sections = []
    for place, name in enumerate(dict.fromkeys(text(each.get("of")) for each in found), 1):
        blocks = tuple(_curve_blocks([each for each in found if text(each.get("of")) == name]))
        sections.append(Section(f"curve-{place}", f"Curve of {name}", blocks))
    return Section("curves", "Sparsity and faithfulness", (), tuple(sections)) if sections else None


def _curve_blocks(found: list[Mapping[str, Any]]) -> Iterator[Block]:
    rows: list[tuple[Cell, ...]] = []
    series = []
    for curve in found:
        points = mappings(curve.get("points"))
        title = text(curve.get("name"))
        heights = [number(mapping(each.get("metrics")).get("faithfulness")) for each in points]
        pairs = zip((number(each.get("density")) for each in points), heights, strict=True)
        drawn = sorted((x, y) for x, y in pairs if x is not None and y is not None)
        series.append(Series(title, tuple(drawn)))
        for each in points:
            measured = (metric(name, mapping(each.get("metrics")).get(name)) for name in METRICS)
            rows.append((share(each.get("density")), number(each.get("edges")), Name(title), *measured))
    rows.sort(key=lambda row: -float(row[0] or 0))
    for name in ("full", "empty"):
        ends = mapping(found[0].get(name))
        title = "model" if name == "full" else "empty circuit"
        row = (Share(name == "full"), None, title, *(metric(each, ends.get(each)) for each in METRICS))
        rows.insert(0 if name == "full" else len(rows), row)
    if any(each.points for each in series):
        levels = (("model", 1.0), ("empty circuit", 0.0))
        title = f"Faithfulness of {text(found[0].get('of'))} over its density"
        yield Plot(title, "share of edges", "faithfulness", tuple(series), levels)
    yield table(("density", "edges on a path", "ranking", *METRICS), rows, limit=200)


def asked_of(manifest: Manifest, names: tuple[str, ...]) -> list[Mapping[str, Any]]:
    """The conditions of checks of these circuits, and of the analyzer's sections."""
    every = mappings(manifest.get("checks"))
    return [each for each in every if text(each.get("circuit")) in names or "subject" in each]


def checks(manifest: Manifest, names: tuple[str, ...]) -> Section | None:
    """Every condition, whether it holds, and the values of what it names."""
    found = asked_of(manifest, names)
    if not found:
        return None
    rows: list[tuple[Cell, ...]] = []
    for each in found:
        values = ", ".join(f"{name} = {_value(value)}" for name, value in mapping(each.get("values")).items())
        word = "pass" if each.get("passed") is True else "FAIL"
        subject = Name(text(each.get("circuit")) or text(each.get("subject")))
        rows.append((word, subject, Name(text(each.get("condition"))), values))
    failed = sum(row[0] == "FAIL" for row in rows)
    said = f"{(some_fail(failed, len(rows)) if failed else all_hold(len(rows))).capitalize()}."
    blocks = (Remark(said, "bad" if failed else "good"), table(("", "of", "condition", "values"), rows, limit=200))
    return Section("checks", "Checks", blocks)


def _value(value: Any) -> str:
    found = number(value)
    return "-" if found is None else f"{found:.4g}"


def queries(manifest: Manifest) -> Section | None:
    """Answers: rows under their columns."""
    sections = []
    for place, (name, answer) in enumerate(named(manifest.get("queries")).items(), 1):
        rows = mappings(answer.get("rows"))
        columns = list(dict.fromkeys(key for row in rows for key in row if any(r.get(key) is not None for r in rows)))
        cells = [[_answer(row.get(column)) for column in columns] for row in rows]
        count = number(answer.get("count")) or len(rows)
        blocks: list[Block] = [facts({"rows": count})]
        blocks += [table([str(column) for column in columns], cells)] if rows else []
        sections.append(Section(f"query-{place}", f"Query {name}", tuple(blocks)))
    return Section("queries", "Queries", (), tuple(sections)) if sections else None


def _answer(value: Any) -> Cell:
    if isinstance(value, str):
        return Name(value)
    if isinstance(value, list | tuple):
        return Name(" -> ".join(text(each) for each in value))
    return value if isinstance(value, bool) else number(value)


def files(manifest: Manifest) -> Section | None:
    """What was written."""
    rows = [(Name(text(each)),) for each in items(manifest.get("exports"))]
    return Section("files", "Files", (table(("written",), rows),)) if rows else None
