"""Mean ablation: what each writer writes on average over a data set, for each position or over all."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx

from graphir.errors import DataError
from graphir.run.program import MaskedProgram, Reference
from graphir.tracing.exported import Example, name_inputs


def mean_reference(program: MaskedProgram, batches: Iterable[Example], *, per_position: bool = False) -> Reference:
    """Mean writers' values and MLP hidden features over `batches`, tokens that are padding (zero in an input called
    `attention_mask`) left out.

    Values are (U, 1, 1, D), or (U, 1, S, D) with `per_position`, S the longest sequence seen; of a value with channels
    (U, 1, C, 1, 1), or (U, 1, C, H, W). Raises `DataError` on no data.
    """
    sums: dict[tuple[str, fx.Node], Tensor] = {}
    counts: dict[tuple[str, fx.Node], Tensor] = {}
    for batch in batches:
        found = program.reference(batch, hidden=True)
        mask = name_inputs(batch).get("attention_mask")
        values = {("writers", leaf): value for leaf, value in found.writers.items()}
        values |= {("hidden", leaf): value[None] for leaf, value in found.hidden.items()}
        for key, value in values.items():
            axis = program.feature_axis(key[1]) if key[0] == "writers" else -1
            total, count = _sum_tokens(value, mask, per_position, axis)
            sums[key] = _add_padded(sums.get(key), total)
            counts[key] = _add_padded(counts.get(key), count)
    if not sums:
        raise DataError("a mean needs at least one batch")
    means = {key: total / counts[key].clamp(min=1) for key, total in sums.items()}
    return Reference(
        writers={leaf: value for (kind, leaf), value in means.items() if kind == "writers"},
        hidden={leaf: value[0] for (kind, leaf), value in means.items() if kind == "hidden"},
    )


def _sum_tokens(
    value: Tensor, mask: Tensor | None, per_position: bool, feature_axis: int = -1
) -> tuple[Tensor, Tensor]:
    """Sum of (U, B, S, D) over rows (and positions), and how many tokens went into it."""
    features = value.dim() + feature_axis
    axes = (1,) if per_position else tuple(a for a in range(1, value.dim()) if a != features or a == 1)
    keep = value.new_ones([1 if a in (0, features) else length for a, length in enumerate(value.shape)])
    if feature_axis == -1 and mask is not None and mask.shape == value.shape[1:-1]:
        keep = mask.to(value)[None, :, :, None]
    elif (
        feature_axis == -1
        and mask is not None
        and value.dim() == 4
        and value.shape[1] == 1
        and value.shape[2] == mask.shape[1]
    ):
        keep = mask.to(value)[None, :, :, None]  # the same for every row: positions, weighted as the rows use them
    return (value * keep).sum(axes, keepdim=True), keep.sum(axes, keepdim=True)


def _add_padded(total: Tensor | None, value: Tensor) -> Tensor:
    if total is None or total.shape == value.shape:
        return value if total is None else total + value
    if total.dim() < 3:
        raise DataError(f"values of shapes {tuple(total.shape)} and {tuple(value.shape)} have no common mean")
    length = max(total.shape[2], value.shape[2])

    def padded(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, length - x.shape[2]))

    return padded(total) + padded(value)


def subtract(value: Tensor, ablated: Tensor | None) -> Tensor:
    """Y_w − A_w of a leaf (U, B, S, D); the value itself where nothing stands in for it."""
    return value if ablated is None else value - fit(ablated, value)


def fit(ablated: Tensor, values: Tensor) -> Tensor:
    """Ablation values that broadcast over `values` (U, B, S, D); per-position means (U, 1, S', D) are cut to S."""
    if ablated.dim() == 4 == values.dim() and ablated.shape[1] == 1 and ablated.shape[2] > values.shape[2]:
        ablated = ablated[:, :, : values.shape[2]]
    try:
        torch.broadcast_shapes(ablated.shape[1:], values.shape[1:])
    except RuntimeError as error:
        hints = [
            "clean and counterfactual must be of equal length",
            "per-position means cover the lengths they were taken over",
        ]
        raise DataError(
            f"ablation values of shape {tuple(ablated.shape[1:])} do not fit the batch's {tuple(values.shape[1:])}",
            hints,
        ) from error
    return ablated
