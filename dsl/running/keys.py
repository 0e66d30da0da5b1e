"""What a stage's key is made of: a description in plain data of everything its result depends on, and its SHA-256.

Descriptions hold values, never places: no spans, no names that only the file uses. So moving a section, renaming a
circuit or adding a comment changes no key, and two files that ask for the same share what was computed. Torch-free.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsl.tree import Node

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dsl.spec import MethodSpec
    from graphir.circuit import Circuit

PLACES = frozenset({"span", "name"})
"""Fields of a section that say where and how it is called."""
MAX_SHOWN = 40
"""Characters of a value in a reason."""


def describe(value: Any, *, without: frozenset[str] = PLACES) -> Any:
    """A value of a checked specification as plain data, without the fields named."""
    if isinstance(value, Node):
        return " ".join(re.sub(r"#[^\n]*", " ", value.span.text).split())
    if is_dataclass(value) and not isinstance(value, type):
        kept = (each for each in fields(value) if each.name not in without)
        return {each.name: describe(getattr(value, each.name), without=without) for each in kept}
    if isinstance(value, Mapping):
        return {str(key): describe(each, without=without) for key, each in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(str(each) for each in value)
    if isinstance(value, list | tuple):
        return [describe(each, without=without) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def describe_method(method: MethodSpec) -> dict[str, Any]:
    """A method and all its options but the seeds: each seed is a stage of its own."""
    options = {each.name: describe(getattr(method.options, each.name)) for each in fields(method.options)}
    options.pop("seeds", None)
    return {"name": method.name, **options, **_third_party(method.name)}


def _third_party(name: str) -> dict[str, str]:
    """The package that brings a method that is not ours, with its version."""
    for entry in metadata.entry_points(group="graphir.passes"):
        if entry.name == name and entry.dist is not None:
            return {"package": f"{entry.dist.name} {entry.dist.version}"}
    return {}


def digest(description: Any) -> str:
    """SHA-256 (hex) of plain data."""
    text = json.dumps(description, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def circuit_digest(circuit: Circuit) -> str:
    """SHA-256 (hex) of what a circuit does: the edges, nodes and weights it keeps, its ablation and learned ablation
    values; not its scores, nor its name."""
    found = hashlib.sha256(circuit.ablation.encode())
    for mask in (circuit.edges, circuit.nodes):
        found.update(mask.tobytes())
    learned = getattr(circuit, "constants", {})
    for name, array in [*sorted(circuit.weights.items()), *sorted(learned.items())]:
        found.update(f"{name}{array.dtype}{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def factors_digest(factors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 (hex) of how often each weight of a sum counts."""
    found = hashlib.sha256()
    for name, counts in sorted(factors.items()):
        found.update(f"{name}{counts.dtype}{counts.shape}".encode() + counts.tobytes())
    return found.hexdigest()


@cache
def code_digest(*packages: str) -> str:
    """SHA-256 (hex, 16 digits) of the sources of packages or modules, by their dotted names: what computes a result is
    part of what the result depends on."""
    found = hashlib.sha256()
    for package in packages:
        for path in sorted(_sources(package)):
            found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def _sources(package: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        yield from Path(folder).rglob("*.py")
    if spec is not None and spec.origin is not None and not spec.submodule_search_locations:
        yield Path(spec.origin)


def changes(before: Any, after: Any, path: str = "") -> list[str]:
    """What differs between two descriptions, as `method.steps: 300 → 200`, in the order of the second."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = dict.fromkeys([*after, *before])
        return [
            change
            for name in names
            for change in changes(before.get(name), after.get(name), f"{path}.{name}" if path else str(name))
        ]
    return [] if before == after else [f"{path}: {_short(before)} → {_short(after)}"]


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
