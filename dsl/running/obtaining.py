"""Come by any circuit that a file names: one that is discovered, composed of others, or read from a file.

Compositions and imports are quick, so nothing of them is kept: what is measured on them is, under what they keep.
Only the constants of optimal ablation, which are learned for the masks at hand, are a stage of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsl.running.failures import located
from dsl.running.finding import Found, find_circuit
from dsl.running.keys import circuit_digest
from dsl.running.sections.graphs import TraceStage
from dsl.running.sections.tasks import TaskStage
from dsl.running.stage import Stage
from dsl.running.storing import read_circuit, settled, write_circuit
from dsl.spec import AnyCircuit, CircuitSpec, CompositionSpec, Formula, ImportSpec
from graphir.circuit import Circuit
from graphir.errors import DataError, ModelMismatchError

if TYPE_CHECKING:
    from dsl.running.workplace import Workplace
    from graphir.algebra_sum import CircuitSum
    from graphir.ir import Graph


def obtain(spec: AnyCircuit, place: Workplace) -> Found:
    """The circuit, over the graph of this run. `StageError` for what goes wrong."""
    if isinstance(spec, CircuitSpec):
        return find_circuit(spec, place)

    def make() -> Found:
        return compose(spec, place) if isinstance(spec, CompositionSpec) else read_import(spec, place)

    return place.once(f"circuit {spec.name}", make)


# --- composing -------------------------------------------------------------------------------------------------------


def compose(spec: CompositionSpec, place: Workplace) -> Found:
    """Evaluate the formula. Where it is a sum, `factors` say how often each weight counts; within other operations a
    sum is the union that it is a sum over."""
    operands = {each.name: obtain(each, place) for each in spec.operands}
    with located(f"composing `{spec.name}`", spec.span):
        whole = _value(spec.formula, operands, spec.ablation)
        factors: Mapping[str, Any] = {}
        if not isinstance(whole, Circuit):
            factors, whole = whole.factors, whole.circuit
    told = {"formula": spec.formula.text, "data": place.task(spec.task, spec.graph.model).identity}
    provenance = settled({**whole.provenance, **told})
    example = place.value(TraceStage(spec.graph)).stored_example
    circuit = whole.with_(name=spec.name, graph=place.graph(spec.graph), example=example, provenance=provenance)
    circuit = _with_constants(spec, circuit, place)
    return Found(spec, circuit, {0: circuit}, 0, {}, factors=factors)


def _value(formula: Formula, operands: Mapping[str, Found], rule: str) -> Circuit | CircuitSum:
    from graphir import algebra
    from graphir.algebra_sum import add

    if not formula.operator:
        return operands[formula.circuit].circuit
    if formula.operator == "+":
        return add(*(_circuit(each, operands, rule) for each in _summands(formula)), ablation=rule)
    sides = [_circuit(each, operands, rule) for each in formula.operands]
    if formula.operator == "~":
        return algebra.complement(sides[0])
    combine = {"&": algebra.intersection, "|": algebra.union, "-": algebra.difference}[formula.operator]
    return combine(*sides, ablation=rule)


def _circuit(formula: Formula, operands: Mapping[str, Found], rule: str) -> Circuit:
    found = _value(formula, operands, rule)
    return found if isinstance(found, Circuit) else found.circuit


def _summands(formula: Formula) -> Iterator[Formula]:
    """What a sum adds: of `a + b + c` three, since a weight that all keep counts three times. The name of a sum stands
    for its union, as it does in other operations."""
    for each in formula.operands:
        if each.operator == "+":
            yield from _summands(each)
        else:
            yield each


class ConstantsStage(Stage[Circuit]):
    """Learn the constants of optimal ablation for masks that were not learned here."""

    kind = "constants"

    def __init__(self, spec: CompositionSpec | ImportSpec, circuit: Circuit) -> None:
        doing = f"learning the ablation constants of `{spec.name}`"
        super().__init__(f"constants of {spec.name}", spec.span, doing)
        self.spec, self.circuit = spec, circuit

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """Graph, task and masks."""
        assert self.spec.task is not None
        task = TaskStage(self.spec.task, self.spec.graph.model)
        return {"graph": TraceStage(self.spec.graph), "task": task, "circuit": circuit_digest(self.circuit)}

    def run(self, place: Workplace) -> Circuit:
        """The circuit with its constants."""
        from passes.optimal_constants import with_optimal_constants

        assert self.spec.task is not None
        with located(self.doing, self.span):
            program = place.program(self.spec.graph)
            task = place.task(self.spec.task, self.spec.graph.model)
            with place.reporter.stage(self.name):
                found = with_optimal_constants(self.circuit, program, task, seed=0, observer=place.reporter)
        return self.circuit.with_(constants=found.constants)

    def save(self, value: Circuit, folder: Path) -> None:
        """As a saved circuit."""
        write_circuit(folder, value)

    def load(self, folder: Path, place: Workplace) -> Circuit:
        """The constants for the circuit at hand."""
        saved = read_circuit(folder, self.circuit.graph, self.circuit.example)
        return self.circuit.with_(constants=saved.constants)


def _with_constants(spec: CompositionSpec | ImportSpec, circuit: Circuit, place: Workplace) -> Circuit:
    if spec.task is None or spec.task.ablation != "optimal" or circuit.constants:
        return circuit
    return place.value(ConstantsStage(spec, circuit))


# --- reading ---------------------------------------------------------------------------------------------------------


def read_import(spec: ImportSpec, place: Workplace) -> Found:
    """The circuit in a file of another program, or a saved one of ours."""
    from dsl.importing import read_circuit as read_foreign

    graph, path = place.graph(spec.graph), place.spec.folder / spec.path
    with located(f"importing `{spec.name}`", spec.span):
        ablation = spec.task.ablation if spec.task is not None else None
        if spec.format == "circuit":
            found = _of_this_graph(Circuit.load(path), graph, path)
            _check_reference(spec, found)
        else:
            form = _READERS.get((spec.format, path.suffix.lower()), _READERS[spec.format, ""])
            found = read_foreign(path, graph, form=form, name=spec.name, ablation=ablation)
    example = place.value(TraceStage(spec.graph)).stored_example
    told = {"file": spec.path, "format": spec.format, "sha256": _sum_of(path)}
    provenance = settled({**found.provenance, "imported": {**found.provenance.get("imported", {}), **told}})
    circuit = found.with_(name=spec.name, graph=graph, example=example, provenance=provenance, metrics={})
    circuit = _with_constants(spec, circuit, place)
    return Found(spec, circuit, {0: circuit}, 0, {})


_READERS: Mapping[tuple[str, str], str] = {
    ("mib", ""): "mib",
    ("mib", ".pt"): "mib_pt",
    ("edges", ""): "edge_pruning",
    ("acdc", ""): "acdc",
}
"""What `dsl.importing` calls a format, by the language's word and the suffix."""


