"""All evidence about one circuit, in one value: what a report shows and a check tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from graphir.algebra import needed_nodes
from graphir.algebra_sum import CircuitSum, with_factors
from graphir.circuit import Circuit
from graphir.columns import columns, json_object
from graphir.errors import GraphirError
from graphir.run.program import MaskedProgram
from passes.evidence.budget import Budget
from passes.evidence.completeness import Completeness, measure_completeness
from passes.evidence.controls import Controls, Discover, measure_controls
from passes.evidence.faithfulness import FaithfulnessCurves, measure_faithfulness
from passes.evidence.minimality import Minimality, measure_minimality
from passes.evidence.roc import EdgeRoc, Truth, edge_roc
from passes.evidence.scoring import evaluator_of
from passes.evidence.stability import CONFIDENCE, SeedRun, Stability, find_seeds, measure_stability
from passes.metrics import default_metric
from passes.observe import Observer, SilentObserver
from passes.task import Task

_Part = TypeVar("_Part")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known about a circuit on one split: metrics of the circuit, the model, the empty circuit and the
    complement; hard densities; and the tests. A test that was not asked for is None; one that could not be made is
    None too and named in `missing` with the reason."""

    circuit: Circuit = field(repr=False)
    metric: str
    split: str
    examples: int
    metrics: dict[str, float]
    model: dict[str, float]
    empty: dict[str, float]
    densities: dict[str, float]
    faithfulness: FaithfulnessCurves | None = None
    roc: EdgeRoc | None = None
    completeness: Completeness | None = None
    minimality: Minimality | None = None
    stability: Stability | None = None
    controls: Controls | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def flagged(self) -> bool:
        """Whether the same discovery works on random weights too."""
        return self.controls is not None and self.controls.flagged

    def value(self, name: str) -> float | None:
        """A number for conditions, by a dotted name; None where it was not measured.

        Metrics by their own names (`accuracy`, `jsd`, …), `model.accuracy`, `empty.kl`, `complement.accuracy`,
        `density.edges`; `cpr`, `cmd`, `auroc`, `auroc.greedy`; `minimality` (the smallest score as a share of the
        scale), `incompleteness` (the worst, likewise); `stability`, `stability.nodes`, `stability.weights` (the
        smallest IoU of a pair), `stability.mean`; `p.random`, `p.complement`; `random_weights` (share recovered).
        """
        return _numbers(self).get(name)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        parts = ("faithfulness", "roc", "completeness", "minimality", "stability", "controls")
        found = {name: None if (part := getattr(self, name)) is None else part.to_json() for name in parts}
        return json_object(
            {
                "circuit": self.circuit.name, "ablation": self.circuit.ablation, "metric": self.metric,
                "split": self.split, "examples": self.examples, "metrics": self.metrics, "model": self.model,
                "empty": self.empty, "densities": self.densities, "flagged": self.flagged,
                "missing": self.missing, **found,
            }
        )  # fmt: skip

    def __str__(self) -> str:
        names = [name for name in self.metrics if name in self.model]
        rows = [(name, self.metrics[name], self.model[name], self.empty.get(name)) for name in names]
        densities = ", ".join(f"{name} {share:.2%}" for name, share in self.densities.items())
        title = f"evidence for {self.circuit.name or '(unnamed)'}: {self.examples} held-out examples ({self.split})"
        lines = [title, f"hard densities: {densities}", columns(("metric", "circuit", "model", "empty"), rows)]
        for part in (
            self.faithfulness, self.roc, self.completeness, self.minimality, self.stability, self.controls,
        ):  # fmt: skip
            lines += ["", str(part)] if part is not None else []
        lines += ["", *(f"not measured: {name}: {why}" for name, why in self.missing.items())] if self.missing else []
        return "\n".join(lines)


def _numbers(evidence: Evidence) -> dict[str, float]:
    found = dict(evidence.metrics)
    found |= {f"model.{name}": value for name, value in evidence.model.items()}
    found |= {f"empty.{name}": value for name, value in evidence.empty.items()}
    found |= {f"density.{name}": value for name, value in evidence.densities.items()}
    if (curves := evidence.faithfulness) is not None:
        found |= {"cpr": curves.cpr, "cmd": curves.cmd}
    if (roc := evidence.roc) is not None:
        found |= {"auroc": roc.auroc, "auroc.greedy": roc.greedy_auroc}
    if (completeness := evidence.completeness) is not None:
        found |= {f"complement.{name}": value for name, value in completeness.complement.items()}
        found["incompleteness"] = completeness.worst.incompleteness / (completeness.scale or float("nan"))
    if (minimality := evidence.minimality) is not None:
        found["minimality"] = minimality.share
    if (stability := evidence.stability) is not None:
        found |= {f"stability.{part}": iou.smallest for part, iou in stability.parts.items()}
        found |= {"stability": stability.parts["edges"].smallest, "stability.mean": stability.parts["edges"].mean}
    if (controls := evidence.controls) is not None:
        found |= {"p.random": controls.random.p_value, "p.complement": controls.complement.p_value}
        if controls.random_weights is not None:
            found["random_weights"] = controls.random_weights.recovered
    return {name: value for name, value in found.items() if not math.isnan(value)}


