"""Trace a module with `torch.export` into a flat torch.fx graph over aten operators.

In: a module and example inputs. Out: a `Traced` value whose graph has one `get_attr` per parameter or buffer (named as
in the module), one placeholder per example tensor, and one output per tensor the model returns. Batch and sequence are
dynamic where the model allows it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from graphir.errors import TraceError
from graphir.tracing.flatten import flatten

Example = Mapping[str, Tensor] | tuple[Tensor, ...]
Axes = tuple[int | None, int | None]


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced model: the fx graph, tensors by attribute name, how inputs map to placeholders and outputs are rebuilt.

    `dynamic` holds for each input name the axes that may vary: (batch axis or None, sequence axis or None).
    `output_names` name the returned tensors in order; `output_rebuild` makes the model's own output of them.
    """

    model: nn.Module
    example: Example
    graph: fx.Graph
    tensors: Mapping[str, Tensor]
    input_names: tuple[str, ...]
    dynamic: Mapping[str, Axes]
    output_names: tuple[str, ...]
    output_rebuild: Callable[[list[Tensor]], Any]
    notes: tuple[str, ...] = ()
    parameter_names: frozenset[str] = field(default_factory=frozenset)

    def named_inputs(self, batch: Example) -> dict[str, Tensor]:
        """`batch` as a mapping from input name to tensor; a tuple is matched by position."""
        return name_inputs(batch, self.input_names)


def name_inputs(batch: Example, names: tuple[str, ...] | None = None) -> dict[str, Tensor]:
    """Inputs by name; positional ones are called `arg0`, `arg1` and so on.

    Given `names`, in their order and no others; raises `TraceError` where one is missing.
    """
    if isinstance(batch, Tensor):
        batch = (batch,)
    named = dict(batch) if isinstance(batch, Mapping) else {f"arg{i}": value for i, value in enumerate(batch)}
    if names is not None and (missing := set(names) - set(named)):
        lacking = ", ".join(f"`{name}`" for name in sorted(missing))
        raise TraceError(f"the batch lacks {lacking}", [f"the model was traced with {', '.join(names)}"])
    return named if names is None else {name: named[name] for name in names}


def call_model(model: nn.Module, batch: Example) -> Any:
    """The model's own output on `batch`."""
    return model(**batch) if isinstance(batch, Mapping) else model(*batch)


