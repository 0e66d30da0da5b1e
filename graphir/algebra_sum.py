"""The sum of circuits with weight masks: union of their edges, addition of their weights.

`union` keeps a weight once, however many operands keep it; the sum adds what each operand contributes,
W = Σ_i m_i ⊙ θ, so a weight that two of them keep counts twice (Mondorf, Wold and Plank, Circuit Compositions,
arXiv 2410.01434; task vectors add in the same way, see `task_vectors`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graphir.algebra import common_weights, union
from graphir.circuit import Circuit
from graphir.errors import GraphirError

if TYPE_CHECKING:
    from graphir.run.masks import Masks
    from graphir.run.program import MaskedProgram


@dataclass(frozen=True, eq=False)
class CircuitSum:
    """The sum of circuits of one model. `circuit` is their union, `factors` how often each weight of a masked
    parameter counts (unsigned, of the parameter's shape): 0 outside the union, 1 where one operand keeps it, more
    where several do."""

    circuit: Circuit
    factors: Mapping[str, NDArray[np.unsignedinteger[Any]]]

    def __post_init__(self) -> None:
        for parameter, counts in self.factors.items():
            kept = self.circuit.weights.get(parameter)
            if kept is None or not np.array_equal(counts > 0, kept):
                raise GraphirError(f"the factors of `{parameter}` are not those of a sum of the circuit's weights")
            counts.setflags(write=False)

    def masks(self, program: MaskedProgram) -> Masks:
        """Masks that run the sum: edges 0 or 1, weights multiplied by their factors; learned ablation constants go with
        them."""
        import torch

        from graphir.run.circuit_module import hard_masks

        factors = {
            parameter: torch.as_tensor(np.array(counts)).to(program.device, program.dtype)
            for parameter, counts in self.factors.items()
        }
        return replace(hard_masks(self.circuit, program), weights=factors or None)

    @property
    def doubled(self) -> dict[str, int]:
        """For each masked parameter, how many of its weights count more than once: where the sum interferes."""
        return {parameter: int((counts > 1).sum()) for parameter, counts in self.factors.items()}

    def __repr__(self) -> str:
        return f"CircuitSum({self.circuit!r}, {sum(self.doubled.values())} weights counted more than once)"


def with_factors(found: Circuit | CircuitSum) -> tuple[Circuit, Mapping[str, NDArray[Any]]]:
    """The circuit, of a sum the union, and what each weight of its masked parameters counts: 0 or 1, of a sum more."""
    return (found.circuit, found.factors) if isinstance(found, CircuitSum) else (found, found.weights)


def add(first: Circuit, *others: Circuit, ablation: str | None = None, name: str = "") -> CircuitSum:
    """The sum of circuits (see the module docstring). A circuit that masks no weights keeps each of them once.

    Raises as `graphir.algebra.union`.
    """
    operands = (first, *others)
    whole = union(*operands, ablation=ablation, name=name)
    masks = common_weights(operands)
    kind = np.uint8 if len(operands) < 256 else np.uint32
    factors: dict[str, NDArray[np.unsignedinteger[Any]]] = {
        p: np.asarray(np.sum([mask[p] for mask in masks], axis=0, dtype=kind)) for p in masks[0]
    }
    return CircuitSum(whole.with_(provenance={**whole.provenance, "operation": "sum"}), factors)
