"""Layers in int8 for eager mode: floats in, floats out, and torch's own integer kernels between them.

Weights are symmetric int8 with a scale for each output channel, activations uint8 with a scale and zero point a tensor
(Jacob et al., CVPR 2018): their range is one of calibration ("static") or that of each call. They chose nothing and
observe nothing: that is done where a model is converted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from optlang.runtimes.shared.processor import overflows
from optlang.workload import process_state

LEVELS = 127
_PLAIN = (bool, int, float, str, tuple, type(None))
_LEAST = 2.0**-40


class Int8Layer(nn.Module):
    """A layer whose weight is `integers` times `scales`, made like `old`, its numbers still to be loaded.

    `ready` packs the weights for the kernels of this processor; before that it cannot be called. `relu` is applied to
    the answer by the same kernel.
    """

    axis: int | None = 0
    """Which axis of the weight has a scale for each of its indices; None: one scale for all."""

    def __init__(self, old: Any, *, channels: bool = True, static: bool = False, relu: bool = False) -> None:
        super().__init__()
        for name, value in vars(old).items():
            if not name.startswith("_") and name != "training" and isinstance(value, _PLAIN):
                setattr(self, name, value)
        weight, bias = self.weight_of(old), getattr(old, "bias", None)
        self._shape, self.relu = tuple(weight.shape), relu
        count = self._shape[self.axis] if channels and self.axis is not None else 1
        self.register_buffer("integers", torch.zeros(self._shape, dtype=torch.int8))
        self.register_buffer("scales", torch.ones(count))
        self.register_buffer("bias", torch.zeros_like(bias, requires_grad=False) if isinstance(bias, Tensor) else None)
        # Scale and zero point of what it takes, and of what it gives.
        self.register_buffer("ranges", torch.ones(4) if static else None)
        self.integers: Tensor
        self.scales: Tensor
        self.bias: Tensor | None
        self.ranges: Tensor | None
        self._packed: Any = None
        self.eval()

    @staticmethod
    def weight_of(old: Any) -> Tensor:
        """The weight of a float layer, as this one has it."""
        weight = old.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def weight(self) -> Tensor:
        """A float tensor of the weight's shape, for code that asks for its type or device; its values are nan."""
        return torch.full((), math.nan).expand(self._shape)

    def fill(self, old: Any) -> None:
        """Take over the weight and the bias of a float layer, rounded."""
        weight = self.weight_of(old).detach()
        scales = self._spread(self.scales)
        axes = [axis for axis in range(weight.ndim) if len(self.scales) == 1 or axis != self.axis]
        self.scales.copy_((weight.abs().amax(dim=axes) / LEVELS).clamp_min(_LEAST).reshape(self.scales.shape))
        self.integers.copy_((weight / scales).round_().clamp_(-LEVELS, LEVELS))
        if self.bias is not None:
            self.bias.copy_(old.bias)

    def dequantized(self) -> Tensor:
        """The weight that the integers stand for."""
        return self.integers * self._spread(self.scales)

    def ready(self) -> None:
        """Pack the weights; the integers themselves are let go, where no other layer needs them."""
        if self._packed is None:
            # Asked once: it reads a file of the system's.
            self._reduced = overflows()
            self._packed = self.pack()
            if self.ranges is not None:
                numbers = self.ranges.tolist()
                self._given, self._answer = (numbers[0], int(numbers[1])), (numbers[2], int(numbers[3]))
            self.integers = torch.empty(0, dtype=torch.int8)

    def pack(self) -> Any:
        """The weight and the bias in the form that the kernels take."""
        raise NotImplementedError

    def _spread(self, scales: Tensor) -> Tensor:
        shape = [1] * len(self._shape)
        if len(scales) > 1:
            shape[int(self.axis or 0)] = -1
        return scales.reshape(shape)


class Int8Linear(Int8Layer):
    """A linear layer."""

    def pack(self) -> Any:
        return torch.ops.quantized.linear_prepack(quantized(self.dequantized(), self.scales, self.axis), self.bias)

    def forward(self, given: Tensor) -> Tensor:
        """Any number of axes, the last one the features."""
        kernels, answer = torch.ops.quantized, None
        if self.ranges is None:
            kernel = kernels.linear_relu_dynamic if self.relu else kernels.linear_dynamic
            answer = kernel(given, self._packed, self._reduced)
        elif self.relu:
            answer = kernels.linear_with_input_q_dq_qweight_dq_relu_output_fp32(given, *self._given, self._packed)
        else:
            answer = kernels.linear_with_input_q_dq_qweight_dq_output_fp32(given, *self._given, self._packed)
        assert isinstance(answer, Tensor)
        return answer


