"""Thousands of mutated save files: a clear error or a thing that can be used; no traceback, no hang, nothing written.

`FUZZ_SAVES` sets how many. Circuits, graphs, runs, matrices and stages of the cache are ours; those of MIB, EAP-IG,
Edge-Pruning and ACDC come from other tools.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsl.export import export
from dsl.export.edge_list import edge_list
from dsl.importing import read_circuit
from dsl.options import ShowOptions
from dsl.report import read_report
from dsl.running import folder as run_folder
from dsl.running.cache import Cache
from dsl.running.saved import show_path
from dsl.running.storing import read_numbers, write_numbers
from graphir.circuit import Circuit
from graphir.errors import GraphirError
from graphir.serial import load_graph, save_graph
from graphir.shrink import load_shrunk
from graphir.shrink.module import ShrunkModule
from graphir.task_vectors import TaskVector
from passes.analyze.distances.base import DistanceMatrix
from passes.analyze.tables import load_matrix, save_matrix
from tests.factories import scored, transformer
from tests.mutating import mutated, seal
from tests.reporting import small_circuit, small_manifest
from tests.test_importing import mib_tensors

SAVES = int(os.environ.get("FUZZ_SAVES", "5000"))
HANG = 2.0
GRAPH = transformer(2, 2)


@dataclass(frozen=True)
class Kind:
    """One sort of save file: how it is written to a folder, and what is done with one from a stranger. `manifest` is
    the file that lists the sums of the others; `share` is how many of a hundred files are of this kind."""

    write: Callable[[Path], Any]
    use: Callable[[Path], Any]
    share: int
    manifest: str = ""


def _circuit(folder: Path) -> Any:
    found = scored(GRAPH, 1)
    masks = {name: np.eye(*shape, dtype=bool) for name, shape in {"h.0.mlp.up.weight": (32, 8)}.items()}
    extra = {"constants": {"a0.h0": np.ones(8, np.float32)}, "example": {"ids": torch.arange(6).view(2, 3), "n": 3}}
    return found.with_(weights=masks, **extra).save(folder)


def _use_circuit(folder: Path) -> None:
    circuit = Circuit.load(folder)
    str(show_path(folder, ShowOptions()))
    str(circuit.graph)
    circuit.on_path()
    export(circuit, folder.parent / "out.csv", "csv")


def _run(folder: Path) -> None:
    circuit = small_circuit()
    circuit.save(folder / "circuits" / "found")
    head = {"format": run_folder.FORMAT, "version": run_folder.VERSION}
    (folder / "manifest.json").write_text(json.dumps(head | small_manifest(circuit) | {"files": []}))


def _use_run(folder: Path) -> None:
    (folder.parent / "out.html").write_text(read_report(folder).to_html(), encoding="utf-8")
    show_path(folder, ShowOptions())


def _matrix(folder: Path) -> None:
    values = np.array([[0.0, 1.0], [1.0, 0.0]])
    folder.mkdir()
    save_matrix(DistanceMatrix(("a", "b"), values, "cka", 8, values, values, "proven"), folder / "m.npz")


def _shrunk(folder: Path) -> None:
    graph = torch.fx.Graph()
    given, weight = graph.placeholder("x"), graph.get_attr("fc.weight")
    halves = graph.call_function(torch.ops.aten.linear.default, (given, weight), {"bias": None})
    halves = graph.call_function(torch.ops.aten.gelu.default, (halves,), {"approximate": "tanh"})
    graph.output((graph.call_function(torch.ops.aten.slice.Tensor, (halves, 0, 0, 2)),))
    ShrunkModule(graph, {"fc.weight": torch.eye(3)}, frozenset({"fc.weight"}), ("x",), ("y",)).save(folder)


def _vector(folder: Path) -> None:
    state = {"a": torch.zeros(3, 2), "b": torch.zeros(4, dtype=torch.bfloat16)}
    TaskVector({name: value + 1 for name, value in state.items()}, "ab" * 32, "v", ()).save(folder)


def _stage(folder: Path) -> None:
    Cache(folder).put("find", "ab" * 32, {"stage": "c", "inputs": {"n": 1}}, lambda new: write_numbers(new, [1.5]))


def _use_stage(folder: Path) -> None:
    found = Cache(folder).find("find", "ab" * 32)
    list(Cache(folder).entries("find"))
    if found is not None:
        read_numbers(found.folder)


def _foreign(name: str, write: Callable[[Path], Any]) -> tuple[Callable[[Path], Any], Callable[[Path], Any]]:
    def make(folder: Path) -> None:
        folder.mkdir()
        write(folder / name)

    def use(folder: Path) -> None:
        for form in (None, "mib", "mib_pt", "edge_pruning", "acdc"):  # whatever its user thinks that it is
            with contextlib.suppress(GraphirError) if form else contextlib.nullcontext():
                read_circuit(folder / name, GRAPH, form=form).on_path()

    return make, use


def _acdc() -> list[Any]:
    hook, none = "blocks.{}.hook_{}", [None]
    return [
        [hook.format(1, "q_input"), [None, None, 0], hook.format(0, "resid_pre"), none],
        [hook.format(1, "mlp_in"), none, "blocks.0.attn.hook_result", [None, None, 1]],
        [hook.format(1, "resid_post"), none, hook.format(1, "mlp_out"), none],
    ]


def _save_acdc(path: Path) -> None:
    torch.save({(a, tuple(b), c, tuple(d)): True for a, b, c, d in _acdc()}, path)


KINDS = {
    "circuit": Kind(_circuit, _use_circuit, 30, "circuit.json"),
    "graph": Kind(lambda folder: save_graph(GRAPH, folder), load_graph, 10, "graph.manifest.json"),
    "run": Kind(_run, _use_run, 10, "circuits/found/circuit.json"),
    "stage": Kind(_stage, _use_stage, 5),
    "matrix": Kind(_matrix, lambda folder: load_matrix(folder / "m.npz"), 5),
    "module": Kind(_shrunk, load_shrunk, 8),
    "task vector": Kind(_vector, TaskVector.load, 5, "task_vector.json"),
    "mib": Kind(*_foreign("c.json", lambda path: export(scored(GRAPH, 1), path, "mib")), 9),
    "mib tensors": Kind(*_foreign("c.pt", lambda path: torch.save(mib_tensors(scored(GRAPH, 1)), path)), 5),
    "edge-pruning": Kind(*_foreign("c.json", lambda path: path.write_text(json.dumps(edge_list(scored(GRAPH, 1))))), 5),
    "acdc": Kind(*_foreign("c.json", lambda path: path.write_text(json.dumps(_acdc()))), 5),
    "acdc tensors": Kind(*_foreign("c.pth", _save_acdc), 3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_save_files(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, chance = KINDS[kind], random.Random(f"saved {kind}")
    whole, folder = tmp_path / "whole", tmp_path / "place" / "saved"
    told.write(whole)
    told.use(whole)
    folder.parent.mkdir()
    monkeypatch.chdir(folder.parent)
    files = {path.relative_to(whole): path.read_bytes() for path in sorted(whole.rglob("*")) if path.is_file()}
    slowest, refused = 0.0, 0
    for index in range(-(-SAVES * told.share // 100)):
        _spoil(folder, files, told.manifest, chance)
        started = time.process_time()
        try:
            told.use(folder)
        except GraphirError:
            refused += 1
        except Exception as error:
            error.add_note(f"{kind}, number {index}, kept in {folder}")
            raise
        slowest = max(slowest, time.process_time() - started)
    assert slowest < HANG
    assert refused > 0
    shutil.rmtree(folder)
    assert {path.name for path in folder.parent.iterdir()} <= {"out.csv", "out.html"}
    assert {path.name for path in tmp_path.iterdir()} <= {"whole", "place", "out.csv", "out.html"}


def _spoil(folder: Path, files: dict[Path, bytes], manifest: str, chance: random.Random) -> None:
    """Write the files with one of them changed; mostly with sums that fit, so that what reads it has to find out."""
    shutil.rmtree(folder, ignore_errors=True)
    victim = chance.choice(list(files))
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(mutated(data, name.name, chance) if name == victim else data)
    if manifest and victim != Path(manifest) and chance.random() < 0.9:
        seal(folder / manifest)


def test_the_shares_make_the_whole() -> None:
    assert sum(kind.share for kind in KINDS.values()) == 100
