"""Checks and their gates, faithfulness curves, evidence."""

from __future__ import annotations

from typing import Any

from dsl import tree
from dsl.checking.bounds import check_bounds
from dsl.checking.context import Context, every
from dsl.checking.expressions import check_condition
from dsl.checking.gates import GATED, is_gated
from dsl.checking.masks import masks_of
from dsl.checking.methods import check_method, check_options
from dsl.checking.references import find_circuit, find_circuits
from dsl.checking.values import amount_of, plain_number
from dsl.schema import QUANTITIES, SCALES
from dsl.spec import AnyCircuit, CheckSpec, CircuitSpec, Condition, EvidenceSpec, MeasureSpec, MethodSpec
from graphir.diagnostics import Span
from passes.options import METHODS

MAX_SEEDS = 100
WORTH = "for example `kl <= 0.3`"


def check_check(context: Context, section: tree.Check) -> list[CheckSpec] | None:
    """Conditions that are comparisons of known quantities and can hold; one check for each circuit."""
    if is_gated(context, section.circuit):
        return None  # `dsl.checking.gates` checks those
    circuits = find_circuits(context, section.circuit, *GATED)
    if not section.conditions and not section.circuit.is_missing:
        context.error("C403", "this check has no conditions", section.span, help=WORTH)
        return None
    read = [_condition(context, condition) for condition in section.conditions]
    bare = [condition for each in read if each for condition in [each[0]]]
    good = check_bounds(context, [bound for each in read for bound in (each[1] if each else ())], "condition")
    for circuit in circuits or ():
        good &= every(_can_judge(context, condition, circuit) for condition in bare)
    if not good or None in read or circuits is None:
        return None
    return [CheckSpec(section.span, circuit, tuple(bare)) for circuit in circuits]


def _condition(context: Context, written: tree.Expression) -> tuple[Condition, list[Any]] | None:
    """A condition and its bounds; None when it has mistakes."""
    seeds = None
    inner = written
    if isinstance(written, tree.Gate):
        inner = written.condition
        seeds = _seeds(context, written)
        if seeds is None:
            return None
    bounds = check_condition(context, inner, "check")
    if bounds is None:
        return None
    return Condition(written.span, inner, " ".join(written.span.text.split()), seeds), bounds


def _seeds(context: Context, gate: tree.Gate) -> int | None:
    """The number of seeds of a gate."""
    number = amount_of(context, gate.seeds)
    value = None if number is None else plain_number(context, number)
    if number is None or value is None:
        return None
    if number.unit == "%" or value != int(value) or not 2 <= value <= MAX_SEEDS:
        context.error("C505", f"`over {number.text} seeds` compares nothing", number.span, f"2 to {MAX_SEEDS} seeds")
        return None
    return int(value)


def _can_judge(context: Context, condition: Condition, circuit: AnyCircuit) -> bool:
    """Whether a circuit has what a condition asks: seeds for stability, a method to train a control with."""
    good = True
    for node in tree.walk(condition.expression):
        name = node.function if isinstance(node, tree.Call) else node
        if not isinstance(name, tree.Name) or name.text not in QUANTITIES:
            continue
        if QUANTITIES[name.text].seeds:
            good &= _has_seeds(context, name, condition, circuit) and _has_masks(context, node, circuit)
        if isinstance(node, tree.Call) and any(getattr(a, "text", "") == "random_model" for a in node.arguments):
            good &= _has_method(context, node, circuit)
    return good


def _has_seeds(context: Context, name: tree.Name, condition: Condition, circuit: AnyCircuit) -> bool:
    """`stability` compares circuits of several seeds."""
    if not isinstance(circuit, CircuitSpec):
        others = [(circuit.span, "is not discovered here")]
        context.error("C507", f"`{name.text}` needs a circuit that is discovered", name.span, others=others)
        return False
    seeds = getattr(circuit.method.options, "seeds", None)
    if seeds is not None and (len(seeds) > 1 or condition.seeds):
        return True
    others = [(circuit.method.span, "finds one circuit")]
    help = f"for example `{name.text} iou >= 0.5 over 3 seeds`" if seeds is not None else "learn with `edge_pruning`"
    context.error("C405", f"`{name.text}` needs several seeds", name.span, others=others, help=help)
    return False


def _has_masks(context: Context, written: tree.Node, circuit: AnyCircuit) -> bool:
    """Overlap of weights or neurons needs masks on these; where all are kept it would always be 1."""
    words = [a.text for a in written.arguments if isinstance(a, tree.Name)] if isinstance(written, tree.Call) else []
    part = next((word for word in words if word in ("weights", "neurons")), "")
    if not part or not isinstance(circuit, CircuitSpec):
        return True
    masked = masks_of(circuit.method)
    if part in masked or (part == "weights" and "neurons" in masked):  # a neuron is cut out of the weights
        return True
    others = [(circuit.method.span, f"has masks on {' and '.join(masked)}")]
    context.error("C405", f"`{circuit.name}` has no masks on {part}", written.span, others=others,
                  help=f"compare {masked[0]}" if masked else "")  # fmt: skip
    return False


