"""Norms folded as torch itself folds them, and every way a fold would be wrong."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from optlang.interfaces import Context, Factory, ModelState, Refusal
from optlang.techniques.cast.half import half
from optlang.techniques.graph.fold import fold
from optlang.techniques.prune.channels import channels
from optlang.techniques.quant.static import static
from optlang.workload.model import save
from tests.techniques.graph.trained_norms import answers, apply, count, given, norms, start
from tests.techniques.states import NETWORKS

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
CHANNELS = {"importance": "l2", "scope": "layer", "round_to": 4, "keep": (), "only": (), "recalibrate": 0}
HALF = {"dtype": "float16", "sensitive": True, "keep": (), "only": ()}

REFUSES = {
    item: "no BatchNorm to fold" for item in NETWORKS if item not in ("cnn", "residual", "depthwise", "unet")
}

pytestmark = pytest.mark.slow


class TestFold:
    @pytest.mark.parametrize(("network", "folded"), [("cnn", 1), ("residual", 4), ("depthwise", 6), ("unet", 5)])
    def test_answers_stay_and_parameters_go(self, network, folded, images, tmp_path):
        state = start(network)
        result = apply(fold, state, images)
        assert result.notes["graph.folded"] == folded
        assert not norms(result.model)
        torch.testing.assert_close(answers(result, images), answers(state, images), rtol=1e-4, atol=1e-4)
        # A norm has a scale and a shift; a layer without a bias gets one.
        gone = sum(2 * layer.num_features for layer in norms(state.model))
        biases = sum(
            result.model.get_submodule(name).bias.numel() for name, layer in state.model.named_modules()
            if isinstance(layer, nn.Conv2d) and layer.bias is None
        )
        assert count(state.model) - count(result.model) == gone - biases
        save.save(result, tmp_path)
        assert torch.equal(answers(save.load(tmp_path, STUDY), images), answers(result, images))

    def test_the_same_weights_as_torchs_own(self, images):
        state = start("residual")
        result = apply(fold, state, images)
        for before, after in zip(state.model.blocks, result.model.blocks, strict=True):
            own = fuse_conv_bn_eval(before.first, before.first_norm)
            assert torch.equal(after.first.weight, own.weight)
            assert torch.equal(after.first.bias, own.bias)

    def test_linear_layers_and_norms_without_parameters(self, images):
        state = given(
            nn.Sequential(
                nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10),
                nn.BatchNorm1d(10, affine=False),
            )
        )
        result = apply(fold, state, images)
        assert result.notes["graph.folded"] == 2
        torch.testing.assert_close(answers(result, images), answers(state, images), rtol=1e-4, atol=1e-4)

    def test_then_pruned_or_int8(self, images, tmp_path):
        folded = apply(fold, start("residual"), images)
        settings = CHANNELS | {"ratio": 0.5}
        pruned = apply(channels, folded, images, settings=settings)
        save.save(pruned, tmp_path / "saved")
        assert torch.equal(answers(save.load(tmp_path / "saved", STUDY), images), answers(pruned, images))
        settings = {
            "calibrator": "minmax", "percentile": None, "bins": None, "samples": 64, "granularity": "auto",
            "bias_correction": False, "keep": (), "only": (),
        }
        assert apply(static, folded, images, tmp_path, settings).notes["quantize.weights"] > 0.95

    def test_then_cast(self, images, tmp_path):
        result = apply(half, apply(fold, start("residual"), images), images, settings=HALF)
        save.save(result, tmp_path)
        assert torch.equal(answers(save.load(tmp_path, STUDY), images), answers(result, images))

    def test_norms_that_are_not_trained_hide_no_mistake(self, images):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 10)

            def forward(self, image):
                y = self.conv(image)
                return self.head((self.norm(y) + y).mean(dim=(2, 3)))

        state = ModelState("module", Twice().eval(), Factory("networks.py:cnn"))
        with pytest.raises(Refusal, match="something else takes what conv gives"):
            apply(fold, state, images)

    @pytest.mark.parametrize(
        ("layers", "reason"),
        [
            ([nn.Conv2d(1, 8, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(8)], "2 does not follow"),
            ([nn.Conv2d(1, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)], "2 does not follow"),
            ([nn.BatchNorm2d(1), nn.Conv2d(1, 8, 3)], "0 does not follow"),
            ([nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)], "1 has no running statistics"),
            ([nn.Conv2d(1, 8, 3), nn.ReLU()], "the model has none"),
        ],
    )
    def test_what_is_no_fold(self, layers, reason, images):
        with pytest.raises(Refusal, match=reason):
            apply(fold, given(nn.Sequential(*layers)), images)

    def test_an_activation_within_a_norm_stays(self, images):
        class Active(nn.BatchNorm2d):
            def __init__(self, channels):
                super().__init__(channels)
                self.drop, self.act = nn.Identity(), nn.Hardswish()

            def forward(self, given):
                return self.act(self.drop(super().forward(given)))

        state = given(nn.Sequential(nn.Conv2d(1, 8, 3), Active(8), nn.Flatten(), nn.Linear(288, 10)))
        result = apply(fold, state, images)
        assert result.notes["graph.folded"] == 1
        assert [(name, type(item)) for name, item in result.model[1].named_modules()][1:] == [("act", nn.Hardswish)]
        torch.testing.assert_close(answers(result, images), answers(state, images), rtol=1e-4, atol=1e-4)

    def test_a_deep_net_that_makes_much_of_rounding(self, images):
        layers = [item for _ in range(40) for item in (nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Tanh())]
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 8, 3), *layers, nn.Flatten(), nn.Linear(288, 10))
        with torch.no_grad():
            for item in net:
                if isinstance(item, nn.Conv2d):
                    item.weight.mul_(6)
        assert apply(fold, given(net), images).notes["graph.folded"] == 40

    def test_half_of_them(self, images):
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 10)
        )
        result = apply(fold, given(net), images)
        assert (result.notes["graph.folded"], len(norms(result.model))) == (1, 1)

    def test_after_a_cast(self, images):
        with pytest.raises(Refusal, match="16 bits"):
            apply(fold, apply(half, start(), images, settings=HALF), images)


class TestFaults:
    """Only what a changed model raises means that it answers otherwise."""

    @pytest.mark.parametrize(("error", "passes"), [
        (MemoryError(), True), (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (KeyboardInterrupt(), True), (LookupError("a fault"), True), (RuntimeError("shapes"), False),
        (AttributeError("relu"), False),
    ])
    def test_what_is_no_answer(self, error, passes):
        from optlang.workload.failures import attempt

        def run():
            raise error

        if passes:
            with pytest.raises(type(error)):
                attempt(run)
        else:
            assert attempt(run) is error

    def test_memory_that_runs_out_while_a_fold_is_proved_is_no_norm_that_cannot_be_folded(self, images):
        class Large(nn.Sequential):
            def forward(self, image):
                if not isinstance(self[1], nn.BatchNorm2d):
                    raise MemoryError
                return super().forward(image)

        net = Large(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)).eval()
        with pytest.raises(MemoryError):
            fold(ModelState("module", net, Factory("x:y")), {}, Context(images, 1, Path(), STUDY))
