"""The analyzer's sections: corpora, distances, blocks, clusters, lesions, drifts, shrinking."""

from __future__ import annotations

from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from dsl import tree
from dsl.catalog import builtin_data
from dsl.checking.conditions import Asked
from dsl.checking.conditions import check_condition as check_where
from dsl.checking.context import Context, every
from dsl.checking.methods import check_options, check_use
from dsl.checking.paths import check_once, check_written, relative_path
from dsl.checking.references import find_circuit
from dsl.checking.sections import known_builtin
from dsl.checking.values import read_block
from dsl.schema import ANALYSIS_UNITS, CLUSTERINGS, CORPUS_KINDS, NEEDS_CORPUS, NODE_ATTRIBUTES, SECTIONS
from dsl.spec import (
    AnalysisSpec,
    AnyCircuit,
    BlocksSpec,
    ClusterSpec,
    CompositionSpec,
    CorpusSpec,
    DriftSpec,
    GraphSpec,
    ImportSpec,
    LesionSpec,
    ShrinkSpec,
    TaskSpec,
)

SUFFIXES = {"jsonl": (".jsonl", ".json")}


def check_corpus(context: Context, section: tree.Corpus) -> CorpusSpec | None:
    """A corpus: a known kind, a reference that fits it."""
    kind = context.word("C215", "corpus kind", section.kind, CORPUS_KINDS, "corpus kinds", aliases="data kind")
    fields = read_block(context, section.block, SECTIONS["corpus"].by_name, "a corpus")
    reference = section.reference
    if kind is None or fields is None or reference.is_missing:
        return None
    if not reference.value.strip():
        context.error("C301", "the corpus's reference is empty", reference.span, CORPUS_KINDS[kind])
        return None
    if kind == "builtin" and not known_builtin(context, "C208", "built-in data set", reference, builtin_data()):
        return None
    suffix = PurePosixPath(reference.value).suffix.lower()
    if kind == "text" and suffix in SUFFIXES["jsonl"]:
        help = f'write `jsonl "{reference.value}"` if it has one object a line'
        context.warning("C802", f"`{reference.value}` is read as plain text", section.kind.span, help=help)
    path = reference.value if kind == "builtin" else relative_path(context, reference)
    return CorpusSpec(section.span, section.name.text, kind, path, **fields)


def check_analysis(context: Context, section: tree.Analyze) -> AnalysisSpec | None:
    """Units of a graph or circuit, data, a distance."""
    from passes.analysis_options import DISTANCES

    found = _grouping(context, section)
    method = check_use(context, section.method, DISTANCES, "C214", "distance", "distances")
    if section.corpus is None and not section.subject.is_missing:
        help = "for example `on sentences`, with `corpus sentences = …`"
        message = "representations of what? the analysis has no data"
        context.error("C403", message, section.method.name.span, "needs `on CORPUS` before `with`", help=help)
        return None
    if found is None or method is None or found[3] is None:
        return None
    units, graph, circuit, data = found
    assert data is not None
    return AnalysisSpec(section.span, section.name.text, units, graph, data, method, circuit, section.where)


def check_cluster(context: Context, section: tree.Cluster) -> ClusterSpec | None:
    """Units of a graph or circuit and a way to group them."""
    from passes.analysis_options import ANALYSES

    found = _grouping(context, section)
    known = {name: ANALYSES[options] for name, options in CLUSTERINGS.items() if options in ANALYSES}
    method = check_use(context, section.method, known, "C214", "clustering", "clusterings")
    if found is None or method is None:
        return None
    units, graph, circuit, data = found
    if data is None and (method.name in NEEDS_CORPUS or getattr(method.options, "graph", "") == "activations"):
        message = f"`{method.name}` groups units by their activations, and there is no data"
        context.error("C403", message, section.method.span, help="add `on CORPUS` before `with`")
        return None
    if {"k", "height"} <= method.given:
        message = "a tree is cut once: into `k` modules, or at a `height`"
        context.error("C502", message, section.method.span, "has both", help="leave one of them out")
        return None
    return ClusterSpec(section.span, section.name.text, units, graph, data, method, circuit, section.where)


def _grouping(
    context: Context, section: tree.Analyze | tree.Cluster
) -> tuple[str, GraphSpec, AnyCircuit | None, CorpusSpec | TaskSpec | None] | None:
    """Units, graph, circuit and data; None when one of them has mistakes."""
    units = context.word("C209", "unit", section.units, ANALYSIS_UNITS, "units", aliases="query kind")
    graph, circuit = _subject(context, section.subject)
    data = _data(context, section.corpus)
    good = True
    if section.where is not None:
        facts = context.facts.get(graph.model.name) if graph else None
        good = check_where(context, section.where, Asked(NODE_ATTRIBUTES, facts, circuit is not None))
    if units is None or graph is None or not good or (section.corpus is not None and data is None):
        return None
    if units == "neurons" and graph.mlp != "neuron" and not any(r.granularity == "neuron" for r in graph.regions):
        others = [(graph.span.source.span(graph.span.start, graph.span.start + len("graph")), "its MLPs are whole")]
        message = f"the graph `{graph.name}` has no neurons"
        context.error("C405", message, section.units.span, others=others, help="trace it with `mlp: neuron`")
        return None
    return units, graph, circuit, data


def _subject(context: Context, name: tree.Name) -> tuple[GraphSpec | None, AnyCircuit | None]:
    if isinstance(context.declared.get(name.text), tree.GraphSection):
        return context.spec(name, tree.GraphSection), None
    circuit = find_circuit(context, name, tree.GraphSection)
    return (circuit.graph, circuit) if circuit else (None, None)


