"""Linear layers that stand for recurrent ones, at their inputs and answers, in the graph that channels are followed in.

Gates tie the hidden units of an `nn.LSTM`, `nn.GRU` or `nn.RNN` to each other in ways that the graph of gradients does
not show, over as many steps as a sample has. Its inputs are those of a linear layer, which may lose them. Its answers
come from layers that nothing is known of, so that channels that are added to them, or joined in place, stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class StandIns:
    """The stand-ins of a module's recurrent layers, which take part in its forward inside `at_work`.

    `names` are the matrices of inputs by the layers that stand for them, `closed` has why channels that reach such a
    layer stay, and `whole` are the module and the stand-ins as one module.
    """

    def __init__(self, module: nn.Module) -> None:
        from torch import nn

        self.names: dict[nn.Module, str] = {}
        self.closed: dict[nn.Module, str] = {}
        self.layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.RNNBase)}
        self._takers: dict[str, list[nn.Module]] = {name: [] for name in self.layers}
        self._states: dict[str, list[nn.Module]] = {name: [] for name in self.layers}
        self._givers: dict[str, list[nn.Module]] = {name: [] for name in self.layers}
        self._found: list[Tensor] = []
        for name, layer in self.layers.items():
            self._stand_in(name, layer)
        made = [*self.names, *self.closed]
        self.whole = nn.ModuleList([module, *dict.fromkeys(made)]) if made else module

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of the recurrent layers."""
        return [item for layer in self.layers.values() for item in layer.parameters()]

    def _stand_in(self, name: str, layer: nn.RNNBase) -> None:
        from torch import nn

        kind = called(layer)
        own = type(layer) not in (nn.LSTM, nn.GRU, nn.RNN)
        for end in ("l0", "l0_reverse")[: 2 if layer.bidirectional else 1]:
            weight = getattr(layer, f"weight_ih_{end}")
            taker = _linear(layer.input_size, 1)
            self._takers[name].append(taker)
            if own or not isinstance(weight, nn.Parameter):
                why = "a class of its own" if own else "whose weights are computed"
                self.closed[taker] = f"{name} behind it is {kind}, {why}, and its inputs stay"
                continue
            taker.weight = weight
            self.names[taker] = f"{name}.weight_ih_{end}" if name else f"weight_ih_{end}"
        hidden = layer.proj_size or layer.hidden_size
        states = [hidden, *([layer.hidden_size] if isinstance(layer, nn.LSTM) else [])]
        for size in states:
            state = _linear(size, 1)
            self._states[name].append(state)
            self.closed[state] = f"its channels are the first state of {name}, which is {kind}"
        for size in (hidden * (2 if layer.bidirectional else 1), *states):
            giver = _linear(1, size)
            self._givers[name].append(giver)
            self.closed[giver] = f"its channels go with the hidden units of {name}, which is {kind}"

    @contextmanager
    def at_work(self) -> Iterator[list[Tensor]]:
        """Within the block each run of the module adds what its stand-ins take; recurrent layers answer by theirs."""
        handles = [
            layer.register_forward_hook(self._between(name), with_kwargs=True) for name, layer in self.layers.items()
        ]
        self._found.clear()
        try:
            yield self._found
        finally:
            self._found.clear()
            for handle in handles:
                handle.remove()

    def _between(self, name: str) -> Any:
        def between(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any], answer: Any) -> Any:
            inputs, state = ([*given, *named.values(), None])[:2]
            for taker in self._takers[name]:
                self._take(taker, inputs)
            for taker, item in zip(self._states[name], state if isinstance(state, tuple) else (state,), strict=False):
                if item is not None:
                    self._take(taker, item)
            output, last = answer
            givers = self._givers[name]
            if isinstance(last, tuple):
                return _given(givers[0], output), tuple(map(_given, givers[1:], last))
            return _given(givers[0], output), _given(givers[1], last)

        return between

    def _take(self, taker: nn.Module, item: Any) -> None:
        self._found.append(taker(_data(item)))


def called(layer: nn.RNNBase) -> str:
    """The kind of a recurrent layer with its article."""
    kind = type(layer).__name__
    return f"{'a' if kind.startswith('G') else 'an'} {kind}"


def _linear(inputs: int, outputs: int) -> Any:
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):  # what is drawn for it is never used
        return nn.Linear(inputs, outputs, bias=False)


def _data(item: Any) -> Tensor:
    """The numbers of a tensor, or of sequences that are packed."""
    from torch.nn.utils.rnn import PackedSequence

    found: Tensor = item.data if isinstance(item, PackedSequence) else item
    return found


def _given(giver: nn.Module, item: Any) -> Any:
    """The same numbers, as an answer of `giver`."""
    from torch.nn.utils.rnn import PackedSequence

    found = _data(item).detach()
    made = found + 0 * giver(found.new_ones(*found.shape[:-1], 1)).nan_to_num()
    return PackedSequence(made, *item[1:]) if isinstance(item, PackedSequence) else made
