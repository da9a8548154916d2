"""What every runtime of the standard library must do, on networks of several structures."""

import dataclasses
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy
import pytest
import torch

from optlang.interfaces import (
    FORMS,
    Context,
    Factory,
    ModelState,
    OptlangError,
    QuantWants,
    Refusal,
    Request,
    TargetSpec,
)
from optlang.measure.process import BareProcess, Deployment
from optlang.report.export.runners import runner
from optlang.workload import imports
from optlang.workload.data import dataset as data_module
from optlang.workload.model.call import call
from optlang.workload.model.make import make
from tests.runtimes.declarations import (
    builds_slowly,
    defaults,
    device_of,
    elsewhere,
    other_values,
    performed,
    runtime_of,
    runtimes,
    techniques,
)

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "tests" / "fixtures" / "models"
NETWORKS = ("cnn", "residual", "depthwise", "mlp", "joined", "rows", "tied")
TARGET = TargetSpec("here")
# How the system calls what a package has loaded into a process.
LIBRARIES = {
    "torch": "libtorch", "onnxruntime": "onnxruntime_pybind11", "openvino": "libopenvino",
    "pydantic": "pydantic_core", "onnx": "onnx_cpp2py", "duckdb": "duckdb",
}

pytestmark = pytest.mark.slow


RUNTIMES = runtimes()
QUICK = [name for name in RUNTIMES if not builds_slowly(name)]
# One small model is held to what the others are held to on seven. Compilers write names of their own: their files are
# not promised to be the same bytes again.
SLOW = [name for name in RUNTIMES if builds_slowly(name)]
TAKE_ONNX = [name for name in QUICK if "onnx" in RUNTIMES[name].takes]
PERFORMED = sorted({technique for facts in RUNTIMES.values() for technique in performed(facts)})


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images"), STUDY)


def start(network, **arguments):
    factory = Factory(f"networks.py:{network}", arguments)
    module = make(factory, STUDY)
    # Norms that have seen data, so that folding them wrongly would show.
    with torch.no_grad():
        for item in module.modules():
            if isinstance(item, torch.nn.BatchNorm2d):
                item.running_mean.copy_(torch.linspace(-0.3, 0.4, item.num_features))
                item.running_var.copy_(torch.linspace(0.5, 2.0, item.num_features))
    return ModelState("module", module, factory)


def here(name):
    """The target of the tests, where the runtime builds and runs on this machine."""
    if (reason := elsewhere(name)) is not None:
        pytest.skip(reason)
    return TargetSpec("here", device=device_of(name))


def built(name, state, data, folder, batch=1, settings=None):
    target = dataclasses.replace(here(name), batch=batch)
    folder.mkdir(parents=True, exist_ok=True)
    data = data.bind(state.model) if state.form == "module" else data
    artifact = runtime_of(name).build(state, target, settings or {}, folder, data, STUDY)
    return Deployment(f"a model in {name}", name, RUNTIMES[name].calls, artifact, target, settings or {}, STUDY)


def reference(state, inputs):
    """What the module itself answers, in this process."""
    with torch.no_grad():
        given = {name: torch.from_numpy(item) for name, item in inputs.items()}
        return {name: item.numpy() for name, item in call(state.model, given).items()}


def samples(member, data, count):
    arrays = data.bind(member.artifact.inputs).arrays("validation", count)[0]
    return {name: item[:count] for name, item in arrays.items()}


def quantized(state, data, folder, wants):
    folder.mkdir(parents=True, exist_ok=True)
    static = imports.find("optlang.techniques.quant.static:static", STUDY)
    settings = {
        "calibrator": "minmax", "percentile": None, "bins": None, "samples": 64, "granularity": "auto",
        "bias_correction": False, "keep": (), "only": (),
    }
    return static(state, settings, Context(data, 1, folder, STUDY, wants))


