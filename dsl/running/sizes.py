"""Sizes of models and graphs from configurations and file headers alone: no weights, no torch.

The graph is that of a decoder with one stream, attention before the MLP in each layer. Ports, writers and edges are
summed layer by layer: a port of layer l reads every writer before it, so with e embeddings, H heads, G key/value groups
and one MLP a layer has (H + 2G)·w + w + H edges, w = e + l(H + 1), and the output w more (Bhaskar et al. 2024 where
G = H). What headers do not say is estimated, and `notes` say so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graphir.errors import GraphirError

if TYPE_CHECKING:
    from dsl.model_facts import ModelFacts
    from dsl.spec import GraphSpec, ModelSpec
    from graphir.granularity import Choice

BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
OFFSETS = (0, 2)
"""Rows that a table of learned positions may have beyond the context length."""


@dataclass(frozen=True)
class ModelSize:
    """What is known of a model before it is loaded; `embeddings` is the number of tables that write into the stream,
    `body` the parameters that each token is multiplied with (tables and the output left out)."""

    layers: int
    heads: int
    groups: int
    width: int
    hidden: int
    vocab: int
    parameters: int
    body: int
    embeddings: int
    item: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GraphSize:
    """Nodes, writers among them, ports and edges of a graph; an estimate."""

    nodes: int
    writers: int
    ports: int
    edges: int


def model_size(spec: ModelSpec, facts: ModelFacts, shapes: Mapping[str, tuple[int, ...]]) -> ModelSize | None:
    """The sizes that facts and tensor shapes tell, None where they tell too little."""
    layers, heads, width, vocab = facts.layers, facts.heads, facts.d_model, facts.vocab
    if layers is None or heads is None or width is None or vocab is None or facts.decoder_layers:
        return None
    groups = facts.kv_heads or heads
    notes = []
    tables = sum(set(shape) == {vocab, width} for shape in shapes.values()) if shapes else 1
    positions = _has_positions(facts, shapes)
    if not shapes:
        notes.append("one embedding and tied output assumed: the weights' headers are not here")
    attention = width * width * (2 + 2 * groups / heads)
    parameters = facts.parameters or int(layers * (attention + 8 * width * width) + vocab * width)
    body = max(parameters - (tables + positions) * vocab * width, 0) if positions == 0 else (
        max(parameters - tables * vocab * width - (facts.context or 0) * width, 0)
    )  # fmt: skip
    # Without a width of the MLP in the configuration, there is one if a layer has more than its attention.
    hidden = facts.d_mlp or (4 * width if body / layers > 1.5 * attention else 0)
    if hidden and facts.d_mlp is None:
        notes.append(f"an MLP {hidden:,} wide assumed: the configuration does not say")
    item = BYTES.get(spec.dtype, 4)
    return ModelSize(layers, heads, groups, width, hidden, vocab, parameters, body, 1 + positions, item, tuple(notes))


def _has_positions(facts: ModelFacts, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """1 where the weights hold a table with a row for each position."""
    if facts.context is None or facts.context == facts.vocab:
        return 0
    wanted = [{facts.context + more, facts.d_model} for more in OFFSETS]
    return int(any(len(shape) == 2 and set(shape) in wanted for shape in shapes.values()))


def graph_size(spec: GraphSpec, model: ModelSize) -> GraphSize:
    """The size of the graph at the granularity the section asks for."""
    from dsl.running.loading import granularity_of

    granularity = granularity_of(spec)
    writers = model.embeddings
    ports = edges = 0
    for layer in range(model.layers):
        choice = granularity.at(layer)
        read = _attention_ports(choice, model)
        ports, edges = ports + read, edges + read * writers
        writers += 1 if choice.attention == "layer" else model.heads
        if model.hidden:
            ports, edges = ports + 1, edges + writers
            writers += model.hidden if choice.mlp == "neuron" else 1
    return GraphSize(writers + 1, writers, ports + 1, edges + writers)


def _attention_ports(choice: Choice, model: ModelSize) -> int:
    if choice.attention == "layer":
        return 1
    groups = model.heads if choice.key_value == "ungrouped" else model.groups
    return model.heads + 2 * groups if choice.qkv == "split" else groups


def tensor_shapes(spec: ModelSpec, folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's tensors from the headers of its files; empty where there are none to read."""
    from dsl.builtin import find_builtin, written_weights
    from dsl.gguf_header import read_header
    from dsl.model_files import find_gguf, find_tracr, locate_checkpoint, weight_files

    try:
        if spec.kind == "gguf":
            return dict(read_header(find_gguf(spec.reference, folder, package=spec.package)).shapes)
        if spec.kind == "builtin":
            if (found := find_builtin(spec.reference)).source != "trained":
                return {name: value.shape for name, value in written_weights(found.name).items()}
            return _safetensors_shapes(found.weights)
        if spec.kind == "tracr":
            from dsl.builtin.tracr import read_tracr

            return {name: value.shape for name, value in read_tracr(find_tracr(spec.reference, folder)).arrays.items()}
        if spec.kind == "hf":
            place = locate_checkpoint(spec.reference, folder, package=spec.package, revision=spec.revision)
            files = weight_files(place if place.is_dir() else place.parent)
            readable = [file for file in files if file.suffix == ".safetensors"]
            return {name: shape for file in readable for name, shape in _safetensors_shapes(file).items()}
    except (GraphirError, OSError, ValueError, LookupError, TypeError, AttributeError):
        pass  # what is wrong with the files is said where the model's facts are read
    return {}


def _safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, 100 << 20)))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
