"""Results of the analyzer as files: matrices as CSV and npz, groups as tables, everything as JSON; plots by matplotlib.

Each writer takes plain arrays and values of `passes.analyze`; which of them belongs to a section's result is in
`dsl.running.exporting`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphir.errors import DataError
from graphir.serial import write_text

if TYPE_CHECKING:
    from passes.analyze.blocks import Blocks
    from passes.analyze.distances.base import DistanceMatrix


def write_matrix(matrix: DistanceMatrix, path: Path) -> None:
    """Writes `.csv`, the distances alone, or `.npz`, all there is."""
    from passes.analyze.tables import save_matrix

    path.parent.mkdir(parents=True, exist_ok=True)
    save_matrix(matrix, path)


def write_heatmap(matrix: DistanceMatrix, path: Path, blocks: Blocks | None = None) -> None:
    """Writes a heat map, with a frame around each block."""
    from passes.analyze.plots import plot_matrix

    path.parent.mkdir(parents=True, exist_ok=True)
    plot_matrix(matrix, path, blocks)


def write_dendrogram(found: Any, path: Path, *, height: float | None = None) -> None:
    """Writes the tree of a hierarchy, or of average linkage on a matrix."""
    from passes.analyze.plots import plot_dendrogram

    if len(found.names) < 2:
        raise DataError("a tree needs at least two units")
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_dendrogram(found, path, height=height)


def write_table(header: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> None:
    """Writes CSV; numbers in full precision, a missing one as an empty cell."""
    out = io.StringIO(newline="")
    table = csv.writer(out, lineterminator="\n")
    table.writerow(header)
    for row in rows:
        table.writerow([_cell(value) for value in row])
    write_text(path, out.getvalue())


def write_arrays(arrays: Mapping[str, Any], path: Path) -> None:
    """Writes npz, names as texts; nothing is pickled, the same bytes for the same arrays."""
    from passes.analyze.tables import write_npz

    path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(path, {name: np.asarray(array) for name, array in arrays.items()})


def write_json(data: Mapping[str, Any], path: Path) -> None:
    """Writes JSON; a number that it has no form for is null."""
    text = json.dumps(_finite(data), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else repr(float(value))
    text = str(value)
    # A name that a spreadsheet would take for a formula is marked as text.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) and not isinstance(value, int) else text


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def matrix_json(matrix: DistanceMatrix) -> dict[str, Any]:
    """A matrix with all there is about it, as plain data."""
    data: dict[str, Any] = {
        "names": list(matrix.names), "metric": matrix.metric, "samples": matrix.samples, "bounds": matrix.bounds,
        "local_optimum": matrix.local_optimum, "settings": dict(matrix.settings), "distances": matrix.values,
    }  # fmt: skip
    data |= {side: array for side in ("lower", "upper") if (array := getattr(matrix, side)) is not None}
    return data | {"details": dict(matrix.details)}


def write_effects(rows: Sequence[Sequence[Any]], path: Path) -> None:
    """Writes a plot of what ablating each group does (filled) beside the mean of random groups (hollow); the rows are
    (group, size, statistic, effect, random, …), of which the first statistic is drawn."""
    from passes.analyze.plots import plot_effects

    drawn = [row for row in rows if row[2] == rows[0][2]]
    names, values, others = ([row[i] for row in drawn] for i in (0, 3, 4))
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_effects(names, values, others, path, label=str(rows[0][2]))


def write_drift(drift: Any, path: Path) -> None:
    """Writes a plot of how far each unit is from where it was at the first step, over the steps. `drift` has `names`,
    `steps`, `from_first` (steps, units) and `metric`."""
    from passes.analyze.plots import plot_lines

    path.parent.mkdir(parents=True, exist_ok=True)
    plot_lines(drift.names, drift.steps, drift.from_first, path, label=f"{drift.metric} from the first step")
