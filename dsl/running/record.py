"""What is written down of a run: the manifest, and where each circuit comes from."""

from __future__ import annotations

import platform
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dsl.running.keys import circuit_digest, digest
from dsl.running.progress import plain
from dsl.running.sections.graphs import TraceStage
from dsl.running.stage import sections
from dsl.running.threads import PACKAGES, package_version
from graphir.display import format_number

if TYPE_CHECKING:
    from dsl.running.carrying import Run
    from dsl.running.judging import Verdict
    from dsl.running.workplace import Workplace
    from dsl.spec import AnyCircuit, Spec

RESULTS = (
    "circuits", "compositions", "curves", "evidence", "queries", "checks", "analyses", "blocks", "clusters", "lesions",
    "drifts", "vectors",
)  # fmt: skip
"""Parts of a manifest whose numbers two runs of one specification have in common, bit for bit."""


PLACE = frozenset({"file", "line", "column"})
"""Where a condition is written: the same results may be asked for elsewhere."""


def manifest(run: Run, *, status: str, reason: str) -> dict[str, Any]:
    """The manifest of a run as JSON data. `status` is finished, checks failed, failed or interrupted; `result` is a
    SHA-256 over everything found and measured, the same for every run that came to the same bits."""
    place = run.place
    found: dict[str, Any] = {}
    for section in sections():
        found |= section.record(run)
    found = plain(found)
    facts = {name: value for name, value in found.items() if name in RESULTS}
    facts["checks"] = [{k: v for k, v in each.items() if k not in PLACE} for each in found.get("checks", [])]
    masks = {name: circuit_digest(each.circuit) for name, each in run.found.items()}
    data = {
        "status": status,
        "reason": reason,
        "result": digest([masks, facts]),
        "spec": _spec(run.spec),
        "versions": versions(),
        "machine": machine(),
        "determinism": place.setting.record(),
        **found,
        "stages": [_without_empty(asdict(each)) for each in place.records.values()],
        "cache": None if place.cache is None else str(place.cache.folder),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(run.started)),
        "seconds": {"total": time.time() - run.started, "stages": dict(run.reporter.seconds)},
        "peak_memory_bytes": peak_memory(),
    }
    result: dict[str, Any] = plain(data)
    return result


def origin(spec: Spec, circuit: AnyCircuit, place: Workplace) -> dict[str, Any]:
    """Where a circuit comes from, for its provenance: text and digest of the file, the model's source, versions."""
    identity = place.value(TraceStage(circuit.graph)).model["identity"]
    found: dict[str, Any] = plain({"spec": _spec(spec), "model_identity": identity, "versions": versions()})
    return found


def versions() -> dict[str, str | None]:
    """Versions of what a result may depend on."""
    from graphir import __version__

    own: dict[str, str | None] = {"graphir": __version__, "python": platform.python_version()}
    return own | {name: package_version(name) for name in PACKAGES}


def machine() -> dict[str, Any]:
    """What it ran on; of torch only what it says when it is there already."""
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else None
    threads = None if torch is None else torch.get_num_threads()
    return {"platform": platform.platform(), "threads": threads, "gpu": gpu}


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def complain(verdict: Verdict) -> None:
    """A condition that does not hold, on the standard error, with its place."""
    values = ", ".join(f"{name} is {format_number(value)}" for name, value in verdict.values.items())
    print(f"error: check of `{verdict.circuit}` failed: {verdict.text} ({values})", file=sys.stderr)
    print(f"  --> {verdict.span}", file=sys.stderr)


def _spec(spec: Spec) -> dict[str, Any]:
    return {
        "file": spec.source.name,
        "digest": spec.digest,
        "overrides": list(spec.overrides),
        "text": spec.source.text,
        "includes": {each.name: each.text for each in getattr(spec, "includes", ())},
    }


def _without_empty(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if value not in (None, "")}
