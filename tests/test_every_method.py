"""Every method runs from a file as it is written there by name alone, on a compiled model with heads and MLPs."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from passes.options import METHODS
from tests.running import run_text, trace_once

HEAD = """\
circ 1
model m = builtin "two_branch"
graph g = trace m
task t {
  data builtin "two_branch" { n: 48 }
  split 50 / 25 / 25 by example
  predict answer vs distractor at last
}
"""
BOUNDS = {
    "edges": "density(edges) <= 10%", "nodes": "density(nodes) <= 70%", "weights": "density(weights) <= 40%",
    "neurons": "density(neurons) <= 50%",
}  # fmt: skip
SHORT = {"steps": 6, "rounds": 2}
"""Trainings are cut short; that they find what is there at their full length is the business of other tests."""


def circuit_of(method: str) -> str:
    """A section that gives the method a size and nothing else that it has a default for."""
    options = METHODS[method]
    kept = {each.name for each in fields(options)} & SHORT.keys()
    block = " { " + "  ".join(f"{name}: {SHORT[name]}" for name in sorted(kept)) + " }" if options.learns else ""
    if method in ("neuron_attribution", "structured"):
        return f"circuit found = discover g for t with {method}\n"
    if not options.learns:
        return f"circuit found = discover g for t with {method} top 100\n"
    level = getattr(options(), "level", None)
    parts = {"discogp": ("weights", "edges")}.get(method, (f"{level}s",) if level else options.masks[:1])
    word = "sheaf" if "weights" in parts else "circuit"
    bounds = ", ".join(BOUNDS[part] for part in parts)
    return f"{word} found = discover g for t with {method}{block} subject to {bounds}\n"


@pytest.mark.parametrize("method", METHODS)
def test_a_method_runs_by_its_name(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)
    run = run_text(HEAD + circuit_of(method), tmp_path)
    circuit = run.circuits["found"]
    made = circuit.provenance
    assert made["method"] == method
    for each in fields(METHODS[method]):
        if each.name not in SHORT:
            default = list(each.default) if isinstance(each.default, tuple) else each.default
            assert made[each.name] == default
    assert circuit.edges.any()
    assert set(run.judged["found"].metrics) >= {"accuracy", "kl", "logit_diff"}
    densities = circuit.densities()
    if method not in ("neuron_attribution", "structured"):
        assert min(densities.values()) < 1


LEVELS = [
    (method, level)
    for method, options in METHODS.items()
    if options.learns and "level" in {each.name for each in fields(options)}
    for level in ("weight", "neuron", "node", "edge")
    if f"{level}s" in options.masks
]


@pytest.mark.parametrize(("method", "level"), LEVELS)
def test_a_method_runs_at_each_of_its_levels(
    method: str, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_once(monkeypatch)
    word = "sheaf" if level == "weight" else "circuit"
    head = f"{word} found = discover g for t with {method} {{ steps: 4  level: {level} }}"
    text = f"{head} subject to {BOUNDS[f'{level}s']}\n"
    circuit = run_text(HEAD + text, tmp_path).circuits["found"]
    assert circuit.densities()[f"{level}s"] < 1
