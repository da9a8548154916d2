"""INT8 for eager mode: which layers of a module become integers, with which ranges; and the replay of that.

The module stays a module: its own Python calls the layers, of which those that torch has integer kernels for are
replaced. So all that runs in eager mode runs in int8 too: branches, dictionaries, models that cannot be traced.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fusion, parametrize

from optlang.interfaces import Edit, Refusal, Request
from optlang.runtimes.shared.torch_module import refuse_techniques
from optlang.runtimes.torch import int8_layers, split_attention
from optlang.runtimes.torch.layer_calls import Calls, LayerCalls
from optlang.runtimes.torch.observers import observer
from optlang.workload import failures
from optlang.workload.data.dataset import Dataset
from optlang.workload.export import torch_export, tracing
from optlang.workload.model.layers import replaced
from optlang.workload.model.quantized_share import Weight

REPLAY = "optlang.runtimes.torch.eager_int8:replay"
_SEED, _BATCH = 0, 32
# A kernel rounds in other places than the float layer does that stands in for it here.
_ROUNDED = 0.05
_ATEN = torch.ops.aten
_RELU = (_ATEN.relu.default, _ATEN.relu_.default)
_LINEAR = "eager quantizes linear and recurrent layers alone as values come; static takes convolutions too"
_WAY_OUT = (
    "eager has int8 for convolutions, linear layers, nn.MultiheadAttention and embedding tables, LSTM and GRU in "
    "dynamic; name in `only` what is all that you want"
)


@dataclass(slots=True)
class _Chosen:
    """A layer that becomes int8: its name, the class that it becomes, and the settings of that."""

    name: str
    kind: str
    settings: dict[str, bool] = field(default_factory=dict)


@dataclass(slots=True)
class _Plan:
    """What is done to a module, in this order: attention split, norms folded, layers replaced, integers shared."""

    split: list[str] = field(default_factory=list)
    folded: list[tuple[str, str]] = field(default_factory=list)
    layers: list[_Chosen] = field(default_factory=list)
    shared: dict[str, str] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {
            "split": self.split, "norms": [norm for _, norm in self.folded],
            "biased": [layer for layer, _ in self.folded], "shared": self.shared,
            "layers": [[item.name, item.kind, item.settings] for item in self.layers],
        }


def refuse_unknown(requests: Sequence[Request]) -> None:
    """`Refusal` for other techniques than static, dynamic and qat, and for settings that are not carried out here."""
    refuse_techniques("eager", requests, ("static", "dynamic", "qat"))
    for request in requests:
        settings = request.settings
        if settings.get("operators") == "all":
            raise Refusal("torch has no int8 kernels for convolutions with dynamic ranges", help=_LINEAR)
        if settings.get("bias_correction"):
            raise Refusal("eager's int8 does not correct biases: set bias_correction = false")
        if request.technique != "dynamic" and platform.machine().lower() not in ("x86_64", "amd64"):
            raise Refusal(
                f"eager's int8 with ranges is for x86 processors, and this is {platform.machine()}",
                help=f"dynamic runs here, and so does {request.technique} with the runtime onnxruntime",
            )


def quantized(
    module: nn.Module, example: Mapping[str, Tensor], request: Request, data: Dataset
) -> tuple[nn.Module, Edit, dict[str, Any]]:
    """A copy of `module` in int8, the edit that makes its structure, and what became of its weights.

    Norms are folded into convolutions, ReLU and integers are computed by one kernel, attention is split into linear
    layers; that the float model still answers the same is proved, and so is each kernel against its float layer with
    rounded numbers. A layer that has no kernel stays in float: one with hooks, of a forward of its own, one whose
    weight other code uses. So do layers that share a weight with such a one. Raises `Refusal` where no layer is left or
    most weights stay in float.
    """
    settings: Mapping[str, Any] = request.settings
    static = request.technique != "dynamic"
    work, plan = _prepared(module, example, settings, static)
    seen = LayerCalls(work, example)
    chosen = _chosen(work, plan, seen, settings, static, module)
    ranges = _ranges(work, chosen, seen, settings, example, data) if static else {}
    done = _converted(work, chosen, seen, ranges, plan, settings)
    found = list(_weights(module, done, plan))
    left = not static and any(item.kind == "convolution" and not item.quantized for item in found)
    about = torch_export.mostly(
        found, module, settings, "int8", _LINEAR if left else _WAY_OUT, ("recurrent" if static else "convolution",)
    )
    return done, Edit(REPLAY, plan.arguments()), about


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """The same structure made of a fresh `module`, in place; its numbers are to be loaded."""
    _plain(module)
    for name in arguments["split"]:
        module = replaced(module, name, split_attention.SplitAttention(_attention(module, name)))
    for name in arguments["biased"]:
        layer: Any = module.get_submodule(name)
        layer.bias = layer.bias if layer.bias is not None else nn.Parameter(torch.zeros(_outputs(layer)))
    for name in arguments["norms"]:
        module = replaced(module, name, _without_norm(module.get_submodule(name)))
    for name, kind, settings in arguments["layers"]:
        module = replaced(module, name, getattr(int8_layers, kind)(module.get_submodule(name), **settings))
    _share(module, arguments["shared"])
    return module


# ---- the float model, made ready


def _prepared(
    module: nn.Module, example: Mapping[str, Tensor], settings: Mapping[str, Any], static: bool
) -> tuple[nn.Module, _Plan]:
    """A copy with attention split and norms folded where that changes no answer, and that as a plan."""
    wanted = tracing.answers_of(module, example)
    last: Exception | None = None
    for fold, split in ((True, True), (False, True), (False, False)):
        work, plan = _plain(copy.deepcopy(module)), _Plan()
        seen = LayerCalls(work, example)
        if split:
            plan.split = [
                name for name, layer in work.named_modules()
                if split_attention.splits(layer) and _batched(seen.calls.get(name))
                and torch_export.chosen_layer(name, module, settings)
            ]
        if fold:
            plan.folded = _norms(work, seen, module, settings, static)
        with torch.no_grad():
            for name in plan.split:
                work = replaced(work, name, split_attention.SplitAttention(_attention(work, name)))
            for name, norm in plan.folded:
                work = _folded(work, name, norm)
        try:
            tracing.agree(wanted, list(tracing.answers_of(work, example).values()), "the model", _ROUNDED / 50)
            return work, plan
        except (Refusal, *failures.FAILURES) as error:
            last = error
    raise last or AssertionError


def _plain(module: nn.Module) -> nn.Module:
    """With plain weights in the place of those that are computed."""
    for layer in module.modules():
        if parametrize.is_parametrized(layer):
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    return module


def _attention(module: nn.Module, name: str) -> nn.MultiheadAttention:
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.MultiheadAttention)
    return layer


def _batched(calls: Calls | None) -> bool:
    """Whether an attention was called with samples in batches, and not with nested tensors."""
    if calls is None:
        return False
    values = [*calls.given[:3], *(calls.named.get(name) for name in ("query", "key", "value"))]
    return all(item.ndim == 3 and not item.is_nested for item in values if isinstance(item, Tensor))


def _norms(
    work: nn.Module, seen: LayerCalls, module: nn.Module, settings: Mapping[str, Any], static: bool
) -> list[tuple[str, str]]:
    """The layers to quantize whose answer goes to a BatchNorm and nowhere else, each with that norm."""
    owners = _owners(work)
    found = []
    for name, layer in work.named_modules():
        calls = seen.calls.get(name)
        kinds = ("Int8Linear", *_CONVOLUTIONS) if static else ("Int8Linear",)
        if _kind(layer) not in kinds or calls is None or calls.count != 1:
            continue
        use = seen.only_use(calls.answer)
        if use is None or use[1] == name or not torch_export.chosen_layer(name, module, settings):
            continue
        norm, norm_calls = work.get_submodule(use[1]), seen.calls.get(use[1])
        shared = any(len(owners[id(item)]) > 1 for item in layer.parameters(recurse=False))
        open_to = _norm(norm) and not _hooked(norm) and norm_calls is not None and norm_calls.count == 1
        if open_to and not shared and name not in seen.outside and use[1] not in seen.outside:
            found.append((name, use[1]))
    return found


def _norm(layer: nn.Module) -> bool:
    """Whether it is a BatchNorm with fixed statistics, or timm's with an activation after it."""
    if not isinstance(layer, nn.modules.batchnorm._BatchNorm) or layer.running_mean is None:
        return False
    own = type(layer).forward is nn.modules.batchnorm._BatchNorm.forward
    return own or (type(layer).__name__ == "BatchNormAct2d" and hasattr(layer, "act") and hasattr(layer, "drop"))


