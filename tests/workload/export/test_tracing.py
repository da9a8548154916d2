"""How far the answers of an exported graph may be from the module's."""

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
