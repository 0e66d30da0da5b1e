"""How long a run still takes: what a plan expects of its stages, set right by how long those before them took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsl.running.stage import Stage
    from dsl.spec import Spec

PRIOR = 2.0
"""Seconds for which the plan is believed: a first stage that is over in a moment says little of the others."""


class Forecast:
    """`expected` are seconds by the name of a stage, in the order in which they run; with none, nothing is foretold.

    The plan's seconds are for some machine at some load. What they are multiplied with is told by the stages that were
    computed, and by the steps of the one that runs.
    """

    def __init__(self, expected: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._ahead = dict(expected)
        self._known = bool(expected)
        self._clock = clock
        self._since = self._began = clock()
        self._done = self._total = 0
        self._planned = self._taken = 0.0

    def settled(self, stage: str, *, cached: bool) -> None:
        """The result of a stage is there."""
        now, planned = self._clock(), self._ahead.pop(stage, 0.0)
        if not cached:
            self._planned += planned
            self._taken += now - self._since
        self._since, self._total = now, 0

    def begin(self, total: int | None) -> None:
        """So many steps are about to run."""
        self._began, self._done, self._total = self._clock(), 0, total or 0

    def step(self, done: int) -> None:
        """So many are over."""
        self._done = done

    def left_of_steps(self) -> float | None:
        """Seconds until the steps are over; None before the first, and where there are none."""
        if not self._done or not self._total:
            return None
        return (self._clock() - self._began) / self._done * max(self._total - self._done, 0)

    def left(self) -> float | None:
        """Seconds until the run is over, None where nothing is known."""
        ahead = list(self._ahead.values())  # at once: a display asks from a thread of its own
        if not self._known:
            return None
        running, rest = (ahead[0], sum(ahead[1:])) if ahead else (0.0, 0.0)
        spent, steps = self._clock() - self._since, self.left_of_steps()
        planned, taken = self._planned + PRIOR, self._taken + PRIOR
        if steps is not None:
            return steps + rest * (taken + spent + steps) / (planned + running)
        return max(running * taken / planned - spent, 0.0) + rest * taken / planned


def expected_seconds(spec: Spec, stages: Sequence[Stage[Any]]) -> dict[str, float]:
    """What a plan expects of each stage; nothing where it cannot tell of one. A model is loaded for the first."""
    from dsl.options import PlanOptions
    from dsl.running.planning import make_plan

    try:
        plan = make_plan(spec, PlanOptions(caching=False))
    except Exception:  # whatever is wrong with the plan, the run will say; here nothing is foretold
        return {}
    rows = {row.name: row.seconds for row in plan.stages}
    if None in rows.values() or not stages:
        return {}
    shares = Counter(stage.row for stage in stages)
    found = {stage.name: (rows.get(stage.row) or 0.0) / shares[stage.row] for stage in stages}
    found[stages[0].name] += sum(seconds or 0.0 for name, seconds in rows.items() if name.startswith("load "))
    return found


def about(seconds: float) -> str:
    """A time that is not known exactly: `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
