"""Findings for programs, deep checks, migration, the reference: what is around the checker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsl.checking.context import Options
from dsl.cli import main
from dsl.migrate import MigrationError, migrate, replace_header, version_of
from dsl.reading import read_spec
from dsl.reference import FILE, reference
from graphir.diagnostics import Diagnostic

ROOT = Path(__file__).parent.parent
BAD = 'circ 1\nmodel m = hf "x"\ngraph g = trace n\ntask t { data builtin "ioi"  metric logitdiff }\n'


def checked(tmp_path: Path, text: str, *arguments: str) -> tuple[int, Path]:
    path = tmp_path / "x.circ"
    path.write_text(text, encoding="utf-8")
    return main(["check", str(path), *arguments]), path


def test_concise_is_one_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, path = checked(tmp_path, BAD, "--format", "concise")
    assert code == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{path}:3:17: error[C202]: unknown model `n`",
        f"{path}:4:37: error[C204]: unknown metric `logitdiff` (did you mean `logit_diff`?)",
    ]


def test_json_by_format_is_json_by_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked(tmp_path, BAD, "--format", "json")
    by_format = capsys.readouterr().out
    checked(tmp_path, BAD, "--json")
    assert json.loads(capsys.readouterr().out) == json.loads(by_format)


def test_sarif_has_places_rules_and_fixes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, path = checked(tmp_path, BAD, "--format", "sarif")
    log = json.loads(capsys.readouterr().out)
    (run,) = log["runs"]
    assert log["version"] == "2.1.0"
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["C202", "C204"]
    first, second = run["results"]
    assert run["tool"]["driver"]["rules"][second["ruleIndex"]]["id"] == second["ruleId"] == "C204"
    place = second["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == str(path)
    assert place["region"] == {"startLine": 4, "startColumn": 37, "endLine": 4, "endColumn": 46}
    assert second["fixes"][0]["artifactChanges"][0]["replacements"][0]["insertedContent"]["text"] == "logit_diff"
    assert "fixes" not in first


def test_a_file_that_cannot_be_read_has_its_name_in_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.circ"
    for form in ("concise", "sarif", "json", "text"):
        assert main(["check", str(path), "--format", form]) == 2
        assert "none.circ" in capsys.readouterr().out


# Deep checks


def deep(tmp_path: Path, text: str, **files: str) -> list[Diagnostic]:
    for name, content in files.items():
        (tmp_path / f"{name}.jsonl").write_text(content, encoding="utf-8")
    path = tmp_path / "deep.circ"
    path.write_text("circ 1\n" + text, encoding="utf-8")
    return list(read_spec(path, (), Options(deep=True)).diagnostics)


def row(**fields: str) -> str:
    return json.dumps({"clean": "a b", "counterfactual": "c b", "answer": " x", "distractor": " y", **fields}) + "\n"


ON_A_FOLDER = (
    'model m = hf "model"\ngraph g = trace m\ntask t { data jsonl "d.jsonl"  split 50 / 50 by example }\n'
    "circuit c = discover g for t with eap top 3%\n"
)
BUILTIN = 'model m = builtin "induction"\ngraph g = trace m\n'


def test_deep_finds_data_that_cannot_be_read(tmp_path: Path) -> None:
    (found,) = deep(tmp_path, 'task t { data jsonl "none.jsonl" }\n')
    assert found.code == "C905"
    (found,) = deep(tmp_path, 'task t { data jsonl "d.jsonl" }\n', d=row() + "{oops\n")
    assert found.code == "C905"
    assert "d.jsonl:2" in found.message


def test_deep_finds_splits_that_leave_nothing(tmp_path: Path) -> None:
    rows = "".join(row(clean=f"{i} b", template="one") for i in range(20))
    (found,) = deep(tmp_path, 'task t { data jsonl "d.jsonl"  split 50 / 50 by template }\n', d=rows)
    assert (found.code, found.message) == ("C906", "2 parts need 2 templates, and `t` has 1")
    assert deep(tmp_path, 'task t { data jsonl "d.jsonl"  split 50 / 50 by example }\n', d=rows) == []


def test_deep_finds_an_empty_subtask(tmp_path: Path) -> None:
    text = 'task t { data jsonl "d.jsonl"  split 50 / 50 by example  subtask s where template == nowhere }\n'
    rows = "".join(row(clean=f"{i} b", template="one") for i in range(20))
    (found,) = deep(tmp_path, text, d=rows)
    assert (found.code, found.message) == ("C906", "no example of `t` is in the subtask `t.s`")


def test_deep_says_what_it_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (found,) = deep(tmp_path, 'model m = hf "nobody/nothing"\n')
    assert (found.code, found.is_error) == ("C907", False)


def test_deep_knows_how_many_edges_there_are(tmp_path: Path) -> None:
    text = BUILTIN + 'task t { data builtin "induction" }\ncircuit c = discover g for t with eap top 1M\n'
    assert [each.code for each in deep(tmp_path, text)] == ["C908"]
    assert deep(tmp_path, text.replace("1M", "5")) == []
    assert [each.code for each in deep(tmp_path, text.replace("1M", "0.5%"))] == ["C501"]
    assert deep(tmp_path, text.replace("1M", "1%")) == []


class Words:
    """A tokenizer of blanks, with words of more than six letters in two tokens."""

    mask_token_id = None

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [hash((w, i)) for w in text.split() for i in range(2 if len(w) > 6 else 1)]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [str(each) for each in ids]

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"answer": " elephants"}, "C901"),
        ({"counterfactual": "elephants b"}, "C904"),
        ({"clean": "b " * 30, "counterfactual": "c " * 30}, "C902"),
        ({}, None),
    ],
)
def test_deep_reads_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], code: str | None
) -> None:
    from dsl import deep as module

    (tmp_path / "model").mkdir()
    config = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 20}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(module, "read_tokenizer", lambda model, folder: Words())
    rows = row() + row(**{"clean": "b b", "counterfactual": "d b", **fields})
    assert [each.code for each in deep(tmp_path, ON_A_FOLDER, d=rows)] == ([code] if code else [])


def test_deep_says_that_there_is_no_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dsl import deep as module

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"num_hidden_layers": 2, "num_attention_heads": 2}')
    monkeypatch.setattr(module, "read_tokenizer", lambda model, folder: None)
    (found,) = deep(tmp_path, ON_A_FOLDER, d=row() + row(clean="b b", counterfactual="d b"))
    assert (found.code, found.is_error) == ("C903", False)
    assert found.message == "no tokenizer of `model` is at hand"
    assert found.labels[0].span.text == 'model m = hf "model"'


def test_deep_asks_for_the_tokenizer_where_the_model_is(tmp_path: Path) -> None:
    from dsl.deep import _tokenizer_place, read_tokenizer

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "deep.circ").write_text(
        'circ 1\nmodel a = hf "model"\nmodel b = gguf "m.gguf"\nmodel c = hf "no/where"\n'
    )
    spec = read_spec(tmp_path / "deep.circ", (), Options()).spec
    assert spec is not None
    folder, file, nowhere = spec.models
    assert _tokenizer_place(folder, tmp_path) == (str(tmp_path / "model"), {})
    assert _tokenizer_place(file, tmp_path) == (str(tmp_path), {"gguf_file": "m.gguf"})
    assert read_tokenizer(nowhere, tmp_path) is None


# Migration, with a table of versions that do not exist


def one_to_two(text: str) -> str:
    return replace_header(text, 2).replace("sheaf", "bundle")


def two_to_three(text: str) -> str:
    return replace_header(text, 3).replace("bundle", "both")


TABLE = {1: one_to_two, 2: two_to_three}


def test_migrations_are_applied_one_after_the_other() -> None:
    moved = migrate("# lab note\ncirc 1\nsheaf s # sheaf\n", TABLE, 3)
    assert (moved.text, moved.steps) == ("# lab note\ncirc 3\nboth s # both\n", (1, 2))
    assert migrate("circ 3\n", TABLE, 3).steps == ()


@pytest.mark.parametrize(
    ("text", "table", "message"),
    [
        ("model m\n", TABLE, "missing"),
        ("circ 9\n", TABLE, "newer"),
        ("circ 1\n", {2: two_to_three}, "no way from version 1"),
        ("circ 1\n", {1: lambda text: text}, "does not say 2"),
    ],
)
def test_what_cannot_be_migrated_is_said(text: str, table: Any, message: str) -> None:
    with pytest.raises(MigrationError, match=message):
        migrate(text, table, 3)


def test_the_version_is_in_the_first_line() -> None:
    assert version_of("\n# circ 7\n circ 2 \nmodel circ 3") == 2
    assert version_of("model m") is None


def test_fmt_migrates_what_is_old_and_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dsl import migrate as module

    path = tmp_path / "x.circ"
    path.write_text("circ 0\ngraph g=trace m\n")
    monkeypatch.setattr(module.migrate, "__defaults__", ({0: lambda text: replace_header(text, 1)}, 1))
    assert main(["fmt", "--migrate", str(path)]) == 0
    assert path.read_text() == "circ 1\n\ngraph g = trace m\n"
    assert "from version 0" in capsys.readouterr().err


# The reference


def test_the_reference_is_that_of_the_tables() -> None:
    assert (ROOT / FILE).read_text(encoding="utf-8") == reference(), "run `python -m dsl.reference`"
