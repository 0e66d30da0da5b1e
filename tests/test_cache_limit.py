"""The cache of stages keeps to its limit: what was used longest ago goes first, what a run uses stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsl.cli import main
from dsl.running.cache import CHECKPOINTS, ENTRY, RUNNING, Cache
from dsl.running.cache_limit import DEFAULT, VARIABLE, held, human, read_limit, shrink, under_way
from graphir.errors import GraphirError

HOUR = 3600.0
SIZE = 10_000


def key(n: int) -> str:
    return f"{n:02d}" * 32


def write_data(folder: Path) -> None:
    (folder / "data").write_bytes(bytes(SIZE))


def filled(folder: Path, count: int = 4) -> Cache:
    """A cache of results of 10 kB each, the first used longest ago: an hour before the second."""
    cache = Cache(folder)
    for n in range(count):
        entry = cache.put("find", key(n), {"stage": f"c{n}"}, write_data)
        at = time.time() - HOUR * (count - n)
        os.utime(entry.folder / ENTRY, (at, at))
    return cache


def left(cache: Cache) -> set[int]:
    return {n for n in range(10) if (cache.folder / "find" / key(n)[:32]).exists()}


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    size = sum(each.size for each in held(cache))
    assert size > 4 * SIZE
    assert shrink(cache, size) == []
    assert [each.place.name for each in shrink(cache, size - 1)] == [key(0)[:32]]
    assert left(cache) == {1, 2, 3}
    shrink(cache, 0)
    assert left(cache) == set()
    assert held(cache) == []


def test_no_limit_removes_nothing(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    assert shrink(cache, None) == []
    assert left(cache) == {0, 1, 2, 3}


def test_reading_for_a_run_counts_as_use_and_planning_does_not(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    cache.find("find", key(0), using=True)
    cache.find("find", key(1))
    assert [each.place.name for each in held(cache)] == [key(n)[:32] for n in (1, 2, 3, 0)]


def test_what_a_run_under_way_has_used_stays(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    with under_way(cache):
        cache.find("find", key(1), using=True)
        cache.put("find", key(7), {}, write_data)
        assert {each.in_use for each in held(cache)} == {True, False}
        shrink(Cache(tmp_path), 0)  # by another run, or by `circ cache`
        assert left(cache) == {1, 7}
    assert list((tmp_path / RUNNING).iterdir()) == []
    shrink(cache, 0)
    assert left(cache) == set()


def test_an_old_run_protects_what_it_used_hours_ago(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    with under_way(cache):
        (lock,) = (tmp_path / RUNNING).iterdir()
        at = time.time() - 2.5 * HOUR
        os.utime(lock, (at, at))
        shrink(cache, 0)
        assert left(cache) == {2, 3}  # used two hours and one hour ago


def test_a_killed_run_protects_nothing(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from dsl.running.cache import Cache\n"
        "from dsl.running.cache_limit import under_way\n"
        "cache = Cache(Path(sys.argv[1]))\n"
        "with under_way(cache):\n"
        "    cache.find('find', sys.argv[2], using=True); print('here', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), key(0)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        shrink(cache, 0)
        assert left(cache) == {0}
        process.send_signal(signal.SIGKILL)
        process.wait()
    shrink(cache, 0)
    assert left(cache) == set()
    assert list((tmp_path / RUNNING).iterdir()) == []


def test_unfinished_stages_go_last(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    cache.prepare(CHECKPOINTS)
    checkpoint = cache.checkpoint(key(9))
    checkpoint.write_bytes(bytes(SIZE))
    os.utime(checkpoint, (0, 0))
    shrink(cache, SIZE)
    assert left(cache) == set()
    assert checkpoint.exists()
    shrink(cache, 0)
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("500MB", 500 * 10**6), ("10 GB", 10**10), ("1.5gb", 15 * 10**8), ("2 T", 2 * 10**12), ("none", None)],
)
def test_sizes(text: str, size: int | None) -> None:
    assert read_limit(text) == size


@pytest.mark.parametrize("text", ["", "many", "-1 GB", "10 GiB", "1e3", "10 XB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(GraphirError, match="no size of a cache"):
        read_limit(text)


def test_the_limit_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_limit() == read_limit(DEFAULT) == 20 * 10**9
    monkeypatch.setenv(VARIABLE, "1 GB")
    assert read_limit() == 10**9
    assert read_limit("2 GB") == 2 * 10**9
    monkeypatch.setenv(VARIABLE, "lots")
    with pytest.raises(GraphirError, match=f"`lots` in {VARIABLE} is no size"):
        read_limit()


def test_sizes_in_words() -> None:
    assert [human(size) for size in (0, 999, 1000, 1_250_000, 3 * 10**12)] == [
        "0 bytes", "999 bytes", "1 KB", "1.25 MB", "3 TB",
    ]  # fmt: skip


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = filled(tmp_path / "kept")
    assert main(["cache", "--cache", str(tmp_path / "kept"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kinds"]["find"]["entries"] == 4
    assert told["bytes"] > 4 * SIZE
    assert main(["cache", "--cache", str(tmp_path / "kept"), "--limit", "25 KB"]) == 0
    said = capsys.readouterr().out
    assert left(cache) == {2, 3}
    assert "removed 2" in said
    assert main(["cache", "--cache", str(tmp_path / "kept"), "--limit", "much"]) == 1
    assert "is no size" in capsys.readouterr().err


def test_a_cache_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--cache", str(tmp_path / "none")]) == 0
    assert "0 bytes" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
