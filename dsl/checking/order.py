"""The order in which circuits, and vectors, can be checked: those that others are made from, or start from, first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dsl import tree
from dsl.checking.context import KIND_NAMES, Context

Made = tree.Circuit | tree.Composition | tree.VectorSum


def order_of(sections: Sequence[Made]) -> list[Made]:
    """The sections, those that others name first; those that name themselves in a circle come last."""
    waiting = {each.name.text: each for each in reversed(sections)}
    found: list[Made] = []
    while waiting:
        ready = [
            name for name, section in waiting.items() if not any(named.text in waiting for named in names_of(section))
        ]
        found += [waiting.pop(name) for name in ready or list(waiting)]
    # A second one of a name is only looked through for mistakes.
    return [*found, *(each for each in sections if not any(each is other for other in found))]


def names_of(section: Made) -> Iterator[tree.Name]:
    """The circuits, or vectors, that a section is made from."""
    if isinstance(section, tree.Composition):
        yield from operands_of(section.formula)
    elif isinstance(section, tree.VectorSum):
        yield from named_in(section.formula)
    else:
        yield from (clause.circuit for clause in section.clauses if isinstance(clause, tree.Origin))


def named_in(formula: tree.Expression | tree.Formula) -> Iterator[tree.Name]:
    """The names in the formula of a vector."""
    return (node for node in tree.walk(formula) if isinstance(node, tree.Name) and not node.is_missing)


def operands_of(formula: tree.Formula) -> Iterator[tree.Name]:
    """The circuits a formula names."""
    if isinstance(formula, tree.Combination):
        yield from operands_of(formula.left)
        if formula.right is not None:
            yield from operands_of(formula.right)
    else:
        yield formula


def is_circular(context: Context, section: Made) -> bool:
    """Whether a circuit is made from itself; reports it (C413)."""
    seen, waiting = set[str](), list(names_of(section))
    while waiting:
        name = waiting.pop()
        if name.text == section.name.text:
            is_direct = any(each.text == section.name.text for each in names_of(section))
            chain = f"`{section.name.text}` names itself" if is_direct else "by way of others"
            message = f"the {KIND_NAMES[type(section)]} `{name.text}` is made from itself"
            context.error("C413", message, section.name.span, chain)
            return True
        below = context.declared.get(name.text)
        if name.text not in seen and isinstance(below, Made):
            waiting += names_of(below)
        seen.add(name.text)
    return False