@pytest.mark.parametrize("name", [name for name in RUNTIMES if "graph" in RUNTIMES[name].takes])
def test_techniques_that_it_does_not_perform_are_refused(name, images, tmp_path):
    for technique in sorted(set(PERFORMED) - set(performed(RUNTIMES[name]))):
        asked = dataclasses.replace(start("mlp"), form="graph", requests=(request(technique),))
        with pytest.raises(Refusal, match=f"does not carry out {asked.requests[0].technique}"):
            built(name, asked, images, tmp_path / technique)


@pytest.mark.parametrize("name", RUNTIMES)
class TestDeclared:
    def test_it_lies_in_the_folder_of_its_name(self, name):
        folder = RUNTIMES[name].calls.split(".")[2]
        assert folder in (name, "torch")
        assert (ROOT / "optlang" / "runtimes" / folder).is_dir()

    def test_other_forms_are_refused(self, name, images, tmp_path):
        for form in set(FORMS) - set(RUNTIMES[name].takes):
            state = ModelState(form, None, Factory("networks.py:cnn"))
            with pytest.raises(Refusal, match=f"form {form}"):
                runtime_of(name).build(state, TargetSpec("here", device=device_of(name)), {}, tmp_path, images, STUDY)

    def test_other_devices_are_refused(self, name, images, tmp_path):
        with pytest.raises(Refusal, match="gpu"):
            runtime_of(name).build(start("mlp"), TargetSpec("here", device="gpu"), {}, tmp_path, images, STUDY)

    def test_available_and_wants_answer_without_importing_anything(self, name):
        module, _, attribute = RUNTIMES[name].calls.partition(":")
        code = (
            f"import sys; from {module} import {attribute} as R; r = R(); print(r.available()); r.wants();"
            "print([m for m in ('torch', 'numpy', 'onnx', 'onnxruntime', 'openvino') if m in sys.modules])"
        )
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        assert answer.stdout.splitlines()[1] == "[]"

    def test_missing_package_is_told_with_what_installs_it(self, name):
        module, _, attribute = RUNTIMES[name].calls.partition(":")
        # Without site-packages nothing is installed.
        code = (
            f"import sys; sys.path[:0] = [{str(ROOT)!r}];"
            f"from {module} import {attribute} as R; print(R().available())"
        )
        answer = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
        assert answer.stdout.startswith("pip install ")

    def test_wants_are_complete(self, name):
        wants = runtime_of(name).wants()
        assert isinstance(wants, QuantWants)
        assert wants.symmetric_weights or wants.weights == "uint8"


def request(technique):
    """What a runtime is asked to do for a technique of this name, with its declared defaults."""
    return Request(technique.rpartition(".")[2], defaults(techniques()[technique]))


