"""One number for a set of kept edges, many times over: what the searches for knock-outs maximize.

F(C) is a task metric of the hard-masked program, averaged over a few held-out examples. Each set is run once (results
are kept), ablation values are computed once, and a run starts from the first component whose masks differ from those of
the run before it (`graphir.run.resume`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphir.algebra_sum import CircuitSum, with_factors
from graphir.circuit import Circuit
from graphir.errors import GraphirError, UnknownNameError
from graphir.names import closest
from graphir.run.masks import Masks
from graphir.run.program import MaskedProgram
from graphir.run.resume import ResumableRun
from passes.ablations import ReferenceSource, source_of
from passes.measure import Evaluator
from passes.metrics import SCORED, default_metric, kl_from, logits_at
from passes.task import Batch, Task

Kept = NDArray[np.bool_]
Metric = Callable[[Tensor, Batch], Tensor]


class BudgetSpentError(GraphirError):
    """The runs allowed are used up. Searches catch it and return what they have."""


@dataclass(frozen=True, eq=False)
class Component:
    """A part of a circuit that can be knocked out: a name and the edges (indices) that go with it."""

    name: str
    edges: NDArray[np.int64]


def components_of(circuit: Circuit, of: str) -> tuple[Component, ...]:
    """The kept edges, or the kept nodes with the kept edges that each writes, in the graph's order."""
    kept = np.flatnonzero(circuit.effective_edges)
    graph = circuit.graph
    if of == "edges":
        return tuple(Component(str(graph.edges[i]), np.array([i])) for i in kept.tolist())
    if of != "nodes":
        raise UnknownNameError("sort of component", of, ["edges", "nodes"])
    sources = np.asarray(graph.edge_src)[kept]
    return tuple(Component(graph.nodes[n].name, kept[sources == n]) for n in np.unique(sources).tolist())


class Scorer:
    """F of sets of edges, on the first `examples` examples of a split.

    `metric` is a task metric (`logit_diff`, `prob_diff`, `answer_log_prob`, `accuracy`) or `kl` to the full model in
    nats; `weights` are masks that every run shares (of a sum how often each counts); `source` gives ablation values,
    those of the task when left out. `runs` counts the runs made; `limit` (None: no limit) is how many may be made in
    all before `BudgetSpentError`.
    """

    def __init__(
        self,
        program: MaskedProgram,
        task: Task,
        *,
        split: str = "test",
        metric: str | None = None,
        examples: int = 16,
        batch_size: int = 8,
        weights: Mapping[str, NDArray[Any]] | None = None,
        limit: int | None = None,
        source: ReferenceSource | None = None,
    ) -> None:
        self.program, self.task, self.split = program, task, split
        self.metric = metric or default_metric(task, split)
        if self.metric != "kl" and self.metric not in SCORED:
            raise UnknownNameError("metric", self.metric, closest(self.metric, [*SCORED, "kl"]))
        self.runs, self.limit = 0, limit
        source = source or ReferenceSource(program, task)
        self.batches = [batch.to(program.device) for batch in task.batches(split, batch_size, limit=examples)]
        self.examples = sum(map(len, self.batches))
        self._weights = {
            name: torch.as_tensor(np.array(kept)).to(program.device, program.dtype)
            for name, kept in (weights or {}).items()
        } or None
        self._references = [source(batch) for batch in self.batches]
        self._resumable = [
            ResumableRun(program, batch.inputs, reference, batch.positions, self._weights)
            for batch, reference in zip(self.batches, self._references, strict=True)
        ]
        with torch.no_grad():
            self._full = [
                logits_at(program.outputs(batch.inputs, positions=batch.positions), batch) for batch in self.batches
            ]
        self._known: dict[bytes, tuple[float, float]] = {}

    @property
    def model(self) -> float:
        """F of the full model."""
        return self._mean(self._full, self._value)

    @property
    def left(self) -> int:
        """Runs left; a very large number without a limit."""
        return 2**62 if self.limit is None else self.limit - self.runs

    def known(self, kept: Kept) -> bool:
        """Whether F of this set costs no run any more."""
        return np.packbits(kept).tobytes() in self._known

    def __call__(self, kept: Kept) -> float:
        """F with the edges `kept` (E,) bool. `BudgetSpentError` for a set that is new when the runs are used up."""
        return self._measure(kept)[0]

    def kl(self, kept: Kept) -> float:
        """KL(model ‖ kept) in nats."""
        return self._measure(kept)[1]

    def _measure(self, kept: Kept) -> tuple[float, float]:
        key = np.packbits(kept).tobytes()
        if key not in self._known:
            if self.left <= 0:
                raise BudgetSpentError(f"the budget of {self.limit} runs is spent")
            self.runs += 1
            mask = torch.as_tensor(np.array(kept)).to(self.program.device, self.program.dtype)
            logits = [logits_at(run(mask), batch) for run, batch in zip(self._resumable, self.batches, strict=True)]
            divergence = self._mean(logits, lambda found, _, full: kl_from(full, found).clamp(min=0))
            value = divergence if self.metric == "kl" else self._mean(logits, self._value)
            self._known[key] = value, divergence
        return self._known[key]

    def _value(self, found: Tensor, batch: Batch, full: Tensor) -> Tensor:
        return kl_from(full, found) if self.metric == "kl" else SCORED[self.metric](found, batch)

    def _mean(self, logits: Sequence[Tensor], value: Callable[[Tensor, Batch, Tensor], Tensor]) -> float:
        parts = zip(logits, self.batches, self._full, strict=True)
        return sum(float(value(*part).double().sum()) for part in parts) / self.examples

    def gradient(self, kept: Kept) -> NDArray[np.float64]:
        """∂F/∂mask (E,) with the edges `kept`: to first order, what F loses when an edge that is kept goes. Counts as
        three runs."""
        if self.left <= 0:
            raise BudgetSpentError(f"the budget of {self.limit} runs is spent")
        self.runs += 3
        total = torch.zeros(len(kept), dtype=torch.float64)
        for batch, reference, full in zip(self.batches, self._references, self._full, strict=True):
            mask = torch.as_tensor(np.array(kept)).to(self.program.device, self.program.dtype).requires_grad_()
            outputs = self.program.outputs(
                batch.inputs, masks=Masks(edges=mask, weights=self._weights), reference=reference,
                positions=batch.positions,
            )  # fmt: skip
            value = self._value(logits_at(outputs, batch), batch, full).sum()
            total += torch.autograd.grad(value, [mask])[0].double().cpu()
        return (total / self.examples).numpy()


def evaluator_of(
    found: Circuit | CircuitSum, program: MaskedProgram, task: Task, split: str, batch_size: int
) -> Evaluator:
    """Measures on a split with the ablation values of the circuit (`passes.ablations.source_of`)."""
    circuit, _ = with_factors(found)
    return Evaluator(program, task, split, batch_size, source=source_of(circuit, program, task))


def without(kept: Kept, components: Iterable[Component]) -> Kept:
    """`kept` less the edges of some components."""
    left = kept.copy()
    for component in components:
        left[component.edges] = False
    return left
