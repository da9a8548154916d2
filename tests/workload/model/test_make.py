"""Models: made, filled, called, saved and loaded."""

import copy
import functools
import json
import threading
import types
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from optlang.interfaces import Factory, ModelState, OptlangError, Refusal
from optlang.workload import imports
from optlang.workload.data.dataset import Dataset
from optlang.workload.data.splits import split_of
from optlang.workload.data.tasks import task_of
from optlang.workload.data.tensors import caches, check_batched, describe, flat_outputs, imagined, structured
from optlang.workload.model import dtypes
from optlang.workload.model.call import call
from optlang.workload.model.make import initial, make, said
from optlang.workload.model.returned import check_copies
from optlang.workload.model.save import external_files, load, save

MODELS = Path(__file__).parents[2] / "fixtures" / "models"


def subject(name, **arguments):
    factory = Factory(f"networks.py:{name}", arguments)
    return ModelState("module", make(factory, MODELS), factory)


@pytest.fixture
def study(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n\ndef net(inputs=3):\n    return nn.Linear(inputs, 2)\n\n"
        "def nothing():\n    return 5\n\n"
        "def broken():\n    raise ValueError('no such depth')\n",
        encoding="utf-8",
    )
    return tmp_path


class TestMake:
    def test_the_same_weights_each_time_and_the_process_is_left_alone(self, study):
        torch.manual_seed(5)
        state = torch.get_rng_state()
        first = make(Factory("mine.py:net"), study)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(6)
        assert torch.equal(make(Factory("mine.py:net"), study).weight, first.weight)
        assert not first.training

    def test_what_is_no_module(self, study):
        with pytest.raises(OptlangError, match=r"returned a int, not a torch\.nn\.Module"):
            make(Factory("mine.py:nothing"), study)

    def test_a_factory_that_raises(self, study):
        words = r"the model broken raised ValueError: no such depth \(mine.py:11"
        with pytest.raises(imports.UserCodeError, match=words):
            make(Factory("mine.py:broken"), study)

    def test_an_argument_that_it_does_not_take(self, study):
        with pytest.raises(imports.UserCodeError, match="unexpected keyword argument 'width'"):
            make(Factory("mine.py:net", {"width": 3}), study)


