"""Ranges of activations: the calibrators against ONNX Runtime's own and against a finer grid."""

import contextlib
import io

import numpy
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from optlang.techniques.quant.calibrators import EntropyCollector, SquaredErrorCollector


class TestEntropy:
    @pytest.mark.parametrize("bins", [128, 512, pytest.param(2048, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("shape", ["normal", "relu", "outlier", "few"])
    def test_the_same_range_as_onnx_runtimes(self, bins, shape):
        generator = numpy.random.default_rng(1)
        values = generator.normal(size=5000).astype(numpy.float32)
        if shape == "relu":
            values = numpy.maximum(values, 0)
        elif shape == "outlier":
            values[0] = 40
        elif shape == "few":
            values = values[:5]
        found = []
        for kind in (HistogramCollector, EntropyCollector):
            collector = kind("entropy", False, bins, 128, 99.99, "same")
            with contextlib.redirect_stdout(io.StringIO()):
                collector.collect({"t": [values]})
                collector.collect({"t": [values * 1.5]})
            histogram = collector.histogram_dict["t"]
            with numpy.errstate(all="ignore"):
                found.append(tuple(float(end) for end in collector.get_entropy_threshold(histogram, 128)))
        assert found[0] == found[1]


class TestSquaredError:
    @pytest.mark.parametrize("shape", ["normal", "relu", "outlier"])
    @pytest.mark.parametrize("symmetric", [False, True])
    def test_no_range_of_a_finer_grid_loses_much_less(self, shape, symmetric):
        generator = numpy.random.default_rng(1)
        values = generator.normal(size=20000).astype(numpy.float32)
        if shape == "relu":
            values = numpy.maximum(values, 0)
        elif shape == "outlier":
            values[0] = 20
        collector = SquaredErrorCollector("entropy", symmetric, 2048, 128, 99.99, "same")
        with contextlib.redirect_stdout(io.StringIO()):
            collector.collect({"t": [values]})
        low, high = map(float, collector.get_entropy_threshold(collector.histogram_dict["t"], 128))

        def lost(low, high):
            step = (high - low) / 255
            zero = round(-low / step)
            back = (numpy.clip(numpy.rint(values / step) + zero, 0, 255) - zero) * step
            return float(((values - back) ** 2).mean())

        least, most = min(0.0, float(values.min())), float(values.max())
        if symmetric:
            least, most = -max(-least, most), max(-least, most)
        grid = [(share * least, other * most) for share in numpy.linspace(0.1, 1, 40)
                for other in numpy.linspace(0.1, 1, 40) if not symmetric or share == other]
        assert lost(low, high) <= 1.05 * min(lost(*pair) for pair in grid)
        assert lost(low, high) <= 1.01 * lost(least, most)
        if shape == "outlier":
            assert lost(low, high) < 0.95 * lost(least, most)
