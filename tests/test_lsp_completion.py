"""Completion and hover: what the checker would know at a place, in the words of the schema."""

from __future__ import annotations

from pathlib import Path

import pytest
from lsprotocol.types import CompletionItem, MarkupContent, TextEdit

from dsl.lsp.analysis import analyze
from dsl.lsp.completion import completion
from dsl.lsp.expected import State, keywords
from dsl.lsp.hover import hover
from dsl.recovery import SECTIONS
from dsl.schema import ABLATIONS, METRICS, MODEL_KINDS, QUERIES, SCALES, method_fields
from dsl.tokens import read_tokens
from graphir.diagnostics import Source
from passes.options import METHODS

HEAD = """\
circ 1
model toy = builtin "induction"
graph g = trace toy { attention: head split qkv }
task pairs {
  data builtin "induction" { n: 10 }
}
circuit c = discover g for pairs with eap top 5 edges
"""


def complete(tail: str, rest: str = "", *, snippets: bool = False) -> dict[str, CompletionItem]:
    """What is offered at the end of `tail`, behind a file with one section of each kind."""
    analysis = analyze("x.circ", HEAD + tail + rest, Path("nowhere"))
    return {each.label: each for each in completion(analysis, len(HEAD + tail), snippets=snippets).items}


def offered(tail: str, rest: str = "") -> set[str]:
    return set(complete(tail, rest))


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("graph h = trace ", {"toy"}),
        ("circuit d = discover ", {"g"}),
        ("circuit d = discover g for ", {"pairs"}),
        ("circuit d = discover g for pairs with edge_pruning from ", {"c"}),
        ("check ", {"c"}),
        ("measure ", {"c"}),
        ("query q = heads of ", {"g", "c"}),
        ("export ", {"g", "c"}),
    ],
)
def test_names_of_the_right_kind(tail: str, expected: set[str]) -> None:
    assert offered(tail) == expected


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("model m = ", set(MODEL_KINDS)),
        ("circuit d = discover g for pairs with ", set(METHODS)),
        ("query q = ", set(QUERIES)),
        ("measure c at ", set(SCALES)),
        ("task t {\n  metric ", set(METRICS)),
        ("task t {\n  ablate ", set(ABLATIONS)),
        ("task t {\n  split 50 / 50 by ", {"template", "example"}),
        ('export c to "x.json" as ', {"mib", "node_link", "edges"}),
        ("task t {\n  ", {"data", "split", "predict", "ablate", "metric"}),
        ("circuit d = discover g fo", {"for"}),
    ],
)
def test_words_of_the_schema(tail: str, expected: set[str]) -> None:
    assert offered(tail) >= expected
    assert not offered(tail) & {"embed", "g", "toy"}


@pytest.mark.parametrize("method", METHODS)
def test_options_of_every_method(method: str) -> None:
    assert set(method_fields(method)) <= offered(f"circuit d = discover g for pairs with {method} {{ ")


def test_fields_that_are_set_already_are_left_out() -> None:
    assert "steps" not in offered("circuit d = discover g for pairs with eap_ig { steps: 3 ", " }\n")
    assert "absolute" in offered("circuit d = discover g for pairs with eap_ig { steps: 3 ", " }\n")


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("graph h = trace toy { mlp: ", {"layer", "neuron"}),
        ("graph h = trace toy { attention: head ", {"split", "joint"}),
        ("circuit d = discover g for pairs with eap { absolute: ", {"true", "false"}),
        ("circuit d = discover g for pairs with edge_pruning { initial: ", {"eap", "ones"}),
        ('model m = builtin "', {"induction"}),
        ('task t {\n  data builtin "', {"ioi", "induction"}),
    ],
)
def test_values_of_fields(tail: str, expected: set[str]) -> None:
    assert offered(tail) >= expected


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("circuit d = discover g for pairs with edge_pruning\n  minimize ", {"kl", "cross_entropy"}),
        ("circuit d = discover g for pairs with edge_pruning\n  subject to ", {"density", "edges"}),
        ("check c { ", {"kl", "accuracy", "stability"}),
        ("check c { accuracy(", {"circuit", "model", "empty", "complement"}),
        ("check c { kl <= 0.1 and ", {"accuracy"}),
        ("query q = heads of c where ", {"layer", "reaches"}),
        ("query q = edges of c where layer > 3 and ", {"src", "dst"}),
        ("query q = heads of c where kind = ", {"head", "mlp"}),
        ("query q = heads of c where reaches(", {"embed", "logits"}),
        ("query q = paths of c from ", {"embed", "logits"}),
    ],
)
def test_inside_expressions(tail: str, expected: set[str]) -> None:
    assert offered(tail) >= expected


