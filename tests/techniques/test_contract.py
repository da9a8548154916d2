"""Every technique of the standard library is held to its declaration, on networks of several structures."""

import copy

import pytest
import torch

from optlang.interfaces import Factory, ModelState, OptlangError, Refusal
from optlang.techniques.shared.proof import shared
from optlang.workload.model.save import load, save
from tests.techniques import contract
from tests.techniques.declarations import declared, standard
from tests.techniques.states import KINDS, NETWORKS, STUDY, count, macs, start

# Enough to see a seed that is not used.
SEEDED = ("cnn", "residual", "encoder")
TECHNIQUES = tuple(standard().values())
REFUSES = {item.name: contract.own(item, "REFUSES", {}) for item in TECHNIQUES}
# Those that choose layers by name.
CHOOSING = [item for item in TECHNIQUES if {"keep", "only"} <= {param.name for param in item.params}]

pytestmark = pytest.mark.slow


def by_name(item):
    return getattr(item, "name", item)


def pairs(networks):
    """The techniques with the networks that they do not refuse."""
    found = [(item, network) for item in TECHNIQUES for network in networks if network not in REFUSES[item.name]]
    return pytest.mark.parametrize(("technique", "network"), found, ids=by_name)


def given(technique, network, data, folder):
    """What the technique begins with."""
    return contract.own(technique, "begin", lambda state, data, folder: state)(start(network), data, folder)


def choosing(technique):
    """A network that has layers for the technique to choose among, and a "head"."""
    return next(item for item in ("residual", "encoder", "lstm") if item not in REFUSES[technique.name])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_what_is_refused_is_a_network():
    assert {network for item in REFUSES.values() for network in item} <= {*NETWORKS, "words"}


@pytest.mark.parametrize(("technique", "network"), [
    (item, network) for item in TECHNIQUES if "per_layer" in item.traits
    for network in ("depthwise", "encoder") if network not in REFUSES[item.name]
], ids=by_name)
def test_the_same_share_of_every_layer_leaves_the_same_shape_whatever_the_weights_are(
    technique, network, images, tmp_path
):
    shapes = set()
    for changed in (0.0, 0.1):
        state = start(network)
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for item in state.model.parameters():
                item.add_(changed * torch.randn(item.shape, generator=draw))
        result = contract.apply(technique, state, images.bind(state.model), tmp_path / str(changed), scope="layer")
        shapes.add((count(result), macs(result)))
    assert len(shapes) == 1


class TestContract:
    @pairs(NETWORKS)
    def test_answers_keep_their_shapes_and_the_given_state_stays(
        self, technique, network, images, tmp_path, monkeypatch
    ):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        state = given(technique, network, images, tmp_path)
        result = contract.keeps_shapes(technique, state, images, tmp_path)
        contract.own(technique, "check", lambda *_: None)(state, result, images)
        assert not list((tmp_path / "here").iterdir())

    @pairs(KINDS)
    def test_result_survives_the_disk(self, technique, network, images, tmp_path):
        contract.survives_the_disk(technique, given(technique, network, images, tmp_path), images, tmp_path)

    @pairs(SEEDED)
    def test_one_seed_one_result(self, technique, network, images, tmp_path):
        contract.is_repeatable(technique, given(technique, network, images, tmp_path), images, tmp_path)

    @pytest.mark.parametrize(
        ("technique", "network"),
        [(item, network) for item in TECHNIQUES for network in REFUSES[item.name]], ids=by_name,
    )
    def test_a_refusal_names_the_layer(self, technique, network, images, tmp_path):
        state = start(network)
        before = copy.deepcopy(state.model.state_dict())
        with pytest.raises(Refusal, match=REFUSES[technique.name][network]):
            contract.apply(technique, state, images, tmp_path)
        assert all(torch.equal(before[name], item) for name, item in state.model.state_dict().items())


