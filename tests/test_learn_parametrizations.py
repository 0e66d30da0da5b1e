"""Masks from logits: values, gradients and probabilities, against formulas written out and finite differences."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphir.errors import GraphirError
from passes.learn import harden
from passes.learn.harden import keep_highest
from passes.learn.initial import ranked
from passes.learn.matryoshka import TopK, sigmoid_top_k
from passes.learn.noise import uniform_like
from passes.learn.parametrizations import (
    GumbelSigmoid,
    HardConcrete,
    Parametrization,
    ScheduledSigmoid,
    UniformGradient,
)
from passes.learn.parts import Part
from passes.learn.results import kept_count

LOGITS = torch.linspace(-3, 3, 13, dtype=torch.float64)
UNIFORM = torch.rand(13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def many(parametrization: Parametrization, logit: float, draws: int = 200_000) -> torch.Tensor:
    """Masks of one logit."""
    noise = torch.rand(draws, generator=torch.Generator().manual_seed(1))
    return parametrization.mask(torch.full((draws,), logit), noise)


@pytest.mark.parametrize(
    "parametrization", [HardConcrete(), ScheduledSigmoid(share=0.4)], ids=lambda p: type(p).__name__
)
def test_the_slope_is_the_derivative_of_the_mask(parametrization: Parametrization) -> None:
    step = 1e-6
    high, low = (parametrization.mask(LOGITS + sign * step, UNIFORM) for sign in (1, -1))
    assert torch.allclose(parametrization.slope(LOGITS, UNIFORM), (high - low) / (2 * step), atol=1e-5)


@pytest.mark.parametrize(
    "parametrization",
    [HardConcrete(), HardConcrete(nonzero=True), GumbelSigmoid(), GumbelSigmoid(sharpen=9, share=0.5),
     ScheduledSigmoid(share=0.3), UniformGradient()],
    ids=str,
)  # fmt: skip
def test_the_slope_of_the_expected_mask_is_its_derivative(parametrization: Parametrization) -> None:
    step = 1e-6
    high, low = parametrization.expected(LOGITS + step), parametrization.expected(LOGITS - step)
    assert torch.allclose(parametrization.expected_slope(LOGITS), (high - low) / (2 * step), atol=1e-7)


def test_hard_concrete_counts_half_or_nonzero() -> None:
    for logit in (-1.5, 0.0, 2.0):
        drawn = many(HardConcrete(), logit)
        assert float((drawn > 0.5).float().mean()) == pytest.approx(1 / (1 + math.exp(-logit)), abs=5e-3)
        nonzero = float(HardConcrete(nonzero=True).expected(torch.tensor(logit)))
        assert float((drawn > 0).float().mean()) == pytest.approx(nonzero, abs=5e-3)


def test_hard_concrete_has_the_stated_probability_of_zero() -> None:
    for logit in (-3.0, 0.0, 3.0):
        drawn = many(HardConcrete(), logit)
        wanted = float(HardConcrete().probability_zero(torch.tensor(logit)))
        assert float((drawn == 0).float().mean()) == pytest.approx(wanted, abs=5e-3)
        assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1


def test_the_deterministic_mask_drops_as_many_as_are_expected_to_be_zero() -> None:
    """And a hard mask keeps as many as the soft one adds up to."""
    soft = HardConcrete().soft(torch.tensor([-4.0, -3.0, 0.0, 4.0]))
    assert (soft == 0).tolist() == [True, True, False, False]
    assert soft[2:].tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-4 * 1.5 * 0.8))])
    part = Part("edges", {"edges": torch.tensor([-4.0, -3.0, 0.0, 4.0, 5.0])}, HardConcrete(), rate=0.1)
    assert kept_count(part, None) == round(0.5 + 0.9918 + 0.9975)


def test_gumbel_masks_are_zero_or_one_with_the_probability_of_the_logit() -> None:
    for sharpen, logit in ((1.0, 0.7), (4.0, -0.4)):
        drawn = many(GumbelSigmoid(sharpen=sharpen, share=1.0), logit)
        assert set(drawn.unique().tolist()) == {0.0, 1.0}
        assert float(drawn.mean()) == pytest.approx(1 / (1 + math.exp(-sharpen * logit)), abs=5e-3)


def test_the_sampled_gradient_of_gumbel_masks_is_on_average_that_of_the_mean() -> None:
    """E[s(1-s)/τ] goes to σ(l)(1-σ(l)) as τ goes to 0; and s > 1/2 exactly where the mask is one."""
    noise = torch.rand(400_000, generator=torch.Generator().manual_seed(2))
    logits = torch.full_like(noise, 0.8)
    sampled = GumbelSigmoid(0.05).slope(logits, noise)
    mean = GumbelSigmoid(0.05, "mean").slope(logits, noise)
    assert float(sampled.mean()) == pytest.approx(float(mean[0]), rel=0.03)
    assert float(sampled.var()) > 100 * float(mean.var() + 1e-6)
    soft = torch.sigmoid(((1 - noise).logit() + logits) / 0.05)
    assert torch.equal(soft > 0.5, GumbelSigmoid(0.05).mask(logits, noise) == 1)


@pytest.mark.parametrize("estimator", ["mean", "sample"])
def test_noise_is_drawn_again_for_a_slope_only_where_it_matters(estimator: Literal["mean", "sample"]) -> None:
    parametrization = GumbelSigmoid(estimator=estimator)
    logits = torch.linspace(-2, 2, 9)
    slopes = [parametrization.slope(logits, torch.full_like(logits, at)) for at in (0.2, 0.7)]
    assert parametrization.noisy_slope == (not torch.equal(*slopes))


def test_a_spread_of_starting_logits_leaves_their_order_and_where_they_are_zero() -> None:
    scores = np.random.default_rng(0).random(1000)
    plain, wide = ranked(scores, 0.1), ranked(scores, 0.1, spread=2.5)
    assert torch.equal(wide, plain * 2.5)
    assert int((plain > 0).sum()) == 200
    assert (np.diff(plain.numpy()[np.argsort(scores)]) >= 0).all()


def test_uniform_gradient_sampling_is_unbiased() -> None:
    """The mean mask is p; the slope is ∂p/∂θ on a stretch of width w = p (1 - p), zero elsewhere."""
    for logit in (-2.0, 0.5):
        p = 1 / (1 + math.exp(-logit))
        noise = torch.rand(400_000, generator=torch.Generator().manual_seed(3))
        logits = torch.full_like(noise, logit)
        masks, slopes = UniformGradient().mask(logits, noise), UniformGradient().slope(logits, noise)
        assert float(masks.mean()) == pytest.approx(p, abs=3e-3)
        assert float((slopes > 0).float().mean()) == pytest.approx(p * (1 - p), abs=5e-3)
        assert float(slopes.max()) == pytest.approx(p * (1 - p), rel=1e-3)


def test_the_temperature_of_continuous_sparsification_falls_geometrically() -> None:
    betas = [ScheduledSigmoid().at(share / 4).beta for share in range(5)]
    assert betas[0] == 1
    assert betas[-1] == pytest.approx(200)
    ratios = [b / a for a, b in pairwise(betas)]
    assert ratios == pytest.approx([ratios[0]] * 4)


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=40), st.floats(0.05, 0.95), st.floats(0.1, 2))
def test_sigmoid_top_k_has_exactly_k_entries(scores: list[float], share: float, temperature: float) -> None:
    budget = share * len(scores)
    mask = sigmoid_top_k(torch.tensor(scores, dtype=torch.float64), budget, temperature)
    assert float(mask.sum()) == pytest.approx(budget, rel=1e-9)
    order = torch.tensor(scores).argsort()
    assert bool((mask[order].diff() >= -1e-12).all())


def test_the_backward_of_sigmoid_top_k_is_exact() -> None:
    scores = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    torch.autograd.gradcheck(lambda s: sigmoid_top_k(s, 3.3, 0.5), [scores], eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("budget", [0.0, 9.0])
def test_sigmoid_top_k_of_nothing_or_everything_is_refused(budget: float) -> None:
    with pytest.raises(GraphirError, match="not between none and all"):
        sigmoid_top_k(torch.randn(9), budget)


def test_drawn_budgets_cover_the_range() -> None:
    assert TopK(log=True).budget(0.5, 101) == pytest.approx(10)
    assert TopK(log=False).budget(0.5, 101) == pytest.approx(50.5)
    assert [TopK().budget(u, 101) for u in (0.0, 1.0)] == [1.0, 100.0]


def test_noise_is_a_function_of_where_it_is_used() -> None:
    like = torch.empty(50, 20)
    assert torch.equal(uniform_like(like, 1, 2, "edges"), uniform_like(like, 1, 2, "edges"))
    assert not torch.equal(uniform_like(like, 1, 2, "edges"), uniform_like(like, 1, 3, "edges"))
    assert float(uniform_like(torch.empty(100_000), 0).mean()) == pytest.approx(0.5, abs=5e-3)


@given(st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=12), min_size=1, max_size=4), st.integers(0, 30))
def test_the_highest_are_kept_exactly_and_ties_go_to_the_earlier(values: list[list[int]], count: int) -> None:
    tensors = {str(i): torch.tensor(row, dtype=torch.float32) for i, row in enumerate(values)}
    kept = torch.cat(list(keep_highest(tensors, count).values()))
    flat = [value for row in values for value in row]
    wanted = sorted(range(len(flat)), key=lambda i: (-flat[i], i))[:count]
    assert sorted(kept.nonzero()[:, 0].tolist()) == sorted(wanted)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_subnormal=False), min_size=1, max_size=40), st.data())
def test_the_limit_found_by_digits_is_the_one_that_sorting_finds(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    cut = data.draw(st.integers(0, len(values)))
    tensors = [torch.tensor(part, dtype=torch.float32) for part in (values[:cut], values[cut:]) if part]
    assert harden._by_digits(tensors, count) == sorted(values, reverse=True)[count - 1]


def test_a_few_values_that_many_have_are_told_apart_without_sorting_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in masks that all start at one logit; the ties that fit go to the earlier."""
    used, real = list[int](), harden._by_digits

    def watched(values: list[torch.Tensor], count: int) -> float:
        used.append(count)
        return real(values, count)

    monkeypatch.setattr(harden, "_by_digits", watched)
    value = torch.full((6_000_000,), 2.0)
    value[::1000], value[1::1000] = 2.5, -1.0
    kept = keep_highest({"a": value}, 1_000_000)["a"]
    assert used == [1_000_000]
    assert int(kept.sum()) == 1_000_000
    assert bool(kept[value == 2.5].all())
    last = int((kept & (value == 2.0)).nonzero()[-1])
    assert bool(kept[:last][value[:last] == 2.0].all())


def test_the_highest_of_millions_are_kept_exactly() -> None:
    """Where only a sample is sorted whole, and also where the sample misleads."""
    generator = torch.Generator().manual_seed(0)
    ordered = torch.arange(3_000_000, dtype=torch.float32).view(-1, 10).flip(1)
    for value in (torch.randn(2_500_000, generator=generator), ordered):
        kept = keep_highest({"a": value[:1000], "b": value[1000:]}, 12_345)
        assert sum(int(mask.sum()) for mask in kept.values()) == 12_345
        flat = torch.cat([kept["a"].reshape(-1), kept["b"].reshape(-1)])
        assert float(value.reshape(-1)[flat].min()) >= float(value.reshape(-1)[~flat].max())
