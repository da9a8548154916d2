"""Training and fine-tuning of a module on the user's data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context, ModelState, Refusal
from optlang.techniques.shared import masks
from optlang.techniques.shared.labels import require_labels
from optlang.techniques.training.trainer import Loss, fit

if TYPE_CHECKING:
    from torch import nn

    from optlang.workload.data.tasks import Task


def train(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """A copy of the module, trained on 'train' with the task's loss (see `fit.fit`); zeros that are meant stay zero.

    The declared defaults: AdamW's learning rate and weight decay are torch's, the cosine is timm's, SGD's momentum that
    of torchvision's reference training. Warm-up, averaging, smoothing and clipping are off: short trainings of small
    models rarely want them. Raises `Refusal` where there is no module, or where `fit` does.
    """
    from optlang.workload.model.call import settled

    if state.form != "module":
        raise Refusal(f"only a module can be trained, and the model is in the form {state.form}")
    require_labels("a training", context)
    loss_of = task_loss(context.data.task, float(settings["label_smoothing"]))
    module: nn.Module = copy.deepcopy(state.model).to(context.device)
    held = masks.ZeroMasks(module, masks.masked(state.notes))
    fit(module, context.data.bind(module), loss_of, settings, context, after_step=held.reapply)
    return ModelState("module", settled(module.cpu()), state.factory, state.edits, state.notes)


def task_loss(task: Task, smoothing: float) -> Loss:
    """The task's own loss; `smoothing` moves that share of each label to all classes (Szegedy et al., 2016).

    Raises `Refusal` where labels are to be smoothed and the task has none.
    """
    from optlang.workload.data.tasks import Classification

    if not smoothing:
        return lambda outputs, inputs, targets: task.loss(outputs, targets)
    if not isinstance(task, Classification):
        raise Refusal(
            f"label_smoothing is for labels, and the task is {task.name}",
            help="leave label_smoothing at 0 %: only classification and sequence tasks have labels",
        )
    return lambda outputs, inputs, targets: task.loss(outputs, targets, smoothing)
