"""Distillation: the losses by hand, who teaches whom, and what is refused."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from optlang.interfaces import Context, Factory, ModelState, OptlangError, Refusal
from optlang.techniques.prune.channels import channels
from optlang.techniques.shared.labels import apart
from optlang.techniques.training import hint_losses
from optlang.techniques.training.distill import distill, ensemble
from optlang.techniques.training.train import train
from optlang.workload.data import dataset as data_module
from optlang.workload.data.tasks import Classification, Regression, Sequence, task_of
from optlang.workload.model.call import call
from optlang.workload.model.make import make
from tests.techniques.states import STUDY, start

REFUSES = {"tied": r"first\.weight and second\.weight are one weight"}

CHANNELS = {"importance": "l2", "scope": "layer", "round_to": 4, "keep": (), "only": (), "recalibrate": 0}
TRAINING = {
    "epochs": 2, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
    "momentum": 0.9, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}
SETTINGS = TRAINING | {
    "student": None, "teacher": None, "teachers": None, "width": 0.5, "start": "kept", "alpha": 0.5,
    "temperature": 4.0, "hint": 0.0, "attention": 0.0,
}


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images", {"count": 200}), STUDY)


def run(state, data, teacher=None, seed=1, **changed):
    context = Context(data, seed, Path(), STUDY, baseline=lambda: teacher or state)
    return distill(state, SETTINGS | changed, context)


def weights(state):
    return torch.cat([item.detach().flatten() for item in state.model.parameters()])


class TestSoftLoss:
    def test_classes_by_hand(self):
        student, teacher = torch.randn(5, 4), torch.randn(5, 4)
        labels = torch.tensor([0, 1, 2, 3, 0])
        found = apart(Classification(), {"output": student}, {"output": teacher}, labels, 3.0)
        known, given = (teacher / 3).softmax(1), (student / 3).softmax(1)
        assert found == pytest.approx(float(9 * (known * (known / given).log()).sum(1).mean()), rel=1e-5)
        reference = F.kl_div(given.log(), known, reduction="batchmean") * 9
        assert found == pytest.approx(float(reference), rel=1e-5)

    def test_positions_that_do_not_count_are_left_out(self):
        student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
        labels = torch.tensor([[0, 1, -100], [2, -100, -100]])
        found = apart(Sequence(), {"output": student}, {"output": teacher}, labels, 2.0)
        counted = [(0, 0), (0, 1), (1, 0)]
        by_hand = [
            F.kl_div((student[at] / 2).log_softmax(0), (teacher[at] / 2).softmax(0), reduction="sum") for at in counted
        ]
        assert found == pytest.approx(float(torch.stack(by_hand).mean() * 4), rel=1e-5)

    def test_numbers(self):
        student, teacher = torch.randn(6, 1), torch.randn(6, 1)
        found = apart(Regression(), {"output": student}, {"output": teacher}, torch.zeros(6), 4.0)
        assert found == pytest.approx(float(((student - teacher) ** 2).mean()))

    def test_a_task_of_ones_own_compares_every_answer(self):
        class Mine:
            def loss(self, outputs, targets):
                return torch.zeros(())

            def metrics(self, outputs, targets):
                return {"m": 0.0}

        student, teacher = ({"a": torch.randn(3, 2), "b": torch.randn(3)} for _ in range(2))
        found = apart(task_of(Mine(), STUDY), student, teacher, torch.zeros(3), 4.0)
        by_hand = sum(((student[name] - teacher[name]) ** 2).mean() for name in "ab") / 2
        assert found == pytest.approx(float(by_hand))


class TestLayers:
    def test_attention_by_hand(self):
        one, other = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
        maps = [(item**2).sum(1).flatten(1) for item in (one, other)]
        unit = [item / item.norm(dim=1, keepdim=True) for item in maps]
        found = hint_losses.attention_loss({"s": one}, {"t": other}, [("s", "t")])
        assert found == pytest.approx(float(((unit[0] - unit[1]) ** 2).sum(1).mean()), rel=1e-5)

    def test_the_layers_that_are_compared(self):
        watch = hint_losses.Watch(start("residual").model)
        assert watch.found == {}
        module = start("residual").model
        watch = hint_losses.Watch(module)
        module(torch.zeros(2, 1, 8, 8))
        assert watch.hidden("student") == "blocks.1.second"
        assert watch.maps() == {(8, 8): "blocks.1.second"}
        watch.close()
        assert not any(layer._forward_hooks for layer in module.modules())

    @pytest.mark.parametrize("weight", ["hint", "attention"])
    def test_a_layer_comes_nearer_to_the_teachers(self, images, weight):
        """A student as wide as its teacher, so that nothing stands between their layers."""
        teacher = train(start(width=8), TRAINING | {"epochs": 3, "lr": 1e-2}, Context(images, 1, Path(), STUDY))
        example = images.bind(teacher.model).example(64)

        def look(state):
            watch = hint_losses.Watch(state.model)
            with torch.no_grad():
                call(state.model, example)
            watch.close()
            return watch.found["2"] if weight == "hint" else hint_losses.attention(watch.found["2"])

        own = {"calls": "networks.py:cnn", "arguments": {"width": 8}, "weights": None}
        plain, taught = (
            run(teacher, images, student=own, alpha=0.0, start="fresh", epochs=6, **{weight: value})
            for value in (1e-9, 100.0)
        )
        assert not any(layer._forward_hooks for layer in taught.model.modules())
        near, far = ((look(item) - look(teacher)).square().mean() for item in (taught, plain))
        assert near < 0.7 * far


class TestStudent:
    @pytest.mark.parametrize("changed", [
        {"alpha": 0.9}, {"temperature": 1.0}, {"hint": 1.0}, {"attention": 10.0}, {"start": "fresh"}, {"width": 0.25},
        {"epochs": 3}, {"label_smoothing": 0.1},
    ])
    def test_every_setting_matters(self, images, changed):
        assert not torch.equal(weights(run(start(), images)), weights(run(start(), images, **changed)))

    def test_width_is_the_pruners(self, images):
        state = start()
        result = run(state, images, width=0.5)
        pruned = channels(
            state, CHANNELS | {"ratio": 0.5},
            Context(images, 1, Path(), STUDY),
        )
        share = result.notes["distill.parameters"]
        assert (result.edits, result.notes) == (pruned.edits, {**pruned.notes, "distill.parameters": share})
        assert share == pytest.approx(1 - pruned.notes["prune.removed_parameters"])
        assert [item.shape for item in result.model.parameters()] == [item.shape for item in pruned.model.parameters()]

    def test_the_model_as_it_stands(self, images):
        teacher = start(width=16)
        pruned = channels(
            teacher, CHANNELS | {"ratio": 0.5},
            Context(images, 1, Path(), STUDY),
        )
        result = run(pruned, images, teacher, width=1.0)
        assert result.edits == pruned.edits
        assert not torch.equal(weights(result), weights(pruned))

    def test_a_student_and_a_teacher_of_ones_own(self, images):
        student = {"calls": "networks.py:mlp", "arguments": {"width": 8}, "weights": None}
        teacher = {"calls": "networks.py:residual", "arguments": {"width": 8}, "weights": None}
        settings = {name: value for name, value in SETTINGS.items() if name != "width"}
        context = Context(images, 1, Path(), STUDY)
        result = distill(start(), settings | {"student": student, "teacher": teacher, "hint": 0.0}, context)
        assert (result.factory, result.edits) == (Factory("networks.py:mlp", {"width": 8}), ())
        assert result.model[1].out_features == 8

    def test_fresh_weights_are_drawn_with_the_seed(self, images):
        draws = [run(start("encoder", width=16), images, seed=seed, start="fresh", lr=1e-7) for seed in (1, 1, 2)]
        assert torch.equal(weights(draws[0]), weights(draws[1]))
        assert (weights(draws[0]) - weights(draws[2])).abs().max() > 0.1

    def test_regression(self):
        data = data_module.load(Factory("networks.py:diabetes"), STUDY)
        teacher = train(start("linear"), TRAINING | {"epochs": 20, "lr": 1e-2}, Context(data, 1, Path(), STUDY))
        result = run(start("linear"), data, teacher, width=1.0, alpha=1.0, epochs=60, lr=1e-2)
        inputs = torch.from_numpy(data.arrays("validation")[0]["input"])
        with torch.no_grad():
            assert F.mse_loss(result.model(inputs), teacher.model(inputs)) < 0.01 * teacher.model(inputs).var()


class TestRefusal:
    @pytest.mark.parametrize(("changed", "message"), [
        ({"alpha": 0.0}, "nothing is learned"),
        ({"width": 1.0}, "just as the teacher does"),
        ({"width": 0.95}, r"no slimmer copy of width 0\.95"),
    ])
    def test_nothing_to_learn(self, images, changed, message):
        with pytest.raises(Refusal, match=message):
            run(start(), images, **changed)

    def test_another_shape_of_answers(self, images):
        with pytest.raises(Refusal, match=r"student answers with output \(10,\) and the teacher with logits"):
            run(start(), images, start("joined"))

    def test_no_layer_for_a_hint(self, images):
        with pytest.raises(Refusal, match="the student has none"):
            run(start("linear", inputs=8), _rows(images), start("linear", inputs=8), width=1.0, start="fresh", hint=1.0)

    def test_no_layer_for_attention(self, images):
        with pytest.raises(Refusal, match="images of the same size"):
            run(start("mlp"), images, attention=1.0)

    def test_a_hint_between_layers_of_different_kinds(self, images):
        with pytest.raises(Refusal, match=r"2 of the student, which gives \(4, 4, 32\)"):
            run(start(), images, start("mlp"), width=1.0, hint=1.0)


def _rows(images):
    """The middle row of every image, and its digit."""
    parts = {
        name: data_module.split_of(name, (part.inputs[:, 0, 4], part.targets % 2), STUDY)
        for name, part in images.splits.items()
    }
    return data_module.Dataset(parts, Regression(), None)


@pytest.mark.slow
def test_a_small_student_learns_more_than_alone():
    """The digits' net with about a seventh of its weights, ten epochs each way, two seeds: it answers better."""
    data = data_module.load(Factory("optlang.zoo.digits:digits"), STUDY)
    factory = Factory("optlang.zoo.digits:cnn", {"width": 32})
    untrained = ModelState("module", make(factory, STUDY), factory)
    training = TRAINING | {"lr": 1e-2}
    teacher = train(untrained, training | {"epochs": 8}, Context(data, 7, Path(), STUDY))
    small = channels(
        teacher, CHANNELS | {"ratio": 0.65},
        Context(data, 1, Path(), STUDY),
    )
    assert small.notes["prune.removed_parameters"] > 0.84
    inputs, targets = data.arrays("validation")
    tensors = {name: torch.from_numpy(item) for name, item in inputs.items()}

    def metrics(state):
        with torch.no_grad():
            return data.task.metrics(call(state.model, tensors), targets)

    alone, taught = [], []
    for seed in (1, 2):
        context = Context(data, seed, Path(), STUDY, baseline=lambda: teacher)
        settings = SETTINGS | training | {"epochs": 10, "width": 1.0, "alpha": 0.9, "temperature": 2.0}
        alone.append(metrics(train(small, training | {"epochs": 10}, context)))
        taught.append(metrics(distill(small, settings, context)))
    for name, sign in (("accuracy", 1), ("loss", -1)):
        assert sign * sum(item[name] for item in taught) > sign * sum(item[name] for item in alone), name
    assert sum(item["accuracy"] for item in taught) / 2 > metrics(teacher)["accuracy"] - 0.01


