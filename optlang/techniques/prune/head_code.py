"""Changes the number of heads in the code of a forward, where that has it as a number or computes it from a width.

`x.reshape(batch, length, width)` cannot be answered by fewer heads, and no attribute says so. torch.fx writes down what
the code does; which of the sizes in it belong to heads is found by running it with other weights for one head after
another.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from optlang.interfaces import JSON
from optlang.techniques.prune.head_trace import along_axes, part_of
from optlang.techniques.shared.symmetry import answers
from optlang.workload.failures import attempt
from optlang.workload.model.call import in_mode

if TYPE_CHECKING:
    from optlang.techniques.prune.head_sites import Site

# What changes with a head's weights by less than this, of the largest number, is rounding.
_CHANGED = 1e-6
# Calls that name sizes of their result, each with the position of the first of those.
_SHAPING = {"view": 1, "reshape": 1, "expand": 1}
_SPLITTING = ("split", "split_with_sizes")


@dataclass(frozen=True, slots=True)
class Size:
    """A size in the code: of the node's arguments the one at `path`; `old` numbers, of which each group has its own.

    `axes` is how many sizes there are where all of them are one argument (`x.reshape(y.shape)`), else 0.
    """

    node: str
    path: tuple[int, ...]
    old: int
    groups: tuple[int, ...]
    axes: int = 0


@dataclass(frozen=True, slots=True)
class Code:
    """The code of one module's forward, with that of the modules `inside` it, and its sizes that belong to heads."""

    module: str
    inside: tuple[str, ...]
    fixed: Mapping[str, JSON]
    sizes: tuple[Size, ...]

    def edit(self, gone: Sequence[int]) -> JSON:
        """What `rewrite` takes to remove these groups."""
        sizes: list[JSON] = []
        for size in self.sizes:
            new = size.old - sum(size.groups[group] for group in gone)
            sizes.append([size.node, list(size.path), size.axes, size.old, new])
        return {"module": self.module, "inside": list(self.inside), "fixed": dict(self.fixed), "sizes": sizes}


class _Tracer(fx.Tracer):
    """Looks into the modules that it is given and no others."""

    proxy_buffer_attributes = True

    def __init__(self, inside: Sequence[str]) -> None:
        super().__init__()
        self._inside = set(inside)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """See `fx.Tracer`."""
        return module_qualified_name not in self._inside


def coded(module: nn.Module, site: Site, example: Mapping[str, Tensor]) -> Code:
    """The code that computes a site's attention; raises what torch.fx and the code raise where it cannot be followed.

    The module is as it was afterwards.
    """
    if len(site.layers) > 1:
        raise ValueError("several layers have one table or weight")
    name = min(site.modules, key=lambda item: item.count(".") if item else -1)
    layer = module.get_submodule(name)
    start = len(name) + 1 if name else 0
    # torch's own layers stay layers, which other techniques know.
    inside = tuple(
        item[start:] for item in site.modules
        if item != name and not type(module.get_submodule(item)).__module__.startswith("torch.nn.")
    )
    args, given = _inputs(module, layer, example)
    bound = inspect.signature(layer.forward).bind(*args, **given)
    bound.apply_defaults()
    fixed: dict[str, JSON] = {
        key: value for key, value in bound.arguments.items() if value is None or isinstance(value, bool | int)
    }
    sized: dict[str, JSON] = {
        key: list(value) for key, value in bound.arguments.items()
        if isinstance(value, tuple | list) and value and all(type(item) is int for item in value)
    }
    graph = attempt(lambda: _graph(layer, inside, fixed))
    if isinstance(graph, Exception):  # code that takes a size apart
        fixed |= sized
        graph = _graph(layer, inside, fixed)
    values = [value for key, value in bound.arguments.items() if key in _moving(type(layer), fixed)]
    whole = _Recorder(layer, graph).recorded(values)
    changed = []
    for group in range(len(site.groups)):
        undo = _shaken(module, site, group)
        changed.append(_Recorder(layer, graph).recorded(values))
        undo()
    sizes = [size for node in graph.nodes for size in _sizes(node, whole, changed)]
    return Code(name, inside, fixed, tuple(sizes))


def rewrite(module: nn.Module, edit: Mapping[str, Any]) -> Callable[[], None]:
    """Give a module of `module` the code with other sizes, as `Code.edit` says; what is returned undoes it."""
    layer = module.get_submodule(edit["module"])
    before = type(layer)
    runs = []
    for mode in (False, True):
        with in_mode(layer, mode):
            graph = _graph(layer, edit["inside"], edit["fixed"])
        known = {node.name: node for node in graph.nodes}
        for name, path, axes, old, new in edit["sizes"]:
            if name not in known:
                raise ValueError(f"the code has no {name} any more")
            _resize(graph, known[name], path, axes, old, new)
        graph.lint()
        made = fx.GraphModule(layer, graph)
        runs.append((made.code, type(made).forward))
    layer.__class__ = _of(before, runs, edit["fixed"])

    def undone() -> None:
        layer.__class__ = before

    return undone


