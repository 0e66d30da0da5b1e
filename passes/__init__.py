"""Passes over masked programs: discovery methods, selection and measurement.

    circuit = passes.run("eap_ig", program, task, steps=5, density=0.034)

Importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphir.circuit import Circuit
    from graphir.run.program import MaskedProgram
    from passes.base import Pass
    from passes.observe import Checkpoint, Observer
    from passes.task import Task


def run(
    method: str | type[Pass] | Pass,
    program: MaskedProgram,
    task: Task,
    *,
    density: float | None = None,
    edges: int | None = None,
    nodes: float | None = None,
    weights: float | None = None,
    neurons: float | None = None,
    metric: str | None = None,
    seed: int = 0,
    observer: Observer | None = None,
    checkpoint: Checkpoint | None = None,
    origin: Circuit | None = None,
    **options: Any,
) -> Circuit:
    """Run a pass by name, class or value and return its circuit.

    `density` bounds the share of edges kept, `edges` their number, `nodes`, `weights` and `neurons` the share of those;
    without a bound a ranking method keeps every edge, with its scores. `metric` is what attributions are taken of:
    `logit_diff` when left out, `kl` where examples have no distractor. A method that learns starts from the masks of
    `origin`, a learned circuit of the same graph, where it is given. `options` are the pass's fields. Raises
    `UnknownNameError` for an unknown pass, `TypeError` for an unknown option, `GraphirError` for a bound on what the
    pass does not mask and for an origin that it cannot start from. Under `optimal` ablation the circuit comes with the
    constants that are learned for its own masks, unless the pass has learned them.
    """
    from graphir.errors import GraphirError
    from passes.base import Constraint, Pass, RunContext, check_bounds, check_origin
    from passes.metrics import default_metric
    from passes.observe import NoCheckpoint, SilentObserver
    from passes.registry import find_pass

    if isinstance(method, Pass):
        if options:
            raise GraphirError(f"a pass that is already made takes no options ({', '.join(options)})")
        chosen = method
    else:
        chosen = (find_pass(method) if isinstance(method, str) else method)(**options)
    if edges is not None:
        share = edges / max(len(program.graph.edges), 1)
        density = share if density is None else min(share, density)
    bounds = [Constraint("edges", density)] if density is not None else []
    shares = {"nodes": nodes, "weights": weights, "neurons": neurons}
    bounds += [Constraint(part, share) for part, share in shares.items() if share is not None]
    context = RunContext(
        program,
        task,
        tuple(bounds),
        metric or default_metric(task, "train"),
        seed,
        observer or SilentObserver(),
        checkpoint or NoCheckpoint(),
        origin,
    )
    check_bounds(chosen, [bound.part for bound in bounds])
    check_origin(chosen, context)
    circuit = chosen.run(context)
    if task.ablation == "optimal" and not circuit.constants:
        from passes.optimal_constants import with_optimal_constants

        circuit = with_optimal_constants(circuit, program, task, seed=seed, observer=context.observer)
    return circuit
