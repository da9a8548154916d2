"""Modules as TorchScript files: what they hold, that they need none of the model's Python, and reasons where not."""

import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from textwrap import dedent

import numpy
import pytest
import torch

from optlang.interfaces import Context, Factory, ModelState, Refusal, TargetSpec
from optlang.runtimes.torch.torchscript import TorchScript
from optlang.techniques.cast.half import half
from optlang.workload.data import dataset as data_module
from optlang.workload.export.torchscript import _renamed_pickle, export
from optlang.workload.model import make
from optlang.workload.model.call import call

MODELS = Path(__file__).parents[2] / "fixtures" / "models"

pytestmark = pytest.mark.slow

SOURCE = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.back = nn.Linear(8, 20, bias=False)
        self.back.weight = self.embed.weight

    def forward(self, tokens, weight):
        x = (self.embed(tokens) * weight[:, None, None]).mean(1)
        return {"scores": self.back(x), "mean": x}

class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, rows):
        if rows.shape[0] > 2:
            return self.layer(rows).mean(dim=1), rows.sum(dim=2)
        return self.layer(rows).mean(dim=1) * 1, rows.sum(dim=2) * 1

class Counts(nn.Module):
    def forward(self, rows):
        return rows.reshape(int(rows.shape[0]), -1) * 2

class Chooses(nn.Module):
    def forward(self, rows):
        if rows.shape[0] == 2:
            return rows.sum(dim=1)
        return rows.sum(dim=2)

class Numpy(nn.Module):
    def forward(self, rows):
        return torch.from_numpy(rows.numpy().sum(axis=1, keepdims=False))

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(8, 8, 3)
        self.norm = nn.BatchNorm1d(8)
        self.norm.running_var.fill_(3.0)

    def forward(self, rows):
        return torch.relu(self.norm(self.convolution(rows)))

def make(name):
    torch.manual_seed(1)
    return globals()[name]()

def rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 8, 8, generator=generator)
    return {"train": (x, torch.zeros(20, dtype=torch.long)), "validation": (x, torch.zeros(20, dtype=torch.long))}

def tokens():
    generator = torch.Generator().manual_seed(0)
    x = {"tokens": torch.randint(0, 20, (20, 6), generator=generator), "weight": torch.rand(20, generator=generator)}
    return {"train": (x, torch.zeros(20, dtype=torch.long)), "validation": (x, torch.zeros(20, dtype=torch.long))}
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.py").write_text(SOURCE)
    return tmp_path / "study"


def exported(name, study, folder, factory="rows", mode="trace", fold=True, dtype=None):
    network = Factory("mine.py:make", {"name": name})
    module = make.make(network, study)
    state = ModelState("module", module.to(dtype) if dtype else module, network)
    data = data_module.load(Factory(f"mine.py:{factory}"), study).bind(state.model)
    folder.mkdir(exist_ok=True)
    path = folder / "model.pt"
    outputs = export(state.model, data, path, study, mode=mode, fold=fold)
    return state, data, path, outputs


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", ["trace", "script"])
@pytest.mark.parametrize(("name", "factory"), [("Two", "tokens"), ("Normed", "rows")])
def test_file_answers_in_order_at_any_batch_size(name, factory, mode, study, tmp_path):
    state, data, path, outputs = exported(name, study, tmp_path / "out", factory, mode)
    graph = torch.jit.load(path)
    for count in (1, 5, 20):
        inputs = data.example(count)
        with torch.no_grad():
            wanted = call(state.model, inputs)
            answers = graph(*inputs.values())
        assert outputs == tuple(wanted)
        for answer, right in zip(answers, wanted.values(), strict=True):
            torch.testing.assert_close(answer, right)


