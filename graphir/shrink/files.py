"""Smaller modules on disk: weights as safetensors, the graph as JSON; nothing is pickled, nothing read is executed.

Operators are named, and only those of `torch.ops.aten` that touch no file, and a few of Python's own on sizes, are read
back; their arguments are read by the names they are declared with. (The program that runs them is made of these names.)
"""

from __future__ import annotations

import json
import math
import operator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import fx

from graphir.errors import SaveFormatError
from graphir.serial import MAX_JSON, MAX_TENSORS, check_file, parse_json, read_bytes
from graphir.shrink.module import ShrunkModule

FORMAT = 1
_WEIGHTS, _GRAPH = "model.safetensors", "graph.json"
_ON_SIZES = [
    "getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "pow",
]  # fmt: skip
_SYMBOLIC = ["sym_max", "sym_min", "sym_float", "sym_int", "sym_not", "sym_ite"]
_PYTHON = {
    **{f"operator.{name}": getattr(operator, name) for name in _ON_SIZES},
    **{f"torch.{name}": getattr(torch, name) for name in _SYMBOLIC},
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")},
}
_DAMAGES = (
    OSError, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError, AssertionError,
    RecursionError, SyntaxError, SafetensorError,
)  # fmt: skip
"""What comes of a graph that is none, here, in fx and in safetensors."""
_NAMES = {id(function): name for name, function in _PYTHON.items()}


def save_shrunk(module: ShrunkModule, folder: str | Path) -> Path:
    """Write `module` to `folder`, created where it is not there. Raises `SaveFormatError` for an operator that has no
    name of its own."""
    place = Path(folder)
    text = json.dumps(_describe(module), indent=1, sort_keys=True)
    place.mkdir(parents=True, exist_ok=True)
    tied = _aliases(module)
    distinct = {name: t.detach().cpu().contiguous() for name, t in module.tensors().items() if name not in tied}
    save_file(distinct, str(place / _WEIGHTS), metadata={"format": "pt"})
    (place / _GRAPH).write_text(text + "\n", encoding="utf-8")
    return place


def load_shrunk(folder: str | Path) -> ShrunkModule:
    """The module saved in `folder`. Raises `SaveFormatError` for a file that is not there, truncated or foreign."""
    place = Path(folder)
    try:
        told = parse_json(read_bytes(place / _GRAPH, MAX_JSON), place / _GRAPH)
        if told["format"] != FORMAT:
            raise SaveFormatError(f"`{place}` holds a module of format {told['format']}, this reads format {FORMAT}")
        check_file(place / _WEIGHTS, MAX_TENSORS)
        tensors = load_file(str(place / _WEIGHTS))
        tensors |= {name: tensors[other] for name, other in told["tied"].items()}
        module = ShrunkModule(
            _read_graph(told["graph"]), tensors, frozenset(told["parameters"]), tuple(told["inputs"]),
            tuple(told["outputs"]), None, frozenset(told["transient"]),
        )  # fmt: skip
    except SaveFormatError as error:
        raise SaveFormatError(
            f"`{place}` holds no smaller module that can be read: {error.message}", error.hints
        ) from None
    except _DAMAGES as error:
        raise SaveFormatError(f"`{place}` holds no smaller module that can be read: {error}") from None
    module.train(mode=False)
    return module


def _aliases(module: ShrunkModule) -> dict[str, str]:
    """Names of tied parameters, with the name that comes first."""
    first: dict[int, str] = {}
    found = {}
    for name, tensor in module.tensors().items():
        known = first.setdefault(id(tensor), name)
        if known != name:
            found[name] = known
    return found


def _describe(module: ShrunkModule) -> dict[str, Any]:
    saved = module.state_dict()
    return {
        "format": FORMAT,
        "inputs": list(module.input_names),
        "outputs": list(module.output_names),
        "parameters": [name for name, _ in module.named_parameters(remove_duplicate=False)],
        "transient": sorted(name for name, _ in module.named_buffers() if name not in saved),
        "tied": _aliases(module),
        "graph": [_node(n) for n in module.graph.nodes],
    }


# --- graph ------------------------------------------------------------------------------------------------------------


def _node(node: fx.Node) -> dict[str, Any]:
    target = str(node.target) if node.op != "call_function" else _name(node.target)
    return {
        "op": node.op, "name": node.name, "target": target, "args": _write(node.args),
        "kwargs": {key: _write(value) for key, value in node.kwargs.items()}, "kind": node.meta.get("kind", "rest"),
    }  # fmt: skip


def _name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return str(target)
    if id(target) not in _NAMES:
        raise SaveFormatError(f"the operator {target} has no name that can be read back")
    return _NAMES[id(target)]


def _function(name: str) -> Any:
    if name in _PYTHON:
        return _PYTHON[name]
    parts = name.split(".")
    if len(parts) != 3 or parts[0] != "aten":
        raise SaveFormatError(f"`{name}` is no operator that may be read")
    found = getattr(getattr(torch.ops.aten, parts[1]), parts[2])
    if not isinstance(found, torch._ops.OpOverload) or found.namespace != "aten":
        raise SaveFormatError(f"`{name}` is no operator that may be read")
    if any(argument.name == "filename" for argument in found._schema.arguments):
        raise SaveFormatError(f"`{name}` reads or writes a file, which a saved module may not")
    return found


def _keywords(told: dict[str, Any], target: Any) -> dict[str, Any]:
    """The arguments by name. They become part of a program: only names that the operator has are taken."""
    schema = getattr(target, "_schema", None)
    known = {argument.name for argument in schema.arguments} if schema is not None else set()
    for name in told:
        if name not in known:
            raise SaveFormatError(f"`{name}` is no argument of {target}")
    return told


_PLAIN = (bool, int, str, type(None))
_TORCH = {torch.dtype: "dtype", torch.layout: "layout", torch.memory_format: "memory_format"}


def _write(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (tuple, list)):
        return {"tuple" if isinstance(value, tuple) else "list": [_write(v) for v in value]}
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, slice):
        return {"slice": [_write(v) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, name in _TORCH.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    raise SaveFormatError(f"an argument of type {type(value).__name__} cannot be saved")


def _read(value: Any, env: dict[str, fx.Node]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "node":
            return env[inner]
        case "tuple" | "list":
            items = [_read(v, env) for v in inner]
            return tuple(items) if kind == "tuple" else items
        case "float":
            return float(inner)
        case "slice":
            return slice(*(_read(v, env) for v in inner))
        case "device":
            return torch.device(inner)
        case _ if kind in _TORCH.values():
            found = getattr(torch, inner)
            if not isinstance(found, tuple(_TORCH)):
                raise SaveFormatError(f"`{inner}` is no {kind}")
            return found
    raise SaveFormatError(f"`{kind}` is no argument that may be read")


def _read_graph(told: list[dict[str, Any]]) -> fx.Graph:
    graph = fx.Graph()
    env: dict[str, fx.Node] = {}
    for entry in told:
        args = _read(entry["args"], env)
        if not isinstance(args, tuple):
            raise SaveFormatError("the arguments of a node are no tuple")
        if entry["op"] not in ("placeholder", "get_attr", "call_function", "output"):
            raise SaveFormatError(f"`{entry['op']}` is no node that may be read")
        target = _function(entry["target"]) if entry["op"] == "call_function" else entry["target"]
        kwargs = {key: _read(value, env) for key, value in _keywords(entry["kwargs"], target).items()}
        made = graph.create_node(entry["op"], target, args, kwargs, name=entry["name"])
        made.meta["kind"] = entry["kind"]
        env[entry["name"]] = made
    return graph
