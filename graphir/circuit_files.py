"""A circuit on disk: a folder with `circuit.json` (the manifest), the graph, the masks and scores, the example inputs.

    circuit.json          format, version, name, ablation, metrics, provenance; size and checksum of the others
    graph.json, edges.safetensors     the graph (see `serial`)
    masks.safetensors     edges, nodes (bool); scores.edges, scores.nodes; weights.N (keep masks, packed eight a byte);
                          constants.N (learned ablation values)
    example.safetensors   the tensors the model was traced with, so that it can be traced again

torch is imported only to give the example's tensors back, or to trace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphir.circuit import Circuit
from graphir.diff import graph_differences
from graphir.errors import GraphirError, ModelMismatchError, SaveFormatError
from graphir.ir import Graph
from graphir.serial import graph_files, graph_from_files, parse_tensors, read_folder, tensor_bytes, write_folder

if TYPE_CHECKING:
    import torch

FORMAT = "graphir.circuit"
VERSION = 1
MANIFEST = "circuit.json"


def save_circuit(circuit: Circuit, folder: Path) -> Path:
    """See `Circuit.save`."""
    files = graph_files(circuit.graph)
    arrays, weights = _arrays(circuit)
    arrays |= {f"constants.{place}": np.asarray(value) for place, value in enumerate(circuit.constants.values())}
    files["masks.safetensors"] = tensor_bytes(arrays)
    example = circuit.example if circuit.graph.lifted is None else getattr(circuit.graph.lifted, "example", None)
    head: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": circuit.name,
        "ablation": circuit.ablation,
        "model_hash": circuit.graph.model_hash,
        "counts": circuit.counts(),
        "metrics": {name: _number_out(value) for name, value in circuit.metrics.items()},
        "weights": weights,
        "constants": list(circuit.constants),
        "provenance": dict(circuit.provenance),
    }
    if example is not None:
        head["example"], tensors = _example_out(example)
        files["example.safetensors"] = tensor_bytes(tensors)
    return write_folder(folder, MANIFEST, head, files)


def load_circuit(folder: Path, model: torch.nn.Module | None) -> Circuit:
    """See `Circuit.load`."""
    head, files = read_folder(folder, MANIFEST, FORMAT, VERSION)
    graph = graph_from_files(files, folder)
    if "masks.safetensors" not in files:
        raise SaveFormatError(f"{folder} lacks masks.safetensors")
    arrays = parse_tensors(files["masks.safetensors"], folder / "masks.safetensors")
    try:
        example = _example_in(head["example"], files, folder) if "example" in head else None
        fields: dict[str, Any] = {
            "edges": _bool(arrays["edges"]),
            "nodes": _bool(arrays["nodes"]),
            "scores": {
                name: _real(arrays[f"scores.{name}"])
                for name in ("edges", "nodes", "neurons")
                if f"scores.{name}" in arrays
            },
            "metrics": {str(name): float(value) for name, value in head["metrics"].items()},
            "provenance": dict(head["provenance"]),
            "ablation": str(head["ablation"]),
            "name": str(head["name"]),
            "weights": {
                str(name): _unpack(arrays[f"weights.{i}"], tuple(shape))
                for i, (name, shape) in enumerate(head["weights"])
            },
            "constants": {str(name): arrays[f"constants.{i}"] for i, name in enumerate(head.get("constants", ()))},
        }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise SaveFormatError(f"{folder / MANIFEST} does not describe a circuit: {error!r}") from None
    try:
        circuit = Circuit(graph, example=example, **fields)
    except SaveFormatError:
        raise
    except GraphirError as error:
        raise SaveFormatError(f"{folder} does not hold together: {error.message}") from None
    return circuit if model is None else _on_model(circuit, model)


def _arrays(circuit: Circuit) -> tuple[dict[str, np.ndarray], list[Any]]:
    arrays: dict[str, np.ndarray] = {"edges": circuit.edges, "nodes": circuit.nodes}
    arrays |= {f"scores.{name}": np.asarray(scores) for name, scores in circuit.scores.items()}
    weights = []
    for place, (name, mask) in enumerate(circuit.weights.items()):
        arrays[f"weights.{place}"] = np.packbits(np.asarray(mask, bool))
        weights.append([name, list(np.shape(mask))])
    return arrays, weights


def _bool(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.bool_:
        raise TypeError(f"a mask of {array.dtype}")
    return array


def _real(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise TypeError(f"scores of {array.dtype}")
    return array


def _unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    count = math.prod(shape)
    if bits.dtype != np.uint8 or len(bits) != (count + 7) // 8:
        raise ValueError(f"{len(bits)} bytes for {count} weights")
    return np.unpackbits(bits, count=count).astype(bool).reshape(shape)


def _number_out(value: float) -> float | str:
    """JSON has no not-a-number and no infinity; `float` reads their names back."""
    number = float(value)
    return number if math.isfinite(number) else repr(number)


# --- the example ---------------------------------------------------------------------------------------------------


def _example_out(example: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """How the example is made up (JSON), and its tensors. Values that are no tensors must be JSON values."""
    mapping = isinstance(example, Mapping)
    items = [(str(key), value) for key, value in (example.items() if mapping else enumerate(example))]
    parts, tensors = [], {}
    for place, (key, value) in enumerate(items):
        if hasattr(value, "detach") or isinstance(value, np.ndarray):
            array, dtype = _tensor_out(value)
            tensors[f"{place}"] = array
            parts.append([key, {"tensor": dtype}])
        else:
            parts.append([key, {"value": value}])
    return {"mapping": mapping, "parts": parts}, tensors


def _tensor_out(value: Any) -> tuple[np.ndarray, str]:
    if isinstance(value, np.ndarray):
        return value, "numpy"
    if isinstance(value, _Stored):  # as it was saved, without torch
        return value.array, value.dtype
    tensor, dtype = value.detach().cpu(), str(value.dtype).removeprefix("torch.")
    if dtype == "bfloat16":  # numpy has none; float32 holds each value exactly
        tensor = tensor.float()
    return tensor.contiguous().numpy(), dtype


def _example_in(described: Mapping[str, Any], files: Mapping[str, bytes], folder: Path) -> Any:
    """The example again; numpy arrays where torch is not there."""
    arrays = parse_tensors(files["example.safetensors"], folder / "example.safetensors")
    items = []
    for place, (key, part) in enumerate(described["parts"]):
        items.append((key, part["value"] if "value" in part else _Stored(arrays[str(place)], part["tensor"])))
    return dict(items) if described["mapping"] else tuple(value for _, value in items)


class _Stored:
    """A saved tensor that becomes torch's when it is asked for, so that loading a circuit needs no torch."""

    def __init__(self, array: np.ndarray, dtype: str) -> None:
        self.array = array
        self.dtype = dtype

    def detach(self) -> Any:
        """The tensor."""
        import torch

        if self.dtype == "numpy":
            return torch.from_numpy(self.array.copy())
        return torch.from_numpy(self.array.copy()).to(getattr(torch, self.dtype))


