"""What a model is to be given beside its tokens: found from its `forward` and by trying it, never from its name.

- `attention_mask` where `forward` takes one. A model without it gets batches of one length each.
- `decoder_input_ids` where `forward` names them: the token that the decoder starts from, behind which the answer is
  predicted. The prompt goes to the encoder.
- `position_ids`, counted from the first token that is no padding, where rows are padded on the left and `forward` names
  them: models with absolute or rotary positions would else count the padding. Whether left padding is exact is tried on
  two rows; where it is not, neither with nor without positions, batches are of one length each.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphir.errors import DataError

Padding = Literal["right", "left", "none"]

_TOLERANCE = 1e-3
_STARTS = ("decoder_start_token_id", "bos_token_id", "pad_token_id")


@dataclass(frozen=True, slots=True)
class InputForm:
    """How tokens are made into a model's inputs. `decoder` are the ids that its decoder starts from, if it has one."""

    padding: Padding = "right"
    mask: bool = True
    positions: bool = False
    decoder: tuple[int, ...] = ()

    def inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The inputs by name, of tokens and mask (B, S)."""
        found = {"input_ids": ids}
        if self.mask:
            found["attention_mask"] = mask
        if self.positions:
            found["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        if self.decoder:
            found["decoder_input_ids"] = torch.tensor([self.decoder] * len(ids), device=ids.device)
        return found


def find_form(model: nn.Module, *, side: str = "right", sample: Sequence[int] = (), pad: int = 0) -> InputForm:
    """The form for `model`, padded on `side` (what the tokenizer says) where that is exact.

    `sample` are ids of a text of at least two tokens; padding on the left is tried on it, filled with `pad`. Raises
    `DataError` for a decoder that does not say what it starts from.
    """
    decoder = _decoder_start(model) if takes(model, "decoder_input_ids", by_name=True) else ()
    if not takes(model, "attention_mask"):
        return InputForm("none", mask=False, decoder=decoder)
    if side != "left":
        return InputForm("right", decoder=decoder)
    named = takes(model, "position_ids", by_name=True)
    for positions in (True, False) if named else (False,):
        form = InputForm("left", positions=positions, decoder=decoder)
        if len(sample) > 1 and pads_exactly(model, form, sample, pad):
            return form
    return InputForm("none", decoder=decoder)


def takes(model: nn.Module, name: str, *, by_name: bool = False) -> bool:
    """Whether the model's `forward` takes an argument of that name; `by_name` not counting a catch-all `**kwargs`."""
    parameters = inspect.signature(model.forward).parameters
    return name in parameters or (not by_name and any(p.kind is p.VAR_KEYWORD for p in parameters.values()))


def _decoder_start(model: nn.Module) -> tuple[int, ...]:
    for config in (getattr(model, "config", None), getattr(model, "generation_config", None)):
        for name in _STARTS:
            value = getattr(config, name, None)
            if isinstance(value, int):
                return (value,)
    raise DataError(
        "the model has a decoder and does not say which token it starts from",
        ["set `decoder_start_token_id` in the model's configuration"],
    )


def pads_exactly(model: nn.Module, form: InputForm, sample: Sequence[int], pad: int) -> bool:
    """Whether a short text padded to the length of a longer one gives the output it gives alone."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    whole = torch.tensor(sample, device=device)
    short = whole[: len(whole) // 2]
    gap = len(whole) - len(short)
    alone = _last(model, form.inputs(short[None], torch.ones_like(short)[None]))
    sides = (gap, 0) if form.padding == "left" else (0, gap)
    ids = torch.stack([nn.functional.pad(short, sides, value=pad), whole])
    mask = torch.stack([nn.functional.pad(torch.ones_like(short), sides), torch.ones_like(whole)])
    position = -1 if form.padding == "left" or form.decoder else len(short) - 1
    padded = _last(model, form.inputs(ids, mask), position)
    allowed = max(_TOLERANCE, 16 * torch.finfo(alone.dtype).eps) * max(1.0, float(alone.abs().max()))
    return float((padded[0] - alone[0]).abs().max()) <= allowed


def _last(model: nn.Module, inputs: dict[str, Tensor], position: int = -1) -> Tensor:
    with torch.no_grad():
        output: Tensor = next(x for x in pytree.tree_leaves(model(**inputs)) if isinstance(x, Tensor))
    return output if output.dim() < 3 else output[:, position]


__all__ = ["InputForm", "Padding", "find_form", "pads_exactly", "takes"]
