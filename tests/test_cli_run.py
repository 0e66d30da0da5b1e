"""`circ run` from outside: exit codes, streams, what is left after an interruption; and the saved run afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dsl.cli import main
from dsl.running.keys import code_digest
from graphir.circuit import Circuit
from tests.running import HEAD, KNOWN, LEARNED, RANKED, trace_once

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "examples" / "quickstart.circ"
# A shell that starts processes in the background makes them ignore Ctrl-C, and pytest may run in one.
ENTRY = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from dsl.cli import main; sys.exit(main())"
)


def start(*arguments: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", ENTRY, *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def circ(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    process = start(*arguments, cwd=cwd, **variables)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def write(folder: Path, text: str) -> str:
    path = folder / "toy.circ"
    path.write_text(text)
    return str(path)


# From outside


def test_the_quickstart_ends_with_a_table_a_drawing_and_its_checks_passed(tmp_path: Path) -> None:
    done = circ("run", str(QUICKSTART), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "quickstart").iterdir()
    assert (folder / "found.svg").read_text().rstrip().endswith("</svg>")
    assert {str(edge) for edge in Circuit.load(folder / "found").kept_edges()} == KNOWN
    assert "all 6 conditions hold" in done.stdout
    assert "graph g: 11 nodes, 106 edges, 0 opaque; max |Δoutput| to the model" in done.stdout
    for line in ("model         106  100.00%          0         1", "found           5    4.72%", "empty           0"):
        assert line in done.stdout
    assert f"run in {folder.relative_to(tmp_path)}" in done.stdout
    # Progress goes to the standard error, as lines since this is no terminal.
    assert "found (seed 1): edge-pruning: 200 steps …" in done.stderr
    assert "edge-pruning" not in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_ctrl_c_keeps_the_circuit_so_far(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + LEARNED.replace("STEPS", "1000000"))
    process = start("run", path, "--out", "out", "--events", "events.jsonl", cwd=tmp_path)
    events = tmp_path / "events.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if events.exists() and '"done": 5,' in events.read_text():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    lines = [line for line in err.splitlines() if "interrupted" in line]
    assert len(lines) == 1
    assert f"interrupted while running edge_pruning ({path}:9) at step " in lines[0]
    assert lines[0].endswith("the circuit so far is in out/circuits/found")
    assert "Traceback" not in out + err
    circuit = Circuit.load(tmp_path / "out" / "circuits" / "found")
    assert circuit.provenance["interrupted"] >= 5
    assert circuit.edges.sum() <= 5
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["events.jsonl", "out", "runs", "toy.circ"]
    assert [each.name for each in (tmp_path / "runs").iterdir()] == [".cache"]
    assert "  help: the same command goes on from here" in err


def test_ctrl_c_before_there_is_anything(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + RANKED)
    process = start("run", path, "--events", "events.jsonl", cwd=tmp_path)
    events = tmp_path / "events.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not events.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted; nothing was written" in err
    assert "Traceback" not in err


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    text = HEAD.replace('builtin "induction"\ngraph', 'hf "nobody/no-such-model"\ngraph') + RANKED
    done = circ("run", write(tmp_path, text), cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "cache"))
    assert done.returncode == 3
    assert "model `nobody/no-such-model` is not in the cache" in done.stderr
    assert "  while loading `toy` (" in done.stderr
    assert not (tmp_path / "runs" / "toy").exists() or not list((tmp_path / "runs" / "toy").iterdir())


@pytest.mark.parametrize("example", ["quickstart", "ioi"])
def test_planning_needs_neither_torch_nor_weights(example: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf") if example == "ioi" else None
    code = (
        "import sys; from dsl.cli import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "plan", str(ROOT / "examples" / f"{example}.circ")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    if "no installed Python package" in done.stderr:
        pytest.skip("the model's package is not installed")
    assert done.returncode == 0, done.stderr
    assert "total" in done.stdout
    assert not list(tmp_path.iterdir())


# In this process


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the model traced once for all tests."""
    trace_once(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_failed_check_exits_with_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(here, HEAD + RANKED + "check found { accuracy >= 99%  edges <= 4 }\n")
    assert main(["run", path]) == 1
    captured = capsys.readouterr()
    assert "1 of 2 conditions failed" in captured.out
    assert f"error: check of `found` failed: edges <= 4 (edges is 5)\n  --> {path}:10:32" in captured.err


def test_quiet_shows_nothing_but_failures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-q", write(here, HEAD + RANKED)]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["run", "-q", write(here, HEAD + RANKED + "check found { edges <= 4 }\n")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: check of `found` failed")


