"""The verbs of `circ`, one function each: arguments in, exit code out. What is heavy is imported where it is needed."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from graphir.diagnostics import Diagnostic, Edit, Source, apply_edits, in_order, render_all, wants_color
from graphir.errors import GraphirError, UnknownNameError

OK, FINDING, USAGE = 0, 1, 2


class UsageError(GraphirError):
    """The command line asks for something that does not make sense."""

    exit_code = USAGE


@contextlib.contextmanager
def _asked_for() -> Iterator[None]:
    """Within: a name on the command line that does not exist is wrong usage."""
    try:
        yield
    except UnknownNameError as error:
        raise UsageError(error.message, error.hints) from None


def say(text: str) -> None:
    """Commentary, on the standard error."""
    print(text, file=sys.stderr)


def answer(arguments: argparse.Namespace, data: Any, text: str) -> None:
    """An answer, on the standard output: JSON with `--json`, text otherwise."""
    print(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) if arguments.json else text)


def show_diagnostics(arguments: argparse.Namespace, found: Sequence[Diagnostic], *, on_stdout: bool = False) -> None:
    """Diagnostics as text, in color on a terminal."""
    stream = sys.stdout if on_stdout else sys.stderr
    if found:
        print(render_all(found, color=wants_color(stream, arguments.color)), file=stream)


# Verbs that need no model


def check(arguments: argparse.Namespace) -> int:
    """`circ check`: report all mistakes of the files; with `--fix` mend those that are safe to mend."""
    gc.disable()  # a short process that makes little garbage: a tenth of its time
    from dsl.checking.context import Options
    from dsl.reading import read_spec

    options = Options(arguments.allow_code, arguments.allow_outside, deep=arguments.deep)
    form = "json" if arguments.json else arguments.format
    worst, reads = OK, []
    for path in arguments.files:
        read = read_spec(path, arguments.set, options)
        if arguments.fix and _fix(path, read.source, read.diagnostics):
            read = read_spec(path, arguments.set, options)
        reads.append(read)
        if form == "text":
            show_diagnostics(arguments, read.diagnostics, on_stdout=True)
            if not read.diagnostics and not arguments.quiet:
                print(f"{read.source.name}: no mistakes")
        worst = max(worst, _code_of(read.diagnostics))
    if form != "text":
        _show_findings(form, reads, with_spec=arguments.spec, ok=worst == OK)
    return worst


def _show_findings(form: str, reads: Sequence[Any], *, with_spec: bool, ok: bool) -> None:
    """The findings of all files in a format for programs."""
    from dsl.showing import as_json, concise, sarif

    if form == "concise":
        lines = [concise(read.diagnostics, read.source.name) for read in reads if read.diagnostics]
        print("\n".join(lines), end="\n" if lines else "")
        return
    if form == "sarif":
        print(as_json(sarif([(read.source.name, read.diagnostics) for read in reads])))
        return
    reports: list[dict[str, Any]] = [
        {"file": read.source.name, "ok": read.ok, "diagnostics": [each.to_json() for each in read.diagnostics]}
        for read in reads
    ]
    for read, report in zip(reads, reports, strict=True):
        if with_spec and read.spec:
            report["spec"] = read.spec.to_json()
    print(as_json({"files": reports, "ok": ok}))


def _code_of(found: Sequence[Diagnostic]) -> int:
    """The exit code for diagnostics: a file that cannot be read is a matter of usage."""
    errors = [each for each in found if each.is_error]
    return USAGE if any(each.code == "C006" for each in errors) else FINDING if errors else OK


def _fix(path: str, source: Any, found: Sequence[Diagnostic]) -> bool:
    """Apply the edits that do not overlap; whether there were any."""
    edits = [each.fix for each in found if isinstance(each.fix, Edit) and each.fix.span.source is source]
    if not edits or path == "-":
        return False
    Path(path).write_text(apply_edits(source, edits), encoding="utf-8")
    say(f"{path}: {len(edits)} fixed")
    return True


def fmt(arguments: argparse.Namespace) -> int:
    """`circ fmt`: write files in canonical layout; `--check` and `--diff` only look."""
    from dsl.format import format_text
    from dsl.reading import read_source
    from dsl.spec import SpecError

    worst, changed = OK, []
    for path in arguments.files:
        source, mistakes = read_source(path)
        try:
            if mistakes:
                raise SpecError(mistakes)
            text = format_text(_migrated(source) if arguments.migrate else source)
        except SpecError as error:
            show_diagnostics(arguments, error.diagnostics)
            worst = max(worst, _code_of(error.diagnostics))
            continue
        if text != source.text:
            changed.append(source.name)
        if arguments.diff and not arguments.json:
            print(_difference(source.name, source.text, text), end="")
        elif path == "-" and not arguments.check:
            sys.stdout.write(text)
        elif text != source.text and not arguments.check and not arguments.diff:
            Path(path).write_text(text, encoding="utf-8")
    if arguments.json:
        answer(arguments, {"changed": changed}, "")
    elif arguments.check or arguments.diff:
        for name in changed:
            say(f"{name}: would be laid out anew")
    return max(worst, FINDING) if changed and (arguments.check or arguments.diff) else worst


def _migrated(source: Source) -> Source:
    """The text in the present version of the language; one that is already is left alone."""
    from dsl.migrate import migrate

    moved = migrate(source.text)
    if moved.steps:
        say(f"{source.name}: brought up from version {moved.steps[0]}")
    return Source(source.name, moved.text)


def _difference(name: str, before: str, after: str) -> str:
    import difflib

    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), name, f"{name} (formatted)")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def new(arguments: argparse.Namespace) -> int:
    """`circ new`: a commented specification to start from."""
    from dsl.templates import read_template, template_names

    if arguments.template is None:
        answer(arguments, {"templates": list(template_names())}, "\n".join(template_names()))
        return OK
    with _asked_for():
        text = read_template(arguments.template)
    if arguments.file is None:
        answer(arguments, {"template": arguments.template, "text": text}, text.removesuffix("\n"))
        return OK
    path = Path(arguments.file)
    if path.exists() and not arguments.force:
        raise UsageError(f"`{path}` exists", ["pass `--force` to overwrite it"])
    path.write_text(text, encoding="utf-8")
    say(f"wrote {path}; next: circ check {path}")
    if arguments.json:
        answer(arguments, {"template": arguments.template, "file": str(path)}, "")
    return OK


def env(arguments: argparse.Namespace) -> int:
    """`circ env`: versions, tools, machine."""
    from dsl.environment import describe_environment, format_environment

    found = describe_environment()
    answer(arguments, found, format_environment(found))
    return OK


def cache(arguments: argparse.Namespace) -> int:
    """`circ cache`: the size of the cache of stages by kind; with a limit, less of it."""
    from dsl.running.cache import Cache
    from dsl.running.cache_limit import describe_cache, format_cache, read_limit, shrink
    from dsl.running.folder import cache_folder

    store, limit = Cache(arguments.cache or cache_folder()), read_limit(arguments.limit)
    removed = shrink(store, limit) if arguments.limit is not None else []
    found = describe_cache(store, limit, removed)
    answer(arguments, found, format_cache(found))
    return OK


def explain(arguments: argparse.Namespace) -> int:
    """`circ explain`: the page of a code or topic; without one the list of all."""
    from dsl import explain as pages

    if not arguments.topic:
        codes = {code: pages.title(code).partition(": ")[2] for code in pages.codes()}
        rows = "\n".join(f"{code}  {title}" for code, title in codes.items())
        answer(
            arguments,
            {"codes": codes, "topics": list(pages.topics())},
            f"{rows}\n\ntopics: {', '.join(pages.topics())}",
        )
        return OK
    topic = " ".join(arguments.topic)
    with _asked_for():
        page, place = pages.explain(topic), pages.documentation(topic)
    answer(arguments, {"topic": topic, "page": page, "documentation": place}, f"{page.rstrip()}\n\nmore: {place}")
    return OK


# Verbs that hand over to `dsl.execute`, which imports torch


def run(arguments: argparse.Namespace) -> int:
    """`circ run`: carry a file out; 1 when one of its checks fails."""
    from dsl.options import RunOptions

    spec = _load(arguments)
    options = RunOptions(
        arguments.out,
        arguments.events,
        arguments.quiet or arguments.json,
        arguments.threads,
        arguments.cache,
        not arguments.no_cache,
        tuple(arguments.log),
        arguments.cache_limit,
    )
    result = _execute().run_spec(spec, options)
    # A run shows itself as it goes along.
    if arguments.json:
        answer(arguments, result.to_json(), "")
    return OK if result.passed else FINDING


def plan(arguments: argparse.Namespace) -> int:
    """`circ plan`: stages, passes, memory and time of a file, without loading weights."""
    from dsl.options import PlanOptions

    spec = _load(arguments)
    result = _execute().plan_spec(spec, PlanOptions(arguments.threads, arguments.cache, not arguments.no_cache))
    answer(arguments, result.to_json(), str(result))
    return OK


def show(arguments: argparse.Namespace) -> int:
    """`circ show`: a saved circuit, a run's folder, or the graph of a file."""
    from dsl.options import ShowOptions

    result = _execute().show(_existing(arguments.path), ShowOptions(arguments.node, arguments.top, arguments.names))
    answer(arguments, result.to_json(), str(result))
    return OK


