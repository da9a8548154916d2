"""The user's data in every form that the contract allows, and the errors for those that it does not."""

from pathlib import Path

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from optlang.interfaces import Factory, OptlangError
from optlang.plan.axes import AxisSizes
from optlang.workload import imports
from optlang.workload.data import dataset as data_module
from optlang.workload.data.dataset import load

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
INPUTS = numpy.arange(20, dtype=numpy.float32).reshape(10, 2)
LABELS = numpy.arange(10) % 3


class Pairs(Dataset):
    """Ten samples, one by one."""

    def __init__(self, shift=0.0, noisy=False):
        self.shift, self.noisy = shift, noisy

    def __len__(self):
        return 10

    def __getitem__(self, index):
        noise = torch.rand(2) if self.noisy else torch.zeros(2)
        return torch.from_numpy(INPUTS[index]) + self.shift + noise, int(LABELS[index])


@pytest.fixture
def given(monkeypatch, tmp_path):
    """Load what a data factory answers."""

    def loaded(answer) -> data_module.Dataset:
        monkeypatch.setattr(data_module.imports, "find", lambda calls, study: lambda: answer)
        return load(Factory("mine.py:samples"), tmp_path)

    return loaded


def whole(**changed):
    return {"train": (INPUTS, LABELS), "validation": (INPUTS[:4], LABELS[:4])} | changed


def rows(data, part="train", **options):
    batches = list(data.batches(part, 4, **options))
    return torch.cat([next(iter(inputs.values())) for inputs, _ in batches]), torch.cat([item for _, item in batches])