class Int8TransposedLinear(Int8Linear):
    """A linear layer whose weight has the inputs first, as Transformers' Conv1D."""

    @staticmethod
    def weight_of(old: Any) -> Tensor:
        return Int8Layer.weight_of(old).t()

    @property
    def weight(self) -> Tensor:
        """See `Int8Layer.weight`."""
        return torch.full((), math.nan).expand(self._shape[::-1])


class Int8Convolution(Int8Layer):
    """A convolution of rows, images or volumes, with zeros around them; static alone.

    torch's kernels of dynamic ranges (conv2d_dynamic) round their answers to the range of what they take.
    """

    name = "conv"

    def __init__(self, old: Any, **settings: Any) -> None:
        super().__init__(old, **settings)
        axes = len(self._shape) - 2
        padding = around(old)
        assert padding is not None
        self._geometry = [list(map(int, item)) for item in (old.stride, padding, old.dilation)]
        self._groups = int(old.groups)
        self._more: list[list[int]] = []
        kernels, kind = torch.ops.quantized, f"{self.name}{axes}d"
        self._prepack = getattr(kernels, f"{kind}_prepack")
        self._static = getattr(kernels, f"{kind}_relu" if self.relu else kind)

    def pack(self) -> Any:
        stride, padding, dilation = self._geometry
        weight = quantized(self.dequantized(), self.scales, self.axis)
        with _engine("fbgemm" if self.axis is None else "onednn"):
            return self._prepack(weight, self.bias, stride, padding, *self._more, dilation, self._groups)

    def forward(self, given: Tensor) -> Tensor:
        """Samples × channels × positions."""
        integers = torch.quantize_per_tensor(given, *self._given, torch.quint8)
        answer: Tensor = self._static(integers, self._packed, *self._answer).dequantize()
        return answer


class Int8TransposedConvolution(Int8Convolution):
    """A transposed convolution; torch's kernels have one scale for its weight."""

    axis = None
    name = "conv_transpose"

    def __init__(self, old: Any, **settings: Any) -> None:
        super().__init__(old, **{**settings, "relu": False})  # there is no kernel with a ReLU behind it
        self._more = [list(map(int, old.output_padding))]


class Int8Embedding(Int8Layer):
    """An embedding table; the rows that a call reads become floats."""

    def ready(self) -> None:
        self._packed = True

    def rows(self, indices: Tensor) -> Tensor:
        found = functional.embedding(indices, self.integers)
        return found * functional.embedding(indices, self.scales[:, None])

    def forward(self, indices: Tensor) -> Tensor:
        """One row for each index, in the last axis."""
        return self.rows(indices)


