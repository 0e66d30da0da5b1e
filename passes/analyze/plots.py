"""Drawings of analyses by matplotlib: heat map, dendrogram, drift; in black and white, the same file each time.

The suffix of a file says its format: `.svg`, `.png` or `.pdf`. Nothing global of matplotlib is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graphir.errors import GraphirError
from passes.analyze.distances.base import DistanceMatrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from passes.analyze.blocks import Blocks
    from passes.analyze.dynamics import Dynamics
    from passes.analyze.hierarchy import Hierarchy

_UNDATED: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_DASHES = ("-", "--", "-.", ":")
_MARKS = "osv^Dx+*"


def plot_matrix(matrix: DistanceMatrix, path: str | Path, blocks: Blocks | None = None) -> None:
    """A heat map, dark where nodes are near, with a frame around each run of nodes of one block."""
    from matplotlib.patches import Rectangle

    n = len(matrix)
    with _figure(path, _side(n), _side(n)) as (figure, axes):
        image = axes.imshow(matrix.values, cmap="gray", interpolation="nearest")
        _name_ticks(axes, matrix.names)
        if blocks is not None:
            edges = [0, *blocks.boundaries, n]
            for start, stop in pairwise(edges):
                box = Rectangle((start - 0.5, start - 0.5), stop - start, stop - start, fill=False)
                # Black within white shows on every gray.
                box.set(edgecolor="black", linewidth=2.5)
                inner = Rectangle((start - 0.5, start - 0.5), stop - start, stop - start, fill=False)
                inner.set(edgecolor="white", linewidth=0.9, linestyle="--")
                axes.add_patch(box)
                axes.add_patch(inner)
            axes.set_title(f"{blocks.count} blocks, separation {blocks.score.separation:.2f}", fontsize=9)
        bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04)
        bar.set_label(_label(matrix), fontsize=8)


def plot_dendrogram(found: DistanceMatrix | Hierarchy, path: str | Path, *, height: float | None = None) -> None:
    """The tree of a hierarchy, or of average linkage on a distance matrix; a dashed line where it is cut."""
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    if isinstance(found, DistanceMatrix):
        tree, label = linkage(squareform(found.values, checks=False), method="average"), _label(found)
    else:
        tree, label = found.tree, "Ward height"
    with _figure(path, _side(len(found.names)) * 1.4, 3.6) as (_, axes):
        dendrogram(
            tree, labels=list(found.names), ax=axes, color_threshold=0, above_threshold_color="black",
            leaf_rotation=90, leaf_font_size=_size(len(found.names)),
        )  # fmt: skip
        axes.set_ylabel(label, fontsize=8)
        if height is not None:
            axes.axhline(height, color="black", linestyle="--", linewidth=0.8)


def plot_drift(dynamics: Dynamics, path: str | Path, *, nodes: Sequence[str] | None = None) -> None:
    """How far each node is from where it was at the first step, over the steps; by dash and mark, not by color."""
    names = list(nodes or dynamics.names)
    chosen = [dynamics.names.index(name) for name in names]
    label = f"{dynamics.matrices[0].metric} from the first step"
    plot_lines(names, dynamics.steps, dynamics.from_first[:, chosen], path, label=label)


def plot_lines(
    names: Sequence[str], steps: Sequence[float], values: NDArray[np.float64], path: str | Path, *, label: str
) -> None:
    """A line for each name over the steps: `values` (steps, names)."""
    with _figure(path, 6.0, 3.8) as (_, axes):
        for number, name in enumerate(names):
            gray = 0.65 * number / max(len(names) - 1, 1)
            axes.plot(
                steps, values[:, number], linestyle=_DASHES[number % len(_DASHES)],
                marker=_MARKS[number % len(_MARKS)], markersize=3.5, color=str(round(gray, 3)), linewidth=1, label=name,
            )  # fmt: skip
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylabel(label, fontsize=8)
        axes.legend(fontsize=6, ncols=1 + len(names) // 12, frameon=False)


def plot_curve(
    names: Sequence[str], values: NDArray[np.float64], path: str | Path, *, label: str, blocks: Blocks | None = None
) -> None:
    """A quantity along the nodes (read-out accuracy, lesion), with a dashed line at each block boundary."""
    with _figure(path, max(4.0, 0.25 * len(names)), 3.2) as (_, axes):
        axes.plot(range(len(names)), values, color="black", marker="o", markersize=3, linewidth=1)
        axes.set_xticks(range(len(names)), list(names), rotation=90, fontsize=_size(len(names)))
        axes.set_ylabel(label, fontsize=8)
        for boundary in blocks.boundaries if blocks is not None else ():
            axes.axvline(boundary - 0.5, color="black", linestyle="--", linewidth=0.8)


def plot_effects(
    names: Sequence[str], values: Sequence[float], random: Sequence[float], path: str | Path, *, label: str
) -> None:
    """What each group does (filled marks) beside the mean of random groups (hollow ones)."""
    with _figure(path, max(4.0, 0.3 * len(names) + 1.5), 3.2) as (_, axes):
        places = range(len(names))
        axes.plot(places, values, "o", color="black", markersize=5, label="group")
        axes.plot(places, random, "o", markerfacecolor="white", color="black", markersize=5, label="random, mean")
        axes.set_xticks(places, list(names), rotation=90, fontsize=_size(len(names)))
        axes.set_ylabel(label, fontsize=8)
        axes.legend(fontsize=6, frameon=False)


@contextmanager
def _figure(path: str | Path, width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of one plot, written when the block ends. Raises `GraphirError` for another format."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix not in _UNDATED:
        raise GraphirError(f"no plot is written as `{path.suffix}`", [f"one of {', '.join(_UNDATED)}"])
    # Names of shapes in SVG are hashes with a salt; text stays text, so that files do not depend on fonts' outlines.
    with mpl.rc_context({"svg.hashsalt": "graphir", "svg.fonttype": "none", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.tick_params(labelsize=7)
        yield figure, axes
        figure.savefig(path, dpi=150, metadata=_UNDATED[path.suffix])


def _side(n: int) -> float:
    return min(max(3.2, 0.22 * n + 1.5), 14.0)


def _size(n: int) -> float:
    return 7.0 if n <= 40 else max(2.0, 280 / n)


def _name_ticks(axes: Axes, names: Sequence[str]) -> None:
    places = range(len(names))
    axes.set_xticks(places, list(names), rotation=90, fontsize=_size(len(names)))
    axes.set_yticks(places, list(names), fontsize=_size(len(names)))


def _label(matrix: DistanceMatrix) -> str:
    return f"{matrix.metric}{' (upper bounds)' if matrix.local_optimum else ''}, n = {matrix.samples}"
