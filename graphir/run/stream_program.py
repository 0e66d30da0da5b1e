"""The masked program of a model with residual streams: every read of a stream is a mix (see `graphir.run.mix`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, fx

from graphir.ir import Graph
from graphir.run.ablation import fit, subtract
from graphir.run.component import ComponentPlan
from graphir.run.layout import Layout, SiteLayout, plan_layout
from graphir.run.masked_run import MaskedRun, mask_neurons
from graphir.run.masks import Masks
from graphir.run.mix import Attribute
from graphir.run.program import Env, MaskedProgram, Reference
from graphir.run.remade import made_again, own_parameters
from graphir.tracing.exported import Example
from graphir.tracing.lift import Lifted
from graphir.tracing.partition import partition_components
from graphir.tracing.subgraph import Piece, cut


class StreamProgram(MaskedProgram):
    """See the module docstring; `plans` run the components, `layout` says where writers and masks lie."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.lifted: Lifted = graph.lifted
        anatomy = self.lifted.anatomy
        assert graph.granularity is not None
        partitions = partition_components(self.lifted, graph.granularity)
        self.plans = tuple(ComponentPlan(p, self.device) for p in partitions)
        self.layout: Layout = plan_layout(graph, self.lifted, partitions, self.device)
        self.streams = anatomy.streams
        self._prologue = self._cut_prologue()
        self.surroundings = self._find_surroundings()
        leaves = {plan.region.leaf: plan for plan in self.plans if not plan.region.output}
        steps: list[fx.Node | ComponentPlan] = []
        for node in anatomy.graph.nodes:
            if node in leaves:
                steps.append(leaves[node])
            elif node in self.streams.inner:
                steps.append(node)
        self.steps = (*steps, *(plan for plan in self.plans if plan.region.output))
        self.neurons = self._index_neurons()
        self.own = own_parameters(self._parameters, self.steps, self._prologue.inputs)

    def _cut_prologue(self) -> Piece:
        """Everything that depends on no stream, cut to what the rest of the program uses."""
        plain = [n for n in self.lifted.anatomy.plain if n.op == "call_function"]
        inside = set(plain)
        used: dict[fx.Node, None] = {w.leaf: None for w in self.lifted.sources if w.leaf in inside}
        for node in self.lifted.anatomy.graph.nodes:
            if node not in inside:
                used |= {n: None for n in node.all_input_nodes if n in inside}
        for plan in self.plans:
            if plan.region.leaf in inside:
                used[plan.region.leaf] = None
        return cut(plain, list(used))

    def _find_surroundings(self) -> tuple[fx.Node, ...]:
        """What depends on inputs and is used by components, but is no embedding: positions, attention masks."""
        anatomy = self.lifted.anatomy
        plain, sources = set(anatomy.plain), {writer.leaf for writer in self.lifted.sources}
        used = dict.fromkeys(n for node in anatomy.graph.nodes if node not in plain for n in node.all_input_nodes)
        return tuple(n for n in used if n in plain and n not in sources and n not in anatomy.constant)

    def _index_neurons(self) -> Mapping[str, tuple[int, int]]:
        found, start = {}, 0
        for plan in self.plans:
            partition = plan.partition.component.partition
            if partition is not None and not partition.mixes:
                found[plan.partition.component.name] = (start, start + len(partition.units))
                start += len(partition.units)
        return found

    def prologue(self, env: Env) -> Env:
        """`env` with the values of everything that depends on no stream added: embeddings, positions, masks."""
        env.update(zip(self._prologue.outputs, self._prologue(env), strict=True))
        return env

    def run(self, env: Env, masks: Masks, reference: Reference | None, positions: Tensor | None) -> list[Tensor]:
        if masks.mixes:
            assert reference is not None
            return MaskedRun(self, self.prologue(env), masks, reference).outputs(positions)
        return _PlainRun(self, self.prologue(env), masks, reference).outputs(positions)

    def later(self, masks: Masks) -> Collection[fx.Node]:
        """Of a run with unmasked reads and a backward: what one component alone uses and a function masks."""
        if masks.mixes or masks.weights is None or not torch.is_grad_enabled():
            return ()
        return {node for node, name in self.own.items() if callable(masks.weights.get(name))}

    def record(self, env: Env, *, hidden: bool) -> Reference:
        return self.record_from(self.prologue(env), hidden=hidden)

    def record_from(self, env: Env, *, hidden: bool) -> Reference:
        """As `record`, from an environment after the prologue, whose embeddings may have been changed."""
        run = _RecordedRun(self, env, Masks(), None, keep_hidden=hidden)
        run.outputs(None)
        streams = self.streams
        values = {value: run.env[value] for value in (*streams.terms, *streams.inner)}
        surroundings = {node: run.env[node] for node in self.surroundings}
        return Reference(run.writers, run.hidden, values, run.entries, surroundings)

    def attribute(
        self,
        batch: Example,
        counterfactual: Example | None,
        metric: Callable[[list[Tensor]], Tensor],
        *,
        steps: int = 1,
        ablation: str = "interchange",
        reference: Reference | None = None,
        positions: Tensor | None = None,
        points: Sequence[float] | None = None,
    ) -> Tensor:
        if reference is None:
            reference = self._reference(counterfactual, ablation, Masks(edges=torch.empty(0)))
        points = points or [step / steps for step in range(1, steps + 1)]
        clean = self.reference(batch)
        difference = {leaf: subtract(value, reference.writers.get(leaf)) for leaf, value in clean.writers.items()}
        scores = torch.zeros(len(self.graph.edges), dtype=self.dtype, device=self.device)
        for point in points:
            env = self.prologue(self.bind(batch))
            for writer in self.lifted.sources if point != 1 else ():
                start, end = reference.writers.get(writer.leaf), clean.writers[writer.leaf]
                start = torch.zeros_like(end) if start is None else fit(start, end)
                env[writer.leaf] = (start + point * (end - start))[0]
            run = _AttributedRun(self, env, difference)
            with torch.enable_grad():
                metric(run.outputs(positions)).backward()
            scores += run.scores()
        return scores / len(points)


