"""A circuit as a torch module: called as the model is called, it answers with everything else ablated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from graphir.errors import DataError, GraphirError
from graphir.run.constants import reference_of
from graphir.run.masks import Masks
from graphir.run.noise import noisy_reference
from graphir.run.program import MaskedProgram, Reference, lower
from graphir.tracing.exported import Example, name_inputs

if TYPE_CHECKING:
    from graphir.circuit import Circuit


def hard_masks(circuit: Circuit, program: MaskedProgram, *, complement: bool = False) -> Masks:
    """The circuit's masks of zeros and ones for `program`: an edge is kept if it and the node that writes it are.

    The complement keeps the edges and the weights that the circuit drops, and every edge where it drops none
    (`Circuit.masks_weights_alone`). Learned ablation constants go with the masks.
    """
    kept = circuit.effective_edges
    flipped = complement and not circuit.masks_weights_alone
    edges = torch.as_tensor(~kept if flipped else kept).to(program.device, program.dtype)
    weights = {
        name: torch.as_tensor(~mask if complement else mask).to(program.device)
        for name, mask in ((name, np.asarray(mask, bool)) for name, mask in circuit.weights.items())
    }
    reference = reference_of(program, circuit.constants) if circuit.constants else None
    return Masks(edges=edges, weights=weights or None, reference=reference)


class CircuitModule(nn.Module):
    """The model cut down to a circuit; with `complement`, to everything but the circuit.

        module = Circuit.load(folder, model).as_module()
        out = module(**batch, counterfactual=other)

    Inputs are those of the model, named or positional as it was traced; the output is the model's own. What stands in
    for a part that is not kept is the circuit's ablation: under `interchange` its value on `counterfactual`, which has
    the form of the inputs (a mapping, or a tuple); under means those that `take_means` has taken; under `noise`
    its value in a run with noisy embeddings; under `optimal` the circuit's constants; under `zero` nothing.

    The module owns no parameters and its `state_dict` is empty: masks belong to the circuit, weights to the model,
    which is used as it is, not copied. To run elsewhere or in another precision, move the model and load the circuit
    onto it; moving the module is a `GraphirError`.
    """

    def __init__(self, circuit: Circuit, *, complement: bool = False) -> None:
        super().__init__()
        self.circuit = circuit
        self.complement = complement
        self.program: MaskedProgram = lower(circuit.graph)
        self.masks = hard_masks(circuit, self.program, complement=complement)
        self.reference: Reference | None = None

    def forward(self, *args: Tensor, counterfactual: Example | Tensor | None = None, **kwargs: Tensor) -> Any:
        """The model's output on the inputs, under the circuit's masks.

        Raises `GraphirError` where the ablation lacks what it needs, `TraceError` for inputs that differ in name from
        those the model was traced with, `DataError` where a counterfactual differs in shape.
        """
        if args and kwargs:
            raise GraphirError("give all inputs by position or all by name", ["as the model was traced"])
        batch: Example = kwargs or args
        return self.program(batch, masks=self.masks, reference=self._reference(batch, counterfactual))

    def take_means(self, batches: Iterable[Example]) -> None:
        """Take the means over `batches` of inputs, for mean ablation: one for each position where the circuit was found
        against `mean by position` or `mean by template`. Those of a template are of inputs of that template alone."""
        self.reference = self.program.means(batches, per_position=self.circuit.ablation != "mean")

    def _reference(self, batch: Example, counterfactual: Example | Tensor | None) -> Reference:
        match self.circuit.ablation:
            case "zero":
                return Reference()
            case "mean" | "mean by position" | "mean by template":
                if self.reference is None:
                    raise GraphirError(
                        "this circuit ablates to means, and there are none yet",
                        ["call `module.take_means(batches)` with inputs to average over"],
                    )
                return self.reference
            case "noise":
                return noisy_reference(self.program, batch)
            case "optimal":
                return self._constants()
        if counterfactual is None:
            raise GraphirError(
                "this circuit ablates by interchange, which needs a counterfactual",
                ["pass `counterfactual=` with inputs of the same shape that ask for another answer"],
            )
        other: Example = (counterfactual,) if isinstance(counterfactual, Tensor) else counterfactual
        _check_shapes(batch, other)
        return self.program.reference(other)

    def _constants(self) -> Reference:
        if self.reference is None:
            if not self.circuit.constants:
                raise GraphirError(
                    "this circuit ablates to learned constants, and it has none",
                    ["learn them: `passes.optimal_constants.with_optimal_constants(circuit, program, task)`"],
                )
            self.reference = reference_of(self.program, self.circuit.constants)
        return self.reference

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CircuitModule:
        """What `to`, `cuda` and `half` call. The traced program cannot follow, so only moves to where it is pass."""
        probe = torch.empty(0, device=self.program.device, dtype=self.program.dtype)
        moved = fn(probe)
        if (moved.device, moved.dtype) != (probe.device, probe.dtype):
            raise GraphirError(
                "a circuit cannot be moved or cast", ["move the model, then `Circuit.load(folder, model).as_module()`"]
            )
        return self

    def extra_repr(self) -> str:
        """The circuit in one line."""
        return f"{self.circuit!r}{', complement' if self.complement else ''}, ablation {self.circuit.ablation}"


def _check_shapes(batch: Example, counterfactual: Example) -> None:
    theirs = name_inputs(counterfactual)
    for name, value in name_inputs(batch).items():
        if name in theirs and theirs[name].shape != value.shape:
            ours, other = tuple(value.shape), tuple(theirs[name].shape)
            raise DataError(
                f"the counterfactual's `{name}` has shape {other}, the input's {ours}",
                ["interchange swaps values token by token: change words one for one"],
            )
