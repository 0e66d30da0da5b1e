"""`corpus s = text "FILE"`: samples for analyses, in a model's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dsl.running.samples import CorpusFacts, CorpusStage
from dsl.running.stage import Section, Stage
from dsl.spec import CorpusSpec

if TYPE_CHECKING:
    from dsl.running.carrying import Run, RunResult
    from dsl.running.workplace import Workplace
    from dsl.spec import GraphSpec, Spec


class Corpora(Section):
    """Reads the corpora that something is analyzed on."""

    kind, order = "corpora", 22

    def carry_out(self, run: Run) -> None:
        """A line for each."""
        found: list[CorpusFacts] = run.results.setdefault(self.kind, [])
        for stage in used(run.spec):
            found.append(run.place.value(stage))
            run.reporter.show(corpus_line(found[-1]))

    def stages(self, spec: Spec, place: Workplace) -> Iterator[Stage[Any]]:
        """One for each corpus and model."""
        return iter(used(spec))

    def record(self, run: Run) -> Mapping[str, Any]:
        """Identity and sizes."""
        found: list[CorpusFacts] = run.results.get(self.kind, [])
        told = {each.name: {k: v for k, v in asdict(each).items() if k != "name"} for each in found}
        return {"corpora": told} if told else {}

    def parts(self, result: RunResult) -> list[Any]:
        """A line for each."""
        return [corpus_line(each) for each in result.results.get(self.kind, [])]


def used(spec: Spec) -> list[CorpusStage]:
    """Each corpus that is used, with each model it is used with."""
    found = {}
    users: list[tuple[Any, GraphSpec]] = [(each.data, each.graph) for each in spec.analyses]
    users += [(each.data, each.graph) for each in spec.clusters if each.data is not None]
    for lesion in spec.lesions:
        groups: Any = getattr(lesion.groups, "analysis", lesion.groups)
        users.append((lesion.data, groups.graph))
    for data, graph in users:
        if isinstance(data, CorpusSpec):
            found[data.name, graph.model.name] = CorpusStage(data, graph.model)
    return list(found.values())


def corpus_line(facts: CorpusFacts) -> str:
    """One line: how many samples of how many tokens."""
    missing = f" ({facts.asked:,} were asked for)" if facts.samples < facts.asked else ""
    return f"corpus {facts.name}: {facts.samples:,} samples of up to {facts.tokens:,} tokens{missing}"


SECTION = Corpora()
