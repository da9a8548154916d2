"""Every runtime that is declared to run on another machine opens and answers there with the one file alone."""

import importlib.util
import sys

import pytest

from optlang.cli.examination import declared
from optlang.measure.remote.bundle import MEASURED, bundle
from optlang.workload.child_process import ChildDied, ChildProcess

STANDALONE = [runtime for runtime in declared() if "standalone" in runtime.traits]
NEEDS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "executorch": "executorch", "litert": "ai_edge_litert"}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", STANDALONE, ids=lambda item: item.name)
def test_it_gets_as_far_as_the_file_of_the_model(runtime, tmp_path):
    name = runtime.name.rpartition(".")[2]
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    made = bundle((*MEASURED, runtime.calls.partition(":")[0]))
    (tmp_path / made.name).write_bytes(made.content)
    artifact = {
        "folder": str(tmp_path), "format": "onnx", "inputs": ["x"], "outputs": ["y"],
        "files": [{"name": "model.onnx", "bytes": 0, "sha256": ""}],
        "about": {"outputs": {"y": {"dtype": "float32", "shape": ["samples", 1]}}},
    }
    requests = [
        {"do": "import", "calls": runtime.calls, "study": str(tmp_path), "cores": None, "scratch": None},
        {"do": "open", "artifact": artifact, "target": {"name": "there"}, "settings": {}},
    ]
    # Away from the checkout: only what is in the file can be found of optlang.
    child = ChildProcess("", folder=tmp_path, command=[sys.executable, "-I", str(tmp_path / made.name), "child"])
    imported = child.ask(requests[0], 300)
    try:
        opened = child.ask(requests[1], 300)
    except ChildDied:
        # ExecuTorch ends its process where there is no file.
        opened = {"error": {"type": "RuntimeError", "message": child.tail}}
    child.close()
    assert "ok" in imported, imported
    assert opened["error"]["type"] in ("Refusal", "RuntimeError", "ValueError"), opened
    assert "No module named" not in opened["error"]["message"]
