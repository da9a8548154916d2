"""Data without labels in every form that data may have, and streams of samples."""

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from optlang.interfaces import Factory, OptlangError
from optlang.workload.data import content, dataset, mapped
from optlang.workload.data.tasks import Classification, Own, Regression, Unlabeled

INPUTS = numpy.random.default_rng(0).normal(size=(10, 3)).astype(numpy.float32)
LABELS = numpy.arange(10) % 3


class Items:
    """A map-style data set that counts how often it is read."""

    def __init__(self, samples):
        self.samples = samples
        self.read = 0

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.read += 1
        return self.samples[index]


class Stream(IterableDataset):
    fingerprint = "one"

    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        return iter(self.samples)


def given(answer, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset.imports, "find", lambda *_: lambda: answer)
    return dataset.load(Factory("mine.py:data"), tmp_path)


FORMS = {
    "array": lambda: INPUTS,
    "tensor": lambda: torch.from_numpy(INPUTS),
    "pair with None": lambda: (INPUTS, None),
    "tuple of one": lambda: (INPUTS,),
    "names": lambda: {"x": INPUTS},
    "TensorDataset": lambda: TensorDataset(torch.from_numpy(INPUTS)),
    "Dataset": lambda: Items(INPUTS),
    "Dataset of names": lambda: Items([{"x": row} for row in INPUTS]),
    "Dataset of pairs with None": lambda: Items([(row, None) for row in INPUTS]),
    "DataLoader": lambda: DataLoader(Items(INPUTS), batch_size=4),
    "DataLoader of tuples": lambda: DataLoader(TensorDataset(torch.from_numpy(INPUTS)), batch_size=4),
    "IterableDataset": lambda: Stream(INPUTS),
    "DataLoader of a stream": lambda: DataLoader(Stream(INPUTS), batch_size=4),
    "function": lambda: lambda: (row for row in INPUTS),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_inputs_alone(form, tmp_path, monkeypatch):
    data = given({"train": form(), "validation": form()}, tmp_path, monkeypatch)
    assert isinstance(data.task, Unlabeled)
    for split in ("train", "validation"):
        assert not data.labeled(split)
        assert data.size(split) == 10
        batches = list(data.batches(split, 4))
        assert [targets for _, targets in batches] == [()] * 3
        whole = numpy.concatenate([next(iter(inputs.values())).numpy() for inputs, _ in batches])
        numpy.testing.assert_array_equal(whole, INPUTS)
    arrays, targets = data.arrays("validation")
    numpy.testing.assert_array_equal(next(iter(arrays.values())), INPUTS)
    assert targets == ()
    assert next(iter(data.calibration(5, seed=1).values())).shape == (5, 3)
    assert data.held_out(3, 1, 5)[1] == ()
    assert next(iter(data.example(12).values())).shape == (12, 3)


@pytest.mark.parametrize(
    "form",
    [
        lambda: Items([{"x": row, "labels": int(label)} for row, label in zip(INPUTS, LABELS, strict=True)]),
        lambda: {"x": INPUTS, "label": LABELS},
        lambda: DataLoader(Items([{"x": a, "labels": int(b)} for a, b in zip(INPUTS, LABELS, strict=True)]), 4),
        lambda: lambda: zip(INPUTS, LABELS, strict=True),
    ],
)
def test_labels_of_dictionaries_and_streams(form, tmp_path, monkeypatch):
    data = given({"train": form(), "validation": form(), "fingerprint": "1"}, tmp_path, monkeypatch)
    assert isinstance(data.task, Classification)
    assert torch.cat([targets for _, targets in data.batches("train", 4)]).tolist() == LABELS.tolist()
    assert data.input_names[0] in ("x", "input")


def test_labels_that_mean_nothing_are_left_out(tmp_path, monkeypatch):
    zeros = torch.zeros(10).long()
    pairs = {
        "train": TensorDataset(torch.from_numpy(INPUTS), zeros), "validation": Items([(row, 0) for row in INPUTS]),
    }
    assert given(pairs, tmp_path, monkeypatch).labeled("train")
    data = given({**pairs, "labels": False}, tmp_path, monkeypatch)
    assert not data.labeled("train")
    assert not data.labeled("validation")
    with pytest.raises(OptlangError, match=r"'labels' of the data .* is a int"):
        given({**pairs, "labels": 0}, tmp_path, monkeypatch)


def test_a_task_may_say_what_answers_are(tmp_path, monkeypatch):
    class Mine:
        def loss(self, outputs, targets):
            return outputs.mean()

        def metrics(self, outputs, targets):
            return {"mean": float(outputs.mean())}

    inputs = {"train": INPUTS, "validation": INPUTS}
    assert isinstance(given({**inputs, "task": "regression"}, tmp_path, monkeypatch).task, Regression)
    with pytest.raises(OptlangError, match=r"the task is an object of your own.*'validation' has none") as caught:
        given({**inputs, "task": Mine()}, tmp_path, monkeypatch)
    assert "an autoencoder are its inputs" in caught.value.help
    data = given({"train": INPUTS, "validation": (INPUTS, INPUTS), "task": Mine()}, tmp_path, monkeypatch)
    assert isinstance(data.task, Own)
    data = given({"train": INPUTS, "validation": (INPUTS, LABELS)}, tmp_path, monkeypatch)
    assert isinstance(data.task, Classification)


def test_what_is_no_form_of_data(tmp_path, monkeypatch):
    for wrong, words in (
        (iter(INPUTS), "can be read only once"),
        (Items([(1.0, 2.0, 3.0)]), "a sample of the data's 'train' is 3 things"),
        (Items([(INPUTS[0], 1), (INPUTS[0], None)]), "some samples of the data's 'train' have a target"),
        ("text", "the data's 'train' is a str"),
        (3, "the data's 'train' is a int"),
    ):
        with pytest.raises(OptlangError, match=words):
            list(given({"train": wrong, "validation": INPUTS}, tmp_path, monkeypatch).batches("train", 4))
    data = given({"train": lambda: iter(INPUTS), "validation": INPUTS}, tmp_path, monkeypatch)
    with pytest.raises(OptlangError, match="'train' is a stream"):
        _ = data.fingerprint


def test_a_stream_says_how_long_it_is_or_is_counted(tmp_path, monkeypatch):
    passes = []

    def samples():
        passes.append(len(passes))
        return zip(INPUTS, LABELS, strict=True)

    data = given({"train": samples, "validation": samples, "fingerprint": "1"}, tmp_path, monkeypatch)
    assert data.input_names == ("input",)
    passes.clear()
    assert data.size("train") == data.size("train") == 10
    assert len(passes) == 1, "counted once"
    assert len(list(data.batches("train", 3, shuffle=True, seed=5))) == 4
    assert len(passes) == 2, "an epoch is one pass"


def test_mapped_arrays_are_read_a_batch_at_a_time(tmp_path, monkeypatch):
    path = tmp_path / "inputs.npy"
    numpy.save(path, INPUTS.astype(numpy.float64))
    seen = []
    monkeypatch.setattr(mapped, "tensor", lambda value, what: seen.append(len(value)) or torch.from_numpy(
        numpy.array(value, dtype=numpy.float32)))
    on_disk = numpy.load(path, mmap_mode="r")
    data = given({"train": (on_disk, LABELS), "validation": (on_disk, LABELS)}, tmp_path, monkeypatch)
    batches = list(data.batches("train", 4, shuffle=True, seed=1))
    assert max(seen) <= len(LABELS)
    assert sum(len(targets) for _, targets in batches) == 10
    in_memory = given({"train": (INPUTS, LABELS), "validation": (INPUTS, LABELS)}, tmp_path, monkeypatch)
    monkeypatch.setattr(content, "_AT_ONCE", 50)
    assert data.fingerprint == in_memory.fingerprint, "of the values, wherever they are"


def test_only_the_users_function_knows_the_form_of_a_loaders_samples(tmp_path, monkeypatch):
    texts = [[index + word for word in range(2 + index % 4)] for index in range(10)]

    def padded(samples):
        rows = [item["words"] if isinstance(item, dict) else item for item in samples]
        longest = max(map(len, rows))
        return {"words": torch.tensor([[*words, *[0] * (longest - len(words))] for words in rows])}

    def loaded(samples):
        loader = DataLoader(Items(samples), batch_size=4, collate_fn=padded)
        return given({"train": loader, "validation": loader}, tmp_path, monkeypatch)

    data = loaded(texts)
    assert [tuple(inputs["words"].shape) for inputs, _ in data.batches("validation", 1)] == [(4, 5), (4, 5), (2, 3)]
    assert data.fingerprint == loaded([list(words) for words in texts]).fingerprint
    others = [*texts[:-1], [9, 9, 9]]
    assert data.fingerprint != loaded(others).fingerprint
    named = [{"text": "a word", "words": words} for words in texts]
    assert loaded(named).fingerprint != loaded([{**item, "text": "a world"} for item in named]).fingerprint
    with pytest.raises(OptlangError, match="an object of the type object, whose content cannot be hashed"):
        _ = loaded([{"text": object(), "words": words} for words in texts]).fingerprint
