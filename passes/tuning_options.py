"""Options of the methods that tune a model's own weights, torch-free: what they find is a task vector and no circuit.

`TUNERS` lists the classes by the name written in a file, as `passes.options.METHODS` does for discovery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from passes.option import option

DENSITY = 0.05
"""The share that is tuned where a file says neither a count nor a density."""


@dataclass(frozen=True)
class LtSftOptions:
    """LT-SFT, composable sparse fine-tuning: all weights are tuned, and those that moved most are tuned again alone,
    from where they were. The result is a sparse task vector, which adds up with others and comes off without a trace.
    """

    name: ClassVar[str] = "lt_sft"

    count: int | None = option(None, "weights to tune; or `density` says it", minimum=1)
    density: float | None = option(
        None, "share of the weights to tune; 5% where neither is given", above=0, maximum=1, unit="fraction"
    )
    iterations: int = option(1, "times that weights are chosen, an equal share each time", minimum=1, maximum=100)
    steps: int = option(200, "optimizer steps on all weights, which choose", minimum=1)
    sparse_steps: int | None = option(None, "optimizer steps on the chosen weights; as many, if not given", minimum=1)
    batch_size: int = option(16, "examples in a step", minimum=1)
    learning_rate: float = option(3e-4, "highest learning rate", above=0)
    optimizer: Literal["adam", "sgd"] = option("adam", "AdamW, or gradient descent with momentum 0.9")
    decay: bool = option(True, "lower the learning rate linearly to zero")
    weight_decay: float = option(0.0, "decoupled weight decay", minimum=0)
    clip: float | None = option(1.0, "largest norm of a gradient", above=0)
    l1: float = option(0.0, "weight of the mean distance from the start, which keeps weights there", minimum=0)
    dropout: bool = option(True, "train as models are trained, with dropout; off, as the model answers")
    frozen: tuple[str, ...] = option((), 'parameters that stay as they are, by name or pattern: `"*norm*"`')
    dense: tuple[str, ...] = option((), "parameters that are tuned whole and are not counted, by name or pattern")
    seed: int = option(0, "seed of the order of examples and of dropout", minimum=0)

    @property
    def share(self) -> float | None:
        """The density that counts: None where there is a count."""
        return None if self.count is not None else self.density if self.density is not None else DENSITY


TUNERS: Mapping[str, type[Any]] = {LtSftOptions.name: LtSftOptions}
"""Tuning methods by the name written in a file."""
