"""What blocks are for, and how small shrinking makes a model.

    python benchmarks/compress.py resnet18 | llama | freeze | layers | all [--seeds 3]

resnet18   ResNet-18 shapes, half of all channels: parameters (Torch-Pruning: 11.689512 M → 3.05588 M) and MACs
           (1.822 G → 0.487 G) at 224 × 224; outputs against the masked program; latency before and after.
llama      A Llama-shaped model with grouped key/value heads: query heads, whole groups, neurons, layers.
freeze     A small transformer trained to apply five operations that do not commute, and fine-tuned to undo the last of
           them with everything up to a layer frozen: the boundaries of blocks that the analyzer finds against the
           other depths.
layers     The same model without one or two layers inside a block, without such at a boundary, merged, pruned.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional

import graphir
from graphir.circuit import Circuit
from graphir.run.collect import residual_names
from graphir.run.program import MaskedProgram
from graphir.tracing import regrain
from passes.analysis_options import BlocksOptions
from passes.analyze.blocks import Blocks, find_blocks
from passes.analyze.registry import find_distance
from passes.analyze.representations import collect_representations
from passes.compress import (
    Outcome,
    fine_tune,
    format_outcomes,
    frozen_up_to,
    measure_module,
    merge_layers,
    prune_layers,
    remove_layers,
)
from passes.structured import structured_circuit


class Block(nn.Module):
    """A basic block of ResNet (He et al. 2016, figure 2)."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if stride > 1 else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """ResNet-18 with the shapes and names of its usual implementation."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        width = 64
        for stage, out in enumerate((64, 128, 256, 512), 1):
            blocks = [Block(width, out, 2 if stage > 1 else 1), Block(out, out, 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            width = out
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of images (B, 3, H, W)."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def best_of(*modules: nn.Module, inputs: tuple[Tensor, ...] = (), repeats: int = 15, **named: Tensor) -> list[float]:
    """Milliseconds of the fastest pass of each module, turn by turn: a busy machine is busy for all of them."""
    best = [float("inf")] * len(modules)
    with torch.no_grad():
        for _ in range(repeats):
            for i, module in enumerate(modules):
                start = time.perf_counter()
                module(*inputs, **named)
                best[i] = min(best[i], 1e3 * (time.perf_counter() - start))
    return best


def resnet18(_: int) -> None:
    """Half of the channels of ResNet-18 shapes."""
    torch.manual_seed(0)
    model = ResNet18().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.1)
    image = torch.randn(2, 3, 224, 224)
    start = time.perf_counter()
    program = graphir.lower(graphir.trace(model, (image,), "channel"))
    traced = time.perf_counter()
    small = structured_circuit(program, 0.5).shrink(timed=True)
    report = small.report
    assert report is not None
    print(f"ResNet-18 shapes, half of all channels: trace {traced - start:.1f} s, "
          f"shrink {time.perf_counter() - traced:.1f} s")  # fmt: skip
    print(report)
    macs = [size.flops / 2 / len(image) / 1e9 for size in (report.before, report.after)]
    print(f"parameters {report.before.parameters:,} -> {report.after.parameters:,} (published 11,689,512 -> 3,055,880)")
    print(f"MACs of one image {macs[0]:.3f} G -> {macs[1]:.3f} G (published 1.822 G -> 0.487 G)")
    times = best_of(model, small, inputs=(image,))
    print(f"latency of two images {times[0]:.1f} ms -> {times[1]:.1f} ms")


def llama(_: int) -> None:
    """Parts of a Llama-shaped model."""
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, intermediate_size=1536,
        vocab_size=2048, max_position_embeddings=512,
    )  # fmt: skip
    model = hf.LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 2048, (2, 128))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    graph = graphir.trace(model, batch)
    names = [node.name for node in graph.nodes]

    def without(*gone: str) -> Circuit:
        keep = np.array([not n.startswith(gone) if gone else True for n in names], bool)
        return Circuit(graph, np.ones(len(graph.edges), bool), keep, ablation="zero")

    queries = tuple(f"a{layer}.h{2 * group}" for layer in range(8) for group in range(4))
    groups = tuple(f"a{layer}.h{head}" for layer in range(8) for head in range(4))
    cases = {
        "nothing": without(),
        "one query head of each group": without(*queries),
        "half of the groups": without(*groups),
        "one head of one group": without("a0.h0"),
        "layers 3 and 4": without("a3.", "a4.", "m3", "m4"),
    }
    program = graphir.lower(regrain(graph, "neuron"))
    cases["half of heads and neurons"] = structured_circuit(program, 0.5)
    print(f"Llama shapes, 8 query heads in 4 groups: {sum(p.numel() for p in model.parameters()):,} parameters")
    for name, circuit in cases.items():
        small = circuit.shrink()
        report = small.report
        assert report is not None
        times = best_of(model, small, **batch)
        print(f"{name:<30}{report.after.parameters:>12,}{report.after.flops / report.before.flops:>8.1%} FLOPs"
              f"{times[0]:>8.1f} -> {times[1]:.1f} ms   difference {report.difference:.1e}   "
              f"masked still: {', '.join(report.left) or 'nothing'}")  # fmt: skip


