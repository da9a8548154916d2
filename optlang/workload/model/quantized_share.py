"""How much of a model's weights a technique changes, and the one rule for what is too little."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from optlang.interfaces import JSON, Refusal

LEAST = 0.5
"""A technique that changes less than this share of the weights that it was asked for fails: its name would mislead."""
HOPELESS = 0.9
"""What holds this share of the weights still holds half of them once channels were cut to a tenth, which leaves
convolutions a hundredth of their weights and a last linear layer a tenth."""
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of weights: its layer ("" for the model's own forward), the kind of that layer, its number of elements,
    and whether it is stored in fewer bits now."""

    layer: str
    kind: str
    elements: int
    quantized: bool


def share(found: Sequence[Weight]) -> float:
    """The share of the weights, by their number, that are stored in fewer bits; 0 where there are none."""
    total = sum(item.elements for item in found)
    return sum(item.elements for item in found if item.quantized) / total if total else 0.0


def depends(asked: Sequence[Weight], without: Collection[str]) -> Literal["model", "settings"]:
    """What a refusal depends on where kinds of layers in `without` stay as they are with any settings.

    On the model alone where they hold so much of the weights `asked` for that no pruning changes it.
    """
    total = sum(item.elements for item in asked)
    stays = sum(item.elements for item in asked if item.kind in without and not item.quantized)
    return "model" if stays and stays >= HOPELESS * total else "settings"


def mostly(
    asked: Sequence[Weight], what: str, help: str, *, named: bool, without: Collection[str] = ()
) -> tuple[float, list[str]]:
    """The share of the weights `asked` for that are stored in fewer bits, and the layers whose weights are not.

    Raises `Refusal` where the share is less than `LEAST`, with the largest layers that stay as they are: `what` is what
    they were to become, and `without` are the kinds of layers that no setting changes. Layers that are `named` were
    chosen deliberately, and are not refused.
    """
    done = share(asked)
    left: dict[str, int] = {}
    kinds: dict[str, str] = {}
    for item in asked:
        if not item.quantized:
            left[item.layer] = left.get(item.layer, 0) + item.elements
            kinds.setdefault(item.layer, item.kind)
    if done < LEAST and not named:
        largest = sorted(left, key=lambda layer: -left[layer])
        shown = ", ".join(f"{layer or 'forward'} ({kinds[layer]})" for layer in largest[:_SHOWN])
        more = ", …" if len(largest) > _SHOWN else ""
        raise Refusal(
            f"only {done:.0%} of the weights would be {what}: not those of {shown}{more}", help=help,
            depends=depends(asked, without),
        )
    return done, sorted(left)


def stored(quantized: float, halved: float = 0.0) -> JSON:
    """What a runtime writes into an artifact's `about["stored"]`: the shares of its weights in 8 bits or fewer, and in
    16 bits. They are the metrics `quantized` and `halved`, which an artifact without them does not have."""
    return {"quantized": quantized, "halved": halved}
