"""Granularity: which units of a lifted model are merged into one node, per region of layers.

A granularity is a partition of the finest units (heads with query, key and value ports; neurons; channels). A graph at
a coarser granularity is a quotient of the finest one. Torch-free.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from graphir.errors import GraphirError

_PRESETS = ("head", "layer", "neuron", "channel")


@dataclass(frozen=True, slots=True)
class Choice:
    """How fine one layer is: `attention` head or layer, `qkv` split or joint, `mlp` layer or neuron (in a
    feed-forward or convolutional model `mlp` speaks of its layers: neurons or channels are their units).

    `key_value` says whether heads that share a key/value projection read it through one port (`grouped`, as the model
    computes) or each through a port of its own (`ungrouped`, as the literature counts edges)."""

    attention: str = "head"
    qkv: str = "split"
    mlp: str = "layer"
    key_value: str = "grouped"

    def __str__(self) -> str:
        attention = f"head {self.qkv} qkv" if self.attention == "head" else self.attention
        ports = ", key_value: ungrouped" if self.key_value == "ungrouped" else ""
        return f"attention: {attention}, mlp: {self.mlp}{ports}"


def preset(name: str) -> Choice:
    """The choice a single word stands for: `head`, `layer`, `neuron` or `channel`."""
    if name == "layer":
        return Choice("layer", "joint", "layer")
    if name in ("neuron", "channel"):
        return Choice(mlp="neuron")
    if name == "head":
        return Choice()
    raise GraphirError(f"unknown granularity `{name}`", [f"one of {', '.join(_PRESETS)}"])


@dataclass(frozen=True, slots=True)
class Granularity:
    """A default choice and exceptions by inclusive layer range, later ones winning."""

    default: Choice = Choice()
    regions: tuple[tuple[int, int, Choice], ...] = ()

    def at(self, layer: int | None) -> Choice:
        """The choice for a layer; the default where there is none."""
        chosen = self.default
        for first, last, choice in self.regions:
            if layer is not None and first <= layer <= last:
                chosen = choice
        return chosen

    @classmethod
    def parse(cls, text: str | Granularity) -> Granularity:
        """Read `head`, or clauses such as `attention: head joint qkv, mlp: neuron, layers 0..3: layer`.

        Clauses are separated by commas, semicolons or line ends. Raises `GraphirError` on anything else.
        """
        if isinstance(text, Granularity):
            return text
        default, regions = Choice(), []
        for clause in filter(None, (part.strip() for part in re.split(r"[,;\n]", text))):
            layers = re.fullmatch(r"layers?\s+(\d+)(?:\s*\.\.\s*(\d+))?\s*:\s*(.+)", clause)
            if layers:
                first, last = int(layers[1]), int(layers[2] or layers[1])
                regions.append((first, last, _read_choice(layers[3], default)))
            else:
                default = _read_choice(clause, default)
        return cls(default, tuple(regions))

    def __str__(self) -> str:
        return ", ".join([str(self.default), *(f"layers {a}..{b}: {_short(c)}" for a, b, c in self.regions)])


def _short(choice: Choice) -> str:
    for name in _PRESETS:
        if preset(name) == choice:
            return name
    return " ".join(f"{part}" for part in str(choice).replace(",", " /").split(" "))


def _read_choice(text: str, base: Choice) -> Choice:
    for part in (piece.strip() for piece in text.split("/")):
        key, colon, value = (piece.strip() for piece in part.partition(":"))
        if not colon:
            base = preset(key)
        elif key == "attention":
            words = value.split()
            if not words or words[0] not in ("head", "layer") or not set(words[1:]) <= {"split", "joint", "qkv"}:
                raise GraphirError(
                    f"unknown attention granularity `{value}`", ["`head split qkv`, `head joint qkv` or `layer`"]
                )
            joint = "joint" in words or words[0] == "layer"
            base = replace(base, attention=words[0], qkv="joint" if joint else "split")
        elif key == "mlp":
            if value not in ("layer", "neuron"):
                raise GraphirError(f"unknown mlp granularity `{value}`", ["`layer` or `neuron`"])
            base = replace(base, mlp=value)
        elif key == "key_value":
            if value not in ("grouped", "ungrouped"):
                raise GraphirError(f"unknown key/value granularity `{value}`", ["`grouped` or `ungrouped`"])
            base = replace(base, key_value=value)
        else:
            raise GraphirError(
                f"unknown granularity clause `{text}`",
                ["`attention: …`, `mlp: …`, `key_value: …`, `layers 0..3: …`"],
            )
    return base
