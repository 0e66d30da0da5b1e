"""Lift a traced model: name its components and find their units by probing.

In: a `Traced` model. Out: a `Lifted` value, from which a `Graph` of any granularity is assembled and which the masked
program executes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from graphir.ir import NodeKind, Source
from graphir.tracing.canonical import canonicalize
from graphir.tracing.components import Anatomy, Region, dissect
from graphir.tracing.exported import Example, Traced
from graphir.tracing.naming import name_components, name_sources
from graphir.tracing.probing import Probe
from graphir.tracing.recognize import recognize
from graphir.tracing.streams import find_streams
from graphir.tracing.units import UnitPartition


@dataclass(frozen=True, eq=False)
class Component:
    """A named region. `partition` holds its units and ports, None where it stays whole; `note` says why."""

    name: str
    kind: NodeKind
    region: Region
    partition: UnitPartition | None
    layer: int | None
    source: Source
    note: str = ""


@dataclass(frozen=True, eq=False)
class Writer:
    """A leaf that reads no stream: an embedding."""

    name: str
    leaf: fx.Node
    source: Source


@dataclass(frozen=True, eq=False)
class Lifted:
    """A lifted model: `sources` and `components` in execution order over `traced`."""

    traced: Traced
    anatomy: Anatomy
    sources: tuple[Writer, ...]
    components: tuple[Component, ...]

    @property
    def example(self) -> Example:
        """The example inputs the model was traced with."""
        return self.traced.example


def lift(traced: Traced) -> Lifted:
    """Lift `traced` (module docstring)."""
    graph = canonicalize(traced.graph)
    anatomy = dissect(graph, find_streams(graph))
    probe = Probe(traced, graph)
    found = [recognize(region, probe) for region in anatomy.regions]
    inputs = zip((n for n in graph.nodes if n.op == "placeholder"), traced.input_names, strict=True)
    positions = {node for node, name in inputs if name == "position_ids"}
    sources = zip(anatomy.sources, name_sources(anatomy.sources, positions), strict=True)
    components = zip(found, name_components(found, traced.output_names), strict=True)
    return Lifted(
        traced,
        anatomy,
        tuple(Writer(place.name, leaf, place.source) for leaf, place in sources),
        tuple(
            Component(place.name, item.kind, item.region, item.partition, place.layer, place.source, item.note)
            for item, place in components
        ),
    )
