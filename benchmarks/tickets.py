"""Subnetworks of small nets on scikit-learn's digits: supermasks, lottery tickets, sparse fine-tuning.

    python benchmarks/tickets.py [--seeds 0 1 2] [--only supermasks imp lt_sft] [--out table.json]

Needs scikit-learn (1,797 images of 8 × 8; 60 % to learn, 20 % to choose, 20 % to judge; every accuracy is of the last).

- *Supermasks* (SupSup, Wortsman et al., NeurIPS 2020): one net with random weights of one size for each layer,
  ± √(2 / fan-in), that is never trained; five tasks, each with its own shuffling of the pixels; a weight mask for each,
  learned by the pass `csordas` without a price on weights. Accuracy of each mask on its own task and on the others, a
  trained net for comparison, and whether the task of a batch is told from the gradient of the entropy alone (one shot).
- *Lottery tickets* (Frankle and Carbin 2019): 64-300-100-10, iterative magnitude pruning to 5 % in eight rounds; the
  ticket against the same masks with a new initialization and against as many random weights of each layer.
- *LT-SFT* (Ansell et al. 2022): a net trained on 0 to 5 learns 6 and 7 as well, and apart from that 8 and 9, by moving
  exactly K scalars. Their vectors are added: what does the sum know of all ten? It comes off again to the bit.
  The sum is no training on both. A scalar that both chose moves by both amounts, to where neither training left it
  (`union` beside twice K says how many these are), and each vector was trained with the other's scalars at the base:
  only where they do not overlap does the sum hold each one's very values, and even then nothing was trained to work
  with the other. Sparsity makes this rarer, not impossible.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import graphir
import passes
from graphir.circuit import Circuit
from graphir.run.masks import Masks
from graphir.run.program import MaskedProgram
from passes.lottery import find_ticket, train_ticket
from passes.lt_sft import sparse_fine_tune
from passes.measure import Evaluator, masks_of
from passes.metrics import logits_at
from passes.tensor_task import TensorTask
from passes.training import Training, model_accuracy, snapshot

TASKS = 5


def images() -> tuple[Tensor, Tensor]:
    """(1797, 64) in [0, 1], and the digits."""
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def digits(name: str, pixels: Tensor, labels: Tensor, seed: int) -> TensorTask:
    """A task over pixels; the same rows are held out of all tasks of a seed."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    splits = {"train": order[:1078], "validation": order[1078:1438], "test": order[1438:]}
    return TensorTask.from_tensors(name, {"input": pixels}, labels, splits=splits)


def network(seed: int, *hidden: int, outputs: int = 10) -> nn.Sequential:
    """64 → hidden → outputs with ReLU."""
    torch.manual_seed(seed)
    sizes = (64, *hidden)
    layers = [part for i, o in pairwise(sizes) for part in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


# --- supermasks ----------------------------------------------------------------------------------------------------


def signed(seed: int, *hidden: int) -> nn.Sequential:
    """A net of constant size and random sign, without biases (they are zero). As in the paper's notebook it has outputs
    that no task uses: masks learn to keep them low, which tells a task's own mask from the others."""
    net = network(seed, *hidden, outputs=100)
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(layer.weight.sign() * (2 / layer.in_features) ** 0.5)
                layer.bias.zero_()
    return net.eval()


def inferred(program: MaskedProgram, circuits: list[Circuit], task: TensorTask) -> int:
    """The task that a batch of test inputs is of: the mask whose share, raised, lowers the entropy of the answers most,
    from the even mixture of all masks (Wortsman et al., one-shot inference)."""
    shares = torch.full((len(circuits),), 1 / len(circuits), requires_grad=True)
    kept = [{name: mask.float() for name, mask in (masks_of(c, program).weights or {}).items()} for c in circuits]  # type: ignore[union-attr]
    weights = {name: sum(share * each[name] for share, each in zip(shares, kept, strict=True)) for name in kept[0]}
    batch = next(task.batches("test", 128))
    logits = logits_at(program.outputs(batch.inputs, masks=Masks(weights=weights)), batch).log_softmax(-1)  # type: ignore[arg-type]
    entropy = -(logits.exp() * logits).sum(-1).mean()
    (gradient,) = torch.autograd.grad(entropy, shares)
    return int((-gradient).argmax())


def supermasks(seed: int, steps: int = 600) -> dict[str, Any]:
    """Five permuted tasks in one random net."""
    pixels, labels = images()
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(64, generator=generator) for _ in range(TASKS)]
    them = [digits(f"permuted{i}", pixels[:, order], labels, seed) for i, order in enumerate(orders)]
    program = graphir.lower(graphir.trace(signed(seed, 300, 300), {"input": pixels[:2]}, granularity="layer"))
    options: dict[str, Any] = {"batch_size": 128, "masks_per_batch": 1, "learning_rate": 0.1, "alpha": 0.0}
    circuits = [passes.run("csordas", program, t, steps=steps, seed=seed, initial=0.0, **options) for t in them]
    judges = [Evaluator(program, task, "test", batch_size=400) for task in them]
    table = [[judge.measure_circuit(c)["accuracy"] for judge in judges] for c in circuits]
    recipe = Training(them[0], 600, 64, 2e-3)
    dense = network(seed, 300, 300)
    recipe(dense, start=0, stop=recipe.steps)
    return {
        "net": [judge.full["accuracy"] for judge in judges],
        "own": [row[i] for i, row in enumerate(table)],
        "others": [sum(row[:i] + row[i + 1 :]) / (TASKS - 1) for i, row in enumerate(table)],
        "kept": [c.densities()["weights"] for c in circuits],
        "inferred": sum(inferred(program, circuits, task) == i for i, task in enumerate(them)),
        "trained": model_accuracy(dense, them[0]),
    }