def _without_norm(layer: nn.Module) -> nn.Module:
    """What is left of a norm that was folded."""
    return nn.Sequential(layer.drop, layer.act) if hasattr(layer, "act") and hasattr(layer, "drop") else nn.Identity()  # type: ignore[arg-type]


def _folded(work: nn.Module, name: str, norm_name: str) -> nn.Module:
    layer, norm = work.get_submodule(name), work.get_submodule(norm_name)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    if isinstance(layer, nn.Linear):
        new: nn.Module = fusion.fuse_linear_bn_eval(layer, norm)
    else:
        assert isinstance(layer, nn.modules.conv._ConvNd)
        new = fusion.fuse_conv_bn_eval(layer, norm, transpose=layer.transposed)
    return replaced(replaced(work, name, new), norm_name, _without_norm(norm))


# ---- which layers


_KINDS: Mapping[Any, str] = {
    nn.Linear: "Int8Linear", nn.Conv1d: "Int8Convolution", nn.Conv2d: "Int8Convolution",
    nn.Conv3d: "Int8Convolution", nn.ConvTranspose1d: "Int8TransposedConvolution",
    nn.ConvTranspose2d: "Int8TransposedConvolution", nn.ConvTranspose3d: "Int8TransposedConvolution",
    nn.Embedding: "Int8Embedding", nn.EmbeddingBag: "Int8EmbeddingBag", nn.LSTM: "Int8Recurrent",
    nn.GRU: "Int8Recurrent",
}
_CONVOLUTIONS = ("Int8Convolution", "Int8TransposedConvolution")
_TABLES = ("Int8Embedding", "Int8EmbeddingBag")


