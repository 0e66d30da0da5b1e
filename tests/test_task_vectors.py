"""Task vectors: arithmetic, application, the exact way back, support, files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from graphir.circuit import Circuit
from graphir.errors import ModelMismatchError, SaveFormatError
from graphir.task_vectors import MANIFEST, TaskVector
from tests.factories import transformer


class Net(nn.Module):
    """Two layers, a counter, and an output tied to the first layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second, self.tied = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(3, 4, bias=False)
        self.tied.weight = self.first.weight
        self.register_buffer("steps", torch.tensor(seed))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) + self.tied(x)


BASE, TUNED, OTHER = Net(0), Net(1), Net(2)


def values(model: nn.Module) -> dict[str, list[float]]:
    return {name: value.double().flatten().tolist() for name, value in model.state_dict().items()}


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def test_base_and_vector_make_the_tuned_model() -> None:
    made = TaskVector.between(BASE, TUNED).apply(BASE)
    for name, value in TUNED.state_dict().items():
        if name != "steps":  # no floating-point number: left as it is
            torch.testing.assert_close(made.state_dict()[name], value)
    assert int(made.state_dict()["steps"]) == 0


def test_vectors_add_scale_and_negate() -> None:
    a, b = TaskVector.between(BASE, TUNED, "a"), TaskVector.between(BASE, OTHER, "b")
    expected = {
        name: BASE.state_dict()[name]
        + 0.5 * (TUNED.state_dict()[name] - BASE.state_dict()[name])
        - 2 * (OTHER.state_dict()[name] - BASE.state_dict()[name])
        for name in a.deltas
    }
    made = (0.5 * a - b * 2).apply(BASE).state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(made[name], value)
    assert values((a - a).apply(BASE)) == values(BASE)
    assert (a + b).name == "a + b"
    assert a.scaled(3).norm == pytest.approx(3 * a.norm)


def sparse(seed: int) -> TaskVector:
    """Small whole numbers, most of them zero, so that changes meet, agree, and are each other's opposite; one parameter
    that only odd seeds have."""
    rng = np.random.default_rng(seed)
    shapes = {"a": (4, 3), "b": (5,)} | ({"c": (2,)} if seed % 2 else {})
    deltas = {name: torch.tensor(rng.integers(-2, 3, shape), dtype=torch.float32) for name, shape in shapes.items()}
    return TaskVector(deltas, "base", f"v{seed}")


def dense(vector: TaskVector) -> dict[str, list[float]]:
    """All values, also of parameters that the vector does not name."""
    return {
        name: vector.deltas.get(name, torch.zeros(shape)).flatten().tolist()
        for name, shape in {"a": (4, 3), "b": (5,), "c": (2,)}.items()
    }


SETS: dict[str, Callable[..., tuple[TaskVector, TaskVector]]] = {
    "union is idempotent": lambda a, b, c: (a | a, a),
    "intersection is idempotent": lambda a, b, c: (a & a, a),
    "union commutes": lambda a, b, c: (a | b, b | a),
    "intersection commutes": lambda a, b, c: (a & b, b & a),
    "union is associative": lambda a, b, c: ((a | b) | c, a | (b | c)),
    "intersection is associative": lambda a, b, c: ((a & b) & c, a & (b & c)),
    "absorption by union": lambda a, b, c: (a | (a & b), a),
    "absorption by intersection": lambda a, b, c: (a & (a | b), a),
    "union distributes": lambda a, b, c: (a | (b & c), (a | b) & (a | c)),
    "intersection distributes": lambda a, b, c: (a & (b | c), (a & b) | (a & c)),
    "a difference and what is shared make the whole": lambda a, b, c: (a.without(b) | a.masked(b.support()), a),
    "what is taken away by either": lambda a, b, c: (a.without(b | c), a.without(b).without(c)),
}


@pytest.mark.parametrize("name", SETS)
@settings(max_examples=30, deadline=None)
@given(seeds=st.tuples(*[st.integers(0, 1000)] * 3))
def test_vectors_as_sets(name: str, seeds: tuple[int, int, int]) -> None:
    left, right = SETS[name](*map(sparse, seeds))
    assert dense(left) == dense(right)


@settings(max_examples=30, deadline=None)
@given(seeds=st.tuples(*[st.integers(0, 1000)] * 2))
def test_the_support_of_a_set_is_the_set_of_the_supports(seeds: tuple[int, int]) -> None:
    a, b = map(sparse, seeds)

    def support(vector: TaskVector) -> set[tuple[str, int]]:
        return {(name, i) for name, found in dense(vector).items() for i, value in enumerate(found) if value}

    assert support(a | b) == support(a) | support(b)
    assert support(a & b) == support(a) & support(b)
    assert support(a.without(b)) == support(a) - support(b)


