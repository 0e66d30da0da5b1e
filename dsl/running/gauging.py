"""The values of what checks of the analyzer's sections name (`dsl.analysis_quantities`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dsl.analysis_quantities import MOTIFS, SECTION_QUANTITIES
from dsl.running.failures import located
from dsl.running.judging import Verdict, is_met
from dsl.translate import quantities, symbol_name
from graphir.errors import DataError

if TYPE_CHECKING:
    from dsl.running.blocking import FoundBlocks
    from dsl.running.drifting import Drifted
    from dsl.running.grouping import Grouped
    from dsl.running.lesioning import Lesioned
    from dsl.running.vectoring import FoundVector
    from dsl.spec import AnalysisCheckSpec
    from graphir.shrink import ShrinkReport
    from passes.analyze.distances.base import DistanceMatrix

RESULTS: Mapping[str, str] = {
    "analysis": "analyses", "blocks": "blocks", "cluster": "clusters", "lesion": "lesions", "drift": "drifts",
    "shrink": "shrinks", "vector": "vectors",
}  # fmt: skip
"""Where a run keeps what it found of each kind."""
SIGNIFICANT = 0.05


def check_section(spec: AnalysisCheckSpec, found: Any) -> list[Verdict]:
    """Each condition of a check of what was found. `StageError` for what was not measured."""
    table, value = SECTION_QUANTITIES[spec.kind], GAUGES[spec.kind]
    verdicts = []
    for condition in spec.conditions:
        with located(f"checking `{spec.subject.name}`", condition.span):
            named = quantities(condition.expression, table)
            values = {symbol_name(*each): float(value(found, *each)) for each in named}

            def lookup(name: str, arguments: tuple[str, ...], known: Mapping[str, float] = values) -> float:
                return known[symbol_name(name, arguments)]

            passed = is_met(condition.expression, lookup, table)
        verdicts.append(Verdict(spec.subject.name, condition.text, passed, values, condition.span, spec.kind))
    return verdicts


def _analysis(found: DistanceMatrix, name: str, arguments: tuple[str, ...]) -> float:
    upper = np.triu_indices(len(found), 1)
    if name == "units":
        return len(found)
    if name == "samples":
        return found.samples
    apart = found.values[upper]
    if not len(apart):
        raise DataError("of one unit there are no distances")
    if name == "width":
        if found.lower is None or found.upper is None:
            raise DataError(f"{found.metric} has no bounds here", ["ask for an interval, for example `subsamples: 20`"])
        return float((found.upper - found.lower)[upper].mean())
    pick: Mapping[str, Callable[[Any], Any]]
    pick = {"mean": np.mean, "median": np.median, "smallest": np.min, "largest": np.max}
    return float(pick[arguments[0]](apart))


def _blocks(found: FoundBlocks, name: str, arguments: tuple[str, ...]) -> float:
    blocks = found.blocks
    of = arguments[0] if arguments else ""
    if name == "count":
        return blocks.count
    if name == "size":
        return _extreme([len(group) for group in blocks.groups], of)
    if name == "score":
        return float(getattr(blocks.score, of))
    if name == "stability":
        assert found.stability is not None  # the check lets it be named only where it is measured
        return found.stability.agreement if of == "mean" else found.stability.least
    if name == "accuracy":
        return float(found.validations["readout"].values.max())
    if of == "gain":
        return blocks.p
    if of == "distances":
        return blocks.score.contrast if name == "contrast" else blocks.score.contrast_p
    along = found.validations[of]
    return along.contrast if name == "contrast" else along.p


def _cluster(found: Grouped, name: str, arguments: tuple[str, ...]) -> float:
    facts = found.facts
    if name in ("count", "size", "units") and not found.groups:
        raise DataError("the tree is not cut into groups", ["add `k: 4` to it"])
    sizes = [len(group) for group in found.groups.values()]
    if name in ("count", "units"):
        return len(sizes) if name == "count" else sum(sizes)
    if name == "size":
        return _extreme(sizes, arguments[0])
    if name == "p":
        return float(facts[f"p_{arguments[0]}"])
    if name == "motif":
        return float(facts["motifs"][MOTIFS[arguments[0]]]["z"])
    value = facts[name]
    return float(len(value) if isinstance(value, list | tuple) else value)


def _lesion(found: Lesioned, name: str, arguments: tuple[str, ...]) -> float:
    if name == "skipped":
        return len(found.skipped)
    if name == "accuracy":
        return found.accuracy
    if name == "groups":
        return max(Counter(row["statistic"] for row in found.rows).values(), default=0)
    rows = [row for row in found.rows if row["statistic"] == arguments[0]]
    if not rows:
        raise DataError(f"lesions were not compared by `{arguments[0]}`", ["that needs a task with answers"])
    if name == "significant":
        return float(sum(row["q"] <= SIGNIFICANT for row in rows))
    if name == "q":
        return _least(row["q"] for row in rows)
    told = found.statistics.get(arguments[0])
    if name == "p":
        return _least(row["p"] for row in rows) if told is None else float(told["p"])
    if told is not None:
        return float(told["ratio"])
    ratios = [2 * row["effect"] / total for row in rows if (total := row["effect"] + row["random"]) > 0]
    return float(np.mean(ratios)) if ratios else math.nan


def _shrink(found: ShrinkReport, name: str, arguments: tuple[str, ...]) -> float:
    if name == "max_difference":
        return found.difference
    if name == "left":
        return len(found.left)
    if name == "share":
        before = getattr(found.before, arguments[0])
        return float(getattr(found.after, arguments[0]) / before) if before else math.nan
    return float(getattr(found.after if arguments[0] == "after" else found.before, name))


def _drift(found: Drifted, name: str, arguments: tuple[str, ...]) -> float:
    if name in ("steps", "units"):
        return len(found.steps if name == "steps" else found.names)
    if name == "agreement":
        return float(found.agreement.min() if arguments[0] == "least" else found.agreement.mean())
    moved = found.from_first[-1] if name == "moved" else found.from_before
    return float(moved.max() if arguments[0] == "largest" else moved.mean())


def _vector(found: FoundVector, name: str, arguments: tuple[str, ...]) -> float:
    if name in ("count", "density", "norm"):
        return float(getattr(found.support, name))
    if name in ("shared", "iou", "iomin"):
        return float(found.support.overlap["weights"][name])
    effect = found.effects[arguments[0] if arguments else found.own[0]]
    return effect.gain if name == "gain" else float(effect.vector[name])


def _extreme(sizes: list[int], which: str) -> int:
    return min(sizes) if which == "smallest" else max(sizes)


def _least(values: Iterable[float]) -> float:
    """The smallest of those that are numbers."""
    return min((value for value in values if value == value), default=math.nan)


GAUGES: Mapping[str, Callable[[Any, str, tuple[str, ...]], float]] = {
    "analysis": _analysis, "blocks": _blocks, "cluster": _cluster, "lesion": _lesion, "shrink": _shrink,
    "drift": _drift, "vector": _vector,
}  # fmt: skip
