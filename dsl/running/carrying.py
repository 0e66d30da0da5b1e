"""Carry out a specification, section by section; keep what there is when something stops it."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsl.options import RunOptions
from dsl.running import record, tables
from dsl.running.cache import Cache
from dsl.running.cache_limit import read_limit, shrink, under_way
from dsl.running.failures import DiskFullError, InterruptedRunError, located, place_of
from dsl.running.folder import CIRCUITS, EVENTS, RunFolder, cache_folder, default_folder
from dsl.running.forecast import expected_seconds
from dsl.running.progress import Reporter
from dsl.running.stage import refuse_unsupported, sections
from dsl.running.threads import Setting, choose_threads
from dsl.running.workplace import Workplace
from graphir.errors import GraphirError
from graphir.query import Selection, run_query

if TYPE_CHECKING:
    from dsl.report.content import Report
    from dsl.running.finding import Found
    from dsl.running.judging import Curve, Judged, Verdict
    from dsl.spec import QuerySpec, Spec
    from graphir.circuit import Circuit
    from graphir.ir import Graph

RESUME = "the same command goes on from here"
_NOTHING = "interrupted; nothing was written"


@dataclass(frozen=True, eq=False)
class RunResult:
    """What came out of a run. `folder` holds it all on disk; `circuits` are the ones kept, measured on held-out
    examples; `passed` is whether every check holds (true without checks). `results` are those of each kind of section,
    by its name."""

    folder: Path
    circuits: Mapping[str, Circuit]
    graphs: Mapping[str, Graph]
    judged: Mapping[str, Judged]
    curves: tuple[Curve, ...]
    queries: Mapping[str, Selection]
    verdicts: tuple[Verdict, ...]
    files: tuple[Path, ...]
    manifest: Mapping[str, Any] = field(repr=False)
    results: Mapping[str, Any] = field(default_factory=dict, repr=False)
    spec: Spec | None = field(default=None, repr=False)

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(verdict.passed for verdict in self.verdicts)

    def runnable(self, name: str) -> Circuit:
        """The circuit of that name with its model behind it, for `as_module`. Where the run took everything from the
        cache, the model is loaded and traced now. `KeyError` for a circuit that there is not."""
        circuit = self.circuits[name]
        if circuit.graph.lifted is not None or self.spec is None:
            return circuit
        place = Workplace.of(self.spec, Reporter(quiet=True))
        return circuit.with_(graph=place.live_graph(self.spec.any_circuit(name).graph), example=None)

    def report(self, *names: str) -> Report:
        """The report of the run, which shows itself in a notebook; with `names` of these circuits only."""
        from dsl.report.of_run import report_of_result

        return report_of_result(self, names)

    def to_json(self) -> dict[str, Any]:
        """What the manifest says, and the folder."""
        return {"folder": str(self.folder), "passed": self.passed, **self.manifest}

    def __str__(self) -> str:
        from graphir.display import render

        return render(*(part for section in sections() for part in section.parts(self)))


def run_spec(spec: Spec, options: RunOptions | None = None) -> RunResult:
    """Carry out a specification; see `dsl.execute.run_spec`."""
    from dsl.observers import open_observers

    options = options or RunOptions()
    refuse_unsupported(spec)
    limit = read_limit(options.cache_limit)
    observers = open_observers(options.log, spec)
    run = None
    with ExitStack() as ending:
        try:
            folder = RunFolder(options.out or default_folder(spec))
            ending.callback(folder.discard)
            reporter = Reporter(
                quiet=options.quiet, events=options.events, record=folder.staging / EVENTS, observers=observers
            )
            ending.callback(reporter.close)
            place = workplace_for(spec, reporter, options.cache, caching=options.caching, threads=options.threads)
            ending.callback(place.close)
            run = Run(spec, folder, reporter, place)
            with _within(place.cache, limit), run.kept():
                return run.carry_out()
        except KeyboardInterrupt:  # before `kept`, or once more while it saves
            if run is not None and run.found:
                raise
            raise InterruptedRunError(_NOTHING) from None


@contextmanager
def _within(cache: Cache | None, limit: int | None) -> Iterator[None]:
    """A run that uses the cache, which is no larger than its limit afterwards; what the run used stays."""
    if cache is None:
        yield
        return
    with under_way(cache):
        try:
            yield
        finally:
            with suppress(OSError):
                shrink(cache, limit)


def workplace_for(
    spec: Spec,
    reporter: Reporter,
    cache: Path | None,
    *,
    caching: bool,
    threads: int | None,
    planning: bool = False,
) -> Workplace:
    """The workplace of a run or a plan, so that both come to the same keys."""
    store = Cache(cache or cache_folder()) if caching else None
    setting = Setting(choose_threads(spec, threads))
    return Workplace(spec, reporter, store, setting, planning)


class Run:
    """One run: its parts as far as they have got. Sections of a file add to it (see `dsl.running`)."""

    def __init__(self, spec: Spec, folder: RunFolder, reporter: Reporter, place: Workplace) -> None:
        self.spec, self.folder, self.reporter, self.place = spec, folder, reporter, place
        self.started = time.time()
        self.results: dict[str, Any] = {}
        self.found: dict[str, Found] = {}
        self.judged: dict[str, Judged] = {}
        self.curves: list[Curve] = []
        self.queries: dict[str, Selection] = {}
        self.verdicts: list[Verdict] = []
        self.files: list[Path] = []

    def carry_out(self) -> RunResult:
        """Every section in order, then the folder."""
        self.reporter.log.write("run", file=self.spec.source.name, digest=self.spec.digest)
        ahead = [stage for each in sections() for stage in each.stages(self.spec, self.place)]
        self.reporter.expect(len(ahead), None if self.reporter.quiet else expected_seconds(self.spec, ahead))
        for section in sections():
            section.carry_out(self)
        return self._finish()

    # --- for sections ----------------------------------------------------------------------------------------------

    def keep(self, found: Found, circuit: Circuit) -> None:
        """Save a circuit in the run's folder, and its seeds beside it; again, when it is known better."""
        name = found.spec.name
        self.found[name] = found
        base = self.folder.staging / CIRCUITS
        origin = record.origin(self.spec, found.spec, self.place)
        circuit.with_(provenance={**circuit.provenance, **origin}).save(base / name)
        if len(found.seeds) > 1:
            for seed, each in found.seeds.items():
                each.with_(provenance={**each.provenance, **origin}).save(base / f"{name}.seed{seed}")

    def ask(self, query: QuerySpec) -> Selection:
        """A query's answer, asked once."""
        from dsl.translate import to_query

        if query.name not in self.queries:
            subject = self.subject(query.subject, query.subject_kind)
            with located(f"answering `{query.name}`", query.span):
                self.queries[query.name] = run_query(to_query(query), subject)
        return self.queries[query.name]

    def subject(self, name: str, kind: str) -> Graph | Circuit:
        """The circuit or graph of that name; of a query the circuit of what it found."""
        if kind == "graph":
            return self.place.graph(self.spec.graph(name))
        if kind == "query":
            return self.ask(self.spec.query(name)).to_circuit().with_(name=name)
        return self._circuit(name)

    def _circuit(self, name: str) -> Circuit:
        """The circuit as it is known best: with its metrics where it was judged."""
        judged = self.judged.get(name)
        return self.found[name].circuit if judged is None else judged.circuit

    def place_of(self, name: str) -> Path:
        """Where a circuit will be found."""
        return self.folder.place / CIRCUITS / name

    # --- the end ---------------------------------------------------------------------------------------------------

    def _finish(self) -> RunResult:
        status = "finished" if all(verdict.passed for verdict in self.verdicts) else "checks failed"
        manifest = self._publish(status)
        result = self._result(manifest)
        self.reporter.show(*([""] if self.verdicts else []), *tables.check_parts(self.verdicts))
        self.reporter.show(
            "", *(f"wrote {path}" for path in self.files), f"run in {self.folder.place}{self._saved_work()}"
        )
        for verdict in self.verdicts:
            if not verdict.passed:
                record.complain(verdict)
        return result

    def _saved_work(self) -> str:
        cached = sum(each.cached for each in self.place.records.values())
        return f" ({cached} of {len(self.place.records)} stages from the cache)" if cached else ""

    def _result(self, manifest: Mapping[str, Any]) -> RunResult:
        """Circuits over the graphs with their models behind them, where these were traced in this run."""
        graphs = {each.name: self.place.graph(each) for each in self.spec.graphs}
        graphs |= self.place.traced
        circuits = {
            name: self._circuit(name).with_(graph=graphs[found.spec.graph.name]) for name, found in self.found.items()
        }
        return RunResult(
            self.folder.place,
            circuits,
            graphs,
            dict(self.judged),
            tuple(self.curves),
            dict(self.queries),
            tuple(self.verdicts),
            tuple(self.files),
            manifest,
            dict(self.results),
            self.spec,
        )

    # --- when something stops it -----------------------------------------------------------------------------------

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Circuits found so far are kept whatever happens; the error says where."""
        try:
            yield
        except KeyboardInterrupt:
            hints = [RESUME] if self.place.cache is not None else []
            raise InterruptedRunError(self._interrupted(), hints) from None
        except GraphirError as error:
            self._publish_rest("failed", str(error.message))
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                self._publish_rest("failed", f"{type(error).__name__}: {error}")
                raise
            raise DiskFullError(error, self.folder.place, resumable=self.place.cache is not None) from error
        except Exception as error:
            self._publish_rest("failed", f"{type(error).__name__}: {error}")
            raise

    def _interrupted(self) -> str:
        kept = self._publish_rest("interrupted", "Ctrl-C")
        if not kept:
            return _NOTHING
        last = self.found[kept[-1]]
        at = ""
        if last.interrupted is not None:
            method = last.method
            assert method is not None  # only what is discovered is interrupted
            steps = getattr(method.options, "steps", None)
            step = f"step {last.interrupted}" + (f" of {steps}" if steps else "")
            at = f" while running {method.name} ({place_of(method.span)}) at {step}"
        return f"interrupted{at}; the circuit so far is in {self.place_of(kept[-1])}"

    def _publish_rest(self, status: str, reason: str) -> list[str]:
        """Publish the circuits found so far, if any; their names."""
        if not self.found:
            self.reporter.finish(status, reason)
            return []
        try:
            self._publish(status, reason)
        except OSError as error:
            self.reporter.warn(f"what was found cannot be written: {(error.strerror or str(error)).lower()}")
            return []
        return list(self.found)

    def _publish(self, status: str, reason: str = "") -> dict[str, Any]:
        self.reporter.finish(status, reason)
        manifest = record.manifest(self, status=status, reason=reason)
        self.folder.publish(manifest)
        return manifest
