"""Options of shrinking, torch-free: a smaller module that computes what the masked one does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from passes.option import option


@dataclass(frozen=True)
class ShrinkOptions:
    """A really smaller module, with its state dict, whose outputs equal the masked one's."""

    name: ClassVar[str] = "shrink"

    fold_means: bool = option(True, "fold ablated means into biases, so that outputs stay equal")
    strict: bool = option(True, "refuse what no smaller module computes; or keep the edges dropped between kept nodes")
    tolerance: float = option(1e-5, "largest difference from the masked module", above=0)
    dtype: Literal["same", "float32", "bfloat16", "float16"] = option("same", "number format of the saved weights")
