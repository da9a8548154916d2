"""A trial's artifact is copied as it was measured, says what it is, and runs with its runtime alone."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optlang.interfaces import OptlangError
from optlang.report.export.runners import runner
from optlang.report.export.write import export
from optlang.store.reader import Reader, connect
from optlang.store.writer import Writer
from tests.store.example_study import end, measurement, session, start


def artifact(folder: Path, files: Mapping[str, bytes], **more: Any) -> dict[str, Any]:
    """An `artifacts` entry of an `end` event, with its files written."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {
        "target": "laptop",
        "path": str(folder),
        "format": "onnx",
        "bytes": sum(map(len, files.values())),
        "sha256": "0" * 64,
        "files": [
            {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        ],
        "inputs": ["x"],
        "outputs": ["y"],
        "about": {
            "inputs": {"x": {"dtype": "float32", "shape": [1, 3]}}, "preprocessing": "pixels divided by 16.",
        },
    } | more


FIGURES = [
    measurement("size", 50.0),
    measurement("latency.p50", 2e-5, ratio=9.4),
    measurement("accuracy", 0.98),
    measurement("latency.p95", 4e-5),
]
BASELINE = [
    measurement("size", 100.0),
    measurement("latency.p50", 1e-4),
    measurement("accuracy", 0.99),
    measurement("latency.p95", 2e-4),
]


def read(
    tmp_path: Path,
    entries: list[dict[str, Any]],
    *,
    runtime: str = "onnxruntime",
    state: str = "complete",
    file: Path | str = "studies/digits.opt",
    **more: Any,
) -> Reader:
    steps = [{"path": "precision.static", "technique": "quant.static", "settings": {"samples": 64}}]
    with Writer(tmp_path / "x.duckdb") as store:
        for event in [
            session(file=str(file)),
            start("r1", 0),
            end("r1", 0, measurements=BASELINE),
            start("r1", 1, {"precision": "static", "precision.static.samples": 64}, runtime=runtime, steps=steps),
            end("r1", 1, state, FIGURES, artifacts=entries, **more),
        ]:
            store.record(event)
    return connect([tmp_path / "x.duckdb"])


