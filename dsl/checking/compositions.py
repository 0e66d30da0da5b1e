"""Circuits made of circuits, and circuits from files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from dsl import tree
from dsl.checking.context import Context
from dsl.checking.order import operands_of
from dsl.checking.paths import relative_path
from dsl.checking.references import find_circuit
from dsl.checking.tasks import check_ablation
from dsl.schema import IMPORT_FORMATS
from dsl.spec import AnyCircuit, CompositionSpec, Formula, ImportSpec, TaskSpec

OF_THE_PROMPT = ("zero", "interchange", "noise")
"""Ablations that take no values from other examples."""


def check_composition(context: Context, section: tree.Composition) -> CompositionSpec | None:
    """A formula over circuits of one graph, with one task and one ablation, or a clause that says which."""
    clauses = _clauses(context, section)
    formula = _formula(context, section.formula)
    operands: dict[str, AnyCircuit] = {}
    good = formula is not None
    for name in operands_of(section.formula):
        found = find_circuit(context, name)
        good &= found is not None
        if found is not None:
            operands.setdefault(found.name, found)
    if not good or formula is None:
        return None
    parts = tuple(operands.values())
    if not _one_graph(context, section, parts) or not _one_kind(context, section, parts):
        return None
    task = _task(context, section, clauses.get("for"), parts)
    if task is None:
        return None
    references = {_reference(each) for each in parts}
    clause = clauses.get("ablate")
    if isinstance(clause, tree.Ablate):
        ablation = check_ablation(context, clause)
    else:
        ablation = _common_ablation(context, section, task, parts)
    if ablation is None:
        return None
    judged = replace(task, ablation=ablation)
    mixed = bool(references - {_reference_on(judged)})
    return CompositionSpec(
        section.span, section.name.text, formula, parts, parts[0].graph, judged, ablation, mixed, section.kind
    )


def _formula(context: Context, formula: tree.Formula) -> Formula | None:
    if isinstance(formula, tree.Combination):
        sides = [formula.left] if formula.right is None else [formula.left, formula.right]
        found = [_formula(context, side) for side in sides]
        return None if None in found else Formula(formula.operator, tuple(each for each in found if each))
    circuit = None if formula.is_missing else _quiet(context, formula)
    return None if circuit is None else Formula(circuit=circuit)


def _quiet(context: Context, name: tree.Name) -> str | None:
    """The name of the circuit that a name stands for, without reports: the operands are reported elsewhere."""
    before = len(context.diagnostics)
    found = find_circuit(context, name)
    del context.diagnostics[before:]
    return None if found is None else found.name


def _clauses(context: Context, section: tree.Composition) -> dict[str, tree.ForTask | tree.Ablate]:
    found: dict[str, tree.ForTask | tree.Ablate] = {}
    for clause in section.clauses:
        word = "for" if isinstance(clause, tree.ForTask) else "ablate"
        first = found.setdefault(word, clause)
        if first is not clause:
            where = [(first.span, "first given here")]
            context.error("C402", f"`{word}` is given twice", clause.span, "given again here", others=where)
    return found


def _one_graph(context: Context, section: tree.Composition, parts: tuple[AnyCircuit, ...]) -> bool:
    first = parts[0]
    other = next((each for each in parts if each.graph.name != first.graph.name), None)
    if other is None:
        return True
    label = f"`{first.name}` is on `{first.graph.name}`, `{other.name}` on `{other.graph.name}`"
    message = "circuits of different graphs cannot be combined"
    context.error("C406", message, section.formula.span, label, help="discover both on one graph")
    return False


def _one_kind(context: Context, section: tree.Composition, parts: tuple[AnyCircuit, ...]) -> bool:
    """A composition with a sheaf in it is a sheaf; a sum needs weights to add."""
    sheaf = next((each for each in parts if each.kind == "sheaf"), None)
    if section.kind == "circuit" and sheaf is not None:
        message = f"`{sheaf.name}` is a sheaf, so what is made of it is one"
        context.error("C412", message, section.name.span, help=f"write `sheaf {section.name.text} = …`")
        return False
    if section.kind == "sheaf" and sheaf is None:
        message = "a sheaf is made of sheaves, and here is none"
        context.error("C412", message, section.name.span, help=f"write `circuit {section.name.text} = …`")
        return False
    return True


def _task(
    context: Context,
    section: tree.Composition,
    clause: tree.ForTask | tree.Ablate | None,
    parts: tuple[AnyCircuit, ...],
) -> TaskSpec | None:
    if isinstance(clause, tree.ForTask):
        found: TaskSpec | None = context.spec(clause.task, tree.Task)
        return found
    tasks = {each.task.name: each.task for each in parts if each.task is not None}
    if len(tasks) == 1:
        return next(iter(tasks.values()))
    names = " and ".join(f"`{name}`" for name in tasks) or "no task"
    parents = {task.parent for task in tasks.values()}
    parent = next(iter(parents)) if len(parents) == 1 else None
    help = f"add `for {parent or next(iter(tasks), 'TASK')}`"
    context.error(
        "C403", f"`{section.name.text}` is judged on what?", section.name.span, f"made from {names}", help=help
    )
    return None


Reference = tuple[str, str]
"""What stands in for what a circuit leaves out: the kind of ablation, and the task whose data its values come from ("",
where they come from the prompt at hand)."""


def _reference_on(task: TaskSpec) -> Reference:
    return task.ablation, "" if task.ablation in OF_THE_PROMPT else task.name


def _reference(circuit: AnyCircuit) -> Reference:
    return ("interchange", "") if circuit.task is None else _reference_on(circuit.task)


def _common_ablation(
    context: Context, section: tree.Composition, task: TaskSpec, parts: tuple[AnyCircuit, ...]
) -> str | None:
    """What all parts have, of the data that the composition is judged on; where they have not, a file must say so."""
    found = {each.name: _reference(each) for each in parts}
    first = next(iter(found.values()))[0]
    shared = {*found.values(), _reference_on(replace(task, ablation=first))}
    if len(shared) == 1:
        return first
    told = ", ".join(f"`{name}`: {_words(reference)}" for name, reference in found.items())
    told += f"; judged on `{task.name}`" if len(set(found.values())) == 1 else ""
    if len({kind for kind, _ in shared}) > 1:
        message = "circuits with different ablations are combined without a rule"
    else:
        message = f"circuits with {first} of different data are combined without a rule"
    help = f"add `ablate {first}`" + ("" if first in OF_THE_PROMPT else f", of the data of `{task.name}`")
    context.error("C407", message, section.formula.span, notes=[told], help=help)
    return None


def _words(reference: Reference) -> str:
    kind, data = reference
    return f"{kind} of `{data}`" if data else kind


def check_import(context: Context, section: tree.Import) -> ImportSpec | None:
    """A file in a known format, on a graph of this file."""
    graph = context.spec(section.graph, tree.GraphSection)
    task = context.spec(section.task, tree.Task) if section.task else None
    path = section.path.value
    if section.path.is_missing:
        return None
    if not path.strip() or "\0" in path:
        context.error("C604", "this is not the path of a circuit", section.path.span, 'for example `"circuit.json"`')
        return None
    form = _form(context, section)
    if graph is None or form is None or (section.task and task is None):
        return None
    return ImportSpec(
        section.span, section.name.text, relative_path(context, section.path), form, graph, task, section.kind
    )


def _form(context: Context, section: tree.Import) -> str | None:
    """The format: as it is said, or what the suffix means."""
    path = section.path.value
    suffix = "/" if path.endswith("/") else PurePosixPath(path).suffix.lower()
    if section.form is not None:
        name = context.word("C212", "import format", section.form, IMPORT_FORMATS, "import formats")
        if name is None:
            return None
        if suffix not in IMPORT_FORMATS[name]:
            fits = " or ".join(f"`{each}`" for each in IMPORT_FORMATS[name])
            context.error(
                "C405", f"`as {name}` does not go with `{suffix or path}`", section.form.span, f"goes with {fits}"
            )
            return None
        return name
    known = [name for name, suffixes in IMPORT_FORMATS.items() if suffix in suffixes]
    if len(known) == 1:
        return known[0]
    if not known:
        suffixes = sorted({each for table in IMPORT_FORMATS.values() for each in table})
        note = f"suffixes: {', '.join(suffixes)}"
        context.error("C212", f"no circuit is read from `{suffix or path}`", section.path.span, notes=[note])
        return None
    listing = ", ".join(f"`as {name}`" for name in known)
    message = f"`{suffix}` files have several formats"
    context.error("C403", message, section.path.span, "which one is it?", help=f"add one of {listing}")
    return None
