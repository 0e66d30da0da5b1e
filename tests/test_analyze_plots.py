"""Matrices and drawings as files: complete, the same every time, readable without color."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graphir.errors import GraphirError, SaveFormatError
from passes.analysis_options import BlocksOptions
from passes.analyze.blocks import find_blocks
from passes.analyze.distances.base import DistanceMatrix
from passes.analyze.distances.cka import Cka
from passes.analyze.distances.gromov import GromovWasserstein
from passes.analyze.dynamics import follow
from passes.analyze.hierarchy import find_hierarchy
from passes.analyze.plots import plot_curve, plot_dendrogram, plot_drift, plot_matrix
from passes.analyze.tables import load_matrix, matrix_csv, save_matrix
from tests.planted import planted_stack

STACK = planted_stack(24, (4, 4))[0]
MATRIX = Cka().matrix(STACK)
BLOCKS = find_blocks(MATRIX, BlocksOptions(count=2))


def draw_all(folder: Path, suffix: str) -> list[Path]:
    paths = [folder / f"{name}{suffix}" for name in ("matrix", "tree", "drift", "curve")]
    plot_matrix(MATRIX, paths[0], BLOCKS)
    plot_dendrogram(MATRIX, paths[1], height=0.5)
    plot_drift(follow(Cka(), {0: STACK, 1: STACK}, BlocksOptions(permutations=19)), paths[2])
    plot_curve(MATRIX.names, MATRIX.values[0], paths[3], label="distance", blocks=BLOCKS)
    return paths


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_the_same_analysis_is_the_same_file(suffix: str, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    for one, other in zip(draw_all(first, suffix), draw_all(second, suffix), strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.stat().st_size > 1000


def test_drawings_use_no_color_and_name_every_node(tmp_path: Path) -> None:
    for path in draw_all(tmp_path, ".png"):
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        assert np.ptp(pixels, axis=2).max() == 0, path.name
    plot_matrix(MATRIX, tmp_path / "matrix.svg", BLOCKS)
    text = (tmp_path / "matrix.svg").read_text(encoding="utf-8")
    assert all(f">{name}<" in text for name in MATRIX.names) and "2 blocks" in text and "n = 24" in text


def test_upper_bounds_are_labeled_so(tmp_path: Path) -> None:
    plot_matrix(GromovWasserstein().matrix(STACK.select(STACK.names[3:6])), tmp_path / "m.svg")
    assert "gromov_wasserstein (upper bounds)" in (tmp_path / "m.svg").read_text(encoding="utf-8")


def test_trees_of_units_are_drawn_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tree = find_hierarchy(rng.random((20, 5)), rng.random((20, 3)), rng.random((20, 2)), list("abcde"), odd=False)
    plot_dendrogram(tree, tmp_path / "t.svg")
    assert "Ward height" in (tmp_path / "t.svg").read_text(encoding="utf-8")


def test_other_formats_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(GraphirError, match=r"no plot is written as `\.bmp`"):
        plot_matrix(MATRIX, tmp_path / "m.bmp")
    with pytest.raises(SaveFormatError, match=r"\.csv or \.npz"):
        save_matrix(MATRIX, tmp_path / "m.txt")


def test_csv_holds_every_digit() -> None:
    rows = list(csv.reader(matrix_csv(MATRIX).splitlines()))
    assert rows[0] == ["cka", *MATRIX.names] and [r[0] for r in rows[1:]] == list(MATRIX.names)
    np.testing.assert_array_equal(np.array([r[1:] for r in rows[1:]], float), MATRIX.values)


@pytest.mark.parametrize(
    "distance", [Cka(subsamples=3), Cka(), GromovWasserstein()], ids=["interval", "plain", "bounds"]
)
def test_npz_keeps_all_there_is(distance: Cka | GromovWasserstein, tmp_path: Path) -> None:
    matrix = distance.matrix(STACK.select(STACK.names[2:6]))
    save_matrix(matrix, tmp_path / "m.npz")
    loaded = load_matrix(tmp_path / "m.npz")
    assert (loaded.names, loaded.metric, loaded.bounds, loaded.samples) == (
        matrix.names,
        matrix.metric,
        matrix.bounds,
        24,
    )
    assert loaded.settings == matrix.settings and loaded.local_optimum == matrix.local_optimum
    for name in ("values", "lower", "upper"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(matrix, name))
    assert loaded.details.keys() == matrix.details.keys()
    save_matrix(matrix, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "m.npz").read_bytes()


def test_files_that_are_no_matrix_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no zip")
    np.savez(tmp_path / "other.npz", values=np.eye(2))
    for name in ("text.npz", "other.npz"):
        with pytest.raises(SaveFormatError, match="not a saved distance matrix"):
            load_matrix(tmp_path / name)
    with pytest.raises(SaveFormatError, match=r"missing\.npz cannot be read"):
        load_matrix(tmp_path / "missing.npz")


def test_distances_that_are_not_finite_or_not_symmetric_are_no_matrix() -> None:
    with pytest.raises(GraphirError, match="not finite"):
        DistanceMatrix(("a",), np.full((1, 1), np.nan), "x", 4)
    with pytest.raises(GraphirError, match="symmetric"):
        DistanceMatrix(("a", "b"), np.array([[0, 1], [2, 0.0]]), "x", 4)