def _of(before: type[nn.Module], runs: Sequence[tuple[str, Any]], fixed: Mapping[str, Any]) -> type[nn.Module]:
    """A class that computes what the code says, in evaluation and in training, with the arguments that there were.

    Arguments that the code was written down without (a mask that is None) raise ValueError.
    """
    (code, evaluated), (other, trained) = runs
    forward = evaluated
    if fixed or code != other:
        names = _moving(before, fixed)
        checks = [f"if {_unlike(key, value)}: refuse({key!r})" for key, value in fixed.items()]
        forward = _written(before, [
            *checks, "run = trained if self.training else evaluated", f"return run(self, {', '.join(names)})",
        ], {"trained": trained, "evaluated": evaluated, "refuse": _refuse})
    return type(before.__name__, (before,), {"forward": forward, "__module__": before.__module__})


def _unlike(name: str, value: Any) -> str:
    """The condition that an argument is another one."""
    if value is None or isinstance(value, bool):
        return f"{name} is not {value}"
    return f"tuple({name}) != {tuple(value)}" if isinstance(value, list) else f"{name} != {value}"


def _refuse(name: str) -> None:
    raise ValueError(f"{name} was another when heads were removed, and the code was written down for that")


def _moving(kind: type[nn.Module], fixed: Mapping[str, Any]) -> list[str]:
    """The arguments of a forward that are no constants."""
    parameters = list(inspect.signature(kind.forward).parameters.values())[1:]
    return [
        item.name for item in parameters
        if item.name not in fixed and item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)
    ]


def _written(kind: type[nn.Module], lines: Sequence[str], names: Mapping[str, Any], only: Sequence[str] = ()) -> Any:
    """A function of these lines with the arguments of the kind's forward, or `only` some of them."""
    space = dict(names)
    arguments = ["self"]
    for item in list(inspect.signature(kind.forward).parameters.values())[1:]:
        if only and item.name not in only:
            continue
        star = "*" if item.kind is item.VAR_POSITIONAL else "**" if item.kind is item.VAR_KEYWORD else ""
        default = ""
        if item.default is not item.empty and not only:
            space[f"default_of_{item.name}"] = item.default
            default = f"=default_of_{item.name}"
        arguments.append(f"{star}{item.name}{default}")
    source = f"def forward({', '.join(arguments)}):\n" + "".join(f"    {line}\n" for line in lines)
    exec(source, space)  # noqa: S102 - names of arguments and constants, and nothing else
    return space["forward"]


def _graph(layer: nn.Module, inside: Sequence[str], fixed: Mapping[str, Any]) -> fx.Graph:
    """What the layer's forward does where some of its arguments are fixed."""
    before = type(layer)
    if fixed:
        moving = _moving(before, fixed)
        given = ", ".join(f"{name}={name}" for name in moving)
        constants = (f"{key}={tuple(value) if isinstance(value, list) else value!r}" for key, value in fixed.items())
        given = ", ".join([*([given] if given else []), *constants])
        forward = _written(before, [f"return whole(self, {given})"], {"whole": before.forward}, moving)
        layer.__class__ = type(before.__name__, (before,), {"forward": forward, "__module__": before.__module__})
    try:
        graph = _Tracer(inside).trace(layer)
    finally:
        layer.__class__ = before
    if any(node.op == "get_attr" and str(node.target).startswith("_tensor_constant") for node in graph.nodes):
        raise ValueError("its code makes tensors of numbers")
    return graph


