"""Task vectors: differences of state dicts that add, scale and go back out again.

    tau = TaskVector.between(base, tuned)
    both = tau + other
    with both.scaled(0.5).applied(model):      # θ + λ Σ τ; the model's own bits come back at the end
        ...

    near | far, near & far, near.without(far)           # by where they change anything

Ilharco et al. (ICLR 2023, arXiv 2212.04089): τ = θ_tuned − θ_base, θ = θ_base + λ Σ τ_i, negation forgets, τ_C + τ_B −
τ_A is an analogy. Sparse vectors (LT-SFT, Ansell et al. 2022, arXiv 2110.07560) are vectors with a support.
As sets, vectors are their supports: `|` and `&` take the larger and the smaller change where both have one, so that the
identities of sets hold (idempotence, commutativity, associativity, absorption, distributivity) for values as well.
Tensors that are no floating-point numbers (indices, counters) are left out.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphir.errors import ModelMismatchError, SaveFormatError
from graphir.serial import MAX_TENSORS, parse_tensors, read_folder, tensor_bytes, write_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from graphir.circuit import Circuit
    from graphir.support_overlap import SupportOverlap

FORMAT = "graphir.task_vector"
VERSION = 1
MANIFEST = "task_vector.json"


@dataclass(frozen=True, eq=False)
class TaskVector:
    """What to add to the parameters of a model. `deltas` holds a tensor of the parameter's shape by parameter name;
    a parameter that is not named does not change. `base` is the model hash of θ_base (empty where it is not known);
    `operands` say what a combined vector was made of."""

    deltas: Mapping[str, Tensor]
    base: str = ""
    name: str = ""
    operands: tuple[str, ...] = field(default=())

    @classmethod
    def between(
        cls, base: nn.Module | Mapping[str, Tensor], tuned: nn.Module | Mapping[str, Tensor], name: str = ""
    ) -> TaskVector:
        """tuned − base, parameter by parameter. Raises `ModelMismatchError` where names or shapes differ."""
        before, after = _state(base), _state(tuned)
        _check_same(before, after)
        deltas = {key: after[key].detach() - value.detach() for key, value in before.items() if _is_number(value)}
        return cls({key: delta for key, delta in deltas.items() if bool(delta.any())}, _hash(base), name)

    # --- arithmetic ------------------------------------------------------------------------------------------------

    def __add__(self, other: TaskVector) -> TaskVector:
        return self._with(other, "+", lambda a, b: a + b)

    def __sub__(self, other: TaskVector) -> TaskVector:
        return self._with(-other, "-", lambda a, b: a + b)

    def __neg__(self) -> TaskVector:
        return self.scaled(-1.0)

    def __mul__(self, factor: float) -> TaskVector:
        return self.scaled(factor)

    __rmul__ = __mul__

    def scaled(self, factor: float) -> TaskVector:
        """λτ."""
        deltas = {key: delta * factor for key, delta in self.deltas.items()}
        return TaskVector(deltas, self.base, self.name, (f"{factor:g} × {self.name or 'unnamed'}",))

    def __or__(self, other: TaskVector) -> TaskVector:
        """What either changes; where both do, the change of larger magnitude."""
        return self._with(other, "|", _larger)

    def __and__(self, other: TaskVector) -> TaskVector:
        """What both change, by the change of smaller magnitude."""
        found = self._with(other, "&", _smaller)
        return replace(
            found,
            deltas={
                key: delta for key, delta in found.deltas.items() if key in self.deltas.keys() & other.deltas.keys()
            },
        )

    def without(self, other: TaskVector) -> TaskVector:
        """The vector where the other one changes nothing, zero elsewhere."""
        found = self._with(other, "& ~", lambda a, b: a * (b == 0))
        return replace(found, deltas={key: found.deltas[key] for key in self.deltas})

    def _with(self, other: TaskVector, sign: str, combine: Callable[[Tensor, Tensor], Tensor]) -> TaskVector:
        if not isinstance(other, TaskVector):
            return NotImplemented
        if self.base and other.base and self.base != other.base:
            raise ModelMismatchError(
                f"the task vectors start from different models: {self.base[:8]} and {other.base[:8]}",
                ["differences add up only from one common base"],
            )
        deltas = dict(self.deltas)
        for key, delta in other.deltas.items():
            if key in deltas and deltas[key].shape != delta.shape:
                raise ModelMismatchError(
                    f"`{key}` has shape {tuple(deltas[key].shape)} in one and {tuple(delta.shape)} in the other"
                )
            deltas[key] = combine(deltas[key], delta) if key in deltas else delta
        names = tuple(vector.name or "unnamed" for vector in (self, other))
        return TaskVector(deltas, self.base or other.base, f" {sign} ".join(names), (*self.operands, *other.operands))

    # --- support ---------------------------------------------------------------------------------------------------

    def support(self) -> dict[str, NDArray[np.bool_]]:
        """Where the vector is not zero, by parameter: masks as a circuit's `weights` are."""
        return {key: (delta != 0).cpu().numpy() for key, delta in self.deltas.items()}

    def masked(self, keep: Circuit | Mapping[str, NDArray[np.bool_]]) -> TaskVector:
        """The vector on a support only: a circuit's weight masks, or masks by parameter. Elsewhere it is zero."""
        import torch

        weights = keep if isinstance(keep, Mapping) else keep.weights
        deltas = {
            key: torch.where(torch.as_tensor(np.array(weights[key])).to(delta.device), delta, 0)
            for key, delta in self.deltas.items()
            if key in weights
        }
        return TaskVector(deltas, self.base, self.name, self.operands)

    @property
    def count(self) -> int:
        """Number of parameters that change."""
        return sum(int((delta != 0).sum()) for delta in self.deltas.values())

    @property
    def norm(self) -> float:
        """Euclidean length."""
        return math.sqrt(sum(float(delta.double().square().sum()) for delta in self.deltas.values()))

    def overlap(self, *others: TaskVector) -> SupportOverlap:
        """How much the supports of this and other vectors share (see `graphir.support_overlap`)."""
        from graphir.support_overlap import support_overlap

        return support_overlap(self, *others)

    # --- use -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def applied(self, model: nn.Module, factor: float = 1.0) -> Iterator[nn.Module]:
        """The model with λτ added to its parameters, for the time of a `with` block; afterwards it has the very bits it
        had before (they are kept aside: subtracting again would round)."""
        kept = self._add(model, factor)
        try:
            yield model
        finally:
            _restore(model, kept)

    def apply(self, model: nn.Module, factor: float = 1.0) -> nn.Module:
        """A copy of the model with λτ added."""
        import copy

        changed = copy.deepcopy(model)
        self._add(changed, factor)
        return changed

    def _add(self, model: nn.Module, factor: float) -> dict[str, Tensor]:
        import torch

        state = model.state_dict()
        unknown = [key for key in self.deltas if key not in state]
        if unknown:
            raise ModelMismatchError(
                f"the model has no {_few(unknown)}", ["a task vector belongs to models with the parameters of its base"]
            )
        for key, delta in self.deltas.items():
            if state[key].shape != delta.shape:
                raise ModelMismatchError(
                    f"`{key}` has shape {tuple(delta.shape)} in the task vector, {tuple(state[key].shape)} in the model"
                )
        kept = {key: state[key].clone() for key in self.deltas}
        done: set[int] = set()
        with torch.no_grad():
            for key, delta in self.deltas.items():
                if state[key].data_ptr() in done:  # a tied parameter has two names and one storage
                    continue
                done.add(state[key].data_ptr())
                state[key].add_(delta.to(state[key].device, state[key].dtype), alpha=factor)
        return kept

    # --- keeping ---------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Writes the vector to `folder`, all or nothing (numbers and where they go: sparse vectors stay small)."""
        arrays: dict[str, NDArray[Any]] = {}
        parts = []
        for place, (key, delta) in enumerate(self.deltas.items()):
            flat = _exact(delta).numpy().ravel()
            where = np.flatnonzero(flat)
            arrays[f"{place}.index"], arrays[f"{place}.value"] = where.astype(np.int64), flat[where]
            parts.append([key, list(delta.shape), str(delta.dtype).removeprefix("torch.")])
        head = {"format": FORMAT, "version": VERSION, "name": self.name, "base": self.base, "count": self.count}
        head["parts"], head["operands"] = parts, list(self.operands)
        return write_folder(Path(folder), MANIFEST, head, {"values.safetensors": tensor_bytes(arrays)})

    @classmethod
    def load(cls, folder: str | Path) -> TaskVector:
        """The vector saved in `folder`; `SaveFormatError` for a foreign, newer or damaged one."""
        import torch

        head, files = read_folder(Path(folder), MANIFEST, FORMAT, VERSION)
        try:
            arrays = parse_tensors(files["values.safetensors"], Path(folder) / "values.safetensors")
            deltas = {}
            _check_size(head["parts"])
            for place, (key, shape, dtype) in enumerate(head["parts"]):
                values = torch.from_numpy(arrays[f"{place}.value"].copy())
                if not values.is_floating_point():
                    raise TypeError(f"differences of {values.dtype}")
                flat = torch.zeros(int(np.prod(shape, dtype=np.int64)), dtype=values.dtype)
                flat[torch.from_numpy(arrays[f"{place}.index"].copy())] = values
                deltas[str(key)] = flat.reshape(shape).to(getattr(torch, dtype))
            return cls(deltas, str(head["base"]), str(head["name"]), tuple(map(str, head["operands"])))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
            raise SaveFormatError(f"{Path(folder) / MANIFEST} does not describe a task vector: {error!r}") from None

    def __repr__(self) -> str:
        return f"TaskVector({self.name or 'unnamed'}: {self.count:,} parameters in {len(self.deltas)} tensors)"


