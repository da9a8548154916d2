"""The other models and data of the zoo: sizes by hand, shapes, splits, and that each learns its task."""

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_diabetes
from torch.nn.functional import cross_entropy

from optlang.interfaces import Context, Factory, ModelState
from optlang.techniques.training.train import train
from optlang.workload.data import dataset as data_module
from optlang.workload.model import make as making
from optlang.workload.model.call import call
from optlang.zoo.convolutional import Inverted, Shortcut, depthwise_cnn, residual_cnn
from optlang.zoo.digits import digits
from optlang.zoo.recurrent import digit_rows, recurrent
from optlang.zoo.tabular import diabetes, tabular_mlp
from optlang.zoo.transformer import digit_lines, transformer

STUDY = Path(__file__).parents[1] / "fixtures" / "models"


def count(module):
    return sum(item.numel() for item in module.parameters())


@pytest.mark.parametrize("width", [4, 16])
def test_parameters_of_the_residual_net_by_hand(width):
    def block(inputs, outputs):
        convolutions = 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs
        return convolutions + (inputs * outputs + 2 * outputs if inputs != outputs else 0)

    stem, head = 9 * width + 2 * width, 4 * width * 10 + 10
    expected = stem + block(width, width) + block(width, 2 * width) + block(2 * width, 4 * width) + head
    assert count(residual_cnn(width)) == expected
    assert residual_cnn(width)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("width", [4, 16])
def test_parameters_of_the_depthwise_net_by_hand(width):
    def block(inputs, outputs):
        wide = 4 * inputs
        return inputs * wide + 2 * wide + 9 * wide + 2 * wide + wide * outputs + 2 * outputs

    stem, last, head = 9 * width + 2 * width, 2 * width * 4 * width + 8 * width, 4 * width * 10 + 10
    expected = stem + block(width, width) + block(width, 2 * width) + block(2 * width, 2 * width) + last + head
    assert count(depthwise_cnn(width)) == expected
    assert depthwise_cnn(width)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3)])
def test_parameters_of_the_recurrent_net_by_hand(cell, gates):
    expected = gates * 64 * (8 + 64 + 2) + 64 * 10 + 10
    assert count(recurrent(cell)) == expected
    assert recurrent(cell, layers=2)(torch.zeros(3, 8, 8)).shape == (3, 10)


def test_a_cell_that_is_none():
    with pytest.raises(ValueError, match="one of lstm, gru"):
        recurrent("rnn")


def test_what_the_docstrings_say_of_the_defaults():
    said = {
        residual_cnn: 77_754, depthwise_cnn: 19_802, recurrent: 19_594, tabular_mlp: 4_929, transformer: 18_538,
    }
    assert {factory: count(factory()) for factory in said} == said
    assert all(f"{number:,} parameters" in factory.__doc__ for factory, number in said.items())


def test_one_relu_serves_a_residual_block():
    block = Shortcut(4, 4, 1)
    assert [type(item).__name__ for item in block.modules()].count("ReLU") == 1
    seen = []
    block.relu.register_forward_hook(lambda *_: seen.append(1))
    block(torch.zeros(1, 4, 8, 8))
    assert len(seen) == 2


def test_an_inverted_residual_adds_where_it_can():
    same, halved = Inverted(4, 4, 1).eval(), Inverted(4, 8, 2).eval()
    images = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in same.project.parameters():
            parameter.zero_()
        assert torch.equal(same(images), images)
        assert halved(images).shape == (2, 8, 4, 4)


def test_rows_are_the_images_of_the_digits():
    for part in ("train", "validation"):
        (images, labels), (rows, same) = digits(2)[part], digit_rows(2)[part]
        assert torch.equal(images[:, 0], rows)
        assert torch.equal(labels, same)


