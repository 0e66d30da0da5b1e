"""How large the cache of stages may get: what was used longest ago goes first, and nothing that a run uses. Torch-free.

    CACHE/running/*.run     one for each run that is under way, locked by it until it ends, however it ends

The system gives a lock back when its process dies, so a killed run keeps nothing alive. An entry is in use when it was
made or read after the oldest run that is under way began: its file `entry.json` is touched when a run reads it.
Unfinished stages go last, since they cannot be had again for less than they took.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsl.running.cache import CHECKPOINTS, ENTRY, RUNNING, Cache
from graphir.errors import GraphirError

try:
    import fcntl
except ImportError:  # Windows: a run is taken to be under way for a day
    fcntl = None  # type: ignore[assignment]

VARIABLE = "CIRC_CACHE_LIMIT"
DEFAULT = "20 GB"
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", re.IGNORECASE)
_DAY = 86_400.0


@dataclass(frozen=True)
class Held:
    """A result in the cache, or an unfinished stage: what it is, its size on disk, when it was last used (seconds since
    1970), and whether a run that is under way may use it."""

    kind: str
    place: Path
    size: int
    used: float
    in_use: bool


def read_limit(text: str | None = None) -> int | None:
    """Bytes of `10 GB`, `500MB`, `0`; None for `none`. Without a text that of the variable CIRC_CACHE_LIMIT, else the
    default. `GraphirError` for something else."""
    told = text if text is not None else os.environ.get(VARIABLE) or DEFAULT
    if told.strip().lower() == "none":
        return None
    found = _SIZE.fullmatch(told)
    unit = found[2].upper() if found else ""
    if found is None or (unit and unit.rstrip("B") + "B" not in UNITS):
        where = "" if text is not None else f" in {VARIABLE}"
        raise GraphirError(f"`{told}`{where} is no size of a cache", ["for example `10 GB`, `500MB`, or `none`"])
    return int(float(found[1]) * UNITS[unit.rstrip("B") + "B" if unit else ""])


@contextlib.contextmanager
def under_way(cache: Cache) -> Iterator[None]:
    """Within, what is used of the cache is not removed by anyone. A cache that cannot be written is none that could
    lose something."""
    try:
        cache.prepare(RUNNING)
        handle, name = tempfile.mkstemp(dir=cache.folder / RUNNING, prefix=f"{os.getpid()}-", suffix=".run")
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # some file systems have no locks
            _lock(handle)
        yield
    finally:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        os.close(handle)


def held(cache: Cache) -> list[Held]:
    """All that is in the cache, what was used longest ago first, unfinished stages last."""
    since = _oldest_run(cache)
    found = [
        _held(path.name, each, each / ENTRY, since)
        for path in _folders(cache.folder)
        if path.name not in (CHECKPOINTS, RUNNING)
        for each in _folders(path)
    ]
    unfinished = [_held(CHECKPOINTS, path, path, since) for path in (cache.folder / CHECKPOINTS).glob("*.safetensors")]
    return sorted(found, key=lambda each: each.used) + sorted(unfinished, key=lambda each: each.used)


def shrink(cache: Cache, limit: int | None) -> list[Held]:
    """Remove what was used longest ago until the rest is no larger than `limit` bytes, or all that is left is in use;
    what was removed."""
    if limit is None:
        return []
    found = held(cache)
    size, removed = sum(each.size for each in found), []
    for each in found:
        if size <= limit:
            break
        if each.in_use or _is_used_again(each):
            continue
        if each.kind == CHECKPOINTS:
            each.place.unlink(missing_ok=True)
        else:
            cache.remove(each.place)
        size -= each.size
        removed.append(each)
    return removed


def describe_cache(cache: Cache, limit: int | None, removed: list[Held]) -> dict[str, Any]:
    """The cache in numbers, for `circ cache`."""
    found = held(cache)
    kinds = {
        kind: {"entries": len(sizes), "bytes": sum(sizes)}
        for kind in sorted({each.kind for each in found})
        if (sizes := [each.size for each in found if each.kind == kind])
    }
    return {
        "folder": str(cache.folder),
        "bytes": sum(each.size for each in found),
        "limit": limit,
        "in_use": sum(each.in_use for each in found),
        "kinds": kinds,
        "removed": [{"kind": each.kind, "place": str(each.place), "bytes": each.size} for each in removed],
    }


def format_cache(told: dict[str, Any]) -> str:
    """The same as text."""
    limit = "no limit" if told["limit"] is None else f"at most {human(told['limit'])}"
    lines = [f"{told['folder']}: {human(told['bytes'])}, {limit}"]
    lines += [f"  {kind:<16}{each['entries']:>6}  {human(each['bytes'])}" for kind, each in told["kinds"].items()]
    if told["in_use"]:
        lines.append(f"{told['in_use']} are in use by a run that is under way")
    if told["removed"]:
        lines.append(f"removed {len(told['removed'])}: {human(sum(each['bytes'] for each in told['removed']))}")
    return "\n".join(lines)


def human(size: int) -> str:
    """`1.2 GB`."""
    for unit, factor in reversed(UNITS.items()):
        if size >= factor and factor > 1:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


def _held(kind: str, place: Path, stamp: Path, since: float) -> Held:
    used, paths = _used(stamp), [place] if kind == CHECKPOINTS else place.rglob("*")
    sizes = [found.st_size for path in paths if (found := _status(path)) and not stat.S_ISDIR(found.st_mode)]
    return Held(kind, place, sum(sizes), used, used >= since)


def _is_used_again(each: Held) -> bool:
    """Whether a run has begun to use it since the list was made."""
    return _used(each.place if each.kind == CHECKPOINTS else each.place / ENTRY) > each.used


def _oldest_run(cache: Cache) -> float:
    """When the oldest run that is under way began; what dead ones left is removed."""
    begun = [float("inf")]
    for path in (cache.folder / RUNNING).glob("*.run"):
        started = _used(path)
        if _is_locked(path, started):
            begun.append(started)
        else:
            path.unlink(missing_ok=True)
    # Clocks of file systems are coarse: what was used in the second before counts as used by the run.
    return min(begun) - 1.0


def _lock(handle: int) -> None:
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_locked(path: Path, started: float) -> bool:
    if fcntl is None:
        return time.time() - started < _DAY
    try:
        with path.open("r+b") as file:
            _lock(file.fileno())
    except BlockingIOError:
        return True
    except OSError:
        return path.exists()
    return False


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []


def _status(path: Path) -> Any:
    try:
        return path.lstat()
    except OSError:
        return None


def _used(path: Path) -> float:
    found = _status(path)
    return float(found.st_mtime) if found else 0.0
