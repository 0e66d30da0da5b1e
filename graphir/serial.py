"""Files: JSON and safetensors with a format, a version, checksums and size limits; written all or nothing; no pickle.

A saved thing is a folder with a manifest (a JSON file that names the format, its version, and size and SHA-256 of every
other file). The folder is made beside its place and moved there, so a reader sees the old one or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from graphir.errors import SaveFormatError
from graphir.granularity import Granularity
from graphir.ir import Graph, Node, NodeKind, Port, Source, WeightSet, WeightSlice

GRAPH_FORMAT = "graphir.graph"
GRAPH_VERSION = 1
MAX_JSON = 512 * 2**20
MAX_TENSORS = 16 * 2**30


# --- files ---------------------------------------------------------------------------------------------------------


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file all or nothing: beside its place first, then moved over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)  # mkstemp makes a file that only its owner reads
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def json_text(value: Any) -> str:
    """`value` as JSON, indented. `SaveFormatError` for a value JSON has no form for, not-a-number among them."""
    try:
        return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise SaveFormatError(f"cannot be written as JSON: {error}") from None


def read_bytes(path: Path, limit: int) -> bytes:
    """The file's content. `SaveFormatError` where `check_file` raises it, or when it cannot be read."""
    check_file(path, limit)
    try:
        return path.read_bytes()
    except OSError as error:
        raise SaveFormatError(f"{path} cannot be read: {error.strerror or error}") from None


