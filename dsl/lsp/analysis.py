"""What is known about one version of a file: its tree, its diagnostics, and what its names stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsl import tree
from dsl.checking.context import Options
from dsl.constants import PLACES
from dsl.facts import find_facts
from dsl.lsp.document import Document
from dsl.lsp.positions import UTF16, Positions
from dsl.reading import Read, check_parsed, foreign_text
from dsl.schema import MAX_BYTES
from dsl.watching import Watch, watching
from graphir.diagnostics import Diagnostic, Source, Span

if TYPE_CHECKING:
    from dsl.model_facts import ModelFacts

HERE = "here__"
"""A word that stands in for one that the checker is asked about."""


@dataclass(frozen=True)
class Mention:
    """A declared name where it is declared (`declares`) or used: its offsets, and the section it stands for. A subtask
    is called `task.subtask`, though only the last part of that stands here."""

    start: int
    stop: int
    name: str
    section: Any
    declares: bool = False


@dataclass(frozen=True, eq=False)
class Analysis:
    """A document, checked. `folder` is what relative paths in it start from, `facts` what is known of its models."""

    document: Document
    read: Read
    watch: Watch
    folder: Path
    facts: Mapping[str, ModelFacts] | None
    encoding: str = UTF16
    models: tuple[tree.Model, ...] = field(default=(), repr=False)

    @property
    def text(self) -> str:
        """The whole text."""
        return self.document.source.text

    @cached_property
    def positions(self) -> Positions:
        """Converts offsets and positions."""
        return Positions(self.document.source, self.encoding)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All findings."""
        return self.read.diagnostics

    @cached_property
    def mentions(self) -> tuple[Mention, ...]:
        """All mentions of declared names in this file, in order."""
        found = {
            (each.start, each.stop): each
            for each in (*self._parts(), *self._constants(), *self._uses(), *self._declarations())
            if self.text[each.start : each.stop] == each.name.rpartition(".")[2]
        }
        return tuple(found[place] for place in sorted(found))

    def mention_at(self, offset: int) -> Mention | None:
        """The mention around an offset, or the one that ends there."""
        return next((each for each in self.mentions if each.start <= offset <= each.stop), None)

    @cached_property
    def declared(self) -> Mapping[str, Any]:
        """Sections and subtasks of this file and of those it includes, by name; of two the first."""
        found: dict[str, Any] = {}
        for name, section in _declared(self.read.file or self.document.parsed.file):
            found.setdefault(name, section)
        return found

    def _declarations(self) -> Iterator[Mention]:
        for name, section in _declared(self.document.parsed.file):
            place = self.document.place(section.name.span)
            if place:
                yield Mention(*place, name, section, declares=True)

    def _uses(self) -> Iterator[Mention]:
        """Names that the checker resolved."""
        for name, section in self.watch.resolved:
            place = self.document.place(name.span)
            if place and "." not in name.text:
                yield Mention(place[0], place[0] + len(name.text), name.text, section)

    def _parts(self) -> Iterator[Mention]:
        """The parts of names with a dot: a task and its subtask, a sweep before the number of its member."""
        # A task in a condition (`accuracy(pairs.short)`) was read as a component: the checker knows it for a name.
        resolved = [name for name, _ in self.watch.resolved if "." in name.text]
        for node in (*tree.walk(self.document.parsed.file), *resolved):
            place = self.document.place(node.span) if isinstance(node, tree.Name) and "." in node.text else None
            if not isinstance(node, tree.Name) or not place:
                continue
            head = node.text.partition(".")[0]
            if head in self.declared:
                yield Mention(place[0], place[0] + len(head), head, self.declared[head])
            if node.text in self.declared:
                yield Mention(place[0] + len(head) + 1, place[1], node.text, self.declared[node.text])

    def _constants(self) -> Iterator[Mention]:
        """Constants where they stand for their values."""
        lets = {name: each for name, each in self.declared.items() if isinstance(each, tree.Let)}
        for node in tree.walk(self.document.parsed.file) if lets else ():
            for name in PLACES.get(type(node), ("values",) if isinstance(node, tree.Let) else ()):
                below = getattr(node, name)
                for child in below if isinstance(below, tuple) else (below,):
                    place = self.document.place(child.span) if isinstance(child, tree.Name) else None
                    if isinstance(child, tree.Name) and place and child.text in lets:
                        yield Mention(*place, child.text, lets[child.text])

    def place_or_top(self, span: Span | None) -> tuple[int, int]:
        """Where a span lies in this file; the start of the file for what lies elsewhere."""
        return (span and self.document.place(span)) or (0, 0)

    def path_of(self, span: Span) -> Path:
        """The file a span lies in; the names of included files start at the folder."""
        return self.folder / span.source.name

    def asked(self, text: str) -> Watch:
        """What the checker would see in this file if it had that text."""
        document = Document.read(self.document.source.name, text, self.document)
        with watching() as watch:
            check_parsed(document.parsed, (), Options(folder=self.folder), self.facts)
        return watch


def _declared(file: tree.File) -> Iterator[tuple[str, Any]]:
    """The sections of a file that declare names, and subtasks, which are called after their task as well."""
    for section in file.sections:
        name = getattr(section, "name", None)
        if not isinstance(name, tree.Name) or name.is_missing:
            continue
        yield name.text, section
        for subtask in section.subtasks if isinstance(section, tree.Task) else ():
            if not subtask.name.is_missing:
                yield f"{name.text}.{subtask.name.text}", subtask


def analyze(
    name: str, text: str, folder: Path, before: Analysis | None = None, *, encoding: str = UTF16, fresh: bool = False
) -> Analysis:
    """Read and check a text; `before` is the analysis of its last version. What is on disk about its models is read
    when the models change, or when `fresh` asks for it."""
    refusal = _refuse(Source(name, text))
    document = Document.read(name, "" if refusal else text, before.document if before else None)
    parsed = document.parsed
    models = tuple(each for each in parsed.file.sections if isinstance(each, tree.Model))
    known = before is not None and not fresh and before.models == models and before.folder == folder
    facts = before.facts if known and before is not None else find_facts(parsed.file, folder)
    if any(isinstance(each, tree.Include) for each in parsed.file.sections):
        # Models may be in another file, which may change at any time.
        facts = None
    with watching() as watch:
        read = check_parsed(parsed, (), Options(folder=folder), facts)
    if refusal:
        document = Document(name, text, document.chunks)
        read = Read(document.source, None, None, (refusal,))
    return Analysis(document, read, watch, folder, facts, encoding, models)


def _refuse(source: Source) -> Diagnostic | None:
    """Why a text is not looked into."""
    if len(source.text) > MAX_BYTES:
        message = f"`{source.name}` is too large for a specification"
        return Diagnostic("C003", message, (), (f"at most {MAX_BYTES >> 20} MB are read",))
    return foreign_text(source)