def gather_evidence(
    circuit: Circuit | CircuitSum,
    program: MaskedProgram,
    task: Task,
    *,
    discover: Discover | None = None,
    seeds: Iterable[int] = (),
    seed_runs: Iterable[SeedRun] = (),
    controls: bool = True,
    truth: Truth | None = None,
    metric: str | None = None,
    split: str = "test",
    of: str | None = None,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    parts: Collection[str] | None = None,
    budget: Budget | None = None,
    observer: Observer | None = None,
) -> Evidence:
    """All evidence about a circuit of the program's graph, found here or imported; a sum runs as it adds weights.

    `discover` repeats the discovery: with each of `seeds` for stability (the circuit itself is one more run, unless its
    provenance names a seed among them; `seed_runs` are runs already made) and, with `controls`, on random weights.
    `truth` is the true circuit where it is known. `of` is what minimality removes, edges or nodes: edges when left out,
    and nodes where weights alone are masked. Knock-outs of completeness are nodes. With `parts` only these tests are
    made (faithfulness, roc, completeness, minimality, stability, controls). `confidence` is the level of intervals.
    What cannot be measured is named in `missing`; the rest stands.
    """
    budget, observer = budget or Budget(), observer or SilentObserver()
    whole, _ = with_factors(circuit)
    observer.begin("evidence", 6)
    evaluator = evaluator_of(circuit, program, task, split, budget.batch_size)
    name = metric or default_metric(task, split)
    gathering = _Gathering(observer, parts)
    shared: dict[str, Any] = {"metric": name, "split": split, "seed": seed, "budget": budget, "observer": observer}
    scores = whole.scores.get("edges")
    if scores is None and gathering.wants("faithfulness"):
        gathering.missing["faithfulness"] = "the circuit has no ranking of edges"
    removed = of or ("nodes" if whole.masks_weights_alone else "edges")
    absolute = bool(whole.provenance.get("absolute", True))
    runs = _runs(whole, program, discover, tuple(seeds), tuple(seed_runs), observer)
    return Evidence(
        circuit=whole,
        metric=name,
        split=split,
        examples=len(task.examples(split)),
        metrics=evaluator.measure_circuit(circuit),
        model=evaluator.full,
        empty=evaluator.empty,
        densities=hard_densities(whole),
        faithfulness=None
        if scores is None
        else gathering("faithfulness", lambda: measure_faithfulness(evaluator, scores, metric=name)),
        roc=None if truth is None else gathering("roc", lambda: edge_roc(whole, truth, absolute=absolute)),
        completeness=gathering(
            "completeness", lambda: measure_completeness(circuit, program, task, evaluator=evaluator, **shared)
        ),
        minimality=gathering("minimality", lambda: measure_minimality(circuit, program, task, of=removed, **shared)),
        stability=gathering(
            "stability",
            lambda: measure_stability(runs, bootstrap=budget.bootstrap, seed=seed, confidence=confidence),
        )
        if runs
        else None,
        controls=gathering(
            "controls",
            lambda: measure_controls(circuit, program, task, discover=discover, evaluator=evaluator, **shared),
        )
        if controls
        else None,
        missing=gathering.done(),
    )


class _Gathering:
    """Makes one test after the other; one that raises a `GraphirError` is named in `missing`."""

    def __init__(self, observer: Observer, parts: Collection[str] | None) -> None:
        self.missing: dict[str, str] = {}
        self._observer, self._count, self._parts = observer, 0, parts

    def wants(self, name: str) -> bool:
        return self._parts is None or name in self._parts

    def __call__(self, name: str, measure: Callable[[], _Part]) -> _Part | None:
        found = None
        if not self.wants(name):
            return None
        try:
            found = measure()
        except GraphirError as error:
            self.missing[name] = str(error.message)
        self._count += 1
        self._observer.step("evidence", self._count, {"missing": len(self.missing)})
        return found

    def done(self) -> dict[str, str]:
        """What is missing, at the end."""
        self._observer.end("evidence")
        return self.missing


def _runs(
    circuit: Circuit,
    program: MaskedProgram,
    discover: Discover | None,
    seeds: tuple[int, ...],
    known: tuple[SeedRun, ...],
    observer: Observer,
) -> tuple[SeedRun, ...]:
    """The circuit's own run, those already made, and those to make."""
    if not known and (discover is None or not seeds):
        return ()
    own = circuit.provenance.get("seed")
    runs = list(known)
    if isinstance(own, int) and own not in [run.seed for run in known]:
        runs.insert(0, SeedRun(own, circuit))
    made = {run.seed for run in runs}
    if discover is not None:
        runs += find_seeds(discover, [seed for seed in seeds if seed not in made], program, observer)
    return tuple(runs)


def hard_densities(circuit: Circuit) -> dict[str, float]:
    """Shares kept by the hard masks: edges that run, nodes they need, weights of masked parameters."""
    edges = circuit.effective_edges
    shares = {"edges": float(edges.mean()), "nodes": float(needed_nodes(circuit.graph, edges).mean())}
    return shares | {name: share for name, share in circuit.densities().items() if name == "weights"}
