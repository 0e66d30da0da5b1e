"""Where logits start: all open, or at the ranks of scores, with zero where the target cuts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from graphir.circuit import Circuit
from graphir.errors import GraphirError, TrainingError
from graphir.run.masks import Masks
from passes.base import RunContext, count_for
from passes.eap import score_edges
from passes.learn.parametrizations import Parametrization
from passes.learn.parts import Part
from passes.learn.results import entries_of, pinned_nodes
from passes.learn.weights import WeightMask
from passes.metrics import attributable, logits_at

LOWEST, HIGHEST = -2.5, 3.0
_RESOLUTION = 1e-7
_EXAMPLES = 64
"""How many examples edges are attributed on."""
LIMIT = 6.0
"""Largest logit of a mask that shall be able to change sides."""


def constant_part(
    context: RunContext, name: str, value: float, parametrization: Parametrization, *, rate: float,
    betas: tuple[float, float] = (0.9, 0.999), clip: float | None = None, parameters: Sequence[str] | None = None,
) -> Part:  # fmt: skip
    """A part whose logits all start at one value; of weights those of `parameters`, the maskable ones when left out.
    `GraphirError` where the model has no such part."""
    program = context.program
    if name == "weights":
        parameters = program.maskable if parameters is None else parameters
        if not parameters:
            raise GraphirError("this model has no weights to mask", ["mask edges or nodes"])
        tensors = {key: program.traced.tensors[key] for key in parameters}
        logits = {key: torch.full_like(tensor, value, dtype=torch.float32) for key, tensor in tensors.items()}
    else:
        logits = {name: torch.full((entries_of(context, name),), value, device=program.device)}
    pinned = torch.as_tensor(pinned_nodes(context.graph), device=program.device) if name == "nodes" else None
    return Part(name, logits, parametrization, rate=rate, betas=betas, clip=clip, pinned=pinned)


def ranked(scores: np.ndarray, density: float, spread: float = 1.0) -> Tensor:
    """Logits (N,) float32: the log-odds of each score's rank, shifted so that twice as many entries start open as are
    to be kept, where a sampled mask still has a gradient; times `spread`."""
    total = len(scores)
    ranks = np.empty(total)
    ranks[np.argsort(scores, kind="stable")] = (np.arange(total) + 0.5) / total
    centre = min(max(1.0 - 2.0 * max(density, 1.0 / total), 0.02), 0.98)
    start = np.log(ranks / (1 - ranks)) - math.log(centre / (1 - centre))
    return torch.as_tensor(start, dtype=torch.float32).clamp_(LOWEST, HIGHEST).mul_(spread)


def start_from(origin: Circuit, parts: Mapping[str, Part]) -> None:
    """Give edges, nodes and neurons the logits that another circuit was learned to have: the log-odds of its scores,
    within ±`LIMIT`, so that any can still change. Weights, of which a circuit keeps no scores, start as they are.

    Raises `GraphirError` where the circuit has learned none of these.
    """
    known = [name for name, part in parts.items() if len(origin.scores.get(name, ())) == part.total]
    if not known or "steps_done" not in origin.provenance:
        wanted = " or ".join(name for name in parts if name != "weights") or "edges"
        raise GraphirError(
            f"there are no learned masks on {wanted} to start from",
            ["start from a circuit found by a method that learns masks on the same parts"],
        )
    for name in known:
        (logits,) = parts[name].logits.values()
        logits.copy_(torch.logit(torch.as_tensor(origin.scores[name], dtype=torch.float64)).clamp_(-LIMIT, LIMIT))


def density_of_origin(context: RunContext, name: str) -> float:
    """The expected density of the masks of a part that learning starts from; 1 where it starts from none."""
    scores = None if context.origin is None else context.origin.scores.get(name)
    return 1.0 if scores is None else max(float(np.mean(scores)), 1.0 / len(scores))


def is_attributed(scores: Iterable[Tensor], density: float, *, resolution: float = _RESOLUTION) -> bool:
    """Whether at least as many entries as shall be kept have an attribution, that is one above what float32 tells from
    nothing beside the largest. A saturated softmax passes no gradient: of what lies before it nothing is attributed,
    and such ranks would close what the task needs."""
    scores = list(scores)
    limit = resolution * max(float(each.max()) for each in scores)
    total = sum(each.numel() for each in scores)
    return sum(int((each > limit).sum()) for each in scores) >= count_for(density, total)


def attributed_edges(
    context: RunContext, density: float, *, batch_size: int, opened: float | None = None
) -> Tensor | None:
    """Logits (E,) at the ranks of edges by |EAP|, with a share `opened` of them above zero (twice the density to be
    kept when left out). None where too few are attributed (`is_attributed`)."""
    scores = np.abs(score_edges(context, batch_size=batch_size, examples=_EXAMPLES))
    if not is_attributed([torch.as_tensor(scores)], max(density, 1.0 / len(scores))):
        return None
    return ranked(scores, density if opened is None else opened / 2)


class _Ones(Parametrization):
    """The mask at one, differentiable."""

    noisy = False

    def mask(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        return torch.ones_like(logits)

    def slope(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        return torch.ones_like(logits)


def attributed_weights(
    context: RunContext, names: list[str], density: float, *, batch_size: int, examples: int, spread: float = 1.0
) -> dict[str, Tensor] | None:
    """Logits by parameter from |W · ∂metric/∂W|, its square averaged over batches (what pruning a weight alone costs,
    to first order): log scores, standardized, with zero at twice the density, clipped as ranks are; times `spread`.
    None where too few are attributed (`is_attributed`).

    Raises `TrainingError` where scores are not finite.
    """
    program, metric = context.program, attributable(context.metric)
    totals = {name: torch.zeros_like(program.traced.tensors[name], dtype=torch.float32) for name in names}
    stage = "weight-attribution"
    available = min(examples, len(context.task.examples("train")))
    context.observer.begin(stage, -(-available // batch_size))
    batches = context.task.batches("train", batch_size, shuffle=context.seed, limit=examples)
    for done, batch in enumerate(batches, 1):
        batch = batch.to(program.device)

        def receiver(name: str):  # type: ignore[no-untyped-def]
            return lambda gradient: totals[name].addcmul_(gradient, gradient)

        masks = {name: WeightMask(totals[name], 0.0, _Ones(), (), receiver(name)) for name in names}
        outputs = program.outputs(batch.inputs, masks=Masks(weights=masks), positions=batch.positions)
        metric(logits_at(outputs, batch), batch).sum().backward()
        context.observer.step(stage, done, {})
    context.observer.end(stage)
    if not is_attributed(totals.values(), density, resolution=_RESOLUTION**2):
        return None
    return {name: value.mul_(spread) for name, value in _standardized(totals, density).items()}


def _standardized(scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    """See `attributed_weights`; in place."""
    total = sum(value.numel() for value in scores.values())
    stride = max(1, total // (1 << 20))
    sample = torch.cat([value.view(-1)[::stride] for value in scores.values()]).double()
    if not bool(torch.isfinite(sample).all()):
        raise TrainingError(
            "weight scores are not finite", ["the model gives not-a-number on this data: try float32 weights"]
        )
    positive = sample[sample > 0].log()
    if len(positive) < 2:
        return {name: value.fill_(0.0) for name, value in scores.items()}
    ordered = sample.sort(descending=True).values
    limit = max(float(ordered[min(int(2 * density * len(ordered)), len(ordered) - 1)]), float(positive.min().exp()))
    spread = max(float(positive.std()), 1e-6)
    # The logistic distribution, whose quantiles the log-odds of ranks are, has standard deviation π / √3.
    factor = math.pi / math.sqrt(3) / spread
    return {
        name: value.clamp_(min=1e-45).log_().sub_(math.log(limit)).mul_(factor).clamp_(LOWEST, HIGHEST)
        for name, value in scores.items()
    }
