"""What a discovery method, with the options that a file gives it, has masks on, and what has to be bounded for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dsl import tree
from dsl.checking.context import Context
from dsl.spec import Constraint, MethodSpec
from graphir.diagnostics import Span
from passes.options import METHODS

EXAMPLES = {"edges": "3.4%", "nodes": "60%", "weights": "5%", "neurons": "20%"}
"""A bound on each part that a message may suggest."""
ORDER = ("weights", "neurons", "nodes", "edges")
"""Parts in the order in which `parts` names them."""
WEIGHT_LIKE = frozenset({"weights", "neurons"})


def masks_of(method: MethodSpec) -> tuple[str, ...]:
    """The parts that the method has masks on with its options, in the method's order."""
    options, known = method.options, METHODS[method.name].masks
    level, parts = getattr(options, "level", None), getattr(options, "parts", None)
    if level is not None and (options.learns or level == "edge"):  # a ranking of nodes brings its edges with it
        return (f"{level}s",)
    if parts is not None:
        return tuple(part for part in known if part in parts.split())
    return known if getattr(options, "node_masks", True) else tuple(part for part in known if part != "nodes")


def has_own_size(method: MethodSpec) -> bool:
    """Whether the method with its options ends at a size of its own where nothing is bounded."""
    return bool(getattr(method.options, "own_size", False))


def bound_example(parts: Iterable[str]) -> str:
    """A `subject to` that bounds the parts, as a message suggests it."""
    return "`subject to " + ", ".join(f"density({part}) <= {EXAMPLES[part]}" for part in parts) + "`"


def upper_bounds(constraints: Iterable[Constraint]) -> set[str]:
    """The parts that constraints say the largest size of."""
    return {
        each.part or each.quantity
        for each in constraints
        if each.operator == "==" or (each.operator in ("<=", "<")) != (each.quantity == "sparsity")
    }


def option_span(use: tree.MethodUse, name: str) -> Span:
    """Where a method's block sets an option; the whole use where it does not."""
    entries = use.block.entries if use.block else ()
    found = [each.span for each in entries if isinstance(each, tree.Entry) and each.name.text == name]
    return found[-1] if found else use.span


def check_mixture(
    context: Context, name: str, use: tree.MethodUse, method: MethodSpec, constraints: Sequence[Constraint]
) -> bool:
    """Whether the method's options go with each other and with what is bounded; reports what does not."""
    return (
        _all_bounded(context, name, use, method, constraints)
        and _can_alternate(context, use, method)
        and _can_project(context, use, method)
        and _can_start(context, use, method)
        and _can_rewind(context, use, method)
    )


def _all_bounded(
    context: Context, name: str, use: tree.MethodUse, method: MethodSpec, constraints: Sequence[Constraint]
) -> bool:
    """A mixture of masks needs a bound on each part, edge pruning one on edges, unless their own sizes come out."""
    if has_own_size(method):
        return True
    masked = set(masks_of(method))
    needed = masked if hasattr(method.options, "parts") else masked & {"edges"} if method.name == "edge_pruning" else ()
    bounded = upper_bounds(constraints)
    free = [part for part in ORDER if part in needed and part not in bounded]
    if not free:
        return True
    more = [f"add `density({free[0]}) <= {EXAMPLES[free[0]]}`"]
    if hasattr(method.options, "parts"):
        rest = " ".join(part for part in ORDER if part in masked and part not in free)
        more += [f"mask less: `parts: {rest}`"] if rest else []
        more += ["let λ decide: `control: ramp`"]
    message = f"nothing says how many {free[0]} `{name}` may keep"
    others = [(constraints[0].span, f"bounds {_named(bounded)}")] if bounded else []
    where = option_span(use, "parts")
    context.error("C403", message, where, f"masks {_named(masked)}", others=others,
                  help=", or ".join(more))  # fmt: skip
    return False


def _can_alternate(context: Context, use: tree.MethodUse, method: MethodSpec) -> bool:
    """An order needs something to come first and something to come second."""
    order, masked = getattr(method.options, "order", None), set(masks_of(method))
    if not hasattr(method.options, "parts") or order == "joint" or (masked & WEIGHT_LIKE and masked - WEIGHT_LIKE):
        return True
    message = f"the order `{order}` needs weights or neurons, and edges or nodes"
    context.error("C405", message, option_span(use, "order"), others=_set_apart(use, "parts", masked),
                  help="leave `order` out, or add to `parts`")  # fmt: skip
    return False


def _can_project(context: Context, use: tree.MethodUse, method: MethodSpec) -> bool:
    """A projection holds the masks at the target at every step, so it has to leave something."""
    target = getattr(method.options, "target", None)
    if getattr(method.options, "control", "") != "projection" or target is None or target < 1:
        return True
    message = "`control: projection` cannot hold a target that leaves nothing"
    context.error("C405", message, option_span(use, "target"), "must be below 100%",
                  others=[(option_span(use, "control"), "shifts all masks so that they are there at each step")],
                  help="give a lower target, or `control: lagrangian`, which may aim beyond")  # fmt: skip
    return False


def _can_start(context: Context, use: tree.MethodUse, method: MethodSpec) -> bool:
    """Masks that are all on at first have no density to choose."""
    if method.name != "edge_pruning" or method.options.initial != "ones" or method.options.start is None:
        return True
    context.error("C405", "masks that are all on at first have no starting density", option_span(use, "start"),
                  others=[(option_span(use, "initial"), "all on")],
                  help="leave out `start`, or write `initial: eap`")  # fmt: skip
    return False


def _can_rewind(context: Context, use: tree.MethodUse, method: MethodSpec) -> bool:
    """Weights go back to a step that they were trained to."""
    options = method.options
    if method.name != "imp" or options.rewind <= options.steps:
        return True
    context.error("C405", f"a training of {options.steps} steps has no step {options.rewind} to go back to",
                  option_span(use, "rewind"), help=f"a step from 0 to {options.steps}, or more `steps`")  # fmt: skip
    return False


def _set_apart(use: tree.MethodUse, name: str, masked: Iterable[str]) -> list[tuple[Span, str]]:
    """Where an option is set, unless it is not."""
    span = option_span(use, name)
    return [] if span == use.span else [(span, f"masks {_named(masked)}")]


def _named(parts: Iterable[str]) -> str:
    """`weights and edges`."""
    found = set(parts)
    return " and ".join(part for part in ORDER if part in found)
