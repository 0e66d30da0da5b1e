"""Iterative magnitude pruning with rewinding, as a pass: the weights that training on the task keeps large.

The weights of a copy are trained on the task's answers, the smallest dropped, the rest set back to the model's own, and
so on (`passes.lottery`); what is masked is trained, all else, by default embeddings and norms, stays as it is. The
circuit is the ticket in the model's own weights: what is measured of it is the model under the mask *before* the
retraining that the lottery ticket hypothesis speaks of. What retraining reaches is in its provenance, round by round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from graphir.circuit import Circuit
from graphir.errors import SaveFormatError, TrainingError
from graphir.run.masks import Masks
from graphir.run.program import MaskedProgram
from passes.base import Pass, RunContext, provenance_of
from passes.learned_options import ImpOptions
from passes.lottery import Round, Ticket, find_ticket
from passes.training import Training, model_accuracy

_STAGE = "imp"


@dataclass(frozen=True)
class Imp(ImpOptions, Pass):
    """Find a ticket, within the bound on weights if there is one, else after the rounds at the rate."""

    name: ClassVar[str] = "imp"

    def run(self, context: RunContext) -> Circuit:
        """The circuit of all edges, with the ticket as keep masks on weights. Ctrl-C after a round gives the ticket so
        far; a checkpoint holds whole rounds."""
        model = TrainableProgram(context.program, self.masked_parameters(context.program))
        recipe = Training(context.task, self.steps, self.batch_size, self.learning_rate, decay=True, train_mode=False)
        found = None if (state := context.checkpoint.load()) is None else _from_state(state)
        context.observer.begin(_STAGE, self.rounds + 1)

        def keep(ticket: Ticket) -> None:
            nonlocal found
            found = ticket
            done = len(ticket.rounds)
            context.checkpoint.save(done, _to_state(ticket))
            context.observer.step(_STAGE, done, {"density": ticket.density, "accuracy": ticket.rounds[-1].score or 0.0})

        try:
            found = find_ticket(
                model, recipe, density=context.bound("weights"), rounds=self.rounds, rate=self.rate, scope=self.scope,
                rewind=self.rewind, parameters=tuple(model.names), seed=context.seed, progress=keep, resume=found,
                evaluate=lambda trained: model_accuracy(trained, context.task, "train", self.batch_size),
            )  # fmt: skip
        except KeyboardInterrupt:
            if found is None:
                raise
        except TrainingError as error:
            error.circuit = None if found is None else self._circuit(context, model, found)
            raise
        context.observer.end(_STAGE)
        assert found is not None
        return self._circuit(context, model, found)

    def _circuit(self, context: RunContext, model: TrainableProgram, ticket: Ticket) -> Circuit:
        done = len(ticket.rounds) - 1
        more: dict[str, Any] = {"rounds": [{"kept": r.kept, "retrained_accuracy": r.score} for r in ticket.rounds]}
        if done < self.rounds:
            more["interrupted"] = done
        graph = context.graph
        return Circuit(
            graph, np.ones(len(graph.edges), bool), np.ones(len(graph.nodes), bool), ablation=context.task.ablation,
            weights={model.names[key]: mask.cpu().numpy() for key, mask in ticket.masks.items()},
            provenance=provenance_of(self, context, **more),
        )  # fmt: skip


class TrainableProgram(nn.Module):
    """A masked program as a module whose parameters are copies of those named, under names without dots (`names` maps
    these to the program's). Called with the model's inputs by name, gives its first output."""

    def __init__(self, program: MaskedProgram, parameters: Sequence[str]) -> None:
        super().__init__()
        self.program = program
        self.names = {f"p{index}": name for index, name in enumerate(parameters)}
        for key, name in self.names.items():
            self.register_parameter(key, nn.Parameter(program.traced.tensors[name].detach().clone()))

    def forward(self, **inputs: Tensor) -> Tensor:
        """The model's first output with the copies for its weights."""

        def copied(key: str):  # type: ignore[no-untyped-def]
            return lambda _: getattr(self, key)

        weights = {name: copied(key) for key, name in self.names.items()}
        return self.program.outputs(inputs, masks=Masks(weights=weights))[0]


def _to_state(ticket: Ticket) -> dict[str, Tensor]:
    """A ticket as tensors by name."""
    found = {f"mask/{key}": mask for key, mask in ticket.masks.items()}
    found |= {f"start/{key}": value for key, value in ticket.start.items()}
    found |= {f"trained/{key}": value for key, value in ticket.trained.items()}
    kept = [list(r.by_parameter.values()) for r in ticket.rounds]
    scores = [float("nan") if r.score is None else r.score for r in ticket.rounds]
    found["kept"], found["scores"] = torch.tensor(kept), torch.tensor(scores, dtype=torch.float64)
    found["rewind"] = torch.tensor(ticket.rewind)
    return found


def _from_state(state: Mapping[str, Tensor]) -> Ticket:
    """The ticket in a checkpoint. `SaveFormatError` for one of something else."""

    def part(name: str) -> dict[str, Tensor]:
        return {key.partition("/")[2]: value for key, value in state.items() if key.startswith(f"{name}/")}

    try:
        masks = {key: value.bool() for key, value in part("mask").items()}
        rounds = tuple(
            Round(sum(counts), dict(zip(masks, counts, strict=True)), score)
            for counts, score in zip(state["kept"].tolist(), state["scores"].tolist(), strict=True)
        )
        return Ticket(masks, part("start"), int(state["rewind"]), part("trained"), rounds)
    except (KeyError, ValueError) as error:
        raise SaveFormatError("the checkpoint is of another training", ["remove it to start anew"]) from error