def _kind(layer: nn.Module) -> str | None:
    """The class that a layer becomes; None where it has a forward of its own, or settings that no kernel has."""
    kind = next((kind for base, kind in _KINDS.items() if type(layer).forward is base.forward), None)
    if kind is None and f"{type(layer).__module__}.{type(layer).__name__}" == "transformers.pytorch_utils.Conv1D":
        return "Int8TransposedLinear"
    known: Any = layer
    if kind in _CONVOLUTIONS and (known.padding_mode != "zeros" or int8_layers.around(layer) is None):
        return None
    if kind in _TABLES and (known.max_norm is not None or (kind == _TABLES[1] and known.padding_idx is not None)):
        return None
    if kind == "Int8Recurrent" and known.proj_size:
        return None
    return kind


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _owners(module: nn.Module) -> dict[int, list[str]]:
    """The layers that hold each parameter, by its id."""
    owners: dict[int, list[str]] = {}
    for name, layer in module.named_modules():
        for item in layer.parameters(recurse=False):
            owners.setdefault(id(item), []).append(name)
    return owners


def _chosen(
    work: nn.Module, plan: _Plan, seen: LayerCalls, settings: Mapping[str, Any], static: bool, module: nn.Module
) -> list[_Chosen]:
    channels = settings.get("granularity", "auto") != "tensor"
    found: dict[str, _Chosen] = {}
    for name, layer in work.named_modules():
        kind, calls = _kind(layer), seen.calls.get(name)
        if kind in _TABLES and calls is None:
            # Another name for a table that is called: one that shares its weight with it.
            calls = Calls(given=(torch.zeros(1, 1, dtype=torch.long),))
        if kind is None or calls is None or name in seen.outside or _hooked(layer):
            continue
        if static if kind == "Int8Recurrent" else kind in _CONVOLUTIONS and not static:
            continue
        if not _takes(kind, layer, calls) or not torch_export.chosen_layer(_original(name, plan), module, settings):
            continue
        own = static and kind not in _TABLES
        found[name] = _Chosen(name, kind, {"channels": channels, "static": own, "relu": _relu(seen, calls, kind)})
    while closed := _half_shared(work, found):
        for name in closed:
            del found[name]
    return list(found.values())


