"""The checked sections of the analyzer: corpora, distances, blocks, clusters, lesions, drifts, and checks of them."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from dsl.records import record
from dsl.sections import AnyCircuit, Condition, GraphSpec, Located, MethodSpec, ShrinkSpec, TaskSpec
from dsl.tree import Expression
from dsl.vector_sections import AnyVector


@record
class CorpusSpec(Located):
    """Inputs without answers. `kind` is text or jsonl (`reference` is a path, relative to the specification's folder)
    or builtin (a generator, whose prompts are taken). `n` samples of at most `length` tokens; `pooling` is last, first,
    mean, flatten or tokens: what becomes of the positions of a sample."""

    name: str
    kind: str
    reference: str
    n: int = 256
    length: int = 64
    seed: int = 0
    pooling: str = "last"


@record
class AnalysisSpec(Located):
    """A matrix of distances between `units` (a word of `dsl.schema.ANALYSIS_UNITS`) of a graph, or of the graph of a
    circuit (`circuit`: its kept parts only), that meet `where` (a condition on nodes, as in a query), on a corpus or
    the prompts of a task. `method` has the options of a distance in `passes.analysis_options.DISTANCES`."""

    name: str
    units: str
    graph: GraphSpec
    data: CorpusSpec | TaskSpec
    method: MethodSpec
    circuit: AnyCircuit | None = None
    where: Expression | None = field(default=None, repr=False)


@record
class BlocksSpec(Located):
    """Blocks cut from a matrix of distances; `options` is a `passes.analysis_options.BlocksOptions`."""

    name: str
    analysis: AnalysisSpec
    options: Any
    given: frozenset[str] = frozenset()


@record
class ClusterSpec(Located):
    """Groups of units, as in `AnalysisSpec`. `method.name` is ncut, hierarchy or communities, its options are of the
    class that `dsl.schema.CLUSTERINGS` names; without `data` it works on weights."""

    name: str
    units: str
    graph: GraphSpec
    data: CorpusSpec | TaskSpec | None
    method: MethodSpec
    circuit: AnyCircuit | None = None
    where: Expression | None = field(default=None, repr=False)


@record
class LesionSpec(Located):
    """What ablating each group does, on a task or a corpus; `options` is a `passes.analysis_options.LesionOptions`."""

    name: str
    groups: ClusterSpec | BlocksSpec
    data: CorpusSpec | TaskSpec
    options: Any
    given: frozenset[str] = frozenset()


@record
class DriftSpec(Located):
    """The same analysis at several steps of a training, or sparsities of a model, in order; `options` is a
    `passes.analysis_options.DriftOptions`."""

    name: str
    analyses: tuple[AnalysisSpec, ...]
    options: Any
    given: frozenset[str] = frozenset()


@record
class AnalysisCheckSpec(Located):
    """Conditions on a section of the analyzer, on a smaller module or on a task vector; `kind` is a key of
    `dsl.analysis_quantities.SECTION_QUANTITIES`."""

    subject: AnalysisSpec | BlocksSpec | ClusterSpec | LesionSpec | DriftSpec | ShrinkSpec | AnyVector
    kind: str
    conditions: tuple[Condition, ...]
