"""Masked weights that are made where they are used, and made again in the backward instead of being kept.

A backward needs the weights of every product. For masked ones autograd would keep a copy of all of them until then, as
large as the model; made component by component, they are never more than those of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

if TYPE_CHECKING:
    from graphir.run.component import ComponentPlan


def own_parameters(
    parameters: Mapping[fx.Node, str], steps: Iterable[fx.Node | ComponentPlan], before: Iterable[fx.Node]
) -> dict[fx.Node, str]:
    """Those of the parameters, by their nodes, that one component alone makes use of, and nothing `before` it."""
    elsewhere, used = set(before), Counter[fx.Node]()
    for step in steps:
        if isinstance(step, fx.Node):
            elsewhere.update(step.all_input_nodes)
        elif step.whole is not None:
            used.update(set(step.whole.inputs))
    names = Counter(parameters.values())
    return {node: name for node, name in parameters.items() if names[name] == used[node] == 1 and node not in elsewhere}


@dataclass(frozen=True, eq=False)
class _View:
    """A tensor that was saved for the backward, as a view of one that can be made again."""

    make: Callable[[], Tensor]
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def tensor(self) -> Tensor:
        with torch.no_grad():
            return self.make().as_strided(self.size, self.stride, self.offset)


def made_again(made: Iterable[tuple[Tensor, Callable[[], Tensor]]]) -> torch.autograd.graph.saved_tensors_hooks:
    """A context in which autograd saves none of these tensors nor views of them, but calls their functions, which must
    give the same values, when it needs them. The tensors must live as long as the context."""
    known = {tensor.untyped_storage().data_ptr(): make for tensor, make in made if tensor.numel()}

    def pack(saved: Tensor) -> Any:
        make = known.get(saved.untyped_storage().data_ptr())
        return saved if make is None else _View(make, saved.size(), saved.stride(), int(saved.storage_offset()))

    def unpack(packed: Any) -> Tensor:
        found: Tensor = packed.tensor() if isinstance(packed, _View) else packed
        return found

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
