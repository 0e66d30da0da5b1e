"""How a run shows that it is alive: one live block on a terminal, plain lines elsewhere, events in a file.

Progress goes to the standard error, results to the standard output. A `Reporter` is an observer of passes as well
(`passes.observe.Observer`). Nothing here imports torch.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

from dsl.running.displays import choose_display
from dsl.running.forecast import Forecast

if TYPE_CHECKING:
    from dsl.observers import RunObserver

WIDTH = 120


class EventLog:
    """Events as JSON, one object a line, into several files at once; each line is there as soon as it is written. A
    file that cannot be written any more is let go of, and `lost` says which and why."""

    def __init__(self, *paths: Path | None) -> None:
        self._started = time.monotonic()
        self._files: list[TextIO] = []
        self.lost: list[str] = []
        try:
            for path in filter(None, paths):
                self._files.append(path.open("w", encoding="utf-8", buffering=1))
        except OSError:
            self.close()
            raise

    def write(self, event: str, **values: Any) -> None:
        """One event, with the seconds since the start."""
        seconds = round(time.monotonic() - self._started, 4)
        line = json.dumps({"event": event, "seconds": seconds, **plain(values)}, ensure_ascii=False, allow_nan=False)
        for file in list(self._files):
            try:
                file.write(line + "\n")
            except OSError as error:
                self._files.remove(file)
                self._close(file)
                self.lost.append(f"{file.name}: {(error.strerror or str(error)).lower()}")

    def close(self) -> None:
        """No more events."""
        for file in self._files:
            self._close(file)
        self._files = []

    def _close(self, file: TextIO) -> None:
        with suppress(OSError):  # what was not written by then is lost
            file.close()


class Reporter:
    """Shows a run: stages and their steps on the display, in the log and to trackers, results on the standard output.

    `seconds` are the times of the stages so far, by name, in order.
    """

    def __init__(
        self,
        *,
        quiet: bool,
        events: Path | None = None,
        record: Path | None = None,
        observers: Sequence[RunObserver] = (),
    ) -> None:
        self.quiet = quiet
        self.display = choose_display(sys.stderr, quiet=quiet)
        self.forecast = Forecast({})
        self.log = EventLog(events, record)
        self._observers = list(observers)
        self.seconds: dict[str, float] = {}
        terminal = sys.stdout.isatty()
        self._console = Console(
            file=sys.stdout, width=None if terminal else WIDTH, highlight=False, markup=False, emoji=False
        )
        self._prefix = ""
        self._begun: list[tuple[str, float]] = []

    @contextmanager
    def stage(self, name: str, *, prefix: str = "", minor: bool = False) -> Iterator[None]:
        """A part of the run. With `prefix` it is shown by what the passes inside report, named after it."""
        started = time.monotonic()
        self.log.write("begin", stage=name)
        self._prefix = prefix
        if not prefix:
            self.display.begin(name, None, minor=minor)
        try:
            yield
        except BaseException as error:
            self.display.end(None)
            self.log.write("failed", stage=name, error=type(error).__name__)
            raise
        finally:
            self._prefix, self._begun = "", []
        taken = time.monotonic() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + taken
        self.display.end(taken if not prefix else None)
        self.log.write("end", stage=name, taken=round(taken, 4))

    # --- an observer of passes -------------------------------------------------------------------------------------

    def begin(self, stage: str, total: int) -> None:
        """`total` steps of a pass's `stage` are about to run."""
        self._begun.append((stage, time.monotonic()))
        self.forecast.begin(total)
        self.display.begin(self._named(stage), total)
        self.log.write("begin", stage=self._named(stage), total=total)

    def step(self, stage: str, done: int, values: Mapping[str, float]) -> None:
        """`done` of them are over."""
        self.forecast.step(done)
        self.display.step(done, values)
        left = self.forecast.left()
        more = {} if left is None else {"left": round(left, 1)}
        self.log.write("step", stage=self._named(stage), done=done, values=dict(values), **more)
        self._tell(lambda observer: observer.step(self._named(stage), done, values))

    def end(self, stage: str) -> None:
        """The pass's stage is over."""
        started = next((at for name, at in reversed(self._begun) if name == stage), time.monotonic())
        taken = time.monotonic() - started
        self.display.end(taken)
        self.log.write("end", stage=self._named(stage), taken=round(taken, 4))

    def _named(self, stage: str) -> str:
        return f"{self._prefix}: {stage}" if self._prefix else stage

    # --- stages of a run ------------------------------------------------------------------------------------------

    def expect(self, stages: int, expected: Mapping[str, float] | None = None) -> None:
        """So many stages are ahead; `expected` are the seconds that a plan expects of each, where it can tell."""
        self.forecast = Forecast(expected or {})
        self.display.expect(stages, self.forecast)
        left = self.forecast.left()
        self.log.write("expect", stages=stages, **({} if left is None else {"left": round(left, 1)}))

    def cached(self, stage: str, key: str) -> None:
        """A stage's result came from the cache."""
        self.forecast.settled(stage, cached=True)
        self.display.settled(stage, cached=True)
        self.log.write("cached", stage=stage, key=key)

    def computed(self, stage: str, key: str) -> None:
        """A stage's result was computed."""
        self.forecast.settled(stage, cached=False)
        self.display.settled(stage, cached=False)
        self.log.write("computed", stage=stage, key=key)

    def measured(self, name: str, metrics: Mapping[str, float]) -> None:
        """A circuit was measured."""
        self.log.write("measured", circuit=name, metrics=dict(metrics))
        self._tell(lambda observer: observer.result(name, metrics))

    def finish(self, status: str, reason: str = "") -> None:
        """The run is over; no more events."""
        self.log.write("finished", status=status, reason=reason)
        self.log.close()
        for lost in self.log.lost:
            self.warn(f"events are missing from {lost}")
        self._tell(lambda observer: observer.finish(status))
        self._observers = []

    def _tell(self, what: Callable[[RunObserver], None]) -> None:
        """Tell every tracker; one that breaks is let go of."""
        for observer in list(self._observers):
            try:
                what(observer)
            except Exception as error:
                self._observers.remove(observer)
                self.warn(f"{type(observer).__name__} broke off and is told no more: {type(error).__name__}: {error}")

    # --- results ---------------------------------------------------------------------------------------------------

    def show(self, *parts: Any) -> None:
        """Results, on the standard output; nothing when quiet."""
        if not self.quiet:
            for part in parts:
                self._console.print(part, soft_wrap=isinstance(part, str))
            self._console.file.flush()

    def warn(self, text: str) -> None:
        """A remark, on the standard error and in the log; when quiet in the log alone."""
        self.log.write("note", text=text)
        if not self.quiet:
            print(f"note: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """The run is over, however it ended."""
        self.display.end(None)
        self.log.close()
        self._tell(lambda observer: observer.finish("failed"))
        self._observers = []


def plain(value: Any) -> Any:
    """A value as JSON data: numbers that JSON has not (not-a-number, infinity) become None, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "item"):  # a numpy number
        return plain(value.item())
    return str(value)