def _half_shared(work: nn.Module, found: Mapping[str, _Chosen]) -> list[str]:
    """Chosen layers that share a weight with one that is not, or that holds it in another order."""
    closed = []
    for names in _owners(work).values():
        inside = [name for name in names if name in found]
        turned = {found[name].kind == "Int8TransposedLinear" for name in inside}
        if inside and (len(inside) < len(names) or len(turned) > 1):
            closed += inside
    return closed


def _original(name: str, plan: _Plan) -> str:
    """The layer of the user's model that a layer of split attention comes from."""
    parent, _, own = name.rpartition(".")
    return parent if parent in plan.split and own in ("query", "key", "value") else name


def _takes(kind: str, layer: nn.Module, calls: Calls) -> bool:
    """Whether the layer was called as its int8 form can be: with floats of 32 bits, in batches, by position."""
    given: Any = calls.given[0] if calls.given else calls.named.get("input")
    if not isinstance(given, Tensor):
        return False
    if kind in _TABLES:
        return not given.is_floating_point()
    if kind == "Int8Recurrent":
        return given.ndim == 3 and given.dtype is torch.float32
    axes = int(getattr(layer, "weight").ndim) if kind in _CONVOLUTIONS else 2  # noqa: B009 - its type is not known
    alone = len(calls.given) == 1 and not calls.named
    return given.dtype is torch.float32 and alone and (given.ndim == axes or (axes == 2 and given.ndim > 1))


def _relu(seen: LayerCalls, calls: Calls, kind: str) -> bool:
    """Whether the only thing that is done with its answer is a ReLU: another one behind it changes nothing more."""
    if kind not in ("Int8Linear", "Int8TransposedLinear", "Int8Convolution") or calls.count != 1:
        return False
    use = seen.only_use(calls.answer)
    return use is not None and use[0] in _RELU


# ---- ranges


def _ranges(
    work: nn.Module, chosen: Sequence[_Chosen], seen: LayerCalls, settings: Mapping[str, Any],
    example: Mapping[str, Tensor], data: Dataset,
) -> dict[str, tuple[float, int, float, int]]:
    """Scale and zero point of what each layer takes and gives, over the calibration samples; those that were learned
    in training (`learned`, by layer) stay."""
    from optlang.runtimes.shared import pt2e

    observers: dict[str, tuple[Any, Any]] = {}
    learned: Mapping[str, Sequence[float]] = settings.get("learned", {})
    hooks = []

    def watch(taken: Any, answered: Any, relu: bool) -> Any:
        def look(_: nn.Module, given: tuple[Any, ...], answer: Tensor) -> None:
            if taken is not None:
                taken(given[0])
            if answered is not None:
                answered(answer.relu() if relu else answer)

        return look

    for item in chosen:
        if item.settings["static"]:
            answered = observer(settings) if item.kind in _CONVOLUTIONS else None
            low_high = learned.get(item.name)
            taken = observer(settings) if low_high is None else _of_range(low_high)
            observers[item.name] = (taken, answered)
            look = watch(None if low_high is not None else taken, answered, item.settings["relu"])
            hooks.append(work.get_submodule(item.name).register_forward_hook(look))
    rows = {name: torch.cat([value] * _BATCH)[:_BATCH] for name, value in example.items()}
    try:
        with torch.no_grad():
            for arrays in pt2e.calibration(rows, data, int(settings["samples"])):
                given = {name: torch.from_numpy(value) for name, value in zip(rows, arrays, strict=True)}
                tracing.answers_of(work, given)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (*_numbers(taken), *_numbers(answered)) for name, (taken, answered) in observers.items()}


def _of_range(ends: Sequence[float]) -> Any:
    """An observer that has seen just this range."""
    known = observer({"calibrator": "minmax"})
    known(torch.tensor(ends, dtype=torch.float32))
    return known


def _numbers(looked: Any) -> tuple[float, int]:
    if looked is None:
        return 1.0, 0
    scale, zero = looked.calculate_qparams()
    return float(scale), int(zero)


# ---- the layers


