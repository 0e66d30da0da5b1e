"""What objectives, constraints and conditions may name: quantities, their units, arguments and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

OBJECTS = ("model", "circuit")
PARTS = ("edges", "nodes", "weights", "neurons")
CONTROLS = ("random_model", "random_circuit", "complement_circuit")
UNITS: Mapping[str, str] = {
    "fraction": "a share",
    "count": "a number of parts",
    "nats": "nats",
    "logits": "logits",
    "number": "a number",
}
"""Units, as messages call them. Quantities of different units are neither added nor compared."""


@dataclass(frozen=True)
class Quantity:
    """Something an expression may name. `arguments` are the words allowed at each place, the first being meant when
    none is given; a quantity that may also be written without any is `bare`. `unit` is one of `UNITS`; `uses` are
    check, objective and constraint. With `seeds` it is measured over several seeds (`… over 3 seeds`); `evidence` names
    the part of the evidence section that measures it. With `tasks` its one argument is the name of a task of the file,
    which may be left out where there is only one."""

    doc: str
    unit: str
    uses: frozenset[str]
    arguments: tuple[tuple[str, ...], ...] = ()
    bare: bool = True
    minimum: float = float("-inf")
    maximum: float = float("inf")
    seeds: bool = False
    evidence: str = ""
    tasks: bool = False

    @property
    def form(self) -> str:
        """How it is written."""
        if self.tasks:
            return "(TASK)"
        return f"({', '.join('|'.join(words) for words in self.arguments)})" if self.arguments else ""

    def complete(self, given: tuple[str, ...]) -> tuple[str, ...] | None:
        """All arguments from those given, each put where it fits and the others filled in; None when one fits
        nowhere."""
        if self.tasks:
            return given if len(given) <= 1 else None
        found, rest = [], list(given)
        for words in self.arguments:
            fits = bool(rest) and rest[0] in words
            found.append(rest.pop(0) if fits else words[0])
        return None if rest else tuple(found)


_CHECK, _EVERY = frozenset({"check"}), frozenset({"check", "objective"})
_OBJECTIVE = frozenset({"objective"})
_SIZE = frozenset({"check", "objective", "constraint"})
_JUDGED = (("circuit", "model", "empty", "complement"),)
_PAIR = (("model",), ("circuit", "empty", "complement"))

QUANTITIES: Mapping[str, Quantity] = {
    "kl": Quantity("divergence from the model's prediction, in nats", "nats", _EVERY, _PAIR, minimum=0),
    "jsd": Quantity("Jensen-Shannon divergence from the model's prediction", "nats", _CHECK, _PAIR, minimum=0),
    "logit_diff": Quantity("answer's logit minus distractor's", "logits", _EVERY, _JUDGED),
    "prob_diff": Quantity(
        "answer's probability minus distractor's", "fraction", _EVERY, _JUDGED, minimum=-1, maximum=1
    ),
    "cross_entropy": Quantity("negative log-probability of the answer", "nats", _EVERY, _JUDGED, minimum=0),
    "accuracy": Quantity("share of examples with the answer ahead", "fraction", _CHECK, _JUDGED, minimum=0, maximum=1),
    "exact_match": Quantity(
        "share of examples where circuit and model predict the same token", "fraction", _CHECK, _PAIR,
        minimum=0, maximum=1,
    ),
    "kendall_tau": Quantity(
        "rank correlation of the circuit's and the model's logits", "fraction", _CHECK, _PAIR, minimum=-1, maximum=1
    ),
    "logit_diff_ratio": Quantity("the circuit's logit difference over the model's", "fraction", _CHECK),
    "faithfulness": Quantity("(circuit - empty) / (model - empty), of the task's metric", "fraction", _CHECK),
    "faith": Quantity("the method's own faithfulness loss", "nats", _OBJECTIVE),
    "complete": Quantity("the complement's distance from knowing nothing", "nats", _OBJECTIVE),
    "stability": Quantity(
        "smallest overlap of what is found with two seeds", "fraction", _CHECK,
        (PARTS, ("iou", "iomin")), minimum=0, maximum=1, seeds=True,
    ),
    "completeness": Quantity(
        "(model - complement) / (model - empty), of the task's metric: 1 when the complement can do nothing",
        "fraction", _CHECK,
    ),
    "incompleteness": Quantity(
        "largest difference between circuit and model under the same knock-outs, of the task's metric",
        "number", _CHECK, minimum=0, evidence="completeness",
    ),
    "minimality": Quantity(
        "smallest loss, over the kept components, from removing one given the best knock-outs found, of the task's "
        "metric",
        "number", _CHECK, evidence="minimality",
    ),
    "control": Quantity(
        "random_circuit, complement_circuit: p-value, the share of drawn circuits at least as good; random_model: how "
        "far the same method comes on random weights, from chance (0) to the circuit's accuracy (1)",
        "fraction", _CHECK,
        (CONTROLS,), bare=False, minimum=0, maximum=1, evidence="controls",
    ),
    "cpr": Quantity("area under the faithfulness curve (CPR); may pass 1", "number", _CHECK, evidence="curve"),
    "cmd": Quantity("area between the faithfulness curve and 1 (CMD)", "number", _CHECK, minimum=0, evidence="curve"),
    "auroc": Quantity(
        "area under the ROC curve of edge scores, where the true edges are known", "fraction", _CHECK,
        minimum=0, maximum=1, evidence="curve",
    ),
    "equivalence": Quantity("largest difference between model and traced program", "logits", _CHECK, minimum=0),
    "density": Quantity("share that is kept", "fraction", _SIZE, (PARTS,), bare=False, minimum=0, maximum=1),
    "sparsity": Quantity("share that is left out", "fraction", _SIZE, (PARTS,), bare=False, minimum=0, maximum=1),
    "edges": Quantity("number of edges kept", "count", _SIZE - {"objective"}, minimum=0),
    "nodes": Quantity("number of nodes kept", "count", _SIZE - {"objective"}, minimum=0),
    "weights": Quantity("number of weights kept", "count", _SIZE - {"objective"}, minimum=0),
}  # fmt: skip