SWEPT = "sweep s = discover g for pairs with how top n over how in eap, eap_ig over n in 3, 5\n"


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("task t {\n  subtask s where ", {"template", "answer", "distractor", "clean", "counterfactual"}),
        ("task t {\n  subtask s where template == 3 and ", {"template", "answer"}),
        ("task t {\n  subtask s where not ", {"template", "answer"}),
        ("sweep s = ", {"c", "discover"}),
        ("sweep s = c over ", {"graph", "task", "method", "top", "absolute"}),
        ("sweep s = c over method in ", set(METHODS)),
        ("sweep s = c over method in eap, ", set(METHODS)),
        ("sweep s = c over task in ", {"pairs"}),
        ("sweep s = c over graph in ", {"g"}),
        ("sweep s = c over select in ", {"top", "greedy"}),
        ("sweep s = discover g for pairs with how top n over ", {"how", "n"}),
        ("sweep s = discover g for pairs with how top n over n in 3, 5 over ", {"how"}),
        ("sweep s = discover g for pairs with how top 3 over how in ", set(METHODS)),
        (SWEPT + "check s[", {"how", "n"}),
        (SWEPT + "check s[how = ", {"eap", "eap_ig"}),
    ],
)
def test_subtasks_and_sweeps(tail: str, expected: set[str]) -> None:
    assert offered(tail) >= expected


def test_an_axis_is_offered_once_and_only_where_it_changes_something() -> None:
    assert offered("sweep s = c over ").isdisjoint({"steps", "seed", "density", "g"})
    assert offered("sweep s = discover g for pairs with how top n over how in eap over ").isdisjoint(
        {"how", "g", "eap"}
    )
    assert "n" not in offered("sweep s = c over top in 1 over ")


def test_an_objective_is_not_offered_what_only_a_check_can_name() -> None:
    assert "stability" not in offered("circuit d = discover g for pairs with edge_pruning\n  minimize ")


def test_sections_are_offered_at_the_start_of_a_line_only() -> None:
    assert offered("") >= SECTIONS
    assert offered("mod") >= SECTIONS
    assert not SECTIONS & offered("task t {\n  ")
    assert not SECTIONS & offered("model x = ")


def test_a_section_is_a_snippet_where_the_client_takes_them() -> None:
    assert complete("", snippets=True)["graph"].text_edit is not None
    edit = complete("", snippets=True)["graph"].text_edit
    assert isinstance(edit, TextEdit)
    assert edit.new_text == "graph ${1:NAME} = trace ${2:MODEL}"
    edit = complete("")["graph"].text_edit
    assert isinstance(edit, TextEdit)
    assert edit.new_text == "graph"


def test_the_word_that_was_begun_is_replaced() -> None:
    item = complete("circuit d = discover g for pairs with ea", " { }\n")["eap_ig"]
    assert isinstance(item.text_edit, TextEdit)
    assert item.text_edit.new_text == "eap_ig"
    assert (item.text_edit.range.start.character, item.text_edit.range.end.character) == (38, 40)


def test_a_field_comes_with_its_colon_and_its_meaning() -> None:
    item = complete("circuit d = discover g for pairs with edge_pruning { ")["steps"]
    assert isinstance(item.text_edit, TextEdit)
    assert item.text_edit.new_text == "steps: "
    assert isinstance(item.documentation, MarkupContent)
    assert "optimizer steps" in item.documentation.value


