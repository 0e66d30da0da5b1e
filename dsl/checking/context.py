"""What every rule needs: the declared names, the options of the check, and a place for diagnostics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsl import tree
from dsl.suggest import suggest
from dsl.synonyms import SYNONYMS
from dsl.watching import saw_name
from graphir.diagnostics import Diagnostic, Edit, Label, Severity, Source, Span

if TYPE_CHECKING:
    from dsl.model_facts import ModelFacts


COMMAND_LINE = "(command line)"


@dataclass(frozen=True)
class Options:
    """How strict to be. `running` makes errors of what only a run forbids; `folder` is what relative paths start from;
    `deep` looks at the models' configurations, tokenizers and data as well."""

    allow_code: bool = False
    allow_outside: bool = False
    running: bool = False
    folder: Path = Path()
    deep: bool = False


KIND_NAMES: Mapping[type[Any], str] = {
    tree.Model: "model",
    tree.GraphSection: "graph",
    tree.Task: "task",
    tree.Circuit: "circuit",
    tree.Query: "query",
    tree.Composition: "circuit",
    tree.Import: "circuit",
    tree.Sweep: "sweep",
    tree.Corpus: "corpus",
    tree.Analyze: "analysis",
    tree.Blocks: "blocks",
    tree.Cluster: "cluster",
    tree.Lesion: "lesion",
    tree.Drift: "drift",
    tree.Shrink: "shrink",
    tree.Vector: "vector",
    tree.VectorSum: "vector",
    tree.VectorImport: "vector",
    tree.Let: "constant",
}


@dataclass
class Context:
    """State of one check: what was reported, the sections by name and what they mean, circuits that have
    evidence, constants without a value."""

    file: tree.File
    options: Options
    facts: Mapping[str, ModelFacts]
    diagnostics: list[Diagnostic] = field(default_factory=list)
    declared: dict[str, tree.Declaration] = field(default_factory=dict)
    specs: dict[str, Any] = field(default_factory=dict)
    judged: dict[str, Span] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()

    def error(
        self,
        code: str,
        message: str,
        span: Span,
        label: str = "",
        *,
        others: Sequence[tuple[Span, str]] = (),
        notes: Sequence[str] = (),
        help: str = "",
        fix: str | Edit | None = None,
        severity: Severity = Severity.ERROR,
    ) -> None:
        """Report a mistake at a span; `fix` is what to write there instead."""
        labels = (Label(span, label), *(Label(other, text, primary=False) for other, text in others))
        edit = Edit(span, fix) if isinstance(fix, str) else fix
        shown = tuple(note for note in notes if note)
        self.diagnostics.append(Diagnostic(code, message, labels, shown, help, edit, severity))

    def warning(self, code: str, message: str, span: Span, label: str = "", **more: Any) -> None:
        """Report something that does not stop a run."""
        self.error(code, message, span, label, severity=Severity.WARNING, **more)

    def unknown(
        self,
        code: str,
        what: str,
        name: tree.Name,
        known: Collection[str],
        plural: str,
        *,
        aliases: str = "",
        label: str = "",
    ) -> None:
        """Report a word that is not known, with the best guess; says nothing about a word that recovery invented."""
        if name.is_missing:
            return
        guess = suggest(name.text, known, plural, SYNONYMS.get(aliases or what))
        message = f"unknown {what} `{name.text}`"
        self.error(code, message, name.span, label, notes=[guess.listing], help=guess.help, fix=guess.word)

    def word(
        self, code: str, what: str, name: tree.Name, known: Collection[str], plural: str, *, aliases: str = ""
    ) -> str | None:
        """The word, if it is known; reports it otherwise."""
        if name.text in known and not name.is_missing:
            return name.text
        self.unknown(code, what, name, known, plural, aliases=aliases, label="not known here")
        return None

    def is_included(self, source: Source) -> bool:
        """Whether a source is an included file, not the file itself nor the command line."""
        return source.name not in (self.file.source.name, COMMAND_LINE)

    def declare(self) -> None:
        """Collect the names of all sections; one name means one thing."""
        for section in self.file.sections:
            name = getattr(section, "name", None)
            if name is None or name.is_missing:
                continue
            self._declare(name, section)
            if isinstance(section, tree.Task):
                for subtask in section.subtasks:
                    if not subtask.name.is_missing:
                        whole = replace(subtask.name, text=f"{name.text}.{subtask.name.text}")
                        self._declare(whole, as_task(section, subtask))

    def declare_again(self) -> None:
        """The same for sections that have changed since; nothing is reported."""
        for section in self.file.sections:
            name = getattr(section, "name", None)
            if isinstance(section, tree.Task) and name is not None:
                for subtask in section.subtasks:
                    self.declared[f"{name.text}.{subtask.name.text}"] = as_task(section, subtask)
            if name is not None and not name.is_missing:
                before = self.declared.get(name.text)
                if type(before) is type(section) and before is not None and before.span == section.span:
                    self.declared[name.text] = section

    def is_declared(self, name: str, section: tree.Section) -> bool:
        """Whether a name stands for this section, and not for another one of that name."""
        found = self.declared.get(name)
        return found is not None and type(found) is type(section) and found.span == section.span

    def _declare(self, name: tree.Name, section: Any) -> None:
        first = self.declared.setdefault(name.text, section)
        if first is not section:
            where = [(first.name.span, "first declared here")]
            self.error(
                "C401", f"the name `{name.text}` is declared twice", name.span, "declared again here", others=where
            )

    def resolve(self, name: tree.Name, *kinds: type[Any]) -> Any:
        """The section a name stands for, if it is one of these kinds; reports it otherwise."""
        if name.is_missing:
            return None
        section = self.declared.get(name.text)
        words = _shown_kinds(kinds)
        wanted = _either(words)
        if section is None:
            if name.text not in self.file.lost:
                known = [each for each, declared in self.declared.items() if isinstance(declared, kinds)]
                plural = _either([_plural(word) for word in words]) + " in this file"
                self.unknown("C202", wanted, name, known, plural, label="not declared in this file")
            return None
        saw_name(name, section)
        if not isinstance(section, kinds):
            found = KIND_NAMES[type(section)]
            where = [(section.name.span, f"declared as {_a(found)} here")]
            message = f"`{name.text}` is {_a(found)}, not {_a(wanted)}"
            self.error("C404", message, name.span, f"expected {_a(wanted)}", others=where)
            return None
        return section

    def spec(self, name: tree.Name, *kinds: type[Any]) -> Any:
        """The checked section a name stands for; None when it is unknown or has mistakes of its own."""
        section = self.resolve(name, *kinds)
        return None if section is None else self.specs.get(name.text)