def _converted(
    work: nn.Module, chosen: Sequence[_Chosen], seen: LayerCalls, ranges: Mapping[str, tuple[float, int, float, int]],
    plan: _Plan, settings: Mapping[str, Any],
) -> nn.Module:
    """`work` with the chosen layers in int8; those whose kernel does not run, or answers otherwise, stay in float."""
    owners = _owners(work)
    made: dict[str, tuple[_Chosen, Any]] = {}
    with torch.no_grad():
        for item in chosen:
            old = work.get_submodule(item.name)
            new = getattr(int8_layers, item.kind)(old, **item.settings)
            new.fill(old)
            if item.settings["static"]:
                new.ranges.copy_(torch.tensor(ranges[item.name]))
            if item.name not in seen.calls or _same(old, new, seen.calls[item.name]):
                made[item.name] = (item, new)
        while closed := _half_shared(work, {name: item for name, (item, _) in made.items()}):
            for name in closed:
                del made[name]
    for names in owners.values():
        together = [name for name in names if name in made and hasattr(made[name][1], "integers")]
        for name in together[1:]:
            # A bias that is shared too is small.
            if made[name][1].integers.shape == made[together[0]][1].integers.shape:
                plan.shared[name] = together[0]
    for name, (item, new) in made.items():
        plan.layers.append(item)
        work = replaced(work, name, new)
    _share(work, plan.shared)
    return work


def _share(module: nn.Module, shared: Mapping[str, str]) -> None:
    """Let layers have the integers and scales of another one."""
    for name, other in shared.items():
        layer, first = module.get_submodule(name), module.get_submodule(other)
        layer.integers, layer.scales = first.integers, first.scales


def _same(old: nn.Module, new: Any, calls: Calls) -> bool:
    """Whether the int8 kernel gives what the float layer gives with rounded numbers, to the arguments of a call."""
    known = copy.deepcopy(old)
    rounded = new.dequantized()
    for name, value in rounded.items() if isinstance(rounded, Mapping) else [("weight", rounded)]:
        getattr(known, name).copy_(value.t() if isinstance(new, int8_layers.Int8TransposedLinear) else value)
    given = calls.given
    ranges = getattr(new, "ranges", None)
    if ranges is not None:
        scale, zero, answer_scale, answer_zero = ranges.tolist()
        given = (torch.fake_quantize_per_tensor_affine(given[0], scale, int(zero), 0, 255), *given[1:])
    ready = copy.deepcopy(new)
    try:
        int8_layers.ready(ready)
        found = _flat(ready(*calls.given, **calls.named))
    except failures.FAILURES as error:
        if failures.exhausted(error):
            raise
        return False
    right = _flat(known(*given, **calls.named))
    if getattr(new, "relu", False):
        right = [item.relu() for item in right]
    if ranges is not None and isinstance(new, int8_layers.Int8Convolution):
        right = [
            torch.fake_quantize_per_tensor_affine(item, answer_scale, int(answer_zero), 0, 255) for item in right
        ]
    return all(
        one.shape == other.shape and bool((one - other).abs().max() <= _ROUNDED * other.abs().max().clamp_min(1e-6))
        for one, other in zip(found, right, strict=True) if one.numel()
    )


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [found for item in value for found in _flat(item)]


def _outputs(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


# ---- what became of the weights


def _weights(module: nn.Module, done: nn.Module, plan: _Plan) -> Iterator[Weight]:
    """The weights of the user's model, each tensor once, and whether they are integers now."""
    small = {item.name for item in plan.layers}
    known: set[int] = set()
    for name, layer in module.named_modules():
        for own, item in layer.named_parameters(recurse=False):
            if item.ndim < 2 or id(item) in known:
                continue
            known.add(id(item))
            inside = name.partition(".parametrizations.")[0]
            quantized = inside in small
            if inside in plan.split:
                parts = {"q_proj_weight": ("query",), "k_proj_weight": ("key",), "v_proj_weight": ("value",)}
                quantized = all(f"{name}.{part}" in small for part in parts.get(own, ("query", "key", "value")))
            yield Weight(inside or own, _kind_of(layer), item.numel(), quantized)


def _kind_of(layer: nn.Module) -> str:
    kinds = (
        (nn.Linear, "linear"), (nn.modules.conv._ConvNd, "convolution"), (nn.RNNBase, "recurrent"),
        (nn.Embedding, "embedding table"), (nn.EmbeddingBag, "embedding table"),
        (nn.MultiheadAttention, "attention"),
    )
    return next((word for base, word in kinds if isinstance(layer, base)), type(layer).__name__)
