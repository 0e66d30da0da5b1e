"""The documents say what is so: blocks are carried out, links lead somewhere, tables of options are the code's."""

from __future__ import annotations

import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from dsl.cli import main
from passes.analysis_options import ANALYSES, DISTANCES
from passes.evidence_options import EvidenceOptions
from passes.options import METHODS
from passes.shrink_options import ShrinkOptions
from passes.tuning_options import TUNERS
from tests.documents import ROOT, Block, Session, agrees, blocks_of, option_table
from tests.golden import check_golden

DOCS = ROOT / "docs"
PAGES = DOCS / "methods"
# The language's reference is made from its tables, and tested with them.
WRITTEN = sorted(path for path in DOCS.glob("*.md") if path.name != "language.md")
OPTIONS = {**METHODS, **DISTANCES, **ANALYSES, **TUNERS, "evidence": EvidenceOptions, "shrink": ShrinkOptions}
TABLE = re.compile(r"<!-- options: (\w+) -->\n(.*?)<!-- end -->\n", re.DOTALL)


VERBS = {"run", "check", "fmt", "plan", "show", "query", "export", "diff", "new", "env", "explain", "lsp"}
README_NAMES = """
from dsl.models import ModelSource, load_model
from dsl.tasks import find_task
from passes.task import Task

loaded = load_model(ModelSource("builtin", "induction"))
model = loaded.model
task = Task.from_examples("pairs", find_task("induction").generate({"n": 48}), loaded.tokenizer)
first = next(task.batches("train", 2))
batch, corrupt = first.inputs, first.counterfactual
ids = batch["input_ids"]
rest = {name: value for name, value in batch.items() if name != "input_ids"}
"""


@pytest.mark.parametrize("path", [*WRITTEN, *sorted(PAGES.glob("*.md"))], ids=lambda path: path.stem)
def test_every_block_does_what_it_shows(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # for modules that a document writes
    Session(str(path.relative_to(ROOT))).carry_out(blocks_of(path.read_text(encoding="utf-8")))


# What the executor itself promises


def test_a_block_that_shows_something_else_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "```python\nprint(6 * 7)\n```\n```text\n43\n```\n"
    with pytest.raises(AssertionError, match="here:2"):
        Session("here").carry_out(blocks_of(text))


def test_a_command_that_fails_must_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["```console", "$ circ explain C999", "…", "```", ""]
    with pytest.raises(AssertionError, match="failed without a word"):
        Session("here").carry_out(blocks_of("\n".join(lines)))
    Session("here").carry_out(blocks_of("\n".join([*lines[:3], "$ echo $?", "2", *lines[3:]])))


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("a\n…\n", "a\n", True),
        ("a\n…\nd\n", "a\nb\nc\nd\n", True),
        ("a … c\n", "a b c\n", True),
        ("a … c\n", "a b\nc\n", False),
        ("", "a\n", False),
        ("", "", True),
    ],
)
def test_dots_stand_for_anything_within_a_line_and_for_lines(shown: str, printed: str, same: bool) -> None:
    assert agrees(shown, printed) == same


# README and examples


def readme_blocks() -> list[Block]:
    return blocks_of((ROOT / "README.md").read_text(encoding="utf-8"))


def test_commands_of_the_readme_are_commands_and_name_examples_that_check() -> None:
    session = Session("README.md")
    for block in readme_blocks():
        if block.language != "console":
            continue
        for verb in re.findall(r"\bcirc (\w+)", block.text):
            assert verb in VERBS, verb
        session.carry_out([replace(block, note="not run")])


def test_the_file_that_the_readme_shows_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = [part for part in re.findall(r"(?m)(?:^(?: {4}.*)?\n)+", text) if re.match(r"\s*circ 1\n", part)]
    found = [textwrap.dedent(part) for part in shown]
    found += [block.text for block in readme_blocks() if block.text.startswith("circ 1\n")]
    assert found
    for part in found:
        Session("README.md").carry_out([Block("circ", part.strip() + "\n", 0)])


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the built-in model for `model`, and names of its graph for those of a larger one."""
    monkeypatch.chdir(tmp_path)
    session = Session("README.md")
    session.carry_out([Block("python", README_NAMES, 1)])
    larger = {"a9.h6": "a0.h0", "a10.h7.q": "a1.h2.q", '"attention_mask": mask': "**rest", "0.034": "0.05"}
    for block in readme_blocks():
        if block.language == "python":
            text = block.text.replace("steps=300", "steps=5")
            for theirs, ours in larger.items():
                text = text.replace(theirs, ours)
            session.carry_out([replace(block, text=text)])
    assert session.ran > 1


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.circ")), ids=lambda path: path.stem)
def test_examples_check(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are carried out in `test_examples` and the tests that it names."""
    assert main(["check", str(path)]) == 0, capsys.readouterr().out


# Pages of methods


def table_pages() -> dict[str, Path]:
    """The page that has the options of each name."""
    return {name: path for path in PAGES.glob("*.md") for name, _ in TABLE.findall(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", [*METHODS, *TUNERS])
def test_every_method_has_a_page(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# `{name}`: ")
    assert f"<!-- options: {name} -->" in text
    for part in ("**Source.** ", "    ", "## Cost", "## When to use it", "## Options"):
        assert part in text, f"the page of `{name}` lacks {part.strip() or 'a formula'}"


def test_every_name_has_its_options_on_one_page_and_no_other_does() -> None:
    assert set(table_pages()) == set(OPTIONS)


@pytest.mark.parametrize("path", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_tables_of_options_are_those_of_the_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    fresh = TABLE.sub(
        lambda found: f"<!-- options: {found[1]} -->\n{option_table(OPTIONS[found[1]])}<!-- end -->\n", text
    )
    check_golden(path, fresh)


def test_every_page_is_in_the_index() -> None:
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    assert [path.name for path in PAGES.glob("*.md") if path.name != "index.md" and f"({path.name})" not in index] == []
    top = (DOCS / "index.md").read_text(encoding="utf-8")
    assert [path.name for path in DOCS.glob("*.md") if path.name != "index.md" and f"({path.name})" not in top] == []


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text):
        assert re.match(r"https?://", target) or (path.parent / target).exists(), f"{path.name}: {target}"
