"""The transformer that Tracr compiles to: no norms, biases everywhere, MLPs with ReLU or GELU, causal or not.

    model, tokenizer = load_tracr("reverse.npz")

Like Tracr's own, but for the logits: there is a linear readout of the output variable's directions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsl.builtin.attention_only import allowed_keys
from dsl.builtin.small_transformer import real_keys
from dsl.builtin.tracr import Array, TracrProgram, TracrTokenizer, read_tracr


class Attention(nn.Module):
    """Multi-head attention, (batch, length, width) to the same shape; scores are divided by √key size."""

    def __init__(self, program: TracrProgram, layer: int) -> None:
        super().__init__()
        self.heads = program.heads
        own = f"transformer.layer_{layer}.attn"
        self.query = linear(program, f"{own}.query")
        self.key = linear(program, f"{own}.key")
        self.value = linear(program, f"{own}.value")
        self.out = linear(program, f"{own}.linear")

    def split(self, x: Tensor) -> Tensor:
        """(batch, length, inner) to (batch, heads, length, key size)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """`allowed` is boolean, (batch or 1, 1, length, length): which key each query may see."""
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return out


class Mlp(nn.Module):
    """One hidden layer; GELU is the tanh approximation, JAX's default."""

    def __init__(self, program: TracrProgram, layer: int) -> None:
        super().__init__()
        own = f"transformer.layer_{layer}.mlp"
        self.up, self.down = linear(program, f"{own}.linear_1"), linear(program, f"{own}.linear_2")
        self.act: nn.Module = nn.ReLU() if program.activation == "relu" else nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same shape."""
        out: Tensor = self.down(self.act(self.up(x)))
        return out


class Block(nn.Module):
    """Attention, then an MLP; each adds to the stream."""

    def __init__(self, program: TracrProgram, layer: int) -> None:
        super().__init__()
        self.attention = Attention(program, layer)
        self.mlp = Mlp(program, layer)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """`x` plus what the heads and the MLP write."""
        x = x + self.attention(x, allowed)
        out: Tensor = x + self.mlp(x)
        return out


class TracrModel(nn.Module):
    """A compiled program. `forward` gives logits; `stream` what they are read from."""

    def __init__(self, program: TracrProgram) -> None:
        super().__init__()
        self.causal = program.causal
        self.embed = nn.Embedding.from_pretrained(tensor(program.arrays["token_embed.embeddings"]))
        self.position = nn.Embedding.from_pretrained(tensor(program.arrays["pos_embed.embeddings"]))
        self.blocks = nn.ModuleList(Block(program, layer) for layer in range(program.layers))
        self.unembed = nn.Linear(program.readout.shape[1], len(program.readout), bias=bool(program.bias.any()))
        self.unembed.weight = nn.Parameter(tensor(program.readout))
        if self.unembed.bias is not None:
            self.unembed.bias = nn.Parameter(tensor(program.bias))

    def stream(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The stream behind the last layer, (batch, length, width), its directions in the order of the labels."""
        steps = torch.arange(input_ids.shape[1], device=input_ids.device)
        x: Tensor = self.embed(input_ids) + self.position(steps)
        allowed = allowed_keys(steps, attention_mask) if self.causal else real_keys(steps, attention_mask)
        for block in self.blocks:
            x = block(x, allowed)
        return x

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (batch, length, words) from ids (batch, length). `attention_mask` (batch, length) is 1 on real tokens;
        a padded query still sees itself, so no row is empty."""
        logits: Tensor = self.unembed(self.stream(input_ids, attention_mask))
        return logits


def tensor(value: Array) -> Tensor:
    """A copy in the machine's byte order."""
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))


def linear(program: TracrProgram, name: str) -> nn.Linear:
    """A linear layer of the program, whose matrices are (in, out)."""
    weight, bias = tensor(program.arrays[f"{name}.w"].T), tensor(program.arrays[f"{name}.b"])
    made = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    made.weight, made.bias = nn.Parameter(weight), nn.Parameter(bias)
    return made


def instantiate(program: TracrProgram) -> TracrModel:
    """The model in evaluation mode, its weights frozen, in the number format they are stored in."""
    model = TracrModel(program)
    return model.to(model.embed.weight.dtype).eval().requires_grad_(False)


def load_tracr(path: str | Path) -> tuple[TracrModel, TracrTokenizer]:
    """The model of `NAME.npz` and `NAME.json`, and its tokenizer; errors are those of `read_tracr`."""
    program = read_tracr(path)
    return instantiate(program), program.tokenizer


__all__ = ["TracrModel", "instantiate", "load_tracr"]
