"""What is masked: the logits of one kind of part (edges, nodes, neurons or weights), their optimizer and their mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from passes.learn.noise import uniform_like
from passes.learn.parametrizations import Parametrization, StraightThrough
from passes.learn.weights import WeightMask

PARTS = ("weights", "neurons", "nodes", "edges")
_SAMPLE = 1 << 20
"""Densities of more logits than this are taken of an evenly spaced sample of so many."""


class Part:
    """Logits by key (parameter names for weights, one key for the others), float32.

    The mask is that of `logits + offset`: moving `offset` moves every logit. `pinned` entries (of a part with one key)
    are always kept. The optimizer is Adam, one for each tensor, so that a step can be made with a gradient as soon as
    it is there; `rate` is its learning rate, and with `epsilon` its ε is that multiple of the mean absolute gradient:
    where gradients are far below, the step is proportional to the gradient instead of ± the learning rate.
    """

    def __init__(
        self,
        name: str,
        logits: Mapping[str, Tensor],
        parametrization: Parametrization,
        *,
        rate: float,
        epsilon: float = 0.0,
        pinned: Tensor | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        clip: float | None = None,
    ) -> None:
        self.name, self.parametrization, self.rate, self.epsilon = name, parametrization, rate, epsilon
        self.logits = {key: value.detach().float().contiguous() for key, value in logits.items()}
        self.pinned, self.clip = pinned, clip
        self.offset = 0.0
        self.mean_gradient = self.largest_gradient = 0.0
        self.finite = True
        self._gradients: dict[str, Tensor] = {}
        self._seen: list[Tensor] = []
        kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
        self._optimizers = {
            key: kind([value], lr=rate, betas=betas, weight_decay=weight_decay, fused=value.device.type != "mps")
            for key, value in self.logits.items()
        }
        self._start_afresh()

    @property
    def total(self) -> int:
        """How many entries there are."""
        return sum(value.numel() for value in self.logits.values())

    # --- masks -----------------------------------------------------------------------------------------------------

    def weight_masks(
        self,
        where: tuple[int | str, ...],
        take: Callable[[str, Tensor], None] | None,
        *,
        complement: bool = False,
        kept: Mapping[str, Tensor] | None = None,
    ) -> dict[str, WeightMask]:
        """The masks of every parameter with the noise of `where`, or those `kept`, by straight-through gradient;
        gradients go to `take(key, gradient)`."""

        def receiver(key: str) -> Callable[[Tensor], None] | None:
            return None if take is None else lambda gradient: take(key, gradient)

        return {
            key: WeightMask(
                value,
                self.offset,
                self.parametrization if kept is None else StraightThrough(kept[key]),
                (*where, self.name, index),
                receiver(key),
                complement=complement,
            )
            for index, (key, value) in enumerate(self.logits.items())
        }

    def leaf(self) -> Tensor:
        """The shifted logits of a part with one key, as a new leaf that collects a gradient."""
        (value,) = self.logits.values()
        return (value + self.offset).requires_grad_()

    def mask(self, leaf: Tensor, where: tuple[int | str, ...]) -> Tensor:
        """The mask (N,) of such a leaf with the noise of `where`, differentiable."""
        noise = uniform_like(leaf, *where, self.name) if self.parametrization.noisy else None
        found = self.parametrization.draw(leaf, noise)
        return found if self.pinned is None else found.masked_fill(self.pinned, 1.0)

    def expected(self, leaf: Tensor) -> Tensor:
        """How likely each entry of such a leaf is kept."""
        found = self.parametrization.expected(leaf)
        return found if self.pinned is None else found.masked_fill(self.pinned, 1.0)

    def sample(self) -> Tensor:
        """Unshifted logits (M,) that stand for all: every one, or an evenly spaced million."""
        stride = max(1, self.total // _SAMPLE)
        values = [value.view(-1)[::stride] for value in self.logits.values()]
        return values[0] if len(values) == 1 else torch.cat(values)

    # --- steps -----------------------------------------------------------------------------------------------------

    def accumulate(self, key: str, gradient: Tensor) -> None:
        """Add to what `step` will use."""
        self._gradients[key] = self._gradients[key].add_(gradient) if key in self._gradients else gradient

    def step(self, extra: Callable[[Tensor], Tensor] | None = None) -> None:
        """One step with the gradients accumulated, clipped to the norm `clip`; see `update`."""
        if self.clip is not None and self._gradients:
            norm = torch.stack([gradient.norm() for gradient in self._gradients.values()]).norm()
            factor = (self.clip / (norm + 1e-6)).clamp(max=1.0)
            self._gradients = {key: gradient.mul_(factor) for key, gradient in self._gradients.items()}
        for key, gradient in self._gradients.items():
            self.update(key, gradient, extra)
        self._gradients = {}
        self.finish()

    def update(self, key: str, gradient: Tensor, extra: Callable[[Tensor], Tensor] | None = None) -> None:
        """One step of one tensor; `extra(logits)` is added to the gradient. Nothing is done, and `finite` is false from
        then on, where the gradient is not a finite number."""
        size = gradient.abs().sum(dtype=torch.float64)
        if not bool(torch.isfinite(size)):
            self.finite = False
            return
        self._seen.append(size)
        value, optimizer = self.logits[key], self._optimizers[key]
        if extra is not None:
            gradient = gradient.add_(extra(value + self.offset if self.offset else value))
        if self.epsilon and not self.mean_gradient:
            return  # the first step takes the scale of the gradients
        optimizer.param_groups[0]["eps"] = self.epsilon * self.mean_gradient + 1e-30 if self.epsilon else 1e-8
        value.grad = gradient
        optimizer.step()
        value.grad = None

    def finish(self) -> None:
        """After the last `update` of a step: the running mean of absolute gradients takes it in."""
        if self._seen:
            mean = float(torch.stack(self._seen).sum()) / self.total
            self.mean_gradient = 0.9 * self.mean_gradient + 0.1 * mean if self.mean_gradient else mean
            self.largest_gradient = max(self.largest_gradient, self.mean_gradient)
        self._seen = []

    def set_rate(self, factor: float) -> None:
        """The learning rate as a multiple of the part's."""
        for optimizer in self._optimizers.values():
            optimizer.param_groups[0]["lr"] = self.rate * factor

    def turn_hard(self, limit: float, *, afresh: bool) -> None:
        """Get ready for a step on hard masks (`passes.learn.learner.Phase`): logits within ±`limit`, ε at the mean
        gradient, and, if `afresh`, an optimizer that has seen nothing."""
        self.epsilon = 1.0
        for value in self.logits.values():
            value.clamp_(-limit - self.offset, limit - self.offset)
        if afresh:
            self._start_afresh()
            self.mean_gradient = 0.0

    def _start_afresh(self) -> None:
        """Optimizers that have seen nothing. Their moments are made here and not by the first step: taken while a run
        holds its activations, they would stay scattered among these, and the next run's would find no room between."""
        for key, value in self.logits.items():
            state = self._optimizers[key].state[value]
            if not state:
                place = torch.device("cpu") if value.device.type == "mps" else value.device
                state["step"] = torch.zeros((), dtype=torch.float32, device=place)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(value), torch.zeros_like(value)
            for each in state.values():
                each.zero_()

    # --- keeping ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on; tensors are the part's own."""
        found = {f"{self.name}/{key}": value for key, value in self.logits.items()}
        for key, optimizer in self._optimizers.items():
            for name, value in optimizer.state[self.logits[key]].items():
                found[f"{self.name}:{name}/{key}"] = torch.as_tensor(value)
        found[f"{self.name}:scalars"] = torch.tensor(
            [self.offset, self.mean_gradient, self.largest_gradient, self.rate], dtype=torch.float64
        )
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state. Raises `KeyError` or `RuntimeError` where it is another part's."""
        for key, value in self.logits.items():
            value.copy_(state[f"{self.name}/{key}"])
            names = ("step", "exp_avg", "exp_avg_sq")
            kept = {n: state[f"{self.name}:{n}/{key}"] for n in names if f"{self.name}:{n}/{key}" in state}
            own = self._optimizers[key].state[value]
            own.update({n: t.clone() if n == "step" else t.clone().to(value.device) for n, t in kept.items()})
        scalars = state[f"{self.name}:scalars"].tolist()
        self.offset, self.mean_gradient, self.largest_gradient, self.rate = scalars


def total_of(parts: Iterable[Part]) -> int:
    """How many entries all parts have."""
    return sum(part.total for part in parts)