def example_tensors(example: Any) -> Any:
    """The example with torch tensors in place of stored ones."""

    def give(value: Any) -> Any:
        return value.detach() if isinstance(value, _Stored) else value

    if isinstance(example, Mapping):
        return {key: give(value) for key, value in example.items()}
    return tuple(give(value) for value in example)


# --- on a model ----------------------------------------------------------------------------------------------------


def _on_model(circuit: Circuit, model: torch.nn.Module) -> Circuit:
    """The circuit over the model's own graph, traced with the saved example."""
    import graphir
    from graphir.tracing.exported import hash_model

    if circuit.example is None:
        raise SaveFormatError("the circuit was saved without example inputs, so the model cannot be traced for it")
    saved = circuit.graph
    _check_hash(saved.model_hash, hash_model(model))
    try:
        graph: Graph = graphir.trace(model, example_tensors(circuit.example), granularity=saved.granularity or "head")
    except (GraphirError, RuntimeError, TypeError) as error:
        message = "the model does not run on the inputs that the circuit's model was traced with"
        raise ModelMismatchError(message, [str(error).split("\n")[0]]) from error
    differences = graph_differences(saved, graph, structure=True)
    if differences:
        raise ModelMismatchError(
            f"the model's graph is not the circuit's: {'; '.join(differences[:3])}",
            ["it may have been traced by another release; run the discovery again"],
        )
    return circuit.with_(graph=graph, example=None)


def _check_hash(saved: str, given: str) -> None:
    if saved and saved != given:
        raise ModelMismatchError(
            f"the circuit belongs to another model: its hash is {saved[:12]}…, this one's {given[:12]}…",
            ["the hash is over every parameter and buffer: same checkpoint, same revision, same dtype"],
        )
