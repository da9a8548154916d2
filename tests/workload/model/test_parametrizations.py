"""Computed weights, as parametrizations and as torch's older hooks: the same answers, the same training."""

import copy
from pathlib import Path

import pytest
import torch
from torch.nn.utils import prune

from optlang.interfaces import Factory, OptlangError, Refusal
from optlang.workload import imports
from optlang.workload.model.make import make
from optlang.workload.model.parametrizations import bake, modernized, parametrized, plain_copy

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
KINDS = {
    "parametrized": {"0.weight": "weight_norm", "4.weight": "weight_norm", "8.weight": "spectral_norm",
                     "10.weight": "orthogonal"},
    "hooked": {"0.weight": "weight_norm", "4.weight": "weight_norm", "8.weight": "spectral_norm",
               "10.weight": "weight_norm"},
    "masked": {"4.weight": "mask", "8.weight": "mask", "8.bias": "mask"},
    "rows": {"lstm.weight_hh_l0": "weight_norm", "gru.weight_ih_l0": "mask", "head.weight": "weight_norm"},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def user(name, **arguments):
    """The model as the user's own code makes it."""
    return imports.find(f"computed.py:{name}", STUDY)(**arguments).eval()


def made(name):
    return make(Factory(f"computed.py:{name}"), STUDY)


def answers(module):
    image = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return module(image)


@pytest.mark.parametrize("name", KINDS)
def test_a_model_can_be_copied_and_answers_as_the_users_own(name):
    wanted, module = answers(user(name)), made(name)
    assert parametrized(module) == KINDS[name]
    assert torch.allclose(answers(copy.deepcopy(module)), wanted, atol=1e-6)
    plain = plain_copy(module)
    assert not parametrized(plain)
    assert torch.allclose(answers(plain), wanted, atol=1e-6)
    # Copies share a class, which must stay as it is for the one that keeps its parametrizations.
    assert torch.allclose(answers(module), wanted, atol=1e-6)
    assert parametrized(module) == KINDS[name]
    twin = user(name, plain=True).state_dict()
    assert {key: item.shape for key, item in plain.state_dict().items()} == {
        key: item.shape for key, item in twin.items()
    }
    assert all(torch.allclose(item, twin[key], atol=1e-6) for key, item in plain.state_dict().items())


@pytest.mark.parametrize("name", ["hooked", "masked", "rows"])
def test_it_trains_as_the_hooks_do(name):
    nets = [user(name), modernized(user(name))]
    image, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    for net in nets:
        net.train()
        for layer in net.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(4):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(image), labels).backward()
            optimizer.step()
    old, new = (answers(net.eval()) for net in nets)
    # The two forms of spectral_norm take the halves of a step towards the norm in turn, beginning with another one.
    assert torch.allclose(old, new, atol=1e-3 if name == "hooked" else 1e-5)
    assert not torch.allclose(old, answers(user(name)), atol=1e-2)


def test_what_is_frozen_and_what_is_tied_stays_so():
    net = torch.nn.ModuleList([torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)])
    net[1].weight = net[0].weight
    net[0].weight.requires_grad_(False)
    prune.l1_unstructured(net[0], "weight", 0.5)
    modernized(net)
    kept = net[1].weight.detach().clone()
    bake(net, parametrized(net))
    assert not net[0].weight.requires_grad
    assert int((net[0].weight == 0).sum()) == 8
    assert torch.equal(net[1].weight, kept)
    assert bool((kept != 0).all())


def test_a_mask_inside_a_norm_is_refused():
    with pytest.raises(Refusal, match="4 has a mask on weight_v, from which a norm computes its weight"):
        made("nested")


def test_a_script_module_is_refused_in_words():
    with pytest.raises(OptlangError, match=r"returned a RecursiveScriptModule, which cannot be compressed") as caught:
        made("scripted")
    assert "before torch.jit.script" in caught.value.help


def test_a_state_of_the_older_weight_norm_is_read_by_the_newer(tmp_path):
    net = torch.nn.Conv2d(1, 8, 3, padding=1)
    old = user("hooked").state_dict()
    state = {key: item for key, item in made("parametrized").state_dict().items() if not key.startswith("0.param")}
    state |= {"0.weight_g": old["0.weight_g"], "0.weight_v": old["0.weight_v"]}
    torch.save(state, tmp_path / "old.pt")
    found = make(Factory("computed.py:parametrized", {}, str(tmp_path / "old.pt")), STUDY)
    assert torch.equal(found[0].parametrizations.weight.original1, old["0.weight_v"])
    assert found[0].weight.shape == net.weight.shape
