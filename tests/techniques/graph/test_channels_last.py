"""Channels-last memory: strides in memory, from disk and in eager, and where it is refused."""

import pytest
import torch
from torch import nn

from optlang.analysis.load import load
from optlang.interfaces import Refusal, TargetSpec
from optlang.runtimes.torch.eager import Eager
from optlang.techniques.graph.channels_last import channels_last
from optlang.workload.model import save
from tests.techniques.graph.trained_norms import answers, apply, start
from tests.techniques.states import STUDY

pytestmark = pytest.mark.slow

REFUSES = dict.fromkeys(("encoder", "lstm", "mlp", "rows", "tied"), "no layer is a")


class TestChannelsLast:
    @pytest.mark.parametrize("network", ["cnn", "residual", "unet"])
    def test_strides_in_memory_from_disk_and_in_eager(self, network, images, tmp_path):
        state = start(network)
        result = apply(channels_last, state, images)
        torch.testing.assert_close(answers(result, images), answers(state, images), rtol=1e-4, atol=1e-4)
        save.save(result, tmp_path / "saved")
        (tmp_path / "eager").mkdir()
        bound = images.bind(state.model)
        artifact = Eager().build(result, TargetSpec("here"), {}, tmp_path / "eager", bound, STUDY)
        session = Eager().open(artifact, TargetSpec("here"), {}, STUDY)
        seen = []
        for module in (result.model, save.load(tmp_path / "saved", STUDY).model, session._module):
            convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
            wide = [layer for layer in convolutions if layer.in_channels > 1 and layer.kernel_size != (1, 1)]
            assert wide
            assert all(layer.weight.stride(1) == 1 for layer in wide)
            hook = wide[-1].register_forward_hook(lambda _, given, answer: seen.append((given[0], answer)))
            with torch.no_grad():
                module(next(iter(bound.example(4).values())))
            hook.remove()
        session.close()
        assert len(seen) == 3
        assert all(item.is_contiguous(memory_format=torch.channels_last) for pair in seen for item in pair)

    def test_no_convolution_and_twice(self, images):
        with pytest.raises(Refusal, match="two-dimensional convolution"):
            apply(channels_last, start("mlp"), images)
        with pytest.raises(Refusal, match="already"):
            apply(channels_last, apply(channels_last, start(), images), images)

    def test_it_leaves_the_space_where_there_is_no_eager(self, tmp_path):
        text = """optlang 1
study small {
  model net  = zoo.digits_cnn()
  data  seen = zoo.digits()
  target here { runtime in { eager; onnxruntime } }
  steps { maybe channels_last }
  maximize accuracy
}
"""
        (tmp_path / "small.opt").write_text(text)
        loaded = load(tmp_path / "small.opt")
        assert not loaded.failed
        assert "onnxruntime does not run channels_last" in str(loaded.plan.impossible)
