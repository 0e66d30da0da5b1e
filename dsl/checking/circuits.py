"""Circuits and sheaves that are discovered: method, objective, constraints, size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsl import tree
from dsl.checking.bounds import check_bounds
from dsl.checking.context import Context, every
from dsl.checking.expressions import Bound, as_bound, check_arithmetic, check_condition, conjuncts, constant
from dsl.checking.masks import bound_example, check_mixture, has_own_size, masks_of, option_span, upper_bounds
from dsl.checking.methods import check_method
from dsl.checking.values import amount_of, plain_number
from dsl.schema import METRICS
from dsl.spec import Amount, CircuitSpec, Constraint, MethodSpec
from graphir.diagnostics import Edit
from graphir.errors import GraphirError
from passes.options import METHODS

STARTS = ("start", "initial", "initial_spread", "initial_logit", "keep")
"""Options of methods that say how masks start."""
SAID_BY = {"structured": "ratio"}
"""Methods whose size one option says and nothing else bounds."""
WITHOUT_GRADIENT = ("ifr", "magnitude", "random", "structured")
"""Rankings that do not differentiate the task's metric."""


def check_circuit(context: Context, section: tree.Circuit) -> CircuitSpec | None:
    """A circuit: declared graph and task, a method, and a size that can be met."""
    graph, task = context.spec(section.graph, tree.GraphSection), context.spec(section.task, tree.Task)
    method = check_method(context, section.method)
    clauses = _clauses(context, section)
    minimize = _objective(context, clauses.get("minimize"), section.method)
    constraints = _constraints(context, clauses.get("subject to"), section.method, method)
    top = _top(context, clauses.get("top"), section.method, method)
    origin = _origin(context, clauses.get("from"), section, method)
    if constraints is None or minimize is False or top is False or origin is False:
        return None
    if method is None or not _has_size(context, section, method, constraints, clauses):
        return None
    if not check_mixture(context, section.name.text, section.method, method, constraints):
        return None
    if not _is_its_kind(context, section, method, constraints):
        return None
    if graph is None or task is None or not _can_rank(context, section, task, method):
        return None
    if not _can_patch(context, section, task, method):
        return None
    objective = minimize.expression if isinstance(minimize, tree.Minimize) else None
    kept = top if isinstance(top, Amount) else None
    spec = CircuitSpec(
        section.span, section.name.text, graph, task, method, objective, tuple(constraints), kept, section.kind,
        origin=origin if isinstance(origin, CircuitSpec) else None,
    )  # fmt: skip
    return spec if _can_minimize(context, spec, section.method) else None


def _can_minimize(context: Context, spec: CircuitSpec, use: tree.MethodUse) -> bool:
    """Whether the objective is one that the method has."""
    if spec.minimize is None:
        return True
    from dsl.objectives import objective_options

    try:
        objective_options(spec)
    except GraphirError as error:
        others = [(use.name.span, "learns by an objective of its own")]
        context.error("C405", error.message, spec.minimize.span, others=others, help=error.hints[0])
        return False
    return True


def _origin(
    context: Context, clause: tree.Origin | None, section: tree.Circuit, method: MethodSpec | None
) -> CircuitSpec | bool | None:
    """The circuit whose masks learning starts from; None when there is no clause, False when it has mistakes."""
    if clause is None:
        return None
    found: CircuitSpec | None = context.spec(clause.circuit, tree.Circuit)
    if found is None or method is None:
        return False
    for each, span in ((method, section.method.span), (found.method, clause.circuit.span)):
        if not _learned(each):
            message = f"`{each.name}` learns no masks on edges, nodes or neurons"
            label = "cannot start from those of a circuit" if each is method else f"found by `{each.name}`"
            others = [] if each is method else [(found.method.span, "here")]
            context.error("C405", message, span, label, others=others, help="learn with `edge_pruning`")
            return False
    if not _learned(method) & _learned(found.method):
        parts = [" and ".join(sorted(_learned(each))) for each in (found.method, method)]
        message = f"`{found.name}` has masks on {parts[0]}, `{section.name.text}` on {parts[1]}"
        context.error("C405", message, clause.span, "nothing to start from", others=[(section.method.span, "")])
        return False
    if found.graph.name != section.graph.text:
        label = f"`{found.name}` is on `{found.graph.name}`, `{section.name.text}` on `{section.graph.text}`"
        message = "learning starts from a circuit of another graph"
        context.error("C406", message, clause.circuit.span, label, help="discover both on one graph")
        return False
    # With masks on weights, of which a circuit keeps no scores, there is a start to choose for these.
    fixed = ("start", "keep") if "weights" in getattr(method.options, "parts", "") else STARTS
    if given := sorted(method.given & set(fixed)):
        message = f"masks that start from `{found.name}` are as dense as there"
        context.error("C405", message, clause.span, others=[(section.method.span, f"has `{given[0]}`")],
                      help=f"leave out `{given[0]}`, or `from {found.name}`")  # fmt: skip
        return False
    return found


