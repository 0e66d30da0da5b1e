"""Densities end at their targets: the schedules, the projection, and the multipliers on a simulated training."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphir.errors import GraphirError
from passes.learn.control import Constant, Lagrangian, Projection, Ramp, Schedule, density_of, solve_offset


def test_targets_rise_linearly_or_in_the_logarithm_and_stay() -> None:
    linear = Schedule(0.9, 4)
    assert [linear.density(step) for step in range(5)] == pytest.approx([0.82, 0.64, 0.46, 0.28, 0.1])
    log = Schedule(0.9, 4, "log")
    assert [math.log(log.density(step)) for step in (0, 1, 9)] == pytest.approx(
        [math.log(0.1) * f for f in (0.2, 0.4, 1)]
    )
    assert Schedule(0.9).density(0) == pytest.approx(0.1)


def test_targets_rise_from_the_density_that_the_masks_start_at() -> None:
    linear = Schedule(0.9, 4, start=0.6)
    assert [linear.density(step) for step in range(5)] == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1])
    log = Schedule(0.99, 1, "log", start=0.16)
    assert [log.density(step) for step in range(2)] == pytest.approx([0.04, 0.01])


def test_a_target_above_one_asks_for_less_than_nothing() -> None:
    assert Schedule(1.2, 2).density(5) == pytest.approx(-0.2)
    assert Schedule(1.2, 4, "log", floor=0.01).density(1) == pytest.approx(0.01**0.4)
    with pytest.raises(GraphirError, match="nothing would be left"):
        Projection(Schedule(1.2))


@given(st.floats(1e-3, 0.99), st.floats(-20, 20), st.integers(0, 1000))
def test_the_projection_meets_the_density(wanted: float, start: float, seed: int) -> None:
    logits = 3 * torch.randn(500, generator=torch.Generator().manual_seed(seed))
    density = density_of(logits, torch.sigmoid)
    assert density(solve_offset(density, wanted, start, 1e-5))[0] == pytest.approx(wanted, rel=1e-4)


def test_the_derivative_of_a_density() -> None:
    logits = torch.randn(50, dtype=torch.float64)
    density = density_of(logits, torch.sigmoid)
    assert density(0.3)[1] == pytest.approx((density(0.3 + 1e-6)[0] - density(0.3 - 1e-6)[0]) / 2e-6, rel=1e-5)


def train(control: Lagrangian, steps: int, initial: float, entries: int = 400) -> list[float]:
    """Densities of entries of very different use: logistic masks under Adam, learning rate 0.2 falling to zero."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.full((entries,), initial, requires_grad=True)
    use = torch.linspace(0, -8, entries).exp()
    adam = torch.optim.Adam([logits], lr=0.2)
    found = []
    scale = 0.0
    for step in range(steps):
        adam.param_groups[0]["lr"] = 0.2 * (1 - step / steps)
        kept = torch.sigmoid(logits)
        density = kept.mean()
        found.append(float(density.detach()))
        force = control.force(found[-1], step, scale)
        noise = 1 + 0.5 * torch.randn(entries, generator=generator)
        (gradient,) = torch.autograd.grad((use * noise * (1 - kept) ** 2).mean(), logits)
        (push,) = torch.autograd.grad(torch.sigmoid(logits).mean(), logits)
        scale = float(gradient.abs().sum() / push.sum())
        logits.grad = gradient + force * push
        adam.step()
    return found


@pytest.mark.parametrize("initial", [2.0, 0.0, -1.0])
@pytest.mark.parametrize("target", [0.9, 0.975])
@pytest.mark.parametrize("steps", [200, 500])
def test_multipliers_end_at_the_target_without_shooting_past_it(initial: float, target: float, steps: int) -> None:
    densities = train(Lagrangian(Schedule(target)), steps, initial)
    assert densities[-1] == pytest.approx(1 - target, rel=0.05)
    assert min(densities) > 0.2 * (1 - target)  # from all open with no warm-up, the density falls through at first


def test_a_higher_target_above_one_pushes_harder() -> None:
    forces = [
        [control.force(0.5, step, 1.0) for step in range(10)]
        for control in (Lagrangian(Schedule(target)) for target in (0.9, 1.0, 1.05, 1.2))
    ]
    for weaker, stronger in pairwise(forces):
        assert stronger[0] >= weaker[0] and stronger[-1] >= weaker[-1]
    assert forces[3][-1] > forces[2][-1] > forces[1][-1]


def test_multipliers_keep_pushing_for_a_target_above_one() -> None:
    control = Lagrangian(Schedule(1.1))
    forces = [control.force(0.3, step, 1.0) for step in range(50)]
    assert forces == sorted(forces)
    assert forces[-1] > 5


def test_multipliers_go_on_from_their_state() -> None:
    control = Lagrangian(Schedule(0.9))
    for step in range(20):
        control.force(0.5 - 0.01 * step, step, 1.0)
    other = Lagrangian(Schedule(0.9))
    other.load(control.state())
    assert other.force(0.2, 20, 1.0) == control.force(0.2, 20, 1.0)


def test_the_published_ramp() -> None:
    ramp = Ramp(2.0, 100.0, 0.5, warmup=10, cooldown=4)
    assert [ramp.force(0.5, step, 0.0) for step in (0, 5, 10, 12, 14, 30)] == pytest.approx([2, 101, 200, 100.5, 1, 1])
    assert Constant(3.0).force(0.1, 7, 9.0) == 3.0
