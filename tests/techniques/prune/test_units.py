"""Hidden units: answers as of a recurrent layer written out by hand whose units are held at zero, and real savings."""

import json
from dataclasses import asdict
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

from optlang.interfaces import Context, Factory, ModelState, Refusal
from optlang.techniques.prune.rewind import rewind
from optlang.techniques.prune.units import units
from optlang.techniques.training.finetune import finetune
from optlang.workload.data import dataset as data_module
from optlang.workload.export.onnx import export
from optlang.workload.model.count import macs
from optlang.workload.model.make import make
from optlang.workload.model.save import load, save
from tests.techniques.states import NETWORKS


def check(state, result, data):
    assert result.notes["prune.removed_units"] == pytest.approx(0.5)


REFUSES = {item: "no layer is an nn.LSTM" for item in NETWORKS if item != "lstm"}

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
SETTINGS = {"ratio": 0.5, "importance": "l2", "samples": 64, "round_to": 4, "keep": (), "only": ()}
TRAINING = {
    "epochs": 1, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
    "momentum": 0.9, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    return data_module.load(Factory("optlang.zoo.recurrent:digit_rows"), STUDY)


def reader(**arguments):
    factory = Factory("optlang.zoo.recurrent:recurrent", arguments)
    return ModelState("module", make(factory, STUDY), factory)


def own(build):
    """A network of the test's own; it is in no file and cannot be made again."""
    torch.manual_seed(0)
    return ModelState("module", build().eval(), Factory("unused:here"))


def run(state, data, seed=1, **changed):
    return units(state, SETTINGS | changed, Context(data, seed, Path(), STUDY))


def count(module):
    return sum(item.numel() for item in module.parameters())


def step(kind, x, h, c, w, u, b, v):
    """One step by the equations of torch's documentation: the new h and c of (N, hidden)."""
    given, said = x @ w.T + b, h @ u.T + v
    if isinstance(kind, nn.RNN):
        return getattr(torch, kind.nonlinearity)(given + said), c
    if isinstance(kind, nn.GRU):
        (r, z, n), (r2, z2, n2) = given.chunk(3, 1), said.chunk(3, 1)
        z = torch.sigmoid(z + z2)
        return (1 - z) * torch.tanh(n + torch.sigmoid(r + r2) * n2) + z * h, c
    i, f, g, o = (given + said).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def one_way(layer, x, end, chosen):
    """Outputs (N, L, hidden) of one direction of one level, all units but `chosen` set to zero after each step."""
    weights = [getattr(layer, f"{name}_{end}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    mask = torch.zeros(layer.hidden_size)
    mask[list(chosen)] = 1
    h = c = torch.zeros(len(x), layer.hidden_size)
    found = []
    for place in range(x.shape[1]):
        h, c = step(layer, x[:, place], h, c, *weights)
        h = h * mask
        found.append(h)
    return torch.stack(found, 1)


def by_hand(layer, x, kept):
    """Outputs (N, L, hidden) of the last level, or (N, L, 2 hidden) of a layer of two directions; `kept` in each."""
    if not layer.bidirectional:
        for level, chosen in enumerate(kept):
            x = one_way(layer, x, f"l{level}", chosen)
        return x
    for level, (ahead, back) in enumerate(zip(kept[::2], kept[1::2], strict=True)):
        backward = one_way(layer, x.flip(1), f"l{level}_reverse", back).flip(1)
        x = torch.cat([one_way(layer, x, f"l{level}", ahead), backward], 2)
    return x


def cut_of(result, number=0):
    return result.edits[0].arguments["cuts"][number]


class TestAnswers:
    @pytest.mark.parametrize("cell", ["lstm", "gru"])
    @pytest.mark.parametrize("layers", [1, 3])
    def test_as_by_hand(self, rows, cell, layers):
        state = reader(cell=cell, width=24, layers=layers)
        result = run(state, rows)
        cut = cut_of(result)
        assert (cut["layer"], cut["takers"]) == ("cell", ["head"])
        assert [len(chosen) for chosen in cut["kept"]] == [12] * layers
        x = rows.example(7)["input"]
        with torch.no_grad():
            wanted = state.model.head(by_hand(state.model.cell, x, cut["kept"])[:, -1])
            assert torch.allclose(result.model(x), wanted, atol=1e-5)
            assert not torch.allclose(result.model(x), state.model(x), atol=1e-2)
        # Counted on a layer of that size by torch itself.
        small = reader(cell=cell, width=12, layers=layers).model
        assert count(result.model) == count(small)
        assert macs(result.model, {"rows": x}) == macs(small, {"rows": x})
        assert result.notes["prune.removed_units"] == 0.5
        assert result.notes["prune.removed_parameters"] == pytest.approx(1 - count(small) / count(state.model))

    @pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
    def test_plain_layers_and_the_last_state(self, images, nonlinearity):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = nn.RNN(8, 16, 2, nonlinearity=nonlinearity)
                self.head = nn.Linear(16, 10)

            def forward(self, image):
                return self.head(self.cell(image[:, 0].transpose(0, 1))[1][-1])

        state = own(Net)
        result = run(state, images)
        x = images.example(5)["input"]
        answers = by_hand(state.model.cell, x[:, 0], cut_of(result)["kept"])
        assert torch.allclose(result.model(x), state.model.head(answers[:, -1]), atol=1e-5)

    def test_one_behind_the_other_and_two_heads(self, images):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = nn.LSTM(8, 16, batch_first=True), nn.GRU(16, 12, batch_first=True)
                self.skip, self.head = nn.Linear(16, 10), nn.Linear(12, 10, bias=False)
                self.drop = nn.Dropout(0.5)

            def forward(self, image):
                states = self.drop(self.first(image[:, 0])[0])
                return self.head(torch.relu(self.second(states)[0][:, -1])) + self.skip(states.mean(1))

        state = own(Net)
        result = run(state, images)
        one, two = result.edits[0].arguments["cuts"]
        assert (one["layer"], sorted(one["takers"])) == ("first", ["second", "skip"])
        assert (two["layer"], two["takers"]) == ("second", ["head"])
        model, x = state.model, images.example(5)["input"]
        first = by_hand(model.first, x[:, 0], one["kept"])
        second = by_hand(model.second, first, two["kept"])[:, -1]
        assert torch.allclose(result.model(x), model.head(torch.relu(second)) + model.skip(first.mean(1)), atol=1e-5)
        assert (result.model.second.input_size, result.model.skip.in_features) == (8, 8)

    @pytest.mark.parametrize(("kind", "levels"), [(nn.LSTM, 1), (nn.LSTM, 3), (nn.GRU, 2), (nn.RNN, 2)])
    def test_both_directions_as_by_hand(self, images, kind, levels):
        state = own(lambda: BothWays(kind, levels, "states"))
        result = run(state, images)
        cut = cut_of(result)
        assert (cut["takers"], cut["sides"]) == (["head"], {"head": [0, 1]})
        assert [len(chosen) for chosen in cut["kept"]] == [8] * 2 * levels
        model, x = state.model, images.example(5)["input"]
        assert cut["kept"][-1] != cut["kept"][-2]
        wanted = model.head(by_hand(model.cell, x[:, 0], cut["kept"]).mean(1))
        assert torch.allclose(result.model(x), wanted, atol=1e-5)
        small = own(lambda: BothWays(kind, levels, "states", hidden=8)).model
        assert count(result.model) == count(small)
        assert macs(result.model, {"image": x}) == macs(small, {"image": x})
        assert result.notes["prune.removed_units"] == 0.5

    @pytest.mark.parametrize(
        ("way", "sides"), [("turned", [1, 0]), ("ahead", [0]), ("back", [1]), ("twice", [0, 1, 0])]
    )
    def test_directions_in_any_order(self, images, way, sides):
        state = own(lambda: BothWays(nn.GRU, 2, way))
        cut = cut_of(result := run(state, images))
        assert cut["sides"] == {"head": sides}
        model, x = state.model, images.example(5)["input"]
        ahead, back = by_hand(model.cell, x[:, 0], cut["kept"]).chunk(2, 2)
        wanted = torch.cat([(ahead[:, -1], back[:, 0])[side] for side in sides], 1)
        assert torch.allclose(result.model(x), model.head(wanted), atol=1e-5)
        assert result.model.head.in_features == 8 * len(sides)

    @pytest.mark.parametrize("both", [True, False])
    def test_the_states_of_all_times_side_by_side(self, images, both):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = nn.LSTM(8, 12, batch_first=True, bidirectional=both)
                self.head = nn.Linear(8 * (24 if both else 12), 10)

            def forward(self, image):
                return self.head(self.cell(image[:, 0])[0].flatten(1))

        state = own(Net)
        cut = cut_of(result := run(state, images, round_to=1))
        assert cut["sides"] == {"head": [0, 1] * 8 if both else [0] * 8}
        model, x = state.model, images.example(5)["input"]
        assert torch.allclose(
            result.model(x), model.head(by_hand(model.cell, x[:, 0], cut["kept"]).flatten(1)), atol=1e-5
        )
        head = (model.head.weight.detach() ** 2).sum(0).reshape(8, -1, 12).sum(0)
        for end, chosen, behind in zip(("l0", "l0_reverse"), cut["kept"], head, strict=False):
            w, u = (getattr(model.cell, f"weight_{way}_{end}").detach() ** 2 for way in ("ih", "hh"))
            score = w.sum(1).reshape(4, 12).sum(0) + u.sum(1).reshape(4, 12).sum(0) + u.sum(0) + behind
            assert chosen == score.topk(6).indices.sort().values.tolist()

    @pytest.mark.parametrize("both", [True, False])
    def test_both_directions_before_another(self, images, both):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.GRU(8, 12, batch_first=True, bidirectional=True)
                self.second = nn.LSTM(24, 16, batch_first=True, bidirectional=both)
                self.head = nn.Linear(32 if both else 16, 10)

            def forward(self, image):
                return self.head(self.second(self.first(image[:, 0])[0])[0].mean(1))

        state = own(Net)
        result = run(state, images, round_to=1)
        one, two = result.edits[0].arguments["cuts"]
        assert (one["takers"], one["sides"]) == (["second"], {"second": [0, 1]})
        assert ("sides" in two) == both
        model, x = state.model, images.example(5)["input"]
        first = by_hand(model.first, x[:, 0], one["kept"])
        assert torch.allclose(result.model(x), model.head(by_hand(model.second, first, two["kept"]).mean(1)), atol=1e-5)
        assert (result.model.second.input_size, result.model.head.in_features) == (12, 16 if both else 8)

    def test_frozen_stays_frozen(self, rows):
        state = reader(width=16)
        state.model.cell.weight_hh_l0.requires_grad_(False)
        state.model.head.weight.requires_grad_(False)
        trained = {name: item.requires_grad for name, item in run(state, rows).model.named_parameters()}
        assert [name for name, asked in trained.items() if not asked] == ["cell.weight_hh_l0", "head.weight"]


class TestChoice:
    @pytest.mark.parametrize(("ratio", "left"), [(0.3, 16), (0.5, 12), (0.8, 4), (0.95, 4)])
    def test_multiples(self, rows, ratio, left):
        assert run(reader(width=24), rows, ratio=ratio).model.cell.hidden_size == left

    def test_the_least_by_hand(self, rows):
        state = reader(width=12, cell="gru", layers=2)
        cell, head = state.model.cell, state.model.head
        w, u, w2, u2 = (
            getattr(cell, f"weight_{name}").detach() ** 2 for name in ("ih_l0", "hh_l0", "ih_l1", "hh_l1")
        )
        scores = [[0.0] * 12, [0.0] * 12]
        for unit in range(12):
            gates = [unit, 12 + unit, 24 + unit]
            scores[0][unit] = float(w[gates].sum() + u[gates].sum() + u[:, unit].sum() + w2[:, unit].sum())
            last = float((head.weight.detach()[:, unit] ** 2).sum())
            scores[1][unit] = float(w2[gates].sum() + u2[gates].sum() + u2[:, unit].sum()) + last
        wanted = [sorted(sorted(range(12), key=score.__getitem__)[-8:]) for score in scores]
        assert cut_of(run(state, rows, ratio=0.33))["kept"] == wanted

    def test_the_least_of_each_direction_by_hand(self, images):
        state = own(lambda: BothWays(nn.LSTM, 2, "turned"))
        cell, head = state.model.cell, state.model.head.weight.detach() ** 2
        squares = {name: item.detach() ** 2 for name, item in cell.named_parameters()}
        wanted = []
        for end, side in (("l0", 0), ("l0_reverse", 1), ("l1", 0), ("l1_reverse", 1)):
            w, u = squares[f"weight_ih_{end}"], squares[f"weight_hh_{end}"]
            scores = []
            for unit in range(16):
                gates = [unit, 16 + unit, 32 + unit, 48 + unit]
                column = 16 * side + unit
                behind = (
                    squares["weight_ih_l1"][:, column].sum() + squares["weight_ih_l1_reverse"][:, column].sum()
                    if end.startswith("l0") else head[:, 16 * (1 - side) + unit].sum()  # its head takes them turned
                )
                scores.append(float(w[gates].sum() + u[gates].sum() + u[:, unit].sum() + behind))
            wanted.append(sorted(sorted(range(16), key=scores.__getitem__)[-8:]))
        assert cut_of(run(state, images))["kept"] == wanted

    @pytest.mark.parametrize("importance", ["taylor", "fisher"])
    def test_gradients_by_hand(self, rows, importance):
        state = reader(width=12)
        model = reader(width=12).model
        inputs, targets = next(rows.batches("train", 64, seed=4, shuffle=True))
        x = next(iter(inputs.values()))
        weights = [model.cell.weight_ih_l0, model.cell.weight_hh_l0, model.head.weight]
        if importance == "taylor":
            gradients = torch.autograd.grad(nn.functional.cross_entropy(model(x), targets), weights)
            worth = [(item * gradient).abs() for item, gradient in zip(weights, gradients, strict=True)]
        else:
            worth = [torch.zeros_like(item) for item in weights]
            for index in range(20):
                loss = nn.functional.cross_entropy(model(x[index : index + 1]), targets[index : index + 1])
                for total, item, gradient in zip(worth, weights, torch.autograd.grad(loss, weights), strict=True):
                    total += (item * gradient).detach() ** 2
        w, u, head = worth
        score = w.sum(1).reshape(4, 12).sum(0) + u.sum(1).reshape(4, 12).sum(0) + u.sum(0) + head.sum(0)
        samples = 64 if importance == "taylor" else 20
        found = run(state, rows, importance=importance, samples=samples, seed=4, round_to=1)
        assert cut_of(found)["kept"] == [score.topk(6).indices.sort().values.tolist()]

    def test_random_follows_the_seed(self, rows):
        one, same, other = (run(reader(), rows, seed=seed, importance="random").edits for seed in (1, 1, 2))
        assert one == same != other

    def test_keep(self, images):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = nn.LSTM(8, 16, batch_first=True), nn.LSTM(16, 16, batch_first=True)
                self.head = nn.Linear(16, 10)

            def forward(self, image):
                return self.head(self.second(self.first(image[:, 0])[0])[0][:, -1])

        for changed in ({"keep": ("first",)}, {"only": ("second",)}):
            model = run(own(Net), images, **changed).model
            assert (model.first.hidden_size, model.second.hidden_size) == (16, 8)


class TestAfterwards:
    def test_twice_from_disk(self, rows, tmp_path):
        twice = run(run(reader(layers=2), rows), rows)
        assert twice.model.cell.hidden_size == 16
        assert twice.notes["prune.removed_units"] == 0.75
        assert json.loads(json.dumps([asdict(item) for item in twice.edits])) == [asdict(item) for item in twice.edits]
        save(twice, tmp_path)
        loaded = load(tmp_path, STUDY)
        x = rows.example(4)["input"]
        assert torch.equal(loaded.model(x), twice.model(x))

    def test_both_directions_twice_from_disk_and_as_onnx(self, images, tmp_path):
        factory = Factory("networks.py:both_ways", {})
        state = ModelState("module", make(factory, STUDY), factory)
        context = Context(images, 1, tmp_path, STUDY)
        twice = run(finetune(run(state, images, importance="taylor"), TRAINING, context), images, importance="random")
        assert (twice.model.cell.hidden_size, twice.model.head.in_features) == (4, 8)
        save(twice, tmp_path / "saved")
        loaded = load(tmp_path / "saved", STUDY)
        x = images.example(4)["input"]
        assert torch.equal(loaded.model(x), twice.model(x))
        written = tmp_path / "model.onnx"
        export(loaded, images.bind(loaded.model), written, STUDY)
        session = onnxruntime.InferenceSession(str(written), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        assert torch.allclose(torch.from_numpy(found), twice.model(x), atol=1e-5)

    def test_learns_on_goes_back_and_exports(self, rows, tmp_path):
        context = Context(rows, 1, tmp_path, STUDY)
        cut = run(reader(), rows)
        trained = finetune(cut, TRAINING, context)
        back = rewind(trained, {"checkpoint": None, "to": "start"}, context)
        pairs = zip(back.model.parameters(), cut.model.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
        export(trained, rows.bind(trained.model), tmp_path / "model.onnx", STUDY)  # compares the answers itself


class BothWays(nn.Module):
    """A layer of two directions, of whose answers the head takes what `way` says."""

    def __init__(self, kind, levels, way, hidden=16):
        super().__init__()
        self.way = way
        self.cell = kind(8, hidden, levels, batch_first=True, bidirectional=True)
        self.head = nn.Linear({"ahead": 1, "back": 1, "sum": 1, "twice": 3}.get(way, 2) * hidden, 10)

    def forward(self, image):
        states, last = self.cell(image[:, 0])
        ahead, back = (last[0] if isinstance(last, tuple) else last)[-2:]
        return self.head({
            "states": lambda: states.mean(1), "turned": lambda: torch.cat([back, ahead], 1), "ahead": lambda: ahead,
            "back": lambda: back, "sum": lambda: ahead + back, "twice": lambda: torch.cat([ahead, back, ahead], 1),
        }[self.way]())


class Refused(nn.Module):
    """An LSTM whose answers go where `way` says."""

    def __init__(self, way, **about):
        super().__init__()
        self.way = way
        self.cell = nn.LSTM(8, 16, batch_first=True, **about)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 16)
        self.tied = nn.Linear(16, 16)
        if way == "tied":
            self.tied.weight = self.head.weight

    def forward(self, image):
        answer = self.cell(image[:, 0])[0][:, -1]
        return {
            "out": lambda: answer[:, :10], "norm": lambda: self.head(self.norm(answer))[:, :10],
            "tied": lambda: self.head(answer), "mirrored": lambda: self.head(answer.flip(1)),
            "both": lambda: answer.repeat(1, 2),
        }[self.way]()


class TestRefusal:
    @pytest.mark.parametrize(
        ("way", "why"),
        [("out", "own output|is another one"), ("norm", "does not run: Given"), ("tied", "head shares its weights"),
         ("mirrored", "is another one"), ("both", "own output")],
    )
    def test_answers_that_go_elsewhere(self, images, way, why):
        with pytest.raises(Refusal, match=f"the answers of cell go .*({why})") as error:
            run(own(lambda: Refused(way)), images)
        assert error.value.help == 'keep = ["cell"]'

    @pytest.mark.filterwarnings("ignore:LSTM with projections")
    def test_other_kinds(self, images):
        with pytest.raises(Refusal, match=r"cell is an LSTM that .*proj_size"):
            run(own(lambda: Refused("out", proj_size=4)), images)

    @pytest.mark.filterwarnings("ignore:LSTM with projections")
    def test_a_layer_that_cannot_be_cut_is_left_alone(self, images):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.LSTM(8, 16, batch_first=True)
                self.norm, self.second = nn.LayerNorm(16), nn.GRU(16, 16, batch_first=True)
                self.third, self.head = nn.LSTM(16, 16, proj_size=8, batch_first=True), nn.Linear(8, 10)

            def forward(self, image):
                return self.head(self.third(self.second(self.norm(self.first(image[:, 0])[0]))[0])[0][:, -1])

        result = run(own(Two), images)
        assert (result.model.first.hidden_size, result.model.second.hidden_size) == (16, 8)
        assert result.model.third.input_size == 8
        assert set(result.notes["prune.left"]) == {"first", "third"}
        assert "proj_size" in result.notes["prune.left"]["third"]

    def test_the_sum_of_both_directions(self, images):
        with pytest.raises(Refusal, match="head takes numbers that its two directions make together") as error:
            run(own(lambda: BothWays(nn.LSTM, 1, "sum")), images)
        assert error.value.help == 'keep = ["cell"]'

    def test_nothing_to_remove(self, rows):
        with pytest.raises(Refusal, match="round_to 64"):
            run(reader(), rows, round_to=64)
