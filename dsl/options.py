"""What the command line passes on to `dsl.execute`: one frozen value for each verb. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunOptions:
    """How to run. `out` is the folder for results (None: `runs/` and the file's name, in the working folder); `events`
    a file that gets one JSON object for each event; `threads` the number of CPU threads (None: one for small models,
    torch's own number for others). `cache` is the folder of stages' results (None: `runs/.cache` in the working
    folder); without `caching` none is read or written, and nothing can be gone on from. `cache_limit` is how large it
    may be after the run (`10 GB`, `none`; None: what CIRC_CACHE_LIMIT says, else 20 GB). `log` are trackers that are
    told of the run, as `dsl.observers` reads them: `tensorboard:DIR`, `mlflow`, `wandb`."""

    out: Path | None = None
    events: Path | None = None
    quiet: bool = False
    threads: int | None = None
    cache: Path | None = None
    caching: bool = True
    log: tuple[str, ...] = ()
    cache_limit: str | None = None


@dataclass(frozen=True)
class PlanOptions:
    """How to plan: for so many CPU threads, with the cache in a folder (as `RunOptions` says), or without one."""

    threads: int | None = None
    cache: Path | None = None
    caching: bool = True


@dataclass(frozen=True)
class ShowOptions:
    """What to show of a saved circuit or a run: one node, or the `top` strongest edges."""

    node: str | None = None
    top: int = 20
    names: str = "ours"


@dataclass(frozen=True)
class ExportOptions:
    """What to write: (path, format) pairs with formats as in `dsl.spec.Target`; `names` of another tool; only the `top`
    strongest edges."""

    targets: tuple[tuple[Path, str], ...]
    names: str = "ours"
    top: int | None = None


@dataclass(frozen=True)
class DiffOptions:
    """How to compare: at most `top` edges of each side are listed."""

    top: int = 20
