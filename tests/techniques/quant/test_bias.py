"""Biases corrected by what rounded weights do to their layers' means."""

from dataclasses import replace

import numpy
import onnxruntime
import pytest
import torch

from optlang.interfaces import Refusal
from tests.techniques.quant.integers import WANTS, constants, quantized
from tests.techniques.states import start


@pytest.fixture(scope="module")
def images(many_images):
    return many_images


@pytest.mark.slow
class TestBiasCorrection:
    def test_the_shift_is_the_change_of_the_weights_times_the_mean_input(self, images, tmp_path):
        state = start("mlp")
        wants = replace(WANTS, per_channel=False, reduced=True)
        result, model = quantized(state, images, tmp_path / "corrected", wants, samples=1200, bias_correction=True)
        _, plain = quantized(state, images, tmp_path / "plain", wants, samples=1200)
        assert result.notes["quantize.corrected"] == 3
        pixels = images.arrays("train")[0]["input"].reshape(-1, 64)
        weight = state.model[1].weight.detach().numpy()
        scale = numpy.abs(weight).max() / 64
        shift = (numpy.rint(weight / scale) * scale - weight) @ pixels.mean(axis=0)
        found = []
        for item in (model, plain):
            held = constants(item)
            producer = {name: node for node in item.graph.node for name in node.output}
            node = next(node for node in item.graph.node if node.op_type == "Gemm")
            bias = producer[node.input[2]]
            found.append((held[bias.input[0]] * held[bias.input[1]], float(held[bias.input[1]].max())))
        (corrected, step), (before, _) = found
        assert numpy.abs((before - corrected) - shift).max() <= 1.01 * step
        assert numpy.abs(shift).max() > 5 * step

    @pytest.mark.parametrize("network", ["cnn", "residual", "rows"])
    def test_means_of_the_answers_come_nearer_to_the_float_ones(self, trained, images, tmp_path, network):
        state = trained(network)
        wants = replace(WANTS, per_channel=False, reduced=True)
        pixels = images.arrays("train")[0]["input"]
        with torch.no_grad():
            wanted = state.model(torch.from_numpy(pixels)).numpy()
        off = []
        for corrected in (False, True):
            result, _ = quantized(
                state, images, tmp_path / str(corrected), wants, samples=1200, bias_correction=corrected
            )
            session = onnxruntime.InferenceSession(str(result.model), providers=["CPUExecutionProvider"])
            answers = session.run(None, {session.get_inputs()[0].name: pixels})[0]
            off.append(float(numpy.abs((answers - wanted).mean(axis=0)).mean()))
        assert off[1] < off[0]

    def test_nothing_to_correct(self, images, tmp_path):
        with pytest.raises(Refusal, match="bias can be corrected"):
            quantized(start("unbiased"), images, tmp_path, bias_correction=True)
