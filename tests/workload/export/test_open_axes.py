"""Files of models whose inputs have axes of any size: they answer sizes that they were not traced with."""

import numpy
import onnx
import pytest
import torch
from torch import nn

from optlang.interfaces import Factory, ModelState, Refusal
from optlang.plan.axes import parsed
from optlang.workload import process_state
from optlang.workload.data.dataset import Dataset
from optlang.workload.data.splits import split_of
from optlang.workload.data.tasks import task_of
from optlang.workload.export import onnx as onnx_export
from optlang.workload.export import torch_export, torchscript, tracing


class Lines(torch.utils.data.Dataset):
    """Tokens of 5 to 11 with their mask, and a label for each token; or all of `length`."""

    def __init__(self, length=None):
        self.length = length

    def __len__(self):
        return 30

    def __getitem__(self, index):
        tokens = torch.arange(self.length or 5 + index % 7) * (index + 3) % 50
        return {"tokens": tokens, "mask": torch.ones(len(tokens))}, tokens % 5


class Reader(nn.Module):
    """Attention over tokens, an answer for each."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens, mask):
        return {"logits": self.head(self.layer(self.embed(tokens), src_key_padding_mask=mask == 0))}


class Loop(nn.Module):
    """Counts its positions in Python, and answers of any length by that."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 5)

    def forward(self, tokens, mask):
        found = self.embed(tokens) * mask[..., None]
        return torch.stack([found[:, place] + place for place in range(found.shape[1])], 1)


class Flat(Loop):
    """Knows eight positions and no other number."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(40, 5)

    def forward(self, tokens, mask):
        return self.head((self.embed(tokens) * mask[..., None]).flatten(1))


@pytest.fixture
def data(tmp_path):
    def made(module, length=None, dynamic=(), shape=()):
        splits = {name: split_of(name, Lines(length), tmp_path) for name in ("train", "validation")}
        dataset = Dataset(splits, task_of("sequence", tmp_path), "lines").bind(module)
        return dataset.opened([parsed(text) for text in dynamic], [parsed(text) for text in shape])

    return made


def module_of(kind):
    torch.manual_seed(0)
    return kind().eval()


def exported(module, data, folder, **how):
    state = ModelState("module", module, Factory("models.py:made"))
    onnx_export.export(state, data, folder / "model.onnx", folder, **how)
    return onnx.load(folder / "model.onnx")


def shape_of(value):
    return [item.dim_param or item.dim_value for item in value.type.tensor_type.shape.dim]


def answered(file, inputs):
    session = onnx_export.plain_session(file)
    return session.run(None, {name: item.numpy() for name, item in inputs.items()})[0]


@pytest.mark.parametrize("exporter", ["script", pytest.param("dynamo", marks=pytest.mark.slow)])
def test_an_onnx_file_answers_every_size_of_the_data_and_others(data, tmp_path, exporter):
    if exporter == "dynamo":
        pytest.importorskip("onnxscript")
    module = module_of(Reader)
    lines = data(module)
    model = exported(module, lines, tmp_path, exporter=exporter)
    assert [shape_of(item) for item in model.graph.input] == [["batch", "tokens_1"]] * 2
    if exporter == "script":
        assert shape_of(model.graph.output[0]) == ["batch", "tokens_1", 5]
    for size in (5, 7, 11, 40):
        inputs = lines.example(3, {"tokens_1": size})
        with torch.no_grad(), tracing.plain_attention():
            right = module(**inputs)["logits"].numpy()
        numpy.testing.assert_allclose(answered(tmp_path / "model.onnx", inputs), right, atol=1e-5)


def test_an_axis_that_the_study_opens_is_open_in_the_file(data, tmp_path):
    module = module_of(Reader)
    fixed = exported(module, data(module, 8), tmp_path)
    assert shape_of(fixed.graph.input[0]) == ["batch", 8]
    opened = data(module, 8, ["tokens:1 = 2..20"], ["mask:1 = 6"])
    assert shape_of(exported(module, opened, tmp_path).graph.input[1]) == ["batch", "tokens_1"]
    assert opened.example(1)["tokens"].shape == (1, 6)


@pytest.mark.parametrize("length", [None, 8])
def test_a_graph_of_one_size_is_refused_with_the_operator(data, tmp_path, length):
    module = module_of(Loop)
    lines = data(module, length, () if length is None else ["tokens:1"])
    with pytest.raises(Refusal, match=r"exported graph does not run with tokens:1 of \d+.*'/Gather") as error:
        exported(module, lines, tmp_path, exporter="script")
    assert "a loop over it" in error.value.help


@pytest.mark.slow
def test_where_both_exporters_fix_the_size_both_are_named(data, tmp_path):
    pytest.importorskip("onnxscript")
    module = module_of(Loop)
    words = "does not run with tokens:1 of 5.*nor does torch's other exporter .*would answer tokens:1 of 8 only"
    with pytest.raises(Refusal, match=words):
        exported(module, data(module), tmp_path, exporter="auto")


def test_a_module_that_answers_one_size_has_no_open_axis(data, tmp_path):
    module = module_of(Flat)
    words = "opens tokens:1, and the module itself answers 8 only: RuntimeError: mat1"
    with pytest.raises(Refusal, match=words) as error:
        exported(module, data(module, 8, ["tokens:1"]), tmp_path)
    assert error.value.help.startswith('remove "tokens:1" from `dynamic`')


def test_sizes_that_the_module_does_not_answer_are_named(data, tmp_path):
    module = module_of(Flat)
    with pytest.raises(Refusal, match="the module itself does not answer tokens:1 of 4: mat1"):
        exported(module, data(module, 8, ["tokens:1 = 4..8"]), tmp_path)


@pytest.mark.parametrize("mode", ["trace", "script"])
def test_a_torchscript_file_answers_other_sizes(data, tmp_path, mode):
    module = module_of(Reader)
    lines = data(module)
    torchscript.export(module, lines, tmp_path / "model.pt", tmp_path, mode=mode, fold=False)
    with process_state.quiet(remarks=tracing.REMARKS):
        graph = torch.jit.load(tmp_path / "model.pt")
    inputs = lines.example(2, {"tokens_1": 23})
    with torch.no_grad(), tracing.plain_attention():
        torch.testing.assert_close(graph(*inputs.values())[0], module(**inputs)["logits"], rtol=0, atol=1e-5)


def test_a_trace_of_one_size_is_refused(data, tmp_path):
    module = module_of(Loop)
    with pytest.raises(Refusal, match="with tokens:1 of 5"):
        torchscript.export(module, data(module), tmp_path / "model.pt", tmp_path, mode="trace", fold=False)


def test_a_program_takes_any_size_or_says_which_axis_the_code_fixes(data):
    module = module_of(Reader)
    lines = data(module)
    with tracing.plain_attention():
        program = torch_export.program(module, lines.example(2), "Inductor", axes=lines.axes)
        inputs = lines.example(2, {"tokens_1": 31})
        with torch.no_grad():
            torch.testing.assert_close(program.module()(*inputs.values())[0], module(**inputs)["logits"])
    loop = module_of(Loop)
    with pytest.raises(Refusal, match="Inductor would answer tokens:1 of 8 only"):
        torch_export.program(loop, lines.example(2), "Inductor", axes=lines.axes)
