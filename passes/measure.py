"""Measure circuits on a split of a task: how well the hard-masked program does what the model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphir.algebra_sum import CircuitSum
from graphir.circuit import Circuit
from graphir.run.circuit_module import hard_masks
from graphir.run.masks import Masks
from graphir.run.program import MaskedProgram
from passes.ablations import ReferenceSource
from passes.base import count_for, keep_top
from passes.metrics import (
    accuracy,
    answer_log_prob,
    jsd_from,
    kendall_tau,
    kl_from,
    logit_diff,
    logits_at,
    prob_diff,
)
from passes.observe import Observer, SilentObserver
from passes.task import Batch, Task

Metrics = dict[str, float]
TOKENS = 512
"""What a batch to be measured holds at least: of fewer tokens, a pass spends its time on reading weights."""


def masks_of(circuit: Circuit | CircuitSum, program: MaskedProgram, *, complement: bool = False) -> Masks:
    """The circuit's hard masks for `program`, or its complement's (see `graphir.run.circuit_module.hard_masks`). A sum
    runs with its added weights; its complement is that of the union."""
    if isinstance(circuit, CircuitSum):
        return hard_masks(circuit.circuit, program, complement=True) if complement else circuit.masks(program)
    return hard_masks(circuit, program, complement=complement)


class Evaluator:
    """Measures masks on one split, in batches of `batch_size` rows, more where these are short: up to `TOKENS` tokens.

    The full model's logits at the predicting positions are kept; ablation values are computed anew for each batch, so
    that memory does not grow with the data. They are the task's, unless a `source` gives others."""

    def __init__(
        self,
        program: MaskedProgram,
        task: Task,
        split: str = "test",
        batch_size: int = 8,
        observer: Observer | None = None,
        source: ReferenceSource | None = None,
    ) -> None:
        self.program, self.task, self.split = program, task, split
        self._tokens = candidate_tokens(task).to(program.device)
        self.observer = observer or SilentObserver()
        self._source = source or ReferenceSource(program, task)
        rows = max(batch_size, task.rows_for(split, TOKENS))
        self._batches = [batch.to(program.device) for batch in task.batches(split, rows)]
        with torch.no_grad():
            self._full = [
                logits_at(program.outputs(batch.inputs, positions=batch.positions), batch) for batch in self._batches
            ]
        self.full = self.summarize(self._full)
        self._empty: Metrics | None = None

    @property
    def empty(self) -> Metrics:
        """The circuit that keeps no edge: everything ablated."""
        if self._empty is None:
            zeros = torch.zeros(len(self.program.graph.edges), dtype=self.program.dtype, device=self.program.device)
            self._empty = self.summarize(self.logits(Masks(edges=zeros)))
            if "logit_diff" in self._empty:
                self._empty |= {
                    "logit_diff_ratio": _ratio(self._empty["logit_diff"], self.full["logit_diff"]),
                    "faithfulness": 0.0,
                }
        return self._empty

    def logits(self, masks: Masks) -> list[Tensor]:
        """Logits (B, V) at the predicting positions, batch by batch."""
        return self.logits_of([masks])[0]

    def logits_of(self, several: Sequence[Masks]) -> list[list[Tensor]]:
        """`logits` for several masks, each batch's ablation values computed once."""
        found: list[list[Tensor]] = [[] for _ in several]
        with torch.no_grad():
            for batch in self._batches:
                reference = self._source(batch)
                for masks, into in zip(several, found, strict=True):
                    outputs = self.program.outputs(
                        batch.inputs, masks=masks, reference=reference, positions=batch.positions
                    )
                    into.append(logits_at(outputs, batch))
        return found

    def measure(self, masks: Masks) -> Metrics:
        """All metrics of the masked program (see `measure_several`)."""
        return self.measure_several([masks])[0]

    def measure_several(self, several: Sequence[Masks]) -> list[Metrics]:
        """Means over the split: accuracy, cross_entropy, kl and jsd (nats), exact_match with the model's first choice;
        with two candidate tokens or more kendall_tau of their ranking by the model (0 where either ranks all alike);
        and, with distractors, logit_diff, prob_diff, logit_diff_ratio (to the model's) and faithfulness (the share of
        the way from the empty circuit's logit difference to the model's)."""
        found = [self.summarize(logits) for logits in self.logits_of(several)]
        for metrics in found:
            if "logit_diff" in metrics:
                metrics["logit_diff_ratio"] = _ratio(metrics["logit_diff"], self.full["logit_diff"])
        for metrics in found:
            if "logit_diff" in metrics:
                low = self.empty["logit_diff"]
                metrics["faithfulness"] = _ratio(metrics["logit_diff"] - low, self.full["logit_diff"] - low)
        return found

    def measure_circuit(self, circuit: Circuit | CircuitSum, *, complement: bool = False) -> Metrics:
        """All metrics of a circuit's hard masks (of a sum as it adds weights), or of its complement's."""
        return self.measure(masks_of(circuit, self.program, complement=complement))

    def summarize(self, logits: list[Tensor]) -> Metrics:
        """The metrics of logits, as `logits_of` gives them; without those that compare with the empty circuit."""
        sums: Metrics = {}
        rows = 0
        for batch, found, full in zip(self._batches, logits, self._full, strict=True):
            rows += len(batch)
            values_of = _values(found, full, batch)
            if len(self._tokens) > 1:
                values_of["kendall_tau"] = kendall_tau(full, found, self._tokens).nan_to_num(0.0)
            for name, values in values_of.items():
                sums[name] = sums.get(name, 0.0) + float(values.sum())
        means = {name: total / max(rows, 1) for name, total in sums.items()}
        if logits is self._full and "logit_diff" in means:
            means |= {"logit_diff_ratio": 1.0, "faithfulness": 1.0}
        return means