class _FlatModel(nn.Module):
    """Calls the model with tensors (by keyword when `names` are given); a tuple of the tensors it returns."""

    def __init__(self, model: nn.Module, names: tuple[str, ...] | None, kept: tuple[int, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.kept = kept

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        batch: Example = dict(zip(self.names, inputs, strict=True)) if self.names else inputs
        leaves = pytree.tree_leaves(call_model(self.model, batch))
        return tuple(leaves[i] for i in self.kept)


@contextlib.contextmanager
def export_ready(model: nn.Module) -> Iterator[None]:
    """Within: eval mode, frozen weights, no key/value cache, no fused transformer fast path; all restored after."""
    config: Any = getattr(model, "config", None)
    cached = getattr(config, "use_cache", None)
    modes = [(module, module.training) for module in model.modules()]
    grads = [(p, p.requires_grad) for p in model.parameters()]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        for parameter, _ in grads:
            parameter.requires_grad_(False)
        if cached is not None:
            config.use_cache = False
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, required in grads:
            parameter.requires_grad_(required)
        if cached is not None:
            config.use_cache = cached
        torch.backends.mha.set_fastpath_enabled(fast)


def export_model(model: nn.Module, example: Example) -> Traced:
    """Export `model` on `example` (module docstring). Raises `TraceError` naming the user's line and what to try."""
    inputs = name_inputs(example)
    if not inputs or not all(isinstance(value, Tensor) for value in inputs.values()):
        raise TraceError("example inputs must be a non-empty mapping or tuple of tensors")
    with export_ready(model), torch.no_grad():
        try:
            output = call_model(model, example)
        except Exception as error:
            raise TraceError(f"the model fails on the example inputs: {_first_line(error)}") from error
        keyed, spec = pytree.tree_flatten_with_path(output)
        kept = tuple(i for i, (_, leaf) in enumerate(keyed) if isinstance(leaf, Tensor))
        if not kept:
            raise TraceError("the model returns no tensor")
        keywords = tuple(inputs) if isinstance(example, Mapping) else None
        program, dynamic, notes = _export(_FlatModel(model, keywords, kept), inputs)
    flat = flatten(program.module(check_guards=False), model)
    constants = {i: leaf for i, (_, leaf) in enumerate(keyed) if i not in kept}

    def rebuild(values: list[Tensor]) -> Any:
        found = iter(values)
        return pytree.tree_unflatten([constants[i] if i in constants else next(found) for i in range(len(keyed))], spec)

    return Traced(
        model=model,
        example=example,
        graph=flat.graph,
        tensors=flat.tensors,
        input_names=tuple(inputs),
        dynamic=dynamic,
        output_names=tuple(_output_name(keyed[i][0], len(kept)) for i in kept),
        output_rebuild=rebuild,
        notes=notes,
        parameter_names=flat.parameter_names,
    )


def _output_name(path: tuple[Any, ...], count: int) -> str:
    key = str(getattr(path[-1], "key", getattr(path[-1], "idx", ""))) if path else ""
    if not key or key.isdigit():
        return "logits" if count == 1 else f"out{key}"
    return key


def _dynamic_axes(inputs: Mapping[str, Tensor], *, sequence: bool) -> dict[str, Axes]:
    """Batch is axis 0 of every input; sequence is axis 1 of integer or boolean inputs with at least two axes, unless it
    has one entry only (the token that a decoder starts from), which export takes for a constant."""
    return {
        name: (
            0 if value.dim() >= 1 else None,
            1 if sequence and value.dim() >= 2 and value.shape[1] > 1 and not value.is_floating_point() else None,
        )
        for name, value in inputs.items()
    }


def _export(
    wrapper: nn.Module, inputs: Mapping[str, Tensor]
) -> tuple[ExportedProgram, dict[str, Axes], tuple[str, ...]]:
    """The exported program with the most dynamic axes that export accepts, and notes on what became static."""
    fixed: Axes = (None, None)
    attempts: list[tuple[dict[str, Axes], tuple[str, ...]]] = [
        (_dynamic_axes(inputs, sequence=True), ()),
        (_dynamic_axes(inputs, sequence=False), ("sequence length is fixed at the example's",)),
        (dict.fromkeys(inputs, fixed), ("batch and sequence length are fixed at the example's",)),
    ]
    if attempts[0][0] == attempts[1][0]:
        del attempts[1]
    errors: list[Exception] = []
    for axes, notes in attempts:
        shapes = tuple({axis: Dim.DYNAMIC for axis in pair if axis is not None} for pair in axes.values())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(
                    wrapper, (tuple(inputs.values()),), dynamic_shapes=(shapes,), strict=False
                )
        except Exception as error:  # torch.export raises many types; the last word is ours
            errors.append(error)
        else:
            return program, axes, notes
    raise _explain(errors[0]) from errors[0]


_DATA_DEPENDENT = (
    "a branch or size depends on the data: replace `if tensor` / `.item()` by `torch.where`, or move it out of forward"
)
_REMEDIES = {
    r"data.dependent|GuardOnDataDependent|unbacked|\.item\(\)": _DATA_DEPENDENT,
    r"Cache|past_key": "return no key/value cache: pass `use_cache=False`",
    r"vmap|sdpa|attn": 'load the model with `attn_implementation="eager"`',
    r"Missing|positional argument|unexpected keyword": "give every tensor that forward needs, by its keyword",
}
_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")


def _explain(error: Exception) -> TraceError:
    """What stopped the export, the user's line it happened at, and what to try."""
    text = str(error)
    frames = re.findall(r'File "([^"]+)", line (\d+)', text)
    frames += [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [f"{file}:{line}" for file, line in frames if not file.startswith(_NOT_THE_USERS)]
    place = f" at {own[-1]}" if own else ""
    hints = [hint for pattern, hint in _REMEDIES.items() if re.search(pattern, text)]
    hints.append("try a smaller part of the model, or `torch.export.draft_export` to see what stops it")
    return TraceError(f"torch.export cannot trace the model{place}: {_first_line(error)}", hints)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def hash_model(model: nn.Module) -> str:
    """sha256 over names, shapes, dtypes and bytes of the state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            data = value.detach().cpu().contiguous().flatten()
            digest.update(data.view(torch.uint8).numpy().data)
    return digest.hexdigest()
