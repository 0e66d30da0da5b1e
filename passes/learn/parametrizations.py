"""How logits become masks: each parametrization maps logits l and noise u ~ U(0, 1) to masks and their slopes ∂m/∂l.

All but `passes.learn.matryoshka` act elementwise, so that a mask over 10⁸ weights is made and differentiated in pieces,
without a graph of operations. σ(l) is the score of an entry in all of them: it grows with l, and l > 0 keeps.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_TINY = 1e-7


class Parametrization(abc.ABC):
    """`noisy` says whether `uniform` is used (it is None otherwise)."""

    noisy: bool = True

    @property
    def noisy_slope(self) -> bool:
        """Whether the slope depends on the noise as well; where not, it need not be drawn again to differentiate."""
        return self.noisy

    @abc.abstractmethod
    def mask(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """The mask, a new tensor of the shape of `logits`; without gradient."""

    @abc.abstractmethod
    def slope(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """∂mask/∂logits, a new tensor; what a straight-through estimator uses in its place."""

    def expected(self, logits: Tensor) -> Tensor:
        """How likely an entry is kept, in [0, 1]: differentiable, what densities are taken of."""
        return torch.sigmoid(logits)

    def expected_slope(self, logits: Tensor) -> Tensor:
        """Derivative of `expected`, a new tensor."""
        return _curve(torch.sigmoid(logits))

    def drawn(self, logits: Tensor, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mask and its slope, new tensors; without gradient."""
        return self.mask(logits, uniform), self.slope(logits, uniform)

    def draw(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """The mask with its gradient."""
        with torch.no_grad():
            mask, slope = self.drawn(logits, uniform)
        result: Tensor = _Sloped.apply(logits, mask, slope)  # type: ignore[no-untyped-call]
        return result

    def at(self, share: float) -> Parametrization:
        """The parametrization when `share` in [0, 1] of the training is over."""
        del share
        return self


class _Sloped(torch.autograd.Function):
    """A mask whose gradient is a given slope."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, mask: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return mask.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None


def _curve(probability: Tensor) -> Tensor:
    """p (1 − p), in place."""
    return probability.addcmul_(probability, probability, value=-1)


@dataclass(frozen=True)
class HardConcrete(Parametrization):
    """s = σ((log u − log(1 − u) + l) / β), m = clip(s (ζ − γ) + γ, 0, 1): Louizos et al. 2018, equation 11, with the
    constants of Edge Pruning (Bhaskar et al. 2024). An entry counts by P(m > ½) = σ(l), or with `nonzero` by P(m > 0),
    the expected L0 of Louizos et al."""

    beta: float = 2.0 / 3.0
    gamma: float = -0.1
    zeta: float = 1.1
    epsilon: float = 1e-6
    nonzero: bool = False

    def expected(self, logits: Tensor) -> Tensor:
        """See the class."""
        return torch.sigmoid(logits - self._shift if self.nonzero else logits)

    def expected_slope(self, logits: Tensor) -> Tensor:
        """See the class."""
        return _curve(torch.sigmoid(logits - self._shift if self.nonzero else logits))

    def _gate(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        assert uniform is not None
        return uniform.clamp(self.epsilon, 1 - self.epsilon).logit_().add_(logits).div_(self.beta).sigmoid_()

    def mask(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """See the class."""
        return self._gate(logits, uniform).mul_(self.zeta - self.gamma).add_(self.gamma).clamp_(0, 1)

    def slope(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """See the class."""
        gate = self._gate(logits, uniform)
        stretched = gate * (self.zeta - self.gamma) + self.gamma
        inside = (stretched > 0) & (stretched < 1)
        return _curve(gate).mul_((self.zeta - self.gamma) / self.beta).mul_(inside)

    @property
    def _shift(self) -> float:
        return self.beta * math.log(-self.gamma / self.zeta)

    def probability_zero(self, logits: Tensor) -> Tensor:
        """P(m = 0) = σ(β log(−γ / ζ) − l), equation 12 of the same."""
        return torch.sigmoid(self._shift - logits).clamp(self.epsilon, 1 - self.epsilon)

    def soft(self, logits: Tensor, factor: float = 0.8) -> Tensor:
        """The deterministic mask of evaluation: σ(0.8 l / β), the round(Σ P(m = 0)) smallest set to zero."""
        found = torch.sigmoid(logits / self.beta * factor)
        if dropped := int(self.probability_zero(logits).sum().round()):
            found[torch.argsort(logits)[:dropped]] = 0.0
        return found


@dataclass(frozen=True)
class GumbelSigmoid(Parametrization):
    """m = 1[l + (log u - log(1 - u)) / κ > 0], straight-through (Csordás et al. 2021; DiscoGP, Yu et al. 2024).

    The gradient is that of s = σ((l + noise) / τ), s (1 - s) / τ (`sample`, as published), or what this is on average
    as τ → 0, σ(l) (1 - σ(l)) (`mean`): far less noise where τ is small, and nothing of the sample need be kept.
    With `sharpen` above 1 the noise is scaled down by κ, from 1 at the start geometrically to `sharpen` at the end, so
    that what is learned in the end is the mask that is kept. Published: 1.
    """

    temperature: float = 1.0
    estimator: Literal["sample", "mean"] = "sample"
    sharpen: float = 1.0
    share: float = 0.0

    @property
    def noisy_slope(self) -> bool:
        """See `Parametrization`."""
        return self.estimator == "sample"

    @property
    def sharpness(self) -> float:
        """κ now."""
        return float(self.sharpen**self.share)

    def mask(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """See the class."""
        assert uniform is not None
        return self.expected(logits).gt_(uniform)

    def slope(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """See the class."""
        if self.estimator == "mean":
            return _curve(torch.sigmoid(logits))
        assert uniform is not None
        noise = (1 - uniform).clamp_(_TINY, 1 - _TINY).logit_()  # so that s > 1/2 where u < σ(l)
        return _curve(noise.div_(self.sharpness).add_(logits).div_(self.temperature).sigmoid_()).div_(self.temperature)

    def expected(self, logits: Tensor) -> Tensor:
        """P(m = 1) = σ(κ l)."""
        return torch.sigmoid(logits if self.sharpen == 1 else logits * self.sharpness)

    def expected_slope(self, logits: Tensor) -> Tensor:
        """Derivative of `expected`."""
        return _curve(self.expected(logits)).mul_(self.sharpness)

    def at(self, share: float) -> GumbelSigmoid:
        """With less noise."""
        return self if self.sharpen == 1 else replace(self, share=share)


@dataclass(frozen=True, eq=False)
class StraightThrough(Parametrization):
    """The mask is `kept`, whatever the logits; its gradient goes straight to them."""

    kept: Tensor
    noisy = False

    def mask(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """See the class."""
        return self.kept.to(logits.dtype)

    def slope(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """See the class."""
        return torch.ones_like(logits)


@dataclass(frozen=True)
class ScheduledSigmoid(Parametrization):
    """Continuous sparsification (Savarese et al. 2020; Lepori et al. 2023): m = σ(β l), β rising geometrically."""

    first: float = 1.0
    last: float = 200.0
    share: float = 0.0
    noisy = False

    @property
    def beta(self) -> float:
        """The inverse temperature now."""
        return self.first * float((self.last / self.first) ** self.share)

    def mask(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """See the class."""
        return (logits * self.beta).sigmoid_()

    def slope(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """See the class."""
        return _curve((logits * self.beta).sigmoid_()).mul_(self.beta)

    def expected(self, logits: Tensor) -> Tensor:
        """See the class."""
        return torch.sigmoid(logits * self.beta)

    def expected_slope(self, logits: Tensor) -> Tensor:
        """See the class."""
        return self.slope(logits, None)

    def at(self, share: float) -> ScheduledSigmoid:
        """See the class."""
        return replace(self, share=share)


@dataclass(frozen=True)
class UniformGradient(Parametrization):
    """Uniform gradient sampling (Li & Janson 2024): m is zero or one but on a stretch of width w = p (1 − p), p = σ(l).

    m = 1 − clip((u − p) / w + ½, 0, 1); where it is inside the stretch (which has probability w), ∂m/∂p = 1 / w times
    the w that the gradient is scaled by, so ∂m/∂l = p (1 − p). Where `alive` is given, a draw keeps only those of its
    open entries (N,) that it says, the others are zero and have no gradient.
    """

    scale: float = 1.0
    alive: Callable[[Tensor], Tensor] | None = None

    def drawn(self, logits: Tensor, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        """See the class."""
        mask, slope = super().drawn(logits, uniform)
        if self.alive is None:
            return mask, slope
        alive = self.alive(mask > 0)
        return mask * alive, slope * alive

    def mask(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """See the class."""
        assert uniform is not None
        kept = torch.sigmoid(logits)
        width = (kept * (1 - kept)).mul_(self.scale).clamp_(min=_TINY)
        return 1 - (uniform - kept).div_(width).add_(0.5).clamp_(0, 1)

    def slope(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """See the class."""
        mask = self.mask(logits, uniform)
        inside = (mask > 1e-3) & (mask < 1 - 1e-3)
        return _curve(torch.sigmoid(logits)).mul_(inside)
