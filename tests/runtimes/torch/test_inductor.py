"""INT8 for torch.compile, held against torch: answers, sizes, what stays in float, and what is refused."""

import importlib.util
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import pytest
import torch

from optlang.interfaces import Context, Factory, ModelState, OptlangError, Refusal, Request, TargetSpec
from optlang.report.export.runners import runner
from optlang.runtimes.torch import pt2_archive
from optlang.runtimes.torch.inductor import Inductor
from optlang.workload import imports
from optlang.workload.data import dataset
from optlang.workload.model.make import make

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
STATIC = {
    "calibrator": "minmax", "samples": 64, "granularity": "auto", "bias_correction": False, "keep": (), "only": (),
}
DYNAMIC = {"operators": "auto", "keep": (), "only": ()}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed"),
    pytest.mark.skipif(Inductor().available() is not None, reason="no C++ compiler or Python's headers"),
]


def named(network, **arguments):
    factory = Factory(f"networks.py:{network}", arguments)
    return ModelState("module", make(factory, STUDY), factory)


def asked(state, technique, settings):
    return ModelState("graph", state.model, state.factory, requests=(Request(technique, settings),))


def build(state, images, folder, batch=1, **settings):
    folder.mkdir()
    return Inductor().build(
        state, TargetSpec("here", batch=batch), settings, folder, images.bind(state.model), STUDY
    )


