"""What is at hand about the models of a file, without loading or downloading any: layers, heads, from their headers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dsl import tree
from graphir.errors import GraphirError

if TYPE_CHECKING:
    from dsl.model_facts import ModelFacts


def find_facts(file: tree.File, folder: Path) -> dict[str, ModelFacts]:
    """Facts of the models of a file by name, as far as there are any; `folder` is what relative paths start from."""
    found = {}
    for section in file.sections:
        if isinstance(section, tree.Model) and not section.reference.is_missing:
            try:
                facts = _facts(section, folder)
            except (GraphirError, OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
                # Whatever is wrong with the model, the run will say; here it is only not known.
                facts = None
            if facts is not None and facts.layers is not None:
                found[section.name.text] = facts
    return found


def _facts(model: tree.Model, folder: Path) -> ModelFacts | None:
    kind, reference = model.kind.text, model.reference.value
    if kind == "hf" and not model.package:
        config = _config(reference, folder)
        if config is None:
            return None
        from dsl.model_facts import read_facts

        return read_facts(config)
    if kind not in ("builtin", "gguf", "tracr", "hf"):
        return None
    from dsl.models import ModelSource, model_facts

    return model_facts(ModelSource(kind, reference, model.package), folder=folder)


def _config(reference: str, folder: Path) -> Path | None:
    """The folder of a model, or of its repository in the Hugging Face cache; the hub's own package would take longer
    to import than all of the check."""
    if (folder / reference / "config.json").is_file():
        return folder / reference
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    snapshots = hub / f"models--{reference.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob("*/config.json"))
    return found[0].parent if found else None
