"""Which format a file has, and reading it: JSON or a file of tensors, never a pickle of objects."""

from __future__ import annotations

import importlib
import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphir.circuit import Circuit
from graphir.errors import DataError, SaveFormatError, UnknownNameError
from graphir.ir import Graph
from graphir.names import closest
from graphir.serial import MAX_JSON, read_bytes

MAX_TENSORS = 2 * 2**30
"""Bytes of the largest file of tensors that is read: a benchmark file of an 8B model has 17 MB."""

FORMATS: Mapping[str, str] = {
    "mib": "dsl.importing.mib:from_json",
    "mib_pt": "dsl.importing.mib:from_tensors",
    "edge_pruning": "dsl.importing.edge_pruning:from_json",
    "acdc": "dsl.importing.acdc:from_value",
}
"""Formats by name, each `module:function` called with the file's content, the graph and the path."""

DAMAGES = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError)
"""What comes of values of another type or size than a format has them."""

Reader = Callable[[Any, Graph, Path], Circuit]


def read_circuit(
    path: str | Path,
    graph: Graph,
    *,
    form: str | None = None,
    name: str = "",
    ablation: str | None = None,
) -> Circuit:
    """The circuit of another tool's file, on `graph`.

    `form` is one of `FORMATS`; told from the file where it is left out: MIB or EAP-IG JSON and `.pt`, lists of edges
    of Edge-Pruning (`edges.json`), subgraphs of ACDC (`.pth` of `save_subgraph`, or its tuples as JSON). `ablation` is
    what the circuit was found against; files do not say, and interchange is what these tools do by default.

    Errors: `SaveFormatError` (no such file, too large, neither JSON nor tensors, a pickle of objects), `DataError`
    (another schema), `ForeignNodesError` (nodes or edges that the graph lacks, all of them named, with suggestions).
    """
    path = Path(path)
    if form is not None and form not in FORMATS:
        raise UnknownNameError("circuit format", form, closest(form, FORMATS))
    value = _read_tensors(path) if path.suffix.lower() in (".pt", ".pth") else _read_json(path)
    chosen = form or _detect(value, path)
    module, _, function = FORMATS[chosen].partition(":")
    reader: Reader = getattr(importlib.import_module(module), function)
    try:
        circuit = reader(value, graph, path)
    except DAMAGES as error:
        raise DataError(f"{path} is not what the format `{chosen}` has: {error!r}") from None
    provenance = {"imported": {"format": chosen, "file": path.name}, **circuit.provenance, "model": graph.model_hash}
    provenance["imported"] = {"format": chosen, "file": path.name, **circuit.provenance.get("imported", {})}
    return circuit.with_(name=name or path.stem, provenance=provenance, ablation=ablation or circuit.ablation)


def _read_json(path: Path) -> Any:
    data = read_bytes(path, MAX_JSON)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SaveFormatError(f"{path} is not JSON, or is cut short: {error}") from None


def _read_tensors(path: Path) -> Any:
    """The tensors and plain values of a torch file; a file that holds anything else is refused, nothing in it runs."""
    import torch

    data = io.BytesIO(read_bytes(path, MAX_TENSORS))
    _check_unpacked(data, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a damaged file says, which is judged below
            return torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its unpickler raises: all sorts
        raise SaveFormatError(
            f"{path} holds more than tensors and plain values, or is damaged: {_first_line(error)}",
            [
                "objects in a pickle can run code and are never loaded",
                "save it again from its tool: `cfg` as a plain dict, or the edges as JSON",
            ],
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _check_unpacked(data: io.BytesIO, path: Path) -> None:
    """`SaveFormatError` for an archive that is small packed and large unpacked."""
    try:
        with zipfile.ZipFile(data) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OverflowError, struct.error):
        size = 0  # torch's older form, or damaged, which torch will say
    data.seek(0)
    if size > MAX_TENSORS:
        raise SaveFormatError(f"{path} unpacks to {size:,} bytes, more than the limit of {MAX_TENSORS:,}")


def _detect(value: Any, path: Path) -> str:
    if isinstance(value, Mapping) and {"cfg", "nodes", "edges"} <= set(value):
        return "mib"
    if isinstance(value, Mapping) and {"cfg", "edges_in_graph"} <= set(value):
        return "mib_pt"
    if isinstance(value, Mapping) and value and all(isinstance(key, tuple) and len(key) == 4 for key in value):
        return "acdc"
    if isinstance(value, list) and all(isinstance(item, list) for item in value):
        lengths = {len(item) for item in value}
        if lengths <= {2}:
            return "edge_pruning"
        if lengths <= {4, 5}:
            return "acdc"
    raise SaveFormatError(
        f"{path} is no circuit file of a tool that is known",
        [f"formats: {', '.join(FORMATS)}", "a circuit saved here is a folder: `Circuit.load(folder, model)`"],
    )
