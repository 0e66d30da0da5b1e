"""What tells models and data from others: hashes of their files, or the commit they come from. Torch-free, but for
models that Python code makes, which have to be made first."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphir.errors import UnavailableError

if TYPE_CHECKING:
    from dsl.models import LoadedModel
    from dsl.spec import DataSpec, ModelSpec

TOKENIZER_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.py")
CHUNK = 1 << 20


def identify(spec: ModelSpec, folder: Path) -> Mapping[str, Any] | None:
    """Source, hash of weights and of tokenizer files, type and device of a model. None for one that Python code makes.
    `UnavailableError` where its files are not here."""
    from dsl.builtin import find_builtin, hash_written
    from dsl.model_files import find_gguf, find_tracr, locate_checkpoint

    if spec.kind == "python":
        return None
    if spec.kind == "builtin":
        found = find_builtin(spec.reference)
        if found.source == "trained":
            identity = _identity(spec.kind, found.name, found.weights) + file_digest(found.description)[:16]
        else:
            identity = f"{spec.kind}:{found.name}@{hash_written(found.name)}"
    elif spec.kind == "gguf":
        path = find_gguf(spec.reference, folder, package=spec.package)
        identity = _identity(spec.kind, path.name, path)
    elif spec.kind == "tracr":
        path = find_tracr(spec.reference, folder)
        identity = _identity(spec.kind, path.name, path)
    else:
        place = locate_checkpoint(spec.reference, folder, package=spec.package, revision=spec.revision)
        identity = _identity(spec.kind, spec.reference, place)
        if place.is_dir():
            identity += "+" + _digest_of(_tokenizer_files(place))
    return {"identity": identity, "dtype": spec.dtype, "device": spec.device}


def identify_made(loaded: LoadedModel) -> Mapping[str, Any]:
    """The same of a model that Python code made: hash of its weights, of the source of its class, of its tokenizer."""
    from graphir.tracing.exported import hash_model
    from passes.tokenizing import tokenizer_identity

    tokenizer = None if loaded.tokenizer is None else tokenizer_identity(loaded.tokenizer)
    weights = next(iter(loaded.model.parameters()), None)
    return {
        "identity": loaded.identity,
        "weights": hash_model(loaded.model),
        "source": _source_of(type(loaded.model)),
        "tokenizer": tokenizer,
        "dtype": None if weights is None else str(weights.dtype),
        "device": None if weights is None else str(weights.device),
    }


def data_identity(spec: DataSpec, folder: Path) -> Mapping[str, Any]:
    """What tells task data from others: the generator and its options, or the hash of the file."""
    options = {str(name): value for name, value in spec.options.items()}
    if spec.kind != "jsonl":
        return {"kind": spec.kind, "reference": spec.reference, **options}
    path = folder / spec.reference
    try:
        return {"kind": spec.kind, "sha256": file_digest(path), **options}
    except OSError as error:
        raise UnavailableError(f"cannot read task data `{path}`: {(error.strerror or str(error)).lower()}") from None


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file, read once as long as its size and time stay what they are."""
    found = path.stat()
    return _file_digest(path.resolve(), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_digest(path: Path, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _identity(kind: str, reference: str, found: Path) -> str:
    from dsl.model_files import identifying_files

    if found.parent.parent.name == "snapshots":
        return f"{kind}:{reference}@{found.parent.name}"
    return f"{kind}:{reference}@{_digest_of(iter(identifying_files(found)))}"


def _digest_of(files: Iterator[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return digest.hexdigest()[:16]


def _tokenizer_files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for pattern in TOKENIZER_PATTERNS for path in folder.glob(pattern) if path.is_file())


def _source_of(kind: type) -> str | None:
    try:
        return hashlib.sha256(inspect.getsource(inspect.getmodule(kind) or kind).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return None
