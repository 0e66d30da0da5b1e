"""Where a masked run can differ from the counterfactual one: under interchange ablation, not before the first change.

In a causal model the values at a token follow from those at the tokens up to it. Where the two inputs agree up to a
token, every writer's value there is the counterfactual run's whatever the masks, its difference Y − A is zero, and no
read needs mixing. Of a pair of sentences that differ in one name, most tokens are such.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx

from graphir.run.program import Env, Reference

if TYPE_CHECKING:
    from graphir.run.stream_program import StreamProgram

_CAUSAL: WeakKeyDictionary[StreamProgram, bool] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Tokens:
    """Some of a batch's tokens: places `index` (n,) among the B · S of `shape` (B, S), row by row."""

    index: Tensor
    shape: tuple[int, int]

    def take(self, values: Tensor) -> Tensor:
        """(…, B, S, D), or a shape that broadcasts to it over rows → (…, n, D)."""
        lead, width = values.shape[:-3], values.shape[-1]
        return values.expand(*lead, *self.shape, width).reshape(*lead, -1, width).index_select(-2, self.index)

    def put(self, values: Tensor, taken: Tensor) -> Tensor:
        """`values` (B, S, D) with `taken` (…, n, D) in the places of these tokens: (…, B, S, D)."""
        lead, width = taken.shape[:-2], taken.shape[-1]
        whole = values.expand(*lead, *self.shape, width).reshape(*lead, -1, width)
        return whole.index_copy(-2, self.index, taken).view(*lead, *self.shape, width)


def differing_tokens(program: StreamProgram, env: Env, reference: Reference, positions: Tensor | None) -> Tokens | None:
    """The tokens at which a run from `env` (after the prologue) can differ from the run `reference` was recorded in;
    none after `positions` (B,) where the outputs are wanted there only. None where that is all of them, or where the
    program cannot tell: a model that is not causal, ablation values of another kind, inputs that differ in more than
    the tokens' embeddings."""
    shape = _token_shape(program, env, reference)
    if not reference.entries and any(plan.kept for plan in program.plans if plan.region.exit is not None):
        return None
    if shape is None or not _same_surroundings(program, env, reference) or not is_causal(program):
        return None
    changed = torch.zeros(shape, dtype=torch.bool, device=program.device)
    for writer in program.lifted.sources:
        changed |= (env[writer.leaf] != reference.writers[writer.leaf][0]).any(-1)
    differs = changed.cumsum(1) > 0
    if positions is not None and all(plan.by_token for plan in program.plans if plan.region.output):
        differs &= torch.arange(shape[1], device=program.device) <= positions[:, None]
    if bool(differs.all()):
        return None
    return Tokens(differs.view(-1).nonzero().view(-1), shape)


def _token_shape(program: StreamProgram, env: Env, reference: Reference) -> tuple[int, int] | None:
    """(B, S), where all that the reference holds is of those tokens and scales act on features alone."""
    sources = [env[writer.leaf] for writer in program.lifted.sources]
    if not reference.values or any(value.dim() not in (2, 3) for value in sources):
        return None
    if len({value.shape[-2] for value in sources}) != 1:
        return None
    shape = torch.broadcast_shapes(*(value.shape[:-1] for value in sources))
    held = [value[0] for value in reference.writers.values()] + list(reference.values.values())
    scales = [s for runs in program.layout.runs.values() for run in runs for s in run.scales if isinstance(s, fx.Node)]
    fits = all(value.dim() == 3 and value.shape[:2] in (shape, (1, *shape[1:])) for value in held)
    if len(shape) != 2 or not fits or any(env[scale].dim() > 1 for scale in scales):
        return None
    return shape[0], shape[1]


def _same_surroundings(program: StreamProgram, env: Env, reference: Reference) -> bool:
    """Whether all that components use beside streams (positions, attention masks) is as in the reference's run."""
    known = reference.surroundings
    return all(node in known and _equal(env[node], known[node]) for node in program.surroundings)


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.shape == other.shape and bool((one == other).all()))
    return bool(one == other)


def is_causal(program: StreamProgram) -> bool:
    """Whether no token's value follows from later tokens: found by changing the embeddings of the example's later
    tokens and comparing all earlier values, bit for bit. Inputs of more than two axes may hold attention masks that
    differ from batch to batch: then the answer is no."""
    if program not in _CAUSAL:
        with torch.no_grad():
            _CAUSAL[program] = _probe(program)
    return _CAUSAL[program]


def _probe(program: StreamProgram) -> bool:
    named = program.traced.named_inputs(program.traced.example)
    if any(value.dim() > 2 for value in named.values()):
        return False
    env = program.prologue(program.bind(program.traced.example))
    plain = program.record_from(dict(env), hidden=False).writers
    length = max(value.shape[2] if value.dim() == 4 else 0 for value in plain.values())
    if length < 2 or any(value.dim() != 4 or value.shape[2] != length for value in plain.values()):
        return False
    generator = torch.Generator().manual_seed(0)
    for cutoff in {1, length // 2, length - 1}:
        changed = program.record_from(_disturbed(program, env, cutoff, generator), hidden=False).writers
        if any(not torch.equal(plain[leaf][:, :, :cutoff], changed[leaf][:, :, :cutoff]) for leaf in plain):
            return False
    return True


def _disturbed(program: StreamProgram, env: Mapping[fx.Node, object], cutoff: int, generator: torch.Generator) -> Env:
    """`env` with the embeddings from token `cutoff` on moved by noise of their own size."""
    found = dict(env)
    for writer in program.lifted.sources:
        value = found[writer.leaf]
        assert isinstance(value, Tensor)
        noise = torch.randn(value.shape, generator=generator).to(value) * value.std()
        noise[..., :cutoff, :] = 0
        found[writer.leaf] = value + noise
    return found
