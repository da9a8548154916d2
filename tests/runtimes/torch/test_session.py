"""What torch's runtimes ask of the process and of the machine: threads, and a C++ compiler."""

import dataclasses
import sys

import pytest
import torch

from optlang.interfaces import Factory, ModelState, Refusal
from optlang.workload.model.make import make
from tests.runtimes.conftest import STUDY
from tests.runtimes.declarations import runtime_of
from tests.runtimes.test_contract import built, start

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["eager", "torchscript"])
def test_the_number_of_threads_is_as_before_after_closing_and_after_a_failure(name, images, one_thread, tmp_path):
    member = built(name, start("mlp"), images, tmp_path / "artifact")
    target = dataclasses.replace(member.target, threads=2)
    session = runtime_of(name).open(member.artifact, target, {}, STUDY)
    assert torch.get_num_threads() == 2
    session.close()
    assert torch.get_num_threads() == 1
    (file,) = member.artifact.files
    (member.artifact.folder / file.name).write_bytes(b"broken")
    with pytest.raises(Exception, match=r"TorchScript does not load|header"):
        runtime_of(name).open(member.artifact, target, {}, STUDY)
    assert torch.get_num_threads() == 1


def test_missing_compiler_is_told_with_what_installs_it(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("aotinductor", "inductor"):
        assert "no C++ compiler g++: apt install g++" in runtime_of(name).available()
    monkeypatch.setenv("CXX", "mine++")
    assert runtime_of("inductor").available().startswith("CXX names the C++ compiler mine++, which was not found")
    (tmp_path / "mine++").touch(mode=0o755)
    assert runtime_of("aotinductor").available() is None


def test_what_does_not_compile_as_a_whole_is_refused_with_a_way_out(images, tmp_path):
    if (reason := runtime_of("aotinductor").available()) is not None:
        pytest.skip(reason)
    factory = Factory("networks.py:choosing")
    state = ModelState("module", make(factory, STUDY), factory)
    with pytest.raises(Refusal, match="cannot be exported for AOTInductor: ") as caught:
        built("aotinductor", state, images, tmp_path / "aot")
    assert "must not choose by the values" in caught.value.help
    member = built("inductor", state, images, tmp_path / "inductor")
    with pytest.raises(Refusal, match="does not take the whole of forward: ") as caught:
        runtime_of("inductor").open(member.artifact, member.target, {}, STUDY)
    assert "runtime eager" in caught.value.help
