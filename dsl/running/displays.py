"""What shows the stages of a run: one live block on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TextIO

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dsl.running.forecast import Forecast, about
from graphir.display import format_number

PLAIN_EVERY = 10.0
"""Seconds between two plain lines of one stage."""


class Display(Protocol):
    """What shows a stage while it runs."""

    def expect(self, stages: int, forecast: Forecast) -> None:
        """So many stages are ahead, and this says how long they take."""

    def settled(self, stage: str, *, cached: bool) -> None:
        """The result of one of them is there: from the cache, or computed."""

    def begin(self, stage: str, total: int | None, *, minor: bool = False) -> None:
        """A stage starts; `total` steps, or None where they are not counted. A `minor` one is usually over at once."""

    def step(self, done: int, values: Mapping[str, float]) -> None:
        """`done` steps of it are over."""

    def end(self, seconds: float | None) -> None:
        """It is over after so many seconds; None where it was given up."""


class _Block(Progress):
    """A line of stage, bar, steps and the time that they still take; below it their values and the time that the run
    still takes."""

    values = ""
    forecast: Forecast | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """The lines."""
        yield self.make_tasks_table(self.tasks)
        left = self.forecast.left() if self.forecast is not None else None
        parts = [self.values] if self.values else []
        parts += [] if left is None else [f"about {about(left)} left in all"]
        if parts:
            yield Text("  " + "; ".join(parts), no_wrap=True, overflow="ellipsis")


class LiveDisplay:
    """One block that is drawn anew: stage, bar, steps, time left, values, time left in all. It is gone when the stage
    is over."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._progress: _Block | None = None
        self._forecast: Forecast | None = None
        self._task: Any = None
        self._ahead = self._done = 0

    def expect(self, stages: int, forecast: Forecast) -> None:
        """See `Display`."""
        self._ahead, self._forecast = stages, forecast

    def settled(self, stage: str, *, cached: bool) -> None:
        """See `Display`."""
        self._done += 1

    def begin(self, stage: str, total: int | None, *, minor: bool = False) -> None:
        """See `Display`."""
        counted = [BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn()] if total else []
        columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), *counted]
        if self._progress is not None:
            self._progress.stop()
        self._progress = _Block(*columns, console=self._console, transient=True)
        self._progress.forecast = self._forecast
        place = f"[{min(self._done + 1, self._ahead)}/{self._ahead}] " if self._ahead else ""
        self._task = self._progress.add_task(f"{place}{stage}", total=total)
        self._progress.start()

    def step(self, done: int, values: Mapping[str, float]) -> None:
        """See `Display`."""
        if self._progress is not None:
            self._progress.values = format_values(values)
            self._progress.update(self._task, completed=done)

    def end(self, seconds: float | None) -> None:
        """See `Display`."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class PlainDisplay:
    """Lines for a log: when a stage starts and ends, and every ten seconds between."""

    def __init__(self, stream: TextIO, every: float = PLAIN_EVERY) -> None:
        self._stream, self._every = stream, every
        self._stage, self._total = "", 0
        self._started = self._shown = 0.0
        self._forecast: Forecast | None = None

    def expect(self, stages: int, forecast: Forecast) -> None:
        """See `Display`."""
        self._forecast = forecast

    def settled(self, stage: str, *, cached: bool) -> None:
        """See `Display`."""
        if cached:
            self._say(f"{stage}: from the cache")

    def begin(self, stage: str, total: int | None, *, minor: bool = False) -> None:
        """See `Display`."""
        self._stage, self._total = stage, total or 0
        self._started = self._shown = time.monotonic()
        if not minor:
            self._say(f"{stage} …" if not total else f"{stage}: {total} steps …")

    def step(self, done: int, values: Mapping[str, float]) -> None:
        """See `Display`."""
        now = time.monotonic()
        if now - self._shown < self._every:
            return
        self._shown = now
        left = (now - self._started) / max(done, 1) * (self._total - done)
        whole = self._forecast.left() if self._forecast is not None else None
        parts = [f"{done}/{self._total}", format_values(values), f"{about(left)} left"]
        parts += [] if whole is None else [f"about {about(whole)} in all"]
        self._say(f"{self._stage}: {', '.join(part for part in parts if part)}")

    def end(self, seconds: float | None) -> None:
        """See `Display`."""
        if seconds is not None and seconds >= self._every:
            self._say(f"{self._stage}: done in {seconds:.0f} s")

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class NoDisplay:
    """Shows nothing."""

    def expect(self, stages: int, forecast: Forecast) -> None:
        """See `Display`."""

    def settled(self, stage: str, *, cached: bool) -> None:
        """See `Display`."""

    def begin(self, stage: str, total: int | None, *, minor: bool = False) -> None:
        """See `Display`."""

    def step(self, done: int, values: Mapping[str, float]) -> None:
        """See `Display`."""

    def end(self, seconds: float | None) -> None:
        """See `Display`."""


def choose_display(stream: TextIO, *, quiet: bool) -> Display:
    """A live block on a terminal, plain lines elsewhere, nothing when quiet."""
    if quiet:
        return NoDisplay()
    return LiveDisplay(stream) if stream.isatty() else PlainDisplay(stream)


def format_values(values: Mapping[str, float]) -> str:
    """`loss 0.2132, density 4.1%`."""
    return ", ".join(
        f"{name} {value:.1%}" if name in ("density", "target") else f"{name} {format_number(value)}"
        for name, value in values.items()
    )
