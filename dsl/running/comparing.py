"""Compare saved circuits, or two runs: their circuits by name, and what else is not the same. Torch-free."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsl.options import DiffOptions
from dsl.running.folder import CIRCUIT_MANIFEST, find_run, read_run, saved_circuits
from dsl.running.progress import plain
from graphir.algebra_overlap import HEADERS, overlap, overlap_rows
from graphir.circuit import Circuit
from graphir.diff import CircuitDiff, diff_circuits
from graphir.display import render, simple_table
from graphir.errors import GraphirError

SETTINGS = ("versions", "machine", "determinism", "models", "tasks", "graphs")
"""Parts of a manifest that say what a run worked with."""
MAX_WIDTH = 48


@dataclass(frozen=True)
class RunDiff:
    """What differs between two runs beside their circuits. `settings`, `metrics` and `checks` have rows of (what,
    before, after), only for what differs; `spec` is a unified diff of the two files; `identical` says whether they
    found and measured the same, bit for bit (None where a run does not say)."""

    identical: bool | None
    status: tuple[str, str]
    settings: tuple[tuple[str, Any, Any], ...]
    metrics: tuple[tuple[str, Any, Any], ...]
    checks: tuple[tuple[str, Any, Any], ...]
    spec: str = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""

        def rows(found: tuple[tuple[str, Any, Any], ...]) -> dict[str, list[Any]]:
            return {name: [before, after] for name, before, after in found}

        return {
            "identical": self.identical,
            "status": list(self.status),
            "settings": rows(self.settings),
            "metrics": rows(self.metrics),
            "checks": rows(self.checks),
            "spec": self.spec,
        }

    def parts(self) -> list[Any]:
        """Tables of what differs."""
        found: list[Any] = []
        for title, rows in (("setting", self.settings), ("measured", self.metrics), ("check", self.checks)):
            if rows:
                shown = [(name, _short(before), _short(after)) for name, before, after in rows]
                found += ["", simple_table((title, "before", "after"), shown, ())]
        if self.spec:
            found += ["", self.spec.rstrip("\n")]
        said = {True: "the same was found and measured, bit for bit", False: "", None: ""}[self.identical]
        return [*found, *(["", said] if said else [])]


@dataclass(frozen=True)
class DiffAnswer:
    """The differences by circuit; `missing` are circuits that only one side has, with the side; `runs` is what else
    differs between two runs, None where one side is a circuit alone. `overlaps` say how much two circuits of one graph
    share, as `graphir.algebra_overlap.CircuitOverlap.to_json` has it."""

    diffs: Mapping[str, CircuitDiff]
    missing: Mapping[str, str]
    top: int
    runs: RunDiff | None = None
    overlaps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def same(self) -> bool:
        """Whether both sides have the same circuits, with the same edges, nodes and weights."""
        return not self.missing and all(diff.same for diff in self.diffs.values())

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        circuits = {name: diff.to_json() | self._overlap(name) for name, diff in self.diffs.items()}
        data = {"same": self.same, "circuits": circuits, "missing": dict(self.missing)}
        result: dict[str, Any] = plain(data | ({} if self.runs is None else {"runs": self.runs.to_json()}))
        return result

    def _overlap(self, name: str) -> dict[str, Any]:
        return {"overlap": dict(self.overlaps[name])} if self.overlaps.get(name) else {}

    def __str__(self) -> str:
        parts = [f"{name}: only in {side}" for name, side in self.missing.items()]
        parts += [format_diff(name, diff, self.top, self.overlaps.get(name, {})) for name, diff in self.diffs.items()]
        parts += [render(*self.runs.parts()).strip("\n")] if self.runs is not None else []
        return "\n\n".join([*filter(None, parts), "no differences" if self.same else ""]).rstrip()


def diff_paths(first: Path, second: Path, options: DiffOptions) -> DiffAnswer:
    """See `dsl.execute.diff`. Two single circuits are compared whatever they are called."""
    ours, theirs = saved_circuits(first), saved_circuits(second)
    single = [(path / CIRCUIT_MANIFEST).is_file() for path in (first, second)]
    runs = None if any(single) else diff_runs(read_run(find_run(first)), read_run(find_run(second)))
    if len(ours) == len(theirs) == 1:
        (name, here), (_, there) = next(iter(ours.items())), next(iter(theirs.items()))
        diff, shares = _diff(here, there)
        return DiffAnswer({name: diff}, {}, options.top, runs, {name: shares})
    shared = [name for name in ours if name in theirs]
    missing = {name: str(first) for name in ours if name not in theirs}
    missing |= {name: str(second) for name in theirs if name not in ours}
    found = {name: _diff(ours[name], theirs[name]) for name in shared}
    diffs, overlaps = {n: each[0] for n, each in found.items()}, {n: each[1] for n, each in found.items()}
    return DiffAnswer(diffs, missing, options.top, runs, overlaps)


def diff_runs(before: Mapping[str, Any], after: Mapping[str, Any]) -> RunDiff:
    """What differs between two manifests."""
    digests = (before.get("result"), after.get("result"))
    sides = [{name: each.get(name) for name in SETTINGS} for each in (before, after)]
    for side, each in zip(sides, (before, after), strict=True):
        side["overrides"] = each.get("spec", {}).get("overrides", [])
    return RunDiff(
        None if None in digests else digests[0] == digests[1],
        (str(before.get("status")), str(after.get("status"))),
        tuple(_rows(*map(_leaves, sides))),
        tuple(_rows(_metrics(before), _metrics(after))),
        tuple(_rows(_checks(before), _checks(after))),
        _spec_diff(before.get("spec", {}), after.get("spec", {})),
    )


def _rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = dict.fromkeys([*before, *after])
    return [(each, before.get(each), after.get(each)) for each in names if before.get(each) != after.get(each)]


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """The values of nested objects by their paths."""
    if not isinstance(value, Mapping):
        return {path: value}
    found: dict[str, Any] = {}
    for name, each in value.items():
        found |= _leaves(each, f"{path}.{name}" if path else str(name))
    return found


def _metrics(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of circuits, of the model and the empty circuit beside them, and of curves."""
    found: dict[str, Any] = {}
    for name, circuit in dict(manifest.get("circuits") or {}).items():
        for part in ("metrics", "complement", "empty", "model"):
            title = name if part == "metrics" else f"{name} ({part})"
            found |= _leaves(circuit.get(part, {}), title)
        found[f"{name}.stability"] = circuit.get("stability")
    for curve in manifest.get("curves") or []:
        for point in curve["points"]:
            found |= _leaves(point["metrics"], f"{curve['of']} by {curve['name']} at {point['density']:.4g}")
    return found


