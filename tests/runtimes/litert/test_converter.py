"""The process of LiteRT's converter: what it leaves in ours, what it refuses, and what is said when it ends."""

import importlib.util
import os
import signal
import sys
import threading
import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from optlang.interfaces import OptlangError, Refusal
from optlang.runtimes.litert import converter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("litert_torch") is None, reason="litert-torch is not installed"),
]


class Bins(nn.Module):
    def forward(self, x):
        return torch.histc(x)


def program(module):
    return torch.export.export(module.eval(), (torch.rand(2, 4),))


def running(number):
    """Whether the process is there within ten seconds' waiting for its end."""
    for _ in range(1000):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_crash_has_its_reason_and_the_next_model_a_new_process(tmp_path):
    linear = program(nn.Linear(4, 3))
    converter.start()
    pid = converter._kept.pid
    os.kill(pid, signal.SIGSTOP)
    # Once it was asked.
    threading.Timer(0.5, os.kill, (pid, signal.SIGSEGV)).start()
    threading.Timer(0.6, os.kill, (pid, signal.SIGCONT)).start()
    with pytest.raises(OptlangError, match=r"process of LiteRT's converter was ended by signal 11") as error:
        converter.converted(linear, tmp_path)
    assert not isinstance(error.value, Refusal)
    converter.start()
    assert converter._kept.pid != pid
    assert converter._kept.alive


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_one_that_hangs_is_ended(tmp_path, monkeypatch):
    converter.start()
    pid = converter._kept.pid
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(converter, "_TIMEOUT", 0.2)
    with pytest.raises(OptlangError, match="LiteRT's converter gave no answer for 0 s") as error:
        converter.converted(program(nn.Linear(4, 3)), tmp_path)
    assert error.value.help == "use the runtime onnxruntime"
    assert not running(pid)


def test_it_stays_between_models_and_leaves_no_threads_in_this_process(tmp_path):
    linear = program(nn.Linear(4, 3))
    first = converter.converted(linear, tmp_path)
    pid = converter._kept.pid
    with pytest.raises(Refusal, match="does not take the model: Lowering not found: aten"):
        converter.converted(program(Bins()), tmp_path)
    assert converter.converted(linear, tmp_path) == first
    assert converter._kept.pid == pid
    assert not list(tmp_path.iterdir())
    assert not {"jax", "litert_torch"} & set(sys.modules)
    # JAX warns of every fork of its process.
    assert len(list(DataLoader(range(4), num_workers=1))) == 4
