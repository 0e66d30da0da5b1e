"""The training loop of every method that learns masks by gradient descent.

In each step the masks of all parts are drawn, the masked program runs, the gradient goes to the logits of the parts
that learn, and the controls push or shift them towards their densities. Where the objective has a completeness term,
the complement runs as well, with an optimizer step of its own (as DiscoGP does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from graphir.errors import SaveFormatError, TrainingError
from graphir.run.masks import Masks
from passes.ablations import ReferenceSource
from passes.base import RunContext
from passes.learn.control import Constant, Control, Lagrangian, Projection, density_of
from passes.learn.initial import LIMIT
from passes.learn.objectives import Objective
from passes.learn.parts import Part
from passes.metrics import logits_at
from passes.task import Batch
from passes.tokenizing import TokenizedExample

_LEAST = 0.01
"""Below this share of the largest mean gradient, forces do not follow it further down."""
Idle = Literal["open", "hard", "sampled"]


@dataclass(frozen=True)
class Phase:
    """Some steps in which the parts named in `learning` learn. The others are left `open` (all kept), drawn without
    learning (`sampled`), or `hard`: cut to what would be kept.

    In a `hard` phase those that learn are cut so, too. The gradient of the hard masks goes straight to the logits, and
    those are confined to ±`LIMIT` so that any can still change sides; nothing pushes on densities, which are met. Adam
    starts afresh with ε at the mean gradient: entries that hardly matter hardly move.
    """

    steps: int
    learning: frozenset[str]
    idle: Idle = "open"
    hard: bool = False


@dataclass(frozen=True)
class Settings:
    """How to learn. `decay` is the share of the steps, at the end, over which the learning rate declines to zero.
    The completeness term has its weight, its first step as a share of the training, and how often it is taken."""

    stage: str
    batch_size: int = 8
    masks_per_batch: int = 1
    decay: float = 1.0
    completeness: float = 0.0
    completeness_from: float = 0.0
    completeness_every: int = 1


@dataclass
class Learner:
    """State is that of the parts and controls, and the step. `harden` says what of a part would be kept."""

    context: RunContext
    parts: Mapping[str, Part]
    controls: Mapping[str, Control]
    objective: Objective
    settings: Settings
    phases: Sequence[Phase]
    harden: Callable[[str], dict[str, Tensor]]
    done: int = 0
    _full: dict[TokenizedExample, Tensor] = field(default_factory=dict)
    _hard: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.program = self.context.program
        writers = np.array(self.context.graph.edge_src, dtype=np.int64)
        self.writers = torch.as_tensor(writers, device=self.program.device)
        self._source: ReferenceSource | None = None

    @property
    def steps(self) -> int:
        """How many steps there are in all."""
        return sum(phase.steps for phase in self.phases)

    def learn(self) -> int:
        """Run the steps that are left; returns how many are over. Ctrl-C ends them early (before the first it is passed
        on); `TrainingError` on not-a-number, with the parts as they were before."""
        stage, observer = self.settings.stage, self.context.observer
        observer.begin(stage, self.steps)
        batches = islice(self._batches(), self.done, None)
        try:
            while self.done < self.steps:
                values = self._step(next(batches))
                self.done += 1
                observer.step(stage, self.done, values)
                self.context.checkpoint.save(self.done, self.state())
        except KeyboardInterrupt:
            if self.done == 0:
                raise
        observer.end(stage)
        return self.done

    # --- where we are ------------------------------------------------------------------------------------------------

    def _phase(self) -> Phase:
        start = 0
        for phase in self.phases:
            start += phase.steps
            if self.done < start:
                return phase
        raise AssertionError("no steps are left")

    def _own(self, part: str) -> tuple[int, int]:
        """How many steps a part has learned, and will in all, in phases that are hard as this one is, or soft."""
        start = learned = total = 0
        hard = self.done < self.steps and self._phase().hard
        for phase in self.phases:
            if part in phase.learning and phase.hard == hard:
                learned += min(max(self.done - start, 0), phase.steps)
                total += phase.steps
            start += phase.steps
        return learned, total

    def _batches(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            order = self.context.seed * 1000 + epoch
            yield from self.context.task.batches("train", self.settings.batch_size, shuffle=order)
            epoch += 1

    # --- a step ------------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch) -> dict[str, float]:
        phase = self._phase()
        parts = {name: self.parts[name] for name in self.parts if name in phase.learning}
        for name, part in parts.items():
            self._prepare(name, part)
        forces = {} if phase.hard else {name: self._force(name, part) for name, part in parts.items()}
        loss = self._descend(batch, phase, forces)
        values = {"loss": loss, self.objective.faithfulness: loss}
        if self._completes():
            values["completeness"] = self._descend(batch, phase, None)
        for name in parts if not phase.hard else ():
            found = self.density(name)[0]
            values["density" if len(parts) == 1 else f"density({name})"] = found
            if len(parts) == 1 and isinstance(control := self.controls[name], Lagrangian | Projection):
                values["target"] = control.schedule.density(self._own(name)[0])
        return values

    def _completes(self) -> bool:
        chosen, share = self.settings, self.done / max(self.steps, 1)
        due = self.done % chosen.completeness_every == chosen.completeness_every - 1
        return chosen.completeness > 0 and share >= chosen.completeness_from and due

    def _prepare(self, name: str, part: Part) -> None:
        """Temperature, learning rate and offset for this step, or what a step on hard masks needs in its place."""
        learned, total = self._own(name)
        part.parametrization = part.parametrization.at(learned / max(total, 1))
        left = 1.0 - learned / total
        part.set_rate(min(1.0, left / self.settings.decay) if self.settings.decay > 0 else 1.0)
        if self._phase().hard:
            part.turn_hard(LIMIT, afresh=learned == 0)
            return
        part.offset = self.controls[name].offset_for(lambda offset: self.density(name, offset), part.offset, learned)

    def density(self, name: str, offset: float | None = None) -> tuple[float, float]:
        """Expected density of a part and its derivative by the offset; an edge needs its writer's node, too."""
        part = self.parts[name]
        offset = part.offset if offset is None else offset
        factor = None
        if name == "edges" and "nodes" in self.parts:
            factor = self.parts["nodes"].expected(self.parts["nodes"].leaf().detach())[self.writers]

        def expected(logits: Tensor) -> Tensor:
            found = part.expected(logits)
            return found if factor is None else found * factor

        return density_of(part.sample(), expected)(offset)

    def _force(self, name: str, part: Part) -> float:
        density, slope = self.density(name)
        # Adam remembers for a thousand steps: where gradients come to nothing, forces as small would move nothing.
        gradient = max(part.mean_gradient, _LEAST * part.largest_gradient)
        scale = part.total * gradient / max(slope, 1e-12)
        return self.controls[name].force(density, self._own(name)[0], scale)

    def _descend(self, batch: Batch, phase: Phase, forces: Mapping[str, float] | None) -> float:
        """Forward, backward and update; of the complement where there are no forces. Returns the loss."""
        complement = forces is None
        count = self.settings.masks_per_batch
        rows = [chunk for chunk in np.array_split(np.arange(len(batch)), count) if len(chunk)]
        weight_forces = self._weight_force(forces)
        whole, total = len(rows) == 1, 0.0
        # The norm that a gradient is clipped to is that of all tensors: none can be updated before the last is known.
        weights = self.parts.get("weights")
        at_once = whole and (weights is None or weights.clip is None)
        for index, chosen in enumerate(rows):
            piece = batch if whole else self.context.task.collate([batch.examples[i] for i in chosen])
            piece = piece.to(self.program.device)
            draw = self.draw(phase, (int(complement), index), complement=complement,
                             take=weight_forces if at_once else False)  # fmt: skip
            share = len(chosen) / len(batch)
            loss = self._loss(piece, draw.masks, complement=complement) * share
            if not bool(torch.isfinite(loss)):
                raise _not_finite()
            total += float(loss.detach())
            loss.backward()
            for name, leaf in draw.leaves.items():
                if leaf.grad is not None:
                    self.parts[name].accumulate(next(iter(self.parts[name].logits)), leaf.grad)
        self._update(phase, forces, weight_forces, at_once=at_once)
        return total

    def _loss(self, batch: Batch, masks: Masks, *, complement: bool) -> Tensor:
        mixes = masks.mixes or masks.neurons is not None
        if mixes and self._source is None:
            self._source = ReferenceSource(self.program, self.context.task)
        reference = self._source(batch) if mixes and self._source is not None else None
        full = None if complement else self._full_logits(batch)
        outputs = self.program.outputs(batch.inputs, masks=masks, reference=reference, positions=batch.positions)
        found = logits_at(outputs, batch)
        if full is None:
            return self.objective.complete(found, batch) * self.settings.completeness
        return self.objective.faithful(full, found, batch)

    def _weight_force(self, forces: Mapping[str, float] | None) -> Callable[[Tensor], Tensor] | None:
        force = (forces or {}).get("weights", 0.0)
        if not force:
            return None
        part, control = self.parts["weights"], self.controls["weights"]
        if isinstance(control, Constant) and control.per_logit:
            return lambda logits: torch.full_like(logits, force / part.total)
        return lambda logits: part.parametrization.expected_slope(logits).mul_(force / part.total)

    def _update(
        self,
        phase: Phase,
        forces: Mapping[str, float] | None,
        weight_force: Callable[[Tensor], Tensor] | None,
        *,
        at_once: bool,
    ) -> None:
        """Steps of the small parts with the gradient of the penalties added; weights have had theirs if `at_once`."""
        small = {name: part for name, part in self.parts.items() if name in phase.learning and name != "weights"}
        pushes = self._pushes(small, forces or {})
        for name, part in small.items():
            push = pushes.get(name)
            part.step(None if push is None else (lambda _, push=push: push))  # type: ignore[misc]
        if "weights" in phase.learning:
            part = self.parts["weights"]
            if at_once:
                part.finish()
            else:
                part.step(weight_force)
        if not all(part.finite for part in self.parts.values()):
            raise _not_finite()

    def _pushes(self, small: Mapping[str, Part], forces: Mapping[str, float]) -> dict[str, Tensor]:
        """∂(Σ force · density)/∂logits of the small parts; the density of edges depends on nodes, too."""
        if not any(forces.get(name) for name in small):
            return {}
        leaves = {name: part.leaf() for name, part in small.items()}
        kept = {name: small[name].expected(leaf) for name, leaf in leaves.items()}
        penalty = torch.zeros((), device=self.program.device)
        for name, force in forces.items():
            if name in kept:
                found = kept[name] * kept["nodes"][self.writers] if name == "edges" and "nodes" in kept else kept[name]
                penalty = penalty + force * found.mean()
        gradients = torch.autograd.grad(penalty, list(leaves.values()), allow_unused=True)
        return {name: g for name, g in zip(leaves, gradients, strict=True) if g is not None}

    def _full_logits(self, batch: Batch) -> Tensor:
        """The model's logits (B, V) at the predicting positions; each example is run once."""
        if any(example not in self._full for example in batch.examples):
            with torch.no_grad():
                found = logits_at(self.program.outputs(batch.inputs, positions=batch.positions), batch)
            self._full |= dict(zip(batch.examples, found, strict=True))
        return torch.stack([self._full[example] for example in batch.examples])

    # --- masks -------------------------------------------------------------------------------------------------------

    def draw(
        self,
        phase: Phase,
        where: tuple[int, ...] = (),
        *,
        complement: bool = False,
        take: Callable[[Tensor], Tensor] | Literal[False] | None = False,
    ) -> Drawn:
        """Masks of a step: drawn for parts that learn or are sampled, fixed for hard ones, None for open ones.

        `take` is what is added to gradients of weights, which then are updated as soon as these are known (see
        `passes.learn.weights`); False accumulates them.
        """
        spot = (self.context.seed, self.done, *where)
        leaves: dict[str, Tensor] = {}
        drawn: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            learning = name in phase.learning
            if name == "weights" or (not learning and phase.idle == "open"):
                continue
            if not learning and phase.idle == "hard":
                drawn[name] = next(iter(self._fixed(name).values())).to(self.program.dtype)
                continue
            leaf = part.leaf()
            if learning:
                leaves[name] = leaf
            if learning and phase.hard:
                (kept,) = self.harden(name).values()
                drawn[name] = (leaf - leaf.detach() + kept).to(self.program.dtype)
                continue
            drawn[name] = part.mask(leaf if learning else leaf.detach(), spot).to(self.program.dtype)
        weights = self._draw_weights(phase, spot, complement=complement, take=take)
        masks = Masks(drawn.get("edges"), drawn.get("nodes"), drawn.get("neurons"), weights)
        return Drawn(self._complement(masks) if complement else masks, leaves)

    def _draw_weights(
        self,
        phase: Phase,
        spot: tuple[int | str, ...],
        *,
        complement: bool,
        take: Callable[[Tensor], Tensor] | Literal[False] | None,
    ) -> Mapping[str, Tensor | Callable[[Tensor], Tensor]] | None:
        part = self.parts.get("weights")
        learning = "weights" in phase.learning
        if part is None or (not learning and phase.idle == "open"):
            return None
        if not learning and phase.idle == "hard":
            return {key: ~kept if complement else kept for key, kept in self._fixed("weights").items()}

        def receive(key: str, gradient: Tensor) -> None:
            if take is False:
                part.accumulate(key, gradient)
            else:
                part.update(key, gradient, take)

        kept = self.harden("weights") if learning and phase.hard else None
        return part.weight_masks(spot, receive if learning else None, complement=complement, kept=kept)

    def _complement(self, masks: Masks) -> Masks:
        """What is left out: edges that are not kept or whose writer is not, and the weights and neurons not kept."""
        edges, nodes = masks.edges, masks.nodes
        if edges is not None:
            kept = edges if nodes is None else edges * nodes[self.writers]
            edges, nodes = 1 - kept, None
        neurons = None if masks.neurons is None else 1 - masks.neurons
        return Masks(edges, None if nodes is None else 1 - nodes, neurons, masks.weights)

    def _fixed(self, name: str) -> dict[str, Tensor]:
        if name not in self._hard:
            self._hard[name] = self.harden(name)
        return self._hard[name]

    # --- keeping -----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on, by name."""
        found = {"step": torch.tensor(self.done)}
        for part in self.parts.values():
            found |= part.state()
        for name, control in self.controls.items():
            found[f"control/{name}"] = torch.tensor(control.state(), dtype=torch.float64)
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state. Raises `SaveFormatError` where it does not fit."""
        try:
            for part in self.parts.values():
                part.load(state)
            for name, control in self.controls.items():
                if len(kept := state[f"control/{name}"]):
                    control.load(kept.tolist())
            self.done = int(state["step"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise SaveFormatError("the checkpoint is of another training", ["remove it to start anew"]) from error


@dataclass(frozen=True, eq=False)
class Drawn:
    """Masks of one run and the leaves that collect the gradients of the small parts."""

    masks: Masks
    leaves: Mapping[str, Tensor]


def _not_finite() -> TrainingError:
    return TrainingError(
        "the loss became not-a-number", ["lower `learning_rate` or `lambda_learning_rate`", "use float32 weights"]
    )