class _PlainRun:
    """The program with unmasked reads: the model itself, optionally with weight or neuron masks."""

    def __init__(self, program: StreamProgram, env: Env, masks: Masks, reference: Reference | None) -> None:
        self.program, self.env, self.masks, self.reference = program, env, masks, reference
        self.later = program.later(masks)

    def outputs(self, positions: Tensor | None) -> list[Tensor]:
        env, results = self.env, []
        for step in self.program.steps:
            if isinstance(step, fx.Node):
                env[step] = step.target(*fx.map_arg(step.args, env.__getitem__))  # type: ignore[operator]
            elif step.region.output:
                with self._masked(step):
                    results += self.output(step, positions)
            else:
                with self._masked(step):
                    env[step.region.leaf] = self.leaf(step, [env[site.value] for site in step.region.sites])
        return results

    @contextmanager
    def _masked(self, plan: ComponentPlan) -> Iterator[None]:
        """While a component runs its own parameters are masked in `env`: see `graphir.run.remade`."""
        own = [node for node in plan.whole.inputs if node in self.later] if plan.whole is not None else []
        if not own:
            yield
            return
        assert self.masks.weights is not None
        plain = {node: self.env[node] for node in own}
        makers = {}
        for node, weight in plain.items():
            mask = self.masks.weights[self.program.own[node]]
            assert callable(mask)
            makers[node] = partial(mask, weight)
            self.env[node] = mask(weight)
        with made_again([(self.env[node], make) for node, make in makers.items()]):
            yield
        self.env.update(plain)

    def output(self, plan: ComponentPlan, positions: Tensor | None) -> list[Tensor]:
        """The output tensor of an output component."""
        return [plan.run_output([self.env[site.value] for site in plan.region.sites], self.env, positions)]

    def leaf(self, plan: ComponentPlan, reads: list[Tensor]) -> Tensor:
        """What a component writes."""
        if (
            plan.region.exit is None
            or self.masks.neurons is None
            or plan.partition.component.name not in self.program.neurons
        ):
            return plan.run_whole(reads, self.env)
        hidden = mask_neurons(self.program, plan, plan.plain_hidden(reads, self.env), self.masks, self.reference)
        return plan.leaf(hidden, self.env)


