"""Every code has a page; the examples on the pages raise their code, and the mended ones do not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dsl.checking.context import Options
from dsl.explain import codes, documentation, explain, title, topics
from dsl.reading import check_source
from graphir.diagnostics import Source
from graphir.errors import UnknownNameError
from tests.golden import check_golden

ROOT = Path(__file__).parent.parent
EXAMPLE = re.compile(r"```circ( fixed)?\n(.*?)```", re.DOTALL)


def used_codes() -> set[str]:
    texts = (path.read_text(encoding="utf-8") for path in [*ROOT.glob("dsl/*.py"), *ROOT.glob("dsl/checking/*.py")])
    return {code for text in texts for code in re.findall(r'"(C\d{3})"', text)}


def test_every_code_in_use_has_a_page_and_every_page_is_in_use() -> None:
    assert used_codes() == set(codes())


def test_every_code_is_raised_in_a_test() -> None:
    goldens = {path.name.partition("_")[0] for path in (ROOT / "tests" / "spec" / "bad").glob("C*.circ")}
    others = [path for path in (ROOT / "tests").glob("test_*.py") if path.name != Path(__file__).name]
    named = {code for path in others for code in re.findall(r'"(C\d{3})"', path.read_text(encoding="utf-8"))}
    assert len(goldens) >= 60
    assert set(codes()) == goldens | (named & set(codes()))


@pytest.mark.parametrize("code", codes())
def test_a_page_has_title_cause_and_fix(code: str) -> None:
    page = explain(code)
    assert page.startswith(f"# {code}: ")
    assert "**Cause.**" in page
    assert "**Fix.**" in page


def examples(*, mended: bool) -> list[tuple[str, str]]:
    found = ((code, *match) for code in codes() for match in EXAMPLE.findall(explain(code)))
    return [(code, text) for code, tag, text in found if bool(tag) == mended]


@pytest.mark.parametrize(("code", "text"), examples(mended=False))
def test_an_example_raises_its_code(code: str, text: str) -> None:
    found = check_source(Source(code, text), (), Options(running=True), {})
    assert {each.code for each in found.diagnostics} == {code}


@pytest.mark.parametrize(("code", "text"), examples(mended=True))
def test_a_mended_example_is_fine(code: str, text: str) -> None:
    assert check_source(Source(code, text), (), Options(running=True), {}).diagnostics == ()


@pytest.mark.parametrize("topic", topics())
def test_every_topic_has_a_page(topic: str) -> None:
    assert explain(topic).startswith("# ")


@pytest.mark.parametrize("topic", [*codes()[:1], *topics()])
def test_every_topic_has_more_in_the_documentation(topic: str) -> None:
    assert (ROOT / documentation(topic)).is_file()


def test_the_documentation_of_a_method_is_its_own_page() -> None:
    assert documentation("eap-ig") == "docs/methods/eap_ig.md"
    assert documentation("cka") == "docs/methods/analyses.md"
    assert documentation("ablations") == "docs/methods/ablations.md"
    assert documentation("task") == documentation("data ioi") == "docs/language.md"


def test_topics_are_found_in_other_spellings() -> None:
    assert explain("c204") == explain("C204")
    assert explain("edge-pruning") == explain("edge_pruning")
    assert explain("metric") == explain("metrics")


def test_an_unknown_topic_has_a_suggestion() -> None:
    with pytest.raises(UnknownNameError) as caught:
        explain("edge_prunning")
    assert caught.value.suggestions == ("edge_pruning",)


def test_the_index_of_pages() -> None:
    rows = [f"- [{code}](../../dsl/pages/{code}.md): {title(code).partition(': ')[2]}" for code in codes()]
    intro = "# Messages\n\nOne page for each code; `circ explain CODE` shows it.\n\n"
    check_golden(ROOT / "docs" / "errors" / "README.md", intro + "\n".join(rows) + "\n")
