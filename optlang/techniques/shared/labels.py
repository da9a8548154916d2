"""Data without labels: which techniques need them, and the losses that compare with a model's own answers instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from optlang.interfaces import Context, Refusal

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from optlang.workload.data.tasks import Task
    from optlang.workload.data.tensors import Tensors

BatchLoss: TypeAlias = "Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Tensors], Tensor]"
"""The loss of a batch from the outputs and the inputs, both by name, and the targets."""

WAY_OUT = "`distill` learns from the baseline's answers, and needs no labels"


def require_labels(what: str, context: Context) -> None:
    """Raise `Refusal` where the training data have no labels, which `what` learns from."""
    if not context.data.labeled("train"):
        raise Refusal(f"{what} learns from labels, and 'train' has none", help=WAY_OUT)


def apart(
    task: Task, answers: Mapping[str, Tensor], wanted: Mapping[str, Tensor], targets: Tensors, t: float
) -> Tensor:
    """How far answers are from those that are wanted of them, differentiable.

    Of scores of classes: the Kullback-Leibler divergence of the softmax at the temperature `t`, times `t` squared, so
    that gradients keep their size; labels that do not count are left out. Else the mean squared error of the answers.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that everybody gives it

    from optlang.workload.data.tasks import Classification, Regression, Unlabeled
    from optlang.workload.data.tensors import leaves

    labeled = bool(leaves(targets))
    if labeled and isinstance(task, Classification | Regression):
        # Raises where labels do not fit.
        task.pair(answers, targets)
    if isinstance(task, Classification | Unlabeled):
        scores, known = task.scores(answers), task.scores(wanted)
        if scores is not None and known is not None:
            distance = F.kl_div(
                F.log_softmax(scores / t, dim=1), F.log_softmax(known / t, dim=1), reduction="none", log_target=True
            ).sum(dim=1)
            counted = task.counted(targets) if labeled else None
            return (distance if counted is None else distance[counted.to(distance.device)]).mean() * t * t
    if labeled and isinstance(task, Regression):
        return F.mse_loss(task.pair(answers, targets)[0], task.pair(wanted, targets)[0])
    real = [name for name, item in wanted.items() if item.is_floating_point()]
    return torch.stack([F.mse_loss(answers[name], wanted[name]) for name in real]).mean()


def drawn_loss(task: Task, outputs: Mapping[str, Tensor], targets: Tensors, generator: torch.Generator) -> Tensor:
    """The task's loss; without labels that to targets which are drawn from what the model itself answers.

    Of scores of classes a class is drawn by its probability, of other answers a number with a variance of 1 around it.
    The squares of such gradients are the Fisher information, where those to labels are the empirical one (Kunstner,
    Hennig and Balles, NeurIPS 2019). The distance to a model's own answers, or to the baseline's, would do no good: its
    gradient is zero as long as the two answer the same.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that everybody gives it

    from optlang.workload.data.tensors import leaves

    if leaves(targets):
        return task.loss(outputs, targets)
    scores = task.scores(outputs)
    if scores is not None:
        flat = scores.movedim(1, -1).flatten(0, -2)
        chances = flat.detach().float().softmax(dim=1).cpu()
        labels = torch.multinomial(chances, 1, generator=generator)[:, 0]
        return F.cross_entropy(flat.float(), labels.to(flat.device))
    losses = []
    for item in outputs.values():
        if item.is_floating_point():
            noise = torch.randn(item.shape, generator=generator, dtype=item.dtype)
            losses.append(F.mse_loss(item, item.detach() + noise.to(item.device)) / 2)
    if not losses:
        raise Refusal(
            "the model answers with whole numbers, of which there are no gradients, and the data have no labels",
            help="another importance",
        )
    return torch.stack(losses).mean()


def loss_against(reference: nn.Module, context: Context, t: float = 1.0) -> BatchLoss:
    """The task's loss; without labels how far answers are `apart` from those of `reference` to the same inputs."""
    import torch

    from optlang.workload.model.call import call

    task = context.data.task

    def loss(outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor], targets: Tensors) -> Tensor:
        if context.data.labeled("train"):
            return task.loss(outputs, targets)
        with torch.no_grad():
            wanted = call(reference, dict(inputs))
        return apart(task, outputs, wanted, targets, t)

    return loss
