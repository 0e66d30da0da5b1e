"""Golden tests of the language: what good files mean, what bad files are told, how files are laid out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dsl.checking.context import Options
from dsl.format import format_text
from dsl.model_facts import ModelFacts
from dsl.reading import Read, check_source
from graphir.diagnostics import Source, render_all
from tests.golden import SPEC, check_golden

GPT2 = ModelFacts(layers=12, heads=12, kv_heads=12, d_mlp=3072, parameters=124_439_808)
# Lists of what passes and tasks there are grow without a change of the language.
GROWING = re.compile(r"((?:methods(?: with weight masks)?|distances|built-in [a-z ]+|(?:fields|axes) of `\w+`): ).*")


def files(folder: str) -> list[Path]:
    return sorted(path for path in (SPEC / folder).glob("*.circ") if not path.name.endswith(".out.circ"))


def read(path: Path) -> Read:
    facts = {"m": GPT2} if "out_of_range" in path.name else {}
    return check_source(Source(path.name, path.read_text(encoding="utf-8")), (), Options(), facts)


def said(value: Any) -> Any:
    """A section without the options that the file does not set."""
    if isinstance(value, list):
        return [said(each) for each in value]
    if not isinstance(value, dict):
        return value
    shown = {key: said(each) for key, each in value.items()}
    if "given" in shown and isinstance(shown.get("options"), dict):
        shown["options"] = {key: each for key, each in shown["options"].items() if key in shown["given"]}
    return shown


@pytest.mark.parametrize("path", files("ok"), ids=lambda path: path.stem)
def test_a_good_file_means_what_its_golden_says(path: Path) -> None:
    found = read(path)
    assert found.diagnostics == ()
    assert found.spec is not None
    data = {key: said(value) for key, value in found.spec.to_json().items() if key not in ("file", "digest")}
    check_golden(path.with_suffix(".json"), json.dumps(data, indent=1) + "\n")


@pytest.mark.parametrize("path", files("bad"), ids=lambda path: path.stem)
def test_a_bad_file_is_told_what_its_golden_says(path: Path) -> None:
    found = read(path)
    text = GROWING.sub(r"\1…", render_all(found.diagnostics)).replace(
        f"`{Path.cwd().name}`, the folder", "`…`, the folder"
    )
    check_golden(path.with_suffix(".txt"), text + "\n")


@pytest.mark.parametrize("path", [path for path in files("bad") if path.name[0] == "C"], ids=lambda path: path.stem)
def test_a_bad_file_raises_the_code_in_its_name(path: Path) -> None:
    found = read(path)
    assert path.name.partition("_")[0] in {each.code for each in found.diagnostics}


@pytest.mark.parametrize("path", files("bad"), ids=lambda path: path.stem)
def test_no_spec_comes_out_of_errors(path: Path) -> None:
    found = read(path)
    assert (found.spec is None) == any(each.is_error for each in found.diagnostics)


@pytest.mark.parametrize("path", files("fmt"), ids=lambda path: path.stem)
def test_layout(path: Path) -> None:
    text = format_text(Source(path.name, path.read_text(encoding="utf-8")))
    check_golden(path.with_suffix(".out.circ"), text)


@pytest.mark.parametrize("path", [*files("fmt"), *files("ok")], ids=lambda path: path.stem)
def test_layout_is_a_fixed_point(path: Path) -> None:
    once = format_text(Source(path.name, path.read_text(encoding="utf-8")))
    assert format_text(Source(path.name, once)) == once
