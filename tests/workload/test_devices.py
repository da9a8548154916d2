"""What `device` of a study stands for in a process; a GPU is made up where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from optlang.interfaces import OutsideError
from optlang.run import worker
from optlang.workload import devices
from optlang.workload.imports import UserCodeError


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    devices.resolved.cache_clear()
    yield
    devices.resolved.cache_clear()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs that torch says are there."""
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    about = SimpleNamespace(name="NVIDIA H200", total_memory=150_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: about)


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_is_the_processor_where_there_is_nothing_else_and_says_nothing(nothing: None) -> None:
    found = devices.resolved("auto")
    assert (found.torch_name, found.kind, found.said()) == ("cpu", "cpu", None)
    assert found.facts() == {"device": "cpu", "name": None, "memory": None}


def test_auto_is_a_gpu_that_computes(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_broken", lambda name: None)
    found = devices.resolved("auto")
    assert (found.torch_name, found.kind) == ("cuda:0", "cuda")
    assert found.said() == "models are trained on cuda:0 (NVIDIA H200, 150 GB)"
    assert devices.resolved("cuda:1").torch_name == "cuda:1"
    assert devices.resolved("cuda:1").kind == "cuda"


def test_a_gpu_that_does_not_compute_is_not_taken_and_that_is_said(
    gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "torch cannot compute on cuda: no kernel image is available for execution on the device"
    monkeypatch.setattr(devices, "_broken", lambda name: why)
    found = devices.resolved("auto")
    assert found.torch_name == "cpu"
    assert found.said() == f"models are trained on the processor: {why}"
    with pytest.raises(OutsideError, match="no kernel image") as caught:
        devices.resolved("cuda")
    assert caught.value.help is not None
    assert "device = cpu" in caught.value.help


@pytest.mark.parametrize(
    ("asked", "reason"),
    [("cuda", "`device = cuda`: torch was installed without CUDA"),
     ("cuda:1", '`device = "cuda:1"`: torch was installed without CUDA'),
     ("mps", "`device = mps`: torch finds no GPU of a Mac")],
)
def test_what_torch_has_not_is_refused_with_a_way_out(asked: str, reason: str, nothing: None) -> None:
    with pytest.raises(OutsideError) as caught:
        devices.resolved(asked)
    assert caught.value.message.startswith(reason)
    assert caught.value.help is not None
    assert "device = auto" in caught.value.help


def test_a_number_beyond_the_gpus_that_are_there_is_refused(gpus: None) -> None:
    with pytest.raises(OutsideError, match='torch finds 2 GPUs here: "cuda:0", "cuda:1"'):
        devices.resolved("cuda:2")


def test_memory_that_ran_out_on_a_gpu_is_one_failure_with_a_hint() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …")
    said = "out of memory on the GPU (2.00 GiB more were asked for): a smaller `batch` or `amp = bfloat16` in the step"
    outer = UserCodeError("the model's forward raised …")
    outer.__cause__ = error
    assert worker._failure(outer).reason.startswith(said)
    assert worker._failure(error).reason.startswith(said)
    assert worker._failure(MemoryError()).reason == "out of memory"
    assert not devices.lost(error)
    assert devices.lost(torch.AcceleratorError("CUDA error: device-side assert triggered"))
