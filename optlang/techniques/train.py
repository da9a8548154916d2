"""Training and fine-tuning of a module on the user's data. Knows nothing of pruning, quantization or measuring."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from optlang.forms import Context, Refusal, Subject

if TYPE_CHECKING:
    import torch
    from torch import nn

    from optlang.workload.data import Data

# One cycle (Smith and Topin, 2018) rises for this share of the steps, from the peak divided by the first number, and
# ends at the peak divided by the second; the numbers are those of torch's OneCycleLR.
_RISE = 0.3
_START = 25.0
_END = 25e4


def train(subject: Subject, settings: Mapping[str, Any], context: Context) -> Subject:
    """Train the module from where it stands; see `trained`."""
    return trained(subject, settings, context)


def finetune(subject: Subject, settings: Mapping[str, Any], context: Context) -> Subject:
    """A short training at a small learning rate, after pruning; see `trained`."""
    return trained(subject, settings, context)


def rate(schedule: str, progress: float) -> float:
    """The learning rate as a share of its peak, at `progress` (0 to 1) through the training."""

    def fall(high: float, low: float, share: float) -> float:
        return low + (high - low) * (1 + math.cos(math.pi * share)) / 2

    if schedule == "cosine":
        return fall(1.0, 0.0, progress)
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "one_cycle":
        if progress < _RISE:
            return fall(1 / _START, 1.0, progress / _RISE)
        return fall(1.0, 1 / _END, (progress - _RISE) / (1 - _RISE))
    return 1.0


def trained(subject: Subject, settings: Mapping[str, Any], context: Context) -> Subject:
    """A copy of the module, trained on 'train' with the task's loss; the same seed gives the same weights on a CPU.

    Weight decay spares biases and the parameters of norms, as is usual. Raises `Refusal` where the model has nothing to
    train, where a loss is not finite, or where no weight has changed.
    """
    import torch

    from optlang.workload.seeds import seeded

    if subject.form != "module":
        raise Refusal(f"only a module can be trained, and the model is in the form {subject.form}")
    module: nn.Module = copy.deepcopy(subject.model).to(context.device)
    before = [parameter.detach().clone() for parameter in module.parameters() if parameter.requires_grad]
    if not before:
        raise Refusal("the model has no parameters to train: all of them are frozen, or there are none")
    data = context.data.bind(module)
    module.train()
    with seeded(context.seed), torch.enable_grad():
        _epochs(module, data, settings, context)
    after = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if all(torch.equal(old, new) for old, new in zip(before, after, strict=True)):
        raise Refusal("the training changed no weight: the loss does not depend on any parameter that is not frozen")
    if not all(bool(torch.isfinite(parameter).all()) for parameter in after):
        raise Refusal(f"the training ended with weights that are not finite; lr {settings['lr']:g} may be too high")
    module.zero_grad(set_to_none=True)
    return Subject("module", module.cpu().eval(), subject.factory, subject.edits, subject.notes)


def _epochs(module: nn.Module, data: Data, settings: Mapping[str, Any], context: Context) -> None:
    import torch

    from optlang.workload.modules import call
    from optlang.workload.objects import user_code
    from optlang.workload.tensors import mapped

    optimizer = _optimizer(module.parameters(), settings)
    epochs, batch, peak = int(settings["epochs"]), int(settings["batch"]), float(settings["lr"])
    half = settings.get("amp", "none") == "bfloat16"
    normalized = any(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in module.modules())
    size = data.size("train")
    for epoch in range(epochs):
        total = torch.zeros((), device=context.device)
        seen = 0
        # An order of its own for each epoch, the same wherever this epoch is run.
        for inputs, targets in data.batches("train", batch, seed=context.seed * 1009 + epoch, shuffle=True):
            count = len(next(iter(inputs.values())))
            if count == 1 and normalized and size > 1 and batch > 1:
                continue  # a last batch of one sample has no variance to normalize by
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(settings["schedule"], min(1.0, (epoch + seen / size) / epochs))
            inputs = {name: item.to(context.device) for name, item in inputs.items()}
            targets = mapped(targets, lambda item: item.to(context.device))
            with user_code("the model's forward", context.study), torch.autocast(
                torch.device(context.device).type, dtype=torch.bfloat16, enabled=half
            ):
                outputs = call(module, inputs)
            loss = data.task.loss({name: _float(item) for name, item in outputs.items()}, targets)
            optimizer.zero_grad(set_to_none=True)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            total += loss.detach() * count
            seen += count
        mean = float(total) / max(seen, 1)
        if not math.isfinite(mean):
            raise Refusal(
                f"the loss is {mean} in epoch {epoch + 1} of {epochs}",
                help=f"a smaller lr than {peak:g} may hold it; inputs with NaN or infinity would break it too",
            )
        context.report({"epoch": epoch + 1, "epochs": epochs, "loss": mean})


def _float(item: torch.Tensor) -> torch.Tensor:
    return item.float() if item.is_floating_point() else item


def _optimizer(parameters: Iterable[torch.Tensor], settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    import torch

    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [item for item in trainable if item.ndim > 1], "weight_decay": float(settings["weight_decay"])},
        {"params": [item for item in trainable if item.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings["optimizer"] == "sgd":
        momentum = settings.get("momentum")
        return torch.optim.SGD(groups, lr=float(settings["lr"]), momentum=0.9 if momentum is None else float(momentum))
    return torch.optim.AdamW(groups, lr=float(settings["lr"]))