class Int8EmbeddingBag(Int8Embedding):
    """Sums, means or largest values of rows of an embedding table."""

    mode: str
    include_last_offset: bool

    def forward(
        self, indices: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """As nn.EmbeddingBag.forward."""
        places = torch.arange(indices.numel(), device=indices.device).reshape(indices.shape)
        return functional.embedding_bag(
            places, self.rows(indices.flatten()), offsets, mode=self.mode, per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
        )


class Int8Recurrent(nn.Module):
    """LSTM or GRU of any number of layers and directions; ranges of activations are those of each step."""

    mode: str
    num_layers: int
    hidden_size: int
    bidirectional: bool
    batch_first: bool

    def __init__(self, old: Any, *, channels: bool = True, static: bool = False, relu: bool = False) -> None:
        super().__init__()
        for name, value in vars(old).items():
            if not name.startswith("_") and name != "training" and isinstance(value, _PLAIN):
                setattr(self, name, value)
        self._names = [
            (f"weight_ih_l{layer}{way}", f"weight_hh_l{layer}{way}", f"bias_ih_l{layer}{way}", f"bias_hh_l{layer}{way}")
            for layer in range(old.num_layers) for way in (("", "_reverse") if old.bidirectional else ("",))
        ]
        for names in self._names:
            for name in names[:2]:
                weight = getattr(old, name)
                self.register_buffer(name, torch.zeros(weight.shape, dtype=torch.int8))
                self.register_buffer(f"{name}_scales", torch.ones(len(weight) if channels else 1))
            for name in names[2:]:
                self.register_buffer(name, torch.zeros(len(getattr(self, names[0]))))
        self._packed: list[Any] | None = None
        self.eval()

    def fill(self, old: Any) -> None:
        """Take over the weights and biases of a float layer, rounded."""
        for names in self._names:
            for name in names[:2]:
                weight, scales = getattr(old, name).detach(), getattr(self, f"{name}_scales")
                most = weight.abs().amax(dim=1) if len(scales) > 1 else weight.abs().amax()
                scales.copy_((most / LEVELS).clamp_min(_LEAST))
                getattr(self, name).copy_((weight / scales[:, None]).round_().clamp_(-LEVELS, LEVELS))
            for name in names[2:] if old.bias else ():
                getattr(self, name).copy_(getattr(old, name))

    def dequantized(self) -> Mapping[str, Tensor]:
        """The weights that the integers stand for, by name."""
        return {
            name: getattr(self, name) * getattr(self, f"{name}_scales")[:, None]
            for names in self._names for name in names[:2]
        }

    def ready(self) -> None:
        """Pack the weights for the kernels of this processor; the integers themselves are let go."""
        if self._packed is not None:
            return
        kernels = torch.ops.quantized
        self._packed = []
        for names in self._names:
            packed = []
            for name, bias in zip(names[:2], names[2:], strict=True):
                weight = quantized(self.dequantized()[name], getattr(self, f"{name}_scales"), 0)
                packed.append(kernels.linear_prepack(weight, getattr(self, bias)))
                setattr(self, name, torch.empty(0, dtype=torch.int8))
            biases = (getattr(self, name) for name in names[2:])
            self._packed.append(kernels.make_quantized_cell_params_dynamic(*packed, *biases, overflows()))

    def forward(self, given: Tensor, state: Any = None) -> Any:
        """As nn.LSTM or nn.GRU of samples in a batch."""
        if state is None:
            samples = given.shape[0 if self.batch_first else 1]
            zeros = given.new_zeros(len(self._names), samples, self.hidden_size)
            state = (zeros, zeros) if self.mode == "LSTM" else zeros
        settings = (True, self.num_layers, 0.0, False, self.bidirectional, self.batch_first)
        if self.mode == "LSTM":
            answer, hidden, cell = torch.quantized_lstm(
                given, tuple(state), self._packed, *settings, dtype=torch.qint8, use_dynamic=True
            )
            return answer, (hidden, cell)
        return torch.quantized_gru(given, state, self._packed, *settings)


def quantized(weight: Tensor, scales: Tensor, axis: int | None) -> Tensor:
    """A tensor of torch's own int8 type, from what integers times `scales` are: by `axis`, or one scale for all."""
    if len(scales) == 1:
        return torch.quantize_per_tensor(weight, float(scales), 0, torch.qint8)
    zeros = torch.zeros(len(scales), dtype=torch.long)
    return torch.quantize_per_channel(weight, scales.double(), zeros, int(axis or 0), torch.qint8)


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """What is packed in the block is for this library, where torch has it.

    torch's own choice takes FBGEMM for convolutions of one channel a group, whose kernel adds two products in 16 bits
    and saturates, and oneDNN for transposed convolutions, whose answers are wrong there (2.13).
    """
    before = torch.backends.quantized.engine
    if name in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def around(layer: Any) -> tuple[int, ...] | None:
    """The zeros that a convolution puts at each end of its axes; None where the two ends differ."""
    padding: Any = layer.padding
    if padding == "valid":
        return (0,) * len(layer.kernel_size)
    if padding == "same":
        whole = [step * (size - 1) for size, step in zip(layer.kernel_size, layer.dilation, strict=True)]
        return None if any(size % 2 for size in whole) else tuple(size // 2 for size in whole)
    return tuple(padding)


def ready(module: nn.Module) -> None:
    """Make the int8 layers of a module ready to be called.

    torch 2.13 announces, once in a process, that it will give up tensors of quantized types.
    """
    with process_state.quiet(remarks=[(r"torch\.quantize_per_tensor.*deprecated", UserWarning)]):
        for layer in layers_of(module):
            layer.ready()


def layers_of(module: nn.Module) -> list[Int8Layer | Int8Recurrent]:
    """The int8 layers of a module."""
    return [layer for layer in module.modules() if isinstance(layer, Int8Layer | Int8Recurrent)]
