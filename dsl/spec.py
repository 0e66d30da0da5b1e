"""A checked specification: what a `.circ` file says, resolved, with defaults filled in. Frozen and torch-free.

The sections are in `dsl.sections` and `dsl.analysis_sections`; all can be imported from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dsl.analysis_sections import (
    AnalysisCheckSpec,
    AnalysisSpec,
    BlocksSpec,
    ClusterSpec,
    CorpusSpec,
    DriftSpec,
    LesionSpec,
)
from dsl.sections import (
    Amount,
    AnyCircuit,
    CheckSpec,
    CircuitSpec,
    CompositionSpec,
    Condition,
    Constraint,
    DataSpec,
    EvidenceSpec,
    ExportSpec,
    Formula,
    GraphSpec,
    ImportSpec,
    Located,
    MeasureSpec,
    MethodSpec,
    ModelSpec,
    QuerySpec,
    Region,
    ReportSpec,
    ShrinkSpec,
    SplitSpec,
    SweepSpec,
    Target,
    TaskSpec,
)
from dsl.tree import Node
from dsl.vector_sections import AnyVector, ImportedVectorSpec, TunedVectorSpec, VectorSumSpec
from graphir.diagnostics import Diagnostic, Source, render_all
from graphir.errors import GraphirError

__all__ = [
    "Amount",
    "AnalysisCheckSpec",
    "AnalysisSpec",
    "AnyCircuit",
    "AnyVector",
    "BlocksSpec",
    "CheckSpec",
    "CircuitSpec",
    "ClusterSpec",
    "CompositionSpec",
    "Condition",
    "Constraint",
    "CorpusSpec",
    "DataSpec",
    "DriftSpec",
    "EvidenceSpec",
    "ExportSpec",
    "Formula",
    "GraphSpec",
    "ImportSpec",
    "ImportedVectorSpec",
    "LesionSpec",
    "Located",
    "MeasureSpec",
    "MethodSpec",
    "ModelSpec",
    "QuerySpec",
    "Region",
    "ReportSpec",
    "ShrinkSpec",
    "Spec",
    "SpecError",
    "SplitSpec",
    "SweepSpec",
    "Target",
    "TaskSpec",
    "TunedVectorSpec",
    "VectorSumSpec",
    "frozen",
]


class SpecError(GraphirError):
    """A specification with mistakes; `diagnostics` holds them all, the message shows them."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__(render_all(diagnostics))
        self.diagnostics = tuple(diagnostics)


@dataclass(frozen=True)
class Spec:
    """A whole file, what it includes among it. `folder` is what relative paths are relative to; `overrides` the `--set`
    arguments; `includes` the included files. Constants are filled in, and the members of sweeps are among `circuits`;
    subtasks are among `tasks`."""

    source: Source = field(repr=False)
    folder: Path
    models: tuple[ModelSpec, ...] = ()
    graphs: tuple[GraphSpec, ...] = ()
    tasks: tuple[TaskSpec, ...] = ()
    circuits: tuple[CircuitSpec, ...] = ()
    queries: tuple[QuerySpec, ...] = ()
    checks: tuple[CheckSpec, ...] = ()
    measures: tuple[MeasureSpec, ...] = ()
    exports: tuple[ExportSpec, ...] = ()
    overrides: tuple[str, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()
    allow_code: bool = False
    allow_outside: bool = False
    compositions: tuple[CompositionSpec, ...] = ()
    imports: tuple[ImportSpec, ...] = ()
    sweeps: tuple[SweepSpec, ...] = ()
    evidence: tuple[EvidenceSpec, ...] = ()
    reports: tuple[ReportSpec, ...] = ()
    corpora: tuple[CorpusSpec, ...] = ()
    analyses: tuple[AnalysisSpec, ...] = ()
    blocks: tuple[BlocksSpec, ...] = ()
    clusters: tuple[ClusterSpec, ...] = ()
    lesions: tuple[LesionSpec, ...] = ()
    drifts: tuple[DriftSpec, ...] = ()
    shrinks: tuple[ShrinkSpec, ...] = ()
    vectors: tuple[AnyVector, ...] = ()
    analysis_checks: tuple[AnalysisCheckSpec, ...] = ()
    includes: tuple[Source, ...] = field(default=(), repr=False)

    @property
    def digest(self) -> str:
        """sha256 of the text, of the included texts and of the overrides."""
        import hashlib

        parts = "\0".join([self.source.text, *(each.text for each in self.includes), *self.overrides])
        return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()

    def circuit(self, name: str) -> CircuitSpec:
        """The circuit of that name; `KeyError` otherwise."""
        return {each.name: each for each in self.circuits}[name]

    def graph(self, name: str) -> GraphSpec:
        """The graph of that name; `KeyError` otherwise."""
        return {each.name: each for each in self.graphs}[name]

    def any_circuit(self, name: str) -> AnyCircuit:
        """The circuit, composition or imported circuit of that name; `KeyError` otherwise."""
        found: dict[str, AnyCircuit] = {each.name: each for each in self.circuits}
        found |= {each.name: each for each in self.compositions}
        found |= {each.name: each for each in self.imports}
        return found[name]

    def query(self, name: str) -> QuerySpec:
        """The query of that name; `KeyError` otherwise."""
        return {each.name: each for each in self.queries}[name]

    def to_json(self) -> dict[str, Any]:
        """Plain data: every section with its defaults; references by name, expressions as text."""
        always = ("models", "graphs", "tasks", "circuits", "queries", "checks", "measures", "exports")
        sections = (*always, *(name for name in LATER if getattr(self, name)))
        return {
            "version": 1,
            "file": self.source.name,
            "digest": self.digest,
            "overrides": list(self.overrides),
            **{name: [_plain(each) for each in getattr(self, name)] for name in sections},
        }


def frozen(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """A read-only copy."""
    return MappingProxyType(dict(mapping))


def _plain(value: Any) -> Any:
    """A value as JSON data; sections within sections by name."""
    if isinstance(value, Node):
        return value.span.text
    if isinstance(value, Formula):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [_inner(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        shown = (each for each in fields(value) if each.name != "span")
        return {each.name: _inner(getattr(value, each.name)) for each in shown if not _is_left_out(value, each)}
    return value


NEWER: Mapping[str, Any] = {
    "kind": "circuit",
    "sweep": None,
    "at": {},
    "parent": None,
    "where": None,
    "seeds": None,
    "part": "edges",
}
"""Fields that are only shown when they say something."""


def _is_left_out(value: Any, each: Field[Any]) -> bool:
    shown = isinstance(value, CircuitSpec | TaskSpec | Condition | Amount) and each.name in NEWER
    return shown and getattr(value, each.name) == NEWER[each.name]


def _inner(value: Any) -> Any:
    """What stands within a section: other sections by name."""
    return value.name if isinstance(value, NAMED) else _plain(value)


NAMED = (
    ModelSpec, GraphSpec, TaskSpec, CircuitSpec, CompositionSpec, ImportSpec, CorpusSpec, AnalysisSpec, BlocksSpec,
    ClusterSpec, LesionSpec, DriftSpec, ShrinkSpec, TunedVectorSpec, ImportedVectorSpec, VectorSumSpec,
)  # fmt: skip
LATER = (
    "compositions", "imports", "sweeps", "evidence", "reports", "corpora", "analyses", "blocks", "clusters", "lesions",
    "drifts", "shrinks", "vectors", "analysis_checks",
)  # fmt: skip
"""Kinds of section that the JSON form has only where the file has some."""
