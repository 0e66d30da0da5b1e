"""Hard masks: exactly as many entries as a bound allows, the highest logits first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_SAMPLE = 1 << 20
_MOST = 1 << 22
"""Values that are sorted at once."""
_DIGITS = 1 << 16


def keep_highest(values: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Boolean masks that keep exactly `count` entries (all of them, if there are no more) of all tensors together; ties
    go to the earlier. Takes a few passes over the values and little memory: a sample says between which values the
    limit lies, and only what is between them is sorted."""
    total = sum(value.numel() for value in values.values())
    if count >= total or count <= 0:
        return {key: torch.full_like(value, count > 0, dtype=torch.bool) for key, value in values.items()}
    limit = _nth_highest(list(values.values()), count, total)
    kept = {key: value > limit for key, value in values.items()}
    room = count - sum(int(mask.sum()) for mask in kept.values())
    for key, value in values.items():
        if room <= 0:
            break
        ties = torch.nonzero((value == limit).view(-1))[:room, 0]
        kept[key].view(-1)[ties] = True
        room -= len(ties)
    return kept


def _nth_highest(values: list[Tensor], count: int, total: int) -> float:
    """The `count`-th highest of all values."""
    stride = max(1, total // _SAMPLE)
    sample = torch.cat([value.reshape(-1)[::stride] for value in values]).sort(descending=True).values
    place = round(count / total * len(sample))
    margin = 0 if stride == 1 else 4 + int(6 * (len(sample) * (count / total) * (1 - count / total)) ** 0.5)
    # With all of them in the sample, the bracket is one value; else six standard deviations of a sample's quantile.
    high = float(sample[place - margin - 1]) if place - margin >= 1 else float("inf")
    low = float(sample[place + margin]) if place + margin < len(sample) else float("-inf")
    above, pieces = sum(int((value > high).sum()) for value in values), list[Tensor]()
    for value in values:
        pieces.append(value[(value <= high) & (value >= low)].view(-1))
        if sum(map(len, pieces)) > _MOST:  # many of one value, as when all start with the same
            return _by_digits(values, count)
    inside = torch.cat(pieces)
    if not above < count <= above + len(inside):  # the sample misled: strided values need not be a random sample
        return _by_digits(values, count)
    return float(inside.sort(descending=True).values[count - above - 1])


def _by_digits(values: list[Tensor], count: int) -> float:
    """The same without sorting, but of float64: how often the upper halves of float32 bits occur says in which the
    limit lies, how often the lower halves occur with that one says which it is."""
    if any(value.dtype == torch.float64 for value in values):
        return float(torch.cat([value.reshape(-1) for value in values]).sort(descending=True).values[count - 1])
    upper, left = 0, count
    for step in range(2):
        counts = torch.zeros(_DIGITS, dtype=torch.int64, device=values[0].device)
        for value in values:
            keys = _ordered(value.float().reshape(-1))
            digits = (keys >> 16) + _DIGITS // 2 if step == 0 else keys[keys >> 16 == upper] & (_DIGITS - 1)
            counts += torch.bincount(digits, minlength=_DIGITS)
        above = counts.flip(0).cumsum(0)
        place = int((above < left).sum())
        left -= int(above[place - 1]) if place else 0
        digit = _DIGITS - 1 - place
        upper = digit - _DIGITS // 2 if step == 0 else (upper << 16) + digit
    return float(_in_order(torch.tensor([upper], dtype=torch.int32)).view(torch.float32))


def _ordered(values: Tensor) -> Tensor:
    """Whole numbers (int32) in the order of float32 values; one zero instead of two."""
    return _in_order(values.view(torch.int32)).masked_fill_(values == 0, 0)


def _in_order(bits: Tensor) -> Tensor:
    """From the bits of floating-point values to numbers in their order, and back."""
    return torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
