"""How much the supports of task vectors share, of the whole, by layer and by kind of parameter.

    near.overlap(far).whole.iou

The numbers are those of `graphir.algebra_overlap`: IoU, IoMin, shared and remaining fractions, and the IoU to expect of
random supports of these sizes. A support is where a vector is not zero. What is in common is counted parameter by
parameter, so that vectors of any size take no more memory than their largest tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from graphir.algebra_overlap import HEADERS, Overlap, overlap_rows
from graphir.columns import columns
from graphir.errors import GraphirError, ModelMismatchError

if TYPE_CHECKING:
    from torch import Tensor

    from graphir.task_vectors import TaskVector

_NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


@dataclass(frozen=True, eq=False)
class SupportOverlap:
    """Overlap of supports. `names` are the vectors', `parameters` the overlap within each parameter, in order."""

    names: tuple[str, ...]
    parameters: Mapping[str, Overlap] = field(repr=False)

    @cached_property
    def whole(self) -> Overlap:
        """Of all parameters together."""
        return _sum(self.parameters.values(), len(self.names))

    def by_layer(self) -> dict[str, Overlap]:
        """By the number in the parameter's name (`layers.3.mlp.up.weight`: 3); `-` where it has none."""
        return self._by(layer_of)

    def by_kind(self) -> dict[str, Overlap]:
        """By what the parameter is in its layer, its name behind the number: `mlp.up.weight`."""
        return self._by(kind_of)

    def _by(self, group: Any) -> dict[str, Overlap]:
        found: dict[str, list[Overlap]] = {}
        for name, each in self.parameters.items():
            found.setdefault(group(name), []).append(each)
        return {name: _sum(each, len(self.names)) for name, each in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain data, in the form of `graphir.algebra_overlap.CircuitOverlap.to_json`: of the weights the whole,
        `by_layer` and `by_kind`."""
        by_layer = {name: each.to_json() for name, each in self.by_layer().items()}
        by_kind = {name: each.to_json() for name, each in self.by_kind().items()}
        return {
            "names": list(self.names),
            "weights": {**self.whole.to_json(), "by_layer": by_layer, "by_kind": by_kind},
        }

    def __str__(self) -> str:
        title = "overlap of " + ", ".join(name or "(unnamed)" for name in self.names)
        return f"{title}\n{columns(HEADERS, overlap_rows(self.to_json()))}"


def support_overlap(*vectors: TaskVector, totals: Mapping[str, int] | None = None) -> SupportOverlap:
    """How much the supports share. `totals` are the numbers of scalars of the parameters that there are to choose from;
    without it they are those of the parameters that any vector changes.

    Raises `ModelMismatchError` for vectors of different models.
    """
    if not vectors:
        raise GraphirError("an overlap needs at least one task vector")
    bases = list(dict.fromkeys(each.base for each in vectors if each.base))
    if len(bases) > 1:
        raise ModelMismatchError(f"the task vectors start from different models: {bases[0][:8]} and {bases[1][:8]}")
    names = totals if totals is not None else dict.fromkeys(name for each in vectors for name in each.deltas)
    found = {name: _of([each.deltas.get(name) for each in vectors], name, totals) for name in names}
    return SupportOverlap(tuple(each.name for each in vectors), found)


def layer_of(name: str) -> str:
    """The layer in a parameter's name, `-` where it names none."""
    found = _NUMBER.search(name)
    return found[1] if found else "-"


def kind_of(name: str) -> str:
    """The parameter's name behind its layer; all of it where it names none."""
    found = _NUMBER.search(name)
    return (name[found.end() :] or name[: found.start()]) if found else name


def _of(deltas: Sequence[Tensor | None], name: str, totals: Mapping[str, int] | None) -> Overlap:
    import torch

    known = [delta for delta in deltas if delta is not None]
    total = totals[name] if totals is not None else known[0].numel()
    if len({delta.shape for delta in known}) > 1:
        raise ModelMismatchError(f"`{name}` has shape {' and '.join(str(tuple(delta.shape)) for delta in known)}")
    if not known:
        nothing = (0,) * len(deltas)
        return Overlap(0, 0, nothing, total, nothing, nothing)
    masks = [torch.zeros_like(known[0], dtype=torch.bool) if delta is None else delta != 0 for delta in deltas]
    return replace(Overlap.of([mask.cpu().numpy() for mask in masks]), total=total)


def _sum(parts: Iterable[Overlap], operands: int) -> Overlap:
    found = list(parts)

    def total(key: str) -> int:
        return sum(getattr(each, key) for each in found)

    def by_operand(key: str) -> tuple[int, ...]:
        return tuple(sum(getattr(each, key)[place] for each in found) for place in range(operands))

    return Overlap(
        total("shared"), total("either"), by_operand("sizes"), total("total"), by_operand("common"),
        by_operand("of_first"),
    )  # fmt: skip
