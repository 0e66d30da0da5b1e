"""Exports and reports: formats that exist and fit, and paths that stay below the output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from dsl import tree
from dsl.checking.context import KIND_NAMES, Context
from dsl.checking.paths import check_once, check_written
from dsl.checking.references import find_circuits, is_sweep
from dsl.checking.sweeps import check_placeholders, fill
from dsl.schema import ANALYSIS_FLAVORS, FLAVORS, FORMATS, REPORT_FORMATS, SUBJECT_FORMATS
from dsl.spec import CircuitSpec, ExportSpec, ReportSpec, Target
from dsl.suggest import closest_word

ANALYSES = (tree.Analyze, tree.Blocks, tree.Cluster, tree.Lesion, tree.Drift)
VECTORS = (tree.Vector, tree.VectorSum, tree.VectorImport)
OTHERS = (tree.GraphSection, tree.Query, *ANALYSES, *VECTORS)
OTHER_SUFFIXES = {
    ".pt": ".safetensors",
    ".graphviz": ".dot",
    ".jpg": ".png",
    ".jpeg": ".png",
    ".txt": ".csv",
    ".htm": ".html",
    ".markdown": ".md",
}


def check_export(context: Context, section: tree.Export, written: dict[str, tree.Text]) -> list[ExportSpec] | None:
    """Files to write, an export for each subject; `written` collects the paths of all exports, since two must not
    write the same file."""
    subjects = _subjects(context, section.subject)
    kind = subjects[0] if subjects else ""
    flavors: Mapping[str, tuple[str, ...]] = ANALYSIS_FLAVORS if kind in ANALYSIS_KINDS else FLAVORS
    if kind == "vector":
        flavors = {}
    flavor = _flavor(context, section, flavors)
    formats = SUBJECT_FORMATS.get(kind) or tuple(FORMATS)
    checked = [_format(context, target, kind, formats, flavor, flavors) for target in section.targets]
    if subjects is None or flavor is None or None in checked:
        return None
    found = []
    for name, values in subjects[1]:
        targets = [
            _target(context, target, str(form), values, written)
            for target, form in zip(section.targets, checked, strict=True)
        ]
        if None in targets:
            return None
        found.append(ExportSpec(section.span, name, kind, tuple(target for target in targets if target)))
    if flavor and not any(_suffix(target.value) in flavors[flavor] for target in section.targets):
        assert section.flavor is not None
        fits = " or ".join(f"`{suffix}`" for suffix in flavors[flavor])
        context.error("C405", f"`as {flavor}` fits none of these files", section.flavor.span, f"it goes with {fits}")
        return None
    return found


ANALYSIS_KINDS = tuple(KIND_NAMES[each] for each in ANALYSES)


def _subjects(context: Context, name: tree.Name) -> tuple[str, list[tuple[str, Mapping[str, str] | None]]] | None:
    """The kind of what is exported, and its names; for members of a sweep what `{axis}` stands for."""
    section = context.declared.get(name.text)
    if isinstance(section, OTHERS) and not isinstance(name, tree.Selected):
        context.resolve(name, *OTHERS)
        return KIND_NAMES[type(section)], [(name.text, None)]
    circuits = find_circuits(context, name, *OTHERS)
    if circuits is None:
        # With mistakes of its own it is still a circuit whose formats can be checked.
        return ("circuit", []) if section is not None and KIND_NAMES.get(type(section)) == "circuit" else None
    many = is_sweep(context, name)
    return "circuit", [(each.name, _values(each) if many else None) for each in circuits]


def _values(circuit: Any) -> dict[str, str]:
    at = dict(circuit.at) if isinstance(circuit, CircuitSpec) else {}
    return {**at, "name": circuit.name, "index": circuit.name.rpartition(".")[2]}


def _flavor(context: Context, section: tree.Export, flavors: Mapping[str, tuple[str, ...]]) -> str | None:
    """The flavor, empty when there is none, None when it is unknown."""
    if section.flavor is None:
        return ""
    return context.word("C210", "flavor", section.flavor, flavors, "flavors")


def _suffix(path: str) -> str:
    return "/" if path.endswith("/") else PurePosixPath(path).suffix.lower()


def _format(
    context: Context,
    target: tree.Text,
    kind: str,
    formats: Sequence[str],
    flavor: str | None,
    flavors: Mapping[str, tuple[str, ...]],
) -> str | None:
    """The format of a path; None (and a report) when there is none or the path may not be written."""
    if target.is_missing or not check_written(context, target):
        return None
    suffix = _suffix(target.value)
    if suffix not in formats and suffix not in FORMATS:
        _unknown_format(context, target, suffix, formats)
        return None
    if suffix not in formats:
        known = ", ".join(formats)
        article = "an" if kind[0] in "aeiou" else "a"
        notes = [f"{article} {kind} can be: {known}"]
        context.error("C210", f"{article} {kind} cannot be written as `{suffix}`", target.span, notes=notes)
        return None
    if kind == "vector":
        return kind
    if kind in ANALYSIS_KINDS:
        return flavor if flavor and suffix in flavors[flavor] else suffix.lstrip(".")
    return format_of(suffix, flavor)


def _target(
    context: Context, target: tree.Text, form: str, values: Mapping[str, str] | None, written: dict[str, tree.Text]
) -> Target | None:
    path = target.value
    if values is not None:
        if not check_placeholders(context, target, list(values)):
            return None
        path = fill(path, {name: value.replace("/", "-") for name, value in values.items()})
        if path in written and written[path] is target:
            axes = ", ".join(f"`{{{axis}}}`" for axis in values)
            message = "all members of the sweep would be written to one file"
            context.error("C606", message, target.span, help=f"put one of {axes} into the path")
            return None
    return Target(target.span, path, form) if check_once(context, target, path, written) else None


def format_of(suffix: str, flavor: str | None) -> str:
    """The exporter for a suffix (`/` for a folder): the flavor where it fits, else the suffix's own."""
    if flavor and suffix in FLAVORS[flavor] and suffix != "/":
        return flavor
    return {"/": "circuit", ".gv": "dot", ".json": "node_link"}.get(suffix, suffix.lstrip("."))


