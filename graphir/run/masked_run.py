"""One run of a model with residual streams under masks: every read is mixed (see `graphir.run.mix`).

Where the run can only differ from the counterfactual one at some tokens (`graphir.run.tokens`), it is computed at those
alone: buffers, mixes, norms, projections and perceptrons hold (…, n, D) in place of (…, B, S, D). What is not computed
token by token, attention above all, sees every token, with the counterfactual run's values at the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from graphir.run.ablation import fit
from graphir.run.component import ComponentPlan
from graphir.run.masks import Masks
from graphir.run.mix import Read, StreamBuffer, Write
from graphir.run.program import Env, Reference
from graphir.run.tokens import Tokens, differing_tokens

if TYPE_CHECKING:
    from graphir.run.stream_program import StreamProgram


def mask_neurons(
    program: StreamProgram, plan: ComponentPlan, hidden: Tensor, masks: Masks, reference: Reference | None
) -> Tensor:
    """An MLP's hidden features (…, F) with masked ones at their ablation value."""
    name = plan.partition.component.name
    if masks.neurons is None or name not in program.neurons:
        return hidden
    start, stop = program.neurons[name]
    mask = masks.neurons[start:stop]
    ablated = reference.hidden.get(plan.region.leaf) if reference is not None else None
    if ablated is None:
        return hidden * mask
    ablated = fit(ablated[None], hidden[None])[0]
    return ablated + mask * (hidden - ablated)


