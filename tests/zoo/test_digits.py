"""The model and data of the default study."""


import numpy
import pytest
import torch
from sklearn.datasets import load_digits

from optlang.interfaces import Context, Factory, ModelState
from optlang.techniques.training.train import train
from optlang.workload.data import dataset as data_module
from optlang.workload.model.call import call
from optlang.workload.model.make import make
from optlang.zoo.digits import cnn, digits


@pytest.mark.parametrize("width", [4, 32, 64])
def test_parameters_by_hand(width):
    expected = 9 * width + 2 * 9 * width * width + 3 * 2 * width + 10 * width + 10
    assert sum(item.numel() for item in cnn(width).parameters()) == expected
    assert cnn(width)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_the_default_has_19242_parameters():
    assert sum(item.numel() for item in cnn().parameters()) == 19_242


def test_split_is_whole_and_stratified():
    given = digits(seed=3)
    (train_images, train_labels), (images, labels) = given["train"], given["validation"]
    assert (train_images.shape, images.shape) == ((1347, 1, 8, 8), (450, 1, 8, 8))
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (train_images.min(), train_images.max()) == (0, 1)
    everything = numpy.sort(torch.cat([train_images, images]).reshape(-1, 64).numpy() * 16, axis=0)
    assert numpy.array_equal(everything, numpy.sort(load_digits().data, axis=0))
    share = numpy.bincount(labels) / numpy.bincount(torch.cat([train_labels, labels]))
    assert abs(share - 0.25).max() < 0.01


def test_seed_decides_the_split():
    one, same, other = (digits(seed=seed)["validation"][1] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_it_learns_the_digits(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        study = tmp_path
        factory = Factory("optlang.zoo.digits:cnn", {"width": 32})
        data = data_module.load(Factory("optlang.zoo.digits:digits"), study)
        settings = {
            "epochs": 15, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
            "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
        }
        state = ModelState("module", make(factory, study), factory)
        model = train(state, settings, Context(data, 7, study, study)).model
        inputs, labels = data.arrays("validation")
        with torch.no_grad():
            found = data.task.metrics(call(model, {"input": torch.from_numpy(inputs["input"])}), labels)
        assert found["accuracy"] >= 0.985
    finally:
        torch.set_num_threads(before)
