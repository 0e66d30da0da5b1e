"""What a report says of the run as a whole: its outcome, the file, what was traced, the data, where it ran, how to
repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from dsl.report.about_evidence import ROW, evidence_row
from dsl.report.about_results import asked_of
from dsl.report.content import ROWS, Block, Cell, Code, Name, Remark, Section, Share, facts, table
from dsl.report.reading import items, leaves, mapping, mappings, metric, named, number, share, short, text
from graphir.circuit import Circuit
from graphir.display import all_hold, some_fail
from graphir.ir import Graph

Manifest = Mapping[str, Any]
METRICS = ("accuracy", "kl", "logit_diff", "prob_diff", "exact_match", "faithfulness")
"""Metrics of the summary, those that were measured."""
WHOLE = "kept whole: nothing within it can be told apart"


def summary(manifest: Manifest, names: tuple[str, ...]) -> Section:
    """The outcome: circuits side by side, checks counted, what is flagged."""
    circuits = named(manifest.get("circuits"))
    blocks: list[Block] = []
    if reason := text(manifest.get("reason")):
        blocks.append(Remark(f"The run ended early: {reason}", "bad"))
    blocks += _remarks(manifest, names)
    metrics = {name: mapping(circuits[name].get("metrics")) for name in names}
    shown = [each for each in METRICS if any(each in measured for measured in metrics.values())]
    rows = [
        (Name(name), text(circuits[name].get("method")) or "-", number(circuits[name].get("edges")),
         share(circuits[name].get("density")), *(metric(each, metrics[name].get(each)) for each in shown))
        for name in names
    ]  # fmt: skip
    if rows:
        blocks.append(table(("circuit", "method", "edges", "of all", *shown), rows, "Circuits, on held-out examples"))
    evidence = named(manifest.get("evidence"))
    tested = [(Name(name), *evidence_row(evidence[name])) for name in names if name in evidence]
    if tested:
        blocks.append(table(("circuit", *ROW), tested, "Evidence"))
    return Section("summary", "Summary", tuple(blocks))


def _remarks(manifest: Manifest, names: tuple[str, ...]) -> Iterator[Remark]:
    checks = asked_of(manifest, names)
    failed = sum(each.get("passed") is not True for each in checks)
    if checks and failed:
        yield Remark(f"{some_fail(failed, len(checks)).capitalize()}.", "bad")
    elif checks:
        yield Remark(f"{all_hold(len(checks)).capitalize()}.", "good")
    for name, each in named(manifest.get("evidence")).items():
        if name in names and each.get("flagged") is True:
            yield Remark(f"{name} is flagged: the same discovery works on random weights too.", "bad")
    for name in names:
        circuit = mapping(mapping(manifest.get("circuits")).get(name))
        if number(circuit.get("interrupted")) is not None:
            yield Remark(f"{name} was interrupted at step {circuit['interrupted']}.", "bad")
    if not checks and names:
        yield Remark("The file has no checks of these circuits: nothing was asked of them.")


def specification(manifest: Manifest) -> Section:
    """The file as it was run."""
    spec = mapping(manifest.get("spec"))
    known = facts({"file": Name(text(spec.get("file"))), "SHA-256": Name(text(spec.get("digest")))})
    overrides = [(Name(text(each)),) for each in items(spec.get("overrides"))]
    changed = [table(("changed from the command line",), overrides)] if overrides else []
    code = Code(text(spec.get("text")), "circ", "")
    return Section("specification", "Specification", (known, *changed, code))


def traced(manifest: Manifest, graphs: Mapping[str, Graph]) -> Section:
    """Models and graphs: sizes, equivalence, what was not recognized and what is lost with it. `graphs` by the hash of
    their model."""
    blocks: list[Block] = []
    models = [
        (Name(name), Name(text(each.get("identity"))), number(each.get("parameters")))
        for name, each in named(manifest.get("models")).items()
    ]
    if models:
        blocks.append(table(("model", "identity", "parameters"), models))
    found = named(manifest.get("graphs")).items()
    sections = [_graph(f"graph-{place}", name, each, graphs) for place, (name, each) in enumerate(found, 1)]
    for name, each in named(manifest.get("models")).items():
        blocks += [Remark(f"{name}: {text(note)}") for note in items(each.get("notes"))[:ROWS]]
    return Section("traced", "What was traced", tuple(blocks), tuple(sections))


def _graph(key: str, name: str, graph: Mapping[str, Any], graphs: Mapping[str, Graph]) -> Section:
    opaque = mapping(graph.get("opaque"))
    loaded = graphs.get(text(graph.get("model_hash")))
    equivalence = number(graph.get("equivalence"))
    known = {
        "nodes": number(graph.get("nodes")),
        "edges": number(graph.get("edges")),
        "granularity": text(graph.get("granularity")),
        "largest |Δoutput| to the model": "not measured" if equivalence is None else equivalence,
        "hash of the model": Name(text(graph.get("model_hash"))),
        **_coverage(loaded),
        "opaque nodes": len(opaque),
    }
    blocks: list[Block] = [facts(known)]
    if opaque:
        rows = [(Name(node), text(note) or WHOLE) for node, note in opaque.items()]
        blocks.append(table(("opaque node", "what is lost"), rows))
    blocks += [Remark(text(note)) for note in items(graph.get("notes"))[:ROWS]]
    return Section(key, f"Graph {name}", tuple(blocks))


def _coverage(graph: Graph | None) -> dict[str, Cell]:
    """How many parameters are in recognized nodes, in opaque ones, and in none."""
    if graph is None:
        return {}
    opaque = sum(node.weights.size for node in graph.opaque)
    known = sum(node.weights.size for node in graph.nodes) - opaque
    known += sum(weights.size for weights in graph.shared_weights)
    total = known + opaque + graph.rest.size
    part = Share(known / total) if total else None
    return {"parameters in recognized parts": part, "parameters in opaque nodes": opaque}


def data(manifest: Manifest) -> Section | None:
    """Tasks: identity of the data, ablation, sizes of the splits."""
    rows = []
    for name, task in named(manifest.get("tasks")).items():
        sizes = (number(task.get(split)) for split in ("train", "validation", "test"))
        rows.append((Name(name), text(task.get("ablation")), *sizes, Name(text(task.get("identity")))))
    headers = ("task", "ablation", "train", "validation", "test", "SHA-256 of the data")
    return Section("data", "Data", (table(headers, rows),)) if rows else None


def provenance(manifest: Manifest) -> Section:
    """Versions, machine, seeds, times, memory, and what became of each stage."""
    machine, setting = mapping(manifest.get("machine")), mapping(manifest.get("determinism"))
    seconds = mapping(manifest.get("seconds"))
    peak = number(manifest.get("peak_memory_bytes"))
    known = {
        "started": text(manifest.get("started")),
        "time, seconds": number(seconds.get("total")),
        "peak memory, MiB": None if peak is None else round(peak / 2**20, 1),
        "platform": text(machine.get("platform")),
        "CPU threads": number(setting.get("threads")) or number(machine.get("threads")),
        "GPU": text(machine.get("gpu")) or "none",
        "deterministic algorithms": _word(setting.get("deterministic_algorithms")),
        "seeds": ", ".join(_seeds(manifest)),
        "SHA-256 of the results": Name(text(manifest.get("result"))),
        "versions": ", ".join(
            f"{name} {text(each)}" for name, each in mapping(manifest.get("versions")).items() if each
        ),
    }
    blocks: list[Block] = [facts(known)]
    stages = [
        (text(each.get("name")), text(each.get("kind")), _word(each.get("cached")), number(each.get("seconds")),
         Name(short(text(each.get("key")), 12)), text(each.get("note")))
        for each in mappings(manifest.get("stages"))
    ]  # fmt: skip
    if stages:
        headers = ("stage", "kind", "from the cache", "seconds", "key", "")
        blocks.append(table(headers, stages, f"Stages: {len(stages)}", folded=True, limit=200))
    return Section("provenance", "Provenance", tuple(blocks))


def _seeds(manifest: Manifest) -> list[str]:
    found = []
    for name, circuit in named(manifest.get("circuits")).items():
        seeds = ", ".join(mapping(circuit.get("seeds"))) or text(circuit.get("seed"))
        found += [f"{name}: {seeds}"] if seeds else []
    return found


def reproduce(manifest: Manifest) -> Section:
    """The command that comes to the same results."""
    spec, versions = mapping(manifest.get("spec")), mapping(manifest.get("versions"))
    file = text(spec.get("file")) or "spec.circ"
    blocks: list[Block] = []
    if file.startswith(("<", "-")):
        file = "spec.circ"
        blocks.append(Remark("The specification came from no file: save its text, which is above, as spec.circ."))
    command = ["circ", "run", file]
    threads = number(mapping(manifest.get("determinism")).get("threads"))
    command += ["--threads", str(int(threads))] if threads else []
    for each in items(spec.get("overrides")):
        command += ["--set", text(each)]
    identities = [text(each.get("identity")) for each in named(manifest.get("models")).values()]
    command += ["--allow-code"] if any(each.startswith("python:") for each in identities) else []
    pinned = {"graphir-circ": versions.get("graphir")} | {
        k: versions.get(k) for k in ("torch", "transformers", "numpy")
    }
    # `2.13.0+cpu` is a build of 2.13.0 that the package index does not have under that name.
    wanted = [f"{name}=={text(each).partition('+')[0]}" for name, each in pinned.items() if each]
    lines = [shlex.join(["pip", "install", *wanted])] if wanted else []
    blocks.append(Code("\n".join([*lines, shlex.join(command)]), "shell"))
    blocks.append(
        Remark(
            "With the same versions, processor and number of threads it comes to the same bits: the SHA-256 of the "
            "results above. Results in the cache are taken from there; --no-cache computes all anew."
        )
    )
    return Section("reproduce", "To reproduce it", tuple(blocks))


KNOWN = frozenset(
    {
        "format", "version", "status", "reason", "result", "spec", "versions", "machine", "determinism", "models",
        "graphs", "tasks", "circuits", "curves", "queries", "checks", "evidence", "exports", "reports", "stages",
        "cache", "started", "seconds", "peak_memory_bytes", "files", "analyses",
        "blocks", "clusters", "lesions", "drifts", "shrinks", "corpora", "vectors", "compositions",
    }
)  # fmt: skip
"""Entries of a manifest that have sections of their own, or nothing to say."""


def others(manifest: Manifest) -> Iterator[Section]:
    """Any other kind of result: its values by their paths."""
    found = {name: value for name, value in manifest.items() if name not in KNOWN and value}
    for place, (name, value) in enumerate(found.items(), 1):
        if not isinstance(value, Mapping | list):
            continue
        rows: list[tuple[Cell, ...]] = [(path, _plain(each)) for path, each in leaves(value)]
        yield Section(
            f"other-{place}", str(name).replace("_", " ").capitalize(), (table(("", "value"), rows, limit=200),)
        )


def kept_circuits(circuits: Mapping[str, Circuit]) -> dict[str, Graph]:
    """The graphs of circuits by the hash of their model."""
    return {each.graph.model_hash: each.graph for each in circuits.values() if each.graph.model_hash}


def _plain(value: Any) -> Cell:
    return value if isinstance(value, str | bool) else number(value)


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, "") if isinstance(value, bool) else ""
