"""Gives each use of a shared layer without parameters a copy of its own."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, Edit, ModelState, Refusal
from optlang.techniques.shared.parametrizations import as_module, with_edit
from optlang.workload.failures import attempt, refused
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
    left as they are. Where a forward cannot be traced, and below a layer with parameters that is used again, the copies
    stand in place of the layer and take its calls in turn. Layers with parameters are shared on purpose, and stay so.
    Note: `graph.untied`, how many copies were made. Raises `Refusal` where no such layer is shared, or where the
    model's own code counts on its class.
    """
    import torch
    from torch import nn

    from optlang.techniques.graph.in_turn import InTurn
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
    with torch.no_grad():
        for traced in (True, False):
            made, arguments = _untied(copy.deepcopy(module), shared, example, traced)
            found = attempt(lambda made=made: call(made, example))  # type: ignore[misc]
            if not isinstance(found, Exception) and all(torch.equal(found[key], item) for key, item in wanted.items()):
                before, after = (
                    sum(not isinstance(layer, InTurn | nn.ModuleList) for layer in item.modules())
                    for item in (module, made)
                )
                return with_edit(state, made, Edit(_REPLAY, arguments), {"graph.untied": after - before})
    layer = next(iter(shared.values()))[0]
    raise Refusal(
        f"the model gives other answers with a copy of {layer} for each use: its code asks for that layer", help=_APART
    )


def _untied(
    module: nn.Module, shared: Mapping[nn.Module, list[str]], example: Mapping[str, Tensor], traced: bool
) -> tuple[nn.Module, dict[str, JSON]]:
    """`module` with copies, and the arguments with which `replay` makes them; `traced`: where it can, from traces."""
    from optlang.techniques.graph.in_turn import in_turn

    named = [name for names in shared.values() for name in names[1:]]
    _copied(module, named)
    callers: list[str] = []
    for name in dict.fromkeys(_callers(module, example)) if traced else ():
        try:
            module = _written(module, name)
        except Refusal:
            continue
        callers.append(name)
    times = Counter(layer for _, _, layer in _calls(module, example))
    turns = {names[0]: times[layer] for layer, names in _shared(module, example).items()}
    in_turn(module, turns)
    return module, {"named": named, "callers": callers, **({"turns": {**turns}} if turns else {})}


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Make the same copies in `module`, a fresh model."""
    from optlang.techniques.graph.in_turn import in_turn

    _copied(module, arguments["named"])
    for name in arguments["callers"]:
        module = _written(module, name)
    in_turn(module, arguments.get("turns", {}))
    return module


def _stateless(layer: nn.Module) -> bool:
    from optlang.techniques.graph.in_turn import InTurn

    if isinstance(layer, InTurn):
        return False  # each use has a copy already
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
    counts = Counter(layer for _, _, layer in _calls(module, example))
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
        # Which layer torch.fx saw it in: torch.export would go by that, not by the copy.
        node.meta.pop("nn_module_stack", None)
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
