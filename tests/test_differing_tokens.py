"""Under interchange ablation a causal model is computed only where its two inputs can make a difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import graphir
from graphir.run import masked_run, tokens
from graphir.run.masks import Masks
from graphir.run.resume import ResumableRun
from tests import modules, zoo
from tests.reference import ANATOMIES
from tests.test_masked_program import assert_exact, case, projection, random_values, set_masks

torch.set_num_threads(1)

CAUSAL = (
    "gpt2", "gpt_neo", "gptj", "gpt_neox", "opt", "bloom", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2",
    "phi", "phi3", "falcon", "olmo2", "granite", "cohere", "stablelm", "smollm3",
)  # fmt: skip
ONLY_SINGLE = ("mixtral",)
BIDIRECTIONAL = ("bert", "roberta", "distilbert", "t5")


FIRST = (2, 4, 5)


def changed_late(batch: Mapping[str, Tensor], first: tuple[int, ...] = FIRST) -> dict[str, Tensor]:
    """The same batch with other tokens from place `first[row]` on."""
    ids = batch["input_ids"].clone()
    for row, start in zip(range(len(ids)), first, strict=True):
        ids[row, start:] = 5 + (ids[row, start:] - 5 + 11) % (zoo.VOCABULARY - 5)
    return {**batch, "input_ids": ids}


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """How many tokens each masked run was computed at; None for all."""
    found: list[int | None] = []

    def watched(*args: Any) -> tokens.Tokens | None:
        some = tokens.differing_tokens(*args)
        found.append(None if some is None else len(some.index))
        return some

    monkeypatch.setattr(masked_run, "differing_tokens", watched)
    return found


def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute at every token again."""
    monkeypatch.setattr(masked_run, "differing_tokens", lambda *_: None)


@pytest.mark.parametrize("name", [name for name in zoo.FAMILIES if name != "vit"])
def test_every_family_gives_the_same_where_tokens_are_left_out(
    name: str, monkeypatch: pytest.MonkeyPatch, sizes: list[int | None]
) -> None:
    instance = zoo.build(name)
    double = name not in ONLY_SINGLE
    graph = graphir.trace(zoo.in_float64(instance.model) if double else instance.model, instance.example)
    program = graphir.lower(graph)
    counterfactual = changed_late(instance.other)
    edges = random_values(len(graph.edges), 3)

    def run() -> tuple[Tensor, Tensor]:
        masks = set_masks(program, edges, 1.0)
        logits = program(instance.other, counterfactual=counterfactual, masks=masks, ablation="interchange").logits
        logits = logits.double()
        return logits.detach(), torch.autograd.grad(projection(logits), masks.edges)[0]

    sizes.clear()
    found = run()
    if name in CAUSAL:
        length = instance.other["input_ids"].shape[1]
        assert sizes == [sum(length - first for first in FIRST)]
    elif name in BIDIRECTIONAL:
        assert sizes == [None]
    everywhere(monkeypatch)
    wanted = run()
    tolerance = 1e-8 if double else 1e-3
    torch.testing.assert_close(found[0], wanted[0], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found[1], wanted[1], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", tuple(ANATOMIES))
def test_random_masks_equal_the_reference_where_tokens_are_left_out(name: str, sizes: list[int | None]) -> None:
    it = case(name)
    sizes.clear()
    counterfactual = changed_late(it.batch)
    edge_names = [str(edge) for edge in it.graph.edges]
    masks = set_masks(it.program, random_values(len(edge_names), 3), 1.0)
    logits = it.program(it.batch, counterfactual=counterfactual, masks=masks, ablation="interchange").logits
    gradient = torch.autograd.grad(projection(logits), masks.edges)[0]
    assert sizes[-1] is not None

    edges = masks.edges.detach().clone().requires_grad_(True)
    values = dict(zip(edge_names, edges.unbind(), strict=True))
    expected = it.reference.masked(it.batch, it.reference.writes(counterfactual), values, {})
    assert_exact(logits, expected, "logits")
    assert_exact(gradient, torch.autograd.grad(projection(expected), edges)[0], "gradient")


def test_what_comes_after_the_predicting_position_is_left_out_too(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int | None]
) -> None:
    it = case("llama")
    sizes.clear()
    counterfactual, positions = changed_late(it.batch), torch.tensor([3, 4, 8])
    masks = Masks(edges=random_values(len(it.graph.edges), 3))

    def run() -> Tensor:
        return it.program.outputs(it.batch, counterfactual, masks, positions=positions)[0]

    found = run()
    assert sizes == [2 + 1 + 4]
    everywhere(monkeypatch)
    assert_exact(found, run())


