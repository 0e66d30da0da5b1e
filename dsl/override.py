"""`--set name.field=value`: changes of a file's values from the command line, read by the same grammar."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from dsl import tree
from dsl.parse import parse_value
from dsl.suggest import suggest
from graphir.diagnostics import Diagnostic, Label, Source

COMMAND_LINE = "(command line)"
FORM = "written `--set name.field=value`, for example `--set names.steps=200`; of a constant `--set target=5%`"


def apply_overrides(file: tree.File, overrides: Iterable[str]) -> tuple[tree.File, tuple[Diagnostic, ...]]:
    """The tree with some values replaced, and what is wrong with the overrides. Values and field names are checked
    later, with the rest of the file; their spans lie in a source called `(command line)`."""
    mistakes: list[Diagnostic] = []
    for text in overrides:
        file = _apply(file, Source(COMMAND_LINE, text), mistakes)
    return file, tuple(mistakes)


def _apply(file: tree.File, source: Source, mistakes: list[Diagnostic]) -> tree.File:
    match = re.match(r"([A-Za-z_]\w*)\.([A-Za-z_]\w*)\s*=\s*", source.text)
    if match is None:
        constant = _set_constant(file, source, mistakes)
        if constant is not None:
            return constant
        whole = source.span(0, len(source.text))
        mistakes.append(
            Diagnostic("C701", f"`{source.text}` is not an override", (Label(whole),), (f"an override is {FORM}",))
        )
        return file
    owner, field = match[1], match[2]
    names = [each.name.text for each in file.sections if isinstance(each, SETTABLE)]
    if owner not in names:
        guess = suggest(owner, names, "names of the file")
        label = Label(source.span(0, match.end(1)), "not declared in the file")
        mistakes.append(Diagnostic("C701", f"nothing is called `{owner}`", (label,), (guess.listing,), guess.help))
        return file
    value, wrong = parse_value(source, match.end())
    mistakes += wrong
    if value is None:
        return file
    name = tree.Name(source.span(match.start(2), match.end(2)), field)
    entry = tree.Entry(name.span.to(value.span), name, value)

    def change(section: tree.Section) -> tree.Section:
        if not isinstance(section, SETTABLE) or section.name.text != owner:
            return section
        return _set(section, entry, mistakes)

    return replace(file, sections=tuple(map(change, file.sections)))


def _set_constant(file: tree.File, source: Source, mistakes: list[Diagnostic]) -> tree.File | None:
    """`target=5%`: another value for a constant; None when no constant is called so."""
    match = re.match(r"([A-Za-z_]\w*)\s*=\s*", source.text)
    lets = [each for each in file.sections if isinstance(each, tree.Let) and match and each.name.text == match[1]]
    if match is None or not lets:
        return None
    value, wrong = parse_value(source, match.end())
    mistakes += wrong
    if value is None:
        return file
    items = tuple(each for each in value.items if not isinstance(each, tree.Pattern))
    changed = replace(lets[0], values=items)
    return replace(file, sections=tuple(changed if each is lets[0] else each for each in file.sections))


SETTABLE = (
    tree.Model, tree.GraphSection, tree.Task, tree.Circuit, tree.Sweep, tree.Corpus, tree.Analyze, tree.Cluster,
    tree.Blocks, tree.Lesion, tree.Drift, tree.Vector,
)  # fmt: skip


def _set(section: Any, entry: tree.Entry, mistakes: list[Diagnostic]) -> tree.Section:
    """The section with one value replaced."""
    special = SPECIAL.get((type(section), entry.name.text))
    if special is not None:
        changed: tree.Section | None = special(section, entry)
        if changed is None:
            message = f"`{entry.name.text}` cannot be set to `{entry.value.span.text}`"
            mistakes.append(Diagnostic("C701", message, (Label(entry.value.span),)))
        return changed or section
    if isinstance(section, tree.Task):
        statements = tuple(
            replace(each, block=_with(each.block, entry)) if isinstance(each, tree.Data) else each
            for each in section.statements
        )
        return replace(section, statements=statements)
    if isinstance(section, tree.Sweep):
        base = section.base
        if not isinstance(base, tree.Circuit):
            return section
        made = _set(base, entry, mistakes)
        return replace(section, base=made) if isinstance(made, tree.Circuit) else section
    if isinstance(section, tree.Circuit | tree.Analyze | tree.Cluster | tree.Vector):
        return replace(section, method=replace(section.method, block=_with(section.method.block, entry)))
    changed_section: tree.Section = replace(section, block=_with(section.block, entry))
    return changed_section


def _with(block: tree.Block | None, entry: tree.Entry) -> tree.Block:
    kept = [
        e
        for e in (block.entries if block else ())
        if not (isinstance(e, tree.Entry) and e.name.text == entry.name.text)
    ]
    return tree.Block(block.span if block else entry.span, (*kept, entry))


def _word(entry: tree.Entry) -> tree.Name | None:
    item = entry.value.items[0] if entry.value.items else None
    return item if isinstance(item, tree.Name) else None


def _statement(section: tree.Task, new: tree.Statement) -> tree.Task:
    kept = (each for each in section.statements if not isinstance(each, type(new)))
    return replace(section, statements=(*kept, new))


def _set_metric(section: tree.Task, entry: tree.Entry) -> tree.Task | None:
    word = _word(entry)
    return _statement(section, tree.Metric(entry.span, word)) if word and len(entry.value.items) == 1 else None


def _set_ablation(section: tree.Task, entry: tree.Entry) -> tree.Task | None:
    words: Sequence[tree.Item] = entry.value.items
    if not all(isinstance(each, tree.Name) for each in words) or len(words) not in (1, 3):
        return None
    if len(words) == 3 and getattr(words[1], "text", "") != "by":
        return None
    return _statement(section, tree.Ablate(entry.span, words[0], words[2] if len(words) == 3 else None))  # type: ignore[arg-type]


def _set_reference(section: tree.Model, entry: tree.Entry) -> tree.Model | None:
    item = entry.value.items[0] if len(entry.value.items) == 1 else None
    return replace(section, reference=item) if isinstance(item, tree.Text) else None


def _set_top(section: tree.Circuit, entry: tree.Entry) -> tree.Circuit | None:
    item = entry.value.items[0] if len(entry.value.items) == 1 else None
    if not isinstance(item, tree.Number):
        return None
    kept = (each for each in section.clauses if not isinstance(each, tree.Top))
    return replace(section, clauses=(*kept, tree.Top(entry.span, item, None)))


SPECIAL: dict[tuple[type[Any], str], Callable[[Any, tree.Entry], Any]] = {
    (tree.Task, "metric"): _set_metric,
    (tree.Task, "ablate"): _set_ablation,
    (tree.Model, "reference"): _set_reference,
    (tree.Circuit, "top"): _set_top,
}
"""What stands in no block."""