def _learned(method: MethodSpec) -> set[str]:
    """Of edges, nodes and neurons those that a method, with its options, learns masks on."""
    return set(masks_of(method)) - {"weights"} if METHODS[method.name].learns else set()


def _is_its_kind(
    context: Context, section: tree.Circuit, method: MethodSpec, constraints: Sequence[Constraint]
) -> bool:
    """Whether weights are bounded, or learned without a bound, in a sheaf and in nothing else (C412)."""
    masks = METHODS[method.name].masks
    use = section.method.name
    if section.kind == "sheaf" and "weights" not in masks:
        known = [name for name, options in METHODS.items() if "weights" in options.masks]
        note = f"methods with weight masks: {', '.join(known)}" if known else ""
        message = f"a sheaf needs masks on weights, and `{method.name}` has none"
        context.error("C412", message, use.span, f"masks {' and '.join(masks)}", notes=[note])
        return False
    weights = [each for each in constraints if "weights" in (each.part, each.quantity)]
    learned = METHODS[method.name].learns and "weights" in masks_of(method)
    if section.kind == "circuit" and (weights or learned):
        word = section.span.source.span(section.span.start, section.span.start + len("circuit"))
        is_plain = word.text == "circuit"
        context.error(
            "C412",
            "a circuit is made of edges; with weights it is a sheaf",
            weights[0].span if weights else use.span,
            "bounds weights" if weights else "masks weights",
            others=[(word, "")] if is_plain else [],
            help="write `sheaf`",
            fix=Edit(word, "sheaf") if is_plain else None,
        )
        return False
    return True


def _clauses(context: Context, section: tree.Circuit) -> dict[str, Any]:
    names = {tree.Origin: "from", tree.Minimize: "minimize", tree.SubjectTo: "subject to", tree.Top: "top"}
    found: dict[str, Any] = {}
    for clause in section.clauses:
        word = names[type(clause)]
        first = found.setdefault(word, clause)
        if first is not clause:
            where = [(first.span, "first given here")]
            help = "separate constraints by `,`" if word == "subject to" else ""
            context.error("C402", f"`{word}` is given twice", clause.span, "given again here", others=where, help=help)
    return found


def _objective(context: Context, clause: tree.Minimize | None, use: tree.MethodUse) -> tree.Minimize | bool:
    """The clause; True when there is none, False when it has mistakes."""
    if clause is None:
        return True
    if not check_arithmetic(context, clause.expression, "objective"):
        return False
    if constant(clause.expression) is not None or not _mentions_circuit(clause.expression):
        label = "the same for every circuit"
        context.error(
            "C504",
            "this objective does not depend on the circuit",
            clause.expression.span,
            label,
            help="for example `kl(model, circuit)`",
        )
        return False
    method = METHODS.get(use.name.text)
    if method is not None and not method.learns:
        others = [(use.name.span, "ranks edges by their effect on the task's metric")]
        context.error(
            "C405",
            f"`{use.name.text}` minimizes nothing",
            clause.span,
            others=others,
            help="leave `minimize` out, or learn with `edge_pruning`",
        )
        return False
    return clause


