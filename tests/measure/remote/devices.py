"""Fixtures of devices that are this machine, reached through a real SSH server."""

from __future__ import annotations

import importlib.util
import shutil
import sys

import numpy
import pytest

from optlang.interfaces import Artifact, ArtifactFile, RemoteDevice, TargetSpec
from optlang.measure.process import Deployment
from optlang.measure.remote import devices, ssh
from tests.measure.remote.server import Server, sshd

KINDS = [
    pytest.param("sshd", marks=pytest.mark.skipif(sshd() is None, reason="OpenSSH's server is not installed")),
    pytest.param(
        "asyncssh", marks=pytest.mark.skipif(importlib.util.find_spec("asyncssh") is None, reason="no asyncssh")
    ),
]
ANY = KINDS[:1] if sshd() is not None else KINDS[1:]
"""The one that is at hand."""


@pytest.fixture(scope="module", params=KINDS)
def running(request, tmp_path_factory):
    if shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("OpenSSH's client is not installed")
    server = Server(tmp_path_factory.mktemp("server"), request.param)
    yield server
    server.stop()


@pytest.fixture
def server(running, monkeypatch):
    """A server that listens, which clients know and which knows them."""
    monkeypatch.setenv(ssh.CONFIG, str(running.config))
    yield running
    devices.close()
    running.restore()


@pytest.fixture
def device(server, tmp_path):
    # A lock of its own: this machine's is held by whatever else is measured here.
    python, own = tmp_path / "python there", tmp_path / "tmp there"
    own.mkdir()
    python.write_text(f"#!/bin/sh\nTMPDIR='{own}' exec '{sys.executable}' \"$@\"\n")
    python.chmod(0o755)
    return RemoteDevice("ssh", "device", python=str(python), folder=str(tmp_path / "over there"), reconnect=20)


@pytest.fixture
def member_on(tmp_path):
    """A small net in ONNX Runtime, on a device or (None) on this machine."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = numpy.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(16, 64)).astype("float32"), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])], "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])], [weight],
    )
    folder, study = tmp_path / "artifact", tmp_path / "study"
    folder.mkdir()
    study.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    size = (folder / "model.onnx").stat().st_size
    artifact = Artifact(folder, "onnx", (ArtifactFile("model.onnx", size, ""),), ("x",), ("y",))

    def make(remote=None, name="it", batch=1):
        calls = "optlang.runtimes.onnxruntime.build:OnnxRuntime"
        target = TargetSpec("pi", batch=batch, remote=remote)
        return Deployment(name, "onnxruntime", calls, artifact, target, {}, study)

    return make


@pytest.fixture
def samples():
    return {"x": numpy.random.default_rng(1).normal(size=(40, 16)).astype("float32")}
