"""Clusters of units: recovered where planted, judged against shuffled nets, lesioned against random groups; trees."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import adjusted_rand_score  # type: ignore[import-untyped]
from torch import nn

import graphir
from graphir.errors import DataError, GraphirError
from graphir.run.program import MaskedProgram
from passes.analysis_options import ClusterOptions, HierarchyOptions, LesionOptions
from passes.analyze.clusterability import cluster_units, ncut, spectral_labels
from passes.analyze.hierarchy import align_signs, find_hierarchy, is_odd, should_align, unit_features
from passes.analyze.lesions import Lesions, layer_groups
from passes.analyze.representations import Representations, collect_representations
from passes.analyze.specialization import combined_p, correct, lesion_specialization, rank_p
from passes.analyze.unit_graphs import activation_graph, graph_of_matrices, groups_of, weight_graph
from passes.analyze.visualization import compare_visualizations, visualize
from tests import modules
from tests.planted import planted_matrices

FEW = ClusterOptions(k=4, shuffles=5, starts=5)


class TwoHalves(nn.Module):
    """Two perceptrons in one: units of one half see one half of the inputs and make one half of the outputs."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 4)
        for layer in (self.fc1, self.fc2, self.out):
            rows, columns = layer.weight.shape
            half = (torch.arange(rows)[:, None] < rows // 2) == (torch.arange(columns) < columns // 2)
            layer.weight.data = torch.where(
                half, torch.randn(rows, columns).abs() + 0.3, 0.02 * torch.randn(rows, columns)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 6) → (batch, 4)."""
        y: torch.Tensor = self.out(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
        return y


@cache
def halves() -> tuple[nn.Module, MaskedProgram, torch.Tensor]:
    torch.manual_seed(0)
    model = TwoHalves().eval().requires_grad_(False)
    inputs = torch.randn(80, 6)
    return model, graphir.lower(graphir.trace(model, (inputs[:4],), granularity="neuron")), inputs


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_the_weight_graph_of_a_model_is_that_of_its_matrices() -> None:
    model, program, _ = halves()
    matrices = [model.get_parameter(f"{name}.weight").numpy() for name in ("fc1", "fc2", "out")]
    ours, plain = weight_graph(program), graph_of_matrices(matrices)
    assert ours.names[:7] == ("in.n0", "in.n1", "in.n2", "in.n3", "in.n4", "in.n5", "fc1.n0")
    np.testing.assert_allclose(ours.adjacency().toarray(), plain.adjacency().toarray(), rtol=1e-6)
    dense = plain.adjacency().toarray()
    assert (dense == dense.T).all() and dense[0, 6] == abs(matrices[0][0, 0])


def test_channels_are_joined_by_the_norm_of_their_kernel_with_the_batch_norm_folded_in() -> None:
    model = modules.prepared(modules.SmallResNet())
    program = graphir.lower(graphir.trace(model, modules.image_example(), granularity="layer"))
    bare, folded = (weight_graph(program, fold_norms=f) for f in (False, True))
    kernel = model.get_parameter("layer1.0.conv1.weight").abs().sum((2, 3)).numpy()
    np.testing.assert_allclose(bare.links[0].weights, kernel, rtol=1e-5)
    norm = model.get_submodule("layer1.0.bn1")
    scale = (norm.get_parameter("weight") / (norm.get_buffer("running_var") + norm.eps).sqrt()).abs().numpy()  # type: ignore[operator]
    np.testing.assert_allclose(folded.links[0].weights, kernel * scale[:, None], rtol=1e-5)
    assert not any(name.startswith(("in", "fc")) for name in bare.names)  # inputs and outputs are left out
    assert any(name.startswith("fc") for name in weight_graph(program, ends=True).names)


def test_a_model_with_streams_has_no_weight_graph() -> None:
    model = modules.prepared(modules.NormFreeTransformer(1))
    program = graphir.lower(graphir.trace(model, modules.token_example()))
    with pytest.raises(GraphirError, match="without residual streams") as error:
        weight_graph(program)
    assert error.value.hints[0] == "graph: activations"


@given(seed=st.integers(0, 1000))
@settings(max_examples=8)
def test_balanced_graphs_do_not_change_when_units_are_rescaled(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second, third = rng.standard_normal((6, 4)), rng.standard_normal((5, 6)), rng.standard_normal((3, 5))
    a, b = rng.uniform(0.1, 10, 6), rng.uniform(0.1, 10, 5)
    scaled = [first * a[:, None], second * b[:, None] / a, third / b]
    plain, moved = graph_of_matrices([first, second, third]), graph_of_matrices(scaled)
    assert not np.allclose(plain.adjacency().toarray(), moved.adjacency().toarray(), rtol=1e-2)
    np.testing.assert_allclose(
        plain.balance().adjacency().toarray(), moved.balance().adjacency().toarray(), rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize("nonzero", [False, True])
def test_shuffles_permute_within_a_product(nonzero: bool) -> None:
    matrices = [m * (np.random.default_rng(0).random(m.shape) < 0.5) for m in planted_matrices(2, 8, 2)[0]]
    graph = graph_of_matrices(matrices)
    mixed = graph.shuffled(np.random.default_rng(1), nonzero=nonzero)
    for before, after in zip(graph.links, mixed.links, strict=True):
        np.testing.assert_array_equal(np.sort(before.weights, None), np.sort(after.weights, None))
        assert (before.weights != after.weights).any()
        assert ((before.weights > 0) == (after.weights > 0)).all() == nonzero


def test_activation_graphs_are_squared_rank_correlations_and_constant_units_have_no_edge() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((50, 1))
    units = np.concatenate([x, -(x**3), rng.standard_normal((50, 1)), np.ones((50, 1)), x], axis=1)
    block = activation_graph(Representations(("fc1",), (units,))).adjacency().toarray()
    assert block[0, 1] == pytest.approx(1) and block[0, 4] == pytest.approx(1)  # monotone, and a duplicate
    assert block[0, 2] < 0.3 and (block[3] == 0).all() and (np.diagonal(block) == 0).all()


# --- clusters -------------------------------------------------------------------------------------------------------


def test_the_ncut_is_its_definition() -> None:
    dense = np.random.default_rng(3).random((9, 9))
    dense = np.triu(dense, 1) + np.triu(dense, 1).T
    labels = np.arange(9) % 3
    expected = 0.0
    for c in range(3):
        inside = [i for i in range(9) if labels[i] == c]
        leaving = sum(dense[i, j] for i in inside for j in range(9) if labels[j] != c)
        expected += leaving / sum(dense[i, j] for i in inside for j in range(9))
    assert ncut(sparse.csr_array(dense), labels) == pytest.approx(expected)


def test_planted_modules_are_found_and_more_clusterable_than_shuffled() -> None:
    matrices, truth = planted_matrices()
    found = cluster_units(graph_of_matrices(matrices), FEW)
    assert adjusted_rand_score(truth, found.labels) >= 0.95
    assert found.z < -5 and found.p_more == pytest.approx(1 / 6) and found.p_less == 1.0
    assert found.ave_in_out > 1 and found.pieces == 1


def test_a_network_less_clusterable_than_shuffled_has_the_other_sign() -> None:
    # Strong units with strong units, as decay makes them: modules only appear when the large weights are scattered.
    rng = np.random.default_rng(4)
    strengths = [np.exp(1.5 * rng.standard_normal(32)) for _ in range(4)]
    matrices = [np.outer(b, a) for a, b in pairwise(strengths)]
    found = cluster_units(graph_of_matrices(matrices), FEW)
    assert found.z > 2 and found.p_less == pytest.approx(1 / 6) and found.p_more == 1.0


def test_activations_cluster_units_that_go_together() -> None:
    rng = np.random.default_rng(5)
    truth = np.arange(24) % 3
    units = rng.standard_normal((100, 3))[:, truth] + 0.3 * rng.standard_normal((100, 24))
    graph = activation_graph(Representations(("fc1",), (units,)))
    found = cluster_units(graph, ClusterOptions(k=3, shuffles=5, starts=5))
    assert adjusted_rand_score(truth, found.labels) == 1.0 and found.z < 0 and found.settings["graph"] == "activations"


def test_units_without_edges_are_dropped_and_named() -> None:
    matrices, truth = planted_matrices(2, 16, 2)
    matrices[0][:, 3] = 0  # an input that nothing reads
    found = cluster_units(graph_of_matrices(matrices), ClusterOptions(k=2, shuffles=0, starts=5))
    assert found.dropped == ("in.n3",) and found.labels[3] == -1
    assert adjusted_rand_score(np.delete(truth, 3), np.delete(found.labels, 3)) >= 0.9
    assert np.isnan(found.z)


def disconnected(pieces: int) -> list[NDArray[Any]]:
    return [np.kron(np.eye(pieces), 1 + np.random.default_rng(i).random((4, 4))) for i in range(2)]


def test_graphs_in_pieces_are_reported_or_reduced_or_refused() -> None:
    graph = graph_of_matrices(disconnected(2))
    kept = cluster_units(graph, ClusterOptions(k=3, shuffles=0, starts=5))
    assert kept.pieces == 2 and (kept.labels >= 0).all()
    with pytest.raises(DataError, match="falls into 2 pieces that no edge joins") as error:
        cluster_units(graph, ClusterOptions(k=2, shuffles=0))
    assert error.value.hints[0] == "disconnected: largest"
    largest = cluster_units(graph, ClusterOptions(k=2, shuffles=0, disconnected="largest", starts=5))
    assert largest.pieces == 1 and (largest.labels >= 0).sum() == 12


def test_more_clusters_than_units_are_refused() -> None:
    with pytest.raises(DataError, match="12 clusters of 12 units that have edges"):
        cluster_units(graph_of_matrices([np.ones((4, 4)), np.ones((4, 4))]), ClusterOptions(k=12))


def test_weights_that_are_not_numbers_and_matrices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        graph_of_matrices([np.full((3, 3), np.nan)])
    with pytest.raises(DataError, match="5 inputs follows one with 3 outputs"):
        graph_of_matrices([np.ones((3, 4)), np.ones((2, 5))])


def test_the_same_seed_gives_the_same_clusters() -> None:
    graph = graph_of_matrices(planted_matrices(outside=1.0)[0])
    first, second = (cluster_units(graph, FEW) for _ in range(2))
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.null, second.null)


# --- lesions against random groups ------------------------------------------------------------------------------------


def test_units_that_matter_are_told_from_random_ones() -> None:
    model, program, inputs = halves()
    layers = layer_groups(program)
    assert list(layers) == ["fc1", "fc2"]
    labels = model(inputs).argmax(-1).numpy()
    lesions = Lesions(program, [(inputs,)], labels)
    single = {name: lesions.effect([name]).kl for name in layers["fc2"]}
    strongest = tuple(sorted(single, key=lambda n: -single[n])[:2])
    found = lesion_specialization(lesions, {"top": strongest}, layers, LesionOptions(random_groups=19))
    assert set(found) == {"mean", "range", "kl"}
    assert found["kl"].tests[0].p <= 0.15 and found["kl"].ratio > 1
    assert found["mean"].tests[0].size == 2 and len(found["mean"].tests[0].random) == 19


def test_groups_too_small_or_nearly_whole_are_skipped_and_said() -> None:
    _, program, inputs = halves()
    lesions, layers = Lesions(program, [(inputs,)]), layer_groups(program)
    groups = {"one": ("fc1.n0",), "two": ("fc1.n0", "fc1.n1"), "all": layers["fc1"]}
    found = lesion_specialization(lesions, groups, layers, LesionOptions(random_groups=3))
    assert list(found) == ["kl"] and found["kl"].skipped == ("one", "all")
    with pytest.raises(DataError, match="no group can be tested"):
        lesion_specialization(lesions, {"one": ("fc1.n0",)}, layers)
    with pytest.raises(DataError, match="not all of one layer"):
        lesion_specialization(lesions, {"mixed": ("fc1.n0", "fc2.n0")}, layers)


def test_clusters_are_cut_by_layer() -> None:
    _, program, _ = halves()
    graph = weight_graph(program)
    found = cluster_units(graph, ClusterOptions(k=2, shuffles=0, starts=5))
    groups = groups_of(graph, found.labels)
    assert all(len({name.split(".")[0] for name in units}) == 1 for units in groups.values())
    assert sorted(n for units in groups.values() for n in units) == sorted(graph.names)


def test_rank_p_values_are_combined_by_fisher_and_corrected() -> None:
    assert rank_p(5.0, np.array([1.0, 5.0, 9.0])) == pytest.approx(3 / 4)
    uniform = [(r + 1) / 20 for r in range(20)]
    assert 0.3 < combined_p(uniform, 19) < 0.7  # nothing there
    assert combined_p([0.05] * 6, 19) < 1e-3
    adjusted = correct({"a": 0.01, "b": 0.04, "c": float("nan")})
    assert adjusted["a"] == pytest.approx(0.02) and adjusted["b"] == pytest.approx(0.04) and np.isnan(adjusted["c"])


def test_units_of_one_half_are_driven_together_more_than_mixed_ones() -> None:
    _, program, _ = halves()
    half, mixed = ("fc1.n0", "fc1.n1"), ("fc1.n0", "fc1.n7")
    made = [visualize(program, units, low=-1, high=1, steps=30) for units in (half, mixed)]
    assert all(v.score > 0 and 0 <= v.entropy <= np.log(4) + 1e-6 for v in made)
    found = compare_visualizations(
        program, {"half": half}, layer_groups(program), LesionOptions(random_groups=3), steps=5
    )
    assert set(found) == {"score", "entropy"} and 0 < found["score"].p < 1
    model = modules.prepared(modules.NormFreeTransformer(1))
    tokens = graphir.lower(graphir.trace(model, modules.token_example()))
    with pytest.raises(DataError, match="real-valued input"):
        visualize(tokens, ["m0.n0"])


# --- trees ------------------------------------------------------------------------------------------------------------


def test_the_tree_splits_two_separate_halves_first() -> None:
    model, program, inputs = halves()
    found = collect_representations(program, [(inputs,)], ["fc1", "fc2"])
    units = np.concatenate(found.arrays, axis=1)
    names = [f"{layer}.n{i}" for layer in ("fc1", "fc2") for i in range(8)]
    tree = find_hierarchy(units, inputs.numpy(), model(inputs).numpy(), names, odd=is_odd(program, "fc1"))
    alive = [i for i, name in enumerate(names) if name not in tree.constant]
    truth = np.tile(np.repeat([0, 1], 4), 2)
    assert adjusted_rand_score(truth[alive], tree.cut(2)[alive]) >= 0.95
    assert tree.representatives(tree.cut(2)).shape == (2, 10)
    height = (tree.tree[-1, 2] + tree.tree[-2, 2]) / 2
    np.testing.assert_array_equal(tree.cut(height=height), tree.cut(2))


def test_features_are_signed_correlations_and_zero_for_constant_units() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((30, 2)), rng.standard_normal((30, 1))
    units = np.concatenate([-2 * x[:, :1] + 1, np.ones((30, 1)), rng.standard_normal((30, 1))], axis=1)
    features = unit_features(units, x, y)
    assert features[0, 0] == pytest.approx(-1) and (features[1] == 0).all()
    assert features[2, 2] == pytest.approx(np.corrcoef(units[:, 2], y[:, 0])[0, 1])


@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_alignment_undoes_arbitrary_flips(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal(6) + 0.2 * rng.standard_normal((10, 6))
    flips = rng.choice([-1.0, 1.0], 10)
    signs = align_signs(features * flips[:, None])
    assert abs((signs * flips).sum()) == 10


@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_magnitudes_tell_modules_of_random_signs_apart_and_flips_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    (first, second), labels = planted_matrices(2, 32, 4, seed=seed)
    x = rng.standard_normal((1000, 32))
    units = np.tanh(x @ first.T / 8)
    flipped = units * rng.choice([-1.0, 1.0], 32)
    names = [f"n{i}" for i in range(32)]
    found = find_hierarchy(units, x, units @ second.T, names, odd=True, by="magnitude")
    assert adjusted_rand_score(labels[32:64], found.cut(4)) >= 0.95
    again = find_hierarchy(flipped, x, units @ second.T, names, odd=False, by="magnitude")
    np.testing.assert_allclose(again.features, found.features, atol=1e-12)


def test_signed_features_miss_modules_of_random_signs_more_often_than_not() -> None:
    names = [f"n{i}" for i in range(32)]
    agreement = []
    for seed in range(10):
        (first, second), labels = planted_matrices(2, 32, 4, seed=seed)
        x = np.random.default_rng(seed).standard_normal((1000, 32))
        units = np.tanh(x @ first.T / 8)
        signed = find_hierarchy(units, x, units @ second.T, names, odd=True)
        agreement.append(adjusted_rand_score(labels[32:64], signed.cut(4)))
    assert np.median(agreement) < 0.95


def test_signs_are_aligned_only_where_the_activation_is_odd() -> None:
    program = graphir.lower(
        graphir.trace(modules.prepared(modules.FeedForward()), modules.feature_example(), granularity="neuron")
    )
    assert is_odd(program, "fc1") and not is_odd(program, "fc2")  # tanh, relu
    auto = HierarchyOptions()
    assert should_align(auto, program, ["fc1"]) and not should_align(auto, program, ["fc1", "fc2"])
    assert should_align(HierarchyOptions(align="yes"), program, ["fc2"])
    rng = np.random.default_rng(7)
    x = rng.standard_normal((40, 3))
    units = np.tanh(x @ rng.standard_normal((3, 4)))
    both = np.concatenate([units, -units], axis=1)
    names = [f"n{i}" for i in range(8)]
    odd, plain = (find_hierarchy(both, x, x[:, :1], names, odd=o) for o in (True, False))
    assert adjusted_rand_score(np.tile(np.arange(4), 2), odd.cut(4)) == 1.0
    assert (plain.signs == 1).all() and adjusted_rand_score(np.tile(np.arange(4), 2), plain.cut(4)) < 0.5


def test_trees_refuse_what_they_cannot_cut_or_compare() -> None:
    rng = np.random.default_rng(8)
    units, x = rng.standard_normal((10, 4)), rng.standard_normal((10, 2))
    tree = find_hierarchy(units, x, x, ["a", "b", "c", "d"], odd=False)
    with pytest.raises(DataError, match="5 modules of 4 units"):
        tree.cut(5)
    with pytest.raises(DataError, match="by `count` or at a `height`"):
        tree.cut()
    with pytest.raises(DataError, match="unequal sample counts"):
        unit_features(units, x[:5], x)
    with pytest.raises(DataError, match="3 samples are too few"):
        unit_features(units[:3], x[:3], x[:3])
    with pytest.raises(DataError, match="not finite"):
        unit_features(np.full((10, 2), np.nan), x, x)
    duplicate = find_hierarchy(np.repeat(units[:, :1], 3, axis=1), x, x, ["a", "b", "c"], odd=False)
    assert [len(set(duplicate.cut(k).tolist())) for k in (1, 2, 3)] == [1, 2, 3]


def test_spectral_labels_cover_every_unit() -> None:
    graph = graph_of_matrices(planted_matrices(2, 8, 2)[0])
    assert set(spectral_labels(graph.adjacency(), 2, starts=3).tolist()) == {0, 1}
