"""Distances between what units represent: the representations, collected once, and the matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsl.running.failures import located
from dsl.running.keys import describe
from dsl.running.samples import Samples, data_stage, samples_of
from dsl.running.stage import Stage
from dsl.running.storing import read_numbers, write_numbers
from dsl.running.units import MOST, describe_units, subject, units_of
from dsl.spec import CorpusSpec
from graphir.errors import DataError

if TYPE_CHECKING:
    from dsl.running.samples import Data
    from dsl.running.workplace import Workplace
    from dsl.spec import AnalysisSpec, ClusterSpec, MethodSpec
    from passes.analyze.distances.base import Distance, DistanceMatrix
    from passes.analyze.representations import Representations

KEPT = 256_000_000
"""Bytes of representations that are kept in the cache; more are collected again."""
ARRAYS = "arrays.safetensors"
MATRIX = "matrix.npz"


class RepresentationsStage(Stage["Representations"]):
    """What the units hold on the samples, from one pass."""

    kind, version = "representations", 2

    def __init__(self, spec: AnalysisSpec | ClusterSpec) -> None:
        super().__init__(f"collect {spec.name}", spec.span, f"collecting the {spec.units} of `{spec.name}`", spec.name)
        self.spec = spec
        assert spec.data is not None
        self.data: Data = spec.data

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """Units, samples, pooling."""
        model = self.spec.graph.model
        return describe_units(self.spec, place) | {
            "data": data_stage(self.data, model),
            "pooling": pooling_of(self.data),
        }

    def run(self, place: Workplace) -> Representations:
        """Collect. `StageError` for too few samples, values that are not finite, samples too long for the model."""
        spec = self.spec
        with located(self.doing, self.span):
            names = units_of(spec, place)
            if len(names) > MOST:
                raise DataError(
                    f"{len(names):,} {spec.units} are too many to compare each with each other: at most {MOST:,}",
                    ["choose some, for example `where layer == 3`", "analyze layers or mlps"],
                )
            return collect(spec, place, names)

    def save(self, value: Representations, folder: Path) -> None:
        """Arrays as safetensors, names as JSON."""
        from safetensors.numpy import save_file

        save_file({str(i): array for i, array in enumerate(value.arrays)}, folder / ARRAYS)
        about = {"names": list(value.names), "pooling": value.pooling, "provenance": dict(value.provenance)}
        write_numbers(folder, about)

    def load(self, folder: Path, place: Workplace) -> Representations:
        """The same."""
        from safetensors.numpy import load_file

        from passes.analyze.representations import Representations

        about, arrays = read_numbers(folder), load_file(folder / ARRAYS)
        names = tuple(about["names"])
        found = tuple(arrays[str(i)] for i in range(len(names)))
        return Representations(names, found, about["pooling"], about["provenance"])

    def complete(self, value: Representations) -> bool:
        """Large ones are not kept."""
        return sum(array.nbytes for array in value.arrays) <= KEPT


class AnalysisStage(Stage["DistanceMatrix"]):
    """The distances between all pairs of units."""

    kind = "analysis"

    def __init__(self, spec: AnalysisSpec) -> None:
        super().__init__(spec.name, spec.method.span, f"comparing units by {spec.method.name}")
        self.spec = spec

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """Representations and distance."""
        return {"representations": RepresentationsStage(self.spec), "method": describe_distance(self.spec.method)}

    def run(self, place: Workplace) -> DistanceMatrix:
        """Compare. `StageError` for what the distance cannot be computed of."""
        found = place.value(RepresentationsStage(self.spec))
        with located(self.doing, self.span), place.reporter.stage(f"{self.spec.name}: {self.spec.method.name}"):
            return distance_of(self.spec.method).matrix(found)

    def save(self, value: DistanceMatrix, folder: Path) -> None:
        """As npz."""
        from passes.analyze.tables import save_matrix

        save_matrix(value, folder / MATRIX)

    def load(self, folder: Path, place: Workplace) -> DistanceMatrix:
        """The same."""
        from passes.analyze.tables import load_matrix

        return load_matrix(folder / MATRIX)


def pooling_of(data: Data) -> str:
    """What becomes of positions: what the corpus says; of a task's prompts the last one counts."""
    return data.pooling if isinstance(data, CorpusSpec) else "last"


def describe_distance(method: MethodSpec) -> dict[str, Any]:
    """A method of the analyzer and all its options, seeds as well."""
    return {"name": method.name} | {f.name: describe(getattr(method.options, f.name)) for f in fields(method.options)}


def distance_of(method: MethodSpec) -> Distance:
    """The distance that computes."""
    from passes.analyze.registry import find_distance

    made: Distance = find_distance(method.name)(
        **{f.name: getattr(method.options, f.name) for f in fields(method.options)}
    )
    return made


def collect(
    spec: AnalysisSpec | ClusterSpec, place: Workplace, names: Any, pooling: str | None = None
) -> Representations:
    """What sites hold on a section's samples; of a circuit of weights with those it leaves out at zero."""
    from passes.analyze.representations import collect_representations

    assert spec.data is not None
    program, samples = place.program(spec.graph), samples_of(spec.data, spec.graph.model, place)
    chosen: Any = pooling or pooling_of(spec.data)
    with place.reporter.stage(f"collect {spec.name}"), fitting(samples):
        return collect_representations(
            program, samples.batches(), names, pooling=chosen, weights=weights_of(spec, place)
        )


def weights_of(spec: AnalysisSpec | ClusterSpec, place: Workplace) -> Mapping[str, Any] | None:
    """What parameters are multiplied by: of a circuit of weights those it leaves out are zero. None of others."""
    circuit = subject(spec, place)
    if circuit is None or not circuit.weights:
        return None
    import torch

    tensors = place.program(spec.graph).traced.tensors
    return {name: torch.as_tensor(keep).to(tensors[name]) for name, keep in circuit.weights.items()}


@contextmanager
def fitting(samples: Samples) -> Iterator[None]:
    """A sample longer than the model has positions is an error of the data, and torch's only says which index."""
    try:
        yield
    except (IndexError, RuntimeError) as error:
        text = str(error)
        if not any(word in text for word in ("out of range", "out of bounds", "must match the size", "expected size")):
            raise
        said = text.splitlines()[0]
        raise DataError(
            f"the model cannot take the samples of `{samples.name}`, up to {samples.longest} tokens: {said}",
            ["lower the corpus's `length`", "a model of one length needs samples of that length"],
        ) from error
