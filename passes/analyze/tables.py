"""Distance matrices as CSV and npz files, and back."""

from __future__ import annotations

import csv
import io
import json
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.errors import SaveFormatError
from graphir.serial import check_file
from passes.analyze.distances.base import DistanceMatrix

MAX_BYTES = 2 * 2**30
"""Bytes of the largest matrix that is read, unpacked."""
_MATRICES = ("values", "lower", "upper")
_DAMAGES = (
    OSError, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, EOFError, KeyError, ValueError,
    TypeError, AttributeError, IndexError, OverflowError, RuntimeError, RecursionError, SyntaxError,
)  # fmt: skip
"""What comes of an archive that is none, or holds something else."""


def matrix_csv(matrix: DistanceMatrix) -> str:
    """The distances with a row and a column a node, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([matrix.metric, *matrix.names])
    for name, row in zip(matrix.names, matrix.values, strict=True):
        writer.writerow([name, *(repr(float(value)) for value in row)])
    return text.getvalue()


def save_matrix(matrix: DistanceMatrix, path: str | Path) -> None:
    """Write `path`, whose suffix says how: `.csv`, the distances alone, or `.npz`, all there is."""
    path = Path(path)
    if path.suffix == ".csv":
        path.write_text(matrix_csv(matrix), encoding="utf-8")
        return
    if path.suffix != ".npz":
        raise SaveFormatError(f"a matrix is written as .csv or .npz, not `{path.suffix}`")
    about = {
        "names": matrix.names, "metric": matrix.metric, "samples": matrix.samples, "bounds": matrix.bounds,
        "local_optimum": matrix.local_optimum, "settings": dict(matrix.settings),
    }  # fmt: skip
    arrays: dict[str, Any] = {name: getattr(matrix, name) for name in _MATRICES if getattr(matrix, name) is not None}
    arrays |= {f"details.{name}": values for name, values in matrix.details.items()}
    write_npz(path, arrays | {"about": np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)})


def write_npz(path: Path, arrays: dict[str, Any]) -> None:
    """Like `numpy.savez`, the same bytes for the same arrays: members have a fixed time."""
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())


def load_matrix(path: str | Path) -> DistanceMatrix:
    """What `save_matrix` wrote as npz. Raises `SaveFormatError` for anything else."""
    path = Path(path)
    check_file(path, MAX_BYTES)
    try:
        arrays = _read_npz(path)
        about: dict[str, Any] = json.loads(arrays.pop("about").tobytes())
        found: dict[str, Any] = {name: arrays.pop(name, None) for name in _MATRICES}
        details = {name.removeprefix("details."): values for name, values in arrays.items()}
        about["names"] = tuple(about["names"])
        return DistanceMatrix(**about, **found, details=details)
    except _DAMAGES as error:
        raise SaveFormatError(f"`{path}` is not a saved distance matrix: {error}") from error


def _read_npz(path: Path) -> dict[str, Any]:
    """The arrays of an archive that does not unpack to more than it should, each as large as its header says."""
    with zipfile.ZipFile(path) as file:
        size = sum(member.file_size for member in file.infolist())
        if size > MAX_BYTES:
            raise ValueError(f"it unpacks to {size:,} bytes, more than the limit of {MAX_BYTES:,}")
        return {name.removesuffix(".npy"): _read_array(file.read(name)) for name in file.namelist()}


def _read_array(data: bytes) -> NDArray[Any]:
    """An array in numpy's form, which would be allocated as its header says."""
    content = io.BytesIO(data)
    version = np.lib.format.read_magic(content)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(content)
    if math.prod(shape) * kind.itemsize != len(data) - content.tell():
        raise ValueError("an array is not as large as its header says")
    content.seek(0)
    found: NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
    return found
