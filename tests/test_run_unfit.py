"""What only the traced graph can tell to be impossible is told, with its place, before anything is learned."""

from __future__ import annotations

from pathlib import Path

import pytest

import passes
from dsl.running.failures import StageError
from tests.running import HEAD, RANKED, run_text, trace_once

UNFIT = [
    ("circuit c = discover g for pairs with edge_pruning { steps: 2 } subject to density(edges) <= 0.5%",
     "density of 0.5000% of 106 leaves nothing to keep", "smallest circuit of one is 0.94"),
    ("circuit c = discover g for pairs with edge_pruning { steps: 2 } subject to edges <= 5, density(edges) >= 50%",
     "5 of 106 edges are allowed, and this asks for at least 53", "contradict each other"),
    ("circuit c = discover g for pairs with edge_pruning { steps: 2 } subject to sparsity(edges) >= 90%, edges > 10",
     "10 of 106 edges are allowed, and this asks for at least 11", "contradict each other"),
    ("sheaf c = discover g for pairs with csordas { steps: 2 } subject to weights <= 100, density(weights) > 50%",
     "100 of 32768 weights are allowed, and this asks for at least 16385", "contradict each other"),
    ("circuit c = discover g for pairs with eap top 0.5%", "leaves nothing to keep", "smallest circuit"),
    ("circuit c = discover g for pairs with ugs { level: node } subject to density(nodes) <= 12%",
     "(inputs and outputs) are always kept", "allow at least"),
    ("circuit c = discover g for pairs with nap subject to density(nodes) <= 12%",
     "(inputs and outputs) are always kept", "allow at least"),
    ("sheaf c = discover g for pairs with csordas { steps: 2 } subject to density(weights) <= 0.0001%",
     "leaves nothing to keep", "smallest circuit"),
    ("sheaf c = discover g for pairs with discogp { parts: neurons edges } subject to density(neurons) <= 50%, "
     "density(edges) <= 10%", "no neurons that can be masked by themselves", "mask nodes or weights"),
    ("circuit c = discover g for pairs with neuron_attribution top 50%",
     "no neurons that can be masked by themselves", "mask nodes or weights"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "hint"), UNFIT)
def test_what_a_graph_has_not_is_told_before_any_circuit_is_looked_for(
    text: str, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_once(monkeypatch)
    monkeypatch.setattr(passes, "run", lambda *_, **__: pytest.fail("a method ran"))
    with pytest.raises(StageError) as caught:
        run_text(HEAD + RANKED + text + "\n", tmp_path)
    assert message in caught.value.message
    assert any(hint in each for each in caught.value.hints)
    assert "while checking what `c` asks of `g` (toy.circ:10)" in caught.value.message
    assert caught.value.span.text in text


def test_what_is_in_the_cache_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is the model loaded for it."""
    from dsl.running.workplace import Workplace

    trace_once(monkeypatch)
    text = HEAD + "sheaf c = discover g for pairs with csordas { steps: 2 }\n"
    run_text(text, tmp_path, cache=tmp_path / "cache")
    monkeypatch.setattr(Workplace, "program", lambda *_: pytest.fail("the model was loaded"))
    run_text(text, tmp_path, out="again", cache=tmp_path / "cache")
