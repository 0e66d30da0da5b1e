"""The same analysis at several steps: how far each unit moves, and whether the blocks stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsl.running.analyzing import AnalysisStage, RepresentationsStage, describe_distance, distance_of
from dsl.running.failures import located
from dsl.running.keys import describe
from dsl.running.stage import Stage
from dsl.running.storing import read_numbers, write_numbers
from graphir.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dsl.running.workplace import Workplace
    from dsl.spec import DriftSpec

FEWEST = 3
"""Units that blocks need."""


@dataclass(frozen=True, eq=False)
class Drifted:
    """What `passes.analyze.dynamics.Dynamics` says, as plain arrays: `names` (N) are the units that all steps have,
    `dropped` the others; `labels` the analyses and `steps` (T) their numbers; `blocks` (T, N) the block of each unit.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    steps: tuple[float, ...]
    metric: str
    blocks: NDArray[np.int64]
    from_before: NDArray[np.float64]
    from_first: NDArray[np.float64]
    to_last: NDArray[np.float64]
    agreement: NDArray[np.float64]
    mean: NDArray[np.float64]
    dropped: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            each.name: value.tolist() if isinstance(value := getattr(self, each.name), np.ndarray)
            else list(value) if isinstance(value, tuple) else value
            for each in fields(self)
        }  # fmt: skip

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Drifted:
        """From what `to_json` gave."""
        texts: dict[str, Any] = {name: tuple(data[name]) for name in ("names", "labels", "steps", "dropped")}
        arrays = ("from_before", "from_first", "to_last", "agreement", "mean")
        numbers: dict[str, Any] = {name: np.array(data[name], np.float64) for name in arrays}
        return cls(**texts, metric=data["metric"], blocks=np.array(data["blocks"], np.int64), **numbers)


class DriftStage(Stage[Drifted]):
    """Follow units over steps."""

    kind = "drift"

    def __init__(self, spec: DriftSpec) -> None:
        super().__init__(spec.name, spec.span, f"following the units of `{spec.name}`")
        self.spec = spec

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """What each step holds, the distance, the options; labels are those of the file."""
        options = {each.name: describe(getattr(self.spec.options, each.name)) for each in fields(self.spec.options)}
        return {
            "steps": [RepresentationsStage(each) for each in self.spec.analyses],
            "labels": [each.name for each in self.spec.analyses],
            "method": describe_distance(self.spec.analyses[0].method),
            "options": options,
        }

    def run(self, place: Workplace) -> Drifted:
        """Follow. `StageError` for too few units that all steps have."""
        from passes.analysis_options import BlocksOptions
        from passes.analyze.dynamics import follow

        spec, options = self.spec, self.spec.options
        found = [place.value(RepresentationsStage(each)) for each in spec.analyses]
        matrices = [place.value(AnalysisStage(each)) for each in spec.analyses]
        with located(self.doing, self.span), place.reporter.stage(f"{spec.name}: drift"):
            shared = [name for name in found[0].names if all(name in each.names for each in found[1:])]
            if len(shared) < FEWEST:
                raise DataError(
                    f"the steps have {len(shared)} units in common, and a drift needs at least {FEWEST}",
                    ["steps of one architecture, traced alike", "larger circuits"],
                )
            steps = options.steps or tuple(map(float, range(len(found))))
            known = {
                step: matrix.reordered(np.array([matrix.names.index(name) for name in shared]))
                for step, matrix in zip(steps, matrices, strict=True)
            }
            made = follow(
                distance_of(spec.analyses[0].method),
                {step: each.select(shared) for step, each in zip(steps, found, strict=True)},
                BlocksOptions(count=options.count, permutations=options.permutations, seed=options.seed),
                known=known,
            )
        every = dict.fromkeys(name for each in found for name in each.names)
        return Drifted(
            tuple(shared), tuple(each.name for each in spec.analyses), made.steps, made.matrices[0].metric,
            np.stack([each.labels for each in made.blocks]), made.from_before, made.from_first, made.to_last,
            made.agreement, made.mean, tuple(name for name in every if name not in shared),
        )  # fmt: skip

    def save(self, value: Drifted, folder: Path) -> None:
        """As JSON."""
        write_numbers(folder, value.to_json())

    def load(self, folder: Path, place: Workplace) -> Drifted:
        """The same."""
        return Drifted.of_json(read_numbers(folder))
