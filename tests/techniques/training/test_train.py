"""Training: what the settings mean, what is repeatable, and what is refused."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from optlang.interfaces import Context, Factory, ModelState, OptlangError, Refusal
from optlang.techniques.training.schedule import rate, warmed
from optlang.techniques.training.train import task_loss, train
from optlang.techniques.training.trainer import fit
from optlang.workload.data import dataset as data_module
from optlang.workload.model import make as making
from optlang.workload.model.call import call
from tests.techniques import states
from tests.techniques.contract import apply
from tests.techniques.states import KINDS, answers, count, macs

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
SETTINGS = {
    "epochs": 2, "lr": 1e-2, "optimizer": "adamw", "schedule": "constant", "batch": 64, "weight_decay": 0.0,
    "momentum": 0.9, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images", {"count": 200}), STUDY)


def start(network="mlp", **arguments):
    factory = Factory(f"networks.py:{network}", arguments)
    return ModelState("module", making.make(factory, STUDY), factory)


def run(state, data, seed=1, report=lambda told: None, **changed):
    return train(state, SETTINGS | changed, Context(data, seed, Path(), STUDY, report=report)).model


def weights(module):
    return torch.cat([item.detach().flatten() for item in module.parameters()])


class TestSchedule:
    @pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "one_cycle"])
    def test_never_above_the_peak(self, schedule):
        values = [rate(schedule, step / 200) for step in range(201)]
        assert max(values) == pytest.approx(1.0, abs=1e-3)
        assert min(values) >= 0

    def test_cosine_is_torchs(self):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
        for step in range(50):
            assert rate("cosine", step / 50) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
            optimizer.step()
            reference.step()

    @pytest.mark.parametrize(("schedule", "reference"), [
        ("linear", lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 50)),
        # It rises over the first 0.3 · 50 - 1 steps, and has its end at the last one of its 50.
        ("one_cycle", lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 1.0, total_steps=50, cycle_momentum=False)),
    ])
    def test_curves_are_torchs(self, schedule, reference):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = reference(optimizer)
        for step in range(49):
            progress = step / 50
            if schedule == "one_cycle":
                progress = step / 14 * 0.3 if step < 14 else 0.3 + 0.7 * (step - 14) / 35
            assert rate(schedule, progress) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
            optimizer.step()
            scheduler.step()

    def test_linear_ends_at_nothing(self):
        assert [rate("linear", part) for part in (0, 0.25, 1)] == [1, 0.75, 0]

    def test_warmup_rises_to_the_peak_and_leaves_the_rest_to_the_schedule(self):
        steps = [warmed("linear", 0.2, step / 10, (step + 1) / 10) for step in range(10)]
        assert steps == pytest.approx([0.5, 1, *(1 - step / 8 for step in range(8))])
        assert [warmed("cosine", 0.0, step / 9, (step + 1) / 9) for step in range(9)] == [
            rate("cosine", step / 9) for step in range(9)
        ]

    def test_one_cycle_rises_and_falls(self):
        assert rate("one_cycle", 0) == pytest.approx(1 / 25)
        assert rate("one_cycle", 0.3) == pytest.approx(1)
        assert rate("one_cycle", 1) == pytest.approx(4e-6)


class TestSteps:
    @pytest.mark.parametrize(("name", "kind", "more"), [
        ("sgd", torch.optim.SGD, {"momentum": 0.9}), ("adam", torch.optim.Adam, {}), ("adamw", torch.optim.AdamW, {}),
    ])
    def test_an_optimizer_is_torchs(self, images, name, kind, more):
        state = start("linear", inputs=64, outputs=10)
        twin = making.make(state.factory, STUDY)
        flat = [(next(iter(x.values())).flatten(1), y) for x, y in images.batches("train", 500)]

        class Flat:
            task, parts = images.task, images.splits

            def bind(self, module):
                return self

            def labeled(self, part):
                return True

            def size(self, part):
                return len(flat[0][1])

            def batches(self, part, batch, seed=None, shuffle=False):
                return iter([({"input": flat[0][0]}, flat[0][1])])

        result = run(state, Flat(), optimizer=name, weight_decay=0.1, epochs=3, lr=0.1, **more)
        optimizer = kind(
            [{"params": [twin.weight], "weight_decay": 0.1}, {"params": [twin.bias], "weight_decay": 0.0}],
            lr=0.1, **more,
        )
        for _ in range(3):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(twin(flat[0][0]), flat[0][1]).backward()
            optimizer.step()
        assert torch.allclose(result.weight, twin.weight, atol=1e-7)
        assert torch.allclose(result.bias, twin.bias, atol=1e-7)

    def test_seed_decides_order_and_dropout(self, images):
        one, same, other = (weights(run(start("dropping"), images, seed=seed)) for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_the_process_generators_are_left_alone(self, images):
        state = torch.get_rng_state()
        run(start("dropping"), images)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize(
        "changed",
        [{"optimizer": "sgd"}, {"warmup": 0.5}, {"ema": 0.9}, {"label_smoothing": 0.1}, {"clip": 1e-4},
         {"amp": "float16"}, {"schedule": "cosine"}, {"schedule": "one_cycle"}, {"schedule": "linear"}, {"lr": 1e-3},
         {"batch": 32}, {"weight_decay": 0.5}, {"amp": "bfloat16"}, {"epochs": 3}],
    )
    def test_every_setting_matters(self, images, changed):
        assert not torch.equal(weights(run(start(), images)), weights(run(start(), images, **changed)))

    @pytest.mark.parametrize("amp", ["bfloat16", "float16"])
    def test_half_precision_learns_too_and_gives_float32(self, images, amp):
        losses = []
        module = run(start(), images, amp=amp, epochs=3, report=lambda told: losses.append(told["loss"]))
        assert losses[0] > losses[1] > losses[2]
        assert all(item.dtype == torch.float32 for item in module.parameters())

    def test_frozen_layers_stay(self, images):
        state = start()
        state.model[1].weight.requires_grad_(False)
        result = run(state, images)
        assert torch.equal(result[1].weight, state.model[1].weight)
        assert not result[1].weight.requires_grad
        assert not torch.equal(result[3].weight, state.model[3].weight)

    def test_tied_weights_stay_tied(self, images):
        result = run(start("tied"), images)
        assert result.first.weight is result.second.weight

    def test_a_last_batch_of_one_does_not_break_batch_norm(self, images):
        data = data_module.load(Factory("networks.py:images", {"count": 129}), STUDY)
        assert torch.isfinite(weights(run(start("cnn"), data))).all()

    def test_a_report_may_stop_it(self, images):
        class StoppedError(Exception):
            pass

        def report(told):
            raise StoppedError

        with pytest.raises(StoppedError):
            run(start(), images, report=report)


class TestAverage:
    def test_it_is_torchs(self, images):
        """Weights and the running numbers of batch normalization, step by step."""
        data = images.bind(start("cnn").model)
        module = start("cnn").model
        reference = torch.optim.swa_utils.AveragedModel(
            module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.8), use_buffers=True
        )
        fit(
            module, data, task_loss(images.task, 0.0), SETTINGS, Context(data, 1, Path(), STUDY),
            after_step=lambda: reference.update_parameters(module),
        )
        result = run(start("cnn"), images, ema=0.8)
        wanted = reference.module.state_dict()
        assert {name for name, item in wanted.items() if item.is_floating_point()} > {"3.running_var"}
        for name, item in result.state_dict().items():
            if item.is_floating_point():
                assert torch.allclose(item, wanted[name], atol=1e-6), name
        assert int(result[3].num_batches_tracked) == 8

    def test_no_memory_is_the_last_weights(self, images):
        assert torch.equal(weights(run(start(), images)), weights(run(start(), images, ema=1e-12)))


class TestSmoothing:
    def test_it_is_torchs(self, images):
        scores, labels = torch.randn(6, 10), torch.tensor([0, 3, -100, 9, 1, 1])
        found = task_loss(images.task, 0.2)({"output": scores}, {}, labels)
        smooth = torch.full((6, 10), 0.02)
        smooth[torch.arange(6), labels.clamp(min=0)] += 0.8
        by_hand = -(smooth * scores.log_softmax(1)).sum(1)[labels >= 0].mean()
        assert found == pytest.approx(float(by_hand), abs=1e-6)
        assert found == torch.nn.functional.cross_entropy(scores, labels, label_smoothing=0.2)

    def test_a_task_without_labels(self):
        data = data_module.load(Factory("networks.py:diabetes"), STUDY)
        with pytest.raises(Refusal, match="the task is regression") as error:
            run(start("linear"), data, label_smoothing=0.1)
        assert "classification and sequence" in error.value.help


class TestClip:
    def test_a_step_is_as_long_as_the_clipped_gradient(self, images):
        state = start("linear", inputs=8, outputs=10)
        after = run(
            state, _rows(images), optimizer="sgd", momentum=0.0, lr=0.5, clip=1e-3, batch=65536, epochs=1
        )
        assert (weights(after) - weights(state.model)).norm() == pytest.approx(0.5 * 1e-3, rel=1e-3)

    def test_what_is_short_enough_stays(self, images):
        assert torch.equal(weights(run(start(), images)), weights(run(start(), images, clip=1e6)))


class TestPatience:
    def told(self, data, **changed):
        losses = []
        module = run(start(), data, report=lambda told: losses.append(told["loss"]), **changed)
        return losses, module

    def test_it_stops_and_keeps_the_best(self, images):
        """A training that gets worse from some epoch on; every shorter training is a part of it."""
        changed = {"lr": 0.05, "epochs": 12, "batch": 32}
        inputs, targets = images.bind(start().model).arrays("validation")
        inputs = {name: torch.from_numpy(item) for name, item in inputs.items()}

        def loss(module):
            with torch.no_grad():
                return float(images.task.loss(call(module, inputs), targets))

        alone = [loss(self.told(images, **changed | {"epochs": count})[1]) for count in range(1, 13)]
        best = next(item for item in range(12) if min(alone[item + 1:item + 3], default=9) >= alone[item])
        assert best < 9  # it does get worse
        losses, module = self.told(images, **changed, patience=2)
        assert len(losses) == best + 3
        assert loss(module) == pytest.approx(min(alone[:best + 1]), rel=1e-5)

    def test_a_training_that_gets_better_goes_on(self, images):
        losses, module = self.told(images, lr=1e-3, epochs=4, patience=1)
        assert len(losses) == 4
        assert torch.equal(weights(module), weights(self.told(images, lr=1e-3, epochs=4)[1]))

    def test_the_average_is_what_is_looked_at(self, images):
        average = {"lr": 1e-3, "epochs": 3, "ema": 0.9}
        patient, plain = run(start(), images, **average, patience=3), run(start(), images, **average)
        assert torch.equal(weights(patient), weights(plain))


def test_zeros_that_are_meant_stay(images):
    state = start()
    with torch.no_grad():
        state.model[1].weight[:, ::2] = 0
        state.model[3].weight[0] = 0
    state = dataclasses.replace(state, notes={"prune.zeros": ["1.weight"]})
    result = run(state, images, ema=0.5, patience=1)
    assert (result[1].weight[:, ::2] == 0).all()
    assert (result[1].weight[:, 1::2] != 0).any()
    assert (result[3].weight[0] != 0).any()


class TestRefusal:
    def test_a_loss_that_is_not_finite_names_its_epoch(self, images):
        with pytest.raises(Refusal, match=r"in epoch [123] of 3") as error:
            run(start(), images, optimizer="sgd", lr=1e12, epochs=3)
        assert "smaller lr" in error.value.help

    def test_labels_that_the_model_has_no_class_for(self, images):
        with pytest.raises(OptlangError, match="answers with 3 classes"):
            run(start("linear", inputs=8, outputs=3), _rows(images))

    def test_a_forward_that_breaks_is_the_users(self, images):
        with pytest.raises(OptlangError, match="the model's forward raised RuntimeError: mat1 and mat2"):
            run(start("linear", inputs=5, outputs=10), images)

    def test_a_loss_that_no_parameter_reaches(self, images):
        class Constant:
            def loss(self, outputs, targets):
                return torch.ones(())

            def metrics(self, outputs, targets):
                return {"m": 0.0}

        data = data_module.load(Factory("networks.py:images", {"count": 100, "task": Constant()}), STUDY)
        with pytest.raises(Refusal, match="changed no weight"):
            run(start(), data)


def _rows(images):
    """The middle row of every image, and its digit."""
    parts = {
        name: data_module.split_of(name, (part.inputs[:, 0, 4], part.targets), STUDY)
        for name, part in images.splits.items()
    }
    return data_module.Dataset(parts, images.task, None)


@pytest.mark.slow
def test_regression_learns_what_a_linear_model_can():
    from sklearn.linear_model import LinearRegression

    data = data_module.load(Factory("networks.py:diabetes"), STUDY)
    module = run(start("linear"), data, epochs=60, lr=1e-2, schedule="cosine")
    inputs, targets = data.arrays("validation")
    with torch.no_grad():
        found = data.task.metrics(call(module, {"input": torch.from_numpy(inputs["input"])}), targets)
    known, answers = data.arrays("train")
    best = LinearRegression().fit(known["input"], answers).score(inputs["input"], targets)
    assert found["r2"] == pytest.approx(best, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("technique", ["training.train", "training.finetune"])
@pytest.mark.parametrize("network", KINDS)
def test_the_loss_is_lower_and_nothing_else_changes(technique, network, images, tmp_path):
    state = states.start(network)
    epochs = []
    result = apply(technique, state, images, tmp_path, report=epochs.append)
    losses = [
        images.task.metrics(answers(item, images, 200), images.arrays("validation")[1])["loss"]
        for item in (state, result)
    ]
    assert losses[1] < losses[0]
    assert [(item["epoch"], item["epochs"]) for item in epochs] == [(1, 2), (2, 2)]
    assert epochs[1]["loss"] < epochs[0]["loss"]
    assert (count(result), macs(result), result.edits) == (count(state), macs(state), ())


@pytest.mark.parametrize("technique", ["training.train", "training.finetune"])
def test_a_model_in_16_bits_is_not_trained(technique, images, tmp_path):
    state = states.start("mlp")
    half = dataclasses.replace(state, model=copy.deepcopy(state.model).half())
    with pytest.raises(Refusal, match="the model is in 16 bits, in which the small steps of a training are lost"):
        apply(technique, half, images, tmp_path)


@pytest.mark.parametrize("technique", ["training.train", "training.finetune", "quant.qat"])
def test_nothing_to_train(technique, images, tmp_path):
    with pytest.raises(Refusal, match="frozen"):
        apply(technique, states.start("frozen"), images, tmp_path)


class TestResume:
    def test_what_was_changed_before_a_pause_is_a_change(self, images):
        """A training whose later epochs change nothing has changed the weights that it began with."""

        class Pause(BaseException):
            pass

        taken, kept = [], []

        def pause(ended):
            kept.append(copy.deepcopy(taken[0]()))
            raise Pause

        def loss(outputs, inputs, targets):
            return images.task.loss(outputs, targets) * (0 if kept else 1)

        def trained(module, **context):
            settings = SETTINGS | {"optimizer": "sgd", "momentum": 0.0}
            fit(module, images.bind(module), loss, settings, Context(images, 1, Path(), STUDY, **context))

        begun, first, later = (making.make(start().factory, STUDY) for _ in range(3))
        with pytest.raises(Pause):
            trained(first, resume=taken.append, report=pause)
        trained(later, resume=lambda state: kept[0])
        assert torch.equal(weights(later), weights(first))
        assert not torch.equal(weights(later), weights(begun))
