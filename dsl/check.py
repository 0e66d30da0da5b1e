"""From a syntax tree to a checked specification: all mistakes at once, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsl import tree
from dsl.checking.analyses import (
    check_analysis,
    check_blocks,
    check_cluster,
    check_corpus,
    check_drift,
    check_lesion,
    check_shrink,
)
from dsl.checking.checks import check_check, check_evidence, check_measure
from dsl.checking.circuits import check_circuit
from dsl.checking.compositions import check_composition, check_import
from dsl.checking.context import Context, Options
from dsl.checking.exports import check_export, check_report
from dsl.checking.gates import check_gates
from dsl.checking.order import Made, is_circular, order_of
from dsl.checking.queries import check_query
from dsl.checking.sections import check_graph, check_model
from dsl.checking.sweeps import check_sweep
from dsl.checking.tasks import check_tasks
from dsl.checking.vectors import check_sum, check_tuned, check_vector_import
from dsl.constants import resolve_constants
from dsl.parse import VERSION
from dsl.spec import Spec
from graphir.diagnostics import Diagnostic, Edit, Severity, in_order

if TYPE_CHECKING:
    from dsl.model_facts import ModelFacts


@dataclass(frozen=True)
class Checked:
    """The outcome of a check: the specification, unless there were errors, and all diagnostics in order."""

    spec: Spec | None
    diagnostics: tuple[Diagnostic, ...]

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The diagnostics that stop a run."""
        return tuple(each for each in self.diagnostics if each.is_error)


def check(file: tree.File, facts: Mapping[str, ModelFacts] | None = None, options: Options | None = None) -> Checked:
    """Check a tree whose includes have been read (`dsl.including`). `facts` are what is known of its models by their
    names in the file: with them, components that the models do not have are reported. Never raises on bad input."""
    context = Context(file, options or Options(), facts or {})
    _check_version(context)
    context.declare()
    context.file = resolve_constants(context)
    context.declare_again()
    found: dict[str, list[object]] = {}
    written: dict[str, tree.Text] = {}
    # Kind by kind, so that sections may stand in any order in the file.
    for name, kinds, rule in _rules(written):
        for section in (each for each in context.file.sections if isinstance(each, kinds)):
            _keep(context, found, name, section, rule(context, section))
    return _outcome(context, found)


Rule = Callable[[Context, Any], Any]


def _rules(written: dict[str, tree.Text]) -> list[tuple[str, type[Any], Rule]]:
    """Where in the specification each kind of section goes, and what checks it, in the order in which sections can name
    each other. `written` collects the paths that are written."""
    return [
        ("models", tree.Model, check_model),
        ("graphs", tree.GraphSection, check_graph),
        ("tasks", tree.Task, check_tasks),
        ("corpora", tree.Corpus, check_corpus),
        ("circuits", tree.Circuit, _in_order(tree.Circuit, check_circuit)),
        ("sweeps", tree.Sweep, check_sweep),
        ("imports", tree.Import, check_import),
        ("compositions", tree.Composition, _in_order(tree.Composition, check_composition)),
        ("vectors", tree.Vector, check_tuned),
        ("vectors", tree.VectorImport, check_vector_import),
        ("vectors", tree.VectorSum, _in_order(tree.VectorSum, check_sum)),
        ("queries", tree.Query, check_query),
        ("analyses", tree.Analyze, check_analysis),
        ("blocks", tree.Blocks, check_blocks),
        ("clusters", tree.Cluster, check_cluster),
        ("lesions", tree.Lesion, check_lesion),
        ("drifts", tree.Drift, check_drift),
        ("evidence", tree.Evidence, check_evidence),
        ("checks", tree.Check, check_check),
        ("measures", tree.Measure, check_measure),
        ("exports", tree.Export, lambda context, section: check_export(context, section, written)),
        ("shrinks", tree.Shrink, lambda context, section: check_shrink(context, section, written)),
        ("analysis_checks", tree.Check, check_gates),
        ("reports", tree.Report, lambda context, section: check_report(context, section, written)),
    ]


def _in_order(kind: type[Made], check: Rule) -> Rule:
    """Sections of a kind that name each other are all checked when the first is met, those that others name first."""
    done: dict[int, Any] = {}

    def rule(context: Context, section: Made) -> Any:
        if not done:
            for each in order_of([each for each in context.file.sections if isinstance(each, kind)]):
                done[id(each)] = None if is_circular(context, each) else check(context, each)
                if done[id(each)] is not None and context.is_declared(each.name.text, each):
                    context.specs[each.name.text] = done[id(each)]
        return done[id(section)]

    return rule


def _keep(context: Context, found: dict[str, list[object]], name: str, section: Any, checked: Any) -> None:
    """Put what a rule gave where it belongs."""
    if checked is None:
        return
    if name == "sweeps":
        checked, members = checked
        found.setdefault("circuits", []).extend(members)
    several = checked if isinstance(checked, list) else [checked]
    found.setdefault(name, []).extend(several)
    name_of_section = _name(section)
    own = next((each for each in several if getattr(each, "name", None) == name_of_section), None)
    if name_of_section is not None and own is not None and context.is_declared(name_of_section, section):
        context.specs[name_of_section] = own


def _name(section: Any) -> str | None:
    name = getattr(section, "name", None)
    return name.text if isinstance(name, tree.Name) else None


def _outcome(context: Context, found: Mapping[str, list[object]]) -> Checked:
    diagnostics = tuple(in_order(context.diagnostics))
    warnings = tuple(each for each in diagnostics if each.severity is Severity.WARNING)
    if len(warnings) < len(diagnostics):
        return Checked(None, diagnostics)
    sections = {kind: tuple(each) for kind, each in found.items()}
    options = context.options
    spec = Spec(
        context.file.source,
        options.folder,
        warnings=warnings,
        allow_code=options.allow_code,
        allow_outside=options.allow_outside,
        **sections,  # type: ignore[arg-type]
    )
    return Checked(spec, diagnostics)


def _check_version(context: Context) -> None:
    file = context.file
    start = file.source.span(0, 0)
    if file.version is None:
        fix = Edit(start, f"circ {VERSION}\n\n")
        help = f"begin the file with `circ {VERSION}`"
        context.error("C004", "the version of the language is missing", start, "expected here", help=help, fix=fix)
    elif file.version.text != str(VERSION):
        number = file.version
        from dsl.migrate import can_migrate

        older = can_migrate(file.source)
        if older is not None:
            context.diagnostics.append(older)
            return
        message = f"version {number.text} of the language is not known here"
        context.error(
            "C005",
            message,
            number.span,
            f"this program reads version {VERSION}",
            help="install a newer version of the program",
        )