class _RecordedRun(_PlainRun):
    """An unmasked run that keeps every writer's value and every component's hidden features; outputs are left out."""

    def __init__(
        self, program: StreamProgram, env: Env, masks: Masks, reference: Reference | None, *, keep_hidden: bool
    ) -> None:
        super().__init__(program, env, masks, reference)
        self.keep_hidden = keep_hidden
        # An embedding that is the same for every row, as of positions, may lack the axis of the rows: (S, D).
        rank = max((env[w.leaf].dim() for w in program.lifted.sources), default=0)
        self.writers: dict[fx.Node, Tensor] = {
            w.leaf: env[w.leaf][(None,) * (1 + rank - env[w.leaf].dim())] for w in program.lifted.sources
        }
        self.hidden: dict[fx.Node, Tensor] = {}
        self.entries: dict[fx.Node, Tensor] = {}

    def output(self, plan: ComponentPlan, positions: Tensor | None) -> list[Tensor]:
        return []

    def leaf(self, plan: ComponentPlan, reads: list[Tensor]) -> Tensor:
        leaf = plan.region.leaf
        if plan.region.exit is None:
            self.writers[leaf] = plan.run_whole(reads, self.env)[None]
            return self.writers[leaf][0]
        hidden, entries = plan.plain_features(reads, self.env)
        self.entries |= entries
        if self.keep_hidden and plan.partition.component.name in self.program.neurons:
            self.hidden[leaf] = hidden
        self.writers[leaf], rest = plan.write(hidden, self.env)
        total = self.writers[leaf][0] if len(self.writers[leaf]) == 1 else self.writers[leaf].sum(0)
        return total if rest is None else total + rest


class _AttributedRun(_PlainRun):
    """An unmasked run whose backward collects, for every edge, gradient at the port times the writer's difference."""

    def __init__(self, program: StreamProgram, env: Env, difference: Mapping[fx.Node, Tensor]) -> None:
        super().__init__(program, env, Masks(), None)
        layout = program.layout
        for writer in program.lifted.sources:
            env[writer.leaf] = env[writer.leaf].detach().requires_grad_()
        self.rows: dict[int, Tensor] = {}
        self.sinks: list[tuple[SiteLayout, Tensor]] = []
        for stream, size in enumerate(layout.sizes):
            members = sorted((start, leaf) for leaf, (s, start) in layout.place.items() if s == stream)
            shape = torch.broadcast_shapes(*(difference[leaf].shape[1:] for _, leaf in members))
            parts = [difference[leaf].expand(len(difference[leaf]), *shape) for _, leaf in members]
            self.rows[stream] = torch.cat(parts)
            assert len(self.rows[stream]) == size

    def _contrast(self, value: fx.Node) -> Tensor:
        """Differences of the writers that reach a stream value, scaled as they are on the way."""
        layout = self.program.layout
        rows, runs = self.rows[layout.stream[value]], layout.runs[value]
        found = []
        for part in runs:
            piece = rows[part.start : part.stop]
            for scale in part.scales:
                piece = piece * (self.env[scale] if isinstance(scale, fx.Node) else scale)
            found.append(piece)
        return found[0] if len(found) == 1 else torch.cat(found)

    def _attributed(self, plan: ComponentPlan) -> list[Tensor]:
        reads = []
        for site, layout in zip(plan.region.sites, self.program.layout.sites[plan.region.leaf], strict=True):
            contrast = self._contrast(site.value)
            sink = contrast.new_zeros(layout.edges.shape)
            self.sinks.append((layout, sink))
            reads.append(Attribute.apply(self.env[site.value], len(sink), contrast, sink))  # type: ignore[no-untyped-call]
        return reads

    def output(self, plan: ComponentPlan, positions: Tensor | None) -> list[Tensor]:
        return [plan.run_output([read[0] for read in self._attributed(plan)], self.env, positions)]

    def leaf(self, plan: ComponentPlan, reads: list[Tensor]) -> Tensor:
        attributed = self._attributed(plan)
        if plan.region.exit is None:
            return plan.run_whole([read[0] for read in attributed], self.env)
        return plan.leaf(plan.hidden(attributed, self.env), self.env)

    def scores(self) -> Tensor:
        """The collected gradients in edge order (E,)."""
        found = torch.zeros(len(self.program.graph.edges), dtype=self.program.dtype, device=self.program.device)
        for layout, sink in self.sinks:
            found[layout.edges.reshape(-1)] = sink.reshape(-1).to(found)
        return found