class TestForms:
    @pytest.mark.parametrize(
        "part",
        [
            (INPUTS, LABELS),
            [torch.from_numpy(INPUTS), torch.from_numpy(LABELS)],
            (INPUTS.tolist(), LABELS.tolist()),
            (INPUTS.astype(numpy.float64), LABELS.astype(numpy.uint8)),
            (INPUTS[:, ::-1][:, ::-1], LABELS.astype(numpy.uint16)),
            TensorDataset(torch.from_numpy(INPUTS), torch.from_numpy(LABELS)),
            Pairs(),
            [(INPUTS[index], LABELS[index]) for index in range(10)],
            DataLoader(Pairs(), batch_size=3),
        ],
        ids=["arrays", "tensors", "lists", "float64", "strided", "tensor_dataset", "dataset", "pairs", "loader"],
    )
    def test_all_give_the_same_batches_and_arrays(self, given, part):
        data = given(whole(train=part))
        inputs, labels = rows(data)
        assert torch.equal(inputs, torch.from_numpy(INPUTS))
        assert (inputs.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert labels.tolist() == LABELS.tolist()
        assert data.size("train") == 10
        arrays, targets = data.arrays("train")
        assert numpy.array_equal(arrays["input"], INPUTS)
        assert targets.tolist() == LABELS.tolist()
        assert data.arrays("train", limit=7)[0]["input"].shape == (7, 2)
        assert data.example(13)["input"].tolist() == [*INPUTS.tolist(), *INPUTS[:3].tolist()]
        assert data.example(1)["input"].shape == (1, 2)
        assert data.calibration(6, seed=1)["input"].shape == (6, 2)
        assert data.calibration(60, seed=1)["input"].shape == (10, 2)

    @pytest.mark.parametrize("part", [(INPUTS, LABELS), Pairs()], ids=["arrays", "dataset"])
    def test_order_follows_the_seed(self, given, part):
        data = given(whole(train=part))
        first, labels = rows(data, seed=1, shuffle=True)
        again, _ = rows(data, seed=1, shuffle=True)
        other, _ = rows(data, seed=2, shuffle=True)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert sorted(first[:, 0].tolist()) == INPUTS[:, 0].tolist()
        assert [int(row[0]) // 2 % 3 for row in first] == labels.tolist()

    def test_a_loader_keeps_its_batches_and_draws_from_the_seed(self, given):
        data = given(whole(train=DataLoader(Pairs(noisy=True), batch_size=3, shuffle=True, drop_last=True)))
        sizes = [len(labels) for _, labels in data.batches("train", 4)]
        assert sizes == [3, 3, 3]
        assert data.size("train") == 9
        torch.manual_seed(0)
        first, _ = rows(data, seed=1, shuffle=True)
        again, _ = rows(data, seed=1, shuffle=True)
        other, _ = rows(data, seed=2, shuffle=True)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_augmentation_is_repeatable_and_leaves_the_process_alone(self, given):
        data = given(whole(train=Pairs(noisy=True)))
        state = torch.get_rng_state()
        first, _ = rows(data, seed=1)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(first, rows(data, seed=1)[0])
        assert not torch.equal(first, rows(data, seed=2)[0])

    def test_a_stream_is_counted(self, given):
        class Stream(IterableDataset):
            def __iter__(self):
                return iter([(torch.ones(2), 1)] * 5)

        data = given(whole(train=DataLoader(Stream(), batch_size=2)))
        assert data.size("train") == 5
        assert data.calibration(3, seed=0)["input"].shape == (3, 2)

    def test_calibration_prefers_its_own_part(self, given):
        data = given(whole(calibration=(INPUTS + 100, LABELS)))
        assert data.calibration(5, seed=0)["input"].min() >= 100
        assert given(whole()).calibration(5, seed=0)["input"].min() < 100

    def test_calibration_follows_the_seed(self, given):
        data = given(whole())
        one, same, other = (data.calibration(5, seed=seed)["input"] for seed in (1, 1, 2))
        assert numpy.array_equal(one, same)
        assert not numpy.array_equal(one, other)

    def test_regression_targets_become_float32(self, given):
        data = given({"train": (INPUTS, LABELS), "validation": (INPUTS, LABELS / 2), "task": "regression"})
        assert rows(data)[1].dtype == rows(data, "validation")[1].dtype == torch.float32


class Two(nn.Module):
    def forward(self, left, right, scale=None):
        return left + right


class TestNames:
    def test_of_a_tuple_and_a_dictionary(self, given):
        both = given(whole(train=((INPUTS, INPUTS), LABELS), validation=((INPUTS, INPUTS), LABELS)))
        assert both.input_names == ("input_0", "input_1")
        bound = both.bind(Two())
        assert bound.input_names == ("left", "right")
        assert list(bound.example(2)) == ["left", "right"]
        assert both.input_names == ("input_0", "input_1")
        named = {"right": INPUTS, "left": INPUTS * 2}
        by_name = given(whole(train=(named, LABELS), validation=(named, LABELS)))
        assert by_name.bind(Two()).input_names == ("right", "left")
        inputs, _ = next(by_name.batches("train", 4))
        assert torch.equal(inputs["left"], 2 * inputs["right"])

    def test_a_dataset_of_dictionaries(self, given):
        class Named(Dataset):
            def __len__(self):
                return 6

            def __getitem__(self, index):
                return {"left": INPUTS[index], "right": index}, index % 2

        data = given(whole(train=Named()))
        assert data.bind(Two()).example(4)["right"].tolist() == [0, 1, 2, 3]

    def test_given_by_an_artifact(self, given):
        assert given(whole()).bind(["x"]).input_names == ("x",)

    def test_a_model_of_any_arguments(self, given):
        class Anything(nn.Module):
            def forward(self, *values, **named):
                return values[0]

        assert given(whole()).bind(Anything()).input_names == ("input",)

    def test_what_does_not_fit(self, given):
        three = (INPUTS,) * 4
        with pytest.raises(OptlangError, match="gives 4 inputs, and the model takes 3"):
            given(whole(train=(three, LABELS))).bind(Two())
        with pytest.raises(OptlangError, match="forward takes left, right, scale") as error:
            given(whole(train=({"lefft": INPUTS}, LABELS))).bind(Two())
        assert error.value.help == "did you mean 'left'?"


class TestErrors:
    @pytest.mark.parametrize(
        ("answer", "words", "way_out"),
        [
            ([1], "returned a list, not a dictionary", "validation"),
            ({"train": (INPUTS, LABELS)}, "returned no 'validation'", "validation"),
            ({"validation": (INPUTS, LABELS)}, "returned no 'train'", "train"),
            (whole(val=1), "'val', which is not a key", "did you mean 'validation'"),
            (whole(train=(INPUTS, LABELS, 3)), "'train' is a tuple", "pair"),
            (whole(train=5), "'train' is a int", "pair"),
            (whole(train=iter([1])), "can be read only once", "function"),
            (whole(train=(INPUTS[:7], LABELS)), "different lengths: 7, 10", "first axis"),
            (whole(train=(INPUTS[:0], LABELS[:0])), "'train' is empty", "at least one"),
            (whole(train=[]), "'train' is empty", "at least one"),
            (whole(train=(numpy.float32(1), LABELS)), "single number", "first axis"),
            (whole(train=(numpy.array(["a"] * 10), LABELS)), "array of <U1", "numbers"),
            (whole(train=(INPUTS, LABELS / 1)), "float32, and classification", "regression"),
            (whole(train=(INPUTS, -LABELS)), "negative", "from 0"),
            (whole(task="clasification"), "no task 'clasification'", "classification"),
            (whole(task=object()), "without loss and metrics", "loss"),
            (whole(train=[(1, 2, 3)] * 5), "a sample of the data's 'train' is 3 things", "pair"),
            (whole(train=[(object(), 1)] * 3), "cannot be stacked", "collate_fn"),
            (
                whole(train=DataLoader([(torch.zeros(size), 1) for size in (2, 3)], 2)),
                r"the DataLoader of the data's 'train' cannot stack samples of different shapes: got \[2\]", "pads",
            ),
            (whole(train=DataLoader(["a", "b"])), "is an array of <U1", "numbers"),
        ],
    )
    def test_wrong_answers(self, given, answer, words, way_out):
        with pytest.raises(OptlangError, match=words) as error:
            list(given(answer).batches("train", 4))
        assert way_out in error.value.help

    def test_a_split_that_is_not_there(self, given):
        with pytest.raises(OptlangError, match="no 'test' split"):
            given(whole()).arrays("test")

    def test_a_dataset_that_raises_names_the_users_line(self, tmp_path):
        (tmp_path / "mine.py").write_text(
            "class Broken:\n    def __len__(self):\n        return 3\n\n    def __getitem__(self, index):\n"
            "        return [][index]\n\ndef samples():\n    return {'train': Broken(), 'validation': Broken()}\n",
            encoding="utf-8",
        )
        with pytest.raises(imports.UserCodeError, match="IndexError") as error:
            load(Factory("mine.py:samples"), tmp_path)
        assert "mine.py:6: in __getitem__" in error.value.details


class TestFingerprint:
    def test_of_arrays_is_their_content(self, given):
        one = given(whole()).fingerprint
        assert one == given(whole(train=(INPUTS.copy(), LABELS.copy()))).fingerprint
        changed = INPUTS.copy()
        changed[9, 1] += 1e-3
        assert one != given(whole(train=(changed, LABELS))).fingerprint
        assert one != given(whole(train=(INPUTS.reshape(10, 1, 2), LABELS))).fingerprint
        assert one != given(whole(task="regression")).fingerprint
        assert one != given(whole(test=(INPUTS, LABELS))).fingerprint

    def test_of_a_dataset_is_its_samples(self, given):
        one = given(whole(train=Pairs())).fingerprint
        assert one == given(whole(train=Pairs())).fingerprint
        assert one != given(whole(train=Pairs(shift=1.0))).fingerprint

    def test_of_a_dataset_that_changes_must_be_said(self, given):
        data = given(whole(train=Pairs(noisy=True)))
        with pytest.raises(OptlangError, match="has no fingerprint") as error:
            _ = data.fingerprint
        assert "fingerprint" in error.value.help
        said = Pairs(noisy=True)
        said.fingerprint = "v1"
        one = given(whole(train=said)).fingerprint
        said.fingerprint = "v2"
        assert one != given(whole(train=said)).fingerprint
        assert given(whole(train=Pairs(noisy=True), fingerprint="x")).fingerprint

    def test_of_a_loader(self, given):
        one = given(whole(train=DataLoader(Pairs(), batch_size=2))).fingerprint
        assert one == given(whole(train=DataLoader(Pairs(), batch_size=2))).fingerprint
        assert one != given(whole(train=DataLoader(Pairs(), batch_size=5))).fingerprint

    def test_of_the_users_task_is_its_class_and_settings(self, given):
        class Weighted:
            def __init__(self, weight):
                self.weight = weight

            def loss(self, outputs, targets):
                return outputs.sum()

            def metrics(self, outputs, targets):
                return {"m": 1.0}

        one, same, other = (given(whole(task=Weighted(weight))).fingerprint for weight in (0.5, 0.5, 0.7))
        assert one == same != other


def test_real_data_from_a_users_file():
    data = load(Factory("networks.py:diabetes"), MODELS)
    assert (data.task.name, data.size("train"), data.size("validation")) == ("regression", 300, 142)
    assert data.arrays("train")[0]["input"].dtype == numpy.float32


def test_preprocessing_is_told_to_whoever_deploys(given):
    assert given(whole()).preprocessing is None
    assert given(whole(preprocessing={"scale": 1 / 16})).preprocessing == {"scale": 1 / 16}
    with pytest.raises(OptlangError, match=r"'preprocessing' of .* is not plain JSON"):
        given(whole(preprocessing=object()))


class Lines(Dataset):
    """Tokens of 5 to 11, a label each; `several` gives a label to each token."""

    def __init__(self, several=False):
        self.several = several

    def __len__(self):
        return 30

    def __getitem__(self, index):
        tokens = torch.full((5 + index % 7,), index)
        return tokens, tokens % 2 if self.several else index % 2


def padded(samples):
    tokens = nn.utils.rnn.pad_sequence([tokens for tokens, _ in samples], batch_first=True)
    labels = [label for _, label in samples]
    if isinstance(labels[0], torch.Tensor):
        return tokens, nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    return tokens, torch.tensor(labels)


class TestSamplesOfDifferentShapes:
    def test_batches_of_a_loader_keep_their_widths(self, given):
        data = given(whole(train=DataLoader(Lines(), 4, collate_fn=padded), validation=Lines()))
        widths = [inputs["input"].shape for inputs, _ in data.batches("train", 99)]
        assert widths[:2] == [(4, 8), (4, 11)]
        inputs, targets = data.arrays("train")
        assert [len(item) for item in inputs["input"][:6]] == [8, 8, 8, 8, 11, 11]
        assert targets.tolist() == [index % 2 for index in range(30)]
        assert len(data.calibration(5, 0)["input"]) == 5

    def test_batches_as_long_as_each_other_hide_no_axis(self, given):
        data = given(whole(train=DataLoader(Lines(), 30, collate_fn=padded), validation=DataLoader(
            Lines(), 30, collate_fn=padded
        )))
        assert {inputs["input"].shape for inputs, _ in data.batches("train", 99)} == {(30, 11)}
        [axis] = data.axes
        assert (axis.low, axis.usual, axis.high) == (5, 8, 11)
        assert data.example(2)["input"].shape == (2, 8)

    def test_a_collate_function_that_takes_no_single_sample_shows_its_batches(self, given):
        def several(samples):
            assert len(samples) > 1
            return padded(samples)

        data = given(whole(train=DataLoader(Lines(), 4, collate_fn=several, drop_last=True), validation=DataLoader(
            Lines(), 4, collate_fn=several, drop_last=True
        )))
        [axis] = data.axes
        assert (axis.low, axis.high) == (8, 11)

    def test_samples_of_a_dataset_are_batched_by_shape_without_padding(self, given):
        data = given(whole(train=Lines()))
        batches = [inputs["input"] for inputs, _ in data.batches("train", 3, seed=1, shuffle=True)]
        assert max(len(item) for item in batches) == 3
        assert sorted(row for item in batches for row in item[:, 0].tolist()) == list(range(30))
        assert all(item.shape[1] == 5 + row % 7 for item in batches for row in item[:, 0].tolist())

    def test_targets_that_differ_in_size_are_filled_up_with_what_does_not_count(self, given):
        data = given(whole(train=Lines(several=True), validation=Lines(several=True), task="sequence"))
        inputs, targets = data.arrays("validation")
        assert targets.shape == (30, 11)
        for tokens, labels in zip(inputs["input"], targets, strict=True):
            assert labels[: len(tokens)].tolist() == (tokens % 2).tolist()
            assert set(labels[len(tokens) :].tolist()) <= {-100}

    def test_examples_have_the_shape_of_the_sample_in_the_middle_or_the_one_asked_for(self, given):
        data = given(whole(train=Lines(), validation=Lines()))
        (axis,) = data.axes
        assert (axis.name, axis.low, axis.usual, axis.high) == ("input_1", 5, 8, 11)
        assert data.example(9)["input"].shape == (9, 8)
        assert data.example(2, {"input_1": 11})["input"][:, 0].tolist() == [6, 13]
        # No sample has 40: the usual ones are repeated along the axis.
        assert data.example(2, {"input_1": 40})["input"].shape == (2, 40)
        assert data.bind(["tokens"]).axes[0].text == "tokens:1"

    def test_another_example_has_the_next_size(self, given):
        data = given(whole(train=Lines(), validation=Lines())).bind(["tokens"])
        assert {name: item.shape for name, item in data.other_example(6).items()} == {"tokens": (6, 9)}
        assert data.opened([], [AxisSizes("tokens", 1, 11, 11)]).other_example(6) is None
        assert given(whole()).other_example(6) is None

    def test_a_declared_axis_is_open_though_all_samples_have_one_size(self, given):
        data = given(whole())
        assert data.axes == ()
        (axis,) = data.opened([AxisSizes("input", 1, 1, 9)]).bind(["x"]).opened([AxisSizes("x", 1, 1, 9)]).axes
        assert (axis.name, axis.low, axis.usual, axis.high) == ("x_1", 1, 2, 9)

    def test_an_axis_that_the_factory_opens_is_open_on_each_target(self, given):
        data = given(whole(dynamic=["x:1 = 1..9"])).bind(["x"])
        data.check_own_axes()
        assert data.declared == (AxisSizes("x", 1, 1, 9),)
        assert [(axis.text, axis.low, axis.high) for axis in data.axes] == [("x:1", 1, 9)]
        opened = data.opened([AxisSizes("x", 1, 1, 20)])
        assert [(axis.text, axis.low, axis.high) for axis in opened.bind(["y"]).axes] == [("y:1", 1, 20)]
        assert given(whole()).fingerprint != data.fingerprint == opened.fingerprint

    def test_an_axis_that_the_factory_opens_and_no_input_has(self, given):
        data = given(whole(dynamic=["tokens:1"])).bind(["token"])
        with pytest.raises(OptlangError, match="the data's 'dynamic' names the input `tokens`, and the") as error:
            data.check_own_axes()
        assert error.value.help == 'did you mean "token:1"?'
        with pytest.raises(OptlangError, match="the data's 'dynamic' names axis 2 of `x`, which has the axes 1 to 1"):
            given(whole(dynamic=["x:2"])).bind(["x"]).check_own_axes()

    def test_shapes_that_differ_late_are_seen_once_all_of_a_split_was_read(self, given):
        rows = [(torch.zeros(3), 0)] * 40 + [(torch.zeros(5), 1)]
        data = given(whole(train=rows, validation=DataLoader(rows, 1)))
        assert data.axes == ()
        assert data.bind(["x"]).arrays("validation")[0]["x"].dtype == object
        assert [(axis.low, axis.high) for axis in data.bind(["x"]).axes] == [(3, 5)]

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            (
                [(torch.zeros(3), 0), (torch.zeros(2, 3), 0)],
                r"the inputs of 'train' are of the shape \[3\] in some batches and of the shape \[2, 3\] in others",
            ),
            (
                [({"x": torch.zeros(3)}, 0), ({"x": torch.zeros(3), "y": torch.zeros(3)}, 0)],
                r"are x of the shapes \[3\] in some batches and x, y of the shapes \[3\], \[3\] in others",
            ),
            ([(torch.zeros(3), torch.tensor(0)), (torch.zeros(3), torch.tensor([0]))], "the targets of 'train' are of"),
        ],
    )
    def test_what_cannot_be_put_together_is_named_with_its_part_and_shapes(self, given, rows, words):
        data = given(whole(train=[*rows, rows[0]]))
        with pytest.raises(OptlangError, match=words) as error:
            data.arrays("train")
        assert "the sizes of axes may differ" in error.value.help
