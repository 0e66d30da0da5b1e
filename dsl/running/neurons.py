"""Which neurons a circuit keeps, which its masks tell only by the weights that are cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphir.errors import GraphirError

if TYPE_CHECKING:
    from graphir.circuit import Circuit


def kept_neurons(circuit: Circuit) -> np.ndarray:
    """The neurons (F,) that a circuit keeps: as many of the highest scores as its provenance says. `GraphirError` where
    nothing was masked by neuron."""
    told, scores = circuit.provenance.get("neurons"), circuit.scores.get("neurons")
    if told is None or scores is None:
        raise GraphirError("this circuit has no masks on neurons", ["compare edges, nodes or weights"])
    ranks = np.abs(scores) if circuit.provenance.get("absolute") else np.asarray(scores)
    kept = np.zeros(len(ranks), bool)
    kept[np.argsort(-ranks, kind="stable")[: int(told["kept"])]] = True
    return kept
