"""What a report says of each circuit: how it was found, its drawing, its strongest edges; then the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dsl.report.about_evidence import evidence_sections
from dsl.report.content import Block, Drawing, Name, Remark, Section, Table, facts
from dsl.report.drawing import draw_circuit
from dsl.report.reading import named, number, share, text
from graphir.circuit import Circuit

STRONGEST = 20


def circuit_section(
    name: str, key: str, found: Mapping[str, Any], circuit: Circuit | None, evidence: Mapping[str, Any], unread: str
) -> Section:
    """All about one circuit. `circuit` is None where only the manifest is there, `unread` says why."""
    blocks: list[Block] = [_facts(found, circuit)]
    if failed := text(found.get("failed")):
        blocks.append(Remark(f"Learning broke off: {failed}", "bad"))
    if unread:
        blocks.append(Remark(f"Without its drawing: {unread}"))
    if circuit is not None:
        blocks += [*_orders(circuit), *_picture(name, circuit)]
    return Section(key, f"Circuit {name}", tuple(blocks), tuple(evidence_sections(key, name, found, circuit, evidence)))


def _facts(found: Mapping[str, Any], circuit: Circuit | None) -> Block:
    made = circuit.provenance if circuit is not None else {}
    options = {str(k): v for k, v in made.items() if k in _options_of(text(made.get("method")))}
    return facts(
        {
            "method": text(found.get("method")),
            "options": ", ".join(f"{name} = {_option(value)}" for name, value in options.items()),
            "formula": text(found.get("formula")),
            "task": text(made.get("task")),
            "ablation": circuit.ablation if circuit is not None else text(found.get("ablation")),
            "seed": number(found.get("seed")),
        }
    )


def _options_of(method: str) -> frozenset[str]:
    """Names of a method's options; none where the method is not known here."""
    from dataclasses import fields

    from passes.options import METHODS

    known = METHODS.get(method)
    return frozenset(each.name for each in fields(known)) if known is not None else frozenset()


def _option(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else "none" if value is None else str(value)


def _orders(circuit: Circuit) -> list[Block]:
    """What each order of traversal gives, where a search compared them."""
    found = named(circuit.provenance.get("orders"))
    rows = [
        (name, number(each.get("edges")), number(each.get("kl")), share(each.get("iou")))
        for name, each in found.items()
    ]
    headers = ("order", "edges", "kl", "IoU with the circuit")
    return [Table(headers, tuple(rows), "What each order of the edges gives")] if rows else []


def _picture(name: str, circuit: Circuit) -> list[Block]:
    kept = int(circuit.edges.sum())
    if not kept:
        return [Remark("The circuit keeps no edge: there is nothing to draw.", "bad")]
    svg = draw_circuit(circuit)
    drawn: list[Block] = [Drawing(f"Circuit {name}: {kept:,} of {len(circuit.edges):,} edges", svg)] if svg else []
    return [*drawn, _strongest(circuit)]


def _strongest(circuit: Circuit) -> Table:
    """The kept edges, strongest first where they have scores."""
    kept = np.flatnonzero(circuit.edges)
    scores = circuit.scores.get("edges")
    if scores is not None:
        by_size = circuit.provenance.get("absolute", "method" not in circuit.provenance)
        values = np.abs(scores[kept]) if by_size else scores[kept]
        kept = kept[np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")]
    shown = kept[:STRONGEST].tolist()
    rows = [(Name(str(circuit.graph.edges[i])), None if scores is None else float(scores[i])) for i in shown]
    strongest = f"The {STRONGEST} strongest edges" if len(kept) > STRONGEST else "Edges"
    return Table(("edge", "score"), tuple(rows), strongest, len(kept) - len(shown))