@pytest.mark.parametrize("name", QUICK)
class TestContract:
    @pytest.mark.parametrize("network", NETWORKS)
    def test_outputs_are_the_modules_own_at_any_batch_size(self, name, network, images, tmp_path):
        state = start(network)
        member = built(name, state, images, tmp_path / "artifact")
        with BareProcess(member) as process:
            for count, batch in ((1, 64), (7, 64), (7, 3)):
                inputs = samples(member, images, count)
                wanted = reference(state, inputs)
                found = process.outputs(inputs, batch)
                assert list(found) == list(member.artifact.outputs) == list(wanted)
                for output, item in wanted.items():
                    assert found[output].shape == item.shape
                    assert found[output].dtype == item.dtype
                    numpy.testing.assert_allclose(found[output], item, rtol=1e-4, atol=1e-5)

    def test_timing_leaves_the_answers_as_they_are(self, name, images, tmp_path):
        state = start("residual")
        member = built(name, state, images, tmp_path / "artifact")
        inputs = samples(member, images, 1)
        with BareProcess(member) as process:
            before = process.outputs(inputs)
            process.warm(inputs, seconds=0.0, calls=2)
            durations = process.round(seconds=0.0, calls=25, skip=1)
            after = process.outputs(inputs)
            assert durations.shape == (25,)
            assert (durations > 0).all()
            assert process.load_time > 0
            if sys.platform == "linux":
                assert process.memory > 10_000_000
            assert all((before[key] == after[key]).all() for key in before)

    def test_a_larger_batch_is_timed_as_one_call(self, name, images, tmp_path):
        member = built(name, start("cnn"), images, tmp_path / "artifact", batch=4)
        with BareProcess(member) as process:
            process.warm(samples(member, images, 4), seconds=0.0, calls=1)
            assert len(process.round(seconds=0.0, calls=3, skip=0)) == 3
            assert process.outputs(samples(member, images, 6))["output"].shape == (6, 10)

    def test_files_are_all_there_is_and_come_out_the_same_again(self, name, images, tmp_path):
        state = start("joined")
        first = built(name, state, images, tmp_path / "first").artifact
        second = built(name, state, images, tmp_path / "second").artifact
        assert {item.name for item in first.files} == {path.name for path in first.folder.iterdir()}
        for item in first.files:
            content = (first.folder / item.name).read_bytes()
            assert (item.bytes, item.sha256) == (len(content), sha256(content).hexdigest())
        assert (first.files, first.inputs, first.outputs) == (second.files, second.inputs, second.outputs)

    def test_an_artifact_is_opened_where_it_was_moved_to(self, name, images, tmp_path):
        state = start("mlp")
        member = built(name, state, images, tmp_path / "built")
        shutil.move(tmp_path / "built", tmp_path / "moved")
        artifact = dataclasses.replace(member.artifact, folder=tmp_path / "moved")
        inputs = samples(member, images, 2)
        with BareProcess(dataclasses.replace(member, artifact=artifact)) as process:
            found = process.outputs(inputs)
        numpy.testing.assert_allclose(found["output"], reference(state, inputs)["output"], rtol=1e-4, atol=1e-5)

    def test_building_leaves_the_subject_as_it_was(self, name, images, tmp_path):
        state = start("residual")
        state.model.train()
        before = {key: item.clone() for key, item in state.model.state_dict().items()}
        built(name, state, images, tmp_path / "artifact")
        assert state.model.training
        assert all(torch.equal(item, before[key]) for key, item in state.model.state_dict().items())

    def test_closing_ends_the_process(self, name, images, tmp_path):
        member = built(name, start("mlp"), images, tmp_path / "artifact")
        process = BareProcess(member)
        number = process.pid
        process.close()
        assert not process.alive
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)

    def test_its_process_holds_this_runtime_and_no_other(self, name, images, tmp_path):
        member = built(name, start("mlp"), images, tmp_path / "artifact")
        with BareProcess(member) as process:
            process.warm(samples(member, images, 1), seconds=0.0, calls=1)
            maps = Path(f"/proc/{process.pid}/maps")
            if not maps.exists():
                pytest.skip("the system does not say what a process has loaded")
            loaded = maps.read_text()
        own = runtime_of(name).imports[0].partition(".")[0]
        assert LIBRARIES.get(own, own) in loaded
        assert [other for other, mark in LIBRARIES.items() if other != own and mark in loaded] == []


@pytest.mark.parametrize(("name", "parameter", "value"), [
    (name, *setting) for name in QUICK for setting in other_values(RUNTIMES[name])
])
def test_each_value_of_a_setting_is_taken_or_refused_with_a_way_out(name, parameter, value, images, tmp_path):
    state, settings = start("residual"), {**defaults(RUNTIMES[name]), parameter: value}
    target = here(name)
    try:
        deployment = built(name, state, images, tmp_path / "artifact", settings=settings)
        session = runtime_of(name).open(deployment.artifact, target, settings, STUDY)
    except OptlangError as refusal:
        assert parameter in f"{refusal.message} {refusal.help}"  # noqa: PT017 - most values are taken
        return
    inputs = samples(deployment, images, 1)
    found = session.collect(session.run(session.prepare(inputs)))["output"].flatten()
    session.close()
    wanted = reference(state, inputs)["output"].flatten()
    assert found @ wanted / numpy.linalg.norm(found) / numpy.linalg.norm(wanted) > 0.9