def test_static_int8_answers_as_float_and_runs_without_the_models_python(images, tmp_path):
    train = imports.find("optlang.techniques.training.train:train", STUDY)
    settings = {
        "epochs": 4, "lr": 1e-2, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
        "momentum": 0.9, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
    }
    # One ReLU of it is called twice in each block.
    trained = train(named("residual"), settings, Context(images, 1, tmp_path, STUDY))
    inputs = images.bind(trained.model).arrays("validation", 200)[0]
    with torch.no_grad():
        wanted = trained.model(torch.from_numpy(inputs["image"])).numpy()
    artifact = build(asked(trained, "static", STATIC), images, tmp_path / "static", batch=200)
    again = build(asked(trained, "static", STATIC), images, tmp_path / "again", batch=200)
    assert artifact.files == again.files
    assert {item.name for item in artifact.files} == {path.name for path in (tmp_path / "static").iterdir()}
    assert artifact.about["int8"] == {"weights": 1.0, "all": 1.0, "float": [], "kernels": 6}
    float32 = build(trained, images, tmp_path / "float", batch=200)
    assert artifact.files[0].bytes < float32.files[0].bytes / 2
    session = Inductor().open(artifact, TargetSpec("here", batch=200), {}, STUDY)
    assert torch._inductor.config.freezing
    found = session.collect(session.run(session.prepare(inputs)))
    assert session.compiled > session.loaded > 0
    session.close()
    assert not torch._inductor.config.freezing
    assert (found["output"].argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.97
    assert not numpy.array_equal(found["output"], wanted)
    run_exported(artifact, inputs, found)


def run_exported(artifact, inputs, outputs):
    """The program that `optlang export` puts beside the file, in a process that has its runtime and numpy alone."""
    entry = {
        "format": artifact.format, "files": [{"name": item.name} for item in artifact.files], "about": artifact.about,
        "inputs": [{"name": item} for item in artifact.inputs],
        "outputs": [{"name": item} for item in artifact.outputs],
    }
    program = artifact.folder / "run.py"
    text = runner("runtime.inductor", entry)
    program.write_text(f'import sys\nsys.modules["optlang"] = None\n{text}')
    numpy.savez(artifact.folder / "example_inputs.npz", **{name: item[:150] for name, item in inputs.items()})
    numpy.savez(artifact.folder / "example_outputs.npz", **{name: item[:150] for name, item in outputs.items()})
    ran = subprocess.run([sys.executable, "-I", program], capture_output=True, text=True, cwd=artifact.folder)
    assert ran.returncode == 0, ran.stderr
    assert "output: largest difference 0 of" in ran.stdout


def test_dynamic_takes_any_number_of_samples(images, tmp_path):
    state = named("mlp", width=128)
    artifact = build(asked(state, "dynamic", DYNAMIC), images, tmp_path / "dynamic", dynamic=True)
    assert artifact.about["int8"] == {"weights": 1.0, "all": 1.0, "float": [], "kernels": 3}
    assert artifact.about["batch"] is None
    program = pt2_archive.read(artifact.folder / "model.pt2")
    for count in (1, 7):
        given = images.example(count)["input"]
        with torch.no_grad():
            torch.testing.assert_close(program(given)[0], state.model(given), rtol=0, atol=5e-3)


def test_settings_of_static_are_kept_to(images, tmp_path):
    settings = {**STATIC, "calibrator": "mse", "bins": 128, "granularity": "channel", "keep": ("1",)}
    some = build(asked(named("mlp", width=64), "static", settings), images, tmp_path / "some")
    whole = build(asked(named("mlp", width=64), "static", STATIC), images, tmp_path / "all")
    assert (some.about["int8"]["kernels"], whole.about["int8"]["kernels"]) == (2, 3)
    assert some.files[0].bytes > whole.files[0].bytes + 64 * 64 * 2
    with pytest.raises(OptlangError, match="has none"):
        build(asked(named("mlp"), "static", {**STATIC, "keep": ("nowhere",)}), images, tmp_path / "none")


def test_layers_that_it_has_no_kernel_for_stay_in_float(images, tmp_path):
    """Inductor computes the product of a single row with few weights as a multiplication and a sum."""
    layers = torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.Linear(64, 16), torch.nn.Linear(16, 10)
    small = ModelState("module", torch.nn.Sequential(*layers), Factory("small.py:small", {}))
    eight = build(asked(small, "static", STATIC), images, tmp_path / "eight", batch=8)
    assert eight.about["int8"] == {"weights": 1.0, "all": 1.0, "float": [], "kernels": 3}
    # One program for any number of samples has another for a single one.
    artifact = build(asked(small, "static", STATIC), images, tmp_path / "any", dynamic=True)
    share = (64 * 64 + 64 * 16) / (64 * 64 + 64 * 16 + 16 * 10)
    assert artifact.about["int8"] == {"weights": share, "all": share, "float": ["3"], "kernels": 2}
    session = Inductor().open(artifact, TargetSpec("here"), {}, STUDY)
    inputs = images.bind(small.model).arrays("validation", 100)[0]
    with torch.no_grad():
        wanted = small.model(*map(torch.from_numpy, inputs.values())).numpy()
    for count in (1, 100):
        given = {name: item[:count] for name, item in inputs.items()}
        found = session.collect(session.run(session.prepare(given)))["output"]
        numpy.testing.assert_allclose(found, wanted[:count], rtol=0, atol=0.05)
    session.close()


@pytest.mark.parametrize(("network", "technique", "settings", "reason"), [
    ("mlp", "static", {**STATIC, "calibrator": "entropy"}, "no observer for calibrator = entropy"),
    ("mlp", "static", {**STATIC, "bias_correction": True}, "bias_correction = false"),
    ("mlp", "static", {**STATIC, "granularity": "tensor"}, "granularity = tensor would run in float"),
    ("mlp", "dynamic", {**DYNAMIC, "operators": "all"}, "no int8 kernels for convolutions with dynamic ranges"),
    ("mlp", "half", {}, "does not carry out half"),
    ("mlp", "static", {**STATIC, "keep": ("*",)}, "no layer is left to quantize"),
    ("cnn", "dynamic", DYNAMIC, r"only 6% .*2 \(convolution\), 0 \(convolution\)"),
    ("tied", "static", STATIC, r"only 14% .*first \(linear\)"),
    ("lstm", "static", STATIC, r"only 7% .*lstm \(recurrent\)"),
    ("joined", "static", STATIC, r"int8 makes this model larger: \d+ bytes against 6480"),
    ("choosing", "static", STATIC, "cannot be exported for Inductor"),
])
def test_what_it_cannot_do_is_refused(network, technique, settings, reason, images, tmp_path):
    with pytest.raises(Refusal, match=reason) as error:
        build(asked(named(network), technique, settings), images, tmp_path / "refused")
    # Without kernels for its layers, no other setting helps: then a search asks once.
    assert error.value.depends == ("model" if network in ("cnn", "lstm", "choosing") else "settings")


def test_files_with_pickles_are_refused(images, tmp_path):
    program = torch.export.export(torch.nn.Linear(4, 2), (torch.zeros(1, 4),))
    torch.export.save(program, path := tmp_path / "model.pt2")
    with pytest.raises(Refusal, match=r"holds a pickle, data/sample_inputs/model\.pt"):
        pt2_archive.read(path)
    pt2_archive.write(program, path)
    assert pt2_archive.read(path)(torch.zeros(1, 4)).shape == (1, 2)
    whole = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(whole) as given, zipfile.ZipFile(path, "w") as file:
        for item in given.infolist():
            file.writestr(item, given.read(item).replace(b'"use_pickle": false', b'"use_pickle": true'))
    with pytest.raises(Refusal, match="holds a pickle, weight"):
        pt2_archive.read(path)
    path.write_bytes(b"no archive at all")
    with pytest.raises(Refusal, match="does not load the model"):
        pt2_archive.read(path)


def test_embedding_tables_become_int8(tmp_path):
    words = dataset.load(Factory("networks.py:tokens"), STUDY)
    state = named("placed")
    artifact = build(asked(state, "static", STATIC), words, tmp_path / "placed", batch=8)
    assert artifact.about["int8"]["all"] == 1.0
    assert artifact.about["int8"]["float"] == []
    inputs = {name: item.numpy() for name, item in words.bind(state.model).example(8).items()}
    session = Inductor().open(artifact, TargetSpec("here", batch=8), {}, STUDY)
    found = session.collect(session.run(session.prepare(inputs)))["output"]
    session.close()
    with torch.no_grad():
        wanted = state.model(torch.from_numpy(inputs["tokens"])).numpy()
    assert 0 < numpy.linalg.norm(found - wanted) < 0.05 * numpy.linalg.norm(wanted)


@pytest.mark.parametrize(("technique", "settings"), [("static", STATIC), ("dynamic", DYNAMIC)])
def test_a_table_that_the_head_shares_is_stored_once(technique, settings, tmp_path):
    words = dataset.load(Factory("networks.py:tokens"), STUDY)
    state = named("speller")
    artifact = build(asked(state, technique, settings), words, tmp_path / technique)
    stored = torch.export.load(artifact.folder / "model.pt2")
    matrices = [item for item in (*stored.state_dict.values(), *stored.constants.values()) if item.ndim == 2]
    assert sorted(tuple(item.shape) for item in matrices) == [(32, 32), (500, 32)]
    assert {item.dtype for item in matrices} == {torch.int8}
    given = {name: item.numpy() for name, item in words.bind(state.model).example(1).items()}
    if technique == "static":
        session = Inductor().open(artifact, TargetSpec("here"), {}, STUDY)
        found = session.collect(session.run(session.prepare(given)))["output"]
        session.close()
    else:
        found = pt2_archive.read(artifact.folder / "model.pt2")(torch.from_numpy(given["tokens"]))[0].detach().numpy()
    with torch.no_grad():
        wanted = state.model(torch.from_numpy(given["tokens"])).numpy()
    assert 0 < numpy.linalg.norm(found - wanted) < 0.05 * numpy.linalg.norm(wanted)