def model(network, **arguments):
    """A setting that is a model."""
    return {"calls": network, "arguments": arguments, "weights": None}


class TestEnsemble:
    @pytest.mark.parametrize(("task", "axis"), [(Classification(), 1), (Sequence(), 2)])
    def test_it_has_the_mean_probabilities(self, task, axis):
        one, two = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
        found = ensemble(task, [{"logits": one}, {"logits": two}], 2.0)["logits"]
        mean = ((one / 2).softmax(axis) + (two / 2).softmax(axis)) / 2
        assert torch.allclose((found / 2).softmax(axis), mean, atol=1e-6)

    def test_numbers_have_their_mean(self):
        one, two = torch.randn(2, 5, 1).unbind()
        assert torch.allclose(ensemble(Regression(), [{"o": one}, {"o": two}], 4.0)["o"], (one + two) / 2)

    def test_all_teachers_are_asked(self, images):
        given = [model("networks.py:mlp", width=width) for width in (8, 16)]
        both, apart = run(start("mlp"), images, width=1.0, teachers=given), run(
            start("mlp"), images, width=1.0, teachers=given[1:]
        )
        assert not torch.equal(weights(both), weights(apart))
        parameters = [
            sum(item.numel() for item in start("mlp", **item).model.parameters())
            for item in ({}, {"width": 8}, {"width": 16})
        ]
        assert both.notes["distill.parameters"] == parameters[0] / sum(parameters[1:])

    def test_layers_are_compared_with_one(self, images):
        given = [model("networks.py:cnn", width=width) for width in (8, 16)]
        with pytest.raises(Refusal, match="there are 2"):
            run(start(), images, teachers=given, hint=1.0)


