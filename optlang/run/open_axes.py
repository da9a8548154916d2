"""Whether an artifact answers all sizes of its open axes as the module does, and which of its axes are open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from optlang.interfaces import JSON, Array, ModelState, OptlangError, Refusal
from optlang.measure.answers import difference
from optlang.measure.process import BareProcess, Deployment, ProcessDied, ProcessError
from optlang.run.batch_dependence import Reference
from optlang.workload.data import ragged
from optlang.workload.data.dataset import Dataset

WORSE, LEAST = 4.0, 0.25
"""How many times further than at the usual sizes answers may be from the module's, and how far they may be anyway."""


def check(member: Deployment, data: Dataset, module: Callable[[], ModelState | None], study: Path) -> None:
    """Have the artifact answer the smallest and the largest sizes of axes that a study opens.

    Where the data differ in shape themselves, scoring answers all that there are. Raises `Refusal` with the size that
    it does not answer, or answers otherwise than the module; nothing is compared where there is no module any more.
    """
    state = module()
    if not data.declared or state is None:
        return
    from optlang.workload.export import tracing

    state.model.eval()
    apart: list[float] = []
    with BareProcess(member) as process:
        for proof in tracing.proofs(state.model, data):
            inputs = {name: item.numpy() for name, item in proof.inputs.items()}
            try:
                answers = process.outputs(inputs)
            except (ProcessDied, ProcessError) as error:
                if not proof.sizes:
                    raise
                raise Refusal(
                    f"{member.runtime} does not answer {proof.sizes}: {error.message}",
                    help="remove the axis from `dynamic`, or leave this runtime out",
                ) from error
            right = Reference(module, inputs, study).answers(process.batch)
            apart.append(0.0 if right is None else _apart(right, answers, proof.sizes, member.runtime))
            if apart[-1] > max(LEAST, WORSE * apart[0]):
                raise Refusal(
                    f"{member.runtime} answers {proof.sizes} otherwise than the module: the answers differ by "
                    f"{apart[-1]:.0%}, and by {apart[0]:.1%} where sizes are the usual ones",
                    help="remove the axis from `dynamic`, or leave this runtime out",
                )


def _apart(right: Mapping[str, Array], answers: Mapping[str, Array], sizes: str, runtime: str) -> float:
    # Some formats rename outputs; their order is the module's.
    named = dict(zip(right, answers.values(), strict=False))
    for name, item in named.items():
        if ragged.padded(item).shape != right[name].shape:
            raise Refusal(
                f"{runtime} answers {sizes or 'three samples'} with {name} of the shape {item.shape}, and the module "
                f"with {right[name].shape}",
                help="remove the axis from `dynamic`, or leave this runtime out",
            )
    return difference(right, named)


def named(data: Dataset, module: Callable[[], ModelState | None] = lambda: None) -> dict[str, dict[int, str]]:
    """The open axes of inputs and outputs by their names; of outputs only where there is a module to ask."""
    found: dict[str, dict[int, str]] = {}
    for item in data.axes:
        for name, axis in item.places:
            found.setdefault(name, {})[axis] = item.name
    state = module() if data.axes else None
    if state is not None:
        from optlang.workload.export import tracing

        try:
            usual = tracing.answers_of(state.model, data.example(tracing.TRACED))
        except OptlangError:
            # A module in half precision, or one that takes no such batch.
            return found
        for name, axes in tracing.open_outputs(state.model, data, usual).items():
            found.setdefault(f"output {name}", {}).update(axes)
    return found


def with_names(about: Mapping[str, JSON], opened: Mapping[str, Mapping[int, str]]) -> dict[str, JSON]:
    """What is said of an artifact's inputs and outputs, with the names of open axes in their shapes."""
    made = dict(about)
    for key, prefix in (("inputs", ""), ("outputs", "output ")):
        tensors = made.get(key)
        if not isinstance(tensors, Mapping):
            continue
        found: dict[str, JSON] = {}
        for name, item in tensors.items():
            axes = opened.get(f"{prefix}{name}", {})
            shape = item.get("shape") if isinstance(item, Mapping) else None
            if isinstance(item, Mapping) and isinstance(shape, list) and axes:
                item = {**item, "shape": [axes.get(axis, size) for axis, size in enumerate(shape)]}
            found[name] = item
        made[key] = found
    return made
