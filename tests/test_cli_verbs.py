"""The verbs of `circ`: exit codes, streams, JSON; those that need a model against a stand-in for `dsl.execute`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dsl.cli import main
from dsl.options import DiffOptions, ExportOptions, PlanOptions, RunOptions, ShowOptions
from graphir.errors import GraphirError, UnavailableError

GOOD = 'circ 1\n\nmodel m = hf "gpt2"\ngraph g = trace m\n'
BAD = 'circ 1\nmodel m = hf "gpt2"\ngraph g = trace n\n'
MESSY = 'circ 1\nmodel m=hf "gpt2" # note\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.circ"
    path.write_text(GOOD)
    return path


# check


def test_check_of_a_good_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: no mistakes\n"


def test_check_of_a_bad_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(BAD)
    assert main(["check", str(file)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("error[C202]: unknown model `n`")
    assert "\x1b" not in out


def test_check_in_color(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(BAD)
    main(["check", str(file), "--color", "always"])
    assert "\x1b[1;31merror[C202]" in capsys.readouterr().out


def test_check_as_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(BAD)
    assert main(["check", str(file), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] is False
    assert [each["code"] for each in data["files"][0]["diagnostics"]] == ["C202"]


def test_check_as_json_with_the_spec(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file), "--json", "--spec"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["spec"]["graphs"][0]["mlp"] == "layer"


def test_check_of_the_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BAD.encode())))
    assert main(["check", "-"]) == 1
    assert "--> (stdin):3:17" in capsys.readouterr().out


def test_check_of_several_files(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "y.circ").write_text(BAD)
    assert main(["check", "-q", str(file), str(tmp_path / "y.circ")]) == 1
    assert capsys.readouterr().out.count("error[") == 1


def test_check_mends_what_it_can(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text('modle m = hf "gpt2" { dtpe: float32 }\n')
    assert main(["check", str(file), "--fix"]) == 0
    assert file.read_text() == 'circ 1\n\nmodel m = hf "gpt2" { dtype: float32 }\n'
    assert "3 fixed" in capsys.readouterr().err


def test_check_with_a_value_from_the_command_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file), "--set", "g.mlp=nueron"]) == 1
    assert "--> (command line):1:7" in capsys.readouterr().out


def test_a_missing_file_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("check", "fmt", "run", "plan"):
        assert main([verb, str(tmp_path / "none.circ")]) == 2
        captured = capsys.readouterr()
        assert "cannot read" in captured.out + captured.err


# fmt


def test_fmt_writes_the_file(file: Path) -> None:
    file.write_text(MESSY)
    assert main(["fmt", str(file)]) == 0
    assert file.read_text() == 'circ 1\n\nmodel m = hf "gpt2"  # note\n'


@pytest.mark.parametrize("flag", ["--check", "--diff"])
def test_fmt_can_only_look(file: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(MESSY)
    assert main(["fmt", flag, str(file)]) == 1
    assert file.read_text() == MESSY
    captured = capsys.readouterr()
    assert "would be laid out anew" in captured.err
    assert ('+model m = hf "gpt2"  # note' in captured.out) == (flag == "--diff")
    file.write_text(GOOD)
    assert main(["fmt", flag, str(file)]) == 0


def test_fmt_of_the_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(MESSY.encode())))
    assert main(["fmt", "-"]) == 0
    assert capsys.readouterr().out == 'circ 1\n\nmodel m = hf "gpt2"  # note\n'


def test_fmt_leaves_a_file_with_mistakes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("circ 1\nmodel m = =\n")
    assert main(["fmt", str(file)]) == 1
    assert file.read_text() == "circ 1\nmodel m = =\n"
    assert "error[C101]" in capsys.readouterr().err


# new, env, explain


@pytest.mark.parametrize("name", ["ioi", "induction", "jsonl"])
def test_a_template_is_without_mistakes_and_in_canonical_layout(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.circ"
    assert main(["new", name, str(path)]) == 0
    assert main(["check", str(path)]) == 0
    assert main(["fmt", "--check", str(path)]) == 0
    assert main(["new", name, str(path)]) == 2
    assert main(["new", name, str(path), "--force"]) == 0
    capsys.readouterr()
    assert main(["new", name]) == 0
    assert capsys.readouterr().out == path.read_text()
    assert main(["new", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"template": name, "text": path.read_text()}


def test_new_lists_its_templates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new"]) == 0
    assert capsys.readouterr().out.split() == ["induction", "ioi", "jsonl"]
    assert main(["new", "nope"]) == 2


def test_env(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["packages"]["lark"]
    assert set(data["tools"]) == {"dot", "nvidia-smi"}
    assert main(["env"]) == 0
    assert "lark" in capsys.readouterr().out


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "C204"]) == 0
    assert capsys.readouterr().out.startswith("# C204: unknown metric")
    assert main(["explain"]) == 0
    assert "C204  unknown metric" in capsys.readouterr().out
    assert main(["explain", "C204", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["page"].startswith("# C204")
    capsys.readouterr()
    assert main(["explain", "edge_pruning"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("more: docs/methods/edge_pruning.md")
    assert main(["explain", "nonsense"]) == 2
    assert "no topic named `nonsense`" in capsys.readouterr().err


# Verbs that hand over


class Answer:
    """What a function of `dsl.execute` gives."""

    passed = same = True

    def to_json(self) -> dict[str, Any]:
        return {"answer": 42}

    def __str__(self) -> str:
        return "forty-two"


class Execute(ModuleType):
    """A stand-in for `dsl.execute` that keeps its arguments."""

    def __init__(self) -> None:
        super().__init__("dsl.execute")
        self.calls: list[tuple[Any, ...]] = []
        self.result: Any = Answer()

    def __getattr__(self, name: str) -> Any:
        if name not in {"run_spec", "plan_spec", "show", "query", "export", "diff"}:
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            if isinstance(self.result, BaseException):
                raise self.result
            return self.result

        return call


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch) -> Execute:
    stand_in = Execute()
    monkeypatch.setitem(sys.modules, "dsl.execute", stand_in)
    return stand_in


def test_run(file: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    argv = ["run", str(file), "--out", "o", "--events", "e", "--threads", "3", "--set", "m.dtype=bfloat16"]
    assert main(argv) == 0
    ((name, spec, options),) = execute.calls
    assert (name, spec.models[0].dtype) == ("run_spec", "bfloat16")
    assert options == RunOptions(Path("o"), Path("e"), quiet=False, threads=3)


def test_a_failed_check_of_a_run(file: Path, execute: Execute, capsys: pytest.CaptureFixture[str]) -> None:
    execute.result.passed = False
    assert main(["run", str(file), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"answer": 42}


def test_a_file_with_mistakes_does_not_run(file: Path, execute: Execute, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(BAD)
    assert main(["run", str(file)]) == 1
    assert execute.calls == []
    assert "error[C202]" in capsys.readouterr().err


def test_python_models_need_a_word(file: Path, execute: Execute, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text('circ 1\nmodel m = python "a.b:c"\n')
    assert main(["run", str(file)]) == 1
    assert "error[C602]" in capsys.readouterr().err
    assert main(["run", str(file), "--allow-code"]) == 0
    assert execute.calls[0][1].allow_code


def test_plan_show_query_export_diff(
    file: Path, tmp_path: Path, execute: Execute, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path)
    assert main(["plan", str(file)]) == 0
    assert main(["show", folder, "--node", "a9.h6", "--names", "eap"]) == 0
    assert main(["query", folder, "heads", "where", "layer >= 9", "top", "5"]) == 0
    assert main(["export", folder, "a.svg", "b.json", "c/", "--as", "mib", "--top", "9"]) == 0
    assert main(["diff", folder, folder]) == 0
    plan, show, query, export, diff = execute.calls
    assert plan[2] == PlanOptions()
    assert show == ("show", tmp_path, ShowOptions("a9.h6", names="eap"))
    assert (query[1], query[2].kind, query[2].top) == (tmp_path, "heads", 5)
    targets = ((Path("a.svg"), "svg"), (Path("b.json"), "mib"), (Path("c"), "circuit"))
    assert export[2] == ExportOptions(targets, top=9)
    assert diff == ("diff", tmp_path, tmp_path, DiffOptions())
    assert capsys.readouterr().out == "forty-two\n" * 5


def test_diff_tells_by_its_exit_code(tmp_path: Path, execute: Execute) -> None:
    execute.result.same = False
    assert main(["diff", str(tmp_path), str(tmp_path), "--json"]) == 1


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["query", "nowhere", "heads"], "there is no `nowhere`"),
        (["export", ".", "a.foo"], "unknown format `.foo`"),
        (["export", ".", "a.json", "--as", "mibb"], "unknown flavor `mibb`"),
    ],
)
def test_wrong_usage(argv: list[str], words: str, execute: Execute, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert words in capsys.readouterr().err


def test_a_query_with_mistakes(tmp_path: Path, execute: Execute, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", str(tmp_path), "heads where layr > 3"]) == 1
    assert "--> (query):1:23" in capsys.readouterr().err


# Errors


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UnavailableError("no model `x`", ["download it"]), 3, "error: no model `x`\n  help: download it"),
        (GraphirError("stuck"), 1, "error: stuck"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("division by zero"), 1, "`--traceback` shows where"),
        (PermissionError(13, "Permission denied", "/x"), 2, "error: `/x`: permission denied"),
    ],
)
def test_errors_become_exit_codes_without_a_traceback(
    error: BaseException, code: int, words: str, file: Path, execute: Execute, capsys: pytest.CaptureFixture[str]
) -> None:
    execute.result = error
    assert main(["run", str(file)]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_errors_as_json(file: Path, execute: Execute, capsys: pytest.CaptureFixture[str]) -> None:
    execute.result = UnavailableError("no model `x`", ["download it"])
    assert main(["run", str(file), "--json"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert (data["error"], data["hints"], data["exit_code"]) == ("no model `x`", ["download it"], 3)


def test_a_traceback_on_request(file: Path, execute: Execute) -> None:
    execute.result = ZeroDivisionError("division by zero")
    with pytest.raises(ZeroDivisionError):
        main(["run", str(file), "--traceback"])


@pytest.mark.parametrize(
    "argv", [[], ["nope"], ["run"], ["run", "x", "--threads", "0"], ["check", "x", "--color", "red"]]
)
def test_argparse_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "verb", ["", "run", "check", "fmt", "plan", "show", "query", "export", "diff", "cache", "new", "env", "explain"]
)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*verb.split(), "--help"])
    assert caught.value.code == 0
    assert "example" in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert "language version 1" in capsys.readouterr().out
