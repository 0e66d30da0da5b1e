"""Run a learned method from its parts to its circuit, gone on from a checkpoint where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from graphir.circuit import Circuit
from graphir.errors import TrainingError
from passes.base import Pass, RunContext
from passes.learn.control import Control
from passes.learn.elimination import eliminate_to_bound
from passes.learn.initial import start_from
from passes.learn.learner import Learner, Phase, Settings
from passes.learn.objectives import Objective
from passes.learn.parts import PARTS, Part
from passes.learn.precision import Precision, denormals_flushed, program_in
from passes.learn.results import harden, kept_count, learned_circuit


def learn_circuit(
    found: Pass,
    context: RunContext,
    make_parts: Callable[[bool], Mapping[str, Part]],
    make_controls: Callable[[Mapping[str, Part]], Mapping[str, Control]],
    objective: Objective,
    settings: Settings,
    phases: Sequence[Phase],
    precision: Precision = "model",
) -> Circuit:
    """The circuit at the context's bounds after all phases, learned in a `precision` (see `passes.learn.precision`).

    `make_parts` is told whether the training starts anew; where it does not, no attributions are needed. The context's
    `origin` takes the place of how they start. Raises `GraphirError` for a bound that cannot be met, before the
    training; `TrainingError` on not-a-number, with the circuit of the last good state; `SaveFormatError` for a foreign
    checkpoint. Ctrl-C ends the training, and the circuit has `interrupted` in its provenance. In small graphs edges
    are chosen by trying where ranks do not do (`passes.learn.elimination`).
    """
    bounds = {name: context.bound(name) for name in PARTS}
    state = context.checkpoint.load()
    parts = make_parts(state is None)
    if context.origin is not None and state is None:
        start_from(context.origin, parts)
    for name, part in parts.items():
        kept_count(part, bounds[name])
    learner = Learner(
        replace(context, program=program_in(context.program, precision)),
        parts,
        make_controls(parts),
        objective,
        settings,
        phases,
        lambda name: harden(parts[name], bounds[name], context.program),
    )
    if state is not None:
        learner.load(state)
    try:
        with denormals_flushed():
            done = learner.learn()
    except TrainingError as error:
        error.circuit = learned_circuit(found, context, parts, bounds, steps_done=learner.done)
        raise
    if done < learner.steps:
        return learned_circuit(found, context, parts, bounds, steps_done=done, interrupted=done)
    return eliminate_to_bound(learned_circuit(found, context, parts, bounds, steps_done=done), context, parts)
