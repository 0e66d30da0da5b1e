"""Where a node stands in the source is told from its package on: nothing that leaves says where files are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsl.export.registry import export
from graphir.circuit import Circuit
from graphir.tracing.naming import importable_path
from tests import zoo

ROOT = Path(__file__).resolve().parents[1]


def test_a_module_goes_by_its_package(tmp_path: Path) -> None:
    folder = tmp_path / "lib" / "models" / "small"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    (folder / "blocks.py").touch()
    assert importable_path(str(folder / "blocks.py")) == "models/small/blocks.py"


def test_a_script_goes_by_its_name(tmp_path: Path) -> None:
    assert importable_path(str(tmp_path / "train.py")) == "train.py"
    assert importable_path("<string>") == "<string>"


@pytest.mark.parametrize("suffix", ["dot", "svg", "json", "graphml", "csv", "folder"])
def test_no_export_names_a_folder_of_this_machine(suffix: str, tmp_path: Path) -> None:
    import transformers

    graph = zoo.traced("llama")[1]
    circuit = Circuit.full(graph)
    place = tmp_path / ("saved" if suffix == "folder" else f"circuit.{suffix}")
    circuit.save(place) if suffix == "folder" else export(circuit, place)
    files = [file for file in ([place] if place.is_file() else place.rglob("*")) if file.suffix != ".safetensors"]
    texts = [file.read_text() for file in files]
    kept = {str(Path(transformers.__file__).parents[1]), str(Path.home()), str(ROOT)}
    assert texts
    assert not any(folder in text for text in texts for folder in kept)
    if suffix in ("dot", "svg", "folder"):
        assert any("transformers/models/llama/modeling_llama.py:" in text for text in texts)


def test_the_text_form_names_no_folder_of_this_machine() -> None:
    text = str(zoo.traced("llama")[1])
    assert " transformers/models/llama/modeling_llama.py:" in text
    assert "site-packages" not in text
