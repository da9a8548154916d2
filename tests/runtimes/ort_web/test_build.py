"""ONNX Runtime in a real browser: the same answers, its own clock, nothing left behind, a page to take away.

What needs the browser is skipped, with the reason, where Playwright, a browser or onnxruntime-web's files are missing.
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import numpy
import onnxruntime
import pytest
import torch

from optlang.interfaces import Context, Factory, ModelState, OptlangError, Refusal, TargetSpec
from optlang.measure.process import BareProcess
from optlang.report.export.web import pages
from optlang.runtimes.ort_web import files
from optlang.runtimes.ort_web.browser import ISOLATION, Page, Server
from optlang.runtimes.ort_web.build import OrtWeb
from optlang.workload import imports
from optlang.workload.data import dataset as data_module
from optlang.workload.model.make import make
from tests.runtimes import test_contract as contract

BROWSER = TargetSpec("page", device="browser")
MISSING = OrtWeb().available()

pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=f"ort_web: {MISSING}")]


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images"), contract.STUDY)


def built(state, data, folder, target=BROWSER, settings=None):
    return contract.built("ort_web", state, data, folder, target, settings)


def natively(member, inputs):
    """What onnxruntime on this machine answers to the same file."""
    session = onnxruntime.InferenceSession(member.artifact.folder / "model.onnx", providers=["CPUExecutionProvider"])
    return dict(zip(member.artifact.outputs, session.run(list(member.artifact.outputs), inputs), strict=True))


def family(number):
    """The processes below this one that have not ended, by number."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                found[int(folder.name)] = int(parent)
    below = {number}
    while more := {child for child, parent in found.items() if parent in below} - below:
        below |= more
    return below - {number}


def ended(numbers):
    """Whether all of these processes end within ten seconds."""
    for _ in range(100):
        states = [Path(f"/proc/{number}/stat") for number in numbers]
        if all(not path.exists() or path.read_text().rpartition(")")[2].split()[0] == "Z" for path in states):
            return True
        time.sleep(0.1)
    return False


def test_the_contract_holds_on_one_model(images, tmp_path):
    state = contract.start("joined")
    state.model.train()
    before = {key: item.clone() for key, item in state.model.state_dict().items()}
    member = built(state, images, tmp_path / "built", dataclasses.replace(BROWSER, batch=2))
    again = built(state, images, tmp_path / "again", dataclasses.replace(BROWSER, batch=2))
    assert state.model.training
    assert all(torch.equal(item, before[key]) for key, item in state.model.state_dict().items())
    state.model.eval()
    assert member.artifact.files == again.artifact.files
    assert {item.name for item in member.artifact.files} == {path.name for path in (tmp_path / "built").iterdir()}
    for item in member.artifact.files:
        content = (tmp_path / "built" / item.name).read_bytes()
        assert (item.bytes, item.sha256) == (len(content), sha256(content).hexdigest())
    assert member.artifact.about["provider"] == "wasm"
    assert member.artifact.about["onnxruntime-web"] == files.version(files.folder())
    shutil.move(tmp_path / "built", tmp_path / "moved")
    member = dataclasses.replace(member, artifact=dataclasses.replace(member.artifact, folder=tmp_path / "moved"))
    with BareProcess(member) as process:
        for count, batch in ((1, 64), (7, 64), (7, 3)):
            inputs = contract.samples(member, images, count)
            wanted = contract.reference(state, inputs)
            found = process.outputs(inputs, batch)
            assert list(found) == list(member.artifact.outputs) == list(wanted)
            for output, item in wanted.items():
                assert (found[output].shape, found[output].dtype) == (item.shape, item.dtype)
                numpy.testing.assert_allclose(found[output], item, rtol=1e-4, atol=1e-5)
        inputs = contract.samples(member, images, 2)
        earlier = process.outputs(inputs)
        process.warm(inputs, seconds=0.0, calls=2)
        durations = process.round(seconds=0.0, calls=25, skip=1)
        assert len(durations) >= 25
        # Single calls are told apart where the clock's steps, of 5 µs, would not.
        assert (durations > 0).all()
        assert numpy.median(durations) < 0.05
        assert 0 < process.load_time < 60
        if sys.platform == "linux":
            # The page's process holds WebAssembly of 14 MB, compiled.
            assert process.memory > 50_000_000
        later = process.outputs(inputs)
        assert all((earlier[key] == later[key]).all() for key in earlier)
        loaded = Path(f"/proc/{process.pid}/maps")
        if loaded.exists():
            held = loaded.read_text()
            assert [name for name, mark in contract.LIBRARIES.items() if mark in held] == []
        browsers = family(process.pid) if sys.platform == "linux" else set()
    assert ended(browsers)


def test_int8_is_natively_the_same_to_the_bit_and_a_killed_process_takes_its_browser_along(images, tmp_path):
    int8 = contract.quantized(contract.start("cnn"), images, tmp_path / "int8", OrtWeb().wants())
    member = built(int8, images, tmp_path / "artifact", dataclasses.replace(BROWSER, threads=2))
    inputs = contract.samples(member, images, 200)
    process = BareProcess(member)
    try:
        numpy.testing.assert_array_equal(process.outputs(inputs)["output"], natively(member, inputs)["output"])
        if sys.platform != "linux":
            return
        browsers = family(process.pid)
        assert any(b"--type=renderer" in Path(f"/proc/{number}/cmdline").read_bytes() for number in browsers)
        os.kill(process.pid, signal.SIGKILL)
        assert ended(browsers)
    finally:
        process.close()