TASKS = '''
import torch
from torch import nn


class Two(nn.Module):
    """Two inputs and two answers."""

    def __init__(self, width, way):
        super().__init__()
        self.wide, self.one, self.two, self.way = nn.Linear(6, width), nn.Linear(width, 3), nn.Linear(width, 1), way

    def forward(self, near, far):
        x = torch.relu(self.wide(torch.cat([near, far], 1)))
        answers = {"kind": self.one(x), "far": self.two(x)}
        return answers if self.way == "dictionary" else tuple(answers.values())


class Tagger(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, width), nn.Linear(width, 4)

    def forward(self, tokens):
        return self.head(self.embed(tokens))


class Task:
    def __init__(self, way, broken):
        self.way, self.broken = way, broken

    def loss(self, outputs, targets):
        if self.broken:
            raise ValueError("not today")
        kind, far = outputs.values() if self.way == "dictionary" else outputs
        return nn.functional.cross_entropy(kind, targets[0]) + (far[:, 0] - targets[1]).square().mean()

    def metrics(self, outputs, targets):
        return {"loss": float(self.loss(outputs, targets))}


two, tagger = Two, Tagger


def pairs(way, broken=False):
    generator = torch.Generator().manual_seed(0)
    near, far = torch.randn(64, 3, generator=generator), torch.randn(64, 3, generator=generator)
    inputs = {"far": far, "near": near} if way == "dictionary" else (near, far)
    part = inputs, (near.argmax(1), far.sum(1))
    return {"train": part, "validation": part, "task": Task(way, broken)}


def tagged():
    tokens = torch.randint(0, 9, (48, 5), generator=torch.Generator().manual_seed(0))
    labels = tokens % 4
    labels[:, -1] = -100
    return {"train": (tokens, labels), "validation": (tokens, labels), "task": "sequence"}
'''