def test_the_manifest_says_what_was_exported(tmp_path: Path) -> None:
    entry = artifact(tmp_path / ".optlang" / "a", {"model.onnx": b"weights", "model.onnx.data": b"more"})
    done = export(read(tmp_path, [entry]), "digits", 1, tmp_path / "out")
    assert done.files == ("README.md", "manifest.json", "model.onnx", "model.onnx.data", "run.py")
    assert (tmp_path / "out" / "model.onnx.data").read_bytes() == b"more"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest == json.loads(json.dumps(done.manifest, default=str))
    assert manifest["what"] == "static samples 64 · onnxruntime"
    assert (manifest["study"], manifest["trial"], manifest["runtime"]) == ("digits", 1, "onnxruntime")
    assert manifest["steps"] == [{"path": "precision.static", "technique": "quant.static", "settings": {"samples": 64}}]
    assert manifest["point"] == {"precision": "static", "precision.static.samples": 64}
    assert manifest["versions"] == {"torch": "2.13.0"}
    (described,) = manifest["artifacts"]
    assert described["inputs"] == [{"name": "x", "dtype": "float32", "shape": [1, 3]}]
    assert described["outputs"] == [{"name": "y"}]
    for file in described["files"]:
        content = (tmp_path / "out" / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    figures = {figure["metric"]: figure for figure in manifest["figures"]}
    assert figures["latency.p50"]["times_better"] == 9.4, "measured side by side"
    assert (figures["latency.p95"]["times_better"], figures["size"]["times_better"]) == (5.0, 2.0)
    assert figures["accuracy"]["lost"] == pytest.approx(0.01)
    assert figures["accuracy"]["low"] < figures["accuracy"]["value"] < figures["accuracy"]["high"]
    page = (tmp_path / "out" / "README.md").read_text()
    assert "Preprocessing of inputs: pixels divided by 16." in page
    assert "- Inputs: `x`, float32 [1, 3]\n- Outputs: `y`\n" in page
    assert "    python run.py\n" in page
    assert "| latency.p50 | 20.0 µs |" in page


def test_the_page_lists_all_that_was_measured_and_for_which_call(tmp_path: Path) -> None:
    about = {
        "inputs": {"x": {"dtype": "float32", "shape": ["samples", 3]}},
        "measured": {"device": "cpu", "threads": 2, "batch": 8, "between": {"x": [4]}},
    }
    entry = artifact(tmp_path / ".optlang" / "a", {"model.onnx": b"weights"}, about=about)
    own = {**measurement("miou", 0.7), "unit": "ratio", "n": 48}
    other = {**measurement("edge_f1", 0.25), "n": 48}
    counted = {**measurement("parameters", 5120.0), "low": 5120.0, "high": 5120.0}
    steps = [{"path": "baseline.train", "technique": "training.train", "settings": {"epochs": 20, "lr": 0.003}}]
    figures = [*FIGURES, own, other, counted, measurement("build_time", 2.0)]
    with Writer(tmp_path / "x.duckdb") as store:
        for event in [
            session(), start("r1", 0, steps=steps), end("r1", 0, measurements=[*BASELINE, own | {"value": 0.75}]),
            start("r1", 1, runtime="onnxruntime"),
            end("r1", 1, measurements=figures, artifacts=[entry]),
        ]:
            store.record(event)
    manifest = export(connect([tmp_path / "x.duckdb"]), "digits", 1, tmp_path / "out").manifest
    assert manifest["baseline_steps"] == steps
    assert manifest["goals"] == ["minimize latency.p50", "minimize size", "maximize accuracy"]
    assert manifest["requirements"] == ["accuracy >= baseline.accuracy - 1%"]
    page = (tmp_path / "out" / "README.md").read_text()
    assert (
        "Goals and requirements: minimize latency.p50; minimize size; maximize accuracy; "
        "require accuracy >= baseline.accuracy - 1%.\n" in page
    )
    assert (
        "The figures hold for calls with batch 8 (`x` [8, 3]), each after a call of another shape (`x` [8, 4]) and 2 "
        "threads on cpu (x); other batches and shapes were not measured. From 450 samples of validation data: "
        "accuracy. From 48 samples of validation data: edge_f1, miou.\n"
    ) in page
    table = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table] == [
        "latency.p50", "size", "accuracy", "latency.p95", "build_time", "edge_f1", "miou", "parameters",
    ]
    assert "| miou | 70.0 % | 67.9 % to 72.1 % | 75.0 % |  |" in table
    assert "| parameters | 5,120 |  |  |  |" in table
    assert "| accuracy | 98.0 % | 95.1 % to 100.9 % | 99.0 % | −1.0 points |" in table


def test_an_export_says_which_trials_are_within_noise_of_it(tmp_path: Path) -> None:
    events = [session(), start("r1", 0), end("r1", 0, measurements=BASELINE)]
    for trial, seconds in enumerate((20e-6, 20.1e-6, 20.2e-6), start=1):
        entry = artifact(tmp_path / ".optlang" / str(trial), {"model.onnx": b"weights"})
        measured = [*FIGURES[::2], measurement("latency.p50", seconds, ratio=1e-4 / seconds, baseline=1e-4)]
        events += [start("r1", trial), end("r1", trial, measurements=measured, artifacts=[entry])]
    with Writer(tmp_path / "x.duckdb") as store:
        for event in events:
            store.record(event)
    with connect([tmp_path / "x.duckdb"]) as reader:
        found = [export(reader, "digits", trial, tmp_path / f"out{trial}").manifest for trial in (1, 2, 3)]
    assert [(item["tie_of"], item["ties"]) for item in found] == [(None, [2, 3]), (1, []), (1, [])]
    pages = [(tmp_path / f"out{trial}" / "README.md").read_text() for trial in (1, 2)]
    assert "\nWithin noise of it in every goal: 2 trials (2, 3).\n" in pages[0]
    assert "\nIt is within noise of trial 1 in every goal.\n" in pages[1]