def _mentions_circuit(expression: tree.Expression) -> bool:
    """Whether some quantity in an expression is about the circuit: bare, or with it or its parts as argument."""
    for node in tree.walk(expression):
        if isinstance(node, tree.Call):
            words = {argument.text for argument in node.arguments if isinstance(argument, tree.Name)}
            if not words <= {"model", "empty"}:
                return True
        elif node is expression and isinstance(node, tree.Name):
            return True
        elif isinstance(node, tree.Binary | tree.Unary):
            sides = (node.left, node.right) if isinstance(node, tree.Binary) else (node.operand,)
            if any(isinstance(side, tree.Name) for side in sides):
                return True
    return False


def _constraints(
    context: Context, clause: tree.SubjectTo | None, use: tree.MethodUse, method: MethodSpec | None
) -> list[Constraint] | None:
    if clause is None:
        return []
    found, bounds, good = [], [], True
    for written in clause.constraints:
        read = check_condition(context, written, "constraint")
        if read is None:
            good = False
            continue
        bounds += read
        for expression in conjuncts(written):
            constraint = _constraint(context, expression)
            found.append(constraint)
            good &= constraint is not None
    good &= check_bounds(context, bounds, "constraint")
    if method is not None:
        good &= every(_can_bound(context, bound, use, method) for bound in bounds)
    return [each for each in found if each] if good else None


def _constraint(context: Context, expression: tree.Expression) -> Constraint | None:
    bound = as_bound(expression) if isinstance(expression, tree.Binary) else None
    if bound is None:
        help = "for example `density(edges) <= 3.4%`"
        context.error(
            "C301",
            "a constraint bounds one quantity by a constant",
            expression.span,
            "this is more than that",
            help=help,
        )
        return None
    part = bound.arguments[0] if bound.arguments else ""
    return Constraint(expression.span, bound.quantity, part, bound.operator, bound.value, expression)


def _can_bound(context: Context, bound: Bound, use: tree.MethodUse, method: MethodSpec) -> bool:
    """Whether the method has masks on what is bounded."""
    part = bound.arguments[0] if bound.arguments else bound.quantity
    known = METHODS[method.name].masks
    if part not in known:
        label = f"`{method.name}` has masks on {' and '.join(known)} only"
        context.error(
            "C405", f"`{method.name}` cannot bound {part}", bound.expression.span, label, others=[(use.name.span, "")]
        )
        return False
    level, masked = getattr(method.options, "level", None), masks_of(method)
    if level is not None and part not in masked:
        context.error(
            "C405", f"`{method.name}` cannot bound {part}", bound.expression.span,
            others=[(use.span, f"its masks are on {level}s")], help=f"add `level: {part.removesuffix('s')}`",
        )  # fmt: skip
        return False
    if hasattr(method.options, "parts") and part not in masked:
        parts = " ".join(each for each in ("weights", "neurons", "nodes", "edges") if each in {*masked, part})
        context.error(
            "C405", f"`{method.name}` cannot bound {part}", bound.expression.span,
            others=[(option_span(use, "parts"), f"its masks are on {' and '.join(masked)}")],
            help=f"write `parts: {parts}`, or leave this bound out",
        )  # fmt: skip
        return False
    if part == "nodes" and not getattr(method.options, "node_masks", True):
        others = [(use.span, "its node masks are off")]
        context.error(
            "C405",
            f"`{method.name}` cannot bound nodes",
            bound.expression.span,
            others=others,
            help="add `node_masks: true`",
        )
        return False
    return True


