"""Checkpoints in files: what is kept comes back bit for bit, or not at all; when they are written; Ctrl-C."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dsl.running.checkpoints import FileCheckpoint, read_header
from dsl.running.keys import changes, code_digest, describe, digest
from passes.observe import NoCheckpoint
from tests.running import HEAD, LEARNED, RANKED, spec_of

STATE = {
    "masks": torch.tensor([0.1, -2.5, float("nan")]),
    "moments": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
    "half": torch.tensor([1.5], dtype=torch.bfloat16),
    "step": torch.tensor(7),
    "generator": torch.Generator().manual_seed(3).get_state(),
    "flags": torch.tensor([True, False]),
    "none": torch.empty(0, 4),
}


@pytest.fixture(autouse=True)
def _listens_to_ctrl_c() -> Iterator[None]:
    # A shell that starts processes in the background makes them ignore Ctrl-C, and pytest may run in one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def checkpoint(path: Path, *, every: float = 0.0, key: str = "key", **more: Any) -> FileCheckpoint:
    return FileCheckpoint(path / "state.safetensors", key, every=every, **more)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Equal names, types, shapes and bits."""
    bits = [{k: (v.dtype, v.shape, v.contiguous().flatten().view(torch.uint8).tolist()) for k, v in each.items()}
            for each in (first, second)]  # fmt: skip
    return bits[0] == bits[1]


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    assert checkpoint(tmp_path).load() is None
    checkpoint(tmp_path).save(7, STATE)
    again = checkpoint(tmp_path)
    found = again.load()
    assert found is not None
    assert same(found, STATE)
    assert again.loaded_step == 7
    assert read_header((tmp_path / "state.safetensors").read_bytes())["format"] == "graphir.checkpoint"
    again.remove()
    assert not list(tmp_path.iterdir())


def test_the_end_of_a_stage_takes_along_what_killed_writes_left_and_not_what_is_being_written(tmp_path: Path) -> None:
    left, other = tmp_path / ".state.safetensors.abc.part", tmp_path / ".else.safetensors.abc.part"
    for path in (left, other):
        path.write_bytes(b"half")
        os.utime(path, (1e9, 1e9))
    one = checkpoint(tmp_path)
    one.save(7, STATE)
    fresh = tmp_path / ".state.safetensors.def.part"  # of a run beside this one
    fresh.write_bytes(b"half")
    os.utime(fresh, (4e9, 4e9))
    one.remove()
    assert set(tmp_path.iterdir()) == {other, fresh}


def test_what_is_kept_is_the_state_then_not_what_became_of_it(tmp_path: Path) -> None:
    tensor = torch.zeros(3)
    first = checkpoint(tmp_path)
    first.save(1, {"a": tensor, "b": tensor[:2]})
    tensor += 1
    found = checkpoint(tmp_path).load()
    assert found is not None
    assert same(found, {"a": torch.zeros(3), "b": torch.zeros(2)})


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-5],
        lambda data: data[:40],
        lambda data: b"",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data.replace(b'"step":"7"', b'"stop":"7"'),
    ],
    ids=["cut", "cut in the header", "empty", "a bit flipped", "no step"],
)
def test_a_damaged_state_counts_as_none_and_is_removed(damage: Any, tmp_path: Path) -> None:
    checkpoint(tmp_path).save(7, STATE)
    file = tmp_path / "state.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    said: list[str] = []
    assert checkpoint(tmp_path, warn=said.append).load() is None
    assert len(said) == 1 and "the stage starts anew" in said[0]
    assert not file.exists()


def test_a_state_of_another_stage_counts_as_none(tmp_path: Path) -> None:
    checkpoint(tmp_path, key="other").save(7, STATE)
    assert checkpoint(tmp_path).load() is None


def test_states_are_written_now_and_then(tmp_path: Path) -> None:
    saved: list[int] = []
    rare = checkpoint(tmp_path, every=1000.0, saved=saved.append)
    rare.load()
    for step in range(1, 100):
        rare.save(step, STATE)
    assert saved == []
    often = checkpoint(tmp_path, saved=saved.append)
    for step in range(1, 4):
        often.save(step, STATE)
    assert saved == [1, 2, 3]