@pytest.fixture
def own(tmp_path):
    """A study with a task of the user's own, and models of several inputs and answers."""
    (tmp_path / "own.py").write_text(TASKS)
    return tmp_path


class TestTasks:
    """What the user's own tasks come to in both trainings."""

    def losses(self, technique, study, network, data, large, **changed):
        told = []
        factory = Factory(network, changed)
        state = ModelState("module", make(factory, study), factory)
        settings = SETTINGS | {"width": 1.0, "epochs": 4, "lr": 1e-2, "teacher": large}
        technique(state, settings, Context(data, 1, Path(), study, report=lambda item: told.append(item["loss"])))
        return told

    @pytest.mark.parametrize("technique", [train, distill])
    @pytest.mark.parametrize("way", ["tuple", "dictionary"])
    def test_several_inputs_and_answers(self, own, technique, way):
        data = data_module.load(Factory("own.py:pairs", {"way": way}), own)
        told = self.losses(technique, own, "own.py:two", data, model("own.py:two", width=16, way=way), width=4, way=way)
        assert told[-1] < told[0]

    @pytest.mark.parametrize("technique", [train, distill])
    def test_labels_of_a_sequence(self, own, technique):
        data = data_module.load(Factory("own.py:tagged"), own)
        told = self.losses(technique, own, "own.py:tagger", data, model("own.py:tagger", width=16), width=4)
        assert told[-1] < told[0]

    @pytest.mark.parametrize("technique", [train, distill])
    def test_a_loss_that_breaks_is_shown_with_its_line(self, own, technique):
        data = data_module.load(Factory("own.py:pairs", {"way": "tuple", "broken": True}), own)
        line = 1 + TASKS.split("\n").index('            raise ValueError("not today")')
        large = model("own.py:two", width=16, way="tuple")
        with pytest.raises(OptlangError, match="the task's loss raised ValueError: not today") as error:
            self.losses(technique, own, "own.py:two", data, large, width=4, way="tuple")
        assert f"own.py:{line}" in f"{error.value.help} {getattr(error.value, 'details', '')}"


@pytest.mark.slow
class TestRecurrentLayers:
    def test_the_copy_has_fewer_channels_and_fewer_units(self, images):
        result = run(start("lstm", width=32), images, epochs=1)
        model = result.model
        assert (model.embed.out_features, model.lstm.input_size, model.lstm.hidden_size) == (16, 16, 16)
        assert [edit.calls.split(":")[0].rpartition(".")[2] for edit in result.edits] == ["units", "pruner"]
        again = make(Factory("networks.py:lstm", {"width": 16}), STUDY)
        assert {name: item.shape for name, item in model.state_dict().items()} == {
            name: item.shape for name, item in again.state_dict().items()
        }

    def test_two_directions(self, images):
        result = run(start("both_ways", width=16), images, epochs=1, start="fresh")
        assert (result.model.cell.hidden_size, result.model.head.in_features) == (8, 16)

    def test_units_that_cannot_go_stay(self, images):
        # Its answers are the model's own.
        with pytest.raises(Refusal, match=r"no slimmer copy .*: the answers of cell go where units cannot follow them"):
            run(start("recurrent"), images)
