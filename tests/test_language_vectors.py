"""Task vectors as a run sees them, and in editors; goldens are in `spec`."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsl.lsp.analysis import analyze
from dsl.lsp.completion import completion
from dsl.lsp.hover import hover
from dsl.lsp.outline import symbols
from dsl.reading import check_source
from dsl.running.vector_tasks import measured_on
from dsl.spec import Spec, TunedVectorSpec, VectorSumSpec
from dsl.vector_sections import own_tasks
from graphir.diagnostics import Source
from passes.tuning_options import TUNERS, LtSftOptions

START = """\
circ 1
model m = builtin "induction"
task t {
  data builtin "induction"
  subtask short where template == "0-0-0"
  subtask long where template == "5-2-4"
}
task other { data builtin "induction" { seed: 1 } }
vector a = tune m for t.short with lt_sft { count: 5 }
vector b = tune m for t.long with lt_sft
"""


def spec(text: str, *overrides: str) -> Spec:
    found = check_source(Source("x.circ", START + text), overrides, None, {})
    assert found.spec is not None, [str(each) for each in found.diagnostics]
    return found.spec


def total(formula: str) -> dict[str, float]:
    """The factors that a formula comes to."""
    found = {each.name: each for each in spec(f"let half = 0.5\nvector v = {formula}\n").vectors}["v"]
    assert isinstance(found, VectorSumSpec)
    return {each.name: factor for each, factor in zip(found.operands, found.factors, strict=True)}


@pytest.mark.parametrize(("formula", "factors"), [
    ("a + b * half", {"a": 1, "b": 0.5}),
    ("a - b * half", {"a": 1, "b": -0.5}),
    ("-a * half", {"a": -0.5}),
    ("half * (a - 2 * (b - a))", {"a": 1.5, "b": -1}),
    ("a / 4 + 50% * b - half * a", {"a": -0.25, "b": 0.5}),
    ("a - a + half * b", {"a": 0, "b": 0.5}),
])  # fmt: skip
def test_a_formula_is_its_factors(formula: str, factors: dict[str, float]) -> None:
    assert total(formula) == factors


@pytest.mark.parametrize(("formula", "operation", "factors"), [
    ("a | b", "|", {"a": 1, "b": 1}),
    ("a & b & a", "&", {"a": 1, "b": 1}),
    ("a & ~b", "&", {"a": 1, "b": -1}),
    ("~b & a", "&", {"a": 1, "b": -1}),
])  # fmt: skip
def test_a_set_is_its_members(formula: str, operation: str, factors: dict[str, float]) -> None:
    (found,) = (each for each in spec(f"vector v = {formula}\n").vectors if each.name == "v")
    assert isinstance(found, VectorSumSpec)
    assert found.operation == operation
    assert list(zip((each.name for each in found.operands), found.factors, strict=True)) == list(factors.items())


def test_vectors_come_in_the_order_they_need_each_other() -> None:
    found = spec("vector d = c + b\nvector c = -a\n").vectors
    assert [each.name for each in found[:2]] == ["a", "b"] and {each.name for each in found} == {"a", "b", "c", "d"}
    last = next(each for each in found if each.name == "d")
    assert [each.name for each in own_tasks(last)] == ["t.short", "t.long"]


def test_what_a_vector_is_measured_on() -> None:
    whole = spec("vector c = a + b\ncheck c { accuracy(other) >= 50% }\ncheck a { kl(t) <= 1 }\n")
    named = {each.name: [task.name for task in measured_on(each, whole)] for each in whole.vectors}
    assert named["a"] == ["t.short", "t", "t.long"]
    assert named["b"] == ["t.long", "t.short"]
    assert named["c"] == ["t.short", "t.long", "other"]


def test_options_are_set_from_the_command_line() -> None:
    found = spec("", "a.count=7", "b.steps=3").vectors
    assert isinstance(found[0], TunedVectorSpec) and isinstance(found[1], TunedVectorSpec)
    assert found[0].method.options.count == 7 and found[1].method.options.steps == 3


def test_a_density_stands_in_where_neither_is_given() -> None:
    assert (LtSftOptions().share, LtSftOptions(count=3).share, LtSftOptions(density=0.5).share) == (0.05, None, 0.5)


def test_vector_and_tune_are_words_of_their_own_elsewhere() -> None:
    text = 'circ 1\nmodel vector = builtin "induction"\ntask tune { data builtin "induction" }\n'
    found = check_source(Source("x.circ", text + "vector v = tune vector for tune with lt_sft\n"), (), None, {})
    assert found.spec is not None and found.spec.vectors[0].model.name == "vector"


# Editors


def offered(tail: str) -> set[str]:
    analysis = analyze("x.circ", START + tail, Path("nowhere"))
    return {each.label for each in completion(analysis, len(START + tail)).items}


@pytest.mark.parametrize(("tail", "expected"), [
    ("vector v = ", {"tune", "a", "b"}),
    ("vector v = a + ", {"a", "b"}),
    ("vector v = tune ", {"m"}),
    ("vector v = tune m for ", {"t", "t.short", "other"}),
    ("vector v = tune m for t with ", set(TUNERS)),
    ("vector v = tune m for t with lt_sft { ", {"count", "density", "steps"}),
    ("vector v = tune m for t with lt_sft { optimizer: ", {"adam", "sgd"}),
    ("import vector v = \"x/\" on ", {"m"}),
    ("check ", {"a", "b"}),
    ("check a { ", {"accuracy", "gain", "density"}),
    ("check a { accuracy(", {"t", "other"}),
    ("export ", {"a", "b"}),
])  # fmt: skip
def test_completion(tail: str, expected: set[str]) -> None:
    assert offered(tail) >= expected


def test_tasks_in_conditions_are_names() -> None:
    text = START + "vector c = a + b\ncheck c { accuracy(t.short) >= 50%  kl(other) <= 1 }\n"
    analysis = analyze("x.circ", text, Path("nowhere"))
    inside = text.index("accuracy(") + len("accuracy(")
    assert [(each.name, each.declares) for each in analysis.mentions if inside <= each.start < inside + 7] == [
        ("t", False), ("t.short", False),
    ]  # fmt: skip
    assert analysis.mention_at(text.index("kl(other") + 4).name == "other"  # type: ignore[union-attr]
    assert [each.name for each in analysis.mentions if each.name == "a"] == ["a", "a"]


@pytest.mark.parametrize(("word", "words"), [
    ("lt_sft { count", "composable sparse fine-tuning"), ("count: 5", "weights to tune"), ("vector a", "A task vector"),
])  # fmt: skip
def test_hover(word: str, words: str) -> None:
    analysis = analyze("x.circ", START, Path("nowhere"))
    found = hover(analysis, START.index(word))
    assert found is not None and words in str(found.contents)


def test_the_outline_has_vectors() -> None:
    analysis = analyze("x.circ", START + 'import vector old = "x/" on m\n', Path("nowhere"))
    assert [each.name for each in symbols(analysis)][-3:] == ["a", "b", "old"]
