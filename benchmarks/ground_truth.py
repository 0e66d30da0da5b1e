"""Discovery against models whose circuit is known: which methods find the exact edges, and how well the others rank.

    python benchmarks/ground_truth.py [--models reverse histogram] [--methods acdc] [--seeds 5] [--bounded]
                                      [--tracr reverse.npz …] [--cache FOLDER] [--out table.json]

Needs scikit-learn. For every compiled model, under interchange and zero ablation: the size of the true circuit
(computed by brute force, kept in `--cache` if given); in how many of the seeds Edge Pruning and the joint sheaf end
with exactly its edges, by the size rule alone and with single edges dropped after it; whether ACDC at τ does; and the
area under the ROC curve of the edge scores of EAP-IG (EAP in a net without a stream). No method is told how many edges
are true: learned masks are pushed to zero throughout, and the size is the smallest that is within a KL of 0.01 nats and
1 % of accuracy on validation data (`passes.smallest`). A method that is not installed is named and left out.

With `--bounded` the methods that learn masks run as they are without options, bounded to as many edges as are true
and, where weights are masked, to 30 % of them: in how many seeds they end with exactly those edges, and the lowest
accuracy of all. Then `--methods` may name the others that learn as well.

With `--tracr` there are rows for programs that Tracr compiled as well (an .npz with its .json beside it), on prompts of
all lengths that they read; `--models` without names leaves out those that are built in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import passes
from dsl.builtin import BUILTIN_MODELS
from dsl.builtin.tracr_truth import prepare_tracr, tracr_truth
from dsl.builtin.truth import Setting, ground_truth, prepare
from graphir.circuit import Circuit
from graphir.errors import GraphirError, UnknownNameError
from passes.measure import Evaluator
from passes.options import METHODS as OPTIONS
from passes.registry import find_pass
from passes.smallest import smallest_circuit

MODELS = tuple(name for name, model in BUILTIN_MODELS.items() if model.source != "trained")
ABLATIONS = ("interchange", "zero")
METHODS = ("edge_pruning", "discogp", "acdc")
BOUNDED = tuple(name for name, options in OPTIONS.items() if options.learns)
EXAMPLES = 160
TAU = 0.01
SHARE = 0.3
# One setting for all models and both ablations. All masks start open and the push to close them rises slowly: these
# programs have no weak edges, so a mask that closes before its edge was felt does not open again. Nor do they work with
# one mask in eight closed at random, so those of weights and edges together start closed with probability .02.
EDGE_PRUNING: dict[str, Any] = {
    "initial": "ones", "target": 1.0, "steps": 300, "batch_size": 32,
    "learning_rate": 0.05, "lambda_learning_rate": 0.01,
}  # fmt: skip
DISCOGP: dict[str, Any] = {
    "initial": "ones", "initial_logit": 4.0, "control": "ramp", "ramp_highest": 1.0, "steps": 400, "batch_size": 32,
    "completeness": 0.1, "learning_rate": 0.05, "weight_learning_rate": 0.01, "gradient_floor": 0.0,
}  # fmt: skip


def names_of(circuit: Circuit) -> frozenset[str]:
    """The kept edges by name."""
    return frozenset(str(edge) for edge in circuit.kept_edges())


def compute_truth(name: str, ablation: Any) -> frozenset[str]:
    """The true circuit of a built-in model, or of a Tracr export by its path."""
    return tracr_truth(name, ablation, examples=EXAMPLES).edges if is_export(name) else ground_truth(name, ablation)


def is_export(name: str) -> bool:
    """Whether it is a file and no built-in model."""
    return name.endswith(".npz")


def true_edges(name: str, ablation: str, cache: Path | None) -> frozenset[str]:
    """The true circuit, from `cache` where it holds the one of the same weights' program and data."""
    if cache is None:
        return compute_truth(name, ablation)
    root = Path(__file__).resolve().parent.parent
    sources = [root / "passes" / "ground_truth.py", *sorted((root / "dsl" / "builtin").rglob("*.py"))]
    if is_export(name):
        sources += [Path(name), Path(name).with_suffix(".json")]
    else:
        sources += [root / "dsl" / "tasks" / f"{name}.py"]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    path = cache / f"{Path(name).name}-{ablation}-{key}.json"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(sorted(compute_truth(name, ablation))), encoding="utf-8")
    return frozenset(json.loads(path.read_text(encoding="utf-8")))


def learned(
    method: str, options: dict[str, Any], it: Setting, truth: frozenset[str], seeds: Iterable[int]
) -> dict[str, Any]:
    """In how many seeds a method that learns masks ends with exactly the true edges, by either rule."""
    by_size, dropped, weights = [], [], []
    start = time.perf_counter()
    for seed in seeds:
        circuit = passes.run(method, it.program, it.task, seed=seed, **options)
        by_size.append(ends_at(truth, it, circuit, drop_single=False))
        dropped.append(ends_at(truth, it, circuit, drop_single=True))
        weights.append(circuit.densities().get("weights", 1.0))
    seconds = (time.perf_counter() - start) / len(by_size)
    return {
        "by_size": sum(by_size), "dropped": sum(dropped), "of": len(by_size), "weights": max(weights),
        "seconds": round(seconds, 1),
    }  # fmt: skip