def as_task(task: tree.Task, subtask: tree.Subtask) -> tree.Task:
    """A subtask as a task of its own: what it does not say is its task's."""
    said = {type(each) for each in subtask.statements}
    inherited = tuple(each for each in task.statements if type(each) not in {*said, tree.Subtask})
    name = replace(subtask.name, text=f"{task.name.text}.{subtask.name.text}")
    return tree.Task(subtask.span, name, (*inherited, *subtask.statements))


def every(results: Iterable[bool]) -> bool:
    """Whether all hold. Unlike `all` it looks at each of them, so that each mistake is reported."""
    return all(list(results))


IMPLIED = {
    "sweep": "circuit", "blocks": "analysis", "cluster": "analysis", "lesion": "analysis", "drift": "analysis",
    "shrink": "analysis", "vector": "circuit",
}  # fmt: skip
"""Kinds that a message does not list beside the other."""


def _shown_kinds(kinds: Sequence[type[Any]]) -> list[str]:
    words = list(dict.fromkeys(KIND_NAMES[kind] for kind in kinds))
    return [word for word in words if IMPLIED.get(word) not in words]


def _either(words: Sequence[str]) -> str:
    """`model`, `circuit, graph or query`."""
    return " or ".join([part for part in (", ".join(words[:-1]), words[-1]) if part])


def _a(word: str) -> str:
    """With its article."""
    return word if word.startswith("blocks") else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _plural(word: str) -> str:
    others = {"query": "queries", "analysis": "analyses", "corpus": "corpora", "blocks": "blocks"}
    return others.get(word, f"{word}s")