# --- a small transformer, trained here --------------------------------------------------------------------------------

LAYERS, VALUES, OPERATIONS, STEPS, TUNING = 8, 5, 4, 5, 60
_DRAW = torch.Generator().manual_seed(7)
TABLES = torch.stack([torch.randperm(VALUES, generator=_DRAW) for _ in range(OPERATIONS)])
"""What each operation makes of each value: permutations that do not commute, so that they are applied one by one."""


def composing(count: int, seed: int, *, undo: bool = False) -> dict[str, Tensor]:
    """A value and the operations applied to it; the answers are the values after each operation.

    With `undo` each answer is what the operation's inverse makes of the value before it: another last step, behind the
    same steps before.
    """
    generator = torch.Generator().manual_seed(seed)
    value = torch.randint(0, VALUES, (count,), generator=generator)
    chosen = torch.randint(0, OPERATIONS, (count, STEPS), generator=generator)
    ids, inverse, answers = torch.cat([value[:, None], VALUES + chosen], 1), TABLES.argsort(1), []
    for step in range(STEPS):
        before, value = value, TABLES[chosen[:, step], value]
        answers.append(inverse[chosen[:, step], before] if undo else value)
    return {"input_ids": ids, "answer": torch.stack(answers, 1)}


def stream(steps: int, seed: int, *, undo: bool = False, size: int = 128) -> Iterator[dict[str, Tensor]]:
    """Training batches."""
    for step in range(steps):
        yield composing(size, seed * 1_000_003 + step + 1, undo=undo)


class Composer(nn.Module):
    """A Llama-shaped model that answers behind every operation."""

    def __init__(self) -> None:
        super().__init__()
        config = hf.LlamaConfig(
            hidden_size=48, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=96, vocab_size=VALUES + OPERATIONS, max_position_embeddings=64, use_cache=False,
            initializer_range=0.1,  # the default of .02 is for widths of thousands: it hardly learns at 48
        )  # fmt: skip
        self.model = hf.LlamaForCausalLM(config)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Scores of the answers (batch, steps, values)."""
        return self.model(input_ids=input_ids).logits[:, 1:, :VALUES]


class Answering(nn.Module):
    """A module that leaves the answer in a batch alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, answer: Tensor) -> Tensor:
        """Scores of the answers."""
        del answer
        return self.inner(input_ids=input_ids)


def accuracy(output: Any, batch: Any) -> float:
    """Share of right answers behind the last operation, the hardest; chance is one in `VALUES`."""
    return float((output[:, -1].argmax(-1) == batch["answer"][:, -1]).double().mean())


def loss(output: Any, batch: Any) -> Tensor:
    """Cross-entropy of the answers behind all operations."""
    return functional.cross_entropy(output.flatten(0, 1), batch["answer"].flatten())


