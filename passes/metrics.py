"""Task metrics at the predicting position, of logits (B, V) against a batch and the full model's logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from graphir.errors import DataError, UnknownNameError
from graphir.names import closest
from passes.task import Batch, Task


def logits_at(outputs: list[Tensor], batch: Batch) -> Tensor:
    """The first output (B, S, V) at each row's predicting position: (B, V). An output (B, V) or (B, 1, V), computed
    there already, is taken as it is."""
    logits = outputs[0]
    if logits.dim() == 2:
        return logits
    if logits.shape[1] == 1:
        return logits[:, 0]
    if batch.positions is None:
        raise DataError(
            f"the model answers at {logits.shape[1]} positions, and the task does not say which to read",
            ["give the task `positions`"],
        )
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, batch.positions.to(logits.device)]


def _answer(logits: Tensor, batch: Batch) -> Tensor:
    return logits.gather(1, batch.answers[:, None])[:, 0]


def _distractor(logits: Tensor, batch: Batch) -> Tensor:
    if batch.distractors is None:
        raise DataError(
            "this metric compares the answer with a distractor, the task has none",
            ["give each example a distractor, or use accuracy or kl"],
        )
    return logits.gather(1, batch.distractors[:, None])[:, 0]


def logit_diff(logits: Tensor, batch: Batch) -> Tensor:
    """logit(answer) − logit(distractor), (B,)."""
    return _answer(logits, batch) - _distractor(logits, batch)


def prob_diff(logits: Tensor, batch: Batch) -> Tensor:
    """p(answer) − p(distractor), (B,)."""
    probabilities = logits.float().softmax(-1)
    return _answer(probabilities, batch) - _distractor(probabilities, batch)


def answer_log_prob(logits: Tensor, batch: Batch) -> Tensor:
    """log p(answer), (B,)."""
    return _answer(logits.float().log_softmax(-1), batch)


def accuracy(logits: Tensor, batch: Batch) -> Tensor:
    """1 where the answer beats the distractor, or every token where there is none, ½ where they are level; (B,)."""
    rival = _distractor(logits, batch) if batch.distractors is not None else _best_other(logits, batch.answers)
    found = _answer(logits, batch)
    return (found > rival).float() + 0.5 * (found == rival).float()


def _best_other(logits: Tensor, answers: Tensor) -> Tensor:
    return logits.scatter(1, answers[:, None], -torch.inf).amax(-1)


def kl_from(full: Tensor, logits: Tensor) -> Tensor:
    """KL(full ‖ circuit) in nats over the whole vocabulary, (B,)."""
    target, found = full.float().log_softmax(-1), logits.float().log_softmax(-1)
    return (target.exp() * (target - found)).sum(-1)


def jsd_from(full: Tensor, logits: Tensor) -> Tensor:
    """Jensen–Shannon divergence of the model and the circuit in nats over the whole vocabulary, (B,): 0 where they
    agree, ln 2 where they share nothing. (Circuit Compositions reports 1 − JSD / ln 2.)"""
    target, found = full.float().log_softmax(-1), logits.float().log_softmax(-1)
    middle = torch.logaddexp(target, found) - torch.log(torch.tensor(2.0))
    return ((target.exp() * (target - middle)).sum(-1) + (found.exp() * (found - middle)).sum(-1)) / 2


def kendall_tau(full: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
    """Kendall's τ-b (B,) between the model's and the circuit's ranking of the candidates `tokens` (K,), as Edge
    Pruning reports it over the two-digit tokens of greater-than. Not-a-number where one ranks them all alike."""
    from scipy.stats import kendalltau

    pairs = zip(full[:, tokens].cpu().double().numpy(), logits[:, tokens].cpu().double().numpy(), strict=True)
    found = [float(kendalltau(theirs, ours).statistic) for theirs, ours in pairs]
    return torch.tensor(found, device=logits.device)


SCORED: Mapping[str, Callable[[Tensor, Batch], Tensor]] = {
    "logit_diff": logit_diff,
    "prob_diff": prob_diff,
    "answer_log_prob": answer_log_prob,
    "accuracy": accuracy,
}
"""Metrics of a run by itself. `kl` and `exact_match` compare with the full model (see `passes.measure`)."""


def default_metric(task: Task, split: str = "test") -> str:
    """`logit_diff` where every example has a distractor, else `kl`."""
    return "logit_diff" if all(row.distractor is not None for row in task.examples(split)) else "kl"


def attributable(name: str) -> Callable[[Tensor, Batch], Tensor]:
    """The metric of that name for gradients. KL to the full model has no gradient at the full model, accuracy none."""
    if name in ("kl", "accuracy", "exact_match"):
        return answer_log_prob
    if name not in SCORED:
        raise UnknownNameError("metric", name, closest(name, SCORED))
    return SCORED[name]
