"""Learning in low precision: masks are learned on a bfloat16 copy of the model and judged on the model itself.

Processors that multiply bfloat16 natively take about half the time for a step. Attributions that masks start from, hard
masks and all measures are in the model's own precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from weakref import WeakKeyDictionary

import torch

from graphir.run.program import MaskedProgram, lower
from graphir.tracing import recast

Precision = Literal["model", "bfloat16", "auto"]

_KNOWN: WeakKeyDictionary[MaskedProgram, MaskedProgram] = WeakKeyDictionary()


def program_in(program: MaskedProgram, precision: Precision) -> MaskedProgram:
    """What to learn on: `program` itself, or its copy in bfloat16 (kept for as long as `program` is). `auto` is
    bfloat16 where the device multiplies it natively and the model is float32. Raises `TraceError` where the copy cannot
    be traced."""
    if precision == "model" or program.dtype == torch.bfloat16:
        return program
    if precision == "auto" and not (program.dtype == torch.float32 and multiplies_bfloat16(program.device)):
        return program
    if program not in _KNOWN:
        _KNOWN[program] = lower(recast(program.graph, torch.bfloat16))
    return _KNOWN[program]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bfloat16 matrices."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(bool(getattr(torch.cpu, name, bool)()) for name in asked)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Numbers too small for a normal float become zero while inside, as on GPUs: with hard masks bfloat16 products on
    processors take twice as long over them."""
    before = bool(torch.full((1,), 1e-40).mul(1.0) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
