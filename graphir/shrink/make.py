"""From a circuit to a smaller module (see `shrink`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from graphir.circuit import Circuit
from graphir.errors import GraphirError
from graphir.run.constants import reference_of
from graphir.run.layer_program import LayerProgram
from graphir.run.program import MaskedProgram, Reference, lower
from graphir.run.stream_program import StreamProgram
from graphir.shrink.compare import measure_difference
from graphir.shrink.layered import decide_layers, write_layers
from graphir.shrink.module import ShrunkModule
from graphir.shrink.problems import ShrinkError
from graphir.shrink.report import ShrinkReport, measure_report
from graphir.shrink.slicing import Emitter
from graphir.shrink.streams import decide_streams, write_streams
from graphir.shrink.weights import WeightStore
from graphir.tracing.canonical import parameter_only
from graphir.tracing.exported import Example, Traced
from graphir.tracing.probing import interpret, small_inputs


def shrink(
    circuit: Circuit,
    *,
    means: Iterable[Example] | Reference | None = None,
    strict: bool = True,
    tolerance: float = 1e-5,
    timed: bool = False,
) -> ShrunkModule:
    """A smaller module whose outputs are those of `circuit`'s masked program, and its `report`.

    Heads, key/value groups, neurons, channels and whole components that are dropped, or that nothing kept reads, leave
    the parameters; weight masks and, in layered models, dropped edges become zeros. Ablation must be `zero`, `mean`
    (`means`: batches to average over, or a reference of one mean a writer) or `optimal`: constants are folded into
    biases. What cannot be left out stays masked and stands in `report.left`.

    Outputs are compared with the masked program's on the example and on another batch and length: where they differ by
    more than `tolerance` (times the largest |output| where that exceeds one) it is a `ShrinkError`, and so is, with
    `strict`, a circuit that no smaller module computes: edges dropped between nodes that stay, or single units before a
    norm over all of them. Without `strict` those are kept; `report.circuit` is the circuit that the module computes.
    With `timed` the report has latencies.
    """
    _check(circuit)
    program = lower(circuit.graph)
    reference = _reference(program, circuit, means)
    traced = _masked(program.traced, circuit.weights)
    values = interpret(traced, program.traced.graph, small_inputs(traced))
    attempts = (True, False) if isinstance(program, StreamProgram) else (True,)
    worst = float("inf")
    for uneven in attempts:  # heads that are told apart by more than their weights cannot change places
        module, realized, left, notes = _build(
            program, circuit, reference, traced, values, strict=strict, uneven=uneven
        )
        worst, scale = measure_difference(program, module, realized, reference)
        if worst <= tolerance * max(1.0, scale):
            module._report = measure_report(program, circuit, realized, module, worst, left, notes, timed=timed)
            return module
    raise ShrinkError(
        f"the smaller module differs from the masked program by {worst:.3g}, more than `tolerance` allows",
        ("raise `tolerance` if the model runs in low precision", "report the model: this should not happen"),
    )


def _check(circuit: Circuit) -> None:
    if circuit.graph.lifted is None:
        raise GraphirError(
            "this circuit has no model behind it", ["load it with the model: `Circuit.load(folder, model)`"]
        )
    if circuit.ablation not in ("zero", "mean", "optimal") and _drops(circuit):
        what = "the position" if circuit.ablation.startswith("mean") else "another run"
        raise ShrinkError(
            f"what stands in under `{circuit.ablation}` depends on {what}: no module alone computes it",
            (
                'take zeros or means: `circuit.with_(ablation="zero").shrink()`',
                '`ablation="mean"` with `means=batches`',
            ),
        )


def _drops(circuit: Circuit) -> bool:
    """Whether it drops a part of the graph, and not weights alone: then something stands in for it."""
    return not (circuit.edges.all() and circuit.nodes.all())


def _reference(
    program: MaskedProgram, circuit: Circuit, means: Iterable[Example] | Reference | None
) -> Reference | None:
    """What stands for dropped parts; None for nothing."""
    if circuit.ablation == "zero" or not _drops(circuit):
        return None
    if circuit.constants:
        return reference_of(program, circuit.constants)
    if circuit.ablation == "optimal":
        raise ShrinkError("this circuit ablates to learned constants, and it has none", ("learn them first",))
    if means is None:
        raise ShrinkError(
            "this circuit ablates to means, and there are none yet", ("pass `means=` with batches to average over",)
        )
    return means if isinstance(means, Reference) else program.means(means)


def _masked(traced: Traced, weights: Mapping[str, np.ndarray]) -> Traced:
    """The traced model with weight masks in its parameters."""
    if not weights:
        return traced
    if unknown := set(weights) - set(traced.tensors):
        raise GraphirError(f"there is a mask for `{sorted(unknown)[0]}`, and the model has no such parameter")
    changed = {
        name: traced.tensors[name].detach() * torch.as_tensor(np.asarray(mask)).to(traced.tensors[name])
        for name, mask in weights.items()
    }
    return replace(traced, tensors={**traced.tensors, **changed})


def _build(
    program: MaskedProgram, circuit: Circuit, reference: Reference | None, traced: Traced,
    values: Mapping[fx.Node, Any], *, strict: bool, uneven: bool,
) -> tuple[ShrunkModule, Circuit, list[str], list[str]]:  # fmt: skip
    graph = fx.Graph()
    store = WeightStore(graph, traced.tensors, values, traced.parameter_names)
    emitter = Emitter(graph, store, values, parameter_only(traced.graph))
    with torch.no_grad():
        if isinstance(program, StreamProgram):
            decided = decide_streams(program, circuit, reference, values, strict=strict, uneven=uneven)
            write_streams(program, decided, emitter)
            realized, left = decided.circuit, decided.left
        else:
            assert isinstance(program, LayerProgram)
            layers = decide_layers(program, circuit)
            write_layers(program, layers, emitter, reference, values)
            realized, left = circuit, layers.left
    graph.eliminate_dead_code()
    tensors = store.settle()
    saved = traced.model.state_dict()
    shared = _also_known_as(traced, store, tensors)
    transient = frozenset(n for n in tensors if n not in store.parameters and store.origin[n] not in saved)
    module = ShrunkModule(
        graph, {**tensors, **shared}, frozenset(store.parameters) | frozenset(shared), traced.input_names,
        traced.output_names, traced.output_rebuild, transient,
    )  # fmt: skip
    module.train(mode=False)
    notes = [*store.notes]
    if emitter.restored:
        notes.append(f"over whole values, with zeros for what is gone: {', '.join(emitter.restored)}")
    return module, realized, left, notes


def _also_known_as(traced: Traced, store: WeightStore, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The other names of tied parameters that stayed as they were."""
    names: dict[int, list[str]] = {}
    for name, parameter in traced.model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {
        other: tensors[group[0]]
        for group in names.values()
        if group[0] in tensors and store.origin[group[0]] == group[0]
        for other in group[1:]
    }


__all__ = ["ShrinkReport", "shrink"]
