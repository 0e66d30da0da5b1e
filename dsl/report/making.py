"""Make a report of what a run left: its manifest and its saved circuits. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from dsl.report import about_analyses, about_compositions, about_results, about_run, about_vectors
from dsl.report.about_circuits import circuit_section
from dsl.report.content import Report, Section
from dsl.report.reading import mapping, named, text
from dsl.running.folder import CIRCUITS, find_run, read_run
from graphir.circuit import Circuit
from graphir.errors import GraphirError, UnknownNameError


def read_report(path: Path | str, names: Collection[str] = ()) -> Report:
    """The report of a run's folder, or of the latest run below it (see `dsl.running.folder.find_run`); with `names` of
    these circuits only. A circuit that cannot be read is reported as far as the manifest goes.

    Errors: `SaveFormatError` where there is no run, `UnknownNameError` for a circuit that it has not.
    """
    run = find_run(Path(path))
    manifest = read_run(run)
    circuits: dict[str, Circuit] = {}
    unread: dict[str, str] = {}
    for name in _wanted(manifest, names):
        try:
            circuits[name] = _load(run, name)
        except GraphirError as error:
            unread[name] = error.message
    return make_report(manifest, circuits, names, unread=unread)


def make_report(
    manifest: Mapping[str, Any],
    circuits: Mapping[str, Circuit],
    names: Collection[str] = (),
    *,
    unread: Mapping[str, str] | None = None,
) -> Report:
    """The report of a manifest, with the circuits that are there; with `names` of these circuits only. `unread` says
    why a circuit is not there. `UnknownNameError` for a name that the manifest has not."""
    wanted = _wanted(manifest, names)
    found, evidence = named(manifest.get("circuits")), mapping(manifest.get("evidence"))
    graphs = about_run.kept_circuits(circuits)
    about = [
        circuit_section(
            name, f"circuit-{place}", found[name], circuits.get(name), mapping(evidence.get(name)),
            (unread or {}).get(name, ""),
        )
        for place, name in enumerate(wanted, 1)
    ]  # fmt: skip
    sections: Iterable[Section | None] = (
        about_run.summary(manifest, wanted),
        about_results.checks(manifest, wanted),
        *about,
        about_compositions.compositions(manifest, wanted),
        about_results.curves(manifest, wanted),
        about_results.queries(manifest),
        about_analyses.analyses(manifest),
        about_vectors.vectors(manifest),
        *about_run.others(manifest),
        about_run.traced(manifest, graphs),
        about_run.data(manifest),
        about_run.specification(manifest),
        about_results.files(manifest),
        about_run.provenance(manifest),
        about_run.reproduce(manifest),
    )
    file = text(mapping(manifest.get("spec")).get("file")) or "a run"
    of = f": {', '.join(wanted)}" if names else ""
    return Report(f"Report of {file}{of}", text(manifest.get("status")), tuple(each for each in sections if each))


def _wanted(manifest: Mapping[str, Any], names: Collection[str]) -> tuple[str, ...]:
    known = tuple(named(manifest.get("circuits")))
    for name in names:
        if name not in known:
            raise UnknownNameError("circuit", name, known)
    return tuple(name for name in known if not names or name in names)


def _load(run: Path, name: str) -> Circuit:
    if Path(name).name != name or name in ("", ".", ".."):
        raise GraphirError(f"`{name}` is no name of a saved circuit")
    return Circuit.load(run / CIRCUITS / name)