def _has_method(context: Context, call: tree.Call, circuit: AnyCircuit) -> bool:
    """The control by a random model discovers anew."""
    if isinstance(circuit, CircuitSpec):
        return True
    others = [(circuit.span, "is not discovered here")]
    message = "`random_model` needs a circuit that is discovered"
    context.error("C507", message, call.span, "the method is run on the random model", others=others)
    return False


def check_evidence(context: Context, section: tree.Evidence) -> EvidenceSpec | None:
    """Circuits and what is measured beside them."""
    from passes.evidence_options import EvidenceOptions

    found = [find_circuits(context, name) for name in section.circuits]
    options = check_options(context, section.block, EvidenceOptions, "evidence")
    if options is None or None in found:
        return None
    circuits = tuple(circuit for each in found for circuit in each or ())
    controls = getattr(options[0], "controls", ())
    good = True
    for name, each in zip(section.circuits, found, strict=True):
        if (
            "controls" in options[1]
            and "random_model" in controls
            and not all(isinstance(c, CircuitSpec) for c in each or ())
        ):
            message = "the control `random_model` needs a circuit that is discovered"
            context.error("C507", message, name.span, "is not discovered here")
            good = False
        before = context.judged.get(name.span.text)
        if before is not None:
            others = [(before, "first given here")]
            context.error("C402", f"evidence of `{name.span.text}` is given twice", name.span, others=others)
            good = False
        context.judged[name.span.text] = name.span
    truth = _truth(context, section, circuits) if section.truth is not None else None
    if not good or (section.truth is not None and truth is None):
        return None
    return EvidenceSpec(section.span, circuits, *options, truth)


def _truth(context: Context, section: tree.Evidence, circuits: tuple[AnyCircuit, ...]) -> AnyCircuit | None:
    """The circuit that is said to be the true one, on the graph of all circuits."""
    assert section.truth is not None
    truth = find_circuit(context, section.truth)
    if truth is None:
        return None
    other = next((each for each in circuits if each.graph.name != truth.graph.name), None)
    if other is None:
        return truth
    message = "a circuit is compared with the true one of its own graph"
    label = f"`{truth.name}` is on `{truth.graph.name}`, `{other.label}` on `{other.graph.name}`"
    context.error("C406", message, section.truth.span, label)
    return None


def check_measure(context: Context, section: tree.Measure) -> MeasureSpec | None:
    """A curve: circuits, sizes in one scale, rankings to compare with."""
    named = [find_circuits(context, name) for name in section.circuits]
    scale = context.word("C209", "scale", section.scale, SCALES, "scales")
    amounts = [_amount(context, number, scale) for number in section.amounts] if scale else [None]
    against = [check_method(context, use) for use in section.against]
    good = True
    for use, method in zip(section.against, against, strict=True):
        if method and METHODS[method.name].learns:
            context.error(
                "C405",
                f"`{method.name}` is not a ranking",
                use.name.span,
                "learned anew for every size",
                help="declare a circuit for each size, or compare with `eap_ig`",
            )
            good = False
        elif method:
            good &= _ranks_edges(context, use.name.span, f"`{method.name}`", method)
    for name, meant in zip(section.circuits, named, strict=True):
        for each in meant or ():
            if isinstance(each, CircuitSpec):
                good &= _ranks_edges(context, name.span, f"`{each.name}`", each.method)
    if not good or None in named or None in amounts or None in against or scale is None:
        return None
    circuits = [circuit for each in named for circuit in each or ()]
    found = tuple(amount for amount in amounts if amount is not None)
    return MeasureSpec(section.span, tuple(circuits), scale, found, tuple(m for m in against if m))


def _ranks_edges(context: Context, span: Span, subject: str, method: MethodSpec) -> bool:
    """A curve goes through circuits of the edges that a method ranks highest."""
    masked = masks_of(method)
    if "edges" in masked:
        return True
    message = f"{subject} has no ranking of edges to measure at other sizes"
    label = f"`{method.name}` masks {' and '.join(masked)}"
    context.error("C405", message, span, label, help="declare a circuit for each size")
    return False


def _amount(context: Context, written: tree.Amount, scale: str) -> float | None:
    number = amount_of(context, written)
    value = None if number is None else plain_number(context, number)
    if number is None or value is None:
        return None
    if scale == "edges":
        if number.unit == "%" or value != int(value) or value < 0:
            context.error(
                "C302", f"`{number.text}` is not a number of edges", number.span, help="shares go with `at density`"
            )
            return None
        return value
    if not 0 <= value <= 1:
        fix = f"{number.text}%" if not number.unit and value <= 100 else None
        context.error(
            "C303",
            f"a {scale} of {number.text} is out of range",
            number.span,
            "must be 0% to 100%",
            help="did you mean percent?" if fix else "",
            fix=fix,
        )
        return None
    return value
