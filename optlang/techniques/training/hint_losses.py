"""What the layers of a module give while it runs, and losses that compare two modules by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Refusal

if TYPE_CHECKING:
    from torch import Tensor, nn


class Watch:
    """Keeps what each convolution and linear layer gave last, in the order in which they ran. Close it after use."""

    def __init__(self, module: nn.Module) -> None:
        from torch import nn

        self.found: dict[str, Tensor] = {}
        self.convolutions: set[str] = set()
        self._handles = []
        for name, layer in module.named_modules():
            if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
                if isinstance(layer, nn.modules.conv._ConvNd):
                    self.convolutions.add(name)
                self._handles.append(layer.register_forward_hook(self._keep(name)))

    def _keep(self, name: str) -> Any:
        def keep(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            self.found.pop(name, None)  # what ran last stands last
            self.found[name] = output.float()

        return keep

    def close(self) -> None:
        """Leave the module as it was."""
        for handle in self._handles:
            handle.remove()

    def hidden(self, whose: str) -> str:
        """The last layer before the one that answers; `Refusal` where there is none."""
        names = list(self.found)
        if len(names) < 2:
            raise Refusal(
                f"hint compares the last layer before the answering one, and the {whose} has none",
                help="leave hint at 0: the model has less than two convolutions and linear layers",
            )
        return names[-2]

    def channels_last(self, name: str) -> Tensor:
        """What the layer gave, its channels on the last axis."""
        return self.found[name].movedim(1, -1) if name in self.convolutions else self.found[name]

    def maps(self) -> dict[tuple[int, ...], str]:
        """The last convolution for each size of image larger than one pixel."""
        return {
            tuple(item.shape[2:]): name for name, item in self.found.items()
            if name in self.convolutions and item[0, 0].numel() > 1
        }


def matched(student: Watch, teacher: Watch) -> Sequence[tuple[str, str]]:
    """The convolutions whose attention can be compared, of student and teacher; `Refusal` where there are none."""
    ours, theirs = student.maps(), teacher.maps()
    pairs = [(name, theirs[size]) for size, name in ours.items() if size in theirs]
    if not pairs:
        raise Refusal(
            "attention compares convolutions, and student and teacher have none that give images of the same size",
            help="leave attention at 0, or use hint",
        )
    return pairs


def attention(given: Tensor) -> Tensor:
    """Where a convolution's output (N, C, …) is large: mean squares over the channels, of length 1 for each sample.

    Zagoruyko and Komodakis, 2017.
    """
    import torch.nn.functional as F  # noqa: N812 - the name that everybody gives it

    return F.normalize(given.square().mean(dim=1).flatten(1), dim=1)


def attention_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], pairs: Sequence[Any]) -> Tensor:
    """The squared distance of the attention maps of a sample, as a mean over samples and pairs of layers."""
    import torch

    distances = [
        (attention(student[one]) - attention(teacher[other])).square().sum(dim=1).mean() for one, other in pairs
    ]
    return torch.stack(distances).mean()
