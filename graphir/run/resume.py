"""Run one batch under many edge masks, each time from the first component whose masks have changed.

A search toggles edges one by one. What lies before the first reader of a toggled edge does not change, so its values
are kept from the run before: searched from the output backwards, half the work is saved on average and nearly all of
it near the output. Hard or soft masks, no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphir.run.component import ComponentPlan
from graphir.run.masked_run import MaskedRun
from graphir.run.masks import Masks
from graphir.run.program import MaskedProgram, Reference
from graphir.run.stream_program import StreamProgram
from graphir.tracing.exported import Example


class ResumableRun:
    """Called with edge masks (E,), gives the program's output tensors on `batch` as `MaskedProgram.outputs` does.

    Holds the values of one run: writers × B × S × D floats. A model without streams is run anew each time.
    `resumed_from` is the step (of `program.steps`) that the last call began at.
    """

    def __init__(
        self,
        program: MaskedProgram,
        batch: Example,
        reference: Reference,
        positions: Tensor | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.program, self.batch, self.reference, self.positions, self.weights = (
            program, batch, reference, positions, weights,
        )  # fmt: skip
        self.resumed_from = 0
        self._last: Tensor | None = None
        self._outputs: list[Tensor] = []
        self._run: MaskedRun | None = None
        self._steps = reading_steps(program) if isinstance(program, StreamProgram) else None

    def __call__(self, edges: Tensor) -> list[Tensor]:
        """The output tensors under these masks."""
        with torch.no_grad():
            if not isinstance(self.program, StreamProgram):
                masks = Masks(edges=edges, weights=self.weights)
                return self.program.outputs(self.batch, masks=masks, reference=self.reference, positions=self.positions)
            if self._run is None:
                env = self.program.prologue(self.program.bind(self.batch, self.weights))
                self._run = MaskedRun(self.program, env, Masks(edges=edges, weights=self.weights), self.reference)
                self._outputs = self._run.outputs(self.positions)
            elif (first := self._first_change(edges)) is not None:
                self.resumed_from = first
                self._run.masks = Masks(edges=edges, weights=self.weights)
                self._outputs = self._run.outputs(self.positions, first)
            self._last = edges.clone()
            return self._outputs

    def _first_change(self, edges: Tensor) -> int | None:
        assert self._last is not None
        assert self._steps is not None
        changed = self._steps[edges != self._last]
        return int(changed.min()) if len(changed) else None


def reading_steps(program: StreamProgram) -> Tensor:
    """For each edge (E,) the position in `program.steps` of the component that reads it."""
    steps = torch.zeros(len(program.graph.edges), dtype=torch.long, device=program.device)
    for place, step in enumerate(program.steps):
        if isinstance(step, ComponentPlan):
            for site in program.layout.sites[step.region.leaf]:
                steps[site.edges.reshape(-1)] = place
    return steps