def _checks(manifest: Mapping[str, Any]) -> dict[str, Any]:
    words = {True: "pass", False: "FAIL"}
    return {
        f"{each.get('circuit', each.get('subject'))}: {each['condition']}": words[bool(each["passed"])]
        for each in manifest.get("checks") or []
    }


def _spec_diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    ours, theirs = (str(each.get("text", "")).splitlines(keepends=True) for each in (before, after))
    lines = difflib.unified_diff(ours, theirs, str(before.get("file", "")), str(after.get("file", "")), n=1)
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _short(value: Any) -> str:
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_WIDTH else f"{text[: MAX_WIDTH - 1]}…"


def _diff(first: Path, second: Path) -> tuple[CircuitDiff, Mapping[str, Any]]:
    """The differences, and the overlap as plain data; no overlap of circuits of different graphs."""
    circuits = Circuit.load(first), Circuit.load(second)
    try:
        shared = overlap(*circuits, across_models=True).to_json()
    except GraphirError:
        shared = {}
    return diff_circuits(*circuits), {part: each for part, each in shared.items() if part != "names"}


def format_diff(name: str, diff: CircuitDiff, top: int, shared: Mapping[str, Any]) -> str:
    """Counts, what is shared by kind and layer, metrics of both, and at most `top` edges of each side."""
    headers = (name, "added", "removed", "shared", "IoU")
    parts: list[Any] = [simple_table(headers, diff.counts, headers[1:])]
    if shared and not diff.same:
        parts += ["", simple_table(HEADERS, overlap_rows(shared), HEADERS[1:])]
    if diff.metrics:
        parts += ["", simple_table(("metric", "before", "after"), diff.metrics, ("before", "after"))]
    for sign, names in (("+", diff.edges_added), ("-", diff.edges_removed)):
        if names:
            more = [f"{sign} … and {len(names) - top:,} more"] if len(names) > top else []
            parts += ["", *(f"{sign} {edge}" for edge in names[:top]), *more]
    if diff.foreign:
        parts += ["", f"{diff.foreign:,} kept edges exist in one of the graphs only"]
    return render(*parts)