def _values(found: Tensor, full: Tensor, batch: Batch) -> dict[str, Tensor]:
    values = {
        "accuracy": accuracy(found, batch),
        "kl": kl_from(full, found).clamp(min=0),  # rounding may leave it below
        "jsd": jsd_from(full, found).clamp(min=0),
        "exact_match": (found.argmax(-1) == full.argmax(-1)).float(),
        "cross_entropy": -answer_log_prob(found, batch),
    }
    if batch.distractors is not None:
        values |= {"logit_diff": logit_diff(found, batch), "prob_diff": prob_diff(found, batch)}
    return values


def candidate_tokens(task: Task) -> Tensor:
    """(K,) every token that is an answer or a distractor in any split, in order: what a prompt of the task chooses
    from."""
    rows = [row for split in task.splits.values() for row in split]
    tokens = {row.answer for row in rows} | {row.distractor for row in rows if row.distractor is not None}
    return torch.tensor(sorted(tokens))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


@dataclass(frozen=True)
class CurvePoint:
    """One circuit of a ranking: the density asked for, the edges kept (without those on no path), metrics."""

    density: float
    edges: int
    metrics: Metrics


def curve(
    evaluator: Evaluator,
    scores: np.ndarray,
    densities: Sequence[float],
    *,
    absolute: bool = False,
    on_path: bool = True,
) -> list[CurvePoint]:
    """The nested circuits of a ranking (E,) at `densities`, measured."""
    graph = evaluator.program.graph
    circuits = []
    for density in densities:
        kept = keep_top(scores, count_for(density, len(scores)), absolute=absolute)
        circuit = Circuit(graph, kept, np.ones(len(graph.nodes), bool))
        circuits.append(circuit.on_path() if on_path else circuit)
    found = evaluator.measure_several([masks_of(c, evaluator.program) for c in circuits])
    return [CurvePoint(d, int(c.edges.sum()), m) for d, c, m in zip(densities, circuits, found, strict=True)]
