"""Evidence on the built-in induction model: against definitions written out, brute force, and the known circuit."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import kendalltau

from graphir.circuit import Circuit
from graphir.errors import DataError, GraphirError, UnknownNameError
from graphir.run.masks import Masks
from passes.evidence import gather_evidence, measure_faithfulness
from passes.evidence.completeness import measure_completeness
from passes.evidence.faithfulness import SHARES, integral
from passes.evidence.minimality import measure_minimality
from passes.evidence.roc import edge_roc
from passes.evidence.scoring import BudgetSpentError, Scorer, components_of
from passes.measure import Evaluator, candidate_tokens
from passes.metrics import accuracy, jsd_from, kendall_tau, logit_diff, logits_at
from passes.optimal_constants import with_optimal_constants
from tests.inducing import BUDGET, KNOWN, evaluator, known, scores, toy

# --- metrics ---------------------------------------------------------------------------------------------------------


def test_jsd_is_the_squared_distance_of_scipy() -> None:
    full, found = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(0))
    pairs = zip(full.softmax(-1).numpy(), found.softmax(-1).numpy(), strict=True)
    wanted = torch.tensor([jensenshannon(p, q) ** 2 for p, q in pairs], dtype=torch.float32)
    assert torch.allclose(jsd_from(full, found), wanted, atol=1e-6)
    assert torch.allclose(jsd_from(full, found), jsd_from(found, full))
    apart = torch.tensor([[100.0, 0, 0], [0, 100.0, 0]])
    assert torch.allclose(jsd_from(apart[:1], apart[1:]), torch.tensor(2.0).log())


def test_an_answer_level_with_its_rival_is_right_half_the_time() -> None:
    _, task = toy()
    batch = next(task.batches("test", 4))
    logits = torch.zeros(len(batch), 1000)
    logits[0, batch.answers[0]], logits[1, batch.answers[1]] = 1.0, -1.0
    assert accuracy(logits, batch).tolist()[:3] == [1.0, 0.0, 0.5]
    assert accuracy(logits, replace(batch, distractors=None)).tolist()[:3] == [1.0, 0.0, 0.5]


def test_kendall_ranks_the_candidates_only() -> None:
    full, found = torch.randn(2, 3, 30, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([2, 5, 7, 20, 29])
    wanted = [kendalltau(a[tokens], b[tokens]).statistic for a, b in zip(full, found, strict=True)]
    assert kendall_tau(full, found, tokens).tolist() == pytest.approx(wanted)
    assert kendall_tau(full, 3 * full + 1, tokens).tolist() == [1, 1, 1]
    assert kendall_tau(full, -full, tokens).tolist() == [-1, -1, -1]


def test_the_model_agrees_with_itself() -> None:
    _, task = toy()
    full = evaluator().full
    assert full["jsd"] == pytest.approx(0, abs=1e-6)
    assert full["kendall_tau"] == 1
    rows = [row for split in task.splits.values() for row in split]
    assert set(candidate_tokens(task).tolist()) == {r.answer for r in rows} | {r.distractor for r in rows}


def test_where_all_candidates_are_alike_their_order_agrees_with_nothing() -> None:
    program, _ = toy()
    found = evaluator()
    alike = [torch.zeros_like(logits) for logits in found.logits(Masks(edges=torch.ones(len(program.graph.edges))))]
    assert found.summarize(alike)["kendall_tau"] == 0


# --- faithfulness ----------------------------------------------------------------------------------------------------


def test_the_integrals_are_trapezoids() -> None:
    assert integral([0.1, 0.2, 1.0], [0.0, 1.0, 1.0]) == pytest.approx(0.1 * 0.5 + 0.8)
    x, y = np.sort(np.random.default_rng(0).random((2, 9)), axis=1)
    by_hand = sum((x[i + 1] - x[i]) * (y[i] + y[i + 1]) / 2 for i in range(8))
    assert integral(x, y) == pytest.approx(by_hand)


def test_curves_are_those_of_the_definition() -> None:
    """Each point: the top edges, those on no path dropped, run by hand; CPR of signed, CMD of absolute scores."""
    program, task = toy()
    found = measure_faithfulness(evaluator(), scores())
    total = len(program.graph.edges)

    def m(edges: np.ndarray) -> float:
        values = []
        for batch in task.batches("test", 8):
            with torch.no_grad():
                masks = Masks(edges=torch.as_tensor(np.array(edges)).float())
                outputs = program.outputs(batch.inputs, batch.counterfactual, masks)
                values += logit_diff(logits_at(outputs, batch), batch).tolist()
        return float(np.mean(values))

    empty, full = m(np.zeros(total)), m(np.ones(total))
    for points, order in ((found.signed, np.argsort(-scores())), (found.absolute, np.argsort(-np.abs(scores())))):
        assert [point.share for point in points] == list(SHARES)
        for point in (points[4], points[5], points[7], points[9]):
            kept = np.zeros(total, bool)
            kept[order[: int(point.share * total)]] = True
            circuit = Circuit(program.graph, kept, np.ones(len(program.graph.nodes), bool)).on_path()
            assert point.edges == circuit.edges.sum()
            assert point.faithfulness == pytest.approx((m(circuit.edges) - empty) / (full - empty), abs=1e-4)
    assert found.cpr == integral(SHARES, [p.faithfulness for p in found.signed])
    assert found.cmd == integral(SHARES, [abs(1 - p.faithfulness) for p in found.absolute])
    assert found.signed[0].asked == 0
    assert found.signed[0].faithfulness == 0
    assert found.signed[-1].faithfulness == pytest.approx(1)
    assert "CPR" in str(found)
    assert json.loads(json.dumps(found.to_json()))["cpr"] == found.cpr


def test_an_edge_without_a_score_is_always_kept() -> None:
    values = scores().copy()
    graph = toy()[0].graph
    unscored = [graph.edge(name).index for name in KNOWN]
    values[unscored] = np.nan
    found = measure_faithfulness(evaluator(), values, shares=(0.001, 1.0))
    assert found.signed[0].asked == 0
    assert found.signed[0].edges == len(KNOWN)
    assert found.signed[0].faithfulness == pytest.approx(1, abs=0.01)


def test_going_beyond_the_model_is_told() -> None:
    found = measure_faithfulness(evaluator(), scores())
    better = replace(found, signed=tuple(replace(p, faithfulness=2 * p.faithfulness) for p in found.signed))
    assert better.above_model == pytest.approx(1, abs=0.02)
    assert "CPR profits" in str(better)
    assert "CPR profits" not in str(found)


@pytest.mark.parametrize(
    ("values", "shares", "error", "message"),
    [
        ("short", SHARES, DataError, "3 scores|scores for 106"),
        ("nan", SHARES, DataError, "no edge has a score"),
        ("good", (0.1, 0.1), GraphirError, "rise from above 0"),
        ("good", (0.5, 1.2), GraphirError, "rise from above 0"),
    ],
)
def test_curves_of_nothing_are_refused(
    values: str, shares: tuple[float, ...], error: type[Exception], message: str
) -> None:
    given = {"short": np.zeros(3), "nan": np.full(106, np.nan), "good": scores()}[values]
    with pytest.raises(error, match=message):
        measure_faithfulness(evaluator(), given, shares=shares)
    with pytest.raises(DataError, match="there is no `f1`"):
        measure_faithfulness(evaluator(), scores(), metric="f1")


# --- ROC -------------------------------------------------------------------------------------------------------------


def test_the_roc_of_the_known_circuit() -> None:
    found = edge_roc(known(), KNOWN)
    assert found.exact
    assert found.auroc == 1
    assert found.greedy_auroc == 1
    assert (found.precision, found.recall, found.missing, found.extra) == (1, 1, (), ())
    larger = edge_roc(known("embed -> logits.in"), KNOWN)
    assert (larger.precision, larger.recall, larger.extra) == (5 / 6, 1, ("embed -> logits.in",))


def test_auroc_is_the_chance_to_outrank() -> None:
    rng = np.random.default_rng(0)
    graph = toy()[0].graph
    circuit = known().with_(scores={"edges": rng.normal(size=len(graph.edges)).round(1)})
    truth = rng.random(len(graph.edges)) < 0.3
    values = np.abs(circuit.scores["edges"])
    pairs = [(a > b) + (a == b) / 2 for a in values[truth] for b in values[~truth]]
    found = edge_roc(circuit, truth)
    assert found.auroc == pytest.approx(np.mean(pairs))
    for share, edges, fpr, tpr in found.points:
        assert edges <= share * len(graph.edges) + 1
        assert 0 <= min(fpr, tpr) <= max(fpr, tpr) <= 1


def test_a_truth_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="edges that are true and edges that are not"):
        edge_roc(known(), [])
    with pytest.raises(UnknownNameError):
        edge_roc(known(), ["a9.h9 -> logits.in"])
    with pytest.raises(DataError, match=r"a mask \(3,\)"):
        edge_roc(known(), np.ones(3, bool))


# --- scores of sets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["logit_diff", "kl", "accuracy"])
def test_a_scorer_gives_what_an_evaluator_measures(metric: str) -> None:
    program, task = toy()
    scorer = Scorer(program, task, metric=metric, examples=1000, batch_size=4)
    rng = np.random.default_rng(0)
    for _ in range(4):
        kept = rng.random(len(program.graph.edges)) < 0.7
        circuit = Circuit(program.graph, kept, np.ones(len(program.graph.nodes), bool))
        assert scorer(kept) == pytest.approx(evaluator().measure_circuit(circuit)[metric], abs=1e-4)
    assert scorer.model == pytest.approx(evaluator().full[metric], abs=1e-4)


def test_under_optimal_ablation_evidence_has_the_circuits_own_constants() -> None:
    """A knock-out of nothing, the circuit itself, is what was measured of it."""
    program, plain = toy()
    task = replace(plain, ablation="optimal")
    circuit = with_optimal_constants(known().with_(ablation="optimal"), program, task, steps=30)
    found = gather_evidence(
        circuit, program, task, parts=("completeness", "minimality", "controls"), budget=replace(BUDGET, examples=1000)
    )
    measured = Evaluator(program, task).measure_circuit(circuit)
    assert found.metrics["logit_diff"] == pytest.approx(measured["logit_diff"], abs=1e-5)
    assert found.completeness is not None
    assert found.completeness.base.circuit == pytest.approx(measured["logit_diff"], abs=1e-4)
    assert found.minimality is not None
    assert found.minimality.base == pytest.approx(measured["logit_diff"], abs=1e-4)
    generic = Scorer(program, task, examples=1000)(circuit.edges)
    assert generic != pytest.approx(measured["logit_diff"], abs=1e-3)


def test_of_weights_alone_minimality_takes_nodes() -> None:
    program, task = toy()
    name = program.maskable[0]
    weights = {name: np.ones(tuple(program.traced.tensors[name].shape), bool)}
    everything = Circuit.full(program.graph, weights=weights)
    wanted = {everything: "nodes", known().with_(weights=weights): "edges"}
    for circuit, of in wanted.items():
        found = gather_evidence(circuit, program, task, parts=("minimality",), budget=BUDGET)
        assert found.minimality is not None
        assert found.minimality.of == of


def test_a_set_is_run_once_and_the_budget_holds() -> None:
    program, task = toy()
    scorer = Scorer(program, task, examples=2, limit=2)
    all_edges = np.ones(len(program.graph.edges), bool)
    scorer(all_edges), scorer(all_edges), scorer.kl(all_edges)
    assert scorer.runs == 1
    scorer(~all_edges)
    with pytest.raises(BudgetSpentError):
        scorer(known().edges)
    assert scorer(all_edges) == scorer.model or scorer(all_edges) == pytest.approx(scorer.model, abs=1e-4)


def test_gradients_are_derivatives_of_the_score() -> None:
    program, task = toy()
    scorer = Scorer(program, task, examples=3)
    kept = known("embed -> logits.in").edges
    gradient = scorer.gradient(kept)
    step = 1e-2
    for index in np.flatnonzero(kept).tolist():
        low = kept.astype(float)
        low[index] -= step
        batch = scorer.batches[0]
        with torch.no_grad():
            outputs = program.outputs(batch.inputs, batch.counterfactual, Masks(edges=torch.as_tensor(low).float()))
            moved = float(logit_diff(logits_at(outputs, batch), batch).mean())
        assert gradient[index] == pytest.approx((scorer(kept) - moved) / step, rel=0.25, abs=0.1)


def test_components_are_edges_or_nodes() -> None:
    assert [c.name for c in components_of(known(), "edges")] == [str(e) for e in known().kept_edges()]
    nodes = components_of(known(), "nodes")
    assert [c.name for c in nodes] == ["embed", "a0.h0", "a1.h2"]
    assert [len(c.edges) for c in nodes] == [3, 1, 1]
    with pytest.raises(UnknownNameError, match="`heads`"):
        components_of(known(), "heads")


# --- minimality ------------------------------------------------------------------------------------------------------


def brute_force(circuit: Circuit, examples: int) -> dict[str, float]:
    """max over all K of |F(C - K - v) - F(C - K)|, every set run by itself."""
    program, task = toy()
    batch = next(task.batches("test", examples, limit=examples))
    kept = np.flatnonzero(circuit.edges).tolist()

    def value(edges: tuple[int, ...]) -> float:
        mask = torch.zeros(len(circuit.edges))
        mask[list(edges)] = 1
        with torch.no_grad():
            outputs = program.outputs(batch.inputs, batch.counterfactual, Masks(edges=mask))
        return float(logit_diff(logits_at(outputs, batch), batch).mean())

    table = {s: value(s) for size in range(len(kept) + 1) for s in itertools.combinations(kept, size)}
    return {
        str(circuit.graph.edges[v]): max(
            abs(f - table[tuple(e for e in edges if e != v)]) for edges, f in table.items() if v in edges
        )
        for v in kept
    }


@pytest.mark.parametrize("runs", [200, 40], ids=["all subsets", "a search"])
def test_minimality_against_brute_force(runs: int) -> None:
    """With a budget for all 2^6 subsets it is exact; a search finds scores that are no larger, and most of them."""
    program, task = toy()
    circuit = known("embed -> logits.in")
    found = measure_minimality(circuit, program, task, budget=replace(BUDGET, minimality_runs=runs))
    wanted = brute_force(circuit, 4)
    scored = {c.name: c.score for c in found.components}
    assert found.exact == (runs == 200)
    assert found.runs <= runs
    if found.exact:
        assert scored == pytest.approx(wanted, abs=1e-3)
    assert all(scored[name] <= wanted[name] + 1e-3 for name in wanted)
    assert found.smallest.name == "embed -> logits.in"
    assert [c.name for c in found.redundant()] == ["embed -> logits.in"]
    assert min(scored[name] for name in KNOWN) > 0.5 * found.scale
    assert "embed -> logits.in" in str(found)


class Backup:
    """F of a circuit of three parts: `a` and `b` each do the task alone, `c` does nothing."""

    metric, examples, model, weights = "logit_diff", 1, 1.0, None

    def __init__(self, limit: int) -> None:
        self.runs, self.left = 0, limit

    def __call__(self, kept: np.ndarray) -> float:
        self.runs += 1
        return float(kept[0] or kept[1])


def test_what_is_backed_up_matters_once_its_backup_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing one of two edges that do the same changes nothing; with the other out of the way, everything."""
    program, task = toy()
    fake = Backup(100)
    monkeypatch.setattr("passes.evidence.minimality.Scorer", lambda *_, **__: fake)
    edges = np.zeros(len(program.graph.edges), bool)
    edges[:3] = True
    circuit = Circuit(program.graph, edges, np.ones(len(program.graph.nodes), bool))
    first, second, third = measure_minimality(circuit, program, task, budget=BUDGET).components
    assert (first.alone, first.score, first.knock_outs) == (0, 1, (second.name,))
    assert (second.alone, second.score, second.knock_outs) == (0, 1, (first.name,))
    assert (third.alone, third.score) == (0, 0)


