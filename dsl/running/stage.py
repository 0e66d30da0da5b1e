"""What a stage and a section are; the docstring of `dsl.running` tells how to add one. Torch-free."""

from __future__ import annotations

import abc
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from graphir.errors import GraphirError

if TYPE_CHECKING:
    from dsl.running.carrying import Run, RunResult
    from dsl.running.workplace import Workplace
    from dsl.spec import Spec
    from graphir.diagnostics import Span

T = TypeVar("T")


class PendingError(GraphirError):
    """Something is not known before a stage has run; the message says which. Raised only while planning."""


class Stage(abc.ABC, Generic[T]):
    """A piece of work whose result is kept. The attributes are explained in `dsl.running`."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    code: ClassVar[tuple[str, ...]] = ("graphir", "passes")

    def __init__(self, name: str, span: Span, doing: str, row: str = "") -> None:
        self.name, self.span, self.doing, self.row = name, span, doing, row or name

    @abc.abstractmethod
    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """All that the result depends on: plain data, and stages."""

    @abc.abstractmethod
    def run(self, place: Workplace) -> T:
        """Compute the result."""

    @abc.abstractmethod
    def save(self, value: T, folder: Path) -> None:
        """Write the result to an empty folder."""

    @abc.abstractmethod
    def load(self, folder: Path, place: Workplace) -> T:
        """Read it again."""

    def complete(self, value: T) -> bool:
        """Whether the result may be kept."""
        return True


class Section(abc.ABC):
    """One kind of section of a file. The attributes are explained in `dsl.running`."""

    kind: ClassVar[str]
    order: ClassVar[int]

    @abc.abstractmethod
    def carry_out(self, run: Run) -> None:
        """Do all sections of this kind."""

    def stages(self, spec: Spec, place: Workplace) -> Iterator[Stage[Any]]:
        """Their stages, in order; nothing is computed."""
        yield from ()

    def record(self, run: Run) -> Mapping[str, Any]:
        """What the manifest says."""
        return {}

    def parts(self, result: RunResult) -> list[Any]:
        """What `str` of a result shows."""
        return []

    def refuse(self, spec: Spec) -> None:
        """Raise `StageError` for what cannot be done."""
        return


class ResultSection(Section):
    """A kind whose every section has one result, found by one stage and shown in tables. `kind` is also what the
    specification calls its sections, and the manifest what was found; `stage` is the class of the stage, made of one
    section."""

    stage: ClassVar[type[Any]]

    @abc.abstractmethod
    def tables(self, name: str, found: Any) -> list[Any]:
        """What is shown of one result."""

    def told(self, run: Run, spec: Any, found: Any) -> Mapping[str, Any]:
        """What the manifest says of one result."""
        told: Mapping[str, Any] = found.to_json()
        return told

    def carry_out(self, run: Run) -> None:
        """See the base class."""
        found = run.results.setdefault(self.kind, {})
        for spec in getattr(run.spec, self.kind):
            found[spec.name] = run.place.value(self.stage(spec))
            run.reporter.show("", *self.tables(spec.name, found[spec.name]))

    def stages(self, spec: Spec, place: Workplace) -> Iterator[Stage[Any]]:
        """See the base class."""
        return map(self.stage, getattr(spec, self.kind))

    def record(self, run: Run) -> Mapping[str, Any]:
        """See the base class."""
        found = run.results.get(self.kind, {})
        specs = [spec for spec in getattr(run.spec, self.kind) if spec.name in found]
        return {self.kind: {spec.name: self.told(run, spec, found[spec.name]) for spec in specs}} if found else {}

    def parts(self, result: RunResult) -> list[Any]:
        """See the base class."""
        found = result.results.get(self.kind, {})
        return [part for name, each in found.items() for part in self.tables(name, each)]


@cache
def sections() -> tuple[Section, ...]:
    """Every kind of section there is a module for, in the order they are carried out."""
    import dsl.running.sections as package

    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    found: list[Section] = [importlib.import_module(f"{package.__name__}.{name}").SECTION for name in names]
    return tuple(sorted(found, key=lambda section: (section.order, section.kind)))


BESIDE = frozenset({"models", "overrides", "warnings", "includes"})
"""Tuples of a specification that are no sections to carry out, or that others carry out when they need them."""


def refuse_unsupported(spec: Spec) -> None:
    """`StageError` for what the language says and this release does not do, before any work is done."""
    known = {section.kind for section in sections()} | BESIDE
    for each in fields(spec):
        value = getattr(spec, each.name)
        if isinstance(value, tuple) and value and each.name not in known:
            refuse_kind(each.name, value[0])
    for section in sections():
        section.refuse(spec)


def refuse_kind(kind: str, first: Any) -> None:
    """Raise `StageError` for a section that is of no kind that can be carried out."""
    from dsl.running.failures import located

    with located(f"reading the {kind}", first.span):
        raise GraphirError(
            f"{kind} are checked but not carried out by this release", ["leave them out to run the rest"]
        )
