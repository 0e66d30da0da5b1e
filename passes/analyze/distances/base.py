"""What a distance is: options in, a matrix over nodes out, with what is known about its error beside it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.errors import DataError
from passes.analysis_options import DistanceOptions
from passes.analyze.representations import FEWEST, Representations

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DistanceMatrix:
    """Pairwise distances (N, N) between nodes: symmetric, zero on the diagonal.

    `lower` and `upper` enclose the value: bounds that hold (`bounds="proven"`) or an interval over subsamples
    (`bounds="interval"`); None where there is neither. `local_optimum` says that a value is the best that a search
    found, not proven to be the least. `details` are further matrices (N, N) by name. `settings` are the options.
    """

    names: tuple[str, ...]
    values: Matrix
    metric: str
    samples: int
    lower: Matrix | None = None
    upper: Matrix | None = None
    bounds: str = ""
    local_optimum: bool = False
    details: Mapping[str, Matrix] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.names), len(self.names))
        for what, matrix in (("values", self.values), ("lower", self.lower), ("upper", self.upper)):
            if matrix is not None and matrix.shape != shape:
                raise DataError(f"{what} of shape {matrix.shape} for {len(self.names)} nodes")
        if not np.isfinite(self.values).all():
            raise DataError(f"distances by {self.metric} are not finite")
        if not np.allclose(self.values, self.values.T, atol=1e-8):
            raise DataError("a distance matrix must be symmetric")

    def __len__(self) -> int:
        return len(self.names)

    def between(self, left: str, right: str) -> float:
        """The distance of two nodes by name."""
        return float(self.values[self.names.index(left), self.names.index(right)])

    def reordered(self, order: NDArray[np.integer[Any]]) -> DistanceMatrix:
        """The same with its nodes in another order, or some of them."""
        grid = np.ix_(order, order)
        pick = {"lower": self.lower, "upper": self.upper}
        return replace(
            self,
            names=tuple(self.names[i] for i in order),
            values=self.values[grid],
            details={name: matrix[grid] for name, matrix in self.details.items()},
            **{name: None if matrix is None else matrix[grid] for name, matrix in pick.items()},  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class Distance(DistanceOptions, abc.ABC):
    """A distance between nodes. Subclasses say in `_compare` how two, or all, are compared."""

    def matrix(self, representations: Representations) -> DistanceMatrix:
        """Distances between all pairs, with an interval over subsamples where `subsamples` asks for one.

        Raises `DataError` where the representations do not allow it, saying which node and what to do.
        """
        self.check(representations)
        found = self.compare(representations)
        if not self.subsamples or found.bounds:
            return found
        lower, upper = self._interval(representations, found.values)
        return replace(found, lower=lower, upper=upper, bounds="interval")

    @abc.abstractmethod
    def compare(self, representations: Representations) -> DistanceMatrix:
        """The matrix without an interval."""

    def check(self, representations: Representations) -> None:
        """Raise `DataError` where these representations cannot be compared."""

    def made(self, representations: Representations, values: Matrix, **more: Any) -> DistanceMatrix:
        """The result with names and settings filled in: `values` made symmetric, tiny negatives and diagonal zero."""
        values = np.maximum((values + values.T) / 2, 0.0)
        np.fill_diagonal(values, 0.0)
        return DistanceMatrix(
            representations.names, values, self.name, representations.samples, settings=self.describe(), **more
        )

    def describe(self) -> dict[str, Any]:
        """Name and options."""
        return {"distance": self.name} | {f.name: getattr(self, f.name) for f in fields(self)}

    def _interval(self, representations: Representations, values: Matrix) -> tuple[Matrix, Matrix]:
        """Subsampling interval (Politis, Romano and Wolf 1999): half of the samples, without replacement.

        With τ = √n, the quantiles of √(b/(1 − b/n)) (θ_b − θ_n) stand for those of √n (θ_n − θ). Drawing with
        replacement would put pairs of equal examples into the sample, at distance zero.
        """
        n = representations.samples
        size = n // 2
        if size < FEWEST:
            raise DataError(f"{n} samples are too few for an interval over subsamples of half of them")
        rng = np.random.default_rng(self.seed)
        plain = replace(self, subsamples=0)
        draws = np.stack(
            [
                plain.matrix(representations.rows(np.sort(rng.choice(n, size, replace=False)))).values
                for _ in range(self.subsamples)
            ]
        )
        root = np.sqrt(size / (1 - size / n)) * (draws - values)
        low, high = np.quantile(root, [(1 - self.level) / 2, (1 + self.level) / 2], axis=0) / np.sqrt(n)
        lower, upper = np.maximum(values - high, 0.0), np.maximum(values - low, 0.0)
        return np.minimum(lower, values), np.maximum(upper, values)


def centered(array: NDArray[Any]) -> Matrix:
    """Columns less their mean, in float64."""
    values = np.asarray(array, np.float64)
    found: Matrix = values - values.mean(0)
    return found


def refuse_constant(representations: Representations, what: str) -> None:
    """Raise `DataError` where a node holds the same on every sample, which `what` is not defined for."""
    constant = representations.constant()
    if constant:
        shown = ", ".join(f"`{name}`" for name in constant[:5])
        raise DataError(
            f"{shown} hold{'s' if len(constant) == 1 else ''} the same on all {representations.samples} samples: "
            f"{what} is not defined",
            [
                f"leave constant nodes out: `where name != {constant[0]}` in a file, `varying()` in Python",
                "`gromov_wasserstein` takes them",
            ],
        )


def refuse_unequal_widths(representations: Representations, what: str) -> None:
    """Raise `DataError` where nodes differ in width."""
    widths = dict(zip(representations.names, (a.shape[1] for a in representations.arrays), strict=True))
    if len(set(widths.values())) > 1:
        first = next(iter(widths))
        other = next(name for name in widths if widths[name] != widths[first])
        raise DataError(
            f"{what} needs nodes of one width: `{first}` has {widths[first]} features, `{other}` {widths[other]}",
            ["compare nodes of one kind, or the residual stream", "gromov_wasserstein, cka and rsa take any widths"],
        )


def pairs(count: int) -> list[tuple[int, int]]:
    """All (i, j) with i < j."""
    return [(i, j) for i in range(count) for j in range(i + 1, count)]
