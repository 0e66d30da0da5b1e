"""Sparsity control: what makes the expected density of a part end where it shall.

`Projection` moves all logits by one number each step, so that the density is the target's at all times: learning only
decides which entries are kept. `Lagrangian` pushes with a force that grows while the density is too high. `Ramp` pushes
with the published schedule of DiscoGP and ends wherever that leads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from graphir.errors import GraphirError


@dataclass(frozen=True)
class Schedule:
    """The target sparsity over the training: it rises over `warmup` steps, linearly or linearly in log(1 − sparsity),
    from that at which the density is `start`, and stays. Above 1 it asks for more than everything, which keeps the push
    from easing off."""

    target: float
    warmup: int = 0
    kind: Literal["linear", "log"] = "linear"
    floor: float = 1e-4
    start: float = 1.0

    def density(self, step: int) -> float:
        """1 − the target at a step."""
        if step >= self.warmup:
            return 1.0 - self.target
        share = (step + 1) / (self.warmup + 1)
        if self.kind == "linear":
            return self.start + (1.0 - self.target - self.start) * share
        last = max(1.0 - self.target, self.floor)
        return math.exp(math.log(self.start) * (1 - share) + math.log(last) * share)


class Control:
    """Of one part. `offset_for` may move its logits before a step, `force` is ∂penalty/∂density in the step."""

    def offset_for(self, density: Callable[[float], tuple[float, float]], offset: float, step: int) -> float:
        """The offset to use, given what a density and its derivative are at an offset."""
        del density, step
        return offset

    def force(self, density: float, step: int, scale: float) -> float:
        """How hard to push the density down. `scale` is the force that balances the part's mean absolute gradient."""
        del density, step, scale
        return 0.0

    def state(self) -> list[float]:
        """Numbers that the next step depends on."""
        return []

    def load(self, state: list[float]) -> None:
        """Take them over."""
        del state


@dataclass
class Projection(Control):
    """Shift all logits so that the expected density is the scheduled one."""

    schedule: Schedule
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.schedule.target >= 1:
            raise GraphirError(
                f"a projection cannot hold a sparsity of {self.schedule.target:.4g}: nothing would be left",
                ['give a target below 1, or control: "lagrangian"'],
            )

    def offset_for(self, density: Callable[[float], tuple[float, float]], offset: float, step: int) -> float:
        """Where the density is met."""
        wanted = min(max(self.schedule.density(step), 1e-9), 1 - 1e-3)
        return solve_offset(density, wanted, offset, self.tolerance)


def solve_offset(
    density: Callable[[float], tuple[float, float]], wanted: float, start: float, tolerance: float = 1e-4
) -> float:
    """The offset at which an increasing density is `wanted`, by Newton's method in the logarithm kept inside a bracket;
    the nearest end of ±60 where there is none."""
    low, high, offset = -60.0, 60.0, min(max(start, -60.0), 60.0)
    for _ in range(60):
        value, slope = density(offset)
        if abs(value - wanted) <= tolerance * wanted or high - low < 1e-6:
            break
        low, high = (low, offset) if value > wanted else (offset, high)
        move = math.log(wanted / max(value, 1e-30)) * value / slope if slope > 1e-30 else math.inf
        inside = abs(move) < 4 and low < offset + move < high
        offset = offset + move if inside else (low + high) / 2
    return offset


@dataclass
class Lagrangian(Control):
    """A force F = scale * (λ + proportional * y), λ rising by `rate` * y a step, where y in [-1, 1] is the logarithm of
    what the density will be `horizon` steps ahead, at its present speed, over what it shall be. A target sparsity of 1
    or above is never reached: y is then the target, so that 1.2 pushes harder than 1.

    The published multipliers climb by Adam with every step that the density is too high, whatever the distance, and
    come down as slowly: λ winds up, and the density shoots past the target. Here λ moves with the distance, the
    forecast turns it round before the target is reached, `scale` makes it independent of loss, model and number of
    entries, and λ never goes below `lowest`, so that there is little to unwind. A part that starts sparser than the
    schedule stays as it is until the schedule has come down.
    """

    schedule: Schedule
    rate: float = 0.2
    proportional: float = 1.0
    horizon: float = 30.0
    lowest: float = -1.0
    multiplier: float = 0.0
    last: float = 0.0
    trend: float = 0.0
    start: float = 0.0

    def force(self, density: float, step: int, scale: float) -> float:
        """See the class."""
        self.start = self.start or density
        wanted = min(self.schedule.density(step), self.start)
        now = math.log(max(density, self.schedule.floor))
        if self.last:
            self.trend += 0.3 * ((now - self.last) - self.trend)
        self.last = now
        ahead = now + self.horizon * self.trend
        error = max(-1.0, min(1.0, ahead - math.log(max(wanted, self.schedule.floor)))) if wanted > 0 else 1.0 - wanted
        self.multiplier = max(self.lowest, self.multiplier + self.rate * error)
        return scale * (self.multiplier + self.proportional * error)

    def state(self) -> list[float]:
        """Multiplier, last logarithm of the density, its trend, the first density."""
        return [self.multiplier, self.last, self.trend, self.start]

    def load(self, state: list[float]) -> None:
        """Take them over."""
        self.multiplier, self.last, self.trend, self.start = state


@dataclass
class Ramp(Control):
    """DiscoGP's λ (Yu et al. 2024, released code): from `base` up to `base` · `highest` over the warm-up, then linearly
    down to `base` · `lowest` over the cool-down; the penalty is λ times the expected density."""

    base: float
    highest: float
    lowest: float
    warmup: int
    cooldown: int

    def force(self, density: float, step: int, scale: float) -> float:
        """λ at the step."""
        del density, scale
        if step < self.warmup:
            return self.base + self.base * (self.highest - 1) * step / self.warmup
        share = min((step - self.warmup) / max(self.cooldown, 1), 1.0)
        return self.base * (self.highest + (self.lowest - self.highest) * share)


@dataclass
class Constant(Control):
    """The penalty is λ times the expected density, throughout; with `per_logit`, times the mean logit."""

    weight: float
    per_logit: bool = False

    def force(self, density: float, step: int, scale: float) -> float:
        """λ."""
        del density, step, scale
        return self.weight


def priced_or_bounded(price: Constant, bound: float | None, steps: int) -> Control:
    """The price where no bound on the density is given; else multipliers, whose target falls to it over half of the
    steps. What a price leaves is some other size than the one asked for, and the best few of many that are open, or of
    many that are closed, are no circuit."""
    if bound is None:
        return price
    return Lagrangian(Schedule(1.0 - bound, steps // 2, "log"))


def density_of(sample: Tensor, expected: Callable[[Tensor], Tensor]) -> Callable[[float], tuple[float, float]]:
    """Mean of `expected` over logits moved by an offset, and its derivative by that offset."""

    def found(offset: float) -> tuple[float, float]:
        moved = torch.tensor(offset, dtype=torch.float64, device=sample.device, requires_grad=True)
        with torch.enable_grad():
            mean = expected(sample + moved.to(sample)).mean(dtype=torch.float64)
            (slope,) = torch.autograd.grad(mean, moved)
        return float(mean.detach()), float(slope)

    return found