def _top(context: Context, clause: tree.Top | None, use: tree.MethodUse, method: MethodSpec | None) -> Amount | bool:
    """The amount; True when there is no clause, False when it has mistakes."""
    if clause is None:
        return True
    masks: tuple[str, ...] = ("edges",)
    if method is not None:
        masks = masks_of(method)
    elif use.name.text in METHODS:
        masks = METHODS[use.name.text].masks
    usual = "edges" if "edges" in masks else masks[0]
    part = usual if clause.word is None else clause.word.text
    if part not in masks and clause.word and not clause.word.is_missing:
        help = f"write `{masks[0]}`"
        context.error("C209", f"`top` counts {masks[0]}, not {part}", clause.word.span, help=help, fix=masks[0])
        return False
    number = amount_of(context, clause.amount)
    value = None if number is None else plain_number(context, number)
    if number is None or value is None:
        return False
    if number.unit == "%":
        if not 0 < value <= 1:
            context.error(
                "C303", f"`top {number.text}` is out of range", number.span, "must be above 0% and at most 100%"
            )
            return False
        return Amount(clause.span, fraction=value, part=part)
    if value != int(value) or value < 1:
        fix = f"{number.text}%"
        context.error(
            "C301",
            f"`top` wants a whole number or a share, found {number.text}",
            number.span,
            help="did you mean percent?",
            fix=fix,
        )
        return False
    return Amount(clause.span, count=int(value), part=part)


def _has_size(
    context: Context,
    section: tree.Circuit,
    method: MethodSpec,
    constraints: list[Constraint],
    clauses: Mapping[str, Any],
) -> bool:
    """Whether the size of the circuit follows, and from one clause only."""
    learns = METHODS[method.name].learns
    use = section.method.name
    parts = [part for part in ("weights", "neurons", "nodes", "edges") if part in masks_of(method)]
    wanted = parts if hasattr(method.options, "parts") else parts[-1:]
    example = f"for example {bound_example(wanted)}"
    if "top" in clauses and learns:
        others = [(use.span, "learns masks under constraints")]
        help = f"leave it out, or bound {wanted[0]}, {example}" if has_own_size(method) else example
        context.error("C405", f"`top` does not go with `{method.name}`", clauses["top"].span, others=others, help=help)
        return False
    if "top" in clauses and constraints:
        others = [(clauses["subject to"].span, "and here")]
        context.error(
            "C405", "the size is given twice", clauses["top"].span, "here", others=others, help="keep one of the two"
        )
        return False
    if (option := SAID_BY.get(method.name)) and (given := clauses.get("top") or clauses.get("subject to")):
        others = [(use.span, f"`{option}` says how much goes")]
        help = f"leave the bound out, or give `{option}`"
        context.error("C405", f"`{method.name}` meets no bound", given.span, others=others, help=help)
        return False
    if "top" in clauses or upper_bounds(constraints) or has_own_size(method):
        return True
    more = ", or let λ decide: `control: ramp`" if hasattr(method.options, "parts") else ""
    help = example + more if learns else f"for example `top 3.4%`; {bound_example(wanted)} is the same"
    label = f"how many {' and '.join(wanted)} may it keep?"
    context.error("C403", f"the {section.kind} `{section.name.text}` has no size", use.span, label, help=help)
    return False


def _uses_gradient(method: MethodSpec) -> bool:
    """Whether a ranking differentiates the task's metric. ACDC does for the order it looks at edges in, which can be
    another one."""
    if method.name == "acdc":
        return bool(method.options.order == "scores")
    return method.name not in WITHOUT_GRADIENT


def _can_rank(context: Context, section: tree.Circuit, task: Any, method: MethodSpec) -> bool:
    if METHODS[method.name].learns or METRICS[task.metric].smooth or not _uses_gradient(method):
        return True
    others = [(task.span.source.span(task.span.start, task.span.start + len("task")), f"its metric is `{task.metric}`")]
    message = f"`{method.name}` needs a metric with a gradient"
    context.error(
        "C405", message, section.task.span, f"`{task.metric}` has none", others=others, help="use `metric logit_diff`"
    )
    return False


def _can_patch(context: Context, section: tree.Circuit, task: Any, method: MethodSpec) -> bool:
    """Denoising puts clean values into the counterfactual run, which only interchange ablation has."""
    if getattr(method.options, "direction", "") != "denoising" or task.ablation == "interchange":
        return True
    others = [(task.span.source.span(task.span.start, task.span.start + len("task")), f"`ablate {task.ablation}`")]
    message = "denoising starts from the counterfactual run"
    context.error("C405", message, option_span(section.method, "direction"), f"`{task.ablation}` ablation has none",
                  others=others, help="use `direction: noising`, or a task with `ablate interchange`")  # fmt: skip
    return False