def test_a_circuit_too_large_for_its_budget_is_estimated_by_gradients() -> None:
    """Few runs, 106 edges: all get an estimate, the weakest are measured; what matters stands out."""
    program, task = toy()
    circuit = Circuit.full(program.graph)
    found = measure_minimality(circuit, program, task, budget=replace(BUDGET, minimality_runs=30))
    assert found.runs <= 30
    assert len(found.components) == 106
    measured = [c.name for c in found.components if c.measured]
    assert 0 < len(measured) <= 15
    assert not set(measured) & set(KNOWN)
    assert found.smallest.name in measured
    estimates = sorted(found.components, key=lambda c: -c.score)[: len(KNOWN)]
    assert len({c.name for c in estimates} & set(KNOWN)) >= 3


def test_minimality_of_nodes_and_of_nothing() -> None:
    program, task = toy()
    found = measure_minimality(known(), program, task, of="nodes", budget=BUDGET)
    assert found.exact
    assert [c.name for c in found.components] == ["embed", "a0.h0", "a1.h2"]
    empty = Circuit(program.graph, np.zeros(106, bool), np.zeros(len(program.graph.nodes), bool))
    with pytest.raises(DataError, match="keeps nothing"):
        measure_minimality(empty, program, task, budget=BUDGET)


# --- completeness ----------------------------------------------------------------------------------------------------


