"""ACDC's subgraphs: which edges between hooks are present.

`save_subgraph` writes `{(receiver, receiver index, sender, sender index): present}` (a `.pth` file), an index being
`(None,)` or `(None, None, head)`. The same tuples are read from JSON, as lists of the edges that are present, or with
the truth value as a fifth item. (ACDC's `save_edges` pickles objects of its own, which are never loaded.)

Hooks of addition are edges here; edges inside of a unit (`hook_q` from `hook_q_input`) are not, but where one is absent
nothing reaches the port, and the edges into it go. `blocks.0.hook_resid_pre` is the embeddings' sum, the last
`hook_resid_post` the output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsl.importing.resolving import Resolver
from graphir.algebra import needed_nodes
from graphir.circuit import Circuit
from graphir.errors import DataError
from graphir.ir import Graph

_ENTRY = re.compile(r"blocks\.(\d+)\.attn\.hook_([qkv])")
_INSIDE = re.compile(r"blocks\.\d+\.attn\.hook_(?:q|k|v|pattern|attn_scores|z)|blocks\.\d+\.mlp\.hook_(?:pre|post)")
_RESID = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")


def from_value(value: Any, graph: Graph, path: Path) -> Circuit:
    """The circuit of the edges that are present and the nodes they need."""
    resolver = Resolver(graph, path)
    kept, closed = np.zeros(len(graph.edges), bool), []
    for receiver, receiver_index, sender, sender_index, present in _rows(value, path):
        if entry := _ENTRY.fullmatch(receiver):
            if not present:
                closed.append((entry, receiver_index))
            continue
        if _is_inside(receiver, sender):
            continue
        name = _name(receiver, receiver_index, graph)
        whole = _RESID.fullmatch(sender) is not None
        found = resolver.edges("embed" if whole else _name(sender, sender_index, graph), name, every_embedding=whole)
        if present:
            kept[found] = True
    for entry, index in closed:
        port = resolver.port(f"blocks.{entry[1]}.hook_{entry[2]}_input{_suffix(index)}")
        if port is not None:
            kept[np.asarray(graph.edge_dst) == port] = False
    resolver.check()
    return Circuit(graph, kept, needed_nodes(graph, kept))


def _rows(value: Any, path: Path) -> Iterator[tuple[str, Any, str, Any, bool]]:
    if isinstance(value, Mapping):
        value = [(*key, present) if isinstance(key, tuple) else key for key, present in value.items()]
    for item in value if isinstance(value, list) else [value]:
        parts = tuple(item) if isinstance(item, list | tuple) else ()
        row = (*parts, True) if len(parts) == 4 else parts
        named = len(row) == 5 and isinstance(row[0], str) and isinstance(row[2], str) and isinstance(row[4], bool)
        if not named or not (_is_index(row[1]) and _is_index(row[3])):
            raise DataError(
                f"{path}: an edge is (receiver, index, sender, index) and whether it is present, not {str(item)[:80]}"
            )
        yield row


def _is_index(value: Any) -> bool:
    """Whether it is an index of ACDC: None for all of an axis, or a number."""
    return value is None or (
        isinstance(value, list | tuple) and all(part is None or type(part) is int for part in value)
    )


def _is_inside(receiver: str, sender: str) -> bool:
    """An edge within one head or MLP: the graph here has none of them."""
    if _INSIDE.fullmatch(sender) or _INSIDE.fullmatch(receiver):
        return True
    return receiver.replace("hook_mlp_out", "") == sender.replace("hook_mlp_in", "")


def _suffix(index: Any) -> str:
    heads = [part for part in index or () if part is not None]
    return f"[:, :, {heads[-1]}]" if heads else ""


def _name(hook: str, index: Any, graph: Graph) -> str:
    if found := _RESID.fullmatch(hook):
        last = max((node.layer for node in graph.nodes if node.layer is not None), default=0)
        if found[2] == "post" and int(found[1]) == last:
            return "logits.in"
    return f"{hook}{_suffix(index)}"
