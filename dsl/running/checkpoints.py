"""Checkpoints of long passes in files: a safetensors file for each stage, written all or nothing.

The header of the file says format, version, the stage's key, the step, and a SHA-256 of the tensors. A file that is
cut short, of another stage or changed counts as none. Writing is put off until `every` seconds after the last time, so
that a pass may offer its state after each step.

Ctrl-C while a pass offers its states waits for the next one, which is written at once: the state between two steps is
the only one that can be gone on from. A second Ctrl-C does not wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from graphir.serial import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "graphir.checkpoint"
VERSION = "1"
EVERY = 20.0
"""Seconds between two checkpoints of a pass."""
WAITING = "stopping after this step; press Ctrl-C again to stop at once and lose the steps since the last checkpoint"


class FileCheckpoint:
    """Implements `passes.observe.Checkpoint`. `warn` is told once what keeps checkpoints from being written or read;
    `saved` each step that was kept, `loaded_step` is the step gone on from (None: from the start)."""

    def __init__(
        self,
        path: Path,
        key: str,
        *,
        every: float = EVERY,
        warn: Callable[[str], None] = lambda _: None,
        saved: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.path, self.key, self.every = path, key, every
        self.loaded_step: int | None = None
        self.asked = False
        """Whether Ctrl-C came and was put off."""
        self._warn, self._saved = warn, saved
        self._warned = self._offered = False
        self._written, self._began = time.monotonic(), time.time()
        self._known: tuple[int, int] | None = None  # the file as we last read or wrote it

    def load(self) -> dict[str, Tensor] | None:
        """The state that was kept for this stage; None where there is none that can be used."""
        self._written = time.monotonic()
        if not self.path.is_file():
            return None
        from safetensors.torch import load

        try:
            data = self.path.read_bytes()
            head, state = read_header(data), load(data)
        except Exception as error:  # safetensors raises its own, for a file cut short or something else
            self._warn(f"the checkpoint {self.path} cannot be read ({error}), so the stage starts anew")
            self.remove()
            return None
        expected = {"format": FORMAT, "version": VERSION, "key": self.key, "sha256": sum_of(state)}
        step = str(head.get("step", ""))
        if not step.isdigit() or any(head.get(name) != value for name, value in expected.items()):
            self._warn(f"the checkpoint {self.path} is damaged, so the stage starts anew")
            self.remove()
            return None
        self.loaded_step = int(step)
        self._known = self._stamp()
        return state

    def save(self, step: int, state: dict[str, Tensor]) -> None:
        """Keep the state, if it is time or Ctrl-C came; then `KeyboardInterrupt` for the latter."""
        self._offered = True
        if self.asked or time.monotonic() - self._written >= self.every:
            self.write(step, state)
        if self.asked:
            self.asked = False
            raise KeyboardInterrupt

    def write(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Keep the state now. When it cannot be written, the last one stays, and the pass goes on."""
        from safetensors.torch import save

        self._written = time.monotonic()
        if self._stamp() != self._known and self._others_step() > step:
            return  # another run of the same stage is further; its state serves us as well
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
        head = {"format": FORMAT, "version": VERSION, "key": self.key, "step": str(step), "sha256": sum_of(own)}
        try:
            write_bytes(self.path, save(own, head))
        except OSError as error:
            if not self._warned:
                self._warn(
                    f"no checkpoint can be written to {self.path.parent}: {(error.strerror or str(error)).lower()}"
                )
            self._warned = True
            return
        self._known = self._stamp()
        self._saved(step)

    def remove(self) -> None:
        """The stage is over. What runs that were killed while they wrote have left goes, too."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        for part in self.path.parent.glob(f".{self.path.name}.*.part"):
            with contextlib.suppress(OSError):
                if part.stat().st_mtime < self._began:
                    part.unlink()

    @contextlib.contextmanager
    def deferring(self) -> Iterator[None]:
        """Within, the first Ctrl-C waits for the next `save`, once there has been one (in the main thread)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)
        if before is signal.SIG_IGN:
            yield
            return

        def interrupted(number: int, frame: FrameType | None) -> None:
            if self._offered and not self.asked:
                self.asked = True
                print(f"\n{WAITING}", file=sys.stderr, flush=True)
                return
            self.asked = False
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            self._offered = False

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _others_step(self) -> int:
        """The step in the file now, -1 where there is none of this stage."""
        try:
            with self.path.open("rb") as file:
                head = read_header(file.read(1 << 16))
        except (OSError, ValueError):
            return -1
        return int(head.get("step", -1)) if head.get("key") == self.key else -1


def read_header(data: bytes) -> dict[str, Any]:
    """The metadata of a safetensors file from its first bytes. `ValueError` for something else."""
    length = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + length])
    found = head.get("__metadata__", {}) if isinstance(head, dict) else {}
    return dict(found)


def sum_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes of CPU tensors."""
    import torch

    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