def check_file(path: Path, limit: int) -> None:
    """`SaveFormatError` when the file is not there, no plain file (a pipe would keep its reader waiting) or larger than
    `limit` bytes."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # a name with a null in it is a `ValueError`
        raise SaveFormatError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(found.st_mode):
        raise SaveFormatError(f"{path} cannot be read: it is not a file")
    if found.st_size > limit:
        raise SaveFormatError(f"{path} has {found.st_size:,} bytes, more than the limit of {limit:,}")


def read_json(path: Path, limit: int = MAX_JSON) -> dict[str, Any]:
    """The JSON object in the file. `SaveFormatError` when there is none."""
    return parse_json(read_bytes(path, limit), path)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in `data`, which was read from `path`."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SaveFormatError(f"{path} is not JSON, or is cut short: {error}") from None
    if not isinstance(value, dict):
        raise SaveFormatError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value


def tensor_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The arrays as a safetensors file."""
    return save_tensors({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def parse_tensors(data: bytes, path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file. `SaveFormatError` when it is cut short or something else."""
    try:
        return dict(load_tensors(data))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise SaveFormatError(f"{path} is not a safetensors file, or is cut short: {error}") from None


# --- folders -------------------------------------------------------------------------------------------------------


def write_folder(folder: Path, manifest: str, head: Mapping[str, Any], files: Mapping[str, bytes]) -> Path:
    """Writes `files` and the manifest (`head` plus size and checksum of each file) to `folder`, all or nothing.

    An existing folder is replaced when it holds a manifest of that name, or nothing; else `SaveFormatError`.
    """
    if folder.exists() and not (folder / manifest).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise SaveFormatError(f"{folder} exists and holds something else", ["choose another folder, or empty this one"])
    sums = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _beside(folder) as new:
        for name, data in files.items():
            (new / name).write_bytes(data)
        (new / manifest).write_bytes(json_text({**head, "files": sums}).encode())
        if folder.exists():
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
            folder.replace(old / folder.name)
            try:
                new.replace(folder)
            except BaseException:
                (old / folder.name).replace(folder)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            new.replace(folder)
    return folder


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    holder = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.new."))
    try:
        new = holder / folder.name
        new.mkdir()
        yield new
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def read_folder(folder: Path, manifest: str, form: str, version: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the files of a saved folder, checked: format, version, sizes, checksums."""
    if not folder.is_dir():
        raise SaveFormatError(f"{folder} is not a folder", [f"a saved {form.rpartition('.')[2]} is a folder"])
    if not (folder / manifest).is_file():
        raise SaveFormatError(f"{folder} holds no {form.rpartition('.')[2]}: there is no `{manifest}` in it")
    head = read_json(folder / manifest)
    check_head(head, form, version, folder / manifest)
    files: dict[str, bytes] = {}
    sums = head.get("files")
    if not isinstance(sums, dict):
        raise SaveFormatError(f"{folder / manifest} does not list its files")
    for name, expected in sums.items():
        if Path(name).name != name or not isinstance(expected, dict):
            raise SaveFormatError(f"{folder / manifest} lists `{name}`, which is no file of the folder")
        data = read_bytes(folder / name, MAX_TENSORS)
        if len(data) != expected.get("bytes"):
            message = f"{folder / name} has {len(data):,} bytes where {expected.get('bytes')} were written"
            raise SaveFormatError(message, ["the copy was cut short; copy or save it again"])
        if hashlib.sha256(data).hexdigest() != expected.get("sha256"):
            raise SaveFormatError(f"{folder / name} was changed after it was written")
        files[name] = data
    return head, files


def check_head(head: Mapping[str, Any], form: str, version: int, path: Path) -> None:
    """`SaveFormatError` unless `head` says this format and version."""
    if head.get("format") != form:
        said = f"`{head['format']}`" if isinstance(head.get("format"), str) else "no format"
        raise SaveFormatError(f"{path} says {said}; expected `{form}`")
    if head.get("version") != version:
        newer = isinstance(head.get("version"), int) and head["version"] > version
        hints = ["it was written by a newer release; upgrade to read it"] if newer else []
        raise SaveFormatError(f"{path} has version {head.get('version')}; this release reads {version}", hints)


# --- graphs --------------------------------------------------------------------------------------------------------


def save_graph(graph: Graph, folder: str | Path) -> Path:
    """Writes `graph` (all but the traced model) to `folder`; see `write_folder`."""
    head = {"format": GRAPH_FORMAT, "version": GRAPH_VERSION, "name": graph.name, "model_hash": graph.model_hash}
    return write_folder(Path(folder), "graph.manifest.json", head, graph_files(graph))


def load_graph(folder: str | Path) -> Graph:
    """The graph saved in `folder`. `SaveFormatError` for a truncated, foreign or newer file."""
    _, files = read_folder(Path(folder), "graph.manifest.json", GRAPH_FORMAT, GRAPH_VERSION)
    return graph_from_files(files, Path(folder))


def graph_files(graph: Graph) -> dict[str, bytes]:
    """The files of a graph: `graph.json` (nodes, ports, weights) and `edges.safetensors` (index arrays)."""
    arrays = {"src": graph.edge_src.astype(np.int32), "dst": graph.edge_dst.astype(np.int32)}
    return {"graph.json": json_text(graph_to_json(graph)).encode(), "edges.safetensors": tensor_bytes(arrays)}


def graph_from_files(files: Mapping[str, bytes], folder: Path) -> Graph:
    """The inverse of `graph_files`; the graph is verified."""
    from graphir.verify import raise_if, verify

    if missing := {"graph.json", "edges.safetensors"} - set(files):
        raise SaveFormatError(f"{folder} lacks {', '.join(sorted(missing))}")
    value = parse_json(files["graph.json"], folder / "graph.json")
    arrays = parse_tensors(files["edges.safetensors"], folder / "edges.safetensors")
    try:
        graph = graph_from_json(value, arrays["src"], arrays["dst"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise SaveFormatError(f"{folder / 'graph.json'} does not describe a graph: {error!r}") from None
    raise_if(verify(graph))
    return graph


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """Everything but edges and the traced model as JSON values; parameters are listed once, with their shapes."""
    from graphir.text import common_shapes

    shapes = common_shapes(graph)
    places = {name: i for i, name in enumerate(shapes)}

    def weights(owned: WeightSet) -> list[Any]:
        return [[places[p.parameter], [None if s is None else [list(x) for x in s] for s in p.index]] for p in owned]

    return {
        "name": graph.name,
        "granularity": None if graph.granularity is None else str(graph.granularity),
        "model_hash": graph.model_hash,
        "notes": list(graph.notes),
        "equivalence": graph.equivalence,
        "symbols": {name: value if isinstance(value, int) else str(value) for name, value in graph.symbols.items()},
        "parameters": [[name, list(shape)] for name, shape in shapes.items()],
        "nodes": [
            {
                "name": n.name,
                "kind": n.kind.value,
                "ports": list(n.ports),
                "weights": weights(n.weights),
                "layer": n.layer,
                "members": list(n.members),
                "source": [n.source.module, n.source.location],
                "note": n.note,
            }
            for n in graph.nodes
        ],
        "ports": [
            {"name": p.name, "kind": p.kind, "nodes": list(p.nodes), "weights": weights(p.weights)} for p in graph.ports
        ],
        "rest": weights(graph.rest),
    }


def graph_from_json(value: Mapping[str, Any], src: np.ndarray, dst: np.ndarray) -> Graph:
    """The inverse of `graph_to_json`; `KeyError`, `TypeError` or `ValueError` for what it cannot have written."""
    from graphir.verify import bad_slice

    parameters = [(str(name), tuple(int(n) for n in shape)) for name, shape in value["parameters"]]

    def weights(parts: list[Any]) -> WeightSet:
        return WeightSet(tuple(part(int(at), index) for at, index in parts))

    def part(at: int, index: list[Any]) -> WeightSlice:
        name, shape = parameters[at]
        spans = tuple(None if s is None else tuple((int(a), int(b)) for a, b in s) for s in index)
        found = WeightSlice(name, spans, shape)
        if problem := bad_slice(found, shape):
            raise ValueError(f"{found}, {problem}")
        return found

    nodes = tuple(
        Node(
            str(n["name"]),
            NodeKind(n["kind"]),
            tuple(int(p) for p in n["ports"]),
            weights(n["weights"]),
            None if n["layer"] is None else int(n["layer"]),
            tuple(map(str, n["members"])),
            Source(*map(str, n["source"])),
            str(n["note"]),
        )
        for n in value["nodes"]
    )
    ports = tuple(
        Port(str(p["name"]), str(p["kind"]), tuple(int(n) for n in p["nodes"]), weights(p["weights"]))
        for p in value["ports"]
    )
    granularity = value["granularity"]
    return Graph(
        nodes,
        ports,
        src.astype(np.int32),
        dst.astype(np.int32),
        rest=weights(value["rest"]),
        name=str(value["name"]),
        granularity=None if granularity is None else Granularity.parse(granularity),
        model_hash=str(value["model_hash"]),
        notes=tuple(map(str, value["notes"])),
        equivalence=None if value["equivalence"] is None else float(value["equivalence"]),
        symbols=dict(value["symbols"]),
    )
