"""A compiled program with a true circuit, for tests of how edges are chosen: `modular_sum` under zero ablation."""

from __future__ import annotations

from functools import cache

import numpy as np

from dsl.builtin.truth import Setting, prepare
from passes.ground_truth import minimal_edges


@cache
def compiled() -> Setting:
    """Program and task."""
    return prepare("modular_sum", "zero", examples=48)


@cache
def true_mask() -> np.ndarray:
    """(E,) the edges of the smallest circuit, found by brute force."""
    found = minimal_edges(compiled().program, compiled().task, orders=1, subsets=0)
    return np.array([str(edge) in found.edges for edge in compiled().program.graph.edges])
