"""Models: made, filled, called, saved and loaded."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from optlang.interfaces import Factory, ModelState, OptlangError, Refusal
from optlang.workload import imports
from optlang.workload.data.tensors import check_batched, describe, flat_outputs, imagined, structured
from optlang.workload.model import dtypes
from optlang.workload.model.call import call
from optlang.workload.model.make import make
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


class TestWeights:
    @pytest.fixture
    def trained(self):
        torch.manual_seed(1)
        return nn.Linear(3, 2).state_dict()

    def test_from_safetensors(self, study, trained):
        save_file(trained, study / "w.safetensors")
        module = make(Factory("mine.py:net", weights="w.safetensors"), study)
        assert torch.equal(module.weight, trained["weight"])

    @pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
    def test_from_a_state_dict(self, study, trained, wrap):
        torch.save(wrap(trained), study / "w.pt")
        module = make(Factory("mine.py:net", weights="w.pt"), study)
        assert torch.equal(module.bias, trained["bias"])

    def test_a_pickled_model_is_not_read(self, study):
        torch.save(nn.Linear(3, 2), study / "w.pt")
        with pytest.raises(OptlangError, match="not contain a plain state dict") as error:
            make(Factory("mine.py:net", weights="w.pt"), study)
        assert "state_dict()" in error.value.help
        assert "pickled torch.nn.modules.linear.Linear" in error.value.message
        assert "weights_only" not in error.value.message

    def test_a_checkpoint_says_what_it_holds_and_where_the_weights_are(self, study, trained):
        torch.save({"epoch": 3, "model": trained, "optimizer": {"lr": 0.1}}, study / "w.pt")
        with pytest.raises(OptlangError, match="contains epoch, model, optimizer") as error:
            make(Factory("mine.py:net", weights="w.pt"), study)
        assert '["model"]' in error.value.help

    def test_names_of_a_wrapper_are_told_as_such(self, study, trained):
        torch.save({f"module.{name}": item for name, item in trained.items()}, study / "w.pt")
        with pytest.raises(OptlangError, match="missing: weight, bias") as error:
            make(Factory("mine.py:net", weights="w.pt"), study)
        assert "begins with `module.`" in error.value.help

    def test_missing_unexpected_and_of_another_shape(self, study, trained):
        save_file({"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}, study / "w.safetensors")
        with pytest.raises(OptlangError) as error:
            make(Factory("mine.py:net", weights="w.safetensors"), study)
        assert error.value.message == (
            "the weights w.safetensors do not fit the model; missing: bias; not in the model: scale; "
            "of another shape: weight ((2, 4), the model has (2, 3))"
        )

    @pytest.mark.parametrize("name", ["absent.safetensors", "mine.py", "text.safetensors"])
    def test_no_such_weights(self, study, name):
        (study / "text.safetensors").write_text("no weights", encoding="utf-8")
        with pytest.raises(OptlangError):
            make(Factory("mine.py:net", weights=name), study)


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

    def test_names_of_outputs(self):
        one = torch.zeros(1)
        assert list(flat_outputs(one)) == ["output"]
        assert list(flat_outputs((one, one))) == ["output_0", "output_1"]
        assert list(flat_outputs({"logits": one, "hidden": (one, one), "none": None})) == [
            "logits", "hidden_0", "hidden_1",
        ]

    @pytest.mark.parametrize("answer", ["text", {}, (), {"a": 3}, None])
    def test_answers_that_are_no_tensors(self, answer):
        with pytest.raises(OptlangError):
            flat_outputs(answer)

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
