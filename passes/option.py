"""One option of a pass, and the options that several methods share. Torch-free; see `passes.options`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphir.errors import GraphirError

if TYPE_CHECKING:
    from graphir.run.program import MaskedProgram


def option(
    default: Any,
    doc: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    unit: str = "",
) -> Any:
    """A dataclass field with its meaning and bounds: `minimum`/`maximum` inclusive, `above` exclusive.

    `unit="fraction"` marks a share that may be written in percent.
    """
    bounds = {"minimum": minimum, "maximum": maximum, "above": above}
    return field(default=default, metadata={"doc": doc, "unit": unit, **bounds})


@dataclass(frozen=True, kw_only=True)
class WeightOptions:
    """Which weights are masked beside the matrices of heads, MLPs and layers: options of every method that masks
    weights. Biases never are."""

    embeddings: bool = option(False, "mask the weights of embeddings and of the output, too")
    norms: bool = option(False, "mask the weights of norms, too")

    def masked_parameters(self, program: MaskedProgram) -> tuple[str, ...]:
        """The parameters of a program that the masks cover; a density of weights is of all of these.

        Raises `GraphirError` where there are none.
        """
        found = program.parameters_of(
            embeddings=self.embeddings, norms=self.norms, outputs=bool(getattr(self, "outputs", False))
        )
        if not found:
            raise GraphirError("this model has no weights to mask", ["mask edges or nodes"])
        return found
