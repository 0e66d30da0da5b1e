"""Name sources and components: `embed`, `pos`, `a9`, `m9`, `decoder.x3`, `n0`, `logits`; heads are named within.

Numbers are the layers' own where module paths give each component one of its own, else the order of execution.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Container, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import fx

from graphir.ir import NodeKind, Source
from graphir.tracing.canonical import aten, is_floating
from graphir.tracing.recognize import Recognized

_LETTERS = {NodeKind.HEAD: "a", NodeKind.LAYER: "a", NodeKind.MLP: "m", NodeKind.OPAQUE: "b"}
_NUMBERED = frozenset("axmb")


@dataclass(frozen=True)
class Place:
    """What a source or component is called, its layer, and where it stands in the model."""

    name: str
    layer: int | None
    source: Source


def source_of(node: fx.Node) -> Source:
    """Module path and source line recorded by the export for a node; the file as `importable_path` writes it."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values()]
    module = paths[-1] if paths else ""
    module = re.sub(r"^(L\['self'\]\.)?model\.?", "", module) if module.startswith(("model", "L[")) else module
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [line for line in lines if "/torch/" not in line[0]] or lines  # the user's line, not the library's beneath it
    return Source(module, f"{importable_path(own[-1][0])}:{own[-1][1]}" if own else "")


@cache
def importable_path(file: str) -> str:
    """A source file from its outermost package on, as in `package/module.py`; a file of no package by its name alone.

    Sources are part of what is saved and exported: where a machine keeps its files is nobody else's business, and
    two machines shall write the same.
    """
    path = Path(file)
    root = path.parent
    while (root / "__init__.py").is_file() and root != root.parent:
        root = root.parent
    return path.relative_to(root).as_posix()


def name_sources(leaves: Sequence[fx.Node], positions: Container[fx.Node] = ()) -> list[Place]:
    """Embeddings of inputs are `embed`, what else starts a stream is `pos`, embeddings of the inputs `positions` too.

    Two embeddings, as of an encoder and a decoder, go by the first parts of their module paths.
    """
    kinds = ["embed" if len(leaves) == 1 or _embeds_input(leaf, positions) else "pos" for leaf in leaves]
    names = [f"{kind}{n + 1}" if n else kind for kind, n in zip(kinds, _counts_before(kinds), strict=True)]
    sources = [source_of(leaf) for leaf in leaves]
    embeds = [i for i, kind in enumerate(kinds) if kind == "embed"]
    prefixes = [sources[i].module.partition(".") for i in embeds]
    if len({first for first, _, _ in prefixes}) == len(embeds) > 1 and all(rest for _, _, rest in prefixes):
        for i, (first, _, _) in zip(embeds, prefixes, strict=True):
            names[i] = f"{first}.embed"
    return [Place(name, None, source) for name, source in zip(names, sources, strict=True)]


def name_components(found: Sequence[Recognized], output_names: Iterable[str]) -> list[Place]:
    """Names in execution order; an output goes by its name, what comes twice gets `_1` and so on."""
    outputs = iter(output_names)
    sources = [source_of(item.origin) for item in found]
    letters = [_letter(item) for item in found]
    layers = [_layer(source.module) for source in sources]
    prefixes = _prefixes(letters, layers, sources)
    groups = [(prefix if letter in _NUMBERED else "", letter) for prefix, letter in zip(prefixes, letters, strict=True)]
    ordinals = _counts_before(groups)
    if not _layers_are_unique(groups, layers):
        layers = [n if letter in _NUMBERED else i for n, letter, i in zip(ordinals, letters, layers, strict=True)]
    names = []
    for (prefix, letter), layer, ordinal in zip(groups, layers, ordinals, strict=True):
        if letter in _NUMBERED:
            names.append(f"{prefix}.{letter}{layer}" if prefix else f"{letter}{layer}")
        else:
            names.append(f"n{ordinal}" if letter == "n" else next(outputs))
    names = [f"{name}_{n}" if n else name for name, n in zip(names, _counts_before(names), strict=True)]
    return [Place(*place) for place in zip(names, layers, sources, strict=True)]


def _counts_before(items: Iterable[Hashable]) -> list[int]:
    """For each item, how many equal ones came before."""
    seen: Counter[Hashable] = Counter()
    counts = []
    for item in items:
        counts.append(seen[item])
        seen[item] += 1
    return counts


def _letter(item: Recognized) -> str:
    if item.region.output:
        return ""
    if item.kind in (NodeKind.HEAD, NodeKind.LAYER) and len(item.region.sites) > 1:
        return "x"
    return _LETTERS.get(item.kind, "n")


def _layer(path: str) -> int | None:
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


def _layers_are_unique(groups: Sequence[tuple[str, str]], layers: Sequence[int | None]) -> bool:
    """Whether module paths number the layers: each letter once a layer; shared modules break that."""
    seen = [(*group, layer) for group, layer in zip(groups, layers, strict=True) if group[1] in _NUMBERED]
    return all(layer is not None for _, _, layer in seen) and len(set(seen)) == len(seen)


def _prefixes(letters: Sequence[str], layers: Sequence[int | None], sources: Sequence[Source]) -> list[str]:
    """The part of the module path that tells two stacks of layers apart (`encoder`, `decoder`), else nothing."""
    seen: dict[tuple[str, int | None], list[int]] = defaultdict(list)
    for i, letter in enumerate(letters):
        if letter in ("a", "m", "b"):
            seen[letter, layers[i]].append(i)
    clash = next((members for members in seen.values() if len(members) > 1), ())
    paths = [source.module.split(".") for source in sources]
    for at, column in enumerate(zip(*(paths[i] for i in clash), strict=False)):
        if len(set(column)) == len(column) and not any(part.isdigit() for part in column):
            return [path[at] if len(path) > at else "" for path in paths]
    return [""] * len(letters)


def _embeds_input(leaf: fx.Node, positions: Container[fx.Node]) -> bool:
    """Whether the leaf holds the model's input itself: a table looked up by an input, or a floating input."""
    above = _ancestors(leaf)
    lookups = [n for n in above if n.target is aten.embedding.default]
    if any(n.op == "placeholder" and is_floating(n) for n in above):
        return True
    indices = [_unwrap(n.args[1]) for n in lookups]
    return any(index.op == "placeholder" and index not in positions for index in indices)


def _unwrap(node: Any) -> Any:
    while node.op == "call_function" and str(node.target).split(".")[1] in ("view", "reshape", "to", "clone"):
        node = node.args[0]
    return node


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """The node and what its values, not only their shapes, are computed from."""
    found: set[fx.Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current not in found and not str(current.target).startswith("aten.sym_size"):
            found.add(current)
            stack += current.all_input_nodes
    return found