def test_an_export_says_which_requirements_it_does_not_meet(tmp_path: Path) -> None:
    entry = artifact(tmp_path / ".optlang" / "a", {"model.onnx": b"weights"})
    said = "accuracy 98.0 % is below the limit 98.5 % (baseline.accuracy - 0.5%) by 0.5 points"
    numbers = {"what": "accuracy", "value": 0.98, "limit": 0.985, "unit": "ratio", "text": said}
    missed = [{"text": "accuracy >= baseline.accuracy - 0.5%", "by": 0.0051, "said": said, "missed": [numbers]}]
    reader = read(tmp_path, [entry], state="infeasible", reason=said, violations=missed)
    manifest = export(reader, "digits", 1, tmp_path / "out").manifest
    assert (manifest["reason"], manifest["missed"]) == (said, missed)
    page = (tmp_path / "out" / "README.md").read_text()
    assert f"It does not meet the study's requirements: {said}." in page


def test_paths_beside_the_database_are_found_from_there(tmp_path: Path) -> None:
    entry = artifact(tmp_path / ".optlang" / "a", {"model.onnx": b"weights"}) | {"path": ".optlang/a"}
    assert "model.onnx" in export(read(tmp_path, [entry]), None, 1, tmp_path / "out").files


@pytest.mark.parametrize("deep", ["r1/1", "r1/1/artifacts"])
def test_what_was_moved_or_copied_with_its_database_is_found_beside_it(tmp_path: Path, deep: str) -> None:
    built = tmp_path / "old" / ".optlang" / "artifacts" / deep
    read(tmp_path / "old", [artifact(built, {"model.onnx": b"weights"})])
    shutil.copytree(tmp_path / "old", tmp_path / "copy")
    (built / "model.onnx").write_bytes(b"of another run")
    assert "model.onnx" in export(connect([tmp_path / "copy" / "x.duckdb"]), None, 1, tmp_path / "out").files
    (tmp_path / "old").rename(tmp_path / "moved")
    assert "model.onnx" in export(connect([tmp_path / "copy" / "x.duckdb"]), None, 1, tmp_path / "again").files
    shutil.rmtree(tmp_path / "copy" / ".optlang")
    with pytest.raises(OptlangError, match="is gone"):
        export(connect([tmp_path / "copy" / "x.duckdb"]), None, 1, tmp_path / "never")


@pytest.mark.parametrize("folder", [".", "studies"])
def test_the_python_of_a_project_that_was_moved_comes_along_or_is_missed(tmp_path: Path, folder: str) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    about = {"factory": {"calls": "models.py:net", "arguments": {}, "weights": None}, "edits": []}
    entry = artifact(old / ".optlang" / "artifacts" / "r1" / "1", {"model.safetensors": b""}, about=about)
    (old / folder).mkdir(exist_ok=True)
    (old / folder / "models.py").write_text("def net():\n    return None\n")
    (old / folder / "digits.opt").write_text("optlang 1\n")
    read(old, [entry], runtime="eager", file=old / folder / "digits.opt")
    old.rename(new)
    reader = connect([new / "x.duckdb"])
    assert "python/models.py" in export(reader, "digits", 1, tmp_path / "out").files
    (new / folder / "models.py").unlink()
    with pytest.raises(OptlangError, match=r"the Python that makes the model is gone: there is no .*models\.py"):
        export(reader, "digits", 1, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_several_targets_have_a_folder_each(tmp_path: Path) -> None:
    entries = [artifact(tmp_path / name, {"model.onnx": name.encode()}, target=name) for name in ("laptop", "phone")]
    done = export(read(tmp_path, entries), None, 1, tmp_path / "out")
    assert done.files == (
        "README.md", "laptop/model.onnx", "laptop/run.py", "manifest.json", "phone/model.onnx", "phone/run.py",
    )


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_an_artifact_that_is_not_what_was_measured_is_refused(tmp_path: Path, harm: str) -> None:
    entry = artifact(tmp_path / "a", {"model.onnx": b"weights", "more.data": b"more"})
    reader = read(tmp_path, [entry])
    if harm == "gone":
        (tmp_path / "a" / "more.data").unlink()
    else:
        (tmp_path / "a" / "more.data").write_bytes(b"mice")
    with pytest.raises(OptlangError, match=harm) as caught:
        export(reader, "digits", 1, tmp_path / "out")
    assert "more.data" in caught.value.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "x.duckdb", "x.duckdb.journal"], (
        "nothing half is left"
    )


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    reader = read(tmp_path, [artifact(tmp_path / "a", {"model.onnx": b"weights"})])
    out = tmp_path / "out"
    out.mkdir()
    export(reader, "digits", 1, out)
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OptlangError, match="not empty"):
        export(reader, "digits", 1, out)
    assert (out / "mine.txt").exists()
    (out / "model.onnx").write_bytes(b"old")
    export(reader, "digits", 1, out, overwrite=True)
    assert (out / "mine.txt").read_text() == "mine"
    assert (out / "model.onnx").read_bytes() == b"weights"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_file_outside_the_artifact_is_refused(tmp_path: Path) -> None:
    entry = artifact(tmp_path / "a", {"model.onnx": b"weights"})
    entry["files"][0]["name"] = "../a/model.onnx"
    with pytest.raises(OptlangError, match="outside its folder"):
        export(read(tmp_path, [entry]), "digits", 1, tmp_path / "out")
    with pytest.raises(OptlangError, match="is a file"):
        export(connect([tmp_path / "x.duckdb"]), "digits", 1, tmp_path / "x.duckdb")