def test_weights_beside_the_file_and_a_fixed_batch_in_float16(tmp_path):
    import onnx

    half = imports.find("optlang.techniques.cast.half:half", contract.STUDY)
    lines = data_module.load(Factory("optlang.zoo.transformer:digit_lines"), contract.STUDY)
    factory = Factory("optlang.zoo.transformer:transformer")
    state = ModelState("module", make(factory, contract.STUDY), factory)
    settings = {"dtype": "float16", "sensitive": True, "keep": (), "only": ()}
    cast = half(state, settings, Context(lines, 1, tmp_path, contract.STUDY))
    model = onnx.load(built(cast, lines, tmp_path / "plain").artifact.folder / "model.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    (tmp_path / "split").mkdir()
    # Shapes stay inside: ONNX Runtime looks for them before a page has handed on what lies beside.
    onnx.save(
        model, tmp_path / "split" / "net.onnx", save_as_external_data=True, location="net.weights", size_threshold=128
    )
    member = built(ModelState("onnx", tmp_path / "split" / "net.onnx", factory), lines, tmp_path / "artifact")
    assert {item.name for item in member.artifact.files} == {"model.onnx", "net.weights"}
    inputs = contract.samples(member, lines, 6)
    with BareProcess(member) as process:
        found = process.outputs(inputs)["output"]
    numpy.testing.assert_allclose(found, contract.reference(cast, inputs)["output"], atol=0.02)


def test_webgpu_on_the_processor_is_refused_unless_it_is_asked_for(images, tmp_path):
    state = contract.start("mlp")
    settings = {"provider": "webgpu", "software": True}
    try:
        member = built(state, images, tmp_path / "artifact", settings=settings)
    except Refusal as error:
        pytest.skip(error.message)
    assert "swiftshader" in member.artifact.about["adapter"].lower()
    assert member.artifact.about["browser"].partition(".")[0].isdigit()
    inputs = contract.samples(member, images, 3)
    with BareProcess(member) as process:
        found = process.outputs(inputs)["output"]
        process.warm({name: item[:1] for name, item in inputs.items()}, 0.0, 1)
        # The page's own process does not hold the model.
        assert process.memory is None
    numpy.testing.assert_allclose(found, contract.reference(state, inputs)["output"], rtol=1e-3, atol=1e-4)


def test_what_cannot_be_loaded_is_refused(images, tmp_path):
    member = built(contract.start("mlp"), images, tmp_path / "artifact")
    (member.artifact.folder / "model.onnx").write_bytes(b"no graph at all")
    with pytest.raises(Refusal, match=r"does not load the model: .*protobuf"):
        BareProcess(member)
    with pytest.raises(Refusal, match="ONNX Runtime in a browser; the target's device is cpu"):
        built(contract.start("mlp"), images, tmp_path / "cpu", TargetSpec("here"))


def test_the_exported_page_checks_itself_in_the_browser(images, tmp_path):
    state = contract.start("joined")
    member = built(state, images, tmp_path / "artifact", dataclasses.replace(BROWSER, threads=2))
    folder = member.artifact.folder
    inputs = contract.samples(member, images, 3)
    wanted = contract.reference(state, inputs)
    numpy.savez(folder / "example_inputs.npz", **inputs)
    # Three samples in calls of two: the page answers as it was measured.
    about = {**member.artifact.about, "samples_a_call": 2}
    entry = {"files": [{"name": item.name} for item in member.artifact.files], "about": about}
    seen = {}
    for off in (0.0, 1.0):
        outputs = {name: item + off * (name == "logits") for name, item in wanted.items()}
        numpy.savez(folder / "example_outputs.npz", **outputs)
        for name, text in pages(entry, folder).items():
            (folder / name).write_text(text, encoding="utf-8")
        seen[off] = shown(folder)
    title, text = seen[0.0]
    assert title == "done", text
    assert "isolated; ready after" in text
    assert "logits float32 (3, 10): largest difference" in text
    assert "ms for the examples" in text
    title, text = seen[1.0]
    assert title == "wrong"
    assert text.count("which is not what was measured") == 1
    for path in folder.glob("*.*"):
        assert b"optlang" not in path.read_bytes()


def shown(folder):
    """Title and text of the page that the exported server shows, once it has ended its check."""
    command = [sys.executable, "-I", folder / "serve.py", "--port", "0", "--ort", files.folder()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as serving:
        try:
            address = serving.stdout.readline().strip()
            server = Server()
            with Page(server) as page:
                page.open(address)
                for _ in range(600):
                    title, text = page.ask("() => [document.title, document.getElementById('told').textContent]")
                    if title in ("done", "wrong", "failed"):
                        return title, text
                    time.sleep(0.05)
            return title, text
        finally:
            server.close()
            serving.terminate()


def test_errors_of_the_page_are_told(tmp_path):
    server = Server()
    try:
        with Page(server) as page:
            page.open(server.put("index.html", b"<!doctype html><title>mine</title>"))
            assert page.ask("(a, b) => [document.title, a + b, crossOriginIsolated]", 2, 3) == ["mine", 5, True]
            with pytest.raises(OptlangError, match="the page in the browser failed: no luck"):
                page.ask("() => { throw new Error('no luck') }")
            assert json.loads(page.ask("() => JSON.stringify(1)")) == 1
    finally:
        server.close()
    assert set(ISOLATION) >= {"Cross-Origin-Opener-Policy", "Cross-Origin-Embedder-Policy"}


def test_a_browser_starts_in_its_sandbox_for_all_but_root(monkeypatch):
    if not hasattr(os, "getuid") or os.getuid() != 0:
        pytest.skip("only root can see that the sandbox was asked for: the browser refuses it")
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    server = Server()
    try:
        with pytest.raises(OptlangError, match=r"does not start: .*root without --no-sandbox") as caught:
            Page(server)
    finally:
        server.close()
    assert "OPTLANG_BROWSER" in caught.value.help
