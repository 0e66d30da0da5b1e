"""Checks of what the analyzer finds and of smaller modules: conditions over the quantities of their kind of section."""

from __future__ import annotations

from typing import Any

from dsl import tree
from dsl.analysis_quantities import SECTION_QUANTITIES, Gauge, Need
from dsl.checking.bounds import check_bounds
from dsl.checking.context import KIND_NAMES, Context, every
from dsl.checking.expressions import SUCH, check_condition
from dsl.spec import (
    AnalysisCheckSpec,
    AnyVector,
    BlocksSpec,
    ClusterSpec,
    Condition,
    CorpusSpec,
    LesionSpec,
    ShrinkSpec,
    VectorSumSpec,
)
from dsl.translate import quantity_of
from dsl.vector_sections import own_tasks

GATED = (
    tree.Analyze, tree.Blocks, tree.Cluster, tree.Lesion, tree.Drift, tree.Shrink, tree.Vector, tree.VectorSum,
    tree.VectorImport,
)  # fmt: skip
"""Kinds of section that such checks are of."""


def is_gated(context: Context, name: tree.Name) -> bool:
    """Whether a check's subject is a section of the analyzer, a smaller module or a vector, and no circuit."""
    return not isinstance(name, tree.Selected) and isinstance(context.declared.get(name.text), GATED)


def check_gates(context: Context, section: tree.Check) -> AnalysisCheckSpec | None:
    """Conditions that are comparisons of quantities that the subject has. None for checks of circuits."""
    if not is_gated(context, section.circuit):
        return None
    kind = KIND_NAMES[type(context.declared[section.circuit.text])]
    subject = context.spec(section.circuit, *GATED)
    if not section.conditions:
        help = f"for example `{SUCH[f'check {kind}']}`"
        context.error("C403", "this check has no conditions", section.span, help=help)
        return None
    read = [_condition(context, written, kind) for written in section.conditions]
    good = check_bounds(context, [bound for each in read for bound in (each[1] if each else ())], "condition")
    if subject is not None:
        found = [each[0] for each in read if each]
        good &= every(_is_measured(context, condition, kind, subject) for condition in found)
    if not good or None in read or subject is None:
        return None
    return AnalysisCheckSpec(section.span, subject, kind, tuple(each[0] for each in read if each))


def _condition(context: Context, written: tree.Expression, kind: str) -> tuple[Condition, list[Any]] | None:
    """A condition and its bounds; None when it has mistakes."""
    if isinstance(written, tree.Gate):
        message = f"`over {written.seeds.text} seeds` needs a circuit that is discovered"
        context.error("C507", message, written.seeds.span, _unlearned(kind))
        return None
    bounds = check_condition(context, written, f"check {kind}")
    return None if bounds is None else (Condition(written.span, written, " ".join(written.span.text.split())), bounds)


def _unlearned(kind: str) -> str:
    return "a vector has one seed, an option of its method" if kind == "vector" else f"nothing of {_a(kind)} is learned"


def _a(kind: str) -> str:
    return kind if kind == "blocks" else f"an {kind}" if kind == "analysis" else f"a {kind}"


def _is_measured(context: Context, condition: Condition, kind: str, subject: Any) -> bool:
    """Whether the section asks for what a condition names."""
    good = True
    calls = [node for node in tree.walk(condition.expression) if isinstance(node, tree.Call)]
    inside = {id(part) for call in calls for part in (call.function, *call.arguments)}
    for node in tree.walk(condition.expression):
        if isinstance(node, tree.Name | tree.Call) and id(node) not in inside:
            name, arguments = quantity_of(node, SECTION_QUANTITIES[kind])
            good &= _has(context, node, SECTION_QUANTITIES[kind][name], name, arguments, kind, subject)
    return good


def _has(
    context: Context, node: tree.Name | tree.Call, about: Gauge, name: str, arguments: tuple[str, ...], kind: str,
    subject: Any,
) -> bool:  # fmt: skip
    if isinstance(subject, ShrinkSpec):
        return True
    if isinstance(subject, AnyVector):
        return _of_vector(context, node, about, name, arguments, subject)
    word = f"{name}({', '.join(arguments)})" if arguments and isinstance(node, tree.Call) else name
    others = [(context.declared[subject.name].name.span, f"`{subject.name}` is declared here")]
    if isinstance(subject, ClusterSpec) and about.methods and subject.method.name not in about.methods:
        method = subject.method.name
        names = [each for each, q in SECTION_QUANTITIES[kind].items() if not q.methods or method in q.methods]
        label, notes = f"`{method}` does not give it", [f"with `{method}`: {', '.join(names)}"]
        context.error("C405", f"`{subject.name}` has no `{word}`", node.span, label, others=others, notes=notes)
        return False
    if isinstance(subject, LesionSpec) and (why := _no_answers(subject, name, arguments)):
        context.error("C405", f"`{subject.name}` has no `{word}`", node.span, why, others=others)
        return False
    options = subject.method.options if isinstance(subject, ClusterSpec) else getattr(subject, "options", None)
    for need in about.needs:
        if (not need.argument or need.argument in arguments) and not _asks(options, need):
            label, help = f"needs `{need.option}`", f"add `{need.advice}` to `{subject.name}`"
            context.error("C405", f"`{word}` is not measured", node.span, label, others=others, help=help)
            return False
    return True


def _of_vector(
    context: Context, node: tree.Name | tree.Call, about: Gauge, name: str, arguments: tuple[str, ...],
    subject: AnyVector,
) -> bool:  # fmt: skip
    """Whether a vector has parts to compare, or one task where none is named."""
    parts = len(subject.operands) if isinstance(subject, VectorSumSpec) else 0
    others = [(context.declared[subject.name].name.span, f"`{subject.name}` is declared here")]
    if name in ("shared", "iou", "iomin") and parts < 2:
        label = "it is made of no two vectors"
        context.error("C405", f"`{subject.name}` has no `{name}`", node.span, label, others=others)
        return False
    if not about.tasks or arguments:
        return True
    tasks = [task.name for task in own_tasks(subject)]
    if len(tasks) == 1:
        return True
    label = f"`{subject.name}` is for {' and '.join(f'`{task}`' for task in tasks) or 'no task'}"
    help = f"write `{name}({tasks[0] if tasks else 'TASK'})`"
    context.error("C306", f"`{name}` on which task?", node.span, label, others=others, help=help)
    return False


def _asks(options: Any, need: Need) -> bool:
    value = getattr(options, need.option, None)
    return need.value in value if need.value and isinstance(value, tuple) else bool(value)


def _no_answers(subject: LesionSpec, name: str, arguments: tuple[str, ...]) -> str:
    """Why lesions have no such quantity; empty where they have. Accuracies need answers, and those by class are taken
    of clusters alone."""
    by_class = arguments[:1] in (("mean",), ("range",))
    if isinstance(subject.data, CorpusSpec) and (by_class or name == "accuracy"):
        return "a corpus has no answers"
    return "blocks are lesioned by `kl` alone" if by_class and isinstance(subject.groups, BlocksSpec) else ""
