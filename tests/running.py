"""Specifications for tests of runs: the built-in model, small and quick, with parts to be replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

import graphir
from dsl.checking.context import Options
from dsl.options import RunOptions
from dsl.reading import check_source
from dsl.running.carrying import RunResult, run_spec
from dsl.spec import Spec, SpecError
from graphir.diagnostics import Source
from graphir.granularity import Granularity
from graphir.ir import Graph
from graphir.tracing import Example
from graphir.tracing.exported import hash_model

HEAD = """\
circ 1
model toy = builtin "induction"
graph g = trace toy { attention: head split qkv }
task pairs {
  data builtin "induction" { n: 48  seed: 0 }
  split 50 / 25 / 25 by template
  predict answer vs distractor at last
}
"""
RANKED = "circuit found = discover g for pairs with eap_ig { steps: 2  examples: 8 } top 5\n"
LEARNED = "circuit found = discover g for pairs with edge_pruning { steps: STEPS } subject to edges <= 5\n"
KNOWN = {
    "embed -> a0.h0.v",
    "a0.h0 -> a1.h2.k",
    "embed -> a1.h2.q",
    "embed -> a1.h2.v",
    "a1.h2 -> logits.in",
}


def spec_of(text: str, folder: Path, *overrides: str, allow_outside: bool = False) -> Spec:
    """The checked specification of a text; relative paths start from `folder`."""
    read = check_source(Source("toy.circ", text), overrides, Options(allow_outside=allow_outside, folder=folder))
    if read.spec is None:
        raise SpecError(read.diagnostics)
    return read.spec


def run_text(
    text: str,
    folder: Path,
    *overrides: str,
    out: str = "out",
    allow_outside: bool = False,
    cache: Path | None = None,
    threads: int | None = None,
) -> RunResult:
    """Run a text, its results below `folder`; without a folder for it, without a cache."""
    options = RunOptions(out=folder / out, quiet=True, cache=cache, caching=cache is not None, threads=threads)
    return run_spec(spec_of(text, folder, *overrides, allow_outside=allow_outside), options)


_TRACED: dict[str, Graph] = {}


def trace_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace each built-in model once for each granularity: tracing takes most of the time of a small run."""
    real = graphir.trace

    def trace(model: nn.Module, example: Example, granularity: str | Granularity, tolerance: float = 1e-4) -> Graph:
        key = f"{hash_model(model)} {granularity} {tuple(example)}"
        if key not in _TRACED:
            _TRACED[key] = real(model, example, granularity, tolerance)
        return _TRACED[key]

    monkeypatch.setattr(graphir, "trace", trace, raising=False)


def write_pairs(path: Path, *, counterfactual: bool = True, distractor: bool = True, n: int = 24) -> None:
    """Examples of the built-in task as a JSONL file."""
    from dsl.tasks import find_task

    lines = []
    for example in find_task("induction").generate({"n": n, "seed": 3}):
        record: dict[str, str | None] = {"clean": example.clean, "answer": example.answer, "template": example.template}
        record |= {"counterfactual": example.counterfactual} if counterfactual else {}
        record |= {"distractor": example.distractor} if distractor else {}
        lines.append(json.dumps(record))
    path.write_text("\n".join(lines) + "\n")
