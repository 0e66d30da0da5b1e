"""What the analyzer's sections cost, for a plan: one pass over the samples for what is collected, then arithmetic.

Comparing N units on n samples is taken to cost, a pair, n³ · `SEARCH` FLOPs for distances that solve transport, n²
times a width of the model for the others. What lesions and groups cost beyond that is counted in passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dsl.running.planning import EFFICIENCY, Stage, Work
from dsl.running.samples import BATCH
from dsl.spec import BlocksSpec, CorpusSpec

if TYPE_CHECKING:
    from dsl.running.sizes import GraphSize, ModelSize
    from dsl.spec import GraphSpec, Spec, TaskSpec

SEARCH = 100.0
"""Products of the sample distances in one search for a coupling: starts times steps."""
TRANSPORT = ("gromov_wasserstein", "fused_gromov_wasserstein", "wasserstein")


def analysis_stages(
    spec: Spec, models: Mapping[str, ModelSize | None], graphs: Mapping[str, GraphSize | None],
    tasks: Mapping[str, Mapping[str, Any]], gflops: float,
) -> Iterator[Stage]:  # fmt: skip
    """The rows of corpora, analyses, blocks, clusters and lesions."""

    def work_of(graph: GraphSpec, data: CorpusSpec | TaskSpec) -> Work:
        samples, tokens = _shape(data, tasks)
        return Work(models[graph.model.name], graphs[graph.name], BATCH, tokens, {"all": samples})

    def passes(name: str, line: int, work: Work, times: int, reads: float = 0.0) -> Stage:
        batches = math.ceil(work.examples["all"] / BATCH) * times
        return work.stage(name, line, work.examples["all"], batches, 0, reads * batches, gflops)

    for analysis in spec.analyses:
        work = work_of(analysis.graph, analysis.data)
        collecting = passes(analysis.name, analysis.span.line, work, 1)
        yield _with_pairs(collecting, _units(analysis.units, work), work, analysis.method.name, gflops)
    yield from _drifts(spec, work_of, gflops)
    for blocks in spec.blocks:
        work = work_of(blocks.analysis.graph, blocks.analysis.data)
        units = _units(blocks.analysis.units, work) or 1
        yield passes(blocks.name, blocks.span.line, work, units * ("lesion" in blocks.options.validate), 1.0)
    for cluster in spec.clusters:
        if cluster.data is not None:
            yield passes(cluster.name, cluster.span.line, work_of(cluster.graph, cluster.data), 2)
        else:
            yield Stage(cluster.name, cluster.span.line, 0, 0, 0, 0.0, 0.0, 0.0)
    for lesion in spec.lesions:
        groups = lesion.groups
        graph = groups.analysis.graph if isinstance(groups, BlocksSpec) else groups.graph
        number = getattr(getattr(groups, "method", None), "options", None)
        times = 1 + (getattr(number, "k", None) or 4) * (1 + lesion.options.random_groups)
        yield passes(lesion.name, lesion.span.line, work_of(graph, lesion.data), times, 1.0)


def _drifts(spec: Spec, work_of: Any, gflops: float) -> Iterator[Stage]:
    """Each unit at every step against itself at every other; what the steps hold is counted with the analyses."""
    for drift in spec.drifts:
        first = drift.analyses[0]
        work, count = work_of(first.graph, first.data), len(drift.analyses)
        units = _units(first.units, work)
        row = work.stage(drift.name, drift.span.line, work.examples["all"], 0, 0, 0.0, gflops)
        yield _compared(row, units and units * count * (count - 1) / 2, work, first.method.name, gflops)


def _shape(data: CorpusSpec | TaskSpec, tasks: Mapping[str, Mapping[str, Any]]) -> tuple[int, int]:
    """Samples, tokens in a sample."""
    if isinstance(data, CorpusSpec):
        return data.n, data.length
    return int(tasks[data.name]["examples"]), int(tasks[data.name]["tokens"])


def _units(units: str, work: Work) -> int | None:
    """How many units of a word there are, about; None where the model's sizes are not known."""
    if work.model is None:
        return None
    layers, heads = work.model.layers, work.model.layers * work.model.heads
    known = {"layers": layers, "mlps": layers, "blocks": 2 * layers, "heads": heads}
    return known.get(units, work.graph.nodes if work.graph is not None else heads)


def _with_pairs(stage: Stage, units: int | None, work: Work, method: str, gflops: float) -> Stage:
    return _compared(stage, units and units * (units - 1) / 2, work, method, gflops)


def _compared(stage: Stage, pairs: float | None, work: Work, method: str, gflops: float) -> Stage:
    from dataclasses import replace

    if pairs is None or stage.flops is None or stage.seconds is None or work.model is None:
        return stage
    n = float(work.examples["all"])
    flops = pairs * (SEARCH * n**3 if method in TRANSPORT else 2 * n * n * work.model.width)
    return replace(stage, flops=stage.flops + flops, seconds=stage.seconds + flops / (gflops * 1e9 * EFFICIENCY))
