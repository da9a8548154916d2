"""Modules as ONNX files: the same answers at any batch size, small files, and reasons where it cannot be done."""

import subprocess
import sys
import warnings
from pathlib import Path
from textwrap import dedent

import numpy
import onnx
import onnxruntime
import pytest
import torch

from optlang.interfaces import Factory, ModelState, Refusal
from optlang.workload.data import dataset as data_module
from optlang.workload.export.onnx import OPSET, export
from optlang.workload.imports import UserCodeError
from optlang.workload.model import make
from optlang.workload.model.call import call

pytestmark = pytest.mark.slow

SOURCE = '''
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, rows):
        x = self.layers(rows, src_key_padding_mask=rows[:, :, 0] > 1.5)
        return self.attention(x, x, x)

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.long = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
        self.gated = nn.GRU(12, 5, batch_first=True)

    def forward(self, rows):
        return self.gated(self.long(rows)[0])[0]

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.back = nn.Linear(8, 20, bias=False)
        self.back.weight = self.embed.weight

    def forward(self, tokens, weight):
        x = (self.embed(tokens) * weight[:, None, None]).mean(1)
        return {"scores": self.back(x), "inner": {"mean": x}}

class Counts(nn.Module):
    def forward(self, rows):
        return rows.reshape(int(rows.shape[0]), -1) * 2

class Spectrum(nn.Module):
    def forward(self, rows):
        return torch.fft.rfft(rows).abs()

class Draws(nn.Module):
    def forward(self, rows):
        return rows[:, torch.nonzero(rows[0, :, 0] > 0).flatten()].sum(dim=1) + torch.linalg.eigvals(rows).real

class Noisy(nn.Module):
    def forward(self, rows):
        return rows + torch.rand_like(rows)

class Broken(nn.Module):
    def forward(self, rows):
        return rows @ rows

class Autocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv1d(8, 8, 3)

    def forward(self, rows):
        with torch.autocast("cpu", torch.bfloat16):
            return self.mix(rows).float()

class Products(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Bilinear(8, 8, 4)

    def forward(self, rows):
        return self.mix(rows, rows.flip(1))

class Unnormalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)

    def forward(self, rows):
        return self.norm(rows)

class Twins(nn.Module):
    """Two layers with equal weights that are not tied."""
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding=1)
        self.second.load_state_dict(self.first.state_dict())

    def forward(self, rows):
        return self.second(torch.relu(self.first(rows)))

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
'''