def test_a_search_that_resumes_gives_the_same(monkeypatch: pytest.MonkeyPatch, sizes: list[int | None]) -> None:
    it = case("llama")
    sizes.clear()
    reference = it.program.reference(changed_late(it.batch))
    generator = torch.Generator().manual_seed(2)
    several = [(torch.rand(len(it.graph.edges), generator=generator) > 0.5).double() for _ in range(4)]
    run = ResumableRun(it.program, it.batch, reference)
    found = [run(edges)[0].clone() for edges in several]
    assert sizes[-1] is not None
    everywhere(monkeypatch)
    for edges, logits in zip(several, found, strict=True):
        assert_exact(logits, it.program.outputs(it.batch, masks=Masks(edges=edges), reference=reference)[0])


def test_all_tokens_are_computed_where_values_may_differ_at_all_of_them(sizes: list[int | None]) -> None:
    """Masked weights, masked neurons, an attention mask of its own, a change in the first token, another ablation."""
    it = case("llama")
    sizes.clear()
    late, edges = changed_late(it.batch), torch.ones(len(it.graph.edges), dtype=torch.float64)
    weights = it.program.new_masks(weights=True).weights
    neurons = it.program.new_masks(neurons=True).neurons
    padded = {**late, "attention_mask": late["attention_mask"].clone()}
    padded["attention_mask"][0, -1] = 0
    early = changed_late(it.batch, (0, 0, 0))
    with torch.no_grad():
        it.program(it.batch, counterfactual=late, masks=Masks(edges=edges, weights=weights))
        it.program(it.batch, counterfactual=late, masks=Masks(edges=edges, neurons=neurons))
        it.program(it.batch, counterfactual=padded, masks=Masks(edges=edges))
        it.program(it.batch, counterfactual=early, masks=Masks(edges=edges))
        it.program(it.batch, masks=Masks(edges=edges), ablation="zero")
        it.program(it.batch, masks=Masks(edges=edges), reference=it.program.means([it.batch]))
    assert sizes == [None] * len(sizes)


def test_equal_inputs_need_no_mixing_at_all(sizes: list[int | None]) -> None:
    it = case("llama")
    sizes.clear()
    masks = set_masks(it.program, random_values(len(it.graph.edges), 3), 1.0)
    logits = it.program(it.batch, counterfactual=it.batch, masks=masks).logits
    assert sizes == [0]
    assert_exact(logits, it.model(**it.batch).logits)
    assert not torch.autograd.grad(projection(logits), masks.edges)[0].any()


@pytest.mark.parametrize(
    ("kind", "causal"),
    [
        (modules.NormFreeTransformer, True),
        (modules.EinsumTransformer, True),
        (partial(modules.EncoderLayerTransformer, norm_first=True), False),
        (partial(modules.EncoderLayerTransformer, norm_first=False), False),
        (modules.FourierTransformer, False),
    ],
)
def test_modules_nobody_prepared_for_give_the_same(
    kind: Callable[[], torch.nn.Module], *, causal: bool, monkeypatch: pytest.MonkeyPatch, sizes: list[int | None]
) -> None:
    """Their embeddings of positions have no axis of rows."""
    model = modules.prepared(kind()).double()
    (ids,) = modules.token_example()
    other = ids.clone()
    other[0, 3:] += 1
    other[1, 5:] += 1
    other %= int(ids.max()) + 1
    graph = graphir.trace(model, (ids,))
    program = graphir.lower(graph)
    edges = random_values(len(graph.edges), 3)
    sizes.clear()

    def run() -> tuple[Tensor, Tensor]:
        masks = set_masks(program, edges, 1.0)
        output = program.outputs((ids,), (other,), masks)[0]
        return output.detach(), torch.autograd.grad(projection(output), masks.edges)[0]

    found = run()
    assert sizes == [(7 - 3) + (7 - 5) if causal else None]
    everywhere(monkeypatch)
    wanted = run()
    assert_exact(found[0], wanted[0], "output")
    assert_exact(found[1], wanted[1], "gradient")
