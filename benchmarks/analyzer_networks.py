"""Small networks for `benchmarks/analyzer.py`, trained here: digits classifiers and modular sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import graphir
from passes.analyze.representations import Representations, collect_representations

MODULUS, WIDTH = 17, 64
STAGE = 5
"""Layers in a third of a modular-sum net."""


def digits_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (n, 1, 8, 8) in [0, 1] and labels for training, then for testing: every fourth image."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    images, labels = load_digits(return_X_y=True)
    small = torch.as_tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    answers = torch.as_tensor(labels)
    test = torch.arange(len(small)) % 4 == 0
    return small[~test], answers[~test], small[test], answers[test]


def enlarged(images: Tensor, *, moved: bool = False) -> Tensor:
    """Images (n, 784): the digits on the middle 20 x 20 of 28 x 28, as MNIST has them; `moved`, each turned by up to 15
    degrees, resized by up to 15 % and shifted by up to two pixels, so that no two are the same."""
    count = len(images)

    def between(least: float, most: float) -> Tensor:
        return torch.empty(count).uniform_(least, most) if moved else torch.full((count,), (least + most) / 2)

    angle, size = between(-0.26, 0.26), between(0.85, 1.15) * 20 / 28
    cos, sin = angle.cos() / size, angle.sin() / size
    across, down = between(-1 / 7, 1 / 7), between(-1 / 7, 1 / 7)
    rows = torch.stack([torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = nn.functional.affine_grid(rows, [count, 1, 28, 28], align_corners=False)
    return nn.functional.grid_sample(images, grid, mode="bilinear", align_corners=False).flatten(1)


def digits_networks(seed: int, steps: int) -> Iterator[tuple[str, float, list[NDArray[Any]]]]:
    """(name, test accuracy, weight matrices) of a plain net, that net pruned to 10 % and one with an L1 penalty."""
    train_x, train_y, test_x, test_y = digits_data()

    def fit(model: nn.Sequential, l1: float = 0.0, prune: bool = False) -> None:
        linears = [m for m in model if isinstance(m, nn.Linear)]
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for step in range(1, steps + 1):
            rows = torch.randint(len(train_x), (128,))
            loss = nn.functional.cross_entropy(model(enlarged(train_x[rows], moved=True)), train_y[rows])
            if l1:
                loss = loss + l1 * torch.stack([m.weight.abs().sum() for m in linears]).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if prune and (step % 10 == 0 or step == steps):  # cubic from 50 to 90 % (Zhu and Gupta 2017)
                cut_smallest(linears, 0.9 - 0.4 * (1 - step / steps) ** 3)

    def cut_smallest(linears: list[nn.Linear], share: float) -> None:
        with torch.no_grad():
            for linear in linears:
                limit = linear.weight.abs().flatten().kthvalue(max(int(share * linear.weight.numel()), 1)).values
                linear.weight *= linear.weight.abs() > limit

    def result(name: str, model: nn.Sequential) -> tuple[str, float, list[NDArray[Any]]]:
        with torch.no_grad():
            accuracy = float((model(enlarged(test_x)).argmax(1) == test_y).float().mean())
        return name, accuracy, [m.weight.detach().numpy().copy() for m in model if isinstance(m, nn.Linear)]

    torch.manual_seed(seed)
    model = perceptron([784, 256, 256, 256, 256, 10])
    yield result("random", model)
    fit(model)
    yield result("plain", model)
    fit(model, prune=True)
    yield result("pruned", model)
    torch.manual_seed(seed)
    model = perceptron([784, 256, 256, 256, 256, 10])
    fit(model, l1=5e-5)
    yield result("l1", model)


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """ReLU between linears with Glorot weights."""
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes):
        linear = nn.Linear(a, b)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class Step(nn.Module):
    """A residual two-layer perceptron, near the identity before it is trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) → the same."""
        y: Tensor = x + self.down(torch.relu(self.up(x)))
        return y


class Tower(nn.Module):
    """Fifteen residual layers over embedded one-hot pairs, and a linear head."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.embed = nn.Linear(2 * MODULUS, width)
        self.layers = nn.ModuleList(Step(width) for _ in range(3 * STAGE))
        self.head = nn.Linear(width, MODULUS)

    def up_to(self, x: Tensor, depth: int) -> Tensor:
        """The stream after `depth` layers."""
        x = self.embed(x)
        for layer in list(self.layers)[:depth]:
            x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2 * MODULUS) → (batch, MODULUS)."""
        y: Tensor = self.head(self.up_to(x, 3 * STAGE))
        return y


def modular_networks(seed: int) -> Iterator[tuple[str, float, Representations, NDArray[np.int64]]]:
    """(name, accuracy, what the stream holds after each layer on 170 pairs, the sums of those pairs) of three nets.

    The paper gives neither modulus nor widths nor how its E and L were made. Here `0` learns the sum end to end; in `E`
    the first third alone learns it (through a head of its own) and is frozen before the rest is trained; in `L` the
    last third alone learns it, behind two thirds that stay as they were drawn, near the identity.
    """
    a, b = torch.meshgrid(torch.arange(MODULUS), torch.arange(MODULUS), indexing="ij")
    a, b = a.flatten(), b.flatten()
    inputs = torch.cat([nn.functional.one_hot(a, MODULUS), nn.functional.one_hot(b, MODULUS)], 1).float()
    sums = (a + b) % MODULUS
    for name in ("0", "E", "L"):
        torch.manual_seed(seed)
        model = Tower()
        if name == "E":
            learn(model, 0, STAGE, inputs, nn.Linear(WIDTH, MODULUS), sums)
        learn(model, {"0": 0, "E": STAGE, "L": 2 * STAGE}[name], 3 * STAGE, inputs, model.head, sums)
        model.eval().requires_grad_(False)
        accuracy = float((model(inputs).argmax(1) == sums).float().mean())
        program = graphir.lower(graphir.trace(model, (inputs[:4],), granularity="layer"))
        # Ten pairs for each sum.
        rows = torch.cat([torch.where(sums == s)[0][torch.randperm(MODULUS)[:10]] for s in range(MODULUS)])
        found = collect_representations(program, [(inputs[rows],)])
        yield name, accuracy, found, sums[rows].numpy()


def learn(
    model: Tower, first: int, last: int, inputs: Tensor, head: nn.Linear, target: Tensor, steps: int = 600
) -> None:
    """Train layers `first` … `last` − 1 on all pairs with `head`, until they are learned.

    Decay of the weights takes away what layers do without need: without it a net drifts on all along its depth.
    """
    parameters = [p for layer in list(model.layers)[first:last] for p in layer.parameters()]
    parameters += list(head.parameters()) + (list(model.embed.parameters()) if first == 0 else [])
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.5)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(head(model.up_to(inputs, last)), target)
        if float(loss.detach()) < 0.01:
            return
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
