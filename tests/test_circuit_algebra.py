"""Set operations on circuits: the identities, what runs, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphir.algebra import (
    AblationMismatchError,
    complement,
    difference,
    intersection,
    needed_nodes,
    reference_of,
    symmetric_difference,
    union,
)
from graphir.algebra_overlap import overlap, overlap_rows
from graphir.algebra_sum import add
from graphir.circuit import Circuit
from graphir.errors import GraphirError, ModelMismatchError
from graphir.ir import Graph
from tests.factories import neurons, random_graph, scored, transformer

GRAPH = transformer(2, 2, groups=1)
SHAPES = {"h.0.attn.q.weight": (4, 3), "h.1.mlp.up.weight": (5,)}


def drawn(graph: Graph, seed: int, *, weights: bool = True) -> Circuit:
    """A circuit of random edges, nodes (not all that its edges need) and weights. The first edge never runs and the
    second does, so that unions do not keep every edge, nor complements."""
    rng = np.random.default_rng(seed)
    masks = {name: rng.random(shape) < 0.5 for name, shape in SHAPES.items()} if weights else {}
    edges, nodes = rng.random(len(graph.edges)) < rng.random(), rng.random(len(graph.nodes)) < 0.8
    edges[:2], nodes[graph.edge_src[1]] = (False, True), True
    return Circuit(graph, edges, nodes, weights=masks, name=f"c{seed}", provenance={"seed": seed})


def parts(circuit: Circuit) -> dict[str, list[bool]]:
    """What a circuit keeps, flat: edges, nodes, and each weight mask."""
    kept = {"edges": circuit.edges, "nodes": circuit.nodes} | dict(circuit.weights)
    return {name: np.ravel(mask).tolist() for name, mask in kept.items()}


def state(circuit: Circuit) -> dict[str, bytes]:
    return {name: bytes(mask) for name, mask in parts(circuit).items()}


@st.composite
def circuits(draw: st.DrawFn, count: int) -> list[Circuit]:
    graph = draw(st.sampled_from([GRAPH, transformer(1, 2, embeddings=2), neurons(), random_graph(3)]))
    return [drawn(graph, seed) for seed in draw(st.lists(st.integers(0, 10**6), min_size=count, max_size=count))]


IDENTITIES: Mapping[str, Callable[..., tuple[Circuit, Circuit]]] = {
    "union is idempotent": lambda a, b, c: ((a | a) | a, a | a),
    "intersection is idempotent": lambda a, b, c: (a & a, a | a),
    "union commutes": lambda a, b, c: (a | b, b | a),
    "intersection commutes": lambda a, b, c: (a & b, b & a),
    "symmetric difference commutes": lambda a, b, c: (a ^ b, b ^ a),
    "union is associative": lambda a, b, c: ((a | b) | c, a | (b | c)),
    "intersection is associative": lambda a, b, c: ((a & b) & c, a & (b & c)),
    "symmetric difference is associative": lambda a, b, c: ((a ^ b) ^ c, a ^ (b ^ c)),
    "several at once": lambda a, b, c: (union(a, b, c), a | b | c),
    "absorption by union": lambda a, b, c: (a | (a & b), a | a),
    "absorption by intersection": lambda a, b, c: ((a | b) & a, a | a),
    "De Morgan of union": lambda a, b, c: (~(a | b), ~a & ~b),
    "De Morgan of intersection": lambda a, b, c: (~(a & b), ~a | ~b),
    "union distributes": lambda a, b, c: (a | (b & c), (a | b) & (a | c)),
    "intersection distributes": lambda a, b, c: (a & (b | c), (a & b) | (a & c)),
    "the complement of the complement": lambda a, b, c: (~~a, a | a),
    "difference is with the complement": lambda a, b, c: (a - b, a & ~b),
    "difference of several": lambda a, b, c: (difference(a, b, c), a - b - c),
    "symmetric difference is either but not both": lambda a, b, c: (a ^ b, (a | b) - (a & b)),
}


@pytest.mark.parametrize("name", IDENTITIES)
@settings(max_examples=30)
@given(operands=circuits(3))
def test_identities(name: str, operands: list[Circuit]) -> None:
    left, right = IDENTITIES[name](*operands)
    assert parts(left) == parts(right)


@pytest.mark.parametrize("name", IDENTITIES)
@settings(max_examples=10)
@given(operands=circuits(3))
def test_identities_of_circuits_that_mask_weights_alone(name: str, operands: list[Circuit]) -> None:
    left, right = IDENTITIES[name](*(operand.with_(**everything(operand.graph)) for operand in operands))
    assert parts(left) == parts(right)
    assert left.edges.all()


def everything(graph: Graph) -> dict[str, Any]:
    return {"edges": np.ones(len(graph.edges), bool), "nodes": np.ones(len(graph.nodes), bool)}


def test_what_masks_weights_alone_takes_no_edges_away() -> None:
    edges, weights = drawn(GRAPH, 0), drawn(GRAPH, 1).with_(**everything(GRAPH))
    assert (edges - weights).edges.tolist() == (edges | edges).edges.tolist()
    assert not (edges - weights).masks_weights_alone
    assert (weights - edges).edges.tolist() == (~edges).edges.tolist()


@settings(max_examples=30)
@given(operands=circuits(1))
def test_nothing_is_shared_with_the_complement_and_nothing_is_left_out(operands: list[Circuit]) -> None:
    (a,) = operands
    empty, everything = a & ~a, a | ~a
    assert not any(map(any, parts(empty).values()))
    assert parts(a - a) == parts(empty)
    assert all(parts(everything)["edges"])
    assert all(all(kept) for name, kept in parts(everything).items() if name in SHAPES)
    assert parts(a | empty) == parts(a | a)


@settings(max_examples=30)
@given(operands=circuits(2))
def test_operands_stay_as_they_are(operands: list[Circuit]) -> None:
    before = [(state(c), dict(c.provenance), c.name) for c in operands]
    for operation in (union, intersection, difference, symmetric_difference, add):
        operation(*operands)
    for operand in operands:
        complement(operand)
    assert [(state(c), dict(c.provenance), c.name) for c in operands] == before


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), graph=st.sampled_from([GRAPH, transformer(2, 2), random_graph(5)]))
def test_a_circuit_whose_edges_lie_on_paths_has_the_nodes_its_edges_need(seed: int, graph: Graph) -> None:
    circuit = scored(graph, seed)
    assert np.array_equal(needed_nodes(graph, circuit.edges), circuit.nodes)


@settings(max_examples=30)
@given(operands=circuits(2))
def test_what_runs_is_what_the_masks_say(operands: list[Circuit]) -> None:
    """The masks of a result are the Boolean combination of the operands' masks, the complement's included."""
    a, b = operands
    runs = [c.edges & c.nodes[c.graph.edge_src] for c in (a, b, a | b, a & b, a - b, ~a)]
    assert np.array_equal(runs[2], runs[0] | runs[1])
    assert np.array_equal(runs[3], runs[0] & runs[1])
    assert np.array_equal(runs[4], runs[0] & ~runs[1])
    assert np.array_equal(runs[5], ~runs[0])


def test_a_parameter_that_is_not_masked_is_kept_whole() -> None:
    name, other = SHAPES
    a = drawn(GRAPH, 0, weights=False).with_(weights={name: np.array([[1, 0, 1]] * 4, bool)})
    b = drawn(GRAPH, 1, weights=False).with_(weights={other: np.array([1, 0, 0, 1, 0], bool)})
    assert (a | b).weights[name].all()
    assert (a & b).weights[name].tolist() == a.weights[name].tolist()
    assert (a & b).weights[other].tolist() == b.weights[other].tolist()
    assert (a - b).weights[name].tolist() == a.weights[name].tolist()
    assert (a - b).weights[other].tolist() == (~b.weights[other]).tolist()


def test_results_know_their_operands() -> None:
    a, b = scored(GRAPH, 0), scored(GRAPH, 1).with_(name="other")
    found = a | b
    assert found.provenance["operation"] == "union"
    assert [o["name"] for o in found.provenance["operands"]] == ["random", "other"]
    assert [o["ablation"] for o in found.provenance["operands"]] == ["interchange", "interchange"]
    assert [o["provenance"] for o in found.provenance["operands"]] == [{"seed": 0}, {"seed": 1}]
    assert found.metrics == {}
    assert found.scores == {}


# --- ablation references ---------------------------------------------------------------------------------------------


def test_different_ablations_need_a_rule() -> None:
    a, b = drawn(GRAPH, 0), drawn(GRAPH, 1).with_(ablation="zero")
    for combine in (union, intersection, difference, symmetric_difference, add):
        with pytest.raises(AblationMismatchError, match=r"interchange and zero[\s\S]*ablation=\"left\""):
            combine(a, b)
    assert union(a, b, ablation="left").ablation == "interchange"
    assert union(a, b, ablation="right").ablation == "zero"
    found = union(a, b, ablation="mean")
    assert found.ablation == "mean"
    assert found.provenance["ablation_rule"] == "mean"
    assert [o["ablation"] for o in found.provenance["operands"]] == ["interchange", "zero"]


def test_means_of_two_data_sets_are_two_references() -> None:
    a, b = (drawn(GRAPH, s).with_(ablation="mean", provenance={"data": d}) for s, d in ((0, "aaaa"), (1, "bbbb")))
    with pytest.raises(AblationMismatchError, match="mean of data aaaa and mean of data bbbb"):
        a | b
    assert reference_of(union(a, b, ablation="right")) == reference_of(b)
    same = a | b.with_(provenance={"data": "aaaa"})
    assert reference_of(same) == reference_of(a)


def test_interchange_with_the_data_of_each_prompt_is_one_reference() -> None:
    a, b = (drawn(GRAPH, s).with_(provenance={"data": d}) for s, d in ((0, "aaaa"), (1, "bbbb")))
    assert (a & b).ablation == "interchange"


def test_an_unknown_rule_is_told() -> None:
    with pytest.raises(GraphirError, match=r"no ablation rule `lefft`[\s\S]*`left`"):
        union(drawn(GRAPH, 0), drawn(GRAPH, 1), ablation="lefft")


# --- graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "message"),
    [
        pytest.param(GRAPH.with_(model_hash="cd" * 32), "different models", id="another model"),
        pytest.param(transformer(2, 2), "graphs differ: a0.h0: ports", id="another granularity"),
        pytest.param(transformer(3, 2, groups=1), "graphs differ: nodes", id="another size"),
    ],
)
def test_circuits_of_other_graphs_are_refused(other: Graph, message: str) -> None:
    for combine in (union, intersection, difference, overlap):
        with pytest.raises(ModelMismatchError, match=message):
            combine(drawn(GRAPH, 0), drawn(other, 1))


def test_two_traces_of_one_model_combine() -> None:
    again = transformer(2, 2, groups=1)
    assert again is not GRAPH
    assert parts(drawn(GRAPH, 0) | drawn(again, 1)) == parts(drawn(GRAPH, 0) | drawn(GRAPH, 1))


def test_masks_of_other_shapes_are_refused() -> None:
    a = drawn(GRAPH, 0)
    b = a.with_(weights={next(iter(SHAPES)): np.ones((2, 2), bool)})
    with pytest.raises(GraphirError, match=r"have shapes \(4, 3\) and \(2, 2\)"):
        a | b


def test_only_circuits_combine() -> None:
    other: Any = 3
    with pytest.raises(TypeError):
        drawn(GRAPH, 0) | other
    with pytest.raises(TypeError):
        drawn(GRAPH, 0) + other


# --- sums ------------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(operands=circuits(3))
def test_a_sum_is_the_union_with_weights_added(operands: list[Circuit]) -> None:
    found = add(*operands)
    assert parts(found.circuit) == parts(union(*operands))
    for name, counts in found.factors.items():
        assert np.array_equal(counts, sum(c.weights[name].astype(int) for c in operands))
        assert np.array_equal(counts > 0, found.circuit.weights[name])
    assert found.doubled == {name: int((counts > 1).sum()) for name, counts in found.factors.items()}


def test_a_sum_by_operator() -> None:
    a, b = drawn(GRAPH, 0), drawn(GRAPH, 1)
    assert parts((a + b).circuit) == parts(a | b)
    assert (a + b).circuit.provenance["operation"] == "sum"


# --- overlap ---------------------------------------------------------------------------------------------------------


def sets(circuit: Circuit) -> set[int]:
    return set(np.flatnonzero(circuit.effective_edges).tolist())


@settings(max_examples=30)
@given(operands=circuits(3))
def test_overlap_is_that_of_sets(operands: list[Circuit]) -> None:
    found, named = overlap(*operands), [sets(c) for c in operands]
    both, either = set.intersection(*named), set.union(*named)
    smallest = min(map(len, named))
    assert found.edges.iou == (len(both) / len(either) if either else 1)
    assert found.edges.iomin == (len(both) / smallest if smallest else 1)
    first, second, third = named
    others = (second | third, first | third, first | second)
    assert found.edges.shared_fractions == tuple(len(s & o) / len(s) for s, o in zip(named, others, strict=True))
    assert found.edges.remaining_fractions == tuple(len(s & first) / len(first) for s in named)
    for part in ("edges", "nodes", "weights"):
        whole = found.whole[part]
        for groups in (found.by_layer(part), found.by_kind(part)):
            assert sum(each.shared for each in groups.values()) == whole.shared
            assert sum(each.total for each in groups.values()) == whole.total
            assert all(0 <= each.iou <= each.iomin <= 1 for each in groups.values())


def test_overlap_of_nothing_is_one() -> None:
    empty = Circuit(GRAPH, np.zeros(len(GRAPH.edges), bool), np.zeros(len(GRAPH.nodes), bool))
    assert overlap(empty, empty).edges.iou == 1
    assert overlap(empty, empty).edges.iomin == 1
    assert overlap(empty, Circuit.full(GRAPH)).edges.iou == 0
    assert overlap(empty, Circuit.full(GRAPH)).edges.iomin == 1


def test_iomin_sees_a_circuit_within_another() -> None:
    large = Circuit.of_edges(GRAPH, ["embed -> a0.h0.q", "embed -> m0", "m0 -> logits", "m1 -> logits"])
    found = overlap(large, Circuit.of_edges(GRAPH, ["embed -> m0"]))
    assert found.edges.iou == 0.25
    assert found.edges.iomin == 1
    assert {name: o.iou for name, o in found.by_kind("edges").items() if o.either} == {"q": 0, "mlp": 1, "output": 0}
    assert {name: o.iou for name, o in found.by_layer("edges").items() if o.either} == {"0": 0.5, "-": 0}


def test_chance_is_the_overlap_of_random_sets() -> None:
    rng = np.random.default_rng(0)
    graph = transformer(2, 4)
    total = len(graph.edges)
    found = []
    for _ in range(300):
        pair = [np.zeros(total, bool) for _ in range(2)]
        for mask, size in zip(pair, (40, 60), strict=True):
            mask[rng.choice(total, size, replace=False)] = True
        nodes = np.ones(len(graph.nodes), bool)
        found.append(overlap(*(Circuit(graph, mask, nodes) for mask in pair)).edges)
    assert np.mean([o.iou for o in found]) == pytest.approx(found[0].chance, abs=0.01)


def test_overlap_with_a_circuit_of_the_random_copy() -> None:
    random = drawn(GRAPH.with_(model_hash="random-normal-0:ab"), 1)
    assert overlap(drawn(GRAPH, 0), random, across_models=True).edges == overlap(drawn(GRAPH, 0), drawn(GRAPH, 1)).edges


def test_weights_are_told_by_the_layer_and_kind_of_their_parameter() -> None:
    """Parameter by parameter, against sets of single weights."""
    graph = transformer(3, 2)
    sizes = {name: shape for node in graph.nodes for name, shape in ((p.parameter, p.shape) for p in node.weights)}
    owners = {part.parameter: node for node in reversed(graph.nodes) for part in node.weights}
    rng = np.random.default_rng(0)
    parts = [
        Circuit.full(graph, weights={name: rng.random(shape) < 0.5 for name, shape in sizes.items()}) for _ in range(2)
    ]
    found = overlap(*parts)
    for groups, label in (
        (found.by_layer("weights"), lambda node: "-" if node.layer is None else str(node.layer)),
        (found.by_kind("weights"), lambda node: node.kind.value),
    ):
        for name, each in groups.items():
            own = [parameter for parameter in sizes if label(owners[parameter]) == name]
            one, other = ([part.weights[parameter] for parameter in own] for part in parts)
            assert each.shared == sum(int((a & b).sum()) for a, b in zip(one, other, strict=True))
            assert each.either == sum(int((a | b).sum()) for a, b in zip(one, other, strict=True))
            assert each.sizes == tuple(sum(int(mask.sum()) for mask in masks) for masks in (one, other))
            assert each.total == sum(mask.size for mask in one)
    assert len(found.by_layer("weights")) >= 3


def test_a_table_of_a_deep_model_has_the_layers_with_the_most_in_common_and_adds_up_the_rest() -> None:
    graph = transformer(12, 2)
    rng = np.random.default_rng(0)
    pair = [Circuit(graph, rng.random(len(graph.edges)) < 0.5, np.ones(len(graph.nodes), bool)) for _ in range(2)]
    found = overlap(*pair)
    rows = [row for row in overlap_rows(found.to_json(), layers=3) if "layer" in row[0]][:4]
    layers = found.by_layer("edges")
    most = sorted(layers, key=lambda name: -layers[name].shared)[:3]
    assert [row[0].split()[-1] for row in rows[:3]] == most
    assert [row[1] for row in rows[:3]] == [layers[name].shared for name in most]
    assert rows[3][0] == f"  … {len(layers) - 3} more layers"
    assert sum(row[1] for row in rows) == found.edges.shared
    assert sum(row[2] for row in rows) == found.edges.either
    every = [row[0] for row in overlap_rows(found.to_json(), layers=None) if "edges of" in row[0]]
    assert {f"  edges of layer {layer}" for layer in range(12)} < set(every)


def test_overlap_in_words() -> None:
    a = Circuit.of_edges(GRAPH, ["embed -> m0", "m0 -> logits"], name="a")
    b = Circuit.of_edges(GRAPH, ["embed -> m0"], name="b")
    assert str(overlap(a, b)).splitlines()[:7] == [
        "overlap of a, b",
        "part                 shared  union  IoU  IoMin  chance IoU  shared of each  remaining of first",
        "edges                     1      2  0.5      1     0.01887  50% 100%        100% 50%",
        "  edges of mlp            1      1    1      1     0.05882  100% 100%       100% 100%",
        "  edges of output         0      1    0      1           0  0% 100%         100% 0%",
        "  edges of layer 0        1      1    1      1     0.07692  100% 100%       100% 100%",
        "  edges of no layer       0      1    0      1           0  0% 100%         100% 0%",
    ]
    assert overlap(a, b).to_json()["edges"]["by_kind"]["mlp"]["iou"] == 1
    with pytest.raises(GraphirError, match="no overlap of weights"):
        overlap(a, b).by_kind("weights")
    with pytest.raises(GraphirError, match="at least one"):
        overlap()