def _inputs(
    module: nn.Module, layer: nn.Module, example: Mapping[str, Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the layer is called with, once."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def see(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        calls.append((args, given))

    hook = layer.register_forward_pre_hook(see, with_kwargs=True)
    try:
        answers(module, example)
    finally:
        hook.remove()
    if len(calls) != 1:
        raise ValueError(f"it is called {len(calls)} times")
    return calls[0]


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the tensors that its nodes give."""

    def __init__(self, layer: nn.Module, graph: fx.Graph) -> None:
        super().__init__(layer, graph=graph, garbage_collect_values=False)

    def recorded(self, values: Sequence[Any]) -> dict[str, Any]:
        with torch.no_grad():
            self.run(*values, enable_io_processing=False)
        return {node.name: value for node, value in self.env.items()}


def _shaken(module: nn.Module, site: Site, group: int) -> Callable[[], None]:
    """Other weights for a group of heads in front of attention, in place; what is returned undoes it."""
    undo = []
    generator = torch.Generator().manual_seed(0)
    own = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    for name, part in site.parts.items():
        if name in site.answers:
            continue
        data, saved = own[name].data, own[name].data.clone()
        chosen = data.movedim(part.axis, 0)
        at = site.indices(part, [group])
        chosen[at] += torch.rand(chosen[at].shape, generator=generator).to(data.dtype) + 0.5
        undo.append((data, saved))

    def undone() -> None:
        for data, saved in undo:
            data.copy_(saved)

    return undone


def _sizes(node: fx.Node, whole: Mapping[str, Any], changed: Sequence[Mapping[str, Any]]) -> list[Size]:
    """The sizes among a node's arguments that belong to heads."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op not in ("call_method", "call_function") or name not in (*_SHAPING, *_SPLITTING):
        return []
    value, others = whole[node.name], [item[node.name] for item in changed]
    args: Sequence[Any] = node.args
    if name in _SPLITTING:
        return _split_sizes(node, args, value, others)
    axis, counts = _heads(value, others)
    if axis is None:
        return []
    first = _SHAPING[name]
    if len(args) <= first:
        raise ValueError(f"{node.name} names its sizes by keyword")
    given = args[first]
    if isinstance(given, fx.Node) and isinstance(whole[given.name], tuple):
        shape = tuple(whole[given.name])
        if shape[axis] == -1 or _follows(given, axis, whole, changed):
            return []
        return [Size(node.name, (first, axis), shape[axis], counts, len(shape))]
    path: tuple[int, ...] = (first, axis) if isinstance(given, tuple | list) else (first + axis,)
    given = _at(args, path)
    if isinstance(given, fx.Node):
        if _follows(given, axis, whole, changed):
            return []
        given = whole[given.name]
    return [] if given == -1 else [Size(node.name, path, int(given), counts)]


def _split_sizes(node: fx.Node, args: Sequence[Any], pieces: Any, changed: Sequence[Any]) -> list[Size]:
    if len(args) < 2:
        raise ValueError(f"{node.name} names its sizes by keyword")
    found = []
    dim: Any = args[2] if len(args) > 2 else node.kwargs.get("dim", 0)
    several = isinstance(args[1], tuple | list)
    for index, piece in enumerate(pieces):
        axis, counts = _heads(piece, [item[index] for item in changed])
        if axis is not None and axis == int(dim) % piece.ndim:
            found.append(Size(node.name, (1, index) if several else (1,), piece.shape[axis], counts))
    return found if several else found[:1]


def _follows(node: fx.Node, axis: int, whole: Mapping[str, Any], changed: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a size is that of heads already: of a tensor that has as many as there are, along the same axis."""
    value = whole[node.name]
    if isinstance(value, Tensor):
        return bool(_heads(value, [item[node.name] for item in changed])[0] == axis % value.ndim)
    last: Any = node.args[-1] if len(node.args) > 1 else None
    if node.target in (operator.getitem, "size") and isinstance(last, int):
        axis = last
    return any(_follows(item, axis, whole, changed) for item in node.all_input_nodes)


def _heads(whole: Any, changed: Sequence[Any]) -> tuple[int | None, tuple[int, ...]]:
    """The axis along which a tensor belongs to heads, and how much of it each group has."""
    if not isinstance(whole, Tensor) or not whole.is_floating_point() or not whole.ndim:
        return None, ()
    least = _CHANGED * float(whole.abs().nan_to_num(0.0, 0.0, 0.0).max()) if whole.numel() else 0.0
    found = part_of([along_axes((item - whole).abs().nan_to_num(0.0) > least) for item in changed])
    if not found or isinstance(found, bool):
        return None, ()
    return found.axis, tuple(len(indices) for indices in found.indices)


def _at(args: Any, path: Sequence[int]) -> Any:
    for index in path:
        args = args[index]
    return args


def _resize(graph: fx.Graph, node: fx.Node, path: Sequence[int], axes: int, old: int, new: int) -> None:
    if axes:
        shape = node.args[path[0]]
        with graph.inserting_before(node):
            each = tuple(graph.call_function(operator.getitem, (shape, axis)) for axis in range(axes))
        node.args = tuple(each if at == path[0] else item for at, item in enumerate(node.args))
    given = _at(node.args, path)
    size: Any = new
    if isinstance(given, fx.Node):
        # Computed from what comes in, and it may be the batch that it is computed from.
        with graph.inserting_before(node):
            more = graph.call_function(operator.mul, (given, new))
            size = graph.call_function(operator.floordiv, (more, old))

    def replaced(args: Any, rest: Sequence[int]) -> Any:
        if not rest:
            return size
        return tuple(replaced(item, rest[1:]) if at == rest[0] else item for at, item in enumerate(args))

    node.args = replaced(node.args, path)
