"""Lesions: run the model with a group of nodes or units ablated, and measure what it does to the outputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphir.errors import DataError, GraphirError, UnknownNameError
from graphir.granularity import Granularity
from graphir.ir import NodeKind
from graphir.names import closest
from graphir.run.collect import layer_names, on_device, residual_names
from graphir.run.masks import Masks
from graphir.run.program import MaskedProgram, Reference, lower
from graphir.tracing import regrain
from graphir.tracing.exported import Example, name_inputs
from graphir.tracing.lift import Lifted

_HIDDEN = (NodeKind.HEAD, NodeKind.MLP, NodeKind.NEURON, NodeKind.LAYER, NodeKind.CHANNEL, NodeKind.OPAQUE)


@dataclass(frozen=True, eq=False)
class Effect:
    """What a lesion does, against the intact model.

    `kl` is the mean KL(intact ‖ lesioned) in nats; `agreement` how often both give the same answer; with labels,
    `accuracy` and `accuracy_drop`, and `class_drop` (C,), the drop in the accuracy of each class. Answers are the
    largest logit, of a model with positions that at the last real one.
    """

    kl: float
    agreement: float
    accuracy: float = float("nan")
    accuracy_drop: float = float("nan")
    class_drop: NDArray[np.float64] | None = None


class Lesions:
    """Measures lesions on fixed data. The intact outputs and the mean ablation values are computed once.

    `batches` are inputs; `labels` (n,), in their order, the right answers where there are any. The model's first
    output is taken for logits; where it is not, `readout` makes them of it: (B, D) → (B, C).
    """

    def __init__(
        self,
        program: MaskedProgram,
        batches: Iterable[Example],
        labels: NDArray[np.integer[Any]] | None = None,
        *,
        ablation: Literal["zero", "mean"] = "zero",
        readout: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.program = _with_whole_mlps(program)
        self._readout = readout
        self._batches = [on_device(batch, program.device) for batch in batches]
        if not self._batches:
            raise DataError("lesions need at least one batch")
        if ablation not in ("zero", "mean"):
            raise GraphirError(f"lesions ablate by zero or mean, not `{ablation}`")
        self._reference = Reference() if ablation == "zero" else self.program.means(self._batches)
        self._intact = self._log_probs(Masks())
        if not torch.isfinite(self._intact).all():
            raise DataError("the model's outputs are not finite on this data", ["try float32 weights"])
        self.labels = None if labels is None else np.asarray(labels)
        if self.labels is not None and len(self.labels) != len(self._intact):
            raise DataError(f"{len(self.labels)} labels for {len(self._intact)} examples")
        self._answers = self._intact.argmax(-1).numpy()

    @property
    def accuracy(self) -> float:
        """Of the intact model; not-a-number without labels."""
        return float("nan") if self.labels is None else float((self._answers == self.labels).mean())

    def effect(self, group: Sequence[str]) -> Effect:
        """The effect of ablating these nodes or units (`a3.h1`, `m2`, `m2.n7`, `fc1.n0..9`) together."""
        lesioned = self._log_probs(self.masks(group))
        kl = float((self._intact.exp() * (self._intact - lesioned)).nan_to_num(0.0).sum(-1).mean())
        answers = lesioned.argmax(-1).numpy()
        same = float((answers == self._answers).mean())
        if self.labels is None:
            return Effect(kl, same)
        right, before = answers == self.labels, self._answers == self.labels
        classes = np.unique(self.labels)
        drops = np.array([before[self.labels == c].mean() - right[self.labels == c].mean() for c in classes])
        return Effect(kl, same, float(right.mean()), float(before.mean() - right.mean()), drops)

    def effects(self, groups: Mapping[str, Sequence[str]]) -> dict[str, Effect]:
        """The effect of each group by its name."""
        return {name: self.effect(group) for name, group in groups.items()}

    def masks(self, group: Sequence[str]) -> Masks:
        """Masks of ones with zeros at a group. Raises `UnknownNameError` for a name that is no node or unit."""
        graph, program = self.program.graph, self.program
        nodes: list[int] = []
        neurons: list[int] = []
        for name in group:
            match = re.fullmatch(r"(.+)\.([nc])(\d+)(?:\.\.(\d+))?", name)
            if name in graph.node_index:
                nodes.append(graph.node_index[name])
            elif match and f"{match[1]}.{match[2]}{match[3]}" in graph.node_index:
                span = range(int(match[3]), int(match[4] or match[3]) + 1)
                nodes += [graph.node_index[graph.node(f"{match[1]}.{match[2]}{i}").name] for i in span]
            elif match and match[1] in program.neurons:
                start, stop = program.neurons[match[1]]
                first, last = int(match[3]), int(match[4] or match[3])
                if start + last >= stop:
                    raise UnknownNameError("unit", name, [f"{match[1]} has units 0 … {stop - start - 1}"])
                neurons += range(start + first, start + last + 1)
            else:
                raise UnknownNameError("node", name, closest(name, graph.node_index))
        return self._zeros(nodes, neurons)

    def _zeros(self, nodes: Sequence[int], neurons: Sequence[int]) -> Masks:
        made = self.program.new_masks(nodes=bool(nodes), neurons=bool(neurons), requires_grad=False)
        if made.nodes is not None:
            made.nodes[list(nodes)] = 0.0
        if made.neurons is not None:
            made.neurons[list(neurons)] = 0.0
        return made

    @torch.no_grad()
    def _log_probs(self, masks: Masks) -> Tensor:
        """Log-probabilities (n, C) of the answers, on the CPU."""
        found = []
        for batch in self._batches:
            positions = last_positions(batch, self.program)
            outputs = self.program.outputs(batch, None, masks, "zero", self._reference, positions)[0]
            if outputs.dim() == 3:
                rows = torch.arange(len(outputs), device=outputs.device)
                at = torch.full_like(rows, -1) if outputs.shape[1] == 1 or positions is None else positions
                outputs = outputs[rows, at]
            outputs = outputs if self._readout is None else self._readout(outputs)
            found.append(torch.log_softmax(outputs.float().reshape(len(outputs), -1), -1).cpu())
        return torch.cat(found)


def _with_whole_mlps(program: MaskedProgram) -> MaskedProgram:
    """The program of the same model with MLPs as one node each: single neurons are then masked where they are read,
    and what each of them writes, width × tokens numbers a neuron, is not held."""
    granularity = program.graph.granularity
    if not isinstance(program.graph.lifted, Lifted) or granularity is None:
        return program
    regions = tuple((first, last, replace(choice, mlp="layer")) for first, last, choice in granularity.regions)
    coarse = Granularity(replace(granularity.default, mlp="layer"), regions)
    return program if coarse == granularity else lower(regrain(program.graph, coarse))


def last_positions(batch: Example, program: MaskedProgram) -> Tensor | None:
    """The last real token of each row (B,); None for a model whose first input is not token ids (B, S)."""
    named = name_inputs(batch, program.traced.input_names)
    mask = named.get("attention_mask")
    if mask is not None and mask.dim() == 2:
        steps = torch.arange(mask.shape[1], device=mask.device)
        return torch.where(mask.bool(), steps, -1).argmax(1)
    first = next(iter(named.values()))
    if first.is_floating_point() or first.dim() != 2:
        return None
    return torch.full((len(first),), first.shape[1] - 1, device=first.device)


def layer_groups(program: MaskedProgram) -> dict[str, tuple[str, ...]]:
    """The nodes of each layer (heads, MLPs, units; not norms, embeddings or outputs), by the name its representation
    has: `resid3`, or that of the layer of a layered model."""
    found: dict[int, list[str]] = {}
    for node in program.graph.nodes:
        if node.layer is not None and node.kind in _HIDDEN:
            found.setdefault(node.layer, []).append(node.name)
    if residual_names(program):
        return {f"resid{layer}": tuple(names) for layer, names in sorted(found.items())}
    return dict(zip(layer_names(program), (tuple(found[layer]) for layer in sorted(found)), strict=True))