class TestSharing:
    """Two linear layers with one weight, and a table of words that is the last layer's matrix too."""

    @pytest.mark.parametrize("network", ["tied", "words"])
    @pytest.mark.parametrize("technique", [item for item in TECHNIQUES if item.gives == ("module",)], ids=by_name)
    def test_weights_that_layers_share_stay_shared(self, technique, network, images, tmp_path):
        state = given(technique, network, images, tmp_path)
        # What there is nothing of in these networks, or would cut the weight in one layer alone.
        why = REFUSES[technique.name].get("mlp" if network == "words" else network)
        if why:
            with pytest.raises(Refusal, match=why):
                contract.apply(technique, state, images, tmp_path)
            return
        result = contract.apply(technique, state, images, tmp_path)
        assert shared(result.model) == shared(state.model)
        one, other = shared(result.model)[0]
        assert result.model.get_parameter(one) is result.model.get_parameter(other)
        save(result, tmp_path / "saved")
        loaded = load(tmp_path / "saved", STUDY)
        assert shared(loaded.model) == shared(state.model)
        assert count(loaded) == count(result) <= count(state)


class TestRefusal:
    @pytest.mark.parametrize(
        ("technique", "form"),
        [(item, form) for item in TECHNIQUES for form in ("onnx", "artifact") if form not in item.takes], ids=by_name,
    )
    def test_a_form_that_is_not_declared(self, technique, form, images, tmp_path):
        with pytest.raises(Refusal, match=form):
            contract.apply(technique, ModelState(form, tmp_path / "model.onnx", Factory("x:y")), images, tmp_path)

    @pytest.mark.parametrize("technique", CHOOSING, ids=by_name)
    def test_an_unknown_layer_in_keep(self, technique, images, tmp_path):
        with pytest.raises(OptlangError, match="haed") as error:
            contract.apply(technique, start(choosing(technique)), images, tmp_path, keep=("haed",))
        assert error.value.help == "did you mean 'head'?"

    @pytest.mark.parametrize("technique", CHOOSING, ids=by_name)
    def test_everything_kept(self, technique, images, tmp_path):
        with pytest.raises(Refusal):
            contract.apply(technique, start(choosing(technique)), images, tmp_path, keep=("*",))


OWN = """optlang 1

technique shrink "weights nearer to zero" {
  calls "clipping.py:shrink"
  param by: ratio in 1% .. 99% = 10% "share of each weight that is taken away"
  takes module
  gives module
  traits weights_only
  cost_depends_on settings
}
"""
CODE = """import copy

import torch

from optlang.interfaces import ModelState


def shrink(state, settings, context):
    module = copy.deepcopy(state.model)
    for item in module.parameters():
        item.data.mul_(1 - settings["by"])
    CHANGED
    return ModelState("module", module, state.factory, state.edits, state.notes)
"""


class TestOwn:
    """A technique that a user declares is held to the same contract."""

    def shrink(self, folder, changed="pass"):
        for path in STUDY.glob("*.py"):
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "clipping.py").write_text(CODE.replace("CHANGED", changed))
        return declared(["shrink"], OWN, folder)["declared.shrink"]

    @pytest.mark.parametrize("network", KINDS)
    def test_it_holds(self, network, images, tmp_path):
        contract.holds_to_all(self.shrink(tmp_path), start(network), images, tmp_path, study=tmp_path)

    @pytest.mark.parametrize("changed", [
        "module = copy.deepcopy(state.model)", "state.model[0].weight.data *= 2",
        "module[0].weight.data *= float('nan')",
        "module.append(torch.nn.Unflatten(1, (2, 5)))", "module[0].weight.data += torch.rand(1)",
    ], ids=["nothing", "the given state", "not finite", "other shapes", "another each time"])
    def test_what_breaks_it_is_seen(self, changed, images, tmp_path):
        with pytest.raises((AssertionError, OptlangError)):
            contract.holds_to_all(self.shrink(tmp_path, changed), start(), images, tmp_path, study=tmp_path)