def test_an_export_is_offered_every_suffix() -> None:
    assert offered('export c to "') >= {"c.svg", "c.json", "c/"}


def test_nothing_is_offered_in_a_comment() -> None:
    assert offered("# a comment ") == set()


def test_a_section_with_mistakes_before_the_cursor_is_completed_all_the_same() -> None:
    assert offered("circuit d = = discover g for pairs with ") >= set(METHODS)


def test_what_stands_behind_the_cursor_does_not_matter() -> None:
    assert offered("circuit d = discover g for pairs with ", " { steps: }}\ncheck c { kl <= 1 }\n") >= set(METHODS)


# The shortest ending of a section


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("model m = hf", '""'),
        ("circuit c = discover g", "for x with x"),
        ("task t { data builtin", '"" }'),
        ("check c { kl <=", "1 }"),
        ("query q = heads of c where not (layer >", "1 )"),
        ("export c", 'to ""'),
        ("report c", 'to ""'),
    ],
)
def test_the_shortest_ending(text: str, ending: str) -> None:
    state = State.after(read_tokens(Source("x", text)).tokens)
    assert state is not None
    assert state.ending() == ending


def test_tokens_that_do_not_fit_lead_nowhere() -> None:
    assert State.after(read_tokens(Source("x", "model m = = =")).tokens) is None


def test_keywords_come_from_the_grammar() -> None:
    assert {"model", "discover", "subject", "where", "and"} <= set(keywords())
    assert "steps" not in keywords()


# Hover


def said(text: str, word: str, inside: int = 0) -> str:
    analysis = analyze("x.circ", text, Path("nowhere"))
    found = hover(analysis, text.index(word) + inside)
    assert found is None or isinstance(found.contents, MarkupContent)
    return found.contents.value if found is not None and isinstance(found.contents, MarkupContent) else ""


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("trace", "graph NAME = trace MODEL"),
        ("toy {", 'model toy = builtin "induction"'),
        ("attention", "query, key and value"),
        ("head split", "head split qkv"),
        ("qkv", "head split qkv"),
        ("builtin", "a built-in model"),
        ("task", "What the model is to do"),
        ("predict", "what is predicted"),
        ("interchange", "counterfactual"),
        ("logit_diff", "logit of the answer minus"),
        ("edge_pruning", "learned by gradient descent"),
        ("steps", "default `300`, at least 1"),
        ("true", "`true`, `false`"),
        ("minimize", "circuit NAME = discover"),
        ("kl(", "divergence from the model"),
        ("3.4%", "`3.4%` is 0.034"),
        ("2k", "`2k` is 2,000"),
        ("heads", "attention heads"),
        ("layer >=", "its layer"),
        ("reaches", "there is a path to the pattern"),
        ("a1.h0", "components whose names match"),
        ("mib", "goes with `.json`"),
    ],
)
def test_hover(word: str, expected: str) -> None:
    text = """\
circ 1
model toy = builtin "induction"
graph g = trace toy { attention: head split qkv }
task pairs {
  data builtin "induction" { n: 2k }
  predict answer vs distractor at last
  ablate interchange
  metric logit_diff
}
circuit c = discover g for pairs with edge_pruning { steps: 10  node_masks: true }
  minimize kl(model, circuit)
  subject to density(edges) <= 3.4%
query q = heads of c where layer >= 1 and reaches(logits)
query r = paths of c from embed to a1.h0* limit 2
export c to "c.json" as mib
"""
    assert expected in said(text, word)


def test_hover_of_a_text_says_what_it_names() -> None:
    assert "induction" in said(HEAD, '"induction" {', 3)


def test_hover_of_a_component_says_what_others_call_it() -> None:
    assert "hook" in said(HEAD + "query q = heads of c where reaches(a9.h6)\n", "a9.h6")


def test_there_is_nothing_to_say_about_signs_and_unknown_words() -> None:
    assert said(HEAD, "=", 0) == ""
    assert said(HEAD + "circuit d = discover g for pairs with nonsense\n", "nonsense") == ""