def _data(context: Context, name: tree.Name | None) -> CorpusSpec | TaskSpec | None:
    found: CorpusSpec | TaskSpec | None = None if name is None else context.spec(name, tree.Corpus, tree.Task)
    return found


def check_blocks(context: Context, section: tree.Blocks) -> BlocksSpec | None:
    """Blocks of an analysis."""
    from passes.analysis_options import ANALYSES

    analysis = context.spec(section.analysis, tree.Analyze)
    options = check_options(context, section.block, ANALYSES["blocks"], "`blocks`")
    if options is not None and _more_than(options[0], "count", "largest"):
        assert section.block is not None
        message = "more blocks are asked for than are considered"
        context.error("C502", message, section.block.span, "`count` is above `largest`")
        return None
    if analysis is None or options is None:
        return None
    return BlocksSpec(section.span, section.name.text, analysis, *options)


def _more_than(options: Any, name: str, bound: str) -> bool:
    value, limit = getattr(options, name, None), getattr(options, bound, None)
    return value is not None and limit is not None and value > limit


def check_lesion(context: Context, section: tree.Lesion) -> LesionSpec | None:
    """Groups to ablate, and what to judge on."""
    from passes.analysis_options import ANALYSES

    groups = context.spec(section.subject, tree.Cluster, tree.Blocks)
    options = check_options(context, section.block, ANALYSES["lesion"], "`lesion`")
    data = context.spec(section.task, tree.Task) if section.task else _data(context, section.corpus)
    if groups is None or options is None or data is None:
        return None
    return LesionSpec(section.span, section.name.text, groups, data, *options)


def check_drift(context: Context, section: tree.Drift) -> DriftSpec | None:
    """Analyses that differ in their graph or circuit alone, and a number for each."""
    from passes.analysis_options import ANALYSES

    found: list[AnalysisSpec | None] = [context.spec(name, tree.Analyze) for name in section.steps]
    options = check_options(context, section.block, ANALYSES["drift"], "`drift`")
    if options is None or None in found:
        return None
    steps = [each for each in found if each]
    if len(steps) < 2:
        help = "for example `drift d = early, late`"
        context.error("C403", "a drift goes from one analysis to another", section.steps[0].span, "only one", help=help)
        return None
    others = zip(steps[1:], section.steps[1:], strict=True)
    good = every(_same_analysis(context, steps[0], *pair) for pair in others)
    if not _numbered(context, section, options[0].steps) or not good:
        return None
    return DriftSpec(section.span, section.name.text, tuple(steps), *options)


def _same_analysis(context: Context, first: AnalysisSpec, other: AnalysisSpec, name: tree.Name) -> bool:
    """Whether two analyses compare the same units, on the same data, in the same way."""
    for what, ours, theirs in (
        ("units", first.units, other.units),
        ("data", first.data.name, other.data.name),
        ("distance", (first.method.name, first.method.options), (other.method.name, other.method.options)),
    ):
        if ours != theirs:
            message = f"`{name.text}` and `{first.name}` differ in their {what}"
            others = [(first.span, "the first step")]
            context.error("C405", message, name.span, "steps differ in their graph or circuit alone", others=others)
            return False
    return True


def _numbered(context: Context, section: tree.Drift, numbers: tuple[float, ...]) -> bool:
    """Whether the numbers of the steps are as many as there are, and grow."""
    if not numbers:
        return True
    assert section.block is not None
    entries = [each for each in section.block.entries if isinstance(each, tree.Entry)]
    span = next(each.span for each in entries if each.name.text == "steps")
    if len(numbers) != len(section.steps):
        message = f"{len(numbers)} numbers for {len(section.steps)} steps"
        context.error("C405", message, span, "one for each analysis, in their order")
        return False
    if any(after <= before for before, after in pairwise(numbers)):
        context.error("C304", "the numbers of steps do not grow", span, "from the first step to the last")
        return False
    return True


def check_shrink(context: Context, section: tree.Shrink, written: dict[str, tree.Text]) -> ShrinkSpec | None:
    """A circuit and a folder for the smaller module."""
    from passes.shrink_options import ShrinkOptions

    circuit = find_circuit(context, section.subject)
    options = check_options(context, section.block, ShrinkOptions, "`shrink`")
    target = section.target
    if target.is_missing or not check_written(context, target):
        return None
    if not target.value.endswith("/"):
        fix = f'"{target.value}/"' if '"' not in target.value else None
        context.error(
            "C210", "a module is written to a folder", target.span, "expected a final `/`", help="write", fix=fix
        )
        return None
    if not check_once(context, target, target.value, written) or circuit is None or options is None:
        return None
    if not _folds(context, section.subject, circuit):
        return None
    name = section.name.text or circuit.name
    return ShrinkSpec(section.span, circuit, target.value, options[0], name)


def _folds(context: Context, name: tree.Name, circuit: AnyCircuit) -> bool:
    """Whether what stands in for dropped parts can be put into a module: constants can, another run's values cannot.

    Of a sheaf that drops weights alone nothing has to stand in, and of a saved circuit only its file knows.
    """
    if isinstance(circuit, ImportSpec) or circuit.kind == "sheaf":
        return True
    ablation = circuit.ablation if isinstance(circuit, CompositionSpec) else circuit.task.ablation
    if ablation in ("zero", "mean", "optimal"):
        return True
    others = [(circuit.task.span, f"ablated by {ablation}")]
    help = f"write `ablate zero`, `ablate mean` or `ablate optimal` in `{circuit.task.name}`"
    message = f"no smaller module computes what `{name.text}` is under ablation by {ablation}"
    context.error("C405", message, name.span, "needs the values of another run", others=others, help=help)
    return False
