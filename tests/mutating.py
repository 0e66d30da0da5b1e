"""Saved files with something wrong in them: bytes lost, JSON values changed, tensors that are not what they say."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 255, 2**31, 2**63, -(2**63), 10**12, 10**400, 0.5, -0.0, 1e308, 1e999, -1e999,
    float("nan"), "", "x", "a0.h0", "a99.h99", "../../x", "/tmp/x", "..", ".", "\0", "\u202e", "\ud800", "é" * 300,
    "os.system", "aten.save.default", "__class__", "<script>", "F64", "I8", [], {}, [[]], [None], {"": None}, [0, 8],
    {"node": "x"}, [["a", [2, 2]]],
)  # fmt: skip
"""Values that a file should not have where they are put."""
DEEP = 3000
DTYPES = ("BOOL", "U8", "I8", "I16", "I32", "I64", "F16", "BF16", "F32", "F64", "F8_E4M3", "C64", "X")


def mutated(data: bytes, name: str, chance: random.Random) -> bytes:
    """The content of the file `name` with one to four things changed: values where it is JSON, the header where it is
    safetensors, bytes in any file."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        inner = chance.random() < 0.75
        if inner and name.endswith(".json"):
            data = _json(data, chance)
        elif inner and name.endswith(".safetensors"):
            data = _tensors(data, chance)
        else:
            data = _bytes(data, chance)
    return data


def seal(manifest: Path) -> None:
    """Write the sizes and sums that the files beside a manifest have now into it, where it lists them."""
    head = json.loads(manifest.read_bytes())
    for name, told in head["files"].items():
        data = (manifest.parent / name).read_bytes()
        told |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.write_text(json.dumps(head))


def _bytes(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    more = chance.randrange(1, 40)
    match chance.randrange(6):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + data[at + more :]
        case 2:
            return data[:at] + chance.randbytes(more) + data[at:]
        case 3:
            return data[:at] + chance.randbytes(more) + data[at + more :]
        case 4:
            return data[:at] + data[at : at + more] * chance.randint(2, 50) + data[at + more :]
    flipped = bytearray(data)
    for _ in range(min(len(data), 3)):
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def _json(data: bytes, chance: random.Random) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _bytes(data, chance)
    if chance.random() < 0.02:
        return b"[" * DEEP + data + b"]" * DEEP
    return json.dumps(_changed(value, chance)).encode()


def _changed(value: Any, chance: random.Random) -> Any:
    """The value with one of those in it changed, every level as likely as any other."""
    places = list(_places(value))
    if not places or chance.random() < 0.02:
        return chance.choice(ODD)
    holder, key = chance.choice(places)
    way = chance.randrange(8)
    if way == 0:
        del holder[key]
    elif way == 1:
        other, place = chance.choice(places)
        holder[key] = json.loads(json.dumps(other[place]))
    elif way == 2 and isinstance(holder, list):
        holder.insert(key, json.loads(json.dumps(holder[key])))
    elif way == 2:
        holder[str(chance.choice(ODD))] = holder.pop(key)
    elif way == 3 and isinstance(holder[key], int):
        holder[key] += chance.choice((-1, 1, 1000))
    elif way == 4:
        holder[key] = [holder[key]]
    else:
        holder[key] = json.loads(json.dumps(chance.choice(ODD)))
    return value


def _places(value: Any) -> Any:
    """Every item of every list and object in a value, by its holder."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in list(items):
        yield value, key
        yield from _places(below)


def _tensors(data: bytes, chance: random.Random) -> bytes:
    """A changed header, with its own length before it (or a wrong one)."""
    length = int.from_bytes(data[:8], "little")
    try:
        head = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return _bytes(data, chance)
    names = [name for name in head if name != "__metadata__"] if isinstance(head, dict) else []
    if names and chance.random() < 0.5 and isinstance(head[name := chance.choice(names)], dict):
        # Whole again, but of another type or shape: what a careful forger would write.
        head[name]["dtype"] = chance.choice(DTYPES)
        match head[name].get("data_offsets"):
            case [int(start), int(stop)] if chance.random() < 0.8:
                head[name] |= {"dtype": "U8", "shape": [1, stop - start]}
    else:
        head = _changed(head, chance)
    text = json.dumps(head).encode()
    told = len(text) if chance.random() < 0.9 else chance.choice((0, 1, length, 2**40, 2**64 - 1))
    return told.to_bytes(8, "little") + text + data[8 + length :]