def _unknown_format(context: Context, target: tree.Text, suffix: str, formats: Sequence[str]) -> None:
    known = ", ".join(formats)
    guess = closest_word(suffix, [each for each in formats if each != "/"], cutoff=0.6) if suffix else None
    other = OTHER_SUFFIXES.get(suffix)
    guess = other if other in formats else guess
    message = f"unknown format `{suffix}`" if suffix else f"`{target.value}` has no suffix"
    fix = f'"{target.value[: -len(suffix)]}{guess}"' if guess and '"' not in target.value else None
    context.error(
        "C210",
        message,
        target.span,
        "the suffix says the format",
        notes=[f"formats: {known}"],
        help=f"did you mean `{guess}`?" if guess else "",
        fix=fix,
    )


def check_report(context: Context, section: tree.Report, written: dict[str, tree.Text]) -> ReportSpec | None:
    """Reports to write, and the circuits they are about."""
    found = [find_circuits(context, name) for name in section.subjects]
    targets = []
    for target in section.targets:
        form = _report_format(context, target)
        good = form is not None and check_once(context, target, target.value, written)
        targets.append(Target(target.span, target.value, form) if form and good else None)
    if None in found or None in targets:
        return None
    circuits = tuple(circuit for each in found for circuit in each or ())
    return ReportSpec(section.span, circuits, tuple(target for target in targets if target))


def _report_format(context: Context, target: tree.Text) -> str | None:
    if target.is_missing or not check_written(context, target):
        return None
    suffix = _suffix(target.value)
    if suffix in REPORT_FORMATS:
        return suffix.lstrip(".")
    if suffix in FORMATS and suffix != "":
        notes = [f"a report can be: {', '.join(REPORT_FORMATS)}"]
        context.error("C210", f"a report cannot be written as `{suffix}`", target.span, notes=notes)
    else:
        _unknown_format(context, target, suffix, tuple(REPORT_FORMATS))
    return None
