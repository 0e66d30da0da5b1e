"""What a `check` of an analysis, of blocks, a cluster, a lesion, a smaller module, a drift or a task vector may name: a
table a kind.

The same as `dsl.quantities.QUANTITIES` is for circuits: checking, messages, completion, `circ explain` and the
generated reference read it. `dsl.running.gauging` has the value of each; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsl.quantities import Quantity


@dataclass(frozen=True)
class Need:
    """What a section has to ask for so that a quantity is measured: `option` set, with `value` among its words where it
    is a list. Where `argument` is given, only for that argument of the quantity. `advice` is what to write."""

    option: str
    advice: str
    value: str = ""
    argument: str = ""


@dataclass(frozen=True)
class Gauge(Quantity):
    """A quantity of a section. `methods` are the methods of a `cluster` that have it, all where empty."""

    methods: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()


_CHECK = frozenset({"check"})
_REPLICATES = (Need("replicates", "replicates: 20"),)
_READOUT = Need("validate", "validate: readout", "readout")
_ALONG = (
    Need("validate", "validate: lesion", "lesion", "lesion"),
    Need("validate", "validate: readout", "readout", "readout"),
)
_SHUFFLES = (Need("shuffles", "shuffles: 50"),)
_STATISTICS = (("kl", "mean", "range"),)
_SIZES = (("smallest", "largest"),)
_BOTH = (("after", "before"),)


def _count(doc: str, arguments: tuple[tuple[str, ...], ...] = (), **more: object) -> Gauge:
    return Gauge(doc, "count", _CHECK, arguments, minimum=0, **more)  # type: ignore[arg-type]


def _share(doc: str, arguments: tuple[tuple[str, ...], ...] = (), **more: object) -> Gauge:
    return Gauge(doc, "fraction", _CHECK, arguments, minimum=0, maximum=1, **more)  # type: ignore[arg-type]


_ANALYSIS: Mapping[str, Gauge] = {
    "units": _count("number of units compared"),
    "samples": _count("number of samples they are compared on"),
    "distance": Gauge(
        "distance between two units", "number", _CHECK, (("mean", "median", "smallest", "largest"),), minimum=0
    ),
    "width": Gauge("mean distance between the bounds of a distance, where it has bounds", "number", _CHECK, minimum=0),
}
_BLOCKS: Mapping[str, Gauge] = {
    "count": _count("number of blocks; 1 where none were found"),
    "size": _count("units in a block", _SIZES),
    "score": Gauge(
        "1 - mean distance within / between blocks (separation), or the mean silhouette", "fraction", _CHECK,
        (("separation", "silhouette"),), maximum=1,
    ),
    "contrast": Gauge(
        "change between neighbors across a boundary over that inside a block, of the distances or along the units",
        "number", _CHECK, (("distances", "lesion", "readout"),), minimum=0, needs=_ALONG,
    ),
    "p": _share(
        "p-value: of the number of blocks against permuted orders (gain), of the contrast against boundaries elsewhere",
        (("gain", "distances", "lesion", "readout"),), needs=_ALONG,
    ),
    "stability": Gauge(
        "adjusted Rand index of the blocks with those of subsamples", "fraction", _CHECK, (("mean", "least"),),
        minimum=-1, maximum=1, needs=_REPLICATES,
    ),
    "accuracy": _share("best accuracy of a linear read-out of the answers from a unit", needs=(_READOUT,)),
}  # fmt: skip
_CLUSTER: Mapping[str, Gauge] = {
    "count": _count("number of groups"),
    "size": _count("units in a group", _SIZES),
    "units": _count("units in any group"),
    "dropped": _count("units in no group, for want of edges", methods=("ncut",)),
    "pieces": _count("connected parts of the graph of units", methods=("ncut",)),
    "ncut": Gauge("normalized cut of the groups", "number", _CHECK, minimum=0, methods=("ncut",)),
    "z": Gauge(
        "standard score of the n-cut among shuffled networks; below 0 is more clusterable", "number", _CHECK,
        methods=("ncut",), needs=_SHUFFLES,
    ),
    "p": _share(
        "p-value of being more, or less, clusterable than shuffled networks", (("more", "less"),), methods=("ncut",),
        needs=_SHUFFLES,
    ),
    "constant": _count("units that never change", methods=("hierarchy",)),
    "modularity": Gauge("modularity of the communities", "fraction", _CHECK, maximum=1, methods=("communities",)),
    "motif": Gauge(
        "z of a motif among graphs of equal degrees", "number", _CHECK,
        (("feed_forward", "fan_out", "fan_in", "chain"),), bare=False, methods=("communities",),
        needs=(Need("random_graphs", "random_graphs: 100"),),
    ),
}  # fmt: skip
_LESION: Mapping[str, Gauge] = {
    "groups": _count("groups that were tested"),
    "skipped": _count("groups too small, or too large, to be tested"),
    "significant": _count("groups whose corrected p is at most 5%", _STATISTICS),
    "p": _share("combined p-value of the groups of a cluster (Fisher); the smallest one of blocks", _STATISTICS),
    "q": _share("smallest p-value corrected for the number of groups (Benjamini and Hochberg)", _STATISTICS),
    "ratio": Gauge(
        "mean over groups of 2 effect / (effect + that of random groups): above 1 they matter more", "number", _CHECK,
        _STATISTICS,
    ),
    "accuracy": _share("accuracy of the intact model, on a task"),
}  # fmt: skip
_SHRINK: Mapping[str, Gauge] = {
    "parameters": _count("number of parameters", _BOTH),
    "flops": _count("floating-point operations of one pass over the example", _BOTH),
    "share": Gauge("after / before", "fraction", _CHECK, (("parameters", "flops"),), minimum=0),
    "max_difference": Gauge(
        "largest difference of an output from that of the masked model", "number", _CHECK, minimum=0
    ),
    "left": _count("parts that are masked still"),
}  # fmt: skip
_DRIFT: Mapping[str, Gauge] = {
    "steps": _count("number of steps"),
    "units": _count("units that all steps have"),
    "moved": Gauge(
        "distance of a unit at the last step from itself at the first", "number", _CHECK,
        (("largest", "mean"),), minimum=0,
    ),
    "step": Gauge(
        "distance of a unit from itself one step before", "number", _CHECK, (("largest", "mean"),), minimum=0
    ),
    "agreement": Gauge(
        "adjusted Rand index of the blocks of consecutive steps", "fraction", _CHECK, (("least", "mean"),),
        minimum=-1, maximum=1,
    ),
}  # fmt: skip
_VECTOR: Mapping[str, Gauge] = {
    "count": _count("number of weights that the vector changes"),
    "density": _share("share of the model's weights that it changes"),
    "norm": Gauge("its Euclidean length", "number", _CHECK, minimum=0),
    "accuracy": _share("share of held-out examples that the model with the vector answers", tasks=True),
    "gain": Gauge(
        "accuracy with the vector less that of the model alone", "fraction", _CHECK, minimum=-1, maximum=1, tasks=True
    ),
    "cross_entropy": Gauge("negative log-probability of the answer", "nats", _CHECK, minimum=0, tasks=True),
    "kl": Gauge("divergence from the prediction of the model alone", "nats", _CHECK, minimum=0, tasks=True),
    "shared": _count("number of weights that all its parts change"),
    "iou": _share("overlap of what its parts change: intersection over union"),
    "iomin": _share("overlap of what its parts change: intersection over the smallest"),
}  # fmt: skip

SECTION_QUANTITIES: Mapping[str, Mapping[str, Gauge]] = {
    "analysis": _ANALYSIS,
    "blocks": _BLOCKS,
    "cluster": _CLUSTER,
    "lesion": _LESION,
    "shrink": _SHRINK,
    "drift": _DRIFT,
    "vector": _VECTOR,
}
"""What a check may name, by the kind of the section it is of."""
SECTION_WORDS: Mapping[str, str] = {"analysis": "analyze"}
"""The word that starts a section, where that is not its kind."""
MOTIFS: Mapping[str, str] = {"feed_forward": "030T", "fan_out": "021D", "fan_in": "021U", "chain": "021C"}
"""Motifs by their names in the triad census."""