def _larger(a: Tensor, b: Tensor) -> Tensor:
    """Element by element the one of larger magnitude; of opposite ones the positive."""
    import torch

    return torch.where(_is_larger(a, b), a, b)


def _smaller(a: Tensor, b: Tensor) -> Tensor:
    """The other one."""
    import torch

    return torch.where(_is_larger(a, b), b, a)


def _is_larger(a: Tensor, b: Tensor) -> Tensor:
    return (a.abs() > b.abs()) | ((a.abs() == b.abs()) & (a > b))


def _check_size(parts: list[Any]) -> None:
    """`ValueError` for more numbers than any file of tensors that is read could hold: a few bytes can ask for them."""
    if any(not isinstance(n, int) or n < 0 for _, shape, _ in parts for n in shape):
        raise ValueError("a shape that is none")
    count = sum(math.prod(shape) for _, shape, _ in parts)
    if 4 * count > MAX_TENSORS:
        raise ValueError(f"{count:,} numbers, more than are read")


def _state(model: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return model if isinstance(model, Mapping) else model.state_dict()


def _hash(model: nn.Module | Mapping[str, Tensor]) -> str:
    if isinstance(model, Mapping):
        return ""
    from graphir.tracing.exported import hash_model

    return hash_model(model)


def _is_number(value: Tensor) -> bool:
    return value.is_floating_point()


def _exact(delta: Tensor) -> Tensor:
    """On the CPU in a type that numpy has, every value the same (numpy has no bfloat16)."""
    found = delta.detach().cpu()
    return found if str(found.dtype) == "torch.float64" else found.float()


def _check_same(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    missing = sorted(set(before) ^ set(after))
    if missing:
        raise ModelMismatchError(f"the models differ in parameters: {_few(missing)}")
    for key, value in before.items():
        if value.shape != after[key].shape:
            raise ModelMismatchError(
                f"`{key}` has shape {tuple(value.shape)} in one model and {tuple(after[key].shape)} in the other"
            )


def _restore(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    import torch

    state = model.state_dict()
    with torch.no_grad():
        for key, value in kept.items():
            state[key].copy_(value)


def _few(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
