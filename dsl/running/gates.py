"""Quantities of checks that are measured only because a check asks for them: of the evidence the tests that a condition
names and no others, stability over as many seeds as a gate says.

Where the file has an `evidence` section for the circuit, its tests are used; the stages are the same, so that what one
measured the other finds in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dsl.quantities import QUANTITIES
from dsl.running.finding import DiscoverStage, Found, discoveries, seeds_of
from dsl.running.gathering import EvidenceStage, Gathered
from dsl.running.judging import Judged, MeasureStage, judge, stability
from dsl.running.obtaining import obtain
from dsl.running.stage import Stage
from dsl.spec import CircuitSpec, EvidenceSpec
from dsl.translate import Lookup, quantities, symbol_name
from graphir.errors import DataError, GraphirError

if TYPE_CHECKING:
    from dsl.running.workplace import Workplace
    from dsl.spec import CheckSpec, Condition

PART_OF: Mapping[str, str] = {
    "incompleteness": "completeness",
    "minimality": "minimality",
    "control": "controls",
    "cpr": "faithfulness",
    "cmd": "faithfulness",
    "auroc": "roc",
}
"""The test of the evidence that measures a quantity."""

Quantity = tuple[str, tuple[str, ...]]


class Gates:
    """The quantities of one check. `judged` is None while planning: then only `stages` is of use."""

    def __init__(self, check: CheckSpec, place: Workplace, judged: Judged | None = None) -> None:
        self.check, self.place, self.judged = check, place, judged

    # --- planning ----------------------------------------------------------------------------------------------------

    def stages(self) -> Iterator[Stage[Any]]:
        """What the check adds to what is measured of every circuit; each once."""
        made: dict[str, Stage[Any]] = {}
        for condition in self.check.conditions:
            for stage in self._stages(condition):
                made.setdefault(stage.name, stage)
        yield from made.values()

    def _stages(self, condition: Condition) -> Iterator[Stage[Any]]:
        spec = self.check.circuit
        named = quantities(condition.expression)
        if condition.seeds is not None and isinstance(spec, CircuitSpec):
            seeds = discoveries(spec, condition.seeds, f"gates of {spec.label}")
            yield from (stage for seed, stage in seeds.items() if seed not in seeds_of(spec))
            if any(name != "stability" for name, _ in named):
                yield from (self._measure(spec, seed, stage) for seed, stage in seeds.items())
            return
        for name, arguments in named:
            if name in PART_OF:
                yield self._evidence(name, arguments)

    def _measure(self, spec: CircuitSpec, seed: int, stage: DiscoverStage) -> MeasureStage:
        found = MeasureStage(spec, lambda: self._seed(spec, seed, stage), row=f"gates of {spec.label}")
        found.name = f"{found.name} (seed {seed})"
        return found

    def _seed(self, spec: CircuitSpec, seed: int, stage: DiscoverStage) -> Found:
        circuit = self.place.value(stage).with_(name=spec.name)
        return Found(spec, circuit, {seed: circuit}, seed, {})

    def _lately(self) -> Found:
        return self.judged.found if self.judged is not None else obtain(self.check.circuit, self.place)

    # --- measuring ---------------------------------------------------------------------------------------------------

    def lookups(self, condition: Condition) -> Mapping[str, Lookup]:
        """The quantities of all that a condition has to hold for: of the circuit, or of the circuit of each seed."""
        judged, spec = self.judged, self.check.circuit
        assert judged is not None
        if condition.seeds is None:
            return {"": lambda name, arguments: self._value(judged, name, arguments)}
        if not isinstance(spec, CircuitSpec) or not hasattr(spec.method.options, "seeds"):
            raise GraphirError(f"`{spec.label}` is not learned from seeds", ["leave `over … seeds` out"])
        stages = discoveries(spec, condition.seeds, f"gates of {spec.label}")
        circuits = {seed: self._seed(spec, seed, stage) for seed, stage in stages.items()}

        def overlap(name: str, arguments: tuple[str, ...]) -> float:
            return stability([found.circuit for found in circuits.values()], *arguments)

        if all(name == "stability" for name, _ in quantities(condition.expression)):
            return {"": overlap}
        return {f"seed {seed}": self._of_seed(found, overlap) for seed, found in circuits.items()}

    def _of_seed(self, found: Found, overlap: Lookup) -> Lookup:
        """The quantities of one seed's circuit; stability is that of all."""
        judged = judge(found, self.place)

        def lookup(name: str, arguments: tuple[str, ...]) -> float:
            if name == "stability":
                return overlap(name, arguments)
            if name in PART_OF:
                raise GraphirError(
                    f"`{symbol_name(name, arguments)}` is measured for the circuit that is kept, not for every seed",
                    ["leave `over … seeds` out"],
                )
            return self._value(judged, name, arguments)

        return lookup

    def _value(self, judged: Judged, name: str, arguments: tuple[str, ...]) -> float:
        if name in PART_OF:
            known = None if judged.evidence is None else judged.evidence.value(name, arguments)
            return self._from_evidence(name, arguments) if known is None else known
        if name == "completeness":
            return completeness(judged)
        return judged.value(name, arguments)

    def _from_evidence(self, name: str, arguments: tuple[str, ...]) -> float:
        part = PART_OF[name]
        data = self.place.value(self._evidence(name, arguments))
        gathered = Gathered(self.check.circuit.name, {part: data.get(part), "missing": data.get("missing") or {}})
        value = gathered.value(name, arguments)
        if value is None:
            reasons = gathered.reasons(QUANTITIES[name].evidence)
            if part == "roc" and "roc" not in gathered.data["missing"]:
                reasons = [f"no true circuit is known: name it, `evidence {self.check.circuit.label} against CIRCUIT`"]
            raise DataError(f"`{symbol_name(name, arguments)}` cannot be measured", reasons)
        return value

    def _evidence(self, name: str, arguments: tuple[str, ...]) -> EvidenceStage:
        """The test alone, with the options of the file's evidence section for the circuit, or with the defaults."""
        from passes.evidence_options import EvidenceOptions

        spec, part = self.check.circuit, PART_OF[name]
        told = next((each for each in self.place.spec.evidence if spec in each.circuits), None)
        options = EvidenceOptions() if told is None else told.options
        if name == "control" and arguments[0] not in (options.controls if told is not None else ()):
            options = replace(options, controls=(arguments[0],))
        elif part == "controls" and told is None:
            options = replace(options, controls=arguments)
        section = EvidenceSpec(self.check.span, (spec,), options, truth=None if told is None else told.truth)
        return EvidenceStage(section, spec, part, self._lately)


def completeness(judged: Judged) -> float:
    """(model - complement) / (model - empty) of the task's metric: 1 where the complement can do nothing."""
    assert judged.found.spec.task is not None
    metric = judged.found.spec.task.metric
    full, low, rest = (each.get(metric, float("nan")) for each in (judged.full, judged.empty, judged.complement))
    if full == low:
        raise DataError(f"model and empty circuit have the same {metric}: nothing can be told from it")
    return (full - rest) / (full - low)