def test_operands_stay_as_they_are() -> None:
    a, b = TaskVector.between(BASE, TUNED), TaskVector.between(BASE, OTHER)
    before = {name: delta.clone() for name, delta in a.deltas.items()}
    _ = a + b, a - b, -a, 2 * a, a.masked({})
    a.apply(BASE)
    assert all(torch.equal(a.deltas[name], delta) for name, delta in before.items())
    assert bits(BASE) == bits(Net(0))


def test_the_model_gets_its_very_bits_back() -> None:
    """Subtracting what was added would round; an error on the way must not leave the model changed either."""
    model, vector = copy.deepcopy(BASE), TaskVector.between(BASE, TUNED) * 1e6
    before = bits(model)
    with vector.applied(model) as changed:
        assert changed is model
        assert bits(model) != before
    assert bits(model) == before
    with pytest.raises(RuntimeError, match="stop"), vector.applied(model, 0.1):
        raise RuntimeError("stop")
    assert bits(model) == before


def test_a_tied_parameter_changes_once() -> None:
    vector = TaskVector.between(BASE, TUNED)
    made = vector.apply(BASE)
    assert made.get_parameter("tied.weight") is made.get_parameter("first.weight")
    torch.testing.assert_close(made.get_parameter("first.weight"), TUNED.first.weight)


def test_support_and_masking() -> None:
    vector = TaskVector.between(BASE, TUNED)
    keep = {"first.weight": np.arange(12).reshape(4, 3) < 5}
    sparse = vector.masked(keep)
    assert sparse.count == 5
    assert set(sparse.deltas) == {"first.weight"}
    assert np.array_equal(sparse.support()["first.weight"], keep["first.weight"])
    graph = transformer(1, 1)
    circuit = Circuit.full(graph, weights=keep)
    assert torch.equal(vector.masked(circuit).deltas["first.weight"], sparse.deltas["first.weight"])
    again = sparse.apply(BASE).state_dict()["first.weight"]
    assert torch.equal(again.flatten()[5:], BASE.state_dict()["first.weight"].flatten()[5:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_vectors_come_back_from_files(dtype: torch.dtype, tmp_path: Path) -> None:
    base, tuned = ({"w": net.first.weight.detach().to(dtype)} for net in (BASE, TUNED))
    vector = TaskVector.between(base, tuned, "tau").masked({"w": np.arange(12).reshape(4, 3) % 2 == 0})
    vector.save(tmp_path / "tau")
    again = TaskVector.load(tmp_path / "tau")
    assert again.deltas["w"].dtype == dtype
    assert torch.equal(again.deltas["w"], vector.deltas["w"])
    assert again.name == "tau"


def test_files_that_are_damaged_are_told(tmp_path: Path) -> None:
    TaskVector.between(BASE, TUNED).save(tmp_path / "tau")
    manifest = tmp_path / "tau" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"parts"', '"pieces"'))
    with pytest.raises(SaveFormatError, match="does not describe a task vector"):
        TaskVector.load(tmp_path / "tau")
    with pytest.raises(SaveFormatError, match="is not a folder"):
        TaskVector.load(tmp_path / "nothing")


def test_models_that_do_not_match_are_refused() -> None:
    small = nn.Linear(3, 4)
    with pytest.raises(ModelMismatchError, match="differ in parameters"):
        TaskVector.between(BASE, small)
    with pytest.raises(ModelMismatchError, match=r"`weight` has shape \(4, 3\) in one model and \(4, 2\)"):
        TaskVector.between(small, nn.Linear(2, 4))
    with pytest.raises(ModelMismatchError, match="the model has no `first"):
        TaskVector.between(BASE, TUNED).apply(small)
    with pytest.raises(ModelMismatchError, match="start from different models"):
        TaskVector.between(BASE, TUNED) + TaskVector.between(OTHER, TUNED)
    narrow = TaskVector({"weight": torch.zeros(2, 2)})
    with pytest.raises(ModelMismatchError, match=r"has shape \(2, 2\) in the task vector"):
        narrow.apply(small)
    with pytest.raises(ModelMismatchError, match=r"\(2, 2\) in one and \(4, 3\) in the other"):
        narrow + TaskVector({"weight": torch.zeros(4, 3)})
