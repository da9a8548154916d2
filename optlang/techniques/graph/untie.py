"""Gives each use of a shared layer without parameters a copy of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, Edit, ModelState, Refusal
from optlang.techniques.shared.parametrizations import as_module, with_edit
from optlang.workload.failures import refused
from optlang.workload.model.layers import replaced

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_APART = "give each use a layer of its own there: self.relu1, self.relu2"
_REPLAY = "optlang.techniques.graph.untie:replay"


def untie(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """A copy for each use of a layer that has no parameters and is used more than once (one ReLU for two activations).

    Tools that capture graphs by layers take two uses for one. A layer under several names gets a copy a name; where one
    forward calls one name more than once, that forward is written again from its trace (torch.fx), the layers below it
    left as they are. A forward that cannot be traced stays as it is. Layers with parameters are shared on purpose, and
    stay so. Notes: `graph.untied`, how many copies were made, and `graph.left`, the layers whose forward cannot be
    traced, with the reason. Raises `Refusal` where no such layer is shared, or none of these forwards can be traced.
    """
    import torch

    from optlang.workload import imports
    from optlang.workload.model.call import call

    state = as_module(state, "be untied", context)
    module: nn.Module = copy.deepcopy(state.model).eval()
    example = context.data.bind(module).example(3)
    with torch.no_grad(), imports.user_code("the model's forward", context.study):
        wanted = call(module, example)
        shared = _shared(module, example)
    if not shared:
        raise Refusal(
            "no layer without parameters is used more than once: there is nothing to untie", depends="model"
        )
    before = sum(1 for _ in module.modules())
    named = [name for names in shared.values() for name in names[1:]]
    _copied(module, named)
    with torch.no_grad():
        callers = list(dict.fromkeys(_callers(module, example)))
    alone: dict[str, Refusal] = {}
    for name in callers:
        try:
            module = _written(module, name)
        except Refusal as error:
            alone[name] = error
    callers = [name for name in callers if name not in alone]
    if alone and not named and not callers:
        raise next(iter(alone.values()))
    arguments: dict[str, JSON] = {"named": named, "callers": callers}
    with torch.no_grad():
        found = call(module, example)
        left = [names[0] for names in _shared(module, example).values()]
    if left and not alone:
        raise Refusal(
            f"{left[0]} is in a layer with parameters that is used again, and those are shared on purpose",
            help="leave untie out for this model: what is below a shared layer has no copy for each use",
        )
    if any(not torch.equal(found[name], item) for name, item in wanted.items()):
        raise Refusal("the forward that was written from its trace gives other answers: it chooses by values")
    made = sum(1 for _ in module.modules()) - before
    notes: dict[str, JSON] = {"graph.untied": made}
    if alone:
        notes["graph.left"] = {name or "the model": str(error) for name, error in alone.items()}
    return with_edit(state, module, Edit(_REPLAY, arguments), notes)


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Make the same copies in `module`, a fresh model."""
    _copied(module, arguments["named"])
    for name in arguments["callers"]:
        module = _written(module, name)
    return module


def _stateless(layer: nn.Module) -> bool:
    return not any(True for _ in layer.parameters()) and not any(True for _ in layer.buffers())


def _calls(module: nn.Module, example: Mapping[str, Tensor]) -> list[tuple[nn.Module | None, int, nn.Module]]:
    """Each call in order: by which layer, in its how-manieth call, and of which layer."""
    from optlang.workload.model.call import call

    active: list[tuple[nn.Module, int]] = []
    found: list[tuple[nn.Module | None, int, nn.Module]] = []

    def before(layer: nn.Module, _: Any) -> None:
        caller, number = active[-1] if active else (None, 0)
        found.append((caller, number, layer))
        active.append((layer, len(found)))

    def after(*_: Any) -> None:
        active.pop()

    hooks = []
    for layer in module.modules():
        hooks += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    try:
        call(module, example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _shared(module: nn.Module, example: Mapping[str, Tensor]) -> dict[nn.Module, list[str]]:
    """The layers without parameters that are called more than once, with all their names."""
    counts: dict[nn.Module, int] = {}
    for _, _, layer in _calls(module, example):
        counts[layer] = counts.get(layer, 0) + 1
    shared = {layer: list[str]() for layer, times in counts.items() if times > 1 and _stateless(layer)}
    for name, layer in module.named_modules(remove_duplicate=False):
        if layer in shared:
            shared[layer].append(name)
    return shared


def _callers(module: nn.Module, example: Mapping[str, Tensor]) -> list[str]:
    """The layers that call one layer without parameters twice in one call of their own."""
    names = {layer: name for name, layer in module.named_modules()}
    seen: set[tuple[int, nn.Module]] = set()
    found = []
    for caller, number, layer in _calls(module, example):
        if caller is not None and _stateless(layer) and (number, layer) in seen:
            found.append(names[caller])
        seen.add((number, layer))
    return found


def _copied(module: nn.Module, names: list[str]) -> None:
    for name in names:
        parent, _, key = name.rpartition(".")
        holder = module.get_submodule(parent)
        holder._modules[key] = copy.deepcopy(module.get_submodule(name))


def _written(module: nn.Module, name: str) -> nn.Module:
    """`module` with the layer `name` ("": itself) replaced by its trace, in which no name is called twice."""
    return replaced(module, name, _traced(module.get_submodule(name), name))


def _traced(layer: nn.Module, name: str) -> torch.fx.GraphModule:
    from torch import fx

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True  # only this layer's own forward

    graphs = {}
    training = layer.training
    forward = f"the forward of {name or 'the model'}"
    try:
        with refused(f"{forward} cannot be traced", help=_APART):  # user code meets values that have none yet
            for mode in (True, False):
                layer.training = mode
                graphs[mode] = Tracer().trace(layer)
    finally:
        layer.training = training
    if graphs[True].python_code("self").src != graphs[False].python_code("self").src:
        raise Refusal(f"{forward} does something else in training: its trace would not", help=_APART)
    graph = graphs[False]
    seen: dict[str, int] = {}
    copies: dict[str, nn.Module] = {}
    for node in graph.nodes:
        if node.op != "call_module" or not _stateless(layer.get_submodule(str(node.target))):
            continue
        target = str(node.target)
        seen[target] = seen.get(target, 0) + 1
        if seen[target] > 1:
            copy_name = f"{target.replace('.', '_')}_{seen[target]}"
            while hasattr(layer, copy_name) or copy_name in copies:
                copy_name += "_"
            copies[copy_name] = copy.deepcopy(layer.get_submodule(target))
            layer.add_module(copy_name, copies[copy_name])
            node.target = copy_name
    new = fx.GraphModule(layer, graph, type(layer).__name__)
    # As they are, in their order, those that the trace does not name too.
    new._modules = dict(layer._modules)
    new._parameters = dict(layer._parameters)
    for key, buffer in layer._buffers.items():
        new.register_buffer(key, buffer, persistent=key not in layer._non_persistent_buffers_set)
    # The layers below it keep the mode that each is in.
    new.training = training
    return new
