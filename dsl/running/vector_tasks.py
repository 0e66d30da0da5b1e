"""The tasks that a task vector is measured on. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dsl import tree
from dsl.vector_sections import own_tasks

if TYPE_CHECKING:
    from dsl.spec import AnyVector, Spec, TaskSpec


def measured_on(spec: AnyVector, whole: Spec) -> tuple[TaskSpec, ...]:
    """The tasks that a vector is measured on: those it or its parts are for, their sibling subtasks, and those that a
    check of it names."""
    own = own_tasks(spec)
    parents = {task.parent for task in own if task.parent is not None}
    asked = {
        name
        for check in whole.analysis_checks
        if check.kind == "vector" and check.subject.name == spec.name
        for condition in check.conditions
        for name in _named(condition.expression)
    }
    others = [task for task in whole.tasks if task.parent in parents or task.name in asked]
    return tuple({task.name: task for task in (*own, *others)}.values())


def _named(condition: tree.Expression) -> Iterator[str]:
    """The tasks that a condition names."""
    for node in tree.walk(condition):
        for argument in node.arguments if isinstance(node, tree.Call) else ():
            if isinstance(argument, tree.Name | tree.Pattern):
                yield argument.text