def _of_this_graph(saved: Circuit, graph: Graph, path: Path) -> Circuit:
    """A saved circuit over the graph of this run: by position where the graphs are the same, else `ModelMismatchError`
    that says where they differ."""
    from graphir.diff import graph_differences

    differences = [] if saved.graph is graph else graph_differences(saved.graph, graph, structure=True)
    if saved.graph.model_hash != graph.model_hash:
        differences.insert(0, "the weights of the model")
    if differences:
        raise ModelMismatchError(
            f"{path} is a circuit of another model or graph: {'; '.join(differences[:3])}",
            ["trace the model at the granularity that the circuit was found at"],
        )
    return saved.with_(graph=graph)


def _check_reference(spec: ImportSpec, found: Circuit) -> None:
    """A saved circuit says what it was found against; the task it is judged on says so too."""
    wanted = None if spec.task is None else spec.task.ablation
    if wanted is not None and found.ablation != wanted:
        raise DataError(
            f"the circuit was found against {found.ablation} ablation, `{spec.task and spec.task.name}` has {wanted}",
            [f"judge it on a task with `ablate {found.ablation}`"],
        )


def _sum_of(path: Path) -> str:
    """SHA-256 (hex) of a file; of a folder that of its files, by name."""
    found = hashlib.sha256()
    for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if each.is_file():
            found.update(each.relative_to(path).as_posix().encode() + b"\0" + each.read_bytes())
    return found.hexdigest()
