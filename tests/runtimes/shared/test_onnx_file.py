"""What is said of an ONNX file that runtimes load."""

import numpy
import onnx
import pytest
from onnx import helper, numpy_helper

from optlang.runtimes.shared.onnx_file import laid_out


@pytest.mark.parametrize(("kinds", "dtype", "there"), [
    (("Conv", "Relu"), "float32", True),
    (("Conv", "Relu"), "float16", True),
    (("Conv", "MatMul", "Softmax"), "float32", True),
    # A vision Transformer: its one convolution makes patches.
    (("Conv", "MatMul", "Softmax"), "float16", False),
    (("MatMul", "Softmax"), "float32", False),
])
def test_images_may_lie_in_another_layout(kinds, dtype, there):
    nodes = [helper.make_node(kind, ["x", "w"], [kind], kind) for kind in kinds]
    weight = numpy_helper.from_array(numpy.ones((1, 1, 1, 1), dtype=dtype), "w")
    assert laid_out(onnx.helper.make_graph(nodes, "net", [], [], [weight])) is there
