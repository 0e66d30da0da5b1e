"""Blocks are found where they were planted, not where there are none; and followed, validated, found again."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import graphir
from graphir.errors import DataError, UnknownNameError
from graphir.run import masked_run
from graphir.run.mix import StreamBuffer
from graphir.run.program import MaskedProgram
from graphir.tracing import regrain
from passes.analysis_options import BlocksOptions
from passes.analyze.blocks import (
    Blocks,
    contrast_of,
    find_blocks,
    in_order,
    score_blocks,
    segmentations,
    spectral_blocks,
)
from passes.analyze.distances.base import DistanceMatrix
from passes.analyze.distances.cka import Cka
from passes.analyze.dynamics import collect_sparsities, collect_steps, follow
from passes.analyze.lesions import Lesions, layer_groups
from passes.analyze.representations import Representations, collect_representations
from passes.analyze.stability import agreement, seed_stability, subsample_stability
from passes.analyze.validation import (
    along,
    lesion_blocks,
    readout_accuracy,
    validate_by_lesion,
    validate_by_readout,
)
from tests import modules
from tests.planted import planted_stack


def matrix_of(values: NDArray[np.float64]) -> DistanceMatrix:
    return DistanceMatrix(tuple(f"l{i}" for i in range(len(values))), values, "made", 10)


def block_matrix(sizes: tuple[int, ...], *, gap: float = 0.3, drift: float = 0.0) -> DistanceMatrix:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    steps = np.arange(len(labels))
    values = gap * (labels[:, None] != labels) + drift * np.abs(steps[:, None] - steps) + 0.05
    np.fill_diagonal(values, 0)
    return matrix_of(values)


@given(seed=st.integers(0, 10_000), n=st.integers(3, 8))
@settings(max_examples=20)
def test_segmentation_is_the_best_of_all(seed: int, n: int) -> None:
    values = np.random.default_rng(seed).random((n, n))
    values = (values + values.T) / 2
    costs, _ = segmentations(values[None], n)
    for count in range(1, n + 1):
        least = min(
            sum(np.triu(values[a:b, a:b], 1).sum() / (b - a) for a, b in zip((0, *cut), (*cut, n), strict=True))
            for cut in combinations(range(1, n), count - 1)
        )
        assert costs[0, count - 1] == pytest.approx(least, abs=1e-12)


@pytest.mark.parametrize("sizes", [(4, 4, 4), (3, 9), (8, 12, 10), (5, 5, 5, 5)])
@pytest.mark.parametrize("drift", [0.0, 0.01])
def test_planted_blocks_and_their_number_are_found(sizes: tuple[int, ...], drift: float) -> None:
    found = find_blocks(block_matrix(sizes, drift=drift))
    assert found.labels.tolist() == np.repeat(np.arange(len(sizes)), sizes).tolist()
    assert found.p < 0.05 and found.score.separation > 0.5 and found.score.contrast > 3
    assert found.boundaries == tuple(np.cumsum(sizes)[:-1])
    assert max(found.gaps, key=lambda k: found.gaps[k]) == len(sizes)


def test_there_are_no_blocks_in_noise_or_in_equal_distances() -> None:
    found = []
    for seed in range(20):
        values = np.random.default_rng(seed).random((16, 16))
        values = (values + values.T) / 2
        np.fill_diagonal(values, 0)
        found.append(find_blocks(matrix_of(values), BlocksOptions(permutations=99)).count)
    assert found.count(1) >= 17  # one in twenty is let through
    equal = find_blocks(matrix_of(1.0 - np.eye(10)))
    assert equal.count == 1 and np.isnan(equal.score.contrast)


def test_a_smooth_drift_is_told_from_blocks_by_its_contrast() -> None:
    steps = np.arange(20.0)
    found = find_blocks(matrix_of(np.abs(steps[:, None] - steps)))
    assert found.score.contrast == pytest.approx(1) and found.score.contrast_p == 1


@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_an_uneven_drift_has_the_same_number_of_blocks_whatever_the_sample(seed: int) -> None:
    at = np.cumsum(np.random.default_rng(seed).uniform(0.8, 1.2, 12))
    assert find_blocks(matrix_of(np.abs(at[:, None] - at))).count == 2


def test_a_block_like_an_earlier_one_is_found() -> None:
    held = np.repeat([0, 1, 0], 5)  # two blocks gain nothing here, three do
    found = find_blocks(matrix_of(np.where(held[:, None] == held, 0.05, 0.35) * (1 - np.eye(15))))
    assert found.boundaries == (5, 10) and found.gaps[2] < 0.1 < 0.5 < found.gaps[3]


def test_the_contrast_is_tested_against_every_placement() -> None:
    steps = np.array([1.0, 1.0, 5.0, 1.0, 1.0])
    contrast, p = contrast_of(steps, np.array([0, 0, 0, 1, 1, 1]))
    assert contrast == 5.0 and p == pytest.approx(1 / 5)
    assert np.isnan(contrast_of(np.zeros(5), np.array([0, 0, 0, 1, 1, 1]))).all()  # nothing changes anywhere


def test_spectral_groups_need_not_be_contiguous() -> None:
    order = np.array([0, 4, 1, 5, 2, 6, 3, 7])
    shuffled = block_matrix((4, 4)).reordered(order)
    found = spectral_blocks(shuffled, 2)
    assert found.groups == (("l0", "l1", "l2", "l3"), ("l4", "l5", "l6", "l7"))
    assert found.score.separation > 0.8


def test_counts_that_cannot_be_are_refused() -> None:
    matrix = block_matrix((3, 3))
    with pytest.raises(DataError, match="7 blocks of 6 nodes"):
        find_blocks(matrix, BlocksOptions(count=7))
    with pytest.raises(DataError, match="at least three"):
        find_blocks(block_matrix((1, 1)))
    for count in (1, 6):
        with pytest.raises(DataError, match="between 2 and 5 groups"):
            spectral_blocks(matrix, count)
    with pytest.raises(DataError, match="7 blocks of 6"):
        spectral_blocks(matrix, 7)


def test_a_given_number_is_kept_and_printed() -> None:
    found = find_blocks(block_matrix((3, 3)), BlocksOptions(count=2))
    assert str(found).startswith("2 blocks: l0–l2 | l3–l5 (separation 0.86, p ")


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_labels_are_numbered_in_order(labels: list[int]) -> None:
    made = in_order(np.array(labels))
    assert agreement(np.array(labels), made) == 1.0
    first = [made.tolist().index(c) for c in range(made.max() + 1)]
    assert first == sorted(first)


def test_scores_of_one_or_only_singletons_are_none() -> None:
    matrix = block_matrix((3, 3)).values
    for labels in (np.zeros(6, int), np.arange(6)):
        assert score_blocks(matrix, labels).separation == 0


# --- stability ------------------------------------------------------------------------------------------------------


def test_planted_blocks_are_stable_over_subsamples() -> None:
    found, truth = planted_stack(60)
    stable = subsample_stability(Cka(), found, replicates=6)
    assert stable.agreement == stable.least == 1.0 and stable.counts == {3: 6}
    assert stable.boundaries.tolist() == (np.diff(truth) != 0).astype(float).tolist()
    with pytest.raises(DataError, match="subsamples of 3 samples"):
        subsample_stability(Cka(), found, share=0.05)


def test_stability_over_seeds_compares_the_same_nodes() -> None:
    found = [find_blocks(Cka().matrix(planted_stack(60, seed=seed)[0])) for seed in range(3)]
    assert seed_stability(found).agreement == 1.0
    with pytest.raises(DataError, match="at least two"):
        seed_stability(found[:1])


# --- validation -----------------------------------------------------------------------------------------------------


@cache
def program() -> MaskedProgram:
    model = modules.prepared(modules.NormFreeTransformer(3))
    return graphir.lower(graphir.trace(model, modules.token_example()))


def batches(count: int = 3) -> list[tuple[torch.Tensor]]:
    return [modules.token_example(8, seed=s) for s in range(count)]


def test_a_readout_sees_what_a_block_holds_and_not_what_it_does_not() -> None:
    found, truth = planted_stack(120, (5, 5))
    signal = found.arrays[5] @ np.random.default_rng(0).standard_normal(found.arrays[5].shape[1])
    labels = (signal > np.median(signal)).astype(int)
    blocks = find_blocks(Cka().matrix(found))
    assert blocks.labels.tolist() == truth.tolist()
    checked = validate_by_readout(blocks, found, labels)
    assert checked.by_block[0] < 0.7 < 0.85 < checked.by_block[1]
    assert checked.contrast > 2 and checked.p == pytest.approx(1 / 9)
    np.testing.assert_array_equal(checked.values, readout_accuracy(found, labels))


def test_several_questions_support_true_boundaries_and_no_others() -> None:
    found, truth = planted_stack(160, (4, 4, 4))
    held = [found.arrays[node].sum(1) for node in (0, 4, 8)]
    questions = np.stack([(signal > np.median(signal)).astype(int) for signal in held], 1)
    blocks = find_blocks(Cka().matrix(found))
    assert blocks.labels.tolist() == truth.tolist()
    checked = validate_by_readout(blocks, found, questions)
    assert checked.contrast > 3 and checked.p == pytest.approx(1 / 55)  # the only two of 55 ways
    alone = [readout_accuracy(found, answers) for answers in questions.T]
    np.testing.assert_allclose(checked.values, np.mean(alone, 0))
    shifted = np.repeat([0, 1, 2], (2, 4, 6))
    wrong = Blocks(found.names, shifted, score_blocks(Cka().matrix(found).values, shifted), "contiguous")
    assert validate_by_readout(wrong, found, questions).p > 0.2


def test_lesions_support_the_boundaries_of_planted_importance() -> None:
    rng = np.random.default_rng(0)
    for spread, supported in ((0.1, True), (3.0, False)):  # spread of importance inside blocks, the step between is 2
        effects = 2.0 * np.repeat([0, 1, 0], 4) + spread * rng.standard_normal(12)
        labels = np.repeat([0, 1, 2], 4)
        blocks = Blocks(tuple(f"l{i}" for i in range(12)), labels, score_blocks(1 - np.eye(12), labels), "contiguous")
        assert (along(blocks, effects, "lesion kl").p <= 0.05) == supported


def test_readouts_refuse_labels_they_cannot_learn() -> None:
    found = planted_stack(20, (2, 2))[0]
    with pytest.raises(DataError, match="two classes with at least 5 samples each"):
        readout_accuracy(found, np.zeros(20))
    with pytest.raises(DataError, match="has 2"):
        readout_accuracy(found, np.array([0] * 18 + [1] * 2))
    with pytest.raises(DataError, match="19 labels for 20"):
        readout_accuracy(found, np.zeros(19))


def test_a_lesion_is_the_model_with_those_writers_at_zero() -> None:
    model = modules.prepared(modules.NormFreeTransformer(3))
    with torch.no_grad():
        intact = torch.cat([model(*b)[:, -1] for b in batches()]).log_softmax(-1)
        down = model.get_submodule("blocks.1.down")
        down.get_parameter("weight").mul_(0)  # the bias stays: it belongs to no writer
        cut = torch.cat([model(*b)[:, -1] for b in batches()]).log_softmax(-1)
    effect = Lesions(program(), batches()).effect(["m1"])
    assert effect.kl == pytest.approx(float((intact.exp() * (intact - cut)).sum(-1).mean()), rel=1e-4)
    assert effect.agreement == pytest.approx(float((intact.argmax(-1) == cut.argmax(-1)).float().mean()))


def test_a_lesion_of_a_graph_by_neuron_is_the_same_and_holds_no_row_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = graphir.lower(regrain(program().graph, "neuron"))
    masks = fine.new_masks(nodes=True, requires_grad=False)
    group = ["a0.h1", "m1.n3", "m1.n5"]
    assert masks.nodes is not None
    masks.nodes[[fine.graph.node_index[name] for name in group]] = 0.0
    with torch.no_grad():
        dense = torch.cat([fine(batch, masks=masks, ablation="zero")[:, -1] for batch in batches()])
    rows: list[int] = []

    class Counting(StreamBuffer):
        def __init__(self, count: int, shape: tuple[int, ...], like: torch.Tensor) -> None:
            rows.append(count)
            super().__init__(count, shape, like)

    monkeypatch.setattr(masked_run, "StreamBuffer", Counting)
    lesions = Lesions(fine, batches())
    found = lesions.effect(group)
    assert rows and max(rows) <= len(program().graph.nodes)
    intact, lesioned = lesions._intact, torch.log_softmax(dense.float(), -1)
    assert found.kl == pytest.approx(float((intact.exp() * (intact - lesioned)).sum(-1).mean()), rel=1e-4)


def test_units_named_one_by_one_or_as_a_range_are_the_same_lesion() -> None:
    lesions = Lesions(program(), batches())
    whole = lesions.effect([f"m1.n0..{modules.INNER - 1}"]).kl
    assert whole == pytest.approx(lesions.effect([f"m1.n{i}" for i in range(modules.INNER)]).kl)
    assert whole == pytest.approx(lesions.effect(["m1"]).kl, rel=1e-4)
    assert Lesions(program(), batches(), ablation="mean").effect(["m1"]).kl != pytest.approx(whole, rel=0.01)


def test_labels_give_accuracies_by_class() -> None:
    labels = np.arange(24) % 3
    lesions = Lesions(program(), batches(), labels)
    effect = lesions.effect(["m0", "m1", "m2"])
    assert effect.accuracy_drop == pytest.approx(lesions.accuracy - effect.accuracy)
    assert effect.class_drop is not None and effect.class_drop.shape == (3,)
    assert effect.class_drop.mean() == pytest.approx(effect.accuracy_drop)


def test_lesions_refuse_unknown_names_and_wrong_labels() -> None:
    lesions = Lesions(program(), batches(1))
    with pytest.raises(UnknownNameError, match="m9"):
        lesions.effect(["m9"])
    with pytest.raises(UnknownNameError, match="units 0 … 39"):
        lesions.effect(["m1.n40"])
    with pytest.raises(DataError, match="3 labels for 8 examples"):
        Lesions(program(), batches(1), np.zeros(3, int))
    with pytest.raises(DataError, match="at least one batch"):
        Lesions(program(), [])


def test_blocks_are_lesioned_whole_against_other_runs_of_layers() -> None:
    groups = layer_groups(program())
    assert list(groups) == ["resid0", "resid1", "resid2"] and groups["resid1"][-1] == "m1"
    lesions = Lesions(program(), batches())
    labels = np.array([0, 1, 1])
    blocks = Blocks(tuple(groups), labels, score_blocks(1 - np.eye(3), labels), "contiguous")
    single = validate_by_lesion(blocks, lesions, groups)
    first, second = lesion_blocks(blocks, lesions, groups)
    assert (first.layers, len(first.others)) == (1, 2) and (second.layers, len(second.others)) == (2, 1)
    assert first.kl == pytest.approx(single.values[0]) and first.others[0] == pytest.approx(single.values[1])
    assert second.kl == pytest.approx(lesions.effect([*groups["resid1"], *groups["resid2"]]).kl)
    with pytest.raises(DataError, match="no nodes to ablate"):
        validate_by_lesion(blocks, lesions, {})


# --- dynamics -------------------------------------------------------------------------------------------------------


def test_drift_grows_with_the_change_and_blocks_stay() -> None:
    still = planted_stack(60, noise=0.05)[0]
    rng = np.random.default_rng(0)

    def moved(by: float) -> Representations:
        return Representations(still.names, tuple(a + by * rng.standard_normal(a.shape) for a in still.arrays))

    found = follow(Cka(), {2.0: moved(0.8), 0.0: still, 1.0: moved(0.2)})
    assert found.steps == (0.0, 1.0, 2.0)
    assert (found.from_first[0] == 0).all() and (found.from_first[1] < found.from_first[2]).all()
    np.testing.assert_array_equal(found.from_before[0], found.from_first[1])
    assert found.agreement.tolist() == [1.0, 1.0] and len(found.mean) == 3


def test_steps_must_share_nodes_and_samples() -> None:
    a, b = planted_stack(40)[0], planted_stack(50)[0]
    with pytest.raises(DataError, match="step 1 has other nodes or another number"):
        follow(Cka(), {0: a, 1: b})
    with pytest.raises(DataError, match="at least two steps"):
        follow(Cka(), {0: a})


def test_checkpoints_are_collected_one_after_the_other() -> None:
    found = collect_steps([(0, program()), (10, program())], batches(1))
    assert list(found) == [0, 10]
    np.testing.assert_array_equal(found[0]["resid1"], found[10]["resid1"])
    np.testing.assert_array_equal(found[0]["resid1"], collect_representations(program(), batches(1))["resid1"])


def test_sparsities_of_one_model_are_followed_by_its_weight_masks() -> None:
    made = program()
    whole = {name: made.traced.tensors[name].abs() for name in made.maskable}
    masks = {
        share: {name: (w > torch.quantile(w, share)).to(w) for name, w in whole.items()} if share else {}
        for share in (0.0, 0.5, 0.9)
    }
    found = follow(Cka(unbiased=False), collect_sparsities(made, masks, batches()), BlocksOptions(permutations=19))
    assert found.steps == (0.0, 0.5, 0.9)
    assert (found.from_first[0] == 0).all() and (found.from_first[2] > found.from_first[1]).all()
