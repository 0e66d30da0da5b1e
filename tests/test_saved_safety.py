"""Saved files that were made to do harm: they run nothing, write nothing, keep nobody waiting, fill no memory."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsl.importing import read_circuit, reading
from graphir.circuit import Circuit
from graphir.errors import SaveFormatError
from graphir.shrink import load_shrunk
from graphir.shrink.module import ShrunkModule
from graphir.task_vectors import TaskVector
from passes.analyze import tables
from passes.analyze.distances.base import DistanceMatrix
from tests.factories import scored, transformer
from tests.mutating import seal

GRAPH = transformer(1, 2)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A saved module that doubles its input."""
    graph = torch.fx.Graph()
    doubled = graph.call_function(torch.ops.aten.mul.Tensor, (graph.placeholder("x"), 2))
    graph.output((graph.call_function(torch.ops.aten.gelu.default, (doubled,), {"approximate": "tanh"}),))
    return ShrunkModule(graph, {}, frozenset(), ("x",), ("y",)).save(tmp_path / "module")


def changed(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> Path:
    told = json.loads((folder / "graph.json").read_text())
    change(told["graph"])
    (folder / "graph.json").write_text(json.dumps(told))
    return folder


def test_the_name_of_an_argument_is_no_program(module: Path, tmp_path: Path) -> None:
    assert torch.equal(load_shrunk(module)(x=torch.zeros(2)), torch.zeros(2))
    evil = f"approximate='tanh', out=open({str(tmp_path / 'written')!r}, 'w') or None) #"
    with pytest.raises(SaveFormatError, match="is no argument of"):
        load_shrunk(changed(module, lambda graph: graph[2]["kwargs"].update({evil: 1})))
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("aten.save.default", "reads or writes a file"),
        ("aten.from_file.default", "reads or writes a file"),
        ("aten.__class__.__init__", "no operator that may be read"),
        ("aten.mul.__call__", "no operator that may be read"),
        ("os.system.default", "no operator that may be read"),
        ("aten.nothing.default", "can be read"),
    ],
)
def test_operators_that_touch_files_or_are_none(module: Path, target: str, message: str) -> None:
    with pytest.raises(SaveFormatError, match=message):
        load_shrunk(changed(module, lambda graph: graph[1].update(target=target)))


def test_names_of_nodes_and_inputs_are_no_program(module: Path, tmp_path: Path) -> None:
    place = tmp_path / "written"
    evil = f"x=open({str(place)!r}, 'w')"

    def rename(graph: list[dict[str, Any]]) -> None:
        graph[0].update(name=evil, target=evil)
        graph[1]["args"] = {"tuple": [{"node": evil}, 2]}

    load_shrunk(changed(module, rename))
    assert not place.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names here")
@pytest.mark.parametrize("victim", ["circuit.json", "masks.safetensors", "graph.json"])
def test_nobody_waits_for_a_pipe(tmp_path: Path, victim: str) -> None:
    folder = scored(GRAPH).save(tmp_path / "saved")
    (folder / victim).unlink()
    os.mkfifo(folder / victim)
    with pytest.raises(SaveFormatError):
        Circuit.load(folder)


def test_a_file_of_a_saved_circuit_is_in_its_folder(tmp_path: Path) -> None:
    folder = scored(GRAPH).save(tmp_path / "saved")
    (tmp_path / "secret").write_text("x")
    head = json.loads((folder / "circuit.json").read_text())
    for name in ("../secret", str(tmp_path / "secret"), "a/b", ""):
        (folder / "circuit.json").write_text(json.dumps({**head, "files": {name: {"bytes": 1, "sha256": ""}}}))
        with pytest.raises(SaveFormatError):
            Circuit.load(folder)


def matrix(path: Path) -> Path:
    values = np.zeros((2, 2))
    tables.save_matrix(DistanceMatrix(("a", "b"), values, "cka", 8), path)
    return path


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = matrix(tmp_path / "m.npz")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("details.zeros.npy", bytes(10**6))
    monkeypatch.setattr(tables, "MAX_BYTES", 10**5)
    assert path.stat().st_size < 10**5
    with pytest.raises(SaveFormatError, match="unpacks to 1,"):
        tables.load_matrix(path)


def test_an_array_that_is_smaller_than_it_says(tmp_path: Path) -> None:
    path, content = matrix(tmp_path / "m.npz"), io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**3)})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("details.huge.npy", content.getvalue())
    with pytest.raises(SaveFormatError, match="not as large as its header says"):
        tables.load_matrix(path)


def test_a_file_of_tensors_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10**6))
    monkeypatch.setattr(reading, "MAX_TENSORS", 10**5)
    with pytest.raises(SaveFormatError, match="unpacks to 1,000,000 bytes"):
        read_circuit(path, GRAPH)


def test_a_task_vector_that_asks_for_more_memory_than_any_model(tmp_path: Path) -> None:
    folder = TaskVector({"a": torch.ones(3, 2)}).save(tmp_path / "vector")
    manifest = folder / "task_vector.json"
    head = json.loads(manifest.read_text())
    for shape in ([10**12], [10**6, 10**6], [-1], [2.5]):
        manifest.write_text(json.dumps(head | {"parts": [["a", shape, "float32"]]}))
        seal(manifest)
        with pytest.raises(SaveFormatError, match="does not describe a task vector"):
            TaskVector.load(folder)
