"""Tracr exports for tests: of a program of this project, and of random weights; and what they compute, in numpy.

Matrices are (in, out) and scores are divided by the root of the key size, as in Tracr's Haiku transformer.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from dsl.builtin.compiler import compile_program
from dsl.builtin.rasp import SCRATCH, Program

Array = np.ndarray[Any, Any]


def write_export(path: Path, config: dict[str, Any], arrays: dict[str, Array]) -> Path:
    named: dict[str, Any] = dict(arrays)
    np.savez(path, **named)
    path.with_suffix(".json").write_text(json.dumps(config), encoding="utf-8")
    return path


def config_of(**changes: Any) -> dict[str, Any]:
    """A description of the program of `random_arrays`, with changes; None leaves a key out."""
    config: dict[str, Any] = {
        "name": "copy", "num_heads": 2, "num_layers": 2, "key_size": 3, "mlp_hidden": 5, "activation": "relu",
        "layer_norm": False, "causal": False, "numerical_output": False, "max_seq_len": 4,
        "vocab": {"a": 1, "b": 0, "BOS": 2, "compiler_pad": 3},
        "residual_labels": ["copy_2:a", "copy_2:z", "indices:0", "indices:1", "one", "tokens:a", "tokens:b"],
    }  # fmt: skip
    return {key: value for key, value in (config | changes).items() if value is not None}


def random_arrays(config: dict[str, Any], *, seed: int = 0, dtype: str = "float64") -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    width, inner = len(config["residual_labels"]), config["num_heads"] * config["key_size"]
    hidden = config["mlp_hidden"]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embed.embeddings": (len(config["vocab"]), width),
        "pos_embed.embeddings": (config["max_seq_len"] + 1, width),
    }
    for layer in range(config["num_layers"]):
        own = f"transformer.layer_{layer}"
        shapes |= {f"{own}.attn.{part}.w": (width, inner) for part in ("query", "key", "value")}
        shapes |= {f"{own}.attn.{part}.b": (inner,) for part in ("query", "key", "value")}
        shapes |= {f"{own}.attn.linear.w": (inner, width), f"{own}.attn.linear.b": (width,)}
        shapes |= {f"{own}.mlp.linear_1.w": (width, hidden), f"{own}.mlp.linear_1.b": (hidden,)}
        shapes |= {f"{own}.mlp.linear_2.w": (hidden, width), f"{own}.mlp.linear_2.b": (width,)}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def stream_of(config: dict[str, Any], w: dict[str, Array], ids: Array) -> Array:
    """The stream behind the last layer, (batch, length, width), one head at a time."""
    x = w["token_embed.embeddings"][ids] + w["pos_embed.embeddings"][: ids.shape[1]]
    size, steps = config["key_size"], np.arange(ids.shape[1])
    for layer in range(config["num_layers"]):
        attn, mlp = (
            {k.removeprefix(f"transformer.layer_{layer}.{part}."): v for k, v in w.items()} for part in ("attn", "mlp")
        )
        q, k, v = (x @ attn[f"{part}.w"] + attn[f"{part}.b"] for part in ("query", "key", "value"))
        heads = []
        for head in range(config["num_heads"]):
            own = slice(head * size, (head + 1) * size)
            scores = q[..., own] @ k[..., own].transpose(0, 2, 1) / math.sqrt(size)
            if config["causal"]:
                scores = np.where(steps[:, None] >= steps, scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[..., own])
        x = x + np.concatenate(heads, -1) @ attn["linear.w"] + attn["linear.b"]
        h = x @ mlp["linear_1.w"] + mlp["linear_1.b"]
        relu = config["activation"] == "relu"
        h = np.maximum(h, 0) if relu else h / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + h @ mlp["linear_2.w"] + mlp["linear_2.b"]
    return x


def export_program(program: Program, path: Path) -> Path:
    """A program of this project as Tracr would have saved it. It has no first token and no padding."""
    made, found = compile_program(program), {}
    inner, hidden, width = program.heads * program.head_width, max(program.hidden, 1), program.width
    found["token_embed.embeddings"], found["pos_embed.embeddings"] = made["embed.weight"], made["position.weight"]
    for layer in range(program.layers):
        ours, theirs = f"blocks.{layer}.attention", f"transformer.layer_{layer}.attn"
        for part in ("query", "key", "value"):
            scale = math.sqrt(program.head_width) if part == "query" else 1.0  # these scores are not divided
            found[f"{theirs}.{part}.w"] = made[f"{ours}.{part}.weight"].T * scale
            found[f"{theirs}.{part}.b"] = made.get(f"{ours}.{part}.bias", np.zeros(inner)) * scale
        found[f"{theirs}.linear.w"], found[f"{theirs}.linear.b"] = made[f"{ours}.out.weight"].T, np.zeros(width)
        ours, theirs = f"blocks.{layer}.mlp", f"transformer.layer_{layer}.mlp"
        found[f"{theirs}.linear_1.w"] = made.get(f"{ours}.up.weight", np.zeros((hidden, width))).T
        found[f"{theirs}.linear_1.b"] = made.get(f"{ours}.up.bias", np.zeros(hidden))
        found[f"{theirs}.linear_2.w"] = made.get(f"{ours}.down.weight", np.zeros((width, hidden))).T
        found[f"{theirs}.linear_2.b"] = np.zeros(width)
    labels = [
        label
        for variable in program.variables
        for label in ([variable.name] if variable.number else [f"{variable.name}:{v}" for v in variable.values])
    ]
    config = config_of(
        name=program.readouts[0].source.name, num_heads=program.heads, num_layers=program.layers,
        key_size=program.head_width, mlp_hidden=hidden, causal=program.causal, max_seq_len=program.positions.width,
        vocab={str(word): i for i, word in enumerate(program.tokens.values)},
        residual_labels=[*labels, *(f"scratch:{i}" for i in range(SCRATCH))],
    )  # fmt: skip
    return write_export(path, config, found)
