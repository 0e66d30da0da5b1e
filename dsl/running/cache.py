"""The cache of stages: what a stage computed, under the SHA-256 of everything it depends on. Torch-free.

    CACHE/KIND/KEY/entry.json       format, version, kind, key, the stage, what it depends on, time; size and SHA-256 of
    CACHE/KIND/KEY/…                the stage's files
    CACHE/checkpoints/KEY.safetensors    a stage that is not finished (see `dsl.running.checkpoints`)
    CACHE/running/*.run                  a run that is under way (see `dsl.running.cache_limit`)

An entry is made beside its place and renamed into it, so that it is whole or not there, whoever else writes the same;
it is read only if every file has its size and its sum. Nobody waits for a lock: a process that is killed holds up
nobody. The folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsl.running.progress import plain
from graphir.errors import SaveFormatError
from graphir.serial import check_head, json_text, read_json

FORMAT = "graphir.cache"
VERSION = 1
ENTRY = "entry.json"
CHECKPOINTS = "checkpoints"
RUNNING = "running"
TAG = "CACHEDIR.TAG"
TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Results of stages; may be deleted at any time.\n"
"""What tells backup programs that a folder is a cache (bford.info/cachedir)."""
MAX_HEAD = 16 << 20
CHUNK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One result in the cache: its folder and what its manifest says of it."""

    folder: Path
    head: Mapping[str, Any] = field(repr=False)

    @property
    def inputs(self) -> Any:
        """What it depends on, as `dsl.running.keys` describes it."""
        return self.head.get("inputs")


class Cache:
    """Results by kind and key below `folder`, which is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, kind: str, key: str, *, using: bool = False) -> Entry | None:
        """The entry, its files checked; None where there is none. `SaveFormatError` for one that is damaged.
        With `using` it counts as used now (see `dsl.running.cache_limit`)."""
        folder = self._place(kind, key)
        if not folder.exists():
            return None
        if using:
            with contextlib.suppress(OSError):  # a cache that cannot be written loses nothing either
                os.utime(folder / ENTRY)
        head = read_json(folder / ENTRY, MAX_HEAD)
        check_head(head, FORMAT, VERSION, folder / ENTRY)
        listed = head.get("files")
        if head.get("key") != key or not isinstance(listed, dict):
            raise SaveFormatError(f"{folder / ENTRY} is not the entry it should be")
        for name, expected in listed.items():
            _check_file(folder, name, expected)
        return Entry(folder, head)

    def put(self, kind: str, key: str, head: Mapping[str, Any], write: Callable[[Path], None]) -> Entry:
        """Make an entry: `write` puts the stage's files into the folder it is given. `OSError` when it cannot be
        written; nothing is left of it then. Where another process was faster, its entry stays."""
        place = self._place(kind, key)
        self._prepare(place.parent)
        new = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{key[:12]}.", suffix=".part"))
        try:
            new.chmod(stat.S_IMODE(place.parent.stat().st_mode))  # mkdtemp makes a folder that only its owner reads
            write(new)
            files = {path.relative_to(new).as_posix(): _sum_of(path) for path in sorted(_files(new))}
            whole = {"format": FORMAT, "version": VERSION, "kind": kind, "key": key, **head, "files": files}
            text = json_text(plain(whole))
            with (new / ENTRY).open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            self._move(new, place)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return Entry(place, whole)

    def drop(self, kind: str, key: str) -> None:
        """Remove an entry, at once for whoever else looks."""
        self.remove(self._place(kind, key))

    def remove(self, place: Path) -> None:
        """Remove the entry in a folder of the cache, at once for whoever else looks."""
        with contextlib.suppress(OSError):
            away = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name[:12]}.", suffix=".old"))
            place.replace(away / "entry")
            shutil.rmtree(away, ignore_errors=True)

    def entries(self, kind: str) -> Iterator[Entry]:
        """All entries of a kind, last used first; their files are not looked at, and damaged ones are left out."""
        found = [path for path in (self.folder / kind).glob(f"[!.]*/{ENTRY}") if path.is_file()]
        for path in sorted(found, key=_modified, reverse=True):
            with contextlib.suppress(SaveFormatError):
                yield Entry(path.parent, read_json(path, MAX_HEAD))

    def checkpoint(self, key: str) -> Path:
        """Where the state of an unfinished stage is kept."""
        return self.folder / CHECKPOINTS / f"{key[:32]}.safetensors"

    def prepare(self, name: str) -> None:
        """Make a folder of the cache, of checkpoints or of runs under way."""
        self._prepare(self.folder / name)

    def _place(self, kind: str, key: str) -> Path:
        return self.folder / kind / key[:32]

    def _prepare(self, folder: Path) -> None:
        """Make a folder, and remove what killed processes left in it an hour ago or earlier."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / TAG).exists():
            (self.folder / TAG).write_text(TAG_TEXT, encoding="utf-8")
        for left in [*folder.glob(".*.part"), *folder.glob(".*.old")]:
            if time.time() - _modified(left) > 3600:
                shutil.rmtree(left, ignore_errors=True)

    def _move(self, new: Path, place: Path) -> None:
        try:
            new.rename(place)
        except OSError:
            if not place.exists():
                raise
            # Another process was faster, or a damaged entry is in the way. The key says that they hold the same.
            with contextlib.suppress(SaveFormatError):
                if self.find(place.parent.name, new_key(new)) is not None:
                    return
            self.drop(place.parent.name, new_key(new))
            new.rename(place)


def new_key(folder: Path) -> str:
    """The key in an entry's manifest."""
    return str(read_json(folder / ENTRY, MAX_HEAD)["key"])


def _check_file(folder: Path, name: str, expected: Any) -> None:
    path = folder / name
    if not isinstance(expected, dict) or not path.resolve().is_relative_to(folder.resolve()):
        raise SaveFormatError(f"{folder / ENTRY} lists `{name}`, which is no file of the entry")
    try:
        found = _sum_of(path)
    except OSError as error:
        raise SaveFormatError(f"{path} cannot be read: {error.strerror or error}") from None
    if found["bytes"] != expected.get("bytes"):
        raise SaveFormatError(f"{path} has {found['bytes']:,} bytes where {expected.get('bytes')} were written")
    if found["sha256"] != expected.get("sha256"):
        raise SaveFormatError(f"{path} was changed after it was written")


def _sum_of(path: Path) -> dict[str, Any]:
    found, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": found.hexdigest()}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