@pytest.mark.parametrize(("name", "technique"), [
    (name, technique) for name in RUNTIMES for technique in performed(RUNTIMES[name])
])
def test_what_it_performs_makes_most_weights_small(name, technique, images, tmp_path):
    runtime = runtime_of(name)
    if (reason := runtime.available()) is not None:
        pytest.skip(reason)
    state = start("mlp", width=128)
    asked = dataclasses.replace(state, form="graph", requests=(request(technique),))
    folder = tmp_path / "artifact"
    folder.mkdir()
    artifact = runtime.build(
        asked, TargetSpec("here", batch=2), defaults(RUNTIMES[name]), folder, images.bind(state.model), STUDY
    )
    assert sum(artifact.about["stored"].values()) > 0.5
    assert sum(item.bytes for item in artifact.files) < 4 * sum(item.numel() for item in state.model.parameters())


@pytest.mark.parametrize("name", SLOW)
def test_runtimes_that_build_slowly_keep_the_contract_on_one_model(name, images, tmp_path):
    state = start("joined")
    state.model.train()
    before = {key: item.clone() for key, item in state.model.state_dict().items()}
    member = built(name, state, images, tmp_path / "built", batch=2)
    assert state.model.training
    assert all(torch.equal(item, before[key]) for key, item in state.model.state_dict().items())
    state.model.eval()
    assert {item.name for item in member.artifact.files} == {path.name for path in (tmp_path / "built").iterdir()}
    for item in member.artifact.files:
        content = (tmp_path / "built" / item.name).read_bytes()
        assert (item.bytes, item.sha256) == (len(content), sha256(content).hexdigest())
    shutil.move(tmp_path / "built", tmp_path / "moved")
    member = dataclasses.replace(member, artifact=dataclasses.replace(member.artifact, folder=tmp_path / "moved"))
    with BareProcess(member) as process:
        for count, batch in ((1, 64), (7, 64), (7, 3)):
            inputs = samples(member, images, count)
            wanted = reference(state, inputs)
            found = process.outputs(inputs, batch)
            assert list(found) == list(member.artifact.outputs) == list(wanted)
            for output, item in wanted.items():
                assert (found[output].shape, found[output].dtype) == (item.shape, item.dtype)
                numpy.testing.assert_allclose(found[output], item, rtol=1e-4, atol=1e-5)
        inputs = samples(member, images, 2)
        earlier = process.outputs(inputs)
        process.warm(inputs, seconds=0.0, calls=2)
        # Nothing is compiled any more: not one call takes as long as the quickest compilation.
        assert (process.round(seconds=0.0, calls=25, skip=1) < 0.5).all()
        assert process.load_time > 0
        assert process.compile_time is None or process.compile_time > 0
        later = process.outputs(inputs)
        assert all((earlier[key] == later[key]).all() for key in earlier)
        maps = Path(f"/proc/{process.pid}/maps")
        loaded = maps.read_text() if maps.exists() else ""
        number = process.pid
    assert [mark for mark in LIBRARIES.values() if mark in loaded and mark != "libtorch"] == []
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    if "factory" not in member.artifact.about:
        run_exported(name, member.artifact, inputs, earlier)


def run_exported(name, artifact, inputs, outputs):
    """The program that `optlang export` puts beside the file, in a process that has its runtime and numpy alone."""
    entry = {
        "files": [{"name": item.name} for item in artifact.files], "about": artifact.about,
        "inputs": [{"name": item} for item in artifact.inputs],
        "outputs": [{"name": item} for item in artifact.outputs],
    }
    program = artifact.folder / "run.py"
    program.write_text(runner(name, entry))
    numpy.savez(artifact.folder / "example_inputs.npz", **inputs)
    numpy.savez(artifact.folder / "example_outputs.npz", **outputs)
    ran = subprocess.run([sys.executable, "-I", program], capture_output=True, text=True, cwd=artifact.folder)
    assert ran.returncode == 0, ran.stderr
    assert "features: largest difference 0 of" in ran.stdout