def bounded(method: str, it: Setting, truth: frozenset[str], seeds: Iterable[int]) -> dict[str, Any]:
    """In how many seeds a method's defaults end with exactly the true edges, where their number is given."""
    sizes: dict[str, Any] = {"edges": len(truth), "weights": SHARE}
    bounds = {part: size for part, size in sizes.items() if part in OPTIONS[method].masks}
    judge, exact, accuracies = Evaluator(it.program, it.task), [], []
    start = time.perf_counter()
    for seed in seeds:
        circuit = passes.run(method, it.program, it.task, seed=seed, **bounds)
        exact.append(names_of(circuit) == truth)
        accuracies.append(judge.measure_circuit(circuit)["accuracy"])
    seconds = (time.perf_counter() - start) / len(exact)
    found = {"bounded": sum(exact), "of": len(exact)} if "edges" in bounds else {}
    return found | {"accuracy": min(accuracies), "seconds": round(seconds, 1)}


def ends_at(truth: frozenset[str], it: Setting, circuit: Circuit, *, drop_single: bool) -> bool:
    """Whether the ranking of a circuit's edges, with the circuit's weights, leads to exactly the true ones."""
    scores, weights = circuit.scores["edges"], circuit.weights
    try:
        found = smallest_circuit(it.program, it.task, scores, weights=weights, drop_single=drop_single)
    except GraphirError:  # the weights alone cost more than the tolerance
        return False
    return names_of(found) == truth


def searched(it: Setting, truth: frozenset[str]) -> dict[str, Any]:
    """What ACDC keeps at τ."""
    kept = names_of(passes.run("acdc", it.program, it.task, tau=TAU))
    return {"exact": kept == truth, "missed": len(truth - kept), "extra": len(kept - truth)}


def ranked(it: Setting, truth: frozenset[str]) -> dict[str, Any]:
    """The area under the ROC curve of attribution scores, by size of score."""
    labels = [str(edge) in truth for edge in it.program.graph.edges]
    circuit = passes.run("eap_ig", it.program, it.task, steps=5)
    return {"method": "eap_ig", "auroc": float(roc_auc_score(labels, np.abs(circuit.scores["edges"])))}


def available(name: str) -> bool:
    """Whether the pass is there; a line says so if not."""
    try:
        find_pass(name)
    except UnknownNameError:
        print(f"skipped: no pass `{name}`")
        return False
    return True


def show(row: dict[str, Any]) -> str:
    """One line of the table."""
    parts = [f"{row['model']:19} {row['ablation']:12} {row['true']:3}/{row['edges']:3}"]
    parts += [f"{method} {show_learned(row[method])}" for method in BOUNDED if method in row]
    if found := row.get("acdc"):
        parts.append("acdc exact" if found["exact"] else f"acdc -{found['missed']} +{found['extra']}")
    parts.append(f"{row['scores']['method']} AUROC {row['scores']['auroc']:.3f}")
    return "  ".join(parts)


def show_learned(found: dict[str, Any]) -> str:
    """What `learned` or `bounded` found."""
    if "accuracy" in found:
        exact = f"{found['bounded']}/{found['of']}, " if "bounded" in found else ""
        return f"{exact}accuracy {found['accuracy']:.3f}, {found['seconds']} s"
    rules = f"{found['by_size']}/{found['of']} by size, {found['dropped']}/{found['of']} dropped, {found['seconds']} s"
    return rules + (f", {found['weights']:.1%} of weights" if found["weights"] < 1 else "")


def main() -> None:
    """Print the table, a line for each model and ablation; write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=MODELS, choices=MODELS)
    parser.add_argument("--tracr", nargs="+", default=(), metavar="PATH", help="programs that Tracr compiled, as .npz")
    parser.add_argument("--ablations", nargs="+", default=ABLATIONS, choices=ABLATIONS)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=sorted({*METHODS, *BOUNDED}))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--bounded", action="store_true", help="defaults, told how many edges are true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seeds = range(arguments.seeds)
    methods: dict[str, Callable[[Setting, frozenset[str]], dict[str, Any]]] = {
        "edge_pruning": lambda it, truth: learned("edge_pruning", EDGE_PRUNING, it, truth, seeds),
        "discogp": lambda it, truth: learned("discogp", DISCOGP, it, truth, seeds),
        "acdc": searched,
    }
    if arguments.bounded:
        methods |= {method: partial(bounded, method, seeds=seeds) for method in BOUNDED}
    if unknown := [method for method in arguments.methods if method not in methods]:
        parser.error(f"{unknown[0]}: with --bounded only")
    methods = {name: run for name, run in methods.items() if name in arguments.methods and available(name)}
    rows = []
    for name in (*arguments.models, *arguments.tracr):
        for ablation in arguments.ablations:
            truth = true_edges(name, ablation, arguments.cache)
            make = prepare_tracr if is_export(name) else prepare
            it = make(name, ablation, examples=EXAMPLES)
            row: dict[str, Any] = {
                "model": Path(name).name, "ablation": ablation,
                "true": len(truth), "edges": len(it.program.graph.edges),
            }  # fmt: skip
            row |= {method: run(it, truth) for method, run in methods.items()} | {"scores": ranked(it, truth)}
            rows.append(row)
            print(show(row), flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