def test_same_bytes_again_in_another_process_and_no_path_of_this_machine(study, tmp_path):
    code = f"""
    from pathlib import Path
    from tests.workload.export.test_torchscript import exported
    for mode in ("trace", "script"):
        exported("Two", Path({str(study)!r}), Path({str(tmp_path)!r}) / mode, "tokens", mode)
    """
    subprocess.run([sys.executable, "-W", "error", "-c", dedent(code)], check=True, cwd=Path(__file__).parents[3])
    for mode in ("script", "trace", "script"):
        _, _, path, _ = exported("Two", study, tmp_path / "here", "tokens", mode)
        assert path.read_bytes() == (tmp_path / mode / "model.pt").read_bytes()
    with zipfile.ZipFile(path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(study).encode() not in content
    assert b"mine.py" not in content
    # Tied weights are in the file once.
    assert path.stat().st_size < 2 * 20 * 8 * 4 + 4000


def test_runs_where_the_model_cannot_be_imported(study, tmp_path):
    state, data, path, _ = exported("Two", study, tmp_path / "out", "tokens")
    inputs = data.example(4)
    numpy.savez(tmp_path / "inputs.npz", *[item.numpy() for item in inputs.values()])
    code = f"""
    import importlib.util, sys, numpy, torch
    assert importlib.util.find_spec("mine") is None and "optlang" not in sys.modules
    graph = torch.jit.load({str(path)!r})
    with numpy.load({str(tmp_path / "inputs.npz")!r}) as given, torch.inference_mode():
        answers = graph(*(torch.from_numpy(given[name]) for name in given.files))
    numpy.savez({str(tmp_path / "answers.npz")!r}, *[item.numpy() for item in answers])
    assert "optlang" not in sys.modules
    """
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-I", "-c", dedent(code)], check=True, cwd=tmp_path
    )
    with numpy.load(tmp_path / "answers.npz") as answers, torch.no_grad():
        for key, right in zip(answers.files, call(state.model, inputs).values(), strict=True):
            numpy.testing.assert_allclose(answers[key], right.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_norms_are_folded_where_that_is_asked_for(study, tmp_path):
    for fold in (False, True):
        _, _, path, _ = exported("Normed", study, tmp_path / str(fold), fold=fold)
        assert ("aten::batch_norm" in str(torch.jit.load(path).graph)) is not fold


@pytest.mark.parametrize("graph", ["frozen", "folded", "optimized"])
def test_each_graph_is_loaded_as_it_says(graph, tmp_path):
    factory = Factory("networks.py:residual")
    state = ModelState("module", make.make(factory, MODELS), factory)
    data = data_module.load(Factory("networks.py:images"), MODELS).bind(state.model)
    settings = {"mode": "trace", "graph": graph}
    artifact = TorchScript().build(state, TargetSpec("here"), settings, tmp_path, data, MODELS)
    before = torch.get_num_threads()
    session = TorchScript().open(artifact, TargetSpec("here", threads=before + 1), settings, tmp_path)
    assert torch.get_num_threads() == before + 1
    assert ("mkldnn" in str(session._model.graph)) is (graph == "optimized")
    inputs = data.example(7)
    found = session.collect(session.run(session.prepare({key: item.numpy() for key, item in inputs.items()})))
    with torch.no_grad():
        right = state.model(*inputs.values()).numpy()
    numpy.testing.assert_allclose(found["output"], right, rtol=1e-5, atol=1e-6)
    session.close()
    assert torch.get_num_threads() == before


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_script_keeps_the_branches_that_a_trace_does_not(study, tmp_path):
    with pytest.raises(Refusal, match=r"gives other answers than the module|with the shape"):
        exported("Chooses", study, tmp_path / "traced")
    _, data, path, _ = exported("Chooses", study, tmp_path / "scripted", mode="script")
    graph = torch.jit.load(path)
    for count, axis in ((2, 1), (3, 2)):
        (rows,) = data.example(count).values()
        torch.testing.assert_close(graph(rows)[0], rows.sum(dim=axis))
    _, _, _, outputs = exported("Branch", study, tmp_path / "tuple", mode="script")
    assert outputs == ("output_0", "output_1")


def test_a_number_of_samples_that_became_a_constant_is_refused_with_a_way_out(study, tmp_path):
    with pytest.raises(Refusal, match=r"answers output with the shape \(2, 96\), the module with \(3, 64\)") as caught:
        exported("Counts", study, tmp_path / "out")
    assert "int(x.shape[0])" in caught.value.help
    exported("Counts", study, tmp_path / "scripted", mode="script")


def test_what_cannot_be_compiled_is_refused_with_a_way_out(study, tmp_path):
    with pytest.raises(Refusal, match=r"cannot be compiled: .*numpy") as caught:
        exported("Numpy", study, tmp_path / "out", mode="script")
    assert "mode = trace" in caught.value.help


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_stays_half_in_the_file(dtype, tmp_path):
    data = data_module.load(Factory("networks.py:images"), MODELS)
    factory = Factory("networks.py:rows")
    single = ModelState("module", make.make(factory, MODELS), factory)
    settings = {"dtype": dtype, "sensitive": True, "keep": (), "only": ()}
    (tmp_path / "half").mkdir()
    small = half(single, settings, Context(data, 3, tmp_path / "half", MODELS))
    sizes = []
    for index, state in enumerate((single, small)):
        folder = tmp_path / str(index)
        folder.mkdir()
        bound = data.bind(state.model)
        artifact = TorchScript().build(state, TargetSpec("here"), {}, folder, bound, MODELS)
        sizes.append(artifact.files[0].bytes)
        session = TorchScript().open(artifact, TargetSpec("here"), {}, tmp_path)
        inputs = bound.example(3)
        found = session.collect(session.run(session.prepare({key: item.numpy() for key, item in inputs.items()})))
        session.close()
        with torch.no_grad():
            right = call(state.model, inputs)["output"].numpy()
        numpy.testing.assert_allclose(found["output"], right, atol=0.05 if index else 1e-5)
    assert sizes[1] < 0.7 * sizes[0]


def test_names_are_changed_in_a_pickle_where_they_have_a_length_before_them():
    value = ["List[__torch__.___torch_mangle_12.Net]", "other", 3]
    changed = _renamed_pickle(pickle.dumps(value, protocol=2), lambda text: text.replace("mangle_12", "mangle_0"))
    assert pickle.load(io.BytesIO(changed)) == ["List[__torch__.___torch_mangle_0.Net]", "other", 3]


def test_a_broken_file_is_refused(tmp_path, study):
    network = Factory("mine.py:make", {"name": "Normed"})
    state = ModelState("module", make.make(network, study), network)
    data = data_module.load(Factory("mine.py:rows"), study).bind(state.model)
    artifact = TorchScript().build(state, TargetSpec("here"), {}, tmp_path, data, study)
    (tmp_path / "model.pt").write_bytes(b"no graph at all")
    with pytest.raises(Refusal, match="TorchScript does not load the model"):
        TorchScript().open(artifact, TargetSpec("here"), {}, tmp_path)