@cache
def train(seed: int, steps: int = 450) -> Composer:
    """A model that composes, trained with a falling learning rate."""
    torch.manual_seed(seed)
    model: nn.Module = Answering(Composer())
    for part, rate in enumerate((2e-3, 1e-3, 3e-4)):
        model = fine_tune(model, (), stream(steps // 3, 3 * seed + part), loss, learning_rate=rate).model
    return model.inner.eval()  # type: ignore[union-attr, return-value]


@cache
def find(model: Composer) -> tuple[graphir.Graph, Blocks]:
    """The model's graph, and the blocks of its residual stream at the last position, by Gromov-Wasserstein."""
    graph = graphir.trace(model, {"input_ids": composing(4, 99)["input_ids"]})
    program = graphir.lower(graph)
    batches = [{"input_ids": composing(128, 100 + i)["input_ids"]} for i in range(2)]
    found = collect_representations(program, batches, residual_names(program))
    return graph, find_blocks(find_distance("gromov_wasserstein")().matrix(found), BlocksOptions(permutations=200))


def freeze(seeds: int) -> None:
    """Fine-tune behind every layer."""
    print(f"fine-tuned for {TUNING} steps from applying operations to undoing the last of them, frozen up to a layer")
    print(f"{'seed':<6}{'frozen':<10}{'boundary':<10}{'trained':>10}{'seconds':>9}{'accuracy':>10}")
    rows: dict[str, list[tuple[float, float, float]]] = {}
    held, first = composing(2000, 5, undo=True), composing(2000, 5)
    for seed in range(seeds):
        model = train(seed)
        graph, blocks = find(model)
        with torch.no_grad():
            before = [accuracy(model(batch["input_ids"]), batch) for batch in (first, held)]
        print(f"{seed:<6}accuracy {before[0]:.3f}, of undoing before {before[1]:.3f}; {described(blocks)}")
        for layer in (None, *range(LAYERS - 1)):
            frozen = {f"inner.{name}" for name in frozen_up_to(graph, layer)}
            tuned = fine_tune(Answering(model), frozen, stream(TUNING, seed + 50, undo=True), loss)
            with torch.no_grad():
                right = accuracy(tuned.model(**held), held)
            name = "nothing" if layer is None else f"0..{layer}"
            at = layer is not None and layer + 1 in blocks.boundaries
            print(f"{seed:<6}{name:<10}{'yes' if at else '':<10}{tuned.trained:>10,}{tuned.seconds:>9.2f}"
                  f"{right:>10.3f}", flush=True)  # fmt: skip
            row = (right, tuned.trained, tuned.seconds)
            rows.setdefault(name, []).append(row)
            if layer is not None:
                rows.setdefault("at a boundary" if at else "not at one", []).append(row)
    print(f"{'means over seeds':<20}{'runs':>6}{'accuracy':>10}{'least':>8}{'trained':>10}{'seconds':>9}")
    for name, found in rows.items():
        right, trained, seconds = np.mean(found, 0)
        least = min(row[0] for row in found)
        print(f"{name:<20}{len(found):>6}{right:>10.3f}{least:>8.3f}{trained:>10,.0f}{seconds:>9.2f}")


def described(blocks: Blocks) -> str:
    """Blocks and whether they are more than a drift."""
    return f"{blocks}, contrast {blocks.score.contrast:.2f} (p {blocks.score.contrast_p:.3f})"


def layers(seeds: int) -> None:
    """Remove, merge and prune layers."""
    print("layers less, without further training: accuracy behind the last operation")
    totals: dict[str, list[float]] = {}
    held = [composing(2000, 5)]
    for seed in range(seeds):
        model = train(seed)
        graph, blocks = find(model)
        program = graphir.lower(graph)
        rows: list[Outcome] = [measure_module("the model", Answering(model), held, accuracy)]
        print(f"seed {seed}: {described(blocks)}")
        for size in (1, 2):
            for name, group in removed(program, blocks, held, size).items():
                values = [row.accuracy for row in group]
                totals.setdefault(name, []).extend(values)
                print(f"  {name:<28}{len(values):>3} ways, accuracy {np.mean(values):.3f}, best {max(values):.3f}, "
                      f"worst {min(values):.3f}")  # fmt: skip
                rows.append(max(group, key=lambda row: row.accuracy))
        rows += merged_and_pruned(model, graph, blocks, held)
        print(format_outcomes(rows), flush=True)
    for name, values in totals.items():
        print(f"{seeds} seeds, {name:<28}{len(values):>3} ways, accuracy {np.mean(values):.3f} ± {np.std(values):.3f}")


def removed(
    program: MaskedProgram, blocks: Blocks, held: list[dict[str, Tensor]], size: int
) -> dict[str, list[Outcome]]:
    """The outcomes of removing any `size` layers, by whether they lie inside one block.

    Layer l makes residual l of residual l − 1: it lies inside a block where both do, and crosses a boundary otherwise.
    """
    found: dict[str, list[Outcome]] = {}
    for chosen in combinations(range(1, LAYERS), size):
        small = remove_layers(program, chosen).shrink()
        row = measure_module(f"without {' and '.join(map(str, chosen))}", Answering(small), held, accuracy)
        crossing = any(blocks.labels[layer] != blocks.labels[layer - 1] for layer in chosen)
        inside = len({int(blocks.labels[layer]) for layer in chosen}) == 1
        where = "across a boundary" if crossing else "inside one block" if inside else "inside two blocks"
        found.setdefault(f"{size} {where}", []).append(row)
    return dict(sorted(found.items()))


def merged_and_pruned(
    model: Composer, graph: graphir.Graph, blocks: Blocks, held: list[dict[str, Tensor]]
) -> list[Outcome]:
    """Two neighbors inside the longest block and two at a boundary made one; half of the units of each block gone."""
    rows = []
    longest = max(range(blocks.count), key=lambda number: len(blocks.groups[number]))
    members = [layer for layer in range(LAYERS) if blocks.labels[layer] == longest]
    pairs = {"inside": (members[-2], members[-1])} if len(members) > 1 else {}
    if blocks.boundaries:
        pairs["at a boundary"] = (blocks.boundaries[0] - 1, blocks.boundaries[0])
    for name, pair in pairs.items():
        merged = merge_layers(model, graph, pair)
        again = graphir.lower(graphir.trace(merged, {"input_ids": held[0]["input_ids"][:4]}))
        small = remove_layers(again, pair[1:]).shrink()
        rows.append(measure_module(f"{pair[0]} and {pair[1]} merged, {name}", Answering(small), held, accuracy))
    fine = graphir.lower(regrain(graph, "neuron"))
    for number, group in enumerate(blocks.groups):
        chosen = [layer for layer in range(LAYERS) if blocks.labels[layer] == number]
        small = prune_layers(fine, chosen, 0.5).shrink()
        rows.append(measure_module(f"half of the units of {group[0]}..", Answering(small), held, accuracy))
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = {"resnet18": resnet18, "llama": llama, "freeze": freeze, "layers": layers}
    parser.add_argument("what", choices=[*every, "all"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for name, run in every.items():
        if options.what in (name, "all"):
            run(options.seeds)
            print()


if __name__ == "__main__":
    main()