def query(arguments: argparse.Namespace) -> int:
    """`circ query`: ask a saved circuit."""
    from dsl.asking import read_query

    asked = read_query(" ".join(arguments.query))
    result = _execute().query(_existing(arguments.path), asked)
    answer(arguments, result.to_json(), str(result))
    return OK


def export(arguments: argparse.Namespace) -> int:
    """`circ export`: write a saved circuit in other formats."""
    from dsl.checking.exports import format_of
    from dsl.options import ExportOptions
    from dsl.schema import FLAVORS, FORMATS

    if arguments.flavor and arguments.flavor not in FLAVORS:
        raise UsageError(f"unknown flavor `{arguments.flavor}`", [f"flavors: {', '.join(FLAVORS)}"])
    targets = []
    for text in arguments.targets:
        suffix = "/" if text.endswith("/") else Path(text).suffix.lower()
        if suffix not in FORMATS:
            raise UsageError(f"unknown format `{suffix or text}`", [f"formats: {', '.join(FORMATS)}"])
        targets.append((Path(text), format_of(suffix, arguments.flavor)))
    options = ExportOptions(tuple(targets), arguments.names, arguments.top)
    result = _execute().export(_existing(arguments.path), options)
    answer(arguments, result.to_json(), str(result))
    return OK


def diff(arguments: argparse.Namespace) -> int:
    """`circ diff`: what two circuits or runs share; 1 when they differ."""
    from dsl.options import DiffOptions

    first, second = _existing(arguments.first), _existing(arguments.second)
    result = _execute().diff(first, second, DiffOptions(arguments.top))
    answer(arguments, result.to_json(), str(result))
    return OK if result.same else FINDING


