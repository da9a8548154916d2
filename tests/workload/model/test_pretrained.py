"""Files of weights as people bring them: what is read, what it is loaded into, and what is said of the rest."""

import argparse
import copy
import json
import pathlib

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

from optlang.interfaces import OptlangError
from optlang.workload.model import checkpoints, pretrained


def net(classes=3):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))


class Wrapper(nn.Module):
    """A model below an attribute, as Lightning's modules have it."""

    def __init__(self, model, name="model"):
        super().__init__()
        self.add_module(name, model)


@pytest.fixture
def trained():
    torch.manual_seed(1)
    module = net()
    module[1].running_mean.add_(1)
    return module


@pytest.fixture
def loaded(tmp_path):
    """Saves a state, loads it into a model, and returns that with the notes."""

    def load(content, module, name="w.pt", **options):
        if name.endswith(".safetensors"):
            save_file(content, tmp_path / name)
        else:
            torch.save(content, tmp_path / name)
        notes = pretrained.load(module, name, tmp_path, **options)
        return module, notes

    return load


def equal(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestForms:
    @pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.ckpt", "w.pth.tar", "w.bin", "w.safetensors"])
    def test_a_state_dict(self, trained, loaded, name):
        module, notes = loaded(trained.state_dict(), net(), name)
        assert equal(module, trained)
        assert notes == {}

    @pytest.mark.parametrize("old", [True, False])
    def test_both_containers_of_torch(self, trained, tmp_path, old):
        torch.save(trained.state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
        module = net()
        pretrained.load(module, "w.pt", tmp_path)
        assert equal(module, trained)

    @pytest.mark.parametrize("key", ["state_dict", "model", "net", "model_state_dict", "ema"])
    def test_a_checkpoint_with_what_trainings_keep(self, trained, loaded, key):
        optimizer = torch.optim.AdamW(trained.parameters())
        trained(torch.rand(2, 1, 3, 3)).sum().backward()
        optimizer.step()
        content = {
            "epoch": 3, key: trained.state_dict(), "optimizer": optimizer.state_dict(), "best": numpy.float64(0.9),
            "curve": numpy.arange(3), "args": argparse.Namespace(lr=0.1, out=pathlib.PosixPath("out")),
            "rng": torch.get_rng_state(), "loss": torch.tensor(0.3),
        }
        module, notes = loaded(content, net())
        assert equal(module, trained)
        assert notes == {"weights.from": key}

    def test_a_model_in_several_files(self, trained, tmp_path):
        state = trained.state_dict()
        names = sorted(state)
        shards = {"m-1.safetensors": names[:4], "m-2.safetensors": names[4:]}
        for file, inside in shards.items():
            save_file({name: state[name] for name in inside}, tmp_path / file)
        index = tmp_path / "m.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {name: file for file, inside in shards.items() for name in inside}}))
        module = net()
        assert pretrained.load(module, index.name, tmp_path) == {}
        assert equal(module, trained)

        before = checkpoints.fingerprint(index)
        save_file({name: state[name] + 1 for name in names[4:]}, tmp_path / "m-2.safetensors")
        assert checkpoints.fingerprint(index) not in (before, None)
        (tmp_path / "m-2.safetensors").unlink()
        assert checkpoints.fingerprint(index) is None
        with pytest.raises(OptlangError, match=r"names m-2.safetensors, and there is no such file"):
            pretrained.load(net(), index.name, tmp_path)
        index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
        with pytest.raises(OptlangError, match="lies outside its folder"):
            pretrained.load(net(), index.name, tmp_path)

    @pytest.mark.parametrize(("content", "message", "advice"), [
        (nn.Linear(3, 2), "a pickled torch.nn.modules.linear.Linear, and unpickling", "model.state_dict()"),
        ({"state_dict": {}, "config": torch.optim.AdamW}, "a pickled torch.optim.adamw.AdamW", "weights_only=False"),
        (torch.ones(2), "contains a Tensor, not a state dict", "model.state_dict()"),
        ({"epoch": 3}, "contains epoch, and no tensors by name", "model.state_dict()"),
    ])
    def test_files_of_something_else(self, loaded, content, message, advice):
        with pytest.raises(OptlangError, match=message) as error:
            loaded(content, net())
        assert advice in error.value.help

    def test_nothing_that_could_run_code_is_unpickled(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (pathlib.Path(tmp_path / "ran").touch, ())

        torch.save({"args": argparse.Namespace(x=Bomb()), "state_dict": net().state_dict()}, tmp_path / "w.pt")
        with pytest.raises(OptlangError, match="unpickling may run any code"):
            pretrained.load(net(), "w.pt", tmp_path)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
    def test_an_archive_of_torchscript(self, tmp_path):
        torch.jit.script(net()).save(tmp_path / "w.pt")
        with pytest.raises(OptlangError, match="a TorchScript archive, a compiled model"):
            pretrained.load(net(), "w.pt", tmp_path)

    @pytest.mark.parametrize(("name", "text", "message"), [
        ("absent.pt", None, "there is no file of weights"),
        ("w.pt", "no weights", "does not contain a plain state dict"),
        ("w.safetensors", "no weights", "is not a safetensors file"),
        ("w.pt", "version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
        ("w.index.json", "{}", "is not the index of a model in several files"),
        (".", None, "is a folder"),
    ])
    def test_files_that_are_none(self, tmp_path, name, text, message):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(OptlangError, match=message):
            pretrained.load(net(), name, tmp_path)


class TestNames:
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(("wrap", "notes"), [
        (nn.DataParallel, {"weights.names": "without module."}),
        (torch.compile, {}),
        (lambda model: nn.DataParallel(torch.compile(model)), {"weights.names": "without module."}),
        (Wrapper, {"weights.names": "without model."}),
        (lambda model: Wrapper(Wrapper(model, "net")), {"weights.names": "without model.net."}),
        (AveragedModel, {"weights.names": "without module.", "weights.unused": ["n_averaged ()"]}),
    ])
    def test_wrappers_put_theirs_before_the_models(self, trained, loaded, wrap, notes):
        module, noted = loaded(wrap(trained).state_dict(), net())
        assert equal(module, trained)
        assert noted == notes

    def test_a_checkpoint_of_lightning(self, trained, loaded):
        state = {f"model.{name}": item for name, item in trained.state_dict().items()}
        content = {"state_dict": {**state, "loss.weight": torch.ones(3)}, "hyper_parameters": {"lr": 0.1}}
        module, notes = loaded(content, net())
        assert equal(module, trained)
        assert notes == {
            "weights.from": "state_dict", "weights.names": "without model.", "weights.unused": ["loss.weight (3,)"],
        }
        assert pretrained.said(notes, "w.pt") == (
            "the weights w.pt: from `state_dict`, names without model.; not used: loss.weight (3,)"
        )

    def test_a_wrapper_of_the_models_own(self, trained, loaded):
        module, notes = loaded(trained.state_dict(), Wrapper(net(), "backbone"))
        assert equal(module.backbone, trained)
        assert notes == {"weights.names": "below backbone."}

    @pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
    @pytest.mark.parametrize(("old", "new"), [
        (weight_norm, parametrizations.weight_norm), (spectral_norm, parametrizations.spectral_norm),
    ])
    def test_hooks_and_parametrizations_of_the_same_norm(self, loaded, old, new):
        torch.manual_seed(2)
        plain = nn.Sequential(nn.Linear(4, 3))
        hooked, modern = copy.deepcopy(plain), copy.deepcopy(plain)
        old(hooked[0])
        new(modern[0])
        for module in (hooked, modern):
            with torch.no_grad():
                module[0].bias.add_(1)
        inputs = torch.rand(2, 4)
        for source, target in ((hooked, new), (modern, old)):
            fresh = nn.Sequential(nn.Linear(4, 3))
            target(fresh[0])
            module, _ = loaded(source.state_dict(), fresh)
            assert torch.allclose(module.eval()(inputs), source.eval()(inputs), atol=1e-6)

    def test_masks_of_torch_prune_become_zeros(self, loaded):
        pruned = nn.Sequential(nn.Linear(4, 3))
        prune.l1_unstructured(pruned[0], "weight", amount=0.5)
        module, _ = loaded(pruned.state_dict(), nn.Sequential(nn.Linear(4, 3)))
        assert torch.equal(module[0].weight, pruned[0].weight)
        assert int((module[0].weight == 0).sum()) == 6

    def test_old_names_of_a_layer_norm(self, loaded):
        module, _ = loaded({"0.gamma": torch.ones(3) * 2, "0.beta": torch.ones(3)}, nn.Sequential(nn.LayerNorm(3)))
        assert module[0].weight.tolist() == [2, 2, 2]


class TestWhatDoesNotFit:
    def test_missing_unexpected_and_of_another_shape(self, loaded):
        with pytest.raises(OptlangError) as error:
            loaded({"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}, nn.Linear(3, 2))
        assert error.value.message == (
            "the weights w.pt do not fit the model; missing: bias (2,); not in the model: scale (1,); "
            "of another shape: weight ((2, 4), the model has (2, 3))"
        )

    def test_another_head_is_loaded_without_it_where_that_is_asked_for(self, trained, loaded):
        state = {**trained.state_dict(), "aux.weight": torch.ones(2)}
        with pytest.raises(OptlangError, match=r"of another shape: 3\.weight") as error:
            loaded(state, net(classes=5))
        assert "`weights_strict = false`" in error.value.help
        fresh = net(classes=5)
        head = fresh[3].weight.clone()
        module, notes = loaded(state, fresh, strict=False)
        assert torch.equal(module[0].weight, trained[0].weight)
        assert torch.equal(module[3].weight, head)
        assert notes == {
            "weights.initial": ["3.weight (5, 4)", "3.bias (5,)"],
            "weights.unused": ["aux.weight (2,)", "3.weight (3, 4)", "3.bias (3,)"],
        }
        assert pretrained.said(notes, "w.pt") == (
            "the weights w.pt: not in the file, so with initial values: 3.weight (5, 4), 3.bias (5,); "
            "not used: aux.weight (2,), 3.weight (3, 4), 3.bias (3,)"
        )

    def test_a_file_without_anything_of_the_model(self, loaded):
        with pytest.raises(OptlangError, match="do not fit the model; missing"):
            loaded({"other": torch.ones(3)}, net(), strict=False)

    def test_counters_of_batches_may_be_absent(self, trained, loaded):
        state = {name: item for name, item in trained.state_dict().items() if "num_batches" not in name}
        module, notes = loaded(state, net())
        assert notes == {}
        assert torch.equal(module[1].running_mean, trained[1].running_mean)

    @pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_floating_point_types_are_converted_and_noted(self, trained, loaded, kind):
        state = copy.deepcopy(trained).to(kind).state_dict()
        module, notes = loaded(state, net())
        assert module[0].weight.dtype == torch.float32
        assert torch.equal(module[0].weight, state["0.weight"].float())
        assert notes == {"weights.converted": f"{str(kind).removeprefix('torch.')} to float32"}

    def test_integers_are_no_weights(self, trained, loaded):
        state = {**trained.state_dict(), "3.weight": torch.ones(3, 4, dtype=torch.int8)}
        with pytest.raises(OptlangError, match=r"hold 3\.weight in int8, and the model has it in float32") as error:
            loaded(state, net())
        assert "quantized" in error.value.help

    def test_tensors_that_the_model_ties_must_be_one(self, loaded):
        def tied():
            module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
            module[1].weight = module[0].weight
            return module

        source = tied().state_dict()
        assert loaded(source, tied())[1] == {}
        alone = {name: item for name, item in source.items() if name != "1.weight"}
        assert torch.equal(loaded(alone, tied())[0][1].weight, source["0.weight"])
        with pytest.raises(OptlangError, match=r"different tensors for 0.weight and 1.weight, which are one"):
            loaded({**source, "1.weight": torch.zeros(3, 3)}, tied())


class TestSeveralSets:
    @pytest.fixture
    def content(self, trained):
        ema = copy.deepcopy(trained)
        with torch.no_grad():
            ema[0].weight.mul_(2)
        return {"state_dict": trained.state_dict(), "state_dict_ema": ema.state_dict(), "epoch": 3}

    def test_two_that_fit_are_said(self, content, loaded):
        with pytest.raises(OptlangError, match=r"hold 2 sets of tensors that fit the model: `state_dict`, `state_dict_"
                                               r"ema`") as error:
            loaded(content, net())
        assert error.value.help == 'choose one: `weights_key = "state_dict"`'
        with pytest.raises(OptlangError, match="hold 2 sets"):
            loaded(content, net(classes=5), strict=False)

    def test_one_is_chosen(self, content, loaded):
        for key in ("state_dict", "state_dict_ema"):
            module, notes = loaded(content, net(), key=key)
            assert torch.equal(module[0].weight, content[key]["0.weight"])
            assert notes == {"weights.from": key}

    def test_equal_ones_are_one(self, trained, loaded):
        content = {"model": trained.state_dict(), "ema": copy.deepcopy(trained.state_dict())}
        assert loaded(content, net())[1] == {"weights.from": "model"}

    def test_the_one_that_fits_is_meant(self, trained, loaded):
        content = {"teacher": net(classes=7).state_dict(), "student": trained.state_dict()}
        assert loaded(content, net())[1] == {"weights.from": "student"}

    def test_below_prefixes(self, trained, loaded):
        other = net()
        state = {f"{name}.{key}": item for name, module in (("student", trained), ("teacher", other))
                 for key, item in module.state_dict().items()}
        with pytest.raises(OptlangError, match=r"`state\.student`, `state\.teacher`"):
            loaded({"state": state}, net())
        module, notes = loaded({"state": state}, net(), key="state.teacher")
        assert equal(module, other)
        assert len(notes["weights.unused"]) == 9

    def test_as_they_are_and_once_more_below_a_prefix(self, trained, loaded):
        state = {**trained.state_dict(), **{f"ema.{name}": item + 1 for name, item in trained.state_dict().items()}}
        with pytest.raises(OptlangError, match="hold 2 sets"):
            loaded(state, net())
        module, _ = loaded(state, net(), key="ema")
        assert torch.equal(module[0].bias, trained[0].bias + 1)

    def test_one_that_is_not_there(self, content, loaded):
        with pytest.raises(OptlangError, match="have no `state_dict_emma`") as error:
            loaded(content, net(), key="state_dict_emma")
        assert error.value.help == "did you mean `state_dict_ema`?"
