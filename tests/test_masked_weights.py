"""Which weights the methods mask: the matrices inside the model, and embeddings and norms only where it is asked."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import passes
from dsl.reading import check_source
from dsl.running.finding import bounds_on
from graphir.circuit import Circuit
from graphir.diagnostics import Source
from graphir.run.masks import Masks
from graphir.run.program import MaskedProgram
from passes.lottery import Ticket, find_ticket
from passes.option import WeightOptions
from passes.options import METHODS
from tests.attribution_reference import tiny
from tests.learning import toy

MASKING = [name for name, options in METHODS.items() if "weights" in options.masks]
SHORT: dict[str, dict[str, Any]] = {
    "discogp": {"parts": "weights", "steps": 1, "initial": "ones", "completeness": 0.0},
    "continuous_sparsification": {"steps": 1}, "csordas": {"steps": 1}, "imp": {"rounds": 1, "steps": 1},
}  # fmt: skip
ASKED = [{}, {"embeddings": True}, {"norms": True}, {"embeddings": True, "norms": True}]


def sizes(program: MaskedProgram, **asked: bool) -> dict[str, int]:
    """Weights by parameter of those that are to be masked."""
    return {name: program.traced.tensors[name].numel() for name in program.parameters_of(**asked)}


def kept(circuit: Circuit) -> int:
    return sum(int(mask.sum()) for mask in circuit.weights.values())


def test_every_method_that_masks_weights_has_the_same_options_and_no_other_has_them() -> None:
    for name, options in METHODS.items():
        assert issubclass(options, WeightOptions) == (name in MASKING)


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: " ".join(asked) or "neither")
@pytest.mark.parametrize("method", MASKING)
def test_embeddings_and_norms_are_masked_only_where_it_is_asked_for(method: str, asked: dict[str, bool]) -> None:
    """And a bound on weights is a bound on all that is masked, met exactly."""
    it = tiny("llama", 1)
    expected = sizes(it.program, **asked)
    assert len(expected) > len(it.program.maskable) or not asked
    options: dict[str, Any] = {**SHORT.get(method, {}), **asked}
    circuit = passes.run(method, it.program, it.task, weights=0.3, **options)
    assert {name: mask.size for name, mask in circuit.weights.items()} == expected
    total = sum(expected.values())
    assert kept(circuit) == int(0.3 * total + 1e-9)
    assert circuit.densities()["weights"] == pytest.approx(kept(circuit) / total)


def test_magnitude_ranks_embeddings_and_norms_with_the_rest() -> None:
    it = tiny("llama", 1)
    circuit = passes.run("magnitude", it.program, it.task, weights=0.3, embeddings=True, norms=True)
    values = {name: it.program.traced.tensors[name].detach().abs().numpy() for name in circuit.weights}
    smallest = min(values[name][mask].min() for name, mask in circuit.weights.items() if mask.any())
    assert all((values[name][~mask] <= smallest).all() for name, mask in circuit.weights.items())
    added = set(circuit.weights) - set(it.program.maskable)
    assert 0 < sum(int(circuit.weights[name].sum()) for name in added) < sum(values[name].size for name in added)


def test_a_ticket_trains_what_it_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms that are masked get weights of their own, which are trained; else the model's stand."""
    it, made = tiny("llama", 1), list[Ticket]()

    def watched(*args: Any, **options: Any) -> Ticket:
        made.append(find_ticket(*args, **options))
        return made[-1]

    monkeypatch.setattr("passes.ticket.find_ticket", watched)
    for norms in (False, True):
        passes.run("imp", it.program, it.task, weights=0.5, rounds=1, steps=2, learning_rate=0.1, norms=norms)
    plain, asked = (
        dict(zip(sizes(it.program, norms=norms), each.trained.values(), strict=True))
        for norms, each in zip((False, True), made, strict=True)
    )
    added = set(asked) - set(plain)
    assert added == set(it.program.parameters_of(norms=True)) - set(it.program.maskable)
    assert all(not torch.equal(asked[name], it.program.traced.tensors[name]) for name in added)


def test_a_masked_embedding_changes_what_the_model_says() -> None:
    """The mask of an embedding is not only counted: the model runs with it."""
    program, _ = toy()
    ends = sorted(set(program.parameters_of(embeddings=True)) - set(program.maskable))
    for name in ends:
        mask = np.zeros(tuple(program.traced.tensors[name].shape), bool)
        whole = Circuit.full(program.graph, ablation="zero")
        example = dict(next(toy()[1].batches("train", 2)).inputs)
        with torch.no_grad():
            found, cut = (each.as_module()(**example) for each in (whole, whole.with_(weights={name: mask})))
        found, cut = (each if isinstance(each, torch.Tensor) else each[0] for each in (found, cut))
        assert not torch.allclose(found, cut)


@pytest.mark.parametrize("block", ["", "  norms: true", "  embeddings: true  norms: true"])
def test_a_bound_on_the_number_of_weights_is_a_share_of_all_that_is_masked(block: str) -> None:
    program, _ = toy()
    text = (
        'circ 1\nmodel m = builtin "induction"\ngraph g = trace m\n'
        'task t { data builtin "induction" { n: 20 }  predict answer vs distractor at last }\n'
        f"sheaf s = discover g for t with csordas {{ steps: 1{block} }} subject to weights <= 100\n"
    )
    asked = {word: True for word in ("embeddings", "norms") if word in block}
    spec = check_source(Source("s.circ", text), facts={}).spec
    assert spec is not None
    assert bounds_on(spec.circuits[0], program)["weights"] == pytest.approx(100 / sum(sizes(program, **asked).values()))


def test_masked_weights_are_made_for_each_component_and_again_in_the_backward() -> None:
    """None of them is kept in between, each is made at most twice, and gradients are the same."""
    it = tiny("llama", 1)
    batch = next(it.task.batches("train", 2))
    generator = torch.Generator().manual_seed(0)
    values = {
        n: torch.rand(it.program.traced.tensors[n].shape, generator=generator).double() for n in sizes(it.program)
    }
    made, gradients = dict[str, list[Any]](), list[dict[str, Any]]()

    def mask(name: str, leaf: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        def masked(weight: torch.Tensor) -> torch.Tensor:
            found = weight * leaf
            made.setdefault(name, []).append(weakref.ref(found))
            return found

        return masked

    for functions in (False, True):
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        masks = {name: mask(name, leaf) for name, leaf in leaves.items()} if functions else leaves
        (logits,) = it.program.outputs(batch.inputs, masks=Masks(weights=masks))
        assert all(kept() is None for each in made.values() for kept in each)
        logits.square().sum().backward()
        gradients.append({name: leaf.grad for name, leaf in leaves.items()})
    assert set(made) == set(values)
    once = {name for name, each in made.items() if len(each) == 1}  # of what reads embeddings, which need no gradient
    assert all(name.split(".")[-2] in ("q_proj", "k_proj", "v_proj") for name in once)
    assert {len(made[name]) for name in made.keys() - once} == {2}
    for name in values:
        assert torch.equal(gradients[0][name], gradients[1][name])
