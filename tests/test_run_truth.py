"""Evidence against a circuit that the file says is the true one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from dsl.running.failures import StageError
from dsl.spec import SpecError
from tests.running import HEAD, run_text, trace_once, write_pairs

CIRCUITS = """\
circuit c = discover g for pairs with eap { examples: 8 } top 20
circuit a = discover g for pairs with ifr { examples: 8 } top 8
circuit b = discover g for pairs with eap_ig { steps: 1  examples: 8 } top 5
circuit truth = a | b
"""
OPTIONS = "{ controls: random_circuit  budget: 4  samples: 1  seeds: 1  completeness: false  minimality: false }"


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


def test_ranks_are_compared_with_the_circuit_that_is_named(tmp_path: Path) -> None:
    run = run_text(f"{HEAD}{CIRCUITS}evidence c against truth {OPTIONS}\ncheck c {{ auroc >= 0 }}\n", tmp_path)
    circuit, truth = run.circuits["c"], run.circuits["truth"]
    wanted = roc_auc_score(truth.edges, np.abs(circuit.scores["edges"]))
    assert run.results["evidence"]["c"].data["roc"]["auroc"] == pytest.approx(wanted)
    (verdict,) = run.verdicts
    assert verdict.values["auroc"] == pytest.approx(wanted)
    assert f"{int(truth.edges.sum())} true edges" in str(run)


def test_a_gate_says_how_to_name_the_truth_where_none_is_known(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data.jsonl")
    text = HEAD.replace('builtin "induction" { n: 48  seed: 0 }', 'jsonl "data.jsonl"') + CIRCUITS
    with pytest.raises(StageError, match="`auroc` cannot be measured") as error:
        run_text(f"{text}check c {{ auroc >= 0 }}\n", tmp_path)
    assert error.value.hints == ("no true circuit is known: name it, `evidence c against CIRCUIT`",)


def test_the_true_circuit_is_of_the_same_graph(tmp_path: Path) -> None:
    other = (
        "graph h = trace toy { attention: layer }\ncircuit d = discover h for pairs with eap { examples: 8 } top 3\n"
    )
    with pytest.raises(SpecError, match="compared with the true one of its own graph") as error:
        run_text(f"{HEAD}{other}{CIRCUITS}evidence c against d\n", tmp_path)
    assert "`d` is on `h`, `c` on `g`" in str(error.value)
