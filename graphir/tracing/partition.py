"""The quotient of a lifted component at a granularity: its writers, its ports, and their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphir.granularity import Choice, Granularity
from graphir.ir import NodeKind
from graphir.tracing.lift import Component, Lifted
from graphir.tracing.units import PortUnit, UnitPartition


@dataclass(frozen=True, eq=False)
class WriterPart:
    """One writing node of a component; `features` are its exit features (None: the whole leaf)."""

    name: str
    kind: NodeKind
    features: np.ndarray | None
    members: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PortPart:
    """One port: the site it reads, its entry features (None: the whole region), the writers it serves."""

    name: str
    kind: str
    site: int
    features: np.ndarray | None
    writers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Partition:
    """A component at a granularity."""

    component: Component
    writers: tuple[WriterPart, ...]
    ports: tuple[PortPart, ...]


def partition_components(lifted: Lifted, granularity: Granularity) -> tuple[Partition, ...]:
    """Every component of `lifted` at `granularity`, in execution order."""
    return tuple(_partition(component, granularity.at(component.layer)) for component in lifted.components)


def _partition(component: Component, choice: Choice) -> Partition:
    found = component.partition
    if found is None:
        return _whole(component)
    if not found.mixes:
        return _mlp(component, found, choice)
    names = unit_names(component)
    if choice.attention == "layer" and len(found.units) > 1:
        every = np.sort(np.concatenate(found.units))
        writers: tuple[WriterPart, ...] = (WriterPart(component.name, NodeKind.LAYER, every, names),)
    else:
        writers = tuple(WriterPart(n, component.kind, u, (n,)) for n, u in zip(names, found.units, strict=True))
    return Partition(component, writers, tuple(_attention_ports(component, found, choice)))


def unit_names(component: Component) -> tuple[str, ...]:
    """Names of the finest units of an attention component: its heads, or itself where they are not separable."""
    assert component.partition is not None
    count = len(component.partition.units)
    return tuple(f"{component.name}.h{i}" for i in range(count)) if count > 1 else (component.name,)


def _whole(component: Component) -> Partition:
    count = len(component.region.sites)
    kinds = ["in"] if count == 1 else [f"in{i}" for i in range(count)]
    ports = tuple(PortPart(f"{component.name}.{kind}", kind, i, None, (0,)) for i, kind in enumerate(kinds))
    return Partition(component, (WriterPart(component.name, component.kind, None, (component.name,)),), ports)


def _mlp(component: Component, found: UnitPartition, choice: Choice) -> Partition:
    neurons = tuple(f"{component.name}.n{i}" for i in range(len(found.units)))
    if choice.mlp == "neuron":
        writers = tuple(WriterPart(n, NodeKind.NEURON, u, (n,)) for n, u in zip(neurons, found.units, strict=True))
    else:
        # A layer's members are its neurons by number; naming thousands of them one by one serves nobody.
        every = np.sort(np.concatenate(found.units))
        writers = (WriterPart(component.name, NodeKind.MLP, every, (f"{component.name}.n0..{len(neurons) - 1}",)),)
    served = tuple(range(len(writers)))
    return Partition(component, writers, tuple(_joint_ports(component, component.name, found.ports, served)))


def _attention_ports(component: Component, found: UnitPartition, choice: Choice) -> list[PortPart]:
    if choice.attention == "layer" or (choice.qkv == "joint" and len(found.units) == 1):
        return _joint_ports(component, component.name, found.ports, (0,))
    if choice.key_value == "ungrouped" and len(found.units) > 1:
        return _ungrouped_ports(component, found, choice)
    if choice.qkv == "split":
        return _split_ports(component, found)
    made = []
    for i, group in enumerate(_connected(found)):
        ports = [port for port in found.ports if port.units[0] in group]
        suffix = f"h{group[0]}" if len(group) == 1 else f"kv{i}"
        made += _joint_ports(component, f"{component.name}.{suffix}", ports, tuple(group))
    return made


def _split_ports(component: Component, found: UnitPartition) -> list[PortPart]:
    """Ports as they were found, named after their head or, where heads share them, by number."""
    made = []
    shared: Counter[str] = Counter()
    for port in found.ports:
        if len(found.units) == 1:
            prefix = component.name
        elif len(port.units) == 1:
            prefix = f"{component.name}.h{port.units[0]}"
        else:
            prefix = f"{component.name}.{'g' if port.kind == 'q' else 'kv'}{shared[port.kind]}"
            shared[port.kind] += 1
        for site in _sites_of(component, port.features):
            features = _at_site(component, port.features, site)
            made.append(PortPart(f"{prefix}.{port.kind}", port.kind, site, features, tuple(sorted(port.units))))
    return made


def _ungrouped_ports(component: Component, found: UnitPartition, choice: Choice) -> list[PortPart]:
    """Ports of a head each, the features of a shared projection in the ports of all heads that share it."""
    if choice.qkv == "joint":
        own = [[port for port in found.ports if unit in port.units] for unit in range(len(found.units))]
        parts = (_joint_ports(component, f"{component.name}.h{i}", ports, (i,)) for i, ports in enumerate(own))
        return [part for made in parts for part in made]
    return [
        PortPart(f"{component.name}.h{unit}.{port.kind}", port.kind, site, _at_site(component, port.features, site),
                 (unit,))
        for port in found.ports
        for unit in sorted(port.units)
        for site in _sites_of(component, port.features)
    ]  # fmt: skip


def share_turns(part: Partition) -> np.ndarray:
    """For each writer the turn it takes, from 0, where ports of several writers share features: none of those that
    share takes the same. All zero where no feature has two ports."""
    turns = np.zeros(len(part.writers), np.int64)
    ports = [(port.features, port.writers) for port in part.ports if port.features is not None]
    every = np.concatenate([features for features, _ in ports]) if ports else np.zeros(0, np.int64)
    if len(every) == len(np.unique(every)):
        return turns
    readers: dict[int, set[int]] = {}
    for features, writers in ports:
        for feature in features.tolist():
            readers.setdefault(feature, set()).update(writers)
    rivals = {frozenset(together) for together in readers.values()}
    for writer in range(len(turns)):
        taken = {int(turns[i]) for together in rivals if writer in together for i in together if i < writer}
        turns[writer] = next(turn for turn in range(len(turns)) if turn not in taken)
    return turns


def _joint_ports(
    component: Component, prefix: str, ports: Sequence[PortUnit], writers: tuple[int, ...]
) -> list[PortPart]:
    """`ports` as one port a site: `in`, or the kinds that the site feeds where there are several sites."""
    made = []
    sites = sorted({site for port in ports for site in _sites_of(component, port.features)})
    for site in sites:
        here = [port for port in ports if site in _sites_of(component, port.features)]
        features = np.unique(np.concatenate([_at_site(component, port.features, site) for port in here]))
        kind = "in" if len(sites) == 1 else "".join(dict.fromkeys(port.kind for port in here))
        made.append(PortPart(f"{prefix}.{kind}", kind, site, features, writers))
    return made


def _connected(found: UnitPartition) -> list[list[int]]:
    """Units tied by a shared port, in order."""
    group = list(range(len(found.units)))
    for port in found.ports:
        low = min(group[u] for u in port.units)
        merged = {group[u] for u in port.units}
        group = [low if g in merged else g for g in group]
    return [[u for u, g in enumerate(group) if g == first] for first in sorted(set(group))]


def entry_offsets(component: Component) -> np.ndarray:
    """Where each entry product's features start in the concatenation of all, with the end appended."""
    widths = [int(e.meta["val"].shape[-1]) for e in component.region.entries]
    return np.concatenate([[0], np.cumsum(widths)])


def _sites_of(component: Component, features: np.ndarray) -> list[int]:
    offsets = entry_offsets(component)
    entries = set((np.searchsorted(offsets, features, side="right") - 1).tolist())
    return [i for i, site in enumerate(component.region.sites) if entries & set(site.entries)]


def _at_site(component: Component, features: np.ndarray, site: int) -> np.ndarray:
    offsets = entry_offsets(component)
    entries = np.searchsorted(offsets, features, side="right") - 1
    return features[np.isin(entries, component.region.sites[site].entries)]
