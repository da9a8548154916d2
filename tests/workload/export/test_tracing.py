"""How far the answers of an exported graph may be from the module's."""

import copy

import pytest
import torch
from torch import nn

from optlang.workload.export import tracing


@pytest.mark.parametrize(("layers", "dtype", "share"), [
    (1, torch.float32, 1e-3), (100, torch.float32, 1e-3), (1, torch.float16, 20 * 2**-10),
    (50, torch.float16, 50 * 2**-10), (1, torch.bfloat16, 20 * 2**-7),
])
def test_deep_models_in_sixteen_bits_have_a_rounding_for_each_matrix(layers, dtype, share):
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)), nn.LayerNorm(2)).to(dtype)
    assert tracing.tolerance(module) == share


def test_a_model_without_parameters_is_as_one_in_float32():
    assert tracing.tolerance(nn.ReLU()) == 1e-3


def _chaotic(depth):
    """Layers that make rounding larger: each stretches what the one before gave over the steep part of a sine."""
    class Steep(nn.Module):
        def forward(self, item):
            return torch.sin(4 * item)

    torch.manual_seed(0)
    return nn.Sequential(*(item for _ in range(depth) for item in (nn.Linear(16, 16), Steep()))).eval()


def test_a_module_far_from_its_own_weights_allows_twice_as_much():
    module, given = _chaotic(6), torch.randn(3, 16)
    half = copy.deepcopy(module).half()
    with torch.no_grad():
        exact = copy.deepcopy(half).float()(given.half().float())
        apart = float((half(given.half()).float() - exact).abs().max() / exact.abs().max())
    assert 0.01 < apart < 0.1
    assert tracing.tolerance(half, {"input": given.half()}) == pytest.approx(max(2 * apart, 20 * 2**-10))
    assert tracing.tolerance(module, {"input": given}) == 1e-3


def test_no_module_is_so_far_that_any_answer_will_do():
    given = torch.randn(3, 16).half()
    assert tracing.tolerance(_chaotic(30).half(), {"input": given}) == 0.25
