"""What a pass is: a frozen dataclass whose fields are its options, run in a context, returning a circuit.

A pass changes nothing it is given and reads no globals: the program, the task, the seed and the observer come in the
`RunContext`. `registry` maps names to passes; `run` is the way in.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch

from graphir.circuit import Circuit
from graphir.errors import GraphirError
from graphir.ir import Graph
from graphir.run.program import MaskedProgram
from passes.observe import Checkpoint, NoCheckpoint, Observer, SilentObserver
from passes.task import Task


@dataclass(frozen=True)
class Constraint:
    """An upper bound on a share: `part` is edges, nodes or weights; `density` the largest share that may be kept."""

    part: str
    density: float


@dataclass(frozen=True, eq=False)
class RunContext:
    """What a pass works on. `constraints` bound the densities, `metric` names the task metric that scores attribute,
    `origin` is a circuit of the same graph whose learned masks are where learning starts."""

    program: MaskedProgram
    task: Task
    constraints: tuple[Constraint, ...] = ()
    metric: str = "logit_diff"
    seed: int = 0
    observer: Observer = field(default_factory=SilentObserver)
    checkpoint: Checkpoint = field(default_factory=NoCheckpoint)
    origin: Circuit | None = None

    @property
    def graph(self) -> Graph:
        """The graph of the program."""
        return self.program.graph

    def bound(self, part: str) -> float | None:
        """The tightest density bound on `part`, None where it is free."""
        found = [c.density for c in self.constraints if c.part == part]
        return min(found) if found else None


class Pass(abc.ABC):
    """A discovery method. Subclasses are frozen dataclasses; `name` is what the language calls them."""

    name: ClassVar[str]

    @abc.abstractmethod
    def run(self, context: RunContext) -> Circuit:
        """The circuit found. Interrupted, the one found so far, with `interrupted` in its provenance."""

    def describe(self) -> Mapping[str, Any]:
        """Name and options, for the provenance."""
        return {"method": self.name} | {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


def check_bounds(found: Pass, parts: Iterable[str]) -> None:
    """`GraphirError` for a bound on parts that the pass does not mask, as far as it says which (`masks`)."""
    known: tuple[str, ...] | None = getattr(found, "masks", None)
    if known is None:
        return
    hint, level = "bound these instead", getattr(found, "level", None)
    if level is not None and (getattr(found, "learns", False) or level == "edge"):
        known, hint = (f"{level}s",), "choose another `level`"
    elif not getattr(found, "node_masks", True):
        known, hint = tuple(part for part in known if part != "nodes"), "add node_masks: true"
    for part in parts:
        if part not in known:
            raise GraphirError(
                f"`{found.name}` cannot bound {part}: it has masks on {' and '.join(known)} only", [hint]
            )


def check_origin(found: Pass, context: RunContext) -> None:
    """`GraphirError` for an origin of another graph, and for a pass that learns no masks."""
    if context.origin is None:
        return
    if not getattr(found, "learns", True) or getattr(found, "masks", ("edges",)) == ("weights",):
        raise GraphirError(
            f"`{found.name}` learns no masks on edges, nodes or neurons, so it cannot start from those of a circuit",
            ["learn with `edge_pruning`"],
        )
    graph = context.origin.graph
    if graph.model_hash != context.graph.model_hash or len(graph.edges) != len(context.graph.edges):
        raise GraphirError("learning starts from a circuit of another model or graph", ["discover both on one graph"])


def keep_top(scores: np.ndarray, count: int, *, absolute: bool = False) -> np.ndarray:
    """A boolean mask of the `count` highest scores; ties go to the earlier entry. Not-a-number ranks last."""
    values = np.nan_to_num(np.abs(scores) if absolute else scores, nan=-np.inf)
    kept = np.zeros(len(values), dtype=bool)
    kept[np.argsort(-values, kind="stable")[:count]] = True
    return kept


def count_for(density: float, total: int) -> int:
    """How many of `total` a density bound allows: the bound holds exactly, at least one is kept.

    Raises `GraphirError` where the bound allows none.
    """
    count = int(np.floor(density * total + 1e-9))
    if count < 1:
        raise GraphirError(
            f"a density of {density:.4%} of {total} leaves nothing to keep",
            [f"the smallest circuit of one is {1 / total:.4%}"],
        )
    return min(count, total)


def provenance_of(found: Pass, context: RunContext, **more: Any) -> dict[str, Any]:
    """What a circuit records about how it came about."""
    return {
        **found.describe(), "seed": context.seed, "task": context.task.name, "data": context.task.identity,
        "model": context.graph.model_hash, "equivalence": context.graph.equivalence, "torch": torch.__version__,
        "constraints": {c.part: c.density for c in context.constraints},
        **({} if context.origin is None else {"origin": context.origin.name}), **more,
    }  # fmt: skip
