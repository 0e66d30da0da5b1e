"""Hard masks of learned logits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import passes
from dsl.builtin.truth import prepare
from passes.learn.parametrizations import GumbelSigmoid
from passes.learn.parts import Part
from passes.learn.results import harden

WEIGHTS = {"a": torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "b": torch.tensor([3.0, -1.0])}
LOGITS = {"a": torch.tensor([[-2.0, 9.0], [8.0, -4.0]]), "b": torch.tensor([1.0, -3.0])}


def hardened(bound: float | None) -> dict[str, list[Any]]:
    program: Any = SimpleNamespace(traced=SimpleNamespace(tensors=WEIGHTS))
    part = Part("weights", {name: value.clone() for name, value in LOGITS.items()}, GumbelSigmoid(), rate=0.1)
    return {name: mask.tolist() for name, mask in harden(part, bound, program).items()}


def test_weights_that_are_zero_take_no_room_under_a_bound() -> None:
    assert hardened(0.5) == {"a": [[True, False], [False, False]], "b": [True, True]}


def test_weights_that_are_zero_come_in_where_there_is_room() -> None:
    kept = hardened(5 / 6)
    assert kept["b"] == [True, True]
    assert kept["a"][0][0] and kept["a"][1][1]
    assert sum(map(sum, kept["a"])) == 3


def test_without_a_bound_logits_alone_decide() -> None:
    assert hardened(None) == {"a": [[False, True], [True, False]], "b": [True, False]}


@pytest.mark.parametrize("method", ["csordas", "continuous_sparsification", "discogp"])
def test_a_compiled_program_keeps_the_weights_that_it_has(method: str) -> None:
    """After one step masks have learned nothing; most of the weights are zero."""
    it = prepare("reverse", "zero", examples=24)
    options: dict[str, Any] = {"edges": 1.0, "parts": "weights edges"} if method == "discogp" else {}
    found = passes.run(method, it.program, it.task, steps=1, weights=0.5, **options)
    tensors = it.program.traced.tensors
    assert sum(int((tensors[name] == 0).sum()) for name in found.weights) > found_size(found) / 2
    for name, kept in found.weights.items():
        assert kept[tensors[name].numpy() != 0].all(), name


def found_size(circuit: Any) -> int:
    """How many weights are masked."""
    return sum(int(mask.size) for mask in circuit.weights.values())
