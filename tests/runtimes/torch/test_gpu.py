"""torch's runtimes on a GPU: where inputs, weights and answers lie, whose clock times them, what is refused.

Where there is no GPU it is made up (see tests/elsewhere.py); what torch compiles for one is tried on one alone.
"""

import importlib.util
from pathlib import Path

import numpy
import pytest
import torch

from optlang.interfaces import Factory, ModelState, Refusal, Request, TargetSpec
from optlang.report.export.runners import runner
from optlang.runtimes.shared import nvidia
from optlang.runtimes.torch.aotinductor import AOTInductor
from optlang.runtimes.torch.eager import Eager, EagerSession
from optlang.runtimes.torch.inductor import Inductor
from optlang.runtimes.torch.session import GraphSession
from optlang.runtimes.torch.torchscript import TorchScript
from optlang.workload.model.make import make
from tests.elsewhere import Elsewhere, Far

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
TARGET = TargetSpec("there", device="cuda", batch=4)
EVERY = [
    (Eager, {}), (TorchScript, {}), (AOTInductor, {}), (Inductor, {"mode": "default"}),
    (Inductor, {"mode": "reduce_overhead"}), (Inductor, {"mode": "max_autotune"}),
]
on_gpu = pytest.mark.skipif(nvidia.torch_missing() is not None, reason=f"no GPU: {nvidia.torch_missing()}")


def named(network):
    factory = Factory(f"networks.py:{network}")
    return ModelState("module", make(factory, STUDY), factory)


def given(images, count=4):
    return {name: item.numpy() for name, item in images.example(count).items()}


class Tick:
    """A CUDA event: half a millisecond passes between any two of them."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        pass

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 0.5


@pytest.fixture
def there(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append("waited"))
    monkeypatch.setattr(torch.cuda, "Event", Tick)
    with Elsewhere():
        yield waits


@pytest.mark.parametrize("runtime", [Eager, TorchScript])
def test_a_session_moves_what_a_call_needs_and_waits_for_the_answer(runtime, there, images, tmp_path):
    state = named("mlp")
    data = images.bind(state.model)
    artifact = runtime().build(state, TARGET, {}, tmp_path, data, STUDY)
    assert set(artifact.about["tf32"]) == {"matmul", "convolutions"}
    if runtime is Eager:
        session = runtime().open(artifact, TARGET, {}, STUDY)
    else:
        # TorchScript's loader is C++: the graph is the module here.
        session = GraphSession(
            lambda image: (moved(image),), artifact.inputs, artifact.outputs, _Nothing(), device="cuda"
        )
        moved = state.model.to("cuda")
    prepared = session.prepare(given(data))
    tensors = prepared[0] or tuple(prepared[1].values()) if runtime is Eager else prepared
    assert all(isinstance(item, Far) for item in tensors)
    result = session.run(prepared)
    assert there == ["waited"]
    found = session.collect(result)
    plain = named("mlp").model
    with torch.no_grad():
        expected = plain(*data.example(4).values()).numpy()
    numpy.testing.assert_array_equal(next(iter(found.values())), expected)
    assert session.durations(prepared, 0.002, 3, 2) == [500_000] * 4
    session.close()


class _Nothing:
    def close(self):
        pass


def test_a_session_on_the_processor_is_timed_by_this_processs_clock(images, tmp_path):
    state = named("mlp")
    target = TargetSpec("here", batch=4)
    artifact = Eager().build(state, target, {}, tmp_path, images.bind(state.model), STUDY)
    assert "tf32" not in artifact.about
    session = Eager().open(artifact, target, {}, STUDY)
    assert isinstance(session, EagerSession)
    assert not hasattr(session, "durations")


@pytest.mark.parametrize("runtime", [Eager, Inductor])
def test_int8_is_for_processors(runtime, images, tmp_path):
    state = named("cnn")
    asked = ModelState("graph", state.model, state.factory, requests=(Request("dynamic", {}),))
    with pytest.raises(Refusal, match=f"{runtime.name} makes int8 for processors alone") as caught:
        runtime().build(asked, TARGET, {}, tmp_path, images.bind(state.model), STUDY)
    assert caught.value.help is not None
    assert "tensorrt" in caught.value.help


@pytest.mark.skipif(nvidia.torch_missing() is None, reason="a GPU is here")
def test_without_a_gpu_each_says_what_is_missing_and_needs_no_torch_for_it(images, tmp_path):
    for runtime in (Eager, TorchScript, AOTInductor, Inductor):
        assert runtime().missing("cuda", {}) == nvidia.torch_missing()
        assert runtime().missing("cpu", {}) is None
    with pytest.raises(Refusal, match="AOTInductor compiles for the GPU that is there: "):
        AOTInductor().build(named("mlp"), TARGET, {}, tmp_path, images, STUDY)


@pytest.mark.parametrize(
    ("lines", "built"),
    [("cuda: Optional[str] = None\nhip: Optional[str] = None\n", None),
     ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "cuda"),
     ("cuda: Optional[str] = None\nhip: Optional[str] = '7.0'\n", "hip")],
)
def test_what_torch_is_built_for_is_read_from_its_file(lines, built, tmp_path, monkeypatch):
    (tmp_path / "version.py").write_text(lines)
    spec = importlib.util.spec_from_file_location("torch", tmp_path / "__init__.py")
    monkeypatch.setattr(nvidia.importlib.util, "find_spec", lambda name: spec)
    assert nvidia._built() == built


def test_an_exported_program_runs_where_it_was_measured():
    entry = {
        "format": "torchscript", "files": [{"name": "model.pt"}], "inputs": [{"name": "image"}],
        "outputs": [{"name": "logits"}], "about": {"graph": "folded", "measured": {"device": "cuda", "threads": 1}},
    }
    text = runner("runtime.torchscript", entry)
    assert "map_location='cuda'" in text
    assert ".to('cuda')" in text
    entry["about"]["measured"]["device"] = "cpu"
    assert "cuda" not in runner("runtime.torchscript", entry)


@pytest.mark.slow
@pytest.mark.skipif(Inductor().available() is not None, reason="no C++ compiler or Python's headers")
def test_reduce_overhead_on_a_processor_does_what_torch_does_there(images, tmp_path):
    state = named("mlp")
    target, settings = TargetSpec("here", batch=4), {"mode": "reduce_overhead"}
    artifact = Inductor().build(state, target, settings, tmp_path, images.bind(state.model), STUDY)
    session = Inductor().open(artifact, target, settings, STUDY)
    found = session.collect(session.run(session.prepare(given(images.bind(state.model)))))
    with torch.no_grad():
        expected = state.model(*images.bind(state.model).example(4).values()).numpy()
    numpy.testing.assert_allclose(next(iter(found.values())), expected, atol=1e-5)
    session.close()


@pytest.mark.gpu
@pytest.mark.slow
@on_gpu
@pytest.mark.parametrize(("runtime", "settings"), EVERY)
def test_on_a_gpu_answers_are_the_modules_and_calls_are_timed(runtime, settings, images, tmp_path):
    state = named("cnn")
    data = images.bind(state.model)
    artifact = runtime().build(state, TARGET, settings, tmp_path, data, STUDY)
    session = runtime().open(artifact, TARGET, settings, STUDY)
    prepared = session.prepare(given(data))
    with torch.no_grad():
        expected = state.model(*data.example(4).values()).numpy()
    for _ in range(3):
        found = session.collect(session.run(prepared))
        numpy.testing.assert_allclose(next(iter(found.values())), expected, atol=1e-2)
    assert all(0 < item < 1e9 for item in session.durations(prepared, 0.01, 5, 3))
    session.close()