@pytest.fixture(autouse=True)
def attention_as_defined():
    """The fast kernels answer padded positions with zeros, as the layers by definition do not."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.py").write_text(SOURCE)
    return tmp_path / "study"


def exported(name, study, tmp_path, factory="rows"):
    network = Factory("mine.py:make", {"name": name})
    state = ModelState("module", make.make(network, study), network)
    data = data_module.load(Factory(f"mine.py:{factory}"), study).bind(state.model)
    path = tmp_path / f"{name}.onnx"
    export(state, data, path, study)
    return state, data, path


@pytest.mark.parametrize(
    ("name", "factory"),
    [
        ("Encoder", "rows"), ("Recurrent", "rows"), ("Two", "tokens"), ("Twins", "rows"), ("Unnormalized", "rows"),
        ("Products", "rows"), ("Spectrum", "rows"),
    ],
)
def test_file_answers_as_the_module_does_at_any_batch_size(name, factory, study, tmp_path):
    state, data, path = exported(name, study, tmp_path, factory)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert tuple(item.name for item in session.get_inputs()) == data.input_names
    for count in (1, 2, 5, 20):
        inputs = data.example(count)
        with torch.no_grad():
            wanted = call(state.model, inputs)
        answers = session.run(None, {key: item.numpy() for key, item in inputs.items()})
        assert [item.name for item in session.get_outputs()] == list(wanted)
        for answer, right in zip(answers, wanted.values(), strict=True):
            numpy.testing.assert_allclose(answer, right.numpy(), rtol=1e-4, atol=1e-5)


def test_file_passes_the_checker_and_holds_nothing_but_the_model(study, tmp_path):
    _, _, path = exported("Encoder", study, tmp_path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [item.version for item in model.opset_import if item.domain == ""] == [OPSET]
    assert not model.doc_string
    assert not model.metadata_props
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert b"_optlang" not in path.read_bytes()
    assert [item.name for item in tmp_path.iterdir() if item.is_file()] == [path.name]
    assert not any(node.op_type in ("Constant", "Identity") for node in model.graph.node)


def test_nodes_have_the_names_of_their_layers(study, tmp_path):
    _, _, path = exported("Twins", study, tmp_path)
    assert {"/first/Conv", "/second/Conv"} <= {node.name for node in onnx.load(path).graph.node}


def test_tied_weights_are_stored_once_and_vectors_for_each_layer(study, tmp_path):
    # The embedding and the product that transposes it are two constants; each is there once.
    _, _, path = exported("Two", study, tmp_path, "tokens")
    assert sorted(len(item.dims) for item in onnx.load(path).graph.initializer if len(item.dims) > 1) == [2, 2]
    _, _, path = exported("Twins", study, tmp_path)
    graph = onnx.load(path).graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    stored = {item.name for item in graph.initializer}
    assert not any(node.op_type == "Identity" for node in graph.node)
    assert all(name in stored for node in convolutions for name in node.input[1:])
    assert convolutions[0].input[1] == convolutions[1].input[1]
    assert convolutions[0].input[2] != convolutions[1].input[2]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Draws", "other answers than the module|aten::"), ("Counts", "the shape"),
        ("Noisy", "other answers than the module"),
        ("Autocast", r"the model's graph is no ONNX: .*bfloat16"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_the_reason(name, reason, study, tmp_path):
    with pytest.raises(Refusal, match=reason) as caught:
        exported(name, study, tmp_path)
    assert caught.value.help
    assert "\n" not in caught.value.message


def test_mistakes_of_the_model_are_told_as_the_users(tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    (study / "mine.py").write_text(SOURCE + dedent("""
        class Wrong(nn.Module):
            def forward(self, rows):
                raise RuntimeError("no such thing")
    """))
    with pytest.raises(UserCodeError, match=r"no such thing \(mine.py:\d+"):
        exported("Wrong", study, tmp_path)


def test_other_forms_are_refused(study, tmp_path):
    data = data_module.load(Factory("mine.py:rows"), study)
    with pytest.raises(Refusal, match="onnx"):
        export(ModelState("onnx", Path("x.onnx"), Factory("mine.py:make")), data, tmp_path / "x.onnx", study)


def test_export_leaves_the_module_and_the_process_as_they_were(study, tmp_path):
    network = Factory("mine.py:make", {"name": "Encoder"})
    state = ModelState("module", make.make(network, study).train(), network)
    data = data_module.load(Factory("mine.py:rows"), study).bind(state.model)
    torch.backends.mha.set_fastpath_enabled(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(state, data, tmp_path / "model.onnx", study)
    assert state.model.training
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_refused_export_prints_nothing(study, tmp_path):
    code = dedent(f"""
        from pathlib import Path
        from optlang.interfaces import Factory, Refusal, ModelState
        from optlang.workload.data import dataset as data
        from optlang.workload.model import make
        from optlang.workload.model.call import call
        from optlang.workload.export import onnx as onnx_export
        study, network = Path({str(study)!r}), Factory("mine.py:make", {{"name": "Draws"}})
        state = ModelState("module", make.make(network, study), network)
        given = data.load(Factory("mine.py:rows"), study).bind(state.model)
        try:
            onnx_export.export(state, given, study / "x.onnx", study)
        except Refusal:
            print("refused")
    """)
    root = Path(__file__).parents[3]
    answer = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=root)
    assert (answer.stdout, answer.stderr) == ("refused\n", "")