class TestWhatFactoriesReturn:
    @pytest.fixture
    def factory(self, tmp_path):
        def write(body):
            (tmp_path / "mine.py").write_text(f"import torch\nfrom torch import nn\n\n{body}\n", encoding="utf-8")
            return lambda name="net": make(Factory(f"mine.py:{name}"), tmp_path)

        return write

    @pytest.mark.parametrize(("body", "message", "advice"), [
        ("def net():\n    return nn.Linear", "the class Linear", "an instance of it: `Linear(…)`"),
        ("def net():\n    return nn.Linear(2, 2), abs, abs", r"a tuple \(Linear, builtin.*\)", "item 0 alone"),
        ("def net():\n    return {'model': nn.ReLU()}", r"a dict \(ReLU\)", "item 'model' alone"),
        ("def net():\n    return {}", "a dict without items", "return the module"),
        ("def net():\n    return nn.Linear(2, 2).forward", "a method", "not a function that calls it"),
        ("def net():\n    yield nn.Linear(2, 2)", "a generator", "with `return`"),
        ("def net():\n    return None", "a NoneType", "return the module"),
    ])
    def test_what_is_no_module_is_said(self, factory, body, message, advice):
        with pytest.raises(OptlangError, match=f"the model net returned {message}, not a torch") as error:
            factory(body)()
        assert advice in error.value.help

    @pytest.mark.parametrize(("made", "message"), [
        ("torch.jit.script(nn.Linear(2, 2))", "the model net returned a RecursiveScriptModule, which cannot be comp"),
        ("nn.Sequential(nn.ReLU(), torch.jit.script(nn.Linear(2, 2)))", "1 of the model net is a RecursiveScriptMod"),
        ("torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)).module()", "returned a graph of torch.export"),
        ("Extra()", r"the state dict of the model net has _extra_state, a dict, and only tensors can be saved"),
        ("nn.Linear(2, 2, device='meta')", "weight of the model net is on the device meta"),
    ])
    @pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
    def test_modules_that_cannot_be_changed_are_refused(self, factory, made, message):
        with pytest.raises(OptlangError, match=message):
            factory(
                "class Extra(nn.Linear):\n    def __init__(self):\n        super().__init__(2, 2)\n\n"
                f"    def get_extra_state(self):\n        return {{}}\n\ndef net():\n    return {made}"
            )()

    @pytest.mark.parametrize("made", [
        "nn.DataParallel(nn.Linear(2, 2))",
        "torch.compile(nn.DataParallel(nn.Linear(2, 2)))",
        "torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2))",
    ])
    @pytest.mark.filterwarnings("ignore")
    def test_wrappers_of_training_are_taken_off(self, factory, made):
        assert type(factory(f"def net():\n    return {made}")()) is nn.Linear

    def test_what_a_training_left_can_be_copied(self, factory):
        module = factory("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        self.seen = [self.a(x)]
        return self.b(self.seen[0])


def net():
    model = Net().train()
    model(torch.ones(1, 2)).sum().backward()
    return model
""")()
        copied = copy.deepcopy(module)
        assert not module.training
        assert all(item.grad is None for item in copied.parameters())
        assert torch.equal(copied.seen[0], module.seen[0])

    def test_tensors_of_inference_mode_can_be_trained(self, factory):
        module = factory("""
def net():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
        model[2].weight = model[0].weight
    return model
""")()
        assert module[0].weight is module[2].weight
        module.train()(torch.rand(4, 2)).sum().backward()
        assert module[0].weight.grad is not None

    def test_a_model_all_in_float64_becomes_float32_and_that_is_noted(self, tmp_path, factory):
        factory("def net(mixed=False):\n    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()\n\n"
                "def mixed():\n    return nn.Sequential(nn.Linear(2, 2).double(), nn.Linear(2, 2))")
        state = initial(Factory("mine.py:net"), tmp_path, {"input": torch.ones(1, 2)})
        assert {item.dtype for item in state.model.parameters()} == {torch.float32}
        assert state.notes == {"model.converted": "float64 to float32"}
        assert said(state) == ("the model was converted from float64 to float32: data and answers are in float32",)
        state = initial(Factory("mine.py:mixed"), tmp_path, {"input": torch.ones(1, 2)})
        assert {item.dtype for item in state.model.parameters()} == {torch.float64, torch.float32}
        assert not state.notes


class TestCopies:
    class Net(nn.Module):
        def __init__(self, change):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.seen = {}
            change(self)

        def keep(self, name, layer, inputs, answer):
            self.seen[name] = answer.detach()

        def twice(self, x):
            return self.forward(x) * 2

        def forward(self, x):
            return self.b(self.a(x))

    @pytest.mark.parametrize("change", [
        lambda net: net.b.register_forward_hook(functools.partial(net.keep, "b")),
        lambda net: setattr(net, "scale", lambda x: x * 2),
        lambda net: setattr(net, "run", net.twice),
        lambda net: setattr(net, "forward", types.MethodType(lambda self, x: self.a(x), net)),
    ])
    def test_methods_and_functions_without_layers_are_copied(self, change):
        check_copies(self.Net(change))

    @pytest.mark.parametrize(("change", "words"), [
        (lambda net: net.b.register_forward_hook(lambda layer, inputs, answer: net.a(answer)), "a hook of the layer b"),
        (lambda net: setattr(net, "run", lambda x: net.b(x)), "`run` of the model"),
        (lambda net: setattr(net, "forward", (lambda old: lambda x: old(x) * 2)(net.forward)), "`forward` of the mod"),
        (lambda net: setattr(net.a, "run", lambda x, layer=net.b: layer(x)), "`run` of the layer a"),
    ])
    def test_functions_that_hold_layers_are_refused(self, change, words):
        with pytest.raises(OptlangError, match=f"{words}.* is a function that holds layers of the model"):
            check_copies(self.Net(change))

    def test_what_cannot_be_copied_is_named(self):
        module = self.Net(lambda net: setattr(net.a, "guard", threading.Lock()))
        with pytest.raises(OptlangError, match="cannot be copied: `guard` of the layer a is a lock"):
            check_copies(module)


def test_lazy_layers_get_their_shapes_from_the_data_and_the_same_weights_each_time(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef net():\n"
        "    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))\n"
    )
    inputs = {"input": torch.rand(2, 1, 8, 8)}
    first, second = (initial(Factory("mine.py:net"), tmp_path, inputs) for _ in range(2))
    assert type(first.model[3]) is nn.Linear
    assert first.model[3].weight.shape == (2, 4 * 6 * 6)
    assert torch.equal(first.model[0].weight, second.model[0].weight)
    with torch.no_grad():
        first.model[3].weight.add_(1)
    save(first, tmp_path / "saved")
    loaded = load(tmp_path / "saved", tmp_path)
    assert torch.equal(loaded.model[3].weight, first.model[3].weight)
    torch.save({name: item + 1 for name, item in first.model.state_dict().items()}, tmp_path / "w.pt")
    weighted = initial(Factory("mine.py:net", weights="w.pt"), tmp_path, inputs)
    assert torch.equal(weighted.model[3].weight, first.model[3].weight + 1)


class TestDisk:
    def test_only_json_and_safetensors(self, tmp_path):
        save(subject("residual"), tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "state.json"]
        assert json.loads((tmp_path / "state.json").read_text())["factory"]["calls"] == "networks.py:residual"

    def test_tied_weights_stay_tied_and_are_stored_once(self, tmp_path):
        saved = subject("tied")
        with torch.no_grad():
            saved.model.first.weight.add_(1.5)
        save(saved, tmp_path)
        loaded = load(tmp_path, MODELS).model
        assert loaded.first.weight is loaded.second.weight
        assert torch.equal(loaded.first.weight, saved.model.first.weight)
        numbers = sum(item.numel() for item in saved.model.parameters())
        assert (tmp_path / "model.safetensors").stat().st_size < 4 * numbers + 1500

    def test_notes_come_back(self, tmp_path):
        saved = subject("mlp")
        save(ModelState("module", saved.model, saved.factory, (), {"a.b": 0.25, "c": ["x", None]}), tmp_path)
        assert load(tmp_path, MODELS).notes == {"a.b": 0.25, "c": ["x", None]}

    def test_weights_that_no_longer_fit_the_code(self, tmp_path):
        save(subject("mlp"), tmp_path)
        about = json.loads((tmp_path / "state.json").read_text())
        about["factory"]["arguments"] = {"width": 8}
        (tmp_path / "state.json").write_text(json.dumps(about))
        with pytest.raises(OptlangError, match="of another shape"):
            load(tmp_path, MODELS)

    def test_nothing_saved_here(self, tmp_path):
        with pytest.raises(OptlangError, match="no saved model"):
            load(tmp_path, MODELS)

    def test_other_forms_are_refused(self, tmp_path):
        with pytest.raises(Refusal, match="artifact"):
            save(ModelState("artifact", None, Factory("a:b")), tmp_path)

    def test_onnx_with_weights_beside_it(self, tmp_path):
        weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [64, 64], bytes(64 * 64 * 4), raw=True)
        value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 64]) for name in "xy"]
        node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:], [weight]))
        source = tmp_path / "source"
        source.mkdir()
        onnx.save(model, source / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
        save(ModelState("onnx", source / "net.onnx", Factory("a:b")), tmp_path / "saved")
        loaded = load(tmp_path / "saved", MODELS)
        names = sorted(path.name for path in (tmp_path / "saved").iterdir())
        assert names == ["model.onnx", "net.data", "state.json"]
        onnx.checker.check_model(str(loaded.model), full_check=True)
        assert len(onnx.load(loaded.model).graph.initializer[0].raw_data) == 64 * 64 * 4


class TestCall:
    def test_by_name_and_by_position(self):
        class Named(nn.Module):
            def forward(self, a, b):
                return a - b

        class Positional(nn.Module):
            def forward(self, *values):
                return values[0] - values[1]

        class Anything(nn.Module):
            def forward(self, **values):
                return values["a"] - values["b"]

        inputs = {"b": torch.ones(1), "a": torch.zeros(1)}
        assert call(Named(), inputs)["output"] == -1
        assert call(Anything(), inputs)["output"] == -1
        assert call(Positional(), inputs)["output"] == 1

    def test_arguments_that_are_given_by_name_alone(self):
        class ByName(nn.Module):
            def forward(self, a, *, b, scale=None):
                return (a - b) * (1 if scale is None else scale)

        one, two = torch.ones(2, 1), torch.full((2, 1), 2.0)
        for inputs, wanted in (((one, two), -1), ({"b": one, "a": two}, 1), ({"b": one, "a": two, "scale": two}, 2)):
            splits = {name: split_of(name, (inputs, one), MODELS) for name in ("train", "validation")}
            data = Dataset(splits, task_of("regression", MODELS), None)
            example = data.bind(ByName()).example(2)
            assert call(ByName(), example)["output"].flatten().tolist() == [wanted, wanted]

    def test_what_hands_everything_on_is_called_by_position_where_the_data_name_nothing(self):
        class Inner(nn.Module):
            def forward(self, x, y):
                return x - y

        class Wrapper(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = Inner()

            def forward(self, *args, **kwargs):
                return self.inner(*args, **kwargs)

        inputs = {"input_0": torch.ones(1), "input_1": torch.zeros(1)}
        for module in (Wrapper(), nn.DataParallel(Inner())):
            assert call(module, inputs)["output"] == 1
            assert call(module, {"y": torch.ones(1), "x": torch.zeros(1)})["output"] == -1
        assert call(nn.DataParallel(nn.Linear(3, 2)), {"input": torch.ones(4, 3)})["output"].shape == (4, 2)

    def test_a_compiled_module_is_the_one_inside(self, study):
        (study / "compiled.py").write_text(
            "import warnings\nimport torch\n\ndef net():\n    with warnings.catch_warnings():\n"
            "        warnings.simplefilter('ignore')\n        return torch.compile(torch.nn.Linear(3, 2))\n",
            encoding="utf-8",
        )
        assert type(make(Factory("compiled.py:net"), study)) is nn.Linear

    def test_weights_in_float64_are_named_where_a_call_fails(self):
        error = OptlangError("running the model raised RuntimeError: mat1 and mat2 must have the same dtype")
        with pytest.raises(OptlangError, match="weights are in float64, and its inputs are float32"):
            dtypes.refuse_inputs(nn.Linear(3, 2).double(), error)
        dtypes.refuse_inputs(nn.Linear(3, 2), error)

    @pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv1d(3, 2, 1), nn.LSTM(3, 2)])
    def test_so_is_a_forward_that_makes_float64(self, layer):
        with pytest.raises((RuntimeError, ValueError)) as raised:
            layer(torch.ones(1, 3, 3, dtype=torch.float64))
        said = OptlangError(f"running the model raised {raised.value}")
        with pytest.raises(OptlangError, match="its forward makes numbers in float64") as error:
            dtypes.refuse_inputs(layer, said)
        assert ".to(layer.weight.dtype)" in error.value.help

    def test_names_of_outputs(self):
        one = torch.zeros(1)
        assert list(flat_outputs(one)) == ["output"]
        assert list(flat_outputs((one, one))) == ["output_0", "output_1"]
        assert list(flat_outputs({"logits": one, "hidden": (one, one), "none": None})) == [
            "logits", "hidden_0", "hidden_1",
        ]

    def test_a_dataclass_is_as_a_dictionary(self):
        @dataclass
        class Answer:
            logits: torch.Tensor
            hidden: tuple[torch.Tensor, ...] | None = None

        one = torch.zeros(1)
        assert list(flat_outputs(Answer(one))) == ["logits"]
        assert list(flat_outputs((Answer(one, (one,)), one))) == ["output_0_logits", "output_0_hidden_0", "output_1"]

    @pytest.mark.usefixtures("torchvision")
    @pytest.mark.filterwarnings("ignore")   # of what transformers imports
    def test_caches_of_attention_are_left_out(self):
        transformers = pytest.importorskip("transformers")
        config = transformers.GPT2Config(
            vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2, num_labels=2, pad_token_id=0
        )
        module = transformers.GPT2ForSequenceClassification(config).eval()
        ids = torch.tensor([[3, 1]])
        assert list(call(module, {"input_ids": ids})) == ["logits"]
        assert caches(module(ids)) in (["cache"], ["past_key_values"])
        assert caches({"logits": ids}) == []

    @pytest.mark.parametrize("answer", ["text", {}, (), {"a": 3}, None])
    def test_answers_that_are_no_tensors(self, answer):
        with pytest.raises(OptlangError):
            flat_outputs(answer)

    def test_the_member_that_is_no_tensor_is_named(self):
        with pytest.raises(OptlangError, match="answers with a str in `labels_0`"):
            flat_outputs({"logits": torch.zeros(1), "labels": ["cat"]})

    def test_structure_comes_back(self):
        one = torch.zeros(1)
        for answer in (one, (one, one), {"a": one, "b": one}):
            assert type(structured(flat_outputs(answer))) is type(answer)


def test_described_inputs_come_back():
    inputs = {"ids": torch.tensor([[3, 1]]), "image": torch.rand(2, 3), "mask": torch.tensor([True, False])}
    made = imagined(json.loads(json.dumps(describe(inputs))))
    assert torch.equal(made["ids"], inputs["ids"])
    assert torch.equal(made["mask"], inputs["mask"])
    assert made["image"].shape == (2, 3)
    assert made["image"].dtype == torch.float32


def test_an_answer_that_is_not_one_a_sample_is_named():
    cell = nn.LSTM(4, 8, batch_first=True)
    outputs = call(cell, {"input": torch.zeros(3, 5, 4)})
    with pytest.raises(OptlangError, match=r"3 samples with output_1_0 of the shape \(1, 3, 8\)") as error:
        check_batched(outputs, 3)
    assert "hidden state" in error.value.help
    check_batched({"output": outputs["output_0"]}, 3)


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "link"])
def test_a_file_of_weights_outside_the_folder_is_refused(place, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"0000")
    (folder / "link").symlink_to(tmp_path / "secret")
    weight = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    weight.name = "w"
    weight.external_data.add(key="location", value=place)
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [], [output], [weight])
    (folder / "net.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(Refusal, match="keeps weights outside its folder"):
        external_files(folder / "net.onnx")