def test_what_lies_beside_comes_along_with_the_command_that_builds_from_it(tmp_path: Path) -> None:
    graph = b"the graph"
    beside = [{"name": "model.onnx", "bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}]
    about = {"beside": beside, "command": "trtexec --onnx=model.onnx", "module": "tensorrt", "profile": {}}
    entry = artifact(tmp_path / "a", {"model.engine": b"the engine"}, about=about, format="tensorrt")
    (tmp_path / "a" / "model.onnx").write_bytes(graph)
    reader = read(tmp_path, [entry], runtime="tensorrt")
    exported = export(reader, "digits", 1, tmp_path / "out")
    assert set(exported.files) >= {"build.sh", "manifest.json", "model.engine", "model.onnx", "run.py"}
    assert [item["name"] for item in exported.manifest["artifacts"][0]["files"]] == ["model.engine"]
    script = tmp_path / "out" / "build.sh"
    assert 'exec trtexec --onnx=model.onnx "$@"' in script.read_text()
    assert os.access(script, os.X_OK)
    (tmp_path / "a" / "model.onnx").write_bytes(b"another")
    with pytest.raises(OptlangError, match=r"no longer what was measured: .*model.onnx has changed"):
        export(reader, "digits", 1, tmp_path / "again")


def test_trials_that_cannot_be_exported_say_why(tmp_path: Path) -> None:
    reader = read(tmp_path, [], state="failed", reason="the loss became NaN in epoch 2")
    with pytest.raises(OptlangError, match="failed: the loss became NaN in epoch 2"):
        export(reader, "digits", 1, tmp_path / "out")
    with pytest.raises(OptlangError, match="has no trial 7") as caught:
        export(reader, "digits", 7, tmp_path / "out")
    assert caught.value.help == "the nearest are 0, 1"
    with pytest.raises(OptlangError, match="has no artifact"):
        export(reader, "digits", 0, tmp_path / "out")
    with pytest.raises(OptlangError, match="no study `digit`"):
        export(reader, "digit", 1, tmp_path / "out")


def onnx_model() -> bytes:
    """y = relu(x · W), three numbers in and two out, for batches of any size."""
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.array([[1, -1], [2, 0], [0, 3]], dtype=np.float32), "W")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["z"]), helper.make_node("Relu", ["z"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", str(folder / "run.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=folder.parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        timeout=100,
    )


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_runner_runs_the_model_and_checks_it(tmp_path: Path, runtime: str) -> None:
    pytest.importorskip(runtime)
    entry = artifact(tmp_path / "a", {"model.onnx": onnx_model()})
    reader = read(tmp_path, [entry], runtime=runtime)
    out = tmp_path / "out"
    export(reader, "digits", 1, out)
    ran = run(out)
    assert ran.returncode == 0, ran.stderr
    assert "y float32 (1, 2)" in ran.stdout
    assert "optlang" not in (out / "run.py").read_text()

    inputs = np.array([[1, 2, 3], [4, 5, -6], [0, 0, 1]], dtype=np.float32)
    np.savez(tmp_path / "mine.npz", x=inputs)
    assert "y float32 (3, 2)" in run(out, str(tmp_path / "mine.npz")).stdout
    assert "there is no file" in run(out, "none.npz").stderr

    np.savez(tmp_path / "a" / "example_inputs.npz", x=inputs)
    for outputs, code in (([[5, 8], [14, 0], [0, 3]], 0), ([[5, 8], [14, 1], [0, 3]], 1)):
        np.savez(tmp_path / "a" / "example_outputs.npz", y=np.array(outputs, dtype=np.float32))
        export(reader, "digits", 1, out, overwrite=True)
        ran = run(out)
        assert ran.returncode == code, ran.stderr
        assert "y: largest difference" in ran.stdout
        assert ("not what was measured" in ran.stderr) is bool(code)


@pytest.mark.slow
def test_the_eager_runner_makes_the_model_by_its_factory(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save

    (tmp_path / "models.py").write_text("import layers\n\ndef net(width):\n    return layers.stack(width)\n")
    (tmp_path / "layers.py").write_text(
        "from torch import nn\n\ndef stack(width):\n    return nn.Sequential(nn.Linear(3, width), nn.ReLU())\n"
    )
    state = {"0.weight": torch.tensor([[1.0, 2, 0], [-1, 0, 3]]), "0.bias": torch.zeros(2)}
    about = {"factory": {"calls": "models.py:net", "arguments": {"width": 2}, "weights": None}, "edits": []}
    entry = artifact(
        tmp_path / "a", {"model.safetensors": save(state)}, about=about, format="safetensors", inputs=["input"]
    )
    np.savez(tmp_path / "a" / "example_inputs.npz", input=np.array([[1, 2, 3]], dtype=np.float32))
    np.savez(tmp_path / "a" / "example_outputs.npz", output=np.array([[5, 8]], dtype=np.float32))
    reader = read(tmp_path, [entry], runtime="eager", file=tmp_path / "digits.opt")
    export(reader, "digits", 1, tmp_path / "out")
    program = (tmp_path / "out" / "run.py").read_text()
    assert "Eager()" in program
    # What lies at the path that the database names may be another thing by now, and on another machine it is nothing.
    for name in ("models.py", "layers.py"):
        (tmp_path / name).write_text("raise SystemExit('not of the export')\n")
    ran = run(tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert "output: largest difference 0 of 8" in ran.stdout


def test_the_inductor_runner_compiles_what_the_factory_makes() -> None:
    entry = {"files": [{"name": "model.safetensors"}], "inputs": [], "outputs": [], "about": {}}
    program = runner("runtime.inductor", entry)
    assert program is not None
    compile(program, "run.py", "exec")
    assert "from optlang.runtimes.torch.inductor import Inductor\n" in program
    assert "Inductor().open(" in program
    assert "Eager" not in program


@pytest.mark.slow
def test_the_torchscript_runner_needs_torch_alone(tmp_path: Path) -> None:
    from optlang.interfaces import Factory, ModelState, TargetSpec
    from optlang.runtimes.torch.torchscript import TorchScript
    from optlang.workload.data import dataset as data
    from optlang.workload.model.call import call
    from optlang.workload.model.make import make

    study = Path(__file__).parents[2] / "fixtures" / "models"
    factory = Factory("networks.py:joined")
    module = make(factory, study)
    bound = data.load(Factory("networks.py:images"), study).bind(module)
    folder = tmp_path / "built"
    folder.mkdir()
    built = TorchScript().build(
        ModelState("module", module, factory), TargetSpec("laptop"), {"graph": "optimized"}, folder, bound, study
    )
    entry = artifact(
        tmp_path / "a", {"model.pt": (folder / "model.pt").read_bytes()}, format="torchscript", about=built.about,
        inputs=list(built.inputs), outputs=list(built.outputs),
    )
    inputs = bound.example(3)
    outputs = {name: item.detach().numpy() for name, item in call(module, inputs).items()}
    np.savez(tmp_path / "a" / "example_inputs.npz", **{name: item.numpy() for name, item in inputs.items()})
    np.savez(tmp_path / "a" / "example_outputs.npz", **outputs)
    export(read(tmp_path, [entry], runtime="torchscript"), "digits", 1, tmp_path / "out")
    program = (tmp_path / "out" / "run.py").read_text()
    assert "optlang" not in program
    assert "networks" not in program
    ran = run(tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert "logits: largest difference" in ran.stdout
    assert "features float32 (3, 12)" in ran.stdout