def test_lines_are_digits_side_by_side():
    given, images = digit_lines(seed=3), digits(seed=3)
    for part, lines in (("train", 1200), ("validation", 300)):
        inputs, wanted = given[part]
        columns, padded = inputs["columns"], inputs["padded"]
        assert (columns.shape, padded.shape, wanted.shape) == ((lines, 24, 8), (lines, 24), (lines, 24))
        assert set((~padded).sum(dim=1).tolist()) == {8, 16, 24}
        assert torch.equal(wanted == -100, padded)
        assert (columns[padded] == 0).all()
        seen, labels = (item.numpy() for item in images[part])
        known = {image.tobytes(): int(label) for image, label in zip(seen, labels, strict=True)}
        for line in range(20):
            for start in range(0, int((~padded[line]).sum()), 8):
                image = columns[line, start : start + 8].T.contiguous().numpy()
                assert wanted[line, start : start + 8].tolist() == [known[image.tobytes()]] * 8


def test_what_is_behind_a_lines_end_changes_no_answer():
    model, (inputs, wanted) = transformer().eval(), digit_lines()["validation"]
    columns = inputs["columns"][:16]
    padded = inputs["padded"][:16]
    with torch.no_grad():
        clean = model(columns, padded)
        noisy = model(columns + padded[:, :, None], padded)
    assert clean.shape == (16, 24, 10)
    assert torch.allclose(clean[~padded], noisy[~padded], atol=1e-5)
    assert float(cross_entropy(clean.transpose(1, 2), wanted[:16], ignore_index=-100)) > 0


def test_the_table_is_scaled_by_its_training_part():
    given = diabetes(seed=1)
    (train_inputs, train_targets), (inputs, targets) = given["train"], given["validation"]
    assert (len(train_inputs), len(inputs)) == (331, 111)
    assert (inputs.shape[1:], targets.shape[1:]) == ((10,), (1,))
    assert torch.allclose(train_inputs.mean(dim=0), torch.zeros(10), atol=1e-5)
    assert torch.allclose(train_targets.std(correction=0), torch.ones(1), atol=1e-5)
    progress = torch.from_numpy(load_diabetes().target)
    everything = torch.cat([train_targets, targets]).flatten().double().sort().values
    scaled = progress.sort().values
    assert torch.allclose((everything - everything.mean()) / everything.std(), (scaled - scaled.mean()) / scaled.std())


@pytest.mark.parametrize("make", [digit_rows, digit_lines, diabetes])
def test_seed_decides_the_split(make):
    one, same, other = (make(seed=seed)["validation"][1] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


LEARNED = [
    ("convolutional:residual_cnn", {"width": 8}, "digits:digits", {"epochs": 6}, "accuracy", 0.95),
    ("convolutional:depthwise_cnn", {"width": 8}, "digits:digits", {"epochs": 6, "lr": 1e-2}, "accuracy", 0.9),
    ("recurrent:recurrent", {"cell": "gru"}, "recurrent:digit_rows", {"epochs": 8, "lr": 1e-2}, "accuracy", 0.9),
    (
        "transformer:transformer", {}, "transformer:digit_lines",
        {"epochs": 8, "lr": 5e-3, "batch": 32, "schedule": "one_cycle"}, "accuracy", 0.9,
    ),
    ("tabular:tabular_mlp", {}, "tabular:diabetes", {"epochs": 10, "batch": 32}, "r2", 0.3),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "arguments", "source", "settings", "metric", "least"), LEARNED)
def test_each_learns_its_task(model, arguments, source, settings, metric, least):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        factory = Factory(f"optlang.zoo.{model}", arguments)
        data = data_module.load(Factory(f"optlang.zoo.{source}"), STUDY)
        wanted = {
            "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01, "amp": "none",
            "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
        }
        state = ModelState("module", making.make(factory, STUDY), factory)
        trained = train(state, wanted | settings, Context(data, 7, STUDY, STUDY)).model.eval()
        inputs, targets = data.bind(trained).arrays("validation")
        with torch.no_grad():
            answers = call(trained, {name: torch.from_numpy(item) for name, item in inputs.items()})
        assert data.task.metrics(answers, targets)[metric] >= least
    finally:
        torch.set_num_threads(before)
