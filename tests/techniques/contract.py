"""What every technique must do by its declaration, whether the standard library or a user's file declares it."""

import copy
import importlib
from pathlib import Path

import numpy
import onnx
import torch

from optlang.interfaces import Context
from optlang.plan.expressions import Environment, holds
from optlang.runtimes.onnxruntime.build import OnnxRuntime
from optlang.techniques.shared.proof import proved
from optlang.workload import imports
from optlang.workload.export.onnx_weights import shares
from optlang.workload.model import save
from tests.techniques.declarations import standard
from tests.techniques.states import STUDY, answers, macs

WANTS = OnnxRuntime().wants()
# By parameter, where it is declared: less work, and room for what two epochs leave.
LIGHT = {"epochs": 2, "lr": 3e-3, "samples": 64, "held_out": 64, "scored": 64, "levels": 2, "max_drop": 0.1}


def settings_of(technique, **changed):
    """The declared defaults, less where a parameter can be had with less work, and without those that do not apply."""
    values = {item.name: LIGHT.get(item.name, item.default) for item in technique.params} | changed
    environment = Environment(knob=values.get)
    return {
        item.name: tuple(values[item.name]) if isinstance(values[item.name], list) else values[item.name]
        for item in technique.params if item.when is None or holds(item.when, environment)
    }


def apply(technique, state, data, folder, seed=3, study=STUDY, report=lambda _: None, score=None, **changed):
    """The technique's result; `technique` is its declaration, or its qualified name in the standard library.

    The context has nothing that the declaration does not need.
    """
    if isinstance(technique, str):
        technique = standard()[technique]
    context = Context(
        data, seed, folder, study, WANTS if "runtime" in technique.needs else None, report=report,
        baseline=(lambda: state) if "baseline" in technique.needs else None,
        # As long as there is to multiply: what really takes how long is not in question here.
        latency=(lambda item: 1e-9 * macs(item)) if "latency" in technique.needs else None, score=score,
    )
    result = imports.find(technique.calls, study)(state, settings_of(technique, **changed), context)
    proved(state, result, context)  # as a run does after each step
    return result


def own(technique, name, otherwise):
    """What the technique's own test module says of it, under this name; None where it has none.

    `REFUSES`: the networks that it refuses, with what the message matches. `begin(state, data, folder)`: what it begins
    with, where that is no network as it is made. `check(state, result, data)`: what only it does.
    """
    family, _, plain = technique.name.rpartition(".")
    if not Path(__file__).with_name(family).joinpath(f"test_{plain}.py").is_file():
        return otherwise
    return getattr(importlib.import_module(f"tests.techniques.{family}.test_{plain}"), name, otherwise)


def keeps_shapes(technique, state, data, folder, **rest):
    """The outputs keep their names and shapes, the given state stays, and the result is of the declared kind."""
    before, mode = copy.deepcopy(state.model.state_dict()), state.model.training
    wanted = answers(state, data)
    result = apply(technique, state, data, folder, **rest)
    found = answers(result, data)
    assert {name: item.shape for name, item in found.items()} == {name: item.shape for name, item in wanted.items()}
    assert all(numpy.isfinite(item).all() for item in found.values())
    after = state.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert state.model.training == mode
    assert result.form in technique.gives
    has_traits(technique, state, result)
    return result


def has_traits(technique, state, result):
    """What the declaration says of the result, and that it is another model."""
    if result.form != "module":
        graph = onnx.load(result.model).graph
        assert "int8_weights" not in technique.traits or shares(graph)[0] > 0.5
        operators = {item.op_type for item in graph.node}
        assert "int8_activations" not in technique.traits or "QuantizeLinear" in operators
        return
    old, new = state.model.state_dict(), result.model.state_dict()
    same = list(old) == list(new) and all(torch.equal(old[name], new[name]) for name in old)
    assert not same or result.edits != state.edits
    if "weights_only" in technique.traits:
        assert {name: item.shape for name, item in old.items()} == {name: item.shape for name, item in new.items()}
        assert result.edits == state.edits
    if "sparse" in technique.traits:
        assert zeros(new) > zeros(old)
    if "half" in technique.traits:
        assert any(item.dtype in (torch.float16, torch.bfloat16) for item in new.values())


def zeros(tensors):
    return sum(int((item == 0).sum()) for item in tensors.values())


def survives_the_disk(technique, state, data, folder, study=STUDY, **rest):
    """The result is the same when it is saved and loaded, without pickles."""
    result = apply(technique, state, data, folder / "result", study=study, **rest)
    save.save(result, folder / "saved")
    loaded = save.load(folder / "saved", study)
    assert (loaded.form, loaded.edits, loaded.factory) == (result.form, result.edits, result.factory)
    assert loaded.notes == result.notes
    wanted, found = answers(result, data), answers(loaded, data)
    assert all(numpy.array_equal(wanted[name], found[name]) for name in wanted)
    assert not list((folder / "saved").glob("*.p*"))


def is_repeatable(technique, state, data, folder, **rest):
    """One seed gives one result."""
    first, second = (apply(technique, state, data, folder / name, **rest) for name in ("a", "b"))
    if first.form == "module":
        one, other = first.model.state_dict(), second.model.state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)
    else:
        assert Path(first.model).read_bytes() == Path(second.model).read_bytes()


def holds_to_all(technique, state, data, folder, **rest):
    """All that a technique must do, on one state."""
    keeps_shapes(technique, state, data, folder, **rest)
    survives_the_disk(technique, state, data, folder, **rest)
    is_repeatable(technique, state, data, folder, **rest)