def test_the_known_circuit_is_complete_and_half_of_it_is_not() -> None:
    program, task = toy()
    found = measure_completeness(known(), program, task, budget=BUDGET, evaluator=evaluator())
    assert found.complement == evaluator().measure_circuit(known(), complement=True)
    assert found.complement["accuracy"] < 0.2
    assert found.worst.incompleteness < 0.05 * found.scale
    assert found.runs <= BUDGET.completeness_runs + 4
    partial = known().with_(edges=known().edges & ~Circuit.of_edges(program.graph, KNOWN[:2]).edges)
    assert measure_completeness(partial, program, task, budget=BUDGET).worst.incompleteness > 0.3 * found.scale


def test_knock_outs_take_nodes_from_the_model_too() -> None:
    """A set K of nodes: from the circuit its edges, from the model all that it writes."""
    program, task = toy()
    found = measure_completeness(known(), program, task, budget=BUDGET)
    one = next(k for k in (*found.random, *found.greedy) if len(k.components) >= 1)
    out = [program.graph.node_index[name] for name in one.components]
    keep = ~np.isin(program.graph.edge_src, out)
    scorer = Scorer(program, task, examples=BUDGET.examples, batch_size=BUDGET.batch_size)
    assert one.model == pytest.approx(scorer(keep), abs=1e-4)
    assert one.circuit == pytest.approx(scorer(known().edges & keep), abs=1e-4)
    assert one.kl_model == pytest.approx(scorer.kl(keep), abs=1e-4)
