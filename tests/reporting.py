"""A run that never took place, for tests of reports: a manifest and a circuit with numbers that were made up."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphir.algebra_overlap import overlap
from graphir.circuit import Circuit
from graphir.ir import Graph
from passes.evidence.completeness import Completeness, KnockOut
from passes.evidence.controls import Controls, Null, RandomWeights
from passes.evidence.faithfulness import FaithfulnessCurves, FaithfulnessPoint
from passes.evidence.gather import Evidence
from passes.evidence.minimality import ComponentMinimality, Minimality
from passes.evidence.stability import SeedRun, measure_stability
from tests.factories import transformer

TEXT = """\
circ 1
# A comment.
model m = builtin "toy"
graph g = trace m
circuit found = discover g for t with edge_pruning { steps: 100 }
"""
EMPTY = {"accuracy": 0.5, "kl": 4.0, "logit_diff": 0.0, "faithfulness": 0.0}
CIRCUIT = {"accuracy": 0.95, "kl": 0.125, "logit_diff": 3.5, "faithfulness": 0.875}
MODEL = {"accuracy": 1.0, "kl": 0.0, "logit_diff": 4.0, "faithfulness": 1.0}


def small_graph() -> Graph:
    return transformer(2, 2).with_(name="toy", model_hash="ab" * 32, equivalence=1e-6)


def small_circuit(graph: Graph | None = None, count: int = 6) -> Circuit:
    """A circuit of the first edges, with scores."""
    graph = graph or small_graph()
    edges = np.zeros(len(graph.edges), bool)
    edges[:count] = True
    made = {"method": "edge_pruning", "steps": 100, "seeds": [0, 1], "task": "t", "secret": "not an option"}
    found = Circuit.of_edges(graph, edges).with_(name="found", metrics=CIRCUIT, provenance=made)
    return found.with_(scores={"edges": np.linspace(1, 0.1, len(graph.edges))})


def evidence_of(circuit: Circuit, *, flagged: bool = False) -> dict[str, Any]:
    """Every test but the ROC."""
    points = tuple(
        FaithfulnessPoint(share, int(100 * share), int(90 * share), f, {"accuracy": 0.5 + f / 2, "kl": 4 - 4 * f})
        for share, f in ((0.01, 0.25), (0.1, 0.75), (1.0, 1.0))
    )
    base, worse = KnockOut((), 3.5, 4.0, 0.1, 0.0), KnockOut(("a0.h0",), 1.0, 2.0, 2.5, 1.5)
    parts = (
        ComponentMinimality("embed -> a0.h0.q", 0.5, 2.0, ("a0.h1 -> m0.in",), 3),
        ComponentMinimality("embed -> a0.h0.k", 0.25, 1.0, (), 3),
        ComponentMinimality("embed -> a0.h0.v", 0.0, 0.75, (), 0),
    )
    other = small_circuit(circuit.graph, 8)
    runs = [SeedRun(0, circuit), SeedRun(1, other), SeedRun(2, circuit), SeedRun(3, None, "diverged")]
    weights = RandomWeights(0, "normal", 0.95, 0.9 if flagged else 0.5, 0.5, 0.5, True)
    nulls = (
        Null("random, same size per layer", 3.5, (0.0, 0.5, 1.0)),
        Null("drawn from the complement", 3.5, (), True, "too small"),
    )
    found = Evidence(
        circuit, "logit_diff", "test", 60, CIRCUIT, MODEL, EMPTY, {"edges": 0.1, "nodes": 0.25},
        faithfulness=FaithfulnessCurves("logit_diff", "test", 60, EMPTY, MODEL, points, points),
        completeness=Completeness("logit_diff", "nodes", 4.0, 16, 20, EMPTY, base, (base,), (worse,)),
        minimality=Minimality("logit_diff", "edges", 3.5, 4.0, 16, 30, False, parts),
        stability=measure_stability(runs, bootstrap=50),
        controls=Controls("logit_diff", "test", *nulls, weights),
        missing={"roc": "the true edges are not known"},
    )  # fmt: skip
    return found.to_json()


def composition_of(circuit: Circuit) -> dict[str, Any]:
    """What a run says of the circuit as the composition of itself and a larger one."""
    parts = circuit.with_(name="a"), small_circuit(circuit.graph, 8).with_(name="b")
    shared = {part: each for part, each in overlap(*parts).to_json().items() if part != "names"}
    change = {"alone": 3.0, "composed": 3.5, "change": 0.5}
    return {
        "formula": "a & b", "parts": ["a", "b"], "overlap": shared, "weights_counted_more_than_once": 0,
        "tasks": {"t": {"a": EMPTY, "b": MODEL, "found": CIRCUIT}},
        "interference": [{"task": "t", "part": "a", "logit_diff": change}],
    }  # fmt: skip


def small_manifest(circuit: Circuit, *, flagged: bool = False) -> dict[str, Any]:
    """What a run of `TEXT` could have left."""
    point = {"density": 0.1, "sparsity": 0.9, "edges": 6, "metrics": CIRCUIT}
    larger = {"density": 0.5, "sparsity": 0.5, "edges": 30, "metrics": MODEL}
    curve = {"of": "found", "scale": "density", "points": [larger, point], "empty": EMPTY, "full": MODEL}
    row = {"name": "a0.h0", "kind": "head", "layer": 0, "score": 0.5, "note": None}
    measured = {"metrics": CIRCUIT, "complement": EMPTY, "empty": EMPTY, "model": MODEL}
    seeds = {"0": {"edges": 6, "validation_kl": 0.1}, "1": {"edges": 8, "validation_kl": 0.2}, "2": {"failed": "nan"}}
    check = {"circuit": "found", "file": "toy.circ", "line": 9, "column": 3}
    return {
        "status": "checks failed",
        "reason": "",
        "result": "cd" * 32,
        "spec": {"file": "toy.circ", "digest": "ef" * 32, "overrides": ["found.steps=100"], "text": TEXT},
        "versions": {"graphir": "1.2.3", "python": "3.11.7", "torch": "2.9.0+cpu", "transformers": "5.1.0", "x": None},
        "machine": {"platform": "Linux", "threads": 1, "gpu": None},
        "determinism": {"threads": 1, "deterministic_algorithms": True},
        "models": {"m": {"identity": "builtin:toy@1234", "parameters": 2048, "notes": []}},
        "graphs": {
            "g": {
                "nodes": len(circuit.nodes), "edges": len(circuit.edges), "opaque": {"x0": "a loop: heads are lost"},
                "granularity": "head", "equivalence": 1e-6, "model_hash": circuit.graph.model_hash, "notes": ["a note"],
            }
        },
        "tasks": {"t": {"identity": "12" * 32, "ablation": "interchange", "train": 120, "validation": 60, "test": 60}},
        "circuits": {
            "found": {
                "method": "edge_pruning", "edges": 6, "nodes": 5, "density": 0.1, "seed": 0, "seeds": seeds,
                "stability": 0.75, "interrupted": None, "split": "test", "examples": 60, **measured,
            }
        },
        "curves": [{"name": "found", **curve}, {"name": "eap_ig", **curve}],
        "evidence": {"found": evidence_of(circuit, flagged=flagged)},
        "queries": {"heads": {"count": 45, "rows": [row] * 43}},
        "checks": [
            {**check, "condition": "kl <= 0.3", "passed": True, "values": {"kl(model, circuit)": 0.125}},
            {**check, "condition": "accuracy >= 99%", "passed": False, "values": {"accuracy(circuit)": 0.95}},
        ],
        "analyses": {"near": {"metric": "cka", "samples": 64, "units": ["a", "b"], "distances": [[0, 0.5], [0.5, 0]]}},
        "compositions": {"found": composition_of(circuit)},
        "probes": {"near": {"unit": "a0", "accuracy": {"train": 0.5}}},
        "exports": ["runs/toy/found.svg"],
        "stages": [{"kind": "trace", "name": "trace g", "key": "34" * 32, "cached": False, "seconds": 1.5}],
        "started": "2026-01-02T03:04:05Z",
        "seconds": {"total": 2.5, "stages": {}},
        "peak_memory_bytes": 100 * 2**20,
    }  # fmt: skip
