"""Tasks over tensors: checked, split, hashed, and taken by methods, evaluation and training like any other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphir
import passes
from graphir.errors import DataError
from graphir.run.program import MaskedProgram
from passes.ablations import ReferenceSource
from passes.measure import Evaluator
from passes.tensor_task import TensorTask


def signs(rows: int = 96, **more: Any) -> TensorTask:
    """Which of two coordinates is larger; the counterfactual swaps them."""
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))
    answers = (x[:, 0] < x[:, 1]).long()
    swapped = x[:, [1, 0, 2, 3]]
    options: dict[str, Any] = {"counterfactual": {"x": swapped}, "distractors": 1 - answers} | more
    return TensorTask.from_tensors("signs", {"x": x}, answers, **options)


class Comparer(nn.Module):
    """Four hidden units, of which two compare and two do nothing for it."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor([[1.0, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
            self.out.weight.copy_(torch.tensor([[4.0, -4, 0.1, 0], [-4, 4, 0, 0.1]]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4) → (B, 2)."""
        found: Tensor = self.out(torch.relu(self.hidden(x)))
        return found


def comparer(granularity: str = "layer") -> MaskedProgram:
    return graphir.lower(graphir.trace(Comparer(), {"x": torch.randn(3, 4)}, granularity=granularity))


@pytest.mark.parametrize("method", ["eap", "eap_ig", "edge_pruning", "acdc"])
def test_a_task_without_distractors_needs_no_metric(method: str) -> None:
    """Attributions are of the answer's log-probability then."""
    steps = {"steps": 2} if method in ("eap_ig", "edge_pruning") else {}
    found = passes.run(method, comparer(), signs(distractors=None), edges=2, **steps)  # type: ignore[arg-type]
    assert found.edges.any()


def test_rows_come_back_as_they_were_given() -> None:
    task = signs()
    assert len(task) == 96
    assert {name: len(rows) for name, rows in task.splits.items()} == {"train": 48, "validation": 24, "test": 24}
    inputs, answers = task.tensors("test")
    assert torch.equal(answers, (inputs["x"][:, 0] < inputs["x"][:, 1]).long())
    batch = next(task.batches("train", 5, shuffle=3))
    assert batch.counterfactual is not None
    assert torch.equal(batch.inputs["x"][:, 0], batch.counterfactual["x"][:, 1])
    assert batch.positions is None
    assert "96 rows" in task.describe()


def test_rows_of_equal_inputs_stay_in_one_split() -> None:
    x = torch.arange(20).repeat(3)[:, None]
    task = TensorTask.from_tensors("copies", {"ids": x}, [0] * 60)
    places = {int(x[row.row]): name for name, rows in task.splits.items() for row in rows}  # type: ignore[attr-defined]
    assert all(places[int(x[row.row])] == name for name, rows in task.splits.items() for row in rows)  # type: ignore[attr-defined]


def test_groups_and_given_splits_are_kept() -> None:
    groups = [i % 6 for i in range(96)]
    task = signs(groups=groups)
    found = [{groups[row.row] for row in rows} for rows in task.splits.values()]  # type: ignore[attr-defined]
    assert sum(map(len, found)) == 6 and set.union(*found) == set(range(6))
    task = signs(splits={"train": [3, 1], "test": range(10, 20)})
    assert [row.row for row in task.examples("train")] == [3, 1]  # type: ignore[attr-defined]
    assert len(task.examples("test")) == 10 and not task.examples("validation")


def test_the_identity_tells_data_apart() -> None:
    assert signs().identity == signs().identity
    others = [signs(seed=1), signs(ablation="zero"), signs(distractors=None), signs(rows=95)]
    assert len({task.identity for task in [signs(), *others]}) == 5


@pytest.mark.parametrize("method", ["eap", "acdc"])
def test_edges_of_a_feed_forward_net_are_found(method: str) -> None:
    circuit = passes.run(method, comparer("neuron"), signs(), edges=8)
    into = {str(edge) for edge in circuit.kept_edges()}
    assert len(into) == 8
    assert Evaluator(comparer("neuron"), signs()).measure_circuit(circuit)["accuracy"] == 1.0


def test_weights_are_masked_for_labels_alone() -> None:
    program, task = comparer(), signs(distractors=None, counterfactual=None)
    assert task.ablation == "zero"
    circuit = passes.run("csordas", program, task, steps=60, learning_rate=0.2, alpha=0.1, batch_size=16)
    kept = circuit.weights["hidden.weight"]
    assert kept[:2, :2].sum() >= 2 and not kept[2:].any()
    found = Evaluator(program, task).measure_circuit(circuit)
    assert found["accuracy"] == 1.0 and found["exact_match"] == 1.0


@pytest.mark.parametrize("ablation", ["mean", "mean by template", "noise"])
def test_other_ablations_need_no_text(ablation: str) -> None:
    program, task = comparer(), signs(ablation=ablation)
    reference = ReferenceSource(program, task)(next(task.batches("test", 4)))
    assert reference.writers


def test_outputs_with_positions_are_read_where_the_task_says() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            """(B, 2, 3) → (B, 2, 3)."""
            found: Tensor = self.fc(x)
            return found

    x = torch.randn(12, 2, 3)
    program = graphir.lower(graphir.trace(Pairs(), {"x": x[:2]}))
    task = TensorTask.from_tensors("pairs", {"x": x}, [0] * 12, positions=[i % 2 for i in range(12)])
    assert set(Evaluator(program, task).full) >= {"accuracy", "kl"}
    with pytest.raises(DataError, match="does not say which to read"):
        Evaluator(program, TensorTask.from_tensors("pairs", {"x": x}, [0] * 12))


@pytest.mark.parametrize(("change", "words"), [
    ({"inputs": {}}, "no inputs"),
    ({"inputs": {"x": torch.zeros(3, 2)}}, "3 rows, and there are 4"),
    ({"inputs": {"x": torch.full((4, 2), torch.nan)}}, "not finite at row 0"),
    ({"answers": [0, 1, -1, 0]}, "whole numbers from 0"),
    ({"answers": torch.rand(4)}, "whole numbers from 0"),
    ({"answers": []}, "one entry a row"),
    ({"distractors": [1, 1, 1]}, "3 distractors"),
    ({"distractors": [1, 1, 0, 1]}, "row 1 has its answer"),
    ({"groups": ["a"]}, "1 groups"),
    ({"ablation": "interchange"}, "has no counterfactual"),
    ({"counterfactual": {"x": torch.zeros(4, 3)}}, "not of the form"),
    ({"splits": {"train": [4]}}, "names row 4"),
    ({"splits": {"train": [1], "test": [1]}}, "again in `test`"),
])  # fmt: skip
def test_bad_tensors_are_named(change: dict[str, Any], words: str) -> None:
    options: dict[str, Any] = {"inputs": {"x": torch.zeros(4, 2)}, "answers": [0, 1, 1, 0]} | change
    inputs, answers = options.pop("inputs"), options.pop("answers")
    with pytest.raises(DataError, match=words):
        TensorTask.from_tensors("bad", inputs, answers, **options)


def test_an_image_is_an_input_like_any_other() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()
    images = torch.randn(16, 1, 4, 4)
    program = graphir.lower(graphir.trace(model, {"input": images[:2]}))
    task = TensorTask.from_tensors("images", {"input": images}, np.arange(16).tolist() and [i % 3 for i in range(16)])
    circuit = passes.run("csordas", program, task, steps=3, batch_size=8)
    assert set(circuit.weights) == {"0.weight"}
