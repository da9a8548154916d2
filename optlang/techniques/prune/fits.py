"""Says whether a model whose layers were changed still answers in the shapes that it had, in eval mode and in training.

Shapes need no numbers: where torch's meta device, which computes none, takes a model and is faster, it is asked there.
Its layers are Python: a small net with its numbers may be a hundred times as fast. That device does not see that values
do not fit the places that a mask chooses, so a model that fills such is asked with numbers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from optlang.techniques.shared import coupled, proof
from optlang.workload.failures import FAILURES, attempt, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]


class Fits:
    """The shapes of the answers of a module, which its changed copies must have too.

    Raises what the module's own forward raises.
    """

    def __init__(self, module: nn.Module, example: Mapping[str, Tensor]) -> None:
        self._module, self._example = module, dict(example)
        self._shapes = _shapes(copy.deepcopy(module).eval(), self._example)
        self._source, self._inputs = module, self._example
        self._training, fills = _trains(module, self._example)
        empty = attempt(lambda: copy.deepcopy(module).eval().to("meta"))
        inputs = {name: item.to("meta") for name, item in self._example.items()}
        if fills or isinstance(empty, Exception) or attempt(lambda: _shapes(empty, inputs)) != self._shapes:
            return
        training = proof.trains(empty, inputs)
        faster = training == self._training and _seconds(module, self._example) < _seconds(empty, inputs)
        if training is not None and not faster:
            self._source, self._inputs, self._training = empty, inputs, training

    @property
    def numbers(self) -> bool:
        """Whether the model's numbers are computed with each time."""
        return self._source is self._module

    def broken(self, change: Callable[[nn.Module], object], *, really: bool = False) -> str | None:
        """Why a copy that `change` changes in place gives no such answers; None where it does.

        `really`: with the model's numbers, and in eval mode alone.
        """
        source, inputs = (self._module, self._example) if really else (self._source, self._inputs)
        module = lent(source).eval()
        try:
            change(module)
        except FAILURES as error:
            return f"the model's code counts on its channels ({coupled.reason(error)})"
        found = attempt(lambda: _shapes(module, inputs))
        if isinstance(found, Exception):
            return f"the model's code counts on its channels ({first_line(found)})"
        if found != self._shapes:
            return "its channels are the model's outputs"
        if self._training is not None and not really and proof.trains(module, inputs) != self._training:
            return "in training mode the model's code moves its channels along another path, which is not followed"
        return None


def lent(module: nn.Module) -> nn.Module:
    """A copy of `module` whose layers can be changed, with its own parameters: a call in eval mode writes to none."""
    return copy.deepcopy(module, {id(item): item for item in module.parameters()})


def _seconds(module: nn.Module, example: Mapping[str, Tensor]) -> float:
    """What a call takes, once it was called before."""
    module = copy.deepcopy(module).eval()
    for _ in range(2):
        begin = time.perf_counter()
        _shapes(module, example)
    return time.perf_counter() - begin


def _shapes(module: nn.Module, example: Mapping[str, Tensor]) -> Shapes:
    import torch

    from optlang.workload.model.call import call

    with torch.no_grad():
        return {name: tuple(item.shape) for name, item in call(module, example).items()}


def _trains(module: nn.Module, example: Mapping[str, Tensor]) -> tuple[Shapes | None, bool]:
    """See `proof.trains`; and whether the model puts values where a tensor says then, as augmentation by masks does."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: set[str] = set()

    class Names(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.add(operator.overloadpacket.__name__.strip("_"))
            return operator(*args, **(kwargs or {}))

    with Names():  # type: ignore[no-untyped-call]
        found = proof.trains(module, example)
    return found, bool(seen & {"index_put", "index_put_impl", "masked_scatter"})
