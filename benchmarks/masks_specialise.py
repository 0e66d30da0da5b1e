"""Do masks find the weights of one operation? Addition and multiplication in one small feed-forward net.

    python benchmarks/masks_specialise.py [--seeds 0 1 2] [--steps 2000] [--outputs] [--out table.json]

The task of Csordás, van Steenkiste and Schmidhuber (ICLR 2021, arXiv 2010.02066): a + b and a · b modulo 100 of two
numbers below 100, digits one-hot, the operation in two more inputs; here with 100 classes for outputs, a net of three
hidden layers of 256, and one in ten of the 20,000 pairs held out of all training. The net is trained on both; then
for each operation weight masks (pass `csordas`) are learned on that operation's pairs; with `--outputs` on the output
layer too, as published. The paper's million pairs hold all there are many times over, so that its figures are of pairs
seen in training, and its masks learn for 20,000 steps at a rate of 0.01 with α = 1e-4; here for 1,500 at 0.05 with
2e-4, from the default logit of 4 (kept with probability 0.98), which costs less of what the net knows than the
published 2.

For each mask, on held-out pairs: accuracy on its own operation and on the other (the bar: ≥ 95 % and < 50 %), the
net's own accuracies, and the same without the mask's weights; how many weights are kept, by layer, and how much the two
masks overlap (IoU and IoMin, beside what independent masks of these sizes would share). The control learns masks in the
same net with random weights. Figures are of hard masks.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import graphir
import passes
from graphir.circuit import Circuit
from graphir.run.program import MaskedProgram
from passes.measure import Evaluator
from passes.tensor_task import TensorTask
from passes.training import Training

OPERATIONS = ("add", "mul")
MASKS: dict[str, Any] = {"batch_size": 256, "masks_per_batch": 4, "learning_rate": 0.05, "alpha": 2e-4}


def encoded(first: Tensor, second: Tensor, operation: int) -> Tensor:
    """(N, 42): four digits one-hot, lowest first, and the operation."""
    digits = [first % 10, first // 10, second % 10, second // 10]
    chosen = torch.zeros(len(first), 2)
    chosen[:, operation] = 1
    return torch.cat([*(one_hot(digit, 10).float() for digit in digits), chosen], 1)


def tasks(seed: int) -> dict[str, TensorTask]:
    """The tasks add, mul and both, with the same pairs held out: nine in ten to learn, one to judge."""
    first, second = (t.reshape(-1) for t in torch.meshgrid(torch.arange(100), torch.arange(100), indexing="ij"))
    results = {"add": (first + second) % 100, "mul": (first * second) % 100}
    found = {}
    parts = {}
    for index, name in enumerate(OPERATIONS):
        order = torch.randperm(10_000, generator=torch.Generator().manual_seed(2 * seed + index))
        parts[name] = {"train": order[:9000], "test": order[9000:]}
        inputs = {"input": encoded(first, second, index)}
        found[name] = TensorTask.from_tensors(name, inputs, results[name], splits=parts[name])  # type: ignore[arg-type]
    together = {key: torch.cat([parts["add"][key], parts["mul"][key] + 10_000]) for key in parts["add"]}
    inputs = {"input": torch.cat([found[name].inputs["input"] for name in OPERATIONS])}
    answers = torch.cat([results[name] for name in OPERATIONS])
    found["both"] = TensorTask.from_tensors("both", inputs, answers, splits=together)  # type: ignore[arg-type]
    return found


def network(seed: int, width: int = 256) -> nn.Sequential:
    """42 → 256 → 256 → 256 → 100, freshly initialized."""
    torch.manual_seed(seed)
    sizes = [42, width, width, width]
    layers = [part for i, o in pairwise(sizes) for part in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 100))


def trained(seed: int, task: TensorTask, steps: int) -> nn.Sequential:
    """The net after training on both operations."""
    model = network(seed)
    Training(task, steps, batch_size=256, learning_rate=3e-3, weight_decay=0.1, decay=True, warmup=steps // 4)(
        model, start=0, stop=steps, seed=seed
    )
    return model.eval()


def compiled(model: nn.Module, task: TensorTask) -> MaskedProgram:
    """The net with each layer a node: edges stay whole, weights are masked."""
    inputs = {name: value[:2] for name, value in task.inputs.items()}
    return graphir.lower(graphir.trace(model, inputs, granularity="layer"))


def accuracies(program: MaskedProgram, them: dict[str, TensorTask], circuit: Circuit | None, **more: bool) -> Any:
    """Held-out accuracy on each operation: of the circuit, or of the net."""
    found = {}
    for name in OPERATIONS:
        evaluator = Evaluator(program, them[name], "test", batch_size=1000)
        found[name] = (evaluator.full if circuit is None else evaluator.measure_circuit(circuit, **more))["accuracy"]
    return found


def overlaps(first: Circuit, second: Circuit) -> dict[str, dict[str, float]]:
    """By parameter and in all: share kept by each, IoU, IoMin, and the IoU that independent masks would have."""
    names = list(first.weights)
    pairs = {name: (first.weights[name], second.weights[name]) for name in names}
    pairs["all"] = tuple(np.concatenate([c.weights[n].ravel() for n in names]) for c in (first, second))  # type: ignore[assignment]
    found = {}
    for name, (a, b) in pairs.items():
        p, q, both = a.mean(), b.mean(), (a & b).mean()
        found[name] = {
            "add": p, "mul": q, "iou": both / max(p + q - both, 1e-12), "iomin": both / max(min(p, q), 1e-12),
            "iou_by_chance": p * q / max(p + q - p * q, 1e-12),
        }  # fmt: skip
    return {name: {key: round(float(value), 4) for key, value in row.items()} for name, row in found.items()}


def masks_in(
    program: MaskedProgram, them: dict[str, TensorTask], steps: int, seed: int, *, outputs: bool
) -> dict[str, Any]:
    """Masks of both operations in one net, and what they do."""
    start = time.process_time()
    circuits = {
        name: passes.run("csordas", program, them[name], steps=steps, seed=seed, outputs=outputs, **MASKS)
        for name in OPERATIONS
    }
    return {
        "net": accuracies(program, them, None),
        "masks": {name: accuracies(program, them, circuit) for name, circuit in circuits.items()},
        "without": {name: accuracies(program, them, c, complement=True) for name, c in circuits.items()},
        "overlap": overlaps(*circuits.values()),
        "seconds": round(time.process_time() - start, 1),
    }


def show(title: str, row: dict[str, Any]) -> None:
    """A few lines."""
    print(f"{title}: net add {row['net']['add']:.1%} mul {row['net']['mul']:.1%}   ({row['seconds']} s CPU)")
    for name, other in (("add", "mul"), ("mul", "add")):
        mask, left = row["masks"][name], row["without"][name]
        held = mask[name] >= 0.95 and mask[other] < 0.5
        print(
            f"  mask of {name}: {name} {mask[name]:.1%}  {other} {mask[other]:.1%}  bars {'hold' if held else 'MISSED'}"
            f"   without its weights: {name} {left[name]:.1%}  {other} {left[other]:.1%}"
        )
    for name, each in row["overlap"].items():
        print(
            f"  {name:9} add keeps {each['add']:6.1%}  mul keeps {each['mul']:6.1%}  IoU {each['iou']:.3f}"
            f" (by chance {each['iou_by_chance']:.3f})  IoMin {each['iomin']:.3f}",
            flush=True,
        )


def main() -> None:
    """Print the tables, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=1500, help="of each mask")
    parser.add_argument("--training", type=int, default=5000, help="steps of the net")
    parser.add_argument("--outputs", action="store_true", help="mask the output layer, too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for seed in arguments.seeds:
        them = tasks(seed)
        nets = {
            "trained": trained(seed, them["both"], arguments.training),
            "random weights": network(seed + 1000).eval(),
        }
        for title, net in nets.items():
            row = {"seed": seed, "weights": title}
            row |= masks_in(compiled(net, them["both"]), them, arguments.steps, seed, outputs=arguments.outputs)
            show(f"seed {seed}, {title}", row)
            rows.append(row)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
