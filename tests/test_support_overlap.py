"""How much the supports of task vectors share: against sets, by layer and kind, and what does not fit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphir.errors import GraphirError, ModelMismatchError
from graphir.support_overlap import kind_of, layer_of, support_overlap
from graphir.task_vectors import TaskVector

NAMES = ("embed.weight", "layers.0.mlp.up.weight", "layers.1.mlp.up.weight", "layers.1.norm.weight")
SIZE = 5


def vector(places: set[tuple[int, int]], name: str = "v", base: str = "") -> TaskVector:
    deltas = {each: torch.zeros(SIZE) for row, each in enumerate(NAMES) if any(place[0] == row for place in places)}
    for row, column in places:
        deltas[NAMES[row]][column] = 1.5
    return TaskVector(deltas, base, name)


PLACES = st.sets(st.tuples(st.integers(0, len(NAMES) - 1), st.integers(0, SIZE - 1)))


@given(PLACES, PLACES, PLACES)
def test_overlaps_are_those_of_sets(
    first: set[tuple[int, int]], second: set[tuple[int, int]], third: set[tuple[int, int]]
) -> None:
    sets = (first, second, third)
    found = support_overlap(*map(vector, sets), totals=dict.fromkeys(NAMES, SIZE))
    whole, both, either = found.whole, first & second & third, first | second | third
    assert (whole.shared, whole.either, whole.total) == (len(both), len(either), len(NAMES) * SIZE)
    assert whole.sizes == tuple(map(len, sets))
    assert whole.iou == (len(both) / len(either) if either else 1.0)
    smallest = min(map(len, sets))
    assert whole.iomin == (len(both) / smallest if smallest else 1.0)
    for groups, group in ((found.by_layer(), layer_of), (found.by_kind(), kind_of)):
        for name, each in groups.items():
            assert each.shared == sum(group(NAMES[row]) == name for row, _ in both)
            assert each.total == SIZE * sum(group(other) == name for other in NAMES)


def test_layers_and_kinds_are_read_off_names() -> None:
    assert [layer_of(name) for name in NAMES] == ["-", "0", "1", "1"]
    assert [kind_of(name) for name in NAMES] == ["embed.weight", "mlp.up.weight", "mlp.up.weight", "norm.weight"]
    assert (layer_of("0.weight"), kind_of("0.weight"), kind_of("net.2")) == ("0", "weight", "net")


def test_without_totals_only_what_changes_counts() -> None:
    found = vector({(0, 1)}).overlap(vector({(0, 1), (1, 0)}))
    assert (found.whole.total, found.whole.iou) == (2 * SIZE, 0.5)
    assert "weights of embed.weight" in str(found) and found.to_json()["weights"]["by_layer"]["-"]["iou"] == 1.0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(GraphirError, match="at least one"):
        support_overlap()
    with pytest.raises(ModelMismatchError, match="different models"):
        vector({(0, 1)}, base="aa").overlap(vector({(0, 1)}, base="bb"))
    other = TaskVector({NAMES[0]: torch.ones(SIZE + 1)})
    with pytest.raises(ModelMismatchError, match="has shape"):
        vector({(0, 1)}).overlap(other)
