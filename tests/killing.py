"""Kill runs again and again. Run as a program, so that Python, torch and the traced model are there once, and each
attempt is a fork that starts at once:

    python -m tests.killing SPEC OUT CACHE SIGNAL SEED ATTEMPTS

Each attempt carries the specification out and gets the signal after a random time; the last one is left alone. Prints a
line of JSON for each: its exit code, and the steps that were gone on from.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import passes.registry
from dsl.options import RunOptions
from dsl.reading import load
from dsl.running import checkpoints
from dsl.running.carrying import run_spec
from graphir.circuit import Circuit
from graphir.errors import GraphirError
from passes.base import Pass, RunContext, keep_top, provenance_of
from passes.learned_options import EdgePruningOptions
from tests.running import trace_once

PAUSE = 0.004


@dataclass(frozen=True)
class RandomWalk(EdgePruningOptions, Pass):
    """A learning pass to be interrupted: scores walk at random, each step needs the one before and the generator."""

    name: ClassVar[str] = "edge_pruning"

    def run(self, context: RunContext) -> Circuit:
        generator = torch.Generator().manual_seed(context.seed)
        scores, done = torch.zeros(len(context.graph.edges), dtype=torch.float64), 0
        state = context.checkpoint.load()
        if state is not None:
            scores, done = state["scores"], int(state["step"])
            generator.set_state(state["generator"])
        context.observer.begin("walk", self.steps)
        try:
            while done < self.steps:
                time.sleep(PAUSE)
                scores += torch.randn(len(scores), generator=generator, dtype=torch.float64) * scores.cos()
                done += 1
                context.observer.step("walk", done, {"loss": float(scores.sum())})
                now = {"scores": scores, "step": torch.tensor(done), "generator": generator.get_state()}
                context.checkpoint.save(done, now)
        except KeyboardInterrupt:
            if done == 0:
                raise
        context.observer.end("walk")
        more = {"interrupted": done} if done < self.steps else {}
        kept = keep_top(scores.numpy(), 5)
        return Circuit(
            context.graph, kept, np.ones(len(context.graph.nodes), bool), scores={"edges": scores.numpy()},
            provenance=provenance_of(self, context, **more),
        )  # fmt: skip


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """`edge_pruning` is the random walk; every step is kept."""
    monkeypatch.setitem(passes.registry._HOMES, "edge_pruning", "tests.killing:RandomWalk")
    monkeypatch.setattr(checkpoints, "EVERY", 0.0)
    monkeypatch.setattr(checkpoints.FileCheckpoint.__init__, "__kwdefaults__", _eager())


def _eager() -> dict[str, object]:
    return {**(checkpoints.FileCheckpoint.__init__.__kwdefaults__ or {}), "every": 0.0}


def attempt(spec: str, out: Path, cache: Path) -> int:
    """One run; its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = run_spec(load(spec), RunOptions(out=out, quiet=True, cache=cache, threads=1))
    except GraphirError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    return 0 if result.passed else 1


def forked(spec: str, out: Path, cache: Path, number: int | None, after: float) -> int:
    """A run in a process of its own that gets signal `number` after so many seconds; its exit code, negative for the
    signal that ended it."""
    child = os.fork()
    if child == 0:
        os._exit(attempt(spec, out, cache))
    if number is not None:
        time.sleep(after)
        os.kill(child, number)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """See above."""
    spec, out, cache, number, seed, attempts = sys.argv[1:]
    random.seed(int(seed))
    install(pytest.MonkeyPatch())
    trace_once(pytest.MonkeyPatch())
    torch.set_num_threads(1)
    started = time.monotonic()
    whole = forked(spec, Path(out) / "whole", Path(cache) / "whole", None, 0.0)
    lasted = time.monotonic() - started
    codes = [
        forked(spec, Path(out) / "broken", Path(cache) / "broken", int(number), random.uniform(0.0, lasted))
        for _ in range(int(attempts))
    ]
    codes.append(forked(spec, Path(out) / "broken", Path(cache) / "broken", None, 0.0))
    print(json.dumps({"whole": whole, "codes": codes}))


if __name__ == "__main__":
    main()
