"""Reports and evidence in runs of the built-in model: what a file asks for is measured, kept, checked and written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsl.cli import main
from dsl.report import Report, read_report
from dsl.running.folder import read_run
from dsl.running.gathering import put_together
from tests.running import HEAD, LEARNED, RANKED, run_text, trace_once

QUICK = LEARNED.replace("STEPS", "20")
EVIDENCE = "evidence found { seeds: 2  controls: random_circuit  budget: 12  samples: 3 }\n"
CHECK = "check found { minimality >= 0  incompleteness <= 100  control(random_circuit) <= 1  cmd <= 2  auroc >= 0 }\n"
TESTS = {"faithfulness", "roc", "completeness", "minimality", "stability", "controls"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with everything in it; its cache is beside it."""
    folder = tmp_path_factory.mktemp("run")
    report = 'query heads = heads of found\nreport "r.html", "r.md", "r.json"\nreport found to "found.md"\n'
    with pytest.MonkeyPatch.context() as patch:
        trace_once(patch)
        run_text(HEAD + QUICK + EVIDENCE + CHECK + report, folder, cache=folder / "cache")
    return folder / "out"


def lasting(report: Report | dict[str, Any]) -> list[Any]:
    """The sections of a report that are the same after the run."""
    data = report if isinstance(report, dict) else report.to_json()
    return [each for each in data["sections"] if each["key"] not in ("provenance", "files")]


# --- reports


def test_a_run_writes_its_reports_and_says_so(ran: Path) -> None:
    manifest = read_run(ran)
    assert {Path(each).name for each in manifest["exports"]} == {"r.html", "r.md", "r.json", "found.md"}
    assert {"r.html", "r.md", "r.json", "found.md"} <= set(manifest["files"])
    assert (ran / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert (ran / "found.md").read_text().startswith("# Report of toy.circ: found\n")


def test_a_report_made_afterwards_says_the_same(ran: Path) -> None:
    assert lasting(read_report(ran)) == lasting(json.loads((ran / "r.json").read_text()))


def test_the_result_in_a_notebook_has_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)
    result = run_text(HEAD + RANKED, tmp_path)
    assert lasting(result.report()) == lasting(read_report(tmp_path / "out"))
    assert "<iframe sandbox" in result.report("found")._repr_html_()


def test_the_verb_writes_or_prints(ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, text = tmp_path / "x.html", tmp_path / "x.MD"
    assert main(["report", str(ran), "--to", str(page), "--to", str(text), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": [str(page), str(text)]}
    assert main(["report", str(ran)]) == 0
    assert capsys.readouterr().out == text.read_text()
    assert main(["report", str(ran), "--circuit", "found", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Report of toy.circ: found"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["RUN", "--to", "x.pdf"], 2, "a report cannot be written as `.pdf`"),
        (["RUN", "--circuit", "fond"], 1, "did you mean `found`?"),
        (["nowhere"], 2, "there is no `nowhere`"),
        (["RUN/circuits"], 1, "neither a run nor a saved circuit"),
    ],
)
def test_the_verb_says_what_is_wrong(
    ran: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert main(["report", *(each.replace("RUN", str(ran)) for each in arguments)]) == code
    assert said in capsys.readouterr().err


def test_a_report_of_a_run_needs_no_torch(ran: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from dsl.report import *\n"
        "write_report(read_report(sys.argv[1]), Path(sys.argv[2]))\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, ran, tmp_path / "x.html"], check=True)


# --- evidence


def test_all_that_was_asked_for_is_measured(ran: Path) -> None:
    evidence = read_run(ran)["evidence"]["found"]
    assert {name for name in TESTS if evidence[name]} == TESTS
    assert evidence["missing"] == {}
    assert (evidence["split"], evidence["flagged"]) == ("test", False)
    assert evidence["stability"]["seeds"] == [0, 1]
    assert len(evidence["controls"]["random"]["values"]) == 3
    assert {"jsd", "kendall_tau"} <= set(evidence["metrics"])


def test_checks_read_the_evidence(ran: Path) -> None:
    evidence, checks = read_run(ran)["evidence"]["found"], read_run(ran)["checks"]
    values = {name: value for each in checks for name, value in each["values"].items()}
    assert values == {
        "minimality": evidence["minimality"]["smallest"]["score"],
        "incompleteness": evidence["completeness"]["worst"]["incompleteness"],
        "control(random_circuit)": evidence["controls"]["random"]["p_value"],
        "cmd": evidence["faithfulness"]["cmd"],
        "auroc": evidence["roc"]["auroc"],
    }


def test_more_of_one_test_repeats_no_other(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)
    text = HEAD + QUICK + EVIDENCE.replace("samples: 3", "samples: 4")
    result = run_text(text, ran.parent, out="again", cache=ran.parent / "cache")
    fresh = {each["name"] for each in result.manifest["stages"] if not each["cached"]}
    assert fresh == {"evidence of found: controls"}
    before, after = read_run(ran)["evidence"]["found"], result.manifest["evidence"]["found"]
    assert {name for name in after if after[name] != before[name]} == {"controls"}


def test_equal_circuits_share_evidence_under_their_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)
    only = " { curve: false  minimality: false  completeness: false  controls: random_circuit  samples: 1 }\n"
    text = HEAD + RANKED + RANKED.replace("found", "twin") + "circuit both = found | twin\n"
    text += f"evidence found{only}evidence twin{only}evidence both{only}"
    result = run_text(text, tmp_path, cache=tmp_path / "cache")
    evidence = dict(result.manifest["evidence"])
    composed = evidence.pop("both")
    assert {name for name in TESTS if composed.get(name)} == {"controls"}
    assert composed["missing"] == {"stability": "no seed decides what is found: there is nothing to compare"}
    assert [each["circuit"] for each in evidence.values()] == ["found", "twin"]
    assert "evidence for twin: 12 held-out examples (test)" in str(result)
    for each in evidence.values():
        assert {name for name in TESTS if each.get(name)} == {"controls", "stability"}
        assert each["missing"] == {}
        assert each["stability"]["seeds"] == [0, 1, 2]  # the seed says which examples a score is of


def test_evidence_says_why_it_has_no_number() -> None:
    gathered = put_together("found", {"metrics": {"missing": {"roc": "no true edges"}}}, {})
    assert gathered.value("auroc") is None
    assert gathered.reasons("curve") == ["roc: no true edges"]
    assert gathered.reasons("controls") == ["see `controls` in `evidence found { … }`"]


def test_the_method_is_tried_on_random_weights_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)
    only = "evidence found { curve: false  minimality: false  completeness: false  controls: random_model }\n"
    gate = "check found { control(random_model) <= 1 }\n"
    result = run_text(HEAD + RANKED + only + gate, tmp_path)
    controls = result.manifest["evidence"]["found"]["controls"]
    assert controls["random_weights"]["found"] is True
    assert controls["random"]["values"] == []
    assert result.passed
