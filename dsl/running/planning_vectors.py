"""What task vectors cost, for a plan: a step of tuning is a pass forth and one back that also has the weights' own
gradients, half as much again; then passes over held-out examples, with and without the vector, and hashes of the
weights. The optimizer reads and writes all weights in each step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dsl.running.planning import EFFICIENCY, MEASURED_TOKENS, PASS_SECONDS_PER_LAYER, Stage, Work
from dsl.running.vectoring import EffectStage, vector_stages
from dsl.spec import TunedVectorSpec

if TYPE_CHECKING:
    from dsl.running.sizes import ModelSize
    from dsl.spec import AnyVector, Spec

BACKWARD = 2
"""A backward pass with the gradients of weights costs twice a forward one."""
SCALARS_PER_SECOND = 3e7
"""Weights that one step of an optimizer goes over in a second: gradients, two moments, clipping, what is held."""
HASHED_PER_SECOND = 5e8
"""Bytes of weights that are hashed, copied or counted in a second."""


def vector_rows(
    spec: Spec, models: Mapping[str, ModelSize | None], tasks: Mapping[str, Mapping[str, Any]], gflops: float
) -> Iterator[Stage]:
    """The rows of vectors."""
    for vector in spec.vectors:
        rows: dict[str, Stage] = {}
        for stage in vector_stages(vector, spec):
            if isinstance(stage, EffectStage):
                row = _measuring(stage, models, tasks, gflops)
            elif stage.kind == "tuning":
                assert isinstance(vector, TunedVectorSpec)
                row = _tuning(vector, models, tasks, gflops)
            else:
                row = _counting(vector, stage.row, models)
            known = rows.get(stage.row)
            rows[stage.row] = row if known is None else _added(known, row)
        yield from rows.values()


def _tuning(
    vector: TunedVectorSpec, models: Mapping[str, ModelSize | None], tasks: Mapping[str, Mapping[str, Any]],
    gflops: float,
) -> Stage:  # fmt: skip
    options, size, shape = vector.method.options, models[vector.model.name], tasks[vector.task.name]
    steps = options.iterations * (options.steps + (options.sparse_steps or options.steps))
    examples = steps * min(options.batch_size, int(shape["train"]))
    row = Stage(f"tune {vector.name}", vector.span.line, examples, steps, steps, None, None, None)
    if size is None:
        return row
    work = Work(size, None, min(options.batch_size, int(shape["train"])), int(shape["tokens"]), shape)
    flops = steps * (1 + BACKWARD) * _pass(work)
    seconds = flops / (gflops * 1e9 * EFFICIENCY) + steps * size.parameters / SCALARS_PER_SECOND
    seconds += 2 * steps * size.layers * PASS_SECONDS_PER_LAYER + 4 * size.parameters * size.item / HASHED_PER_SECOND
    # Weights, gradients, two moments, the weights at the start, what they moved, and what a backward pass keeps.
    kept = size.layers * work.batch * work.tokens * (16 * size.width + 4 * size.hidden) * size.item
    memory = 600e6 + 7 * size.parameters * size.item + kept + 4 * work.batch * work.tokens * size.vocab * 4
    return replace(row, flops=flops, seconds=seconds, memory=memory)


def _measuring(
    stage: EffectStage, models: Mapping[str, ModelSize | None], tasks: Mapping[str, Mapping[str, Any]], gflops: float
) -> Stage:
    size, shape = models[stage.spec.model.name], tasks[stage.task.name]
    tokens, examples = max(int(shape["tokens"]), 1), int(shape["test"])
    batch = max(MEASURED_TOKENS // tokens, 1)
    passes = 2 * math.ceil(examples / batch)
    row = Stage(stage.row, stage.spec.span.line, examples, passes, 0, None, None, None)
    if size is None:
        return row
    work = Work(size, None, batch, tokens, shape)
    flops = passes * _pass(work)
    seconds = flops / (gflops * 1e9 * EFFICIENCY) + passes * size.layers * PASS_SECONDS_PER_LAYER
    seconds += 3 * size.parameters * size.item / HASHED_PER_SECOND
    memory = 600e6 + 3 * size.parameters * size.item + 2 * examples * size.vocab * 4
    return replace(row, flops=flops, seconds=seconds, memory=memory)


def _counting(vector: AnyVector, name: str, models: Mapping[str, ModelSize | None]) -> Stage:
    size = models[vector.model.name]
    row = Stage(name, vector.span.line, 0, 0, 0, 0.0, None, None)
    if size is None:
        return row
    return replace(
        row, seconds=size.parameters * size.item / HASHED_PER_SECOND, memory=600e6 + 3 * size.parameters * size.item
    )


def _pass(work: Work) -> float:
    """A forward pass of the plain model, with the logits at every position, which its own forward computes."""
    assert work.model is not None
    return work.pass_flops + 2.0 * work.model.vocab * work.model.width * work.batch * work.tokens


def _added(first: Stage, second: Stage) -> Stage:
    def add(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a + b

    peak = None if first.memory is None or second.memory is None else max(first.memory, second.memory)
    return replace(
        first, examples=first.examples + second.examples, forward=first.forward + second.forward,
        flops=add(first.flops, second.flops), seconds=add(first.seconds, second.seconds), memory=peak,
    )  # fmt: skip
