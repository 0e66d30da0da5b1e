"""Options of the evidence section, torch-free: what is measured beside a circuit to show that it is real."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from passes.option import option

Control = Literal["random_model", "random_circuit", "complement_circuit"]


@dataclass(frozen=True)
class EvidenceOptions:
    """What is measured beside a circuit: stability over seeds, controls, completeness, minimality, the curve."""

    name: ClassVar[str] = "evidence"

    seeds: int = option(3, "seeds for stability, each a run of the method", minimum=1, maximum=100)
    controls: tuple[Control, ...] = option(
        ("random_circuit", "complement_circuit"),
        "what a circuit must beat: the method on a randomly initialized model, random circuits of equal size in each "
        "layer, circuits drawn from the complement",
    )
    budget: int = option(200, "circuits that may be measured for completeness and minimality", minimum=1)
    samples: int = option(20, "random circuits for each control; p-values are no finer than one in so many", minimum=1)
    curve: bool = option(True, "faithfulness over 0.1% to 100% of the edges, with CPR and CMD")
    completeness: bool = option(True, "the complement, and equal knock-outs in circuit and model")
    minimality: bool = option(True, "smallest loss from removing each kept component, given the best knock-outs found")
    confidence: float = option(0.95, "level of the intervals", above=0, maximum=0.999, unit="fraction")
    seed: int = option(0, "seed of the draws", minimum=0)
