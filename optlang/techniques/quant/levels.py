"""Levels of weights in 8 and 4 bits, with their scales and zero points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


def rounded(weight: Array, axis: int, symmetric: bool) -> tuple[Array, Array, Array]:
    """8-bit levels of `weight` with a scale and zero point for each index of `axis` (float32 and the levels' type).

    Symmetric: int8 from −127 to 127, zero point 0. Else uint8 over the range of the values and zero.
    """
    import numpy

    others = tuple(index for index in range(weight.ndim) if index != axis)
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    if symmetric:
        span, steps = numpy.abs(weight).max(axis=others), 127
    else:
        low = numpy.minimum(weight.min(axis=others), 0)
        span, steps = numpy.maximum(weight.max(axis=others), 0) - low, 255
    scale = numpy.where(span > 0, span / steps, 1).astype(numpy.float32)
    zero = numpy.zeros(scale.shape) if symmetric else numpy.rint(-low / scale)
    kind, ends = ("int8", (-127, 127)) if symmetric else ("uint8", (0, 255))
    levels = numpy.rint(weight / scale.reshape(shape)) + zero.reshape(shape)
    return numpy.clip(levels, *ends).astype(kind), scale, zero.astype(kind)


def grouped(weight: Array, axis: int, group: int, symmetric: bool) -> tuple[Array, Array, Array]:
    """4-bit levels of a matrix with a scale and zero point for each `group` inputs of each index of `axis`.

    `group` divides the inputs (0: all of them, and scales have one axis). Symmetric: int4 from -8 to 7, zero point 0,
    the scale such that the value farthest from zero is -8 (a scale may be negative). Else uint4 over the range of the
    values and zero. Scales and zero points are ONNX Runtime's (`quantize_matmul_4bits`).
    """
    import ml_dtypes
    import numpy

    lying = weight if axis == 1 else weight.T
    blocks = lying.reshape(-1, group or len(lying), lying.shape[1])  # (groups, inputs of a group, outputs)
    if symmetric:
        farthest = numpy.take_along_axis(blocks, numpy.abs(blocks).argmax(axis=1, keepdims=True), 1)
        scale = (farthest / -8).astype(numpy.float32)
    else:
        low = numpy.minimum(blocks.min(axis=1, keepdims=True), 0)
        scale = ((numpy.maximum(blocks.max(axis=1, keepdims=True), 0) - low) / 15).astype(numpy.float32)
    scale = numpy.where(scale == 0, numpy.float32(1), scale)
    zero = numpy.zeros_like(scale) if symmetric else numpy.rint(-low / scale)
    kind, ends = (ml_dtypes.int4, (-8, 7)) if symmetric else (ml_dtypes.uint4, (0, 15))
    levels = numpy.clip(numpy.rint(blocks / scale) + zero, *ends).reshape(lying.shape)
    parts = (levels, scale[:, 0], zero[:, 0])
    if axis == 0:
        parts = (parts[0].T, parts[1].T, parts[2].T)
    levels, scale, zero = (numpy.ascontiguousarray(item) for item in parts)
    if not group:
        scale, zero = scale.reshape(-1), zero.reshape(-1)
    return levels.astype(kind), scale, zero.astype(kind)