class MaskedRun:
    """One run with masked reads."""

    def __init__(self, program: StreamProgram, env: Env, masks: Masks, reference: Reference) -> None:
        self.program, self.env, self.masks, self.reference = program, env, masks, reference
        self.layout = program.layout
        self.buffers: dict[int, StreamBuffer] = {}
        self.token = next(iter(program.traced.tensors.values())).new_zeros(1, dtype=torch.float32)
        if torch.is_grad_enabled():
            self.token.requires_grad_()
        self.base: Env = {}
        self.tokens: Tokens | None = None
        self._taken: Env = {}
        self._shapes = {i: self._lead(i) for i in range(len(self.layout.sizes))}

    def _lead(self, stream: int) -> tuple[int, ...] | None:
        shapes = [self.env[w.leaf].shape for w in self.program.lifted.sources if self.layout.place[w.leaf][0] == stream]
        return tuple(torch.broadcast_shapes(*shapes)) if shapes else None

    def outputs(self, positions: Tensor | None, first: int = 0) -> list[Tensor]:
        """The output tensors; from step `first` on, where all before is as an earlier call has left it."""
        if first == 0:
            if self.masks.weights is None and self.masks.neurons is None:
                self.tokens = differing_tokens(self.program, self.env, self.reference, positions)
            for writer in self.program.lifted.sources:
                self._store(writer.leaf, self._at_tokens(self.env[writer.leaf][None]), None)
        results = []
        for step in self.program.steps[first:]:
            if isinstance(step, fx.Node):
                self._advance(step)
            elif step.region.output:
                results.append(step.run_output(self._whole_reads(step), self.env, positions))
            else:
                self._run(step)
        return results

    def _run(self, plan: ComponentPlan) -> None:
        leaf = plan.region.leaf
        if plan.region.exit is None:
            values = plan.run_whole(self._whole_reads(plan), self.env)[None]
            self._store(leaf, self._at_tokens(values), None)
            return
        reads, known = self._reads(plan), None
        if self.tokens is not None and plan.front_by_token:
            known = None if plan.by_token else (self.tokens, self.reference.entries)
        elif self.tokens is not None:
            reads = [self._whole(site.value, read) for site, read in zip(plan.region.sites, reads, strict=True)]
        hidden = plan.hidden(reads, self.env, known)
        hidden = mask_neurons(self.program, plan, hidden, self.masks, self.reference)
        taken = self.tokens is not None and plan.by_token
        if self.tokens is not None and plan.back_by_token and not taken:
            hidden, taken = self.tokens.take(hidden), True
        values, rest = plan.write(hidden, self.env)
        self._store(leaf, values if taken else self._at_tokens(values), rest)

    def _reads(self, plan: ComponentPlan) -> list[Tensor]:
        """One read a site: (K, …, D), or (K, n, D) at the tokens that differ."""
        found = []
        for site, layout in zip(plan.region.sites, self.layout.sites[plan.region.leaf], strict=True):
            found.append(self._mix(site.value, layout.mask(self.masks), self._base(site.value)))
        return found

    def _whole_reads(self, plan: ComponentPlan) -> list[Tensor]:
        """One read (…, D) a site, for a region that runs whole."""
        reads = zip(plan.region.sites, self._reads(plan), strict=True)
        return [self._whole(site.value, read)[0] for site, read in reads]

    def _whole(self, value: fx.Node, read: Tensor) -> Tensor:
        """A read at all tokens."""
        return read if self.tokens is None else self.tokens.put(self.base[value], read)

    def _at_tokens(self, values: Tensor) -> Tensor:
        """Writers' values (U, n, D) at the tokens that differ, from (U, B, S, D) or, of positions, (U, S, D)."""
        if self.tokens is None:
            return values
        return self.tokens.take(values if values.dim() == 4 else values[:, None])

    def _base(self, value: fx.Node) -> Tensor:
        """What a read of a stream value is with all its edges cut; at the tokens that differ, where they are known."""
        base: Tensor = self.base[value]
        if self.tokens is None:
            return base
        if value not in self._taken:
            self._taken[value] = self.tokens.take(base)
        taken: Tensor = self._taken[value]
        return taken

    def _mix(self, value: fx.Node, mask: Tensor, base: Tensor) -> Tensor:
        parts = self.layout.runs[value]
        buffer = self.buffers[self.layout.stream[value]]
        if len(parts) == 1 and not parts[0].scales and parts[0].start == 0:
            return self._read(mask, base, buffer)
        # Writers that reach the read through different scales are mixed run by run.
        total: Tensor | None = None
        column = 0
        for part in parts:
            count = part.stop - part.start
            full = mask.new_zeros(len(mask), part.stop)
            full = torch.cat([full[:, : part.start], mask[:, column : column + count]], 1)
            column += count
            mixed = self._read(full, base.new_zeros(()), buffer)
            for scale in part.scales:
                mixed = mixed * (self.env[scale] if isinstance(scale, fx.Node) else scale)
            total = mixed if total is None else total + mixed
        assert total is not None
        return total + base

    def _read(self, mask: Tensor, base: Tensor, buffer: StreamBuffer) -> Tensor:
        result: Tensor = Read.apply(mask, base, self.token, buffer)  # type: ignore[no-untyped-call]
        return result

    def _store(self, leaf: fx.Node, values: Tensor, rest: Tensor | None) -> None:
        """Put a leaf's writers' values into its stream's buffer and its ablation value into the base."""
        stream, start = self.layout.place[leaf]
        ablated = self.reference.writers.get(leaf)
        if self.tokens is not None:
            assert ablated is not None
            ablated = self.tokens.take(ablated)
        if stream not in self.buffers:
            lead = self._shapes[stream] if self.tokens is None else None
            shape = lead or tuple(values.shape[1:])
            self.buffers[stream] = StreamBuffer(self.layout.sizes[stream], shape, values)
        shape = tuple(self.buffers[stream].data.shape[1:])
        if values.shape[1:] != shape:
            values = values.expand(len(values), *shape)
        if ablated is not None:
            ablated = fit(ablated, values)
        self.token = Write.apply(values, ablated, self.token, self.buffers[stream], start)  # type: ignore[no-untyped-call]
        if not self.reference.values:
            zero = values.new_zeros(())
            base = zero if ablated is None else ablated.sum(0)
            self.base[leaf] = base if rest is None else base + rest
        if leaf in self.program.streams.terms:
            self._set_base(leaf)

    def _advance(self, node: fx.Node) -> None:
        """The base of a stream value that is a sum or a scale of earlier ones."""
        if node in self.reference.values:
            self.base[node] = self.reference.values[node]
            return
        self.base[node] = node.target(*fx.map_arg(node.args, self._operand))  # type: ignore[operator]

    def _operand(self, node: fx.Node) -> Any:
        return self.base[node] if node in self.base else self.env[node]

    def _set_base(self, leaf: fx.Node) -> None:
        if leaf in self.reference.values:
            self.base[leaf] = self.reference.values[leaf]
