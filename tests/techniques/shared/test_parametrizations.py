"""Techniques on models that compute their weights, against the same models with the weights that torch leaves them."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from optlang.interfaces import Context, Factory, ModelState, QuantWants, Refusal
from optlang.techniques.cast.half import half
from optlang.techniques.graph.channels_last import channels_last
from optlang.techniques.graph.clean import clean
from optlang.techniques.graph.fold import fold
from optlang.techniques.prune.channels import channels
from optlang.techniques.prune.channels_to_budget import channels_to_budget
from optlang.techniques.prune.magnitude import magnitude
from optlang.techniques.prune.rewind import rewind
from optlang.techniques.prune.two_four import two_four
from optlang.techniques.prune.units import units
from optlang.techniques.prune.widths import widths
from optlang.techniques.quant.dynamic import dynamic
from optlang.techniques.quant.equalize import equalize
from optlang.techniques.quant.qat import qat
from optlang.techniques.quant.static import static
from optlang.techniques.quant.weight_only import weight_only
from optlang.techniques.shared.parametrizations import without_parametrizations
from optlang.techniques.shared.proof import proved
from optlang.techniques.training.distill import distill
from optlang.techniques.training.finetune import finetune
from optlang.workload.model.count import sparsity
from optlang.workload.model.make import make
from optlang.workload.model.parametrizations import parametrized, plain_copy
from optlang.workload.model.save import load, save
from tests.techniques.states import STUDY

OPEN = {"keep": (), "only": ()}
SPARSE = OPEN | {"sparsity": 0.5, "relative_to": "all", "scope": "layer", "importance": "l1", "samples": None}
CUT = OPEN | {"ratio": 0.5, "importance": "l2", "samples": None, "scope": "layer", "round_to": 4, "recalibrate": 0}
UNTIL = {**CUT, "resource": "parameters", "share": 0.6}
WIDTHS = {**UNTIL, "levels": 2, "scored": 64}
RANGES = OPEN | {"calibrator": "minmax", "percentile": None, "bins": None, "samples": 64}
STATIC = RANGES | {"granularity": "auto", "bias_correction": False}
TRAINING = {
    "epochs": 1, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
    "momentum": 0.9, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}
QAT = RANGES | {
    "epochs": 1, "lr": 1e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
    "momentum": 0.9, "ranges": "running", "freeze": 0.5, "distill": 0.0, "temperature": 4.0, "label_smoothing": 0.0,
}
TECHNIQUES = {
    "magnitude": (magnitude, SPARSE), "two_four": (two_four, OPEN), "taylor": (magnitude, SPARSE | {
        "importance": "taylor", "samples": 64}),
    "channels": (channels, CUT), "channels_to_budget": (channels_to_budget, UNTIL), "widths": (widths, WIDTHS),
    "fold": (fold, {}), "clean": (clean, {}), "channels_last": (channels_last, {}), "equalize": (equalize, {}),
    "half": (half, OPEN | {"dtype": "bfloat16", "sensitive": True}),
}
FILES = {
    "static": (static, STATIC), "dynamic": (dynamic, OPEN | {"operators": "all"}),
    "weight_only": (weight_only, OPEN | {"bits": 8, "group": None, "symmetric": True}), "qat": (qat, QAT),
}
WANTS = QuantWants("uint8", "int8", False, True, True)


def start(name, **arguments):
    factory = Factory(f"computed.py:{name}", arguments)
    # A plain model does not say which of its zeros are meant.
    notes = {"prune.zeros": ["4.weight", "8.bias", "8.weight"]} if name == "masked" and arguments else {}
    return ModelState("module", make(factory, STUDY), factory, (), notes)


def context(data, folder=None, baseline=None):
    found = Context(data, 1, folder or Path(), STUDY, WANTS)
    return replace(found, baseline=(lambda: baseline)) if baseline else found


def same(found, wanted, tolerance=1e-5):
    assert {key: item.shape for key, item in found.items()} == {key: item.shape for key, item in wanted.items()}
    for key, item in found.items():
        assert torch.allclose(item.float(), wanted[key].float(), atol=tolerance), key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parametrized", "hooked", "masked"])
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_module_is_changed_as_its_plain_twin_is(images, name, technique, tmp_path):
    apply, settings = TECHNIQUES[technique]
    state = start(name)
    result = apply(state, settings, context(images))
    proved(state, result, context(images))
    same(result.model.state_dict(), apply(start(name, plain=True), settings, context(images)).model.state_dict())
    assert result.notes["parametrized.baked"] == parametrized(state.model)
    # What it was made from is as it was, and a fresh model with the edits and the weights is what it became.
    assert parametrized(state.model)
    save(result, tmp_path)
    same(load(tmp_path, STUDY).model.state_dict(), result.model.state_dict(), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parametrized", "hooked", "masked"])
@pytest.mark.parametrize("technique", FILES)
def test_a_file_is_that_of_its_plain_twin(images, name, technique, tmp_path):
    apply, settings = FILES[technique]
    files = [
        apply(start(name, **twin), settings, context(images, tmp_path / str(len(twin)))).model
        for twin in ({}, {"plain": True})
    ]
    stored, wanted = (
        [numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer] for path in files
    )
    assert [item.shape for item in stored] == [item.shape for item in wanted]
    for item, other in zip(stored, wanted, strict=True):
        # A level more or less where a weight lies in the middle.
        assert abs(item.astype("float64") - other).max(initial=0.0) <= (1 if item.dtype.kind in "iu" else 1e-4)


@pytest.mark.slow
def test_units_of_recurrent_layers(images):
    settings = OPEN | {"ratio": 0.5, "importance": "l2", "samples": None, "round_to": 4}
    found, wanted = (units(start("rows", **twin), settings, context(images)) for twin in ({}, {"plain": True}))
    same(found.model.state_dict(), wanted.model.state_dict())
    assert found.model.lstm.hidden_size == 8


@pytest.mark.parametrize("name", ["parametrized", "hooked"])
def test_half_of_all_weights_is_half_of_all_weights(images, name):
    whole = 72 + 1152 + 1024 + 160
    result = magnitude(start(name), SPARSE, context(images))
    weights = [item for item in result.model.parameters() if item.ndim > 1]
    assert sum(item.numel() for item in weights) == whole
    assert sum(int((item == 0).sum()) for item in weights) == whole // 2
    assert result.notes["prune.sparsity"] == 0.5 == sparsity(result.model)


def test_zeros_of_masks_count_and_are_held_through_training(images):
    state = start("masked")
    zeros = {4: (state.model[4].weight == 0), 8: (state.model[8].weight == 0)}
    # Half of 1152, and 144 of the rest; 307 of 1024.
    assert {key: int(mask.sum()) for key, mask in zeros.items()} == {4: 576 + 144, 8: 307}
    assert sparsity(state.model) == (576 + 144 + 307) / (72 + 1152 + 1024 + 160)
    plain = without_parametrizations(state, images, STUDY)
    assert plain.notes["prune.zeros"] == ["4.weight", "8.bias", "8.weight"]
    for begun in (state, plain):
        trained = finetune(begun, TRAINING, context(images))
        net = plain_copy(trained.model)
        assert not torch.equal(net[4].weight, plain.model[4].weight)
        for key, mask in zeros.items():
            assert torch.equal(net[key].weight == 0, mask)
    assert without_parametrizations(plain, images, STUDY) is plain


@pytest.mark.slow
def test_a_parametrization_trains_on_until_the_first_step_that_is_no_training(images):
    trained = finetune(start("parametrized"), TRAINING, context(images))
    assert parametrized(trained.model)
    assert "parametrized.baked" not in trained.notes
    # Weight decay would turn torch's orthogonal matrix into zeros.
    matrix = trained.model[10].weight.detach()
    assert torch.allclose(matrix @ matrix.T, torch.eye(10), atol=1e-5)
    assert not torch.allclose(matrix, start("parametrized").model[10].weight, atol=1e-3)
    student = distill(
        trained, TRAINING | {"width": 1.0, "student": None, "teacher": None, "teachers": (), "start": "kept",
                             "alpha": 0.5, "temperature": 4.0, "hint": 0.0, "attention": 0.0},
        context(images, baseline=start("parametrized")),
    )
    assert student.notes["distill.parameters"] == 1.0
    sparse = magnitude(trained, SPARSE, context(images))
    again = finetune(sparse, TRAINING, context(images))
    assert sparsity(again.model) == 0.5
    # Set back, the zeros stay, and the rest is what the fresh model computes.
    back = rewind(again, {"checkpoint": None, "to": "start"}, context(images, baseline=trained))
    fresh = plain_copy(start("parametrized").model).state_dict()
    for key, item in sparse.model.state_dict().items():
        mask = item == 0 if key.endswith("weight") and item.ndim > 1 else torch.zeros_like(item, dtype=torch.bool)
        assert torch.equal(back.model.state_dict()[key], fresh[key].masked_fill(mask, 0)), key


def test_a_weight_that_changes_at_each_call_is_refused_by_its_name(images):
    with pytest.raises(Refusal, match=r"4\.weight is computed by Twice, and is another at each call"):
        magnitude(start("unsteady"), SPARSE, context(images))


def test_less_than_half_of_what_was_asked_is_refused(images):
    with pytest.raises(Refusal, match=r"0\.5 was asked for and 0\.0676 reached: matrix \(4096 weights\)"):
        magnitude(start("own"), SPARSE, context(images))
    result = magnitude(start("own"), SPARSE | {"only": ("head",)}, context(images))
    assert result.notes["prune.sparsity"] == 320 / (4096 + 640)
    with pytest.raises(Refusal, match=r"matrix \(4096 weights\) are not pruned, since two_four"):
        two_four(start("own"), OPEN, context(images))


def test_what_is_left_is_noted(images):
    from tests.techniques.states import start as network

    result = magnitude(network("encoder"), SPARSE, context(images))
    assert result.notes["prune.left"] == ["place"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows", "keeping"])
def test_what_layers_keep_of_a_call_stands_in_no_way(images, name):
    trained = finetune(start(name), TRAINING, context(images))
    sparse = magnitude(trained, SPARSE | {"importance": "taylor", "samples": 64}, context(images))
    assert sparse.notes["prune.sparsity"] == pytest.approx(0.5, abs=0.02)
    again = finetune(sparse, TRAINING, context(images))
    assert sparsity(again.model) == sparse.notes["prune.sparsity"]
    if name == "keeping":
        smaller = channels(again, CUT, context(images))
        assert finetune(smaller, TRAINING, context(images)).model.first.out_channels == 4