def test_a_run_that_is_behind_does_not_throw_back_one_that_is_ahead(tmp_path: Path) -> None:
    checkpoint(tmp_path).save(9, STATE)
    checkpoint(tmp_path).save(3, {"a": torch.zeros(1)})
    found = checkpoint(tmp_path)
    found.load()
    assert found.loaded_step == 9


def test_a_pass_that_counts_anew_after_a_stop_is_not_taken_to_be_behind(tmp_path: Path) -> None:
    checkpoint(tmp_path).save(9, STATE)
    resumed = checkpoint(tmp_path)
    resumed.load()
    resumed.save(1, {"a": torch.ones(1)})
    found = checkpoint(tmp_path).load()
    assert found is not None
    assert same(found, {"a": torch.ones(1)})


def test_a_full_disk_leaves_the_last_state_and_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    kept = checkpoint(tmp_path, warn=said.append)
    kept.save(1, STATE)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dsl.running.checkpoints.write_bytes", full)
    kept.save(2, STATE)
    kept.save(3, STATE)
    assert said == [f"no checkpoint can be written to {tmp_path}: no space left on device"]
    again = checkpoint(tmp_path)
    again.load()
    assert again.loaded_step == 1


def test_ctrl_c_waits_for_the_next_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = checkpoint(tmp_path, every=1000.0)
    before = signal.getsignal(signal.SIGINT)
    with kept.deferring():
        kept.save(1, STATE)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            kept.save(2, STATE)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping after this step" in capsys.readouterr().err
    again = checkpoint(tmp_path)
    again.load()
    assert again.loaded_step == 2


def test_ctrl_c_before_the_first_state_and_a_second_one_do_not_wait(tmp_path: Path) -> None:
    kept = checkpoint(tmp_path, every=1000.0)
    with kept.deferring():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        kept.save(1, STATE)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert not list(tmp_path.iterdir())


def test_no_checkpoint_keeps_nothing() -> None:
    nothing = NoCheckpoint()
    nothing.save(1, STATE)
    assert nothing.load() is None


# Keys


def test_descriptions_hold_values_and_no_places(tmp_path: Path) -> None:
    spec = spec_of(HEAD + RANKED, tmp_path)
    moved = spec_of(HEAD.replace("circ 1\n", "circ 1\n# moved\n\n") + RANKED.replace("found", "other"), tmp_path)
    assert describe(spec.circuits[0]) == describe(moved.circuits[0])
    assert describe(spec.graphs[0])["model"]["reference"] == "induction"
    assert digest(describe(spec.tasks[0])) == digest(describe(moved.tasks[0]))
    other = spec_of((HEAD + RANKED).replace("steps: 2", "steps: 3"), tmp_path)
    assert describe(spec.circuits[0]) != describe(other.circuits[0])


def test_the_layout_of_an_expression_does_not_count(tmp_path: Path) -> None:
    tight = HEAD + LEARNED.replace("STEPS", "5").replace("subject", "minimize kl(model, circuit) subject")
    loose = tight.replace("kl(model, circuit) subject", "kl(model,\n  circuit)  # why\n subject")
    assert describe(spec_of(loose, tmp_path).circuits[0]) == describe(spec_of(tight, tmp_path).circuits[0])


def test_changes_are_told_by_path() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "gone": "x"}
    after = {"a": {"b": 2, "c": [1, 2]}, "new": None}
    assert changes(before, after) == ["a.b: 1 → 2", "gone: x → none"]
    assert changes({"a": "x" * 99}, {"a": "y"})[0].startswith("a: xxxx")
    assert len(changes({"a": "x" * 99}, {"a": "y"})[0]) < 60


def test_the_digest_of_a_program_is_that_of_its_sources() -> None:
    assert code_digest("graphir") != code_digest("passes")
    assert code_digest("graphir") == code_digest("graphir")
    assert len(code_digest("dsl.models", "dsl.builtin")) == 16