def test_json_is_one_document(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = HEAD + RANKED + "measure found at edges 5, 2\ncheck found { edges <= 4  kl <= 0.1 }\n"
    text += "query all = nodes of found\n"
    assert main(["run", write(here, text), "--json", "--out", "o"]) == 1
    data = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert (data["passed"], data["status"], data["folder"]) == (False, "checks failed", "o")
    assert [check["passed"] for check in data["checks"]] == [False, True]
    assert [point["edges"] for point in data["curves"][0]["points"]] == [5, 2]
    assert data["queries"]["all"]["count"] == 4
    saved = json.loads((here / "o" / "manifest.json").read_text())
    assert {key: saved[key] for key in ("checks", "circuits", "curves")} == {
        key: data[key] for key in ("checks", "circuits", "curves")
    }


def test_events_are_json_lines(here: Path) -> None:
    assert main(["run", "-q", write(here, HEAD + RANKED), "--events", "e.jsonl", "--out", "o"]) == 0
    events = [json.loads(line) for line in (here / "e.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events if event.get("stage") == "found: eap-ig"] == ["begin", "step", "end"]
    assert [e["seconds"] for e in events] == sorted(e["seconds"] for e in events)
    assert (here / "o" / "events.jsonl").read_text() == (here / "e.jsonl").read_text()


def test_events_that_cannot_be_written_are_wrong_usage(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", write(here, HEAD + RANKED), "--events", "none/e.jsonl"]) == 2
    assert "`none/e.jsonl`: no such file or directory" in capsys.readouterr().err
    assert not list((here / "runs").glob("*/*"))


def test_a_logisim_file_is_recognised(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logisim = '<?xml version="1.0"?>\n<project source="2.7.1" version="1.0">\n<circuit name="main"/></project>\n'
    for verb in ("run", "plan", "check"):
        assert main([verb, write(here, logisim)]) == 1
        captured = capsys.readouterr()
        assert "is a Logisim circuit, not a specification" in captured.out + captured.err


def test_errors_name_the_line_of_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(here, HEAD + RANKED.replace("top 5", "top 0.01%"))
    assert main(["run", path]) == 1
    err = capsys.readouterr().err
    assert "error: a density of 0.0100% of 106 leaves nothing to keep" in err
    assert f"  while checking what `found` asks of `g` ({path}:9)" in err
    assert main(["run", path, "--json"]) == 1
    assert "while checking what" in json.loads(capsys.readouterr().out)["error"]


def test_a_python_model_runs_when_allowed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "brought_along.py").write_text(
        "from dsl.builtin import build_builtin\n\n\ndef make():\n    return build_builtin('induction')\n"
    )
    text = HEAD.replace('builtin "induction"\ngraph', 'python "brought_along:make"\ngraph')
    path = write(here, text + RANKED + "check found { accuracy == 1 }\n")
    assert main(["run", path]) == 1
    assert "error[C602]" in capsys.readouterr().err
    assert main(["run", path, "--allow-code", "-q"]) == 0


# What was saved


@pytest.fixture
def saved(here: Path) -> str:
    text = HEAD + RANKED + "circuit small = discover g for pairs with eap top 3\n"
    assert main(["run", "-q", write(here, text), "--out", "runs/both"]) == 0
    return "runs/both/circuits/found"


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_show_of_circuits_runs_and_nodes(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", saved, "--top", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("circuit found of AttentionOnlyModel, by eap_ig, interchange ablation\n")
    assert "edges      5  106    4.72%" in out
    assert "strongest 2 of 5 edges" in out
    assert main(["show", "runs/both"]) == 0
    assert capsys.readouterr().out.splitlines()[3].split()[:3] == ["found", "eap_ig", "5"]
    assert main(["show", "runs", "--node", "a0.h0"]) == 1  # two circuits: which?
    assert "name one: runs/both/circuits/found or runs/both/circuits/small" in capsys.readouterr().err
    assert main(["show", saved, "--node", "a0.h0"]) == 0
    out = capsys.readouterr().out
    assert "blocks.0.attention.out" in out
    assert "reads v      1: embed" in out
    assert "in the circuit" in out
    data = answer(capsys, "show", saved, "--node", "a0.h1")
    assert (data["kept"], data["aliases"]["auto-circuit"]) == (False, "A0.1")
    assert answer(capsys, "show", saved)["strongest"][0]["edge"] == "a1.h2 -> logits.in"
    assert main(["show", saved, "--node", "a0.h9"]) == 1
    assert "no node named `a0.h9`" in capsys.readouterr().err


def test_show_in_the_names_of_another_tool(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = answer(capsys, "show", saved, "--names", "transformerlens", "--top", "1")
    assert data["strongest"][0]["edge"] == "blocks.1.attn.hook_result[:, :, 2] -> unembed.hook_in"


def test_show_of_a_specification_traces_its_graphs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(here, HEAD)
    assert main(["show", path]) == 0
    out = capsys.readouterr().out
    assert "graph g: 11 nodes, 106 edges, 0 opaque" in out
    assert out.splitlines()[-1].split() == ["1", "4", "72", "16,384"]
    assert answer(capsys, "show", path)["graphs"]["g"]["kinds"] == {"embed": 2, "head": 8, "output": 1}
    assert answer(capsys, "show", path, "--node", "a1.h2")["reads"]["a1.h2.q"][:2] == ["embed", "pos"]


def test_query_of_a_saved_circuit(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = answer(capsys, "query", saved, "heads where layer >= 1")
    assert [row["name"] for row in data["rows"]] == ["a1.h2"]
    assert main(["query", saved, "paths from embed to logits through a1.h*.k"]) == 0
    assert "embed -> a0.h0.v -> a1.h2.k -> logits" in capsys.readouterr().out


def test_export_of_a_saved_circuit(saved: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = answer(capsys, "export", saved, "x.csv", "x.dot", "copy/", "--top", "2")
    assert [each["path"] for each in data["written"]] == ["x.csv", "x.dot", "copy"]
    rows = [line for line in (here / "x.csv").read_text().splitlines() if line.endswith(",1")]
    assert [row.split(",")[0:2] for row in rows] == [["embed", "a1.h2.v"], ["a1.h2", "logits.in"]]
    assert len(Circuit.load(here / "copy").kept_edges()) == 2
    assert main(["export", saved, "names.csv", "--names", "transformerlens"]) == 0
    assert "hook_embed" in (here / "names.csv").read_text()
    assert main(["export", saved, "x.json", "--as", "mib", "--names", "transformerlens"]) == 1
    assert "has names of its own" in capsys.readouterr().err
    assert not (here / "x.json").exists()


def test_diff_of_circuits_and_runs(saved: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", saved, saved]) == 0
    assert "no differences" in capsys.readouterr().out
    small = "runs/both/circuits/small"
    data = answer(capsys, "diff", saved, small, code=1)
    assert data["circuits"]["found"]["edges"]["shared"] == 2
    assert main(["diff", saved, small, "--top", "1"]) == 1
    out = capsys.readouterr().out
    assert "- embed -> a0.h0.v" in out
    assert "- … and 2 more" in out
    shared = data["circuits"]["found"]["overlap"]["edges"]
    assert (shared["shared"], shared["sizes"][0]) == (2, 5)
    kinds = {name: each for name, each in shared["by_kind"].items() if each["union"]}
    lines = [line.split() for line in out.splitlines() if line.startswith("  edges of ")]
    assert {line[2]: line[3] for line in lines[: len(kinds)]} == {n: str(each["shared"]) for n, each in kinds.items()}
    layers = {name: each for name, each in shared["by_layer"].items() if each["union"]}
    found = {line[3 if line[2] == "layer" else 2]: line[4] for line in lines[len(kinds) :]}
    assert found == {("no" if n == "-" else n): str(each["shared"]) for n, each in layers.items()}
    assert main(["run", "-q", write(here, HEAD + RANKED), "--out", "runs/one"]) == 0
    data = answer(capsys, "diff", "runs/both", "runs/one", code=1)
    assert (list(data["circuits"]), data["missing"]) == (["found"], {"small": "runs/both"})


def test_diff_of_runs_tells_settings_metrics_checks_and_the_files(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-q", write(here, HEAD + RANKED + "check found { edges <= 5 }\n"), "--out", "runs/a"]) == 0
    assert main(["run", "-q", "toy.circ", "--out", "runs/b", "--no-cache"]) == 0
    assert main(["diff", "runs/a", "runs/b"]) == 0
    assert "the same was found and measured, bit for bit\n\nno differences" in capsys.readouterr().out
    text = HEAD + RANKED.replace("top 5", "top 6") + "check found { edges <= 5 }\n"
    assert main(["run", "-q", write(here, text), "--out", "runs/c", "--set", "pairs.n=40", "--threads", "2"]) in (0, 1)
    data = answer(capsys, "diff", "runs/a", "runs/c", code=1)["runs"]
    assert data["identical"] is False
    assert data["settings"]["overrides"] == [[], ["pairs.n=40"]]
    assert data["settings"]["determinism.threads"] == [1, 2]
    assert "tasks.pairs.identity" in data["settings"]
    assert "-circuit found = discover g for pairs with eap_ig { steps: 2  examples: 8 } top 5\n" in data["spec"]
    assert any(name.startswith("found.") for name in data["metrics"])
    assert main(["diff", "runs/a", "runs/c"]) == 1
    assert "determinism.threads" in capsys.readouterr().out


def test_where_the_cache_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(here, HEAD + RANKED)
    assert main(["run", "-q", path, "--cache", "kept"]) == 0
    assert sorted(each.name for each in here.iterdir()) == ["kept", "runs", "toy.circ"]
    assert not (here / "runs" / ".cache").exists()
    assert main(["run", path, "--cache", "kept"]) == 0
    captured = capsys.readouterr()
    assert "(4 of 4 stages from the cache)" in captured.out
    assert "found: from the cache" in captured.err
    plan = answer(capsys, "plan", path, "--cache", "kept")
    assert {each["state"] for each in plan["cache"]} == {"cached"}
    assert {each["state"] for each in answer(capsys, "plan", path, "--no-cache")["cache"]} == {"off"}
    with pytest.raises(SystemExit):
        main(["run", path, "--cache", "kept", "--no-cache"])
    # A limit removes nothing that the run itself has used; afterwards nobody uses it.
    assert main(["run", "-q", path, "--cache", "kept", "--cache-limit", "0"]) == 0
    assert {each["state"] for each in answer(capsys, "plan", path, "--cache", "kept")["cache"]} == {"cached"}
    assert main(["cache", "--cache", "kept", "--limit", "0"]) == 0
    assert "cached" not in {each["state"] for each in answer(capsys, "plan", path, "--cache", "kept")["cache"]}


def test_a_run_from_the_cache_needs_no_torch(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code_digest.cache_clear()  # sources may have been edited since these tests started
    path = write(here, HEAD + RANKED + 'export found to "found.csv"\n')
    assert main(["run", "-q", path, "--threads", "1"]) == 0
    code = (
        "import sys; from dsl.cli import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "run", path, "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "stages from the cache)" in done.stdout


def test_the_latest_of_several_runs_is_meant_by_the_folder_above(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-q", write(here, HEAD + RANKED)]) == 0
    assert main(["run", "-q", write(here, HEAD + RANKED.replace("top 5", "top 7"))]) == 0
    latest = max((here / "runs" / "toy").iterdir(), key=lambda run: (run / "manifest.json").stat().st_mtime_ns)
    assert len(list((here / "runs" / "toy").iterdir())) == 2
    mine = answer(capsys, "show", "runs/toy")["counts"]
    assert mine == answer(capsys, "show", str(latest))["counts"]


@pytest.mark.parametrize("verb", [["show"], ["query"], ["export"], ["diff"]])
def test_a_folder_that_holds_no_run(verb: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "empty").mkdir()
    more = {"query": ["heads"], "export": ["a.csv"], "diff": ["empty"]}.get(verb[0], [])
    assert main([*verb, "empty", *more]) == 1
    assert "empty is neither a run nor a saved circuit" in capsys.readouterr().err


def test_a_truncated_circuit_is_said_to_be_so(saved: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = here / saved / "masks.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    assert main(["show", saved]) == 1
    assert "the copy was cut short" in capsys.readouterr().err