@pytest.mark.parametrize("name", TAKE_ONNX)
class TestOnnxFiles:
    def test_int8_file_runs_smaller_and_close_to_float(self, name, images, tmp_path):
        train = imports.find("optlang.techniques.training.train:train", STUDY)
        settings = {
            "epochs": 6, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
            "momentum": 0.9, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0,
            "patience": 0,
        }
        (tmp_path / "trained").mkdir()
        state = train(start("cnn"), settings, Context(images, 1, tmp_path / "trained", STUDY))
        int8 = quantized(state, images, tmp_path / "int8", runtime_of(name).wants())
        plain, member = (built(name, item, images, tmp_path / item.form) for item in (state, int8))
        inputs = samples(member, images, 200)
        with BareProcess(member) as process:
            found = process.outputs(inputs)["output"]
            again = process.outputs(inputs, batch=1)["output"]
        wanted = reference(state, inputs)["output"]
        assert (found.argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.97
        assert not numpy.array_equal(found, wanted)
        # One at a time the same integers are summed, whatever the batch.
        numpy.testing.assert_allclose(again, found, rtol=1e-4, atol=1e-4)
        assert sum(item.bytes for item in member.artifact.files) < sum(item.bytes for item in plain.artifact.files)

    def test_weights_beside_the_file_come_along(self, name, images, tmp_path):
        import onnx

        state = start("mlp")
        source = built(name, state, images, tmp_path / "plain").artifact.folder / "model.onnx"
        (tmp_path / "split").mkdir()
        onnx.save(
            onnx.load(source), tmp_path / "split" / "net.onnx", save_as_external_data=True, location="net.weights",
            size_threshold=0,
        )
        member = built(
            name, ModelState("onnx", tmp_path / "split" / "net.onnx", state.factory), images, tmp_path / "artifact"
        )
        assert {item.name for item in member.artifact.files} == {"model.onnx", "net.weights"}
        inputs = samples(member, images, 3)
        with BareProcess(member) as process:
            found = process.outputs(inputs)
        numpy.testing.assert_allclose(found["output"], reference(state, inputs)["output"], rtol=1e-4, atol=1e-5)

    def test_graph_fixed_to_a_batch_answers_any_number_of_samples(self, name, images, tmp_path):
        import onnx

        state = start("residual")
        model = onnx.load(built(name, state, images, tmp_path / "plain").artifact.folder / "model.onnx")
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 4
        onnx.save(model, tmp_path / "fixed.onnx")
        member = built(
            name, ModelState("onnx", tmp_path / "fixed.onnx", state.factory), images, tmp_path / "artifact",
            batch=4,
        )
        assert member.artifact.about["batch"] == 4
        inputs = samples(member, images, 6)
        with BareProcess(member) as process:
            found = process.outputs(inputs)
        numpy.testing.assert_allclose(found["output"], reference(state, inputs)["output"], rtol=1e-4, atol=1e-5)

    def test_a_transformer_in_float16_is_loaded_and_answers(self, name, tmp_path):
        half = imports.find("optlang.techniques.cast.half:half", STUDY)
        lines = data_module.load(Factory("optlang.zoo.transformer:digit_lines"), STUDY)
        factory = Factory("optlang.zoo.transformer:transformer")
        state = ModelState("module", make(factory, STUDY), factory)
        settings = {"dtype": "float16", "sensitive": True, "keep": (), "only": ()}
        cast = half(state, settings, Context(lines, 1, tmp_path, STUDY))
        member = built(name, cast, lines, tmp_path / "artifact")
        assert member.artifact.about["convolutions"] is False
        inputs = samples(member, lines, 3)
        with BareProcess(member) as process:
            found = process.outputs(inputs)["output"]
        numpy.testing.assert_allclose(found, reference(state, inputs)["output"], atol=0.02)

    def test_a_broken_file_is_refused(self, name, images, tmp_path):
        member = built(name, start("mlp"), images, tmp_path / "artifact")
        (member.artifact.folder / "model.onnx").write_bytes(b"no graph at all")
        with pytest.raises(Refusal, match="does not load the model"):
            BareProcess(member)
