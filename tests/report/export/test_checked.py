"""A database may come from somebody else: nothing that it says leaves the export's folder or becomes a program."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from optlang.interfaces import OptlangError
from optlang.report.export import checked
from optlang.report.export.runners import builder, runner
from optlang.report.export.write import export
from tests.report.export.test_write import artifact, read


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/b", "a b", "", ".", "a\n", "C:", None, "1a"])
def test_a_target_is_a_name(name: object) -> None:
    with pytest.raises(OptlangError, match="names a target") as caught:
        checked.folder(name)
    assert caught.value.help
    assert checked.folder("phone_2") == "phone_2"


@pytest.mark.parametrize("name", [
    "../model.onnx", "/etc/model.onnx", "a/../../b", "a\\..\\b", "C:\\model.onnx", "run.py", "RUN.PY", "build.sh",
    "manifest.json", "./model.onnx", "a//b", "-rf", "a\nb", "</script><script>", "$(reboot)", "", None, 3,
])
def test_a_file_lies_in_the_folder_and_is_none_of_the_export(name: object) -> None:
    with pytest.raises(OptlangError):
        checked.file(name)


@pytest.mark.parametrize("name", [
    "model.onnx", "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin", "a_1-2.pt2",
])
def test_files_that_runtimes_write_are_taken(name: str) -> None:
    assert checked.file(name) == name


@pytest.mark.parametrize("calls", [
    "os:system", "subprocess:run", "os.path:join", "../models.py:net", "/tmp/models.py:net", "models.py", "models.py:",
    "models.py:net()", "a-b:c", ":net", None,
])
def test_what_makes_a_model_is_an_object_of_a_package_or_of_the_study(calls: object) -> None:
    with pytest.raises(OptlangError):
        checked.calls(calls)
    assert checked.calls("models.py:net") == "models.py:net"
    assert checked.calls("optlang.zoo.digits:cnn") == "optlang.zoo.digits:cnn"


COMMAND = "trtexec --onnx=model.onnx --saveEngine=model.engine --skipInference --minShapes=\"'a:b'\":1x3"


@pytest.mark.parametrize("text", [
    "rm -rf /", "trtexec --onnx=/etc/passwd", "trtexec --onnx=model.onnx --saveEngine=../engine",
    "trtexec --loadEngine=x", "trtexec; reboot", "trtexec --onnx=model.onnx && reboot", "trtexec 'a", "", None,
    "trtexec --onnx=model.onnx --plugins=/tmp/evil.so",
])
def test_a_command_builds_an_engine_here_or_is_refused(text: object) -> None:
    with pytest.raises(OptlangError):
        checked.command(text)


def test_a_command_stays_what_it_was_and_quotes_what_a_shell_would_run() -> None:
    assert checked.command(COMMAND).split()[:3] == ["trtexec", "--onnx=model.onnx", "--saveEngine=model.engine"]
    script = builder({"about": {"command": "trtexec --sparsity='enable; reboot'"}})
    assert script is not None
    assert "exec trtexec '--sparsity=enable; reboot' \"$@\"" in script


EVIL = '"""; import os; os.abort(); """'


@pytest.mark.parametrize(("runtime", "about"), [
    ("tensorrt", {"module": EVIL}), ("tensorrt", {"version": EVIL}), ("tensorrt", {"compute": EVIL}),
    ("tensorrt", {"profile": {"x": {"max": [EVIL]}}}), ("coreml", {"units": EVIL}), ("litert", {"batch": EVIL}),
    ("executorch", {"batch": True}), ("torchscript", {"graph": EVIL}), ("openvino", {"precision": EVIL}),
    ("onnxruntime", {"session": {
        "graph": "all\nimport os", "threads": 1, "inter_threads": 1, "execution": "sequential", "arena": True,
        "spinning": True, "provider": "cpu",
    }}),
    ("onnxruntime", {"session": {
        "graph": "all", "threads": "1\nimport os", "inter_threads": 1, "execution": "sequential", "arena": True,
        "spinning": True, "provider": "cpu",
    }}),
])
def test_no_word_of_the_database_becomes_a_line_of_the_program(runtime: str, about: dict[str, Any]) -> None:
    entry = {"files": [{"name": "model.bin.onnx"}], "inputs": [], "outputs": [], "about": about}
    with pytest.raises(OptlangError, match="the database names"):
        runner(runtime, entry)


def test_names_of_inputs_are_text() -> None:
    entry = {"files": [{"name": "model.pt"}], "inputs": [{"name": EVIL}], "outputs": [{"name": "y"}], "about": {}}
    program = runner("torchscript", entry)
    assert program is not None
    assert repr(EVIL) in program
    compile(program, "run.py", "exec")


@pytest.mark.parametrize("harm", ["target", "file", "link"])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, harm: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    targets = ["laptop", "../outside" if harm == "target" else "phone"]
    entries = [artifact(tmp_path / f"a{number}", {"model.onnx": b"w"}, target=target)
               for number, target in enumerate(targets)]
    if harm == "file":
        entries[0]["files"][0]["name"] = str(outside / "model.onnx")
    out = tmp_path / "out"
    if harm == "link":
        out.mkdir()
        (out / "phone").symlink_to(outside)
    with pytest.raises(OptlangError):
        export(read(tmp_path, entries), "digits", 1, out, overwrite=True)
    assert list(outside.iterdir()) == []


def test_a_file_that_poses_as_the_runner_is_refused(tmp_path: Path) -> None:
    entry = artifact(tmp_path / "a", {"model.onnx": b"w", "run.py": b"import os"})
    assert entry["files"][1]["sha256"] == hashlib.sha256(b"import os").hexdigest()
    with pytest.raises(OptlangError, match="every export writes itself"):
        export(read(tmp_path, [entry]), "digits", 1, tmp_path / "out")
