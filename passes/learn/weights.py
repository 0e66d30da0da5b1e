"""Masks over parameters, for a forward and a backward that hold one masked copy of each weight and nothing else.

Of size of the parameters are then: the model, its masked copy, the logits and the two moments of the optimizer.
The noise is drawn again in the backward instead of being kept, and a gradient lives only until its parameter's logits
have been updated with it: while the backward runs (`WeightMask.take`), where one backward makes a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from passes.learn.noise import uniform_like
from passes.learn.parametrizations import Parametrization

_MAPPED = (32 << 20) + (1 << 16)
"""Bytes of which the C library asks the system for memory apart (`mallopt`, M_MMAP_THRESHOLD at its highest)."""


class WeightMask:
    """One parameter's mask as `graphir.run.masks.Masks.weights` takes it: called with the weight, gives W · m, or with
    `complement` W · (1 - m). Backward hands ∂L/∂logits (of the circuit's mask, in both cases) to `take`; `logits`
    themselves get no gradient.
    """

    def __init__(
        self,
        logits: Tensor,
        offset: float,
        parametrization: Parametrization,
        where: tuple[int | str, ...],
        take: Callable[[Tensor], None] | None,
        *,
        complement: bool = False,
    ) -> None:
        self.logits, self.offset, self.parametrization, self.where = logits, offset, parametrization, where
        self.take, self.complement = take, complement

    def __call__(self, weight: Tensor) -> Tensor:
        """The masked weight."""
        if self.take is None:
            with torch.no_grad():
                return self.masked(weight)
        token = torch.zeros((), device=weight.device, requires_grad=True)
        result: Tensor = _MaskedWeight.apply(token, weight, self)  # type: ignore[no-untyped-call]
        return result

    def masked(self, weight: Tensor) -> Tensor:
        """The masked weight, without gradient."""
        mask = self.parametrization.mask(self._shifted(), self._uniform())
        mask = 1 - mask if self.complement else mask
        if weight.dtype != mask.dtype:
            return mask.mul_(weight).to(weight.dtype)
        return torch.mul(mask, weight, out=_apart(weight))

    def gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        """∂L/∂logits from ∂L/∂(masked weight), in one new tensor."""
        uniform = self._uniform() if self.parametrization.noisy_slope else None
        slope = self.parametrization.slope(self._shifted(), uniform)
        slope.mul_(weight).mul_(grad)
        return slope.neg_() if self.complement else slope

    def _shifted(self) -> Tensor:
        return self.logits + self.offset if self.offset else self.logits

    def _uniform(self) -> Tensor | None:
        return uniform_like(self.logits, *self.where) if self.parametrization.noisy else None


def _apart(like: Tensor) -> Tensor:
    """Room for a tensor that goes before those made after it. In the heap it would leave a hole among them, of which
    they take a part, too little for the next such tensor; of what lies apart only what is written takes memory."""
    if like.device.type != "cpu":
        return torch.empty_like(like, memory_format=torch.contiguous_format)
    return like.new_empty(max(like.numel(), _MAPPED // like.element_size()))[: like.numel()].view(like.shape)


class _MaskedWeight(torch.autograd.Function):
    """The `token` is there to be asked for a gradient; the logits are updated in place and must not be saved."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, weight: Tensor, mask: WeightMask) -> Tensor:
        ctx.weight, ctx.mask = weight, mask
        return mask.masked(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        ctx.mask.take(ctx.mask.gradient(grad, ctx.weight))
        return None, None, None