def report(arguments: argparse.Namespace) -> int:
    """`circ report`: a page, Markdown or JSON about a run that has ended."""
    from dsl.report import FORMATS, read_report, write_report

    targets = [Path(text) for text in arguments.to]
    for target in targets:
        if target.suffix.lower().lstrip(".") not in FORMATS:
            known = ", ".join(f".{form}" for form in FORMATS)
            raise UsageError(f"a report cannot be written as `{target.suffix or target}`", [f"formats: {known}"])
    found = read_report(_existing(arguments.path), arguments.circuit)
    if not targets:
        answer(arguments, found.to_json(), str(found).rstrip())
        return OK
    written = [str(write_report(found, target)) for target in targets]
    answer(arguments, {"written": written}, "\n".join(f"wrote {each}" for each in written))
    return OK


def _load(arguments: argparse.Namespace) -> Any:
    from dsl.reading import load

    spec = load(arguments.file, arguments.set, allow_code=arguments.allow_code, allow_outside=arguments.allow_outside)
    show_diagnostics(arguments, in_order(spec.warnings))
    return spec


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise UsageError(
            f"there is no `{text}`", ["a run's folder or a saved circuit's is wanted, for example `runs/ioi`"]
        )
    return path


def _execute() -> Any:
    """The module that needs torch, imported only now."""
    from importlib import import_module

    return import_module("dsl.execute")


def lsp(arguments: argparse.Namespace) -> int:
    """`circ lsp`: serve an editor until it says goodbye."""
    try:
        from dsl.lsp.server import start
    except ModuleNotFoundError as error:
        hints = ['pip install "graphir-circ[lsp]"']
        raise GraphirError(f"the language server needs `{error.name}`", hints) from None
    start()
    return OK