# --- lottery tickets -----------------------------------------------------------------------------------------------


def imp(seed: int, steps: int = 400, rounds: int = 8, density: float = 0.05) -> list[dict[str, Any]]:
    """Tickets, global and by layer, rewound to the start and to a later step, with controls."""
    task = digits("digits", *images(), seed)
    recipe = Training(task, steps, 64, 2e-3)
    rows = []
    for scope, rewind in (("global", 0), ("global", steps // 20), ("layer", 0)):
        net = network(seed, 300, 100)
        ticket = find_ticket(
            net, recipe, density=density, rounds=rounds, scope=scope, rewind=rewind, seed=seed,  # type: ignore[arg-type]
            evaluate=lambda trained: model_accuracy(trained, task),
        )  # fmt: skip
        train_ticket(net, recipe, ticket, start=snapshot(network(seed + 500, 300, 100)), seed=seed)
        fresh = model_accuracy(net, task)
        train_ticket(net, recipe, ticket.shuffled(seed), seed=seed)
        rows.append({
            "scope": scope, "rewind": rewind, "kept": [r.kept for r in ticket.rounds],
            "accuracy": [r.score for r in ticket.rounds], "by_parameter": dict(ticket.rounds[-1].by_parameter),
            "new_initialization": fresh, "random_weights": model_accuracy(net, task),
        })  # fmt: skip
    return rows


# --- sparse fine-tuning --------------------------------------------------------------------------------------------


def lt_sft(seed: int, counts: tuple[int, ...] = (500, 2000, 8000), steps: int = 600) -> list[dict[str, Any]]:
    """Two sparse vectors, alone and together."""
    pixels, labels = images()
    everything = digits("0-9", pixels, labels, seed)
    base = some("0-5", everything, {*range(6)})
    learned = [some("0-5 and 6, 7", everything, {*range(8)}), some("0-5 and 8, 9", everything, {*range(6), 8, 9})]
    net = network(seed, 300, 100)
    Training(base, 600, 64, 2e-3)(net, start=0, stop=600, seed=seed)
    before = snapshot(net)

    def accuracies() -> dict[str, float]:
        return {task.name: model_accuracy(net, task) for task in (base, *learned, everything)}

    total = sum(p.numel() for p in net.parameters())
    rows: list[dict[str, Any]] = [{"count": 0, "base": accuracies()}]
    for count in (*counts, total):
        found = [sparse_fine_tune(net, Training(t, steps, 64, 2e-3), count=count, seed=seed) for t in learned]
        row: dict[str, Any] = {"count": count, "of": total, "chosen": [each.count for each in found]}
        row["union"] = sum(int((found[0].masks[k] | found[1].masks[k]).sum()) for k in found[0].masks)
        vectors = {"6, 7": found[0].vector, "8, 9": found[1].vector, "sum": found[0].vector + found[1].vector}
        for name, vector in vectors.items():
            with vector.applied(net):
                row[name] = accuracies()
            row["reverted"] = row.get("reverted", True) and all(
                torch.equal(before[key], value) for key, value in snapshot(net).items()
            )
        rows.append(row)
    return rows


def some(name: str, task: TensorTask, classes: set[int]) -> TensorTask:
    """The rows of a task that are of these classes, in the same splits."""
    kept = {split: tuple(row for row in rows if row.answer in classes) for split, rows in task.splits.items()}
    return replace(task, name=name, splits=kept, identity=f"{task.identity} {name}")


def show(name: str, seed: int, found: Any, seconds: float) -> None:
    """A few lines."""
    print(f"{name}, seed {seed} ({seconds:.0f} s CPU)")
    if name == "supermasks":
        for i in range(TASKS):
            print(f"  task {i}: own mask {found['own'][i]:.1%}, other masks {found['others'][i]:.1%}, "
                  f"no mask {found['net'][i]:.1%}, keeps {found['kept'][i]:.1%}")  # fmt: skip
        mean = sum(found["own"]) / TASKS
        print(f"  mean {mean:.1%}; a trained net {found['trained']:.1%}; task told {found['inferred']} of {TASKS}")
    for row in found if name == "imp" else []:
        steps = "  ".join(f"{k:,} {a:.1%}" for k, a in zip(row["kept"], row["accuracy"], strict=True))
        print(f"  {row['scope']}, rewound to {row['rewind']}: {steps}")
        print(f"    new initialization {row['new_initialization']:.1%}, random weights {row['random_weights']:.1%}; "
              f"{row['by_parameter']}")  # fmt: skip
    for row in found if name == "lt_sft" else []:
        if not row["count"]:
            print("  base " + "  ".join(f"{key} {value:.1%}" for key, value in row["base"].items()))
            continue
        print(f"  K = {row['count']:,} of {row['of']:,}, chosen {row['chosen']}, union {row['union']:,}, "
              f"reverted to the bit: {row['reverted']}")  # fmt: skip
        for vector in ("6, 7", "8, 9", "sum"):
            print(f"    {vector:5}" + "  ".join(f"{key} {value:.1%}" for key, value in row[vector].items()))


def main() -> None:
    """Print the tables, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"supermasks": supermasks, "imp": imp, "lt_sft": lt_sft}
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for seed in arguments.seeds:
        for name in arguments.only:
            start = time.process_time()
            found = parts[name](seed)
            seconds = time.process_time() - start
            show(name, seed, found, seconds)
            rows.append({"benchmark": name, "seed": seed, "seconds": round(seconds, 1), "found": found})
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
