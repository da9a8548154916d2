"""The loop that trains: steps, learning rate, mixed precision, early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from optlang.interfaces import JSON, Context, Refusal
from optlang.techniques.cast.half import is_half
from optlang.techniques.training.averaging import Average, copied, filled
from optlang.techniques.training.module_state import ModuleState
from optlang.techniques.training.schedule import warmed

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from optlang.workload.data.dataset import Dataset
    from optlang.workload.data.tensors import Tensors

Loss: TypeAlias = "Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Tensors], Tensor]"
"""The loss of a batch from the module's outputs (float32, by name), its inputs (by name) and the targets."""


class Stateful(Protocol):
    """What changes in a training and is no part of the module."""

    def state(self) -> Mapping[str, Any]:
        """All that it needs to go on, in plain values and tensors."""

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Be as it was when `state` was taken."""


def fit(
    module: nn.Module, data: Dataset, loss_of: Loss, settings: Mapping[str, Any], context: Context, *,
    before_step: Callable[[float], None] | None = None, after_step: Callable[[], None] | None = None,
    also: Sequence[nn.Parameter] = (), others: Sequence[Stateful] = (),
) -> None:
    """Train `module` in place on 'train' of `data` (bound to it); the same seed gives the same weights on a CPU.

    Where the context pauses it and later goes on from there, they are the same weights too: `others` are what changes
    in the training next to the module.

    The module must lie on the context's device; it is left there, in eval mode. `before_step` gets the progress (0
    to 1) before each batch, and `after_step` is called after each step of the optimizer. `also` are parameters that the
    loss itself learns and that are no part of the module. Weight decay spares biases and the parameters of norms, as is
    usual. With `patience` the weights with the least loss of the task on 'validation' are kept (Prechelt, 1998), with
    `ema` the averaged ones are looked at and kept.

    Raises `Refusal` where the module has nothing to train or is in 16 bits, where a loss is not finite, or where no
    weight has changed.
    """
    import torch

    from optlang.workload.model.call import settled
    from optlang.workload.seeds import seeded

    if is_half(module):
        raise Refusal(
            "the model is in 16 bits, in which the small steps of a training are lost",
            help="train first and cast afterwards; amp calculates in 16 bits and keeps the weights in float32",
        )
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise Refusal(
            "the model has no parameters to train: all of them are frozen, or there are none", depends="model",
            help="thaw those that may change in the factory: `model.requires_grad_(True)`",
        )
    before = [parameter.detach().clone() for parameter in trainable]
    with seeded(context.seed), torch.enable_grad():
        module.train()
        parameters = [*trainable, *also]
        _Run(module, data, loss_of, settings, context, before_step, after_step, parameters, also, others).epochs()
    if all(torch.equal(old, new) for old, new in zip(before, trainable, strict=True)):
        raise Refusal("the training changed no weight: the loss does not depend on any parameter that is not frozen")
    if not all(bool(torch.isfinite(parameter).all()) for parameter in trainable):
        raise Refusal(f"the training ended with weights that are not finite; lr {settings['lr']:g} may be too high")
    module.zero_grad(set_to_none=True)
    settled(module.eval())


class _Run:
    """One training: its optimizer, and what is kept next to the weights."""

    def __init__(
        self, module: nn.Module, data: Dataset, loss_of: Loss, settings: Mapping[str, Any], context: Context,
        before_step: Callable[[float], None] | None, after_step: Callable[[], None] | None,
        parameters: Sequence[nn.Parameter], also: Sequence[nn.Parameter], others: Sequence[Stateful],
    ) -> None:
        import torch

        from optlang.workload.data.resident import resident
        from optlang.workload.model.parametrizations import undecayed

        self._module, self._data, self._loss_of = module, resident(data, context.device), loss_of
        self._settings, self._context = settings, context
        self._before_step, self._after_step = before_step, after_step
        self._parameters, self._also, self._others = parameters, also, others
        self._optimizer = _optimizer(parameters, settings, undecayed(module))
        self._device = torch.device(context.device)
        amp = settings["amp"]
        self._amp = None if amp == "none" else torch.float16 if amp == "float16" else torch.bfloat16
        # The small gradients of float16 would be zero; those of bfloat16 have the range of float32.
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=amp == "float16")
        self._average = Average(float(settings["ema"])) if settings["ema"] else None
        self._best: tuple[float, dict[str, torch.Tensor]] | None = None
        self._waited = 0
        self._done = 0
        self._state = ModuleState(module)

    def epochs(self) -> None:
        """Train for all epochs, or until patience is at its end; from the first, or the one after a pause."""
        epochs, patience = int(self._settings["epochs"]), int(self._settings["patience"])
        kept = self._context.resume(self._taken)
        if kept is not None:
            self._go_on(kept)
        for epoch in range(self._done, epochs):
            mean = self._epoch(epoch, epochs)
            if not math.isfinite(mean):
                raise Refusal(
                    f"the loss is {mean} in epoch {epoch + 1} of {epochs}",
                    help=f"a smaller lr than {self._settings['lr']:g} may hold it; inputs with NaN or infinity would "
                    "break it too",
                )
            ended: dict[str, JSON] = {"epoch": epoch + 1, "epochs": epochs, "loss": mean}
            if patience:
                best = None if self._best is None else self._best[0]
                held_out = self._held_out(epoch, epochs)
                ended |= {"metric": "loss", "value": held_out}
                self._waited = 0 if best is None or held_out < best else self._waited + 1
            if self._context.score is not None:
                with self._averaged():
                    ended["scores"] = dict(self._context.score(self._module))
            self._done = epoch + 1
            last = bool(patience) and self._waited >= patience
            self._context.report(ended | {"last": True} if last else ended)
            if last:
                break
        if self._best is not None:
            filled(self._module, self._best[1])
        elif self._average is not None:
            self._average.fill(self._module)

    def _taken(self) -> dict[str, Any]:
        """What the training needs to go on after this epoch; random numbers are the context's."""
        return {
            "epochs": self._done, "module": self._state.taken(), "also": [item.detach() for item in self._also],
            "optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict(),
            "average": None if self._average is None else self._average.kept,
            "best": None if self._best is None else list(self._best), "waited": self._waited,
            "others": [dict(item.state()) for item in self._others],
        }

    def _go_on(self, kept: Mapping[str, Any]) -> None:
        """Have everything as it was when `kept` was taken."""
        import torch

        self._done, self._waited = kept["epochs"], kept["waited"]
        self._state.put_back(kept["module"])
        with torch.no_grad():
            for parameter, item in zip(self._also, kept["also"], strict=True):
                parameter.copy_(item)
        self._optimizer.load_state_dict(kept["optimizer"])
        self._scaler.load_state_dict(kept["scaler"])
        if self._average is not None:
            self._average.go_on(self._moved(kept["average"]))
        if kept["best"] is not None:
            loss, weights = kept["best"]
            self._best = loss, self._moved(weights)
        for other, item in zip(self._others, kept["others"], strict=True):
            other.go_on(item)

    def _moved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: item.to(self._device) for name, item in tensors.items()}

    def _epoch(self, epoch: int, epochs: int) -> float:
        """One pass over the data; the mean loss of its samples."""
        import torch

        from optlang.workload.data.resident import to_device

        settings, data, device = self._settings, self._data, self._device
        batch, peak, warmup = int(settings["batch"]), float(settings["lr"]), float(settings["warmup"])
        normalized = any(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in self._module.modules())
        size = data.size("train")
        total = torch.zeros((), device=device)
        seen = 0
        # An order of its own for each epoch, the same wherever this epoch is run.
        for inputs, targets in data.batches("train", batch, seed=self._context.seed * 1009 + epoch, shuffle=True):
            count = len(next(iter(inputs.values())))
            if count == 1 and normalized and size > 1 and batch > 1:
                continue  # a last batch of one sample has no variance to normalize by
            start, end = (min(1.0, (epoch + part / size) / epochs) for part in (seen, seen + count))
            for group in self._optimizer.param_groups:
                group["lr"] = peak * warmed(settings["schedule"], warmup, start, end)
            if self._before_step is not None:
                self._before_step(start)
            inputs, targets = to_device(inputs, targets, self._context.device)
            loss = self._loss_of(self._outputs(inputs), inputs, targets)
            self._optimizer.zero_grad(set_to_none=True)
            if loss.requires_grad:
                self._step(loss)
            total += loss.detach() * count
            seen += count
        if not seen:
            raise Refusal(
                "every batch of 'train' is a single sample, and a batch normalization needs several",
                help="where samples differ in shape, return a DataLoader whose collate_fn pads a batch to its longest "
                "sample",
            )
        return float(total) / seen

    def _outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        import torch

        from optlang.workload.imports import user_code
        from optlang.workload.model.call import call

        with user_code("the model's forward", self._context.study), torch.autocast(
            self._device.type, dtype=self._amp, enabled=self._amp is not None
        ):
            outputs = call(self._module, inputs)
        return {name: item.float() if item.is_floating_point() else item for name, item in outputs.items()}

    def _step(self, loss: Tensor) -> None:
        import torch

        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self._settings["clip"]:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._parameters, float(self._settings["clip"]))
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._after_step is not None:
            self._after_step()
        if self._average is not None:
            self._average.update(self._module)

    def _held_out(self, epoch: int, epochs: int) -> float:
        """The loss on 'validation'; the weights are kept as the best ones where it is the least so far."""
        with self._averaged():
            loss = self._validation()
            if not math.isfinite(loss):
                raise Refusal(f"the loss on 'validation' is {loss} after epoch {epoch + 1} of {epochs}")
            if self._best is None or loss < self._best[0]:
                self._best = loss, copied(self._module)
        return loss

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The module with its averaged weights, where there are such."""
        if self._average is None:
            yield
            return
        current = copied(self._module)
        self._average.fill(self._module)
        try:
            yield
        finally:
            filled(self._module, current)

    def _validation(self) -> float:
        """The task's mean loss on 'validation'; without labels that of the training."""
        import torch

        from optlang.workload.data.resident import to_device

        modes = [(layer, layer.training) for layer in self._module.modules()]
        self._module.eval()
        total, seen = 0.0, 0
        labeled = self._data.labeled("validation")
        with torch.no_grad():
            for inputs, targets in self._data.batches("validation", int(self._settings["batch"])):
                inputs, targets = to_device(inputs, targets, self._context.device)
                outputs = self._outputs(inputs)
                count = len(next(iter(inputs.values())))
                loss = self._data.task.loss(outputs, targets) if labeled else self._loss_of(outputs, inputs, targets)
                total += float(loss) * count
                seen += count
        for layer, mode in modes:
            layer.training = mode
        return total / max(seen, 1)


def _optimizer(
    parameters: Sequence[nn.Parameter], settings: Mapping[str, Any], spared: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    import torch

    known = {id(item) for item in spared}
    decayed = [item for item in parameters if item.ndim > 1 and id(item) not in known]
    others = [item for item in parameters if item.ndim <= 1 or id(item) in known]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": float(settings["weight_decay"])},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    lr = float(settings["lr"])
    match settings["optimizer"]:
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=float(settings["momentum"]))
        case "adam":
            return torch.optim.Adam(groups, lr=lr)
        case _:
            return torch.optim.AdamW(groups, lr=lr)
