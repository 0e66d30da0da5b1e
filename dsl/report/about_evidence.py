"""What a report says of the evidence for a circuit: held-out metrics between the empty circuit and the model, sizes,
seeds; then the tests that were asked for (curves, completeness, minimality, stability, controls), and those that were
not.

It reads a manifest's entry of the circuit and, where there is one, its `passes.evidence.Evidence.to_json()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dsl.report.content import (
    Block,
    Cell,
    Dots,
    Name,
    Plot,
    Remark,
    Section,
    Series,
    Share,
    Strip,
    facts,
    table,
)
from dsl.report.reading import items, mapping, mappings, metric, named, number, numbers, share, text
from graphir.circuit import Circuit

Data = Mapping[str, Any]
WEAKEST = 20
TESTS = ("faithfulness", "roc", "completeness", "minimality", "stability", "controls")
BEYOND = 0.05
"""A ranking that goes further beyond the model than this profits from it in CPR."""


PARTS = ("empty", "complement", "metrics", "model")
"""Entries of a circuit in a manifest that hold metrics."""
TITLES = {
    "faithfulness": "Faithfulness over size", "roc": "Against the true edges", "completeness": "Completeness",
    "minimality": "Minimality", "stability": "Stability over seeds", "controls": "Controls",
}  # fmt: skip
"""Titles of the tests."""


def evidence_sections(key: str, name: str, found: Data, circuit: Circuit | None, evidence: Data) -> Iterator[Section]:
    """A section for what is measured of every circuit, one for each test that was made. `found` is the circuit's entry
    in the manifest, `evidence` that of its evidence section, empty where the file has none."""
    yield Section(f"{key}-evidence", "Evidence", tuple(_about(name, found, circuit, evidence)))
    makers = (_faithfulness, _roc, _completeness, _minimality, _stability, _controls)
    for (test, title), make in zip(TITLES.items(), makers, strict=True):
        made = mapping(evidence.get(test))
        if made:
            yield Section(f"{key}-{test}", title, tuple(make(made)))


ROW = (
    "CPR", "CMD", "AUROC", "worst incompleteness", "minimality", "least IoU of edges", "p, random circuits",
    "p, from the complement", "recovered on random weights",
)  # fmt: skip
"""Headers of `evidence_row`."""


def evidence_row(evidence: Data) -> tuple[Cell, ...]:
    """Each test in one number; incompleteness and minimality as shares of the way from the empty circuit to the
    model."""
    parts = {name: mapping(evidence.get(name)) for name in TESTS}
    completeness, controls = parts["completeness"], parts["controls"]
    nulls = [mapping(controls.get(name)) for name in ("random", "complement")]
    worst, scale = number(mapping(completeness.get("worst")).get("incompleteness")), number(completeness.get("scale"))
    return (
        number(parts["faithfulness"].get("cpr")),
        number(parts["faithfulness"].get("cmd")),
        number(parts["roc"].get("auroc")),
        Share(worst / scale) if worst is not None and scale else None,
        share(parts["minimality"].get("share")),
        number(mapping(mapping(parts["stability"].get("iou")).get("edges")).get("smallest")),
        *(number(null.get("p_value")) if items(null.get("values")) else None for null in nulls),
        share(mapping(controls.get("random_weights")).get("recovered")),
    )


def _about(name: str, found: Data, circuit: Circuit | None, evidence: Data) -> Iterator[Block]:
    yield facts(
        {
            "judged on": _judged_on(found),
            "metric": text(evidence.get("metric")),
            "ablation": text(evidence.get("ablation")),
            "hard densities": ", ".join(
                f"{part} {100 * density:.4g}%"
                for part, each in mapping(evidence.get("densities")).items()
                if (density := number(each)) is not None
            ),
        }
    )
    if evidence.get("flagged") is True:
        yield Remark(
            "Flagged: the same discovery works on random weights too, so it says nothing about the model.", "bad"
        )
    yield _metrics(name, found)
    if circuit is not None:
        yield _sizes(circuit)
    yield from _seeds(found)
    yield from _not_made(name, found, evidence)


def _judged_on(found: Data) -> str:
    examples = number(found.get("examples"))
    return "" if examples is None else f"{int(examples):,} held-out examples ({text(found.get('split'))})"


def _metrics(name: str, found: Data) -> Block:
    """A row a metric, between the ends it lies between."""
    measured = {part: mapping(found.get(part)) for part in PARTS}
    names = dict.fromkeys(each for part in ("metrics", "model") for each in measured[part])
    if not names:
        return Remark("Not measured on held-out examples.", "bad")
    rows = [(each, *(metric(each, measured[part].get(each)) for part in PARTS)) for each in names]
    return table(("metric", "empty circuit", "complement", name, "model"), rows, "Held-out examples")


def _sizes(circuit: Circuit) -> Block:
    totals: dict[str, int] = {"edges": len(circuit.edges), "nodes": len(circuit.nodes)}
    for node in circuit.graph.nodes:
        totals[node.kind.value] = totals.get(node.kind.value, 0) + 1
    rows: list[tuple[Cell, ...]] = [
        (kind, kept, totals[kind], Share(kept / totals[kind]) if totals[kind] else None)
        for kind, kept in circuit.counts().items()
        if kind in totals
    ]
    shares = circuit.densities()
    masked = [kind for kind in ("weights", "neurons") if circuit.weights and kind in shares]
    rows += [(kind, None, None, Share(shares[kind])) for kind in masked]
    return table(("", "kept", "of", "share"), rows, "Size, by hard masks")


def _seeds(found: Data) -> list[Block]:
    seeds = named(found.get("seeds"))
    if len(seeds) < 2:
        return []
    rows = [
        (seed, number(each.get("edges")), number(each.get("validation_kl")), text(each.get("failed")))
        for seed, each in seeds.items()
    ]
    blocks: list[Block] = [table(("seed", "edges", "kl on validation data", ""), rows, "Seeds")]
    stability = number(found.get("stability"))
    if stability is not None:
        blocks.append(Remark(f"Smallest overlap (IoU) of edges between two seeds: {stability:.3f}."))
    return blocks


def _not_made(name: str, found: Data, evidence: Data) -> Iterator[Block]:
    """Tests that could not be made, with the reason, and those that nobody asked for, with how to ask."""
    missing = {test: text(why) for test, why in mapping(evidence.get("missing")).items()}
    if any(mapping(found.get(part)) for part in PARTS):
        asked = f"not asked for: evidence {name} {{ }}"
        for test in ("faithfulness", "completeness", "minimality", "stability", "controls"):
            if not mapping(evidence.get(test)):
                missing.setdefault(test, asked)
    rows = [(TITLES.get(test, test), why) for test, why in missing.items()]
    if rows:
        yield table(("not measured", "why"), rows)


def _faithfulness(found: Data) -> Iterator[Block]:
    above = number(found.get("above_model")) or 0.0
    yield facts(
        {
            "CPR, the integral of f over the signed ranking (higher is better)": number(found.get("cpr")),
            "CMD, the integral of |1 - f| over the absolute ranking (lower is better)": number(found.get("cmd")),
            "furthest beyond the model": above,
        }
    )
    if above > BEYOND:
        yield Remark("The circuits do more of the task than the model: CPR alone profits from it.", "bad")
    points = {name: mappings(found.get(name)) for name in ("signed", "absolute")}
    series = tuple(
        Series(f"{name} scores", _pairs((each.get("share"), each.get("faithfulness")) for each in rows))
        for name, rows in points.items()
    )
    levels = (("model", 1.0), ("empty circuit", 0.0))
    what = f"faithfulness f of {text(found.get('metric'))}"
    yield Plot(f"Faithfulness of the strongest edges: {what}", "share of edges", what, series, levels)
    rows: list[tuple[Cell, ...]] = []
    for signed, absolute in zip(points["signed"], points["absolute"], strict=False):
        each = mapping(absolute.get("metrics"))
        rows.append(
            (share(signed.get("share")), number(signed.get("edges")), number(signed.get("faithfulness")),
             number(absolute.get("edges")), number(absolute.get("faithfulness")), share(each.get("accuracy")),
             number(each.get("kl")))
        )  # fmt: skip
    headers = ("asked", "signed: edges", "f", "absolute: edges", "f", "accuracy", "kl")
    yield table(headers, rows)


def _roc(found: Data) -> Iterator[Block]:
    yield facts(
        {
            "true edges": number(found.get("true_edges")),
            "AUROC": number(found.get("auroc")),
            "AUROC of greedy circuits": number(found.get("greedy_auroc")),
            "precision": number(found.get("precision")),
            "recall": number(found.get("recall")),
            "is the true circuit": found.get("exact") is True,
        }
    )
    for name in ("missing", "extra"):
        edges = [(Name(text(each)),) for each in items(found.get(name))]
        if edges:
            yield table((f"{name} edges",), edges)


def _completeness(found: Data) -> Iterator[Block]:
    scale, worst = number(found.get("scale")), mapping(found.get("worst"))
    score = number(worst.get("incompleteness"))
    yield facts(
        {
            "worst incompleteness |F(C-K) - F(M-K)|": score,
            "of the way from empty circuit to model": Share(score / scale) if score is not None and scale else None,
            "K": ", ".join(map(str, items(worst.get("components")))) or "nothing",
            "runs": number(found.get("runs")),
            "examples of the searches": number(found.get("examples")),
        }
    )
    complement = [(name, metric(name, value)) for name, value in mapping(found.get("complement")).items()]
    yield table(("complement", "value"), complement, "What is left without the circuit")
    sets = {"none": [mapping(found.get("base"))], **{name: mappings(found.get(name)) for name in ("random", "greedy")}}
    rows: list[tuple[Cell, ...]] = []
    for name, tried in sets.items():
        scores = [each for each in (number(k.get("incompleteness")) for k in tried) if each is not None]
        if scores:
            rows.append((name, len(scores), sum(scores) / len(scores), max(scores)))
    of = text(found.get("of"))
    yield table(("sets", "tried", "mean", "worst"), rows, f"The same {of} knocked out of circuit and model")


def _minimality(found: Data) -> Iterator[Block]:
    components = mappings(found.get("components"))
    smallest = mapping(found.get("smallest"))
    yield facts(
        {
            "smallest score": number(smallest.get("score")),
            "of the way from empty circuit to model": share(found.get("share")),
            "of": Name(text(smallest.get("name"))),
            "scores are": "exact: every knock-out set was tried" if found.get("exact") is True else "lower bounds",
            "components": len(components),
            "runs": number(found.get("runs")),
        }
    )
    measured = [each for each in components if number(each.get("tried"))]
    estimated = [each for each in components if not number(each.get("tried"))]
    ordered = sorted(measured, key=_score) + sorted(estimated, key=_score)
    rows = [
        (Name(text(each.get("name"))), number(each.get("alone")), number(each.get("score")),
         len(items(each.get("knock_outs"))), number(each.get("tried")) or "estimated")
        for each in ordered
    ]  # fmt: skip
    headers = (text(found.get("of")).removesuffix("s") or "component", "alone", "score", "|K|", "sets tried")
    yield table(headers, rows, "What matters least comes first", limit=WEAKEST)
    scores = tuple(score for each in measured if (score := number(each.get("score"))) is not None)
    alone = tuple(score for each in measured if (score := number(each.get("alone"))) is not None)
    if len(scores) > 1:
        strips = (Strip("removed alone", alone), Strip("given the best K", scores))
        yield Dots("What removing each component changes", text(found.get("metric")), "", strips)


def _score(component: Data) -> float:
    found = number(component.get("score"))
    return float("inf") if found is None else found


def _stability(found: Data) -> Iterator[Block]:
    core, union = (number(mapping(found.get(name)).get("edges")) for name in ("core", "union"))
    sizes = ", ".join(f"seed {seed}: {size}" for seed, size in mapping(found.get("sizes")).items())
    yield facts({"edges": sizes, "kept by all seeds": core, "kept by any": union})
    failed = [(text(seed), text(why)) for seed, why in mapping(found.get("failed")).items()]
    if failed:
        yield table(("failed seed", "why"), failed)
    parts = named(found.get("iou"))
    rows: list[tuple[Cell, ...]] = []
    strips = []
    for name, part in parts.items():
        pairs = [number(items(each)[-1]) if items(each) else None for each in items(part.get("pairs"))]
        low, high = number(part.get("low")), number(part.get("high"))
        interval = (low, high) if low is not None and high is not None else None
        values = tuple(each for each in pairs if each is not None)
        shown = "-" if interval is None else f"{interval[0]:.3f} - {interval[1]:.3f}"
        mean, least, chance = (number(part.get(field)) for field in ("mean", "smallest", "chance"))
        rows.append((name, len(values), mean, shown, least, chance))
        strips.append(Strip(name, values, interval, chance))
    level = f"{100 * (number(found.get('confidence')) or 0.95):g} %"
    yield table(("part", "pairs of seeds", "mean IoU", level, "smallest", "by chance"), rows)
    if strips:
        yield Dots("Overlap of every pair of seeds; tall marks: by chance", "IoU", "by chance", tuple(strips))


def _controls(found: Data) -> Iterator[Block]:
    nulls = [mapping(found.get(name)) for name in ("random", "complement") if mapping(found.get(name))]
    rows: list[tuple[Cell, ...]] = []
    strips = []
    for null in nulls:
        values, own = numbers(null.get("values")), number(null.get("value"))
        name, higher = text(null.get("name")), null.get("higher_is_better") is not False
        mean = sum(values) / len(values) if values else None
        best = (max(values) if higher else min(values)) if values else None
        p, resolution = (number(null.get(field)) if values else None for field in ("p_value", "resolution"))
        rows.append((name, len(values), own, mean, best, p, resolution, text(null.get("failed"))))
        if values:
            strips.append(Strip(name, values, None, own))
    of = text(found.get("metric"))
    headers = ("control", "draws", f"circuit's {of}", "mean", "best", "p-value", "its resolution", "")
    if rows:
        yield table(headers, rows)
    if strips:
        yield Dots(f"{of} of drawn circuits; tall marks: the circuit", of, "the circuit", tuple(strips))
    yield from _random_weights(mapping(found.get("random_weights")))


def _random_weights(found: Data) -> Iterator[Block]:
    if not found:
        return
    if failed := text(found.get("failed")):
        yield Remark(f"The same discovery on random weights: {failed}")
        return
    values = {name: share(found.get(name)) for name in ("circuit", "mask", "model", "chance", "recovered")}
    headers = ("circuit", "mask on random weights", "random model", "chance", "recovered")
    yield table(headers, [tuple(values.values())], "Accuracy of the same discovery on random weights")
    if found.get("flagged") is True:
        yield Remark("Flagged: the mask works on random weights too.", "bad")


def _pairs(values: Any) -> tuple[tuple[float, float], ...]:
    found = [(number(x), number(y)) for x, y in values]
    return tuple((x, y) for x, y in found if x is not None and y is not None)
