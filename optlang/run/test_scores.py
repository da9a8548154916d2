"""Scores artifacts on the data's `test` part, in a worker; see test_data.py."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optlang.interfaces import Measurement
from optlang.measure import quality
from optlang.measure.answers import deployed
from optlang.measure.chunks import Chunks
from optlang.measure.process import BareProcess, Deployment
from optlang.measure.remote.devices import steadily
from optlang.measure.samples import Samples
from optlang.plan.metrics import AGREEMENT, TEST
from optlang.run import steps
from optlang.run.job import TestJob
from optlang.run.trial import Report, TrialContext
from optlang.workload.data.tasks import Task

SPLIT = "test"

Scored = Mapping[int, tuple[Measurement, ...]]
"""Measurements by the trials' numbers."""


def score(job: TestJob, context: TrialContext, report: Report) -> Scored:
    """The task's metrics of each trial on the test data, next to the baseline's; nothing where there are none."""
    if not context.data.has(SPLIT):
        return {}
    samples = context.split(SPLIT)
    found: dict[int, list[Measurement]] = {}
    for target in dict.fromkeys(target for members in job.members.values() for target in members):
        members = {number: item[target] for number, item in job.members.items() if target in item}
        report({"doing": f"score {len(members)} on the test data"})
        with tempfile.TemporaryDirectory(prefix="test-", dir=steps.scratch(job.workload)) as name:
            scorer = _Scorer(job, context.data.task, samples, Path(name))
            reference = None if (first := members.get(0)) is None else scorer.answers(first)
            for number, member in members.items():
                outputs = reference if reference is not None and not number else scorer.answers(member)
                found.setdefault(number, []).extend(scorer.score(outputs, reference, target))
    return {number: tuple(measurements) for number, measurements in found.items()}


@dataclass(frozen=True, slots=True)
class _Scorer:
    job: TestJob
    task: Task
    samples: Samples
    folder: Path

    def answers(self, member: Deployment) -> Chunks:
        """What the artifact answers to all samples, in calls of its target's batch."""
        place = self.folder / str(len(list(self.folder.iterdir())))
        steadily(member.target.remote, lambda: self._answer(member, place))
        return Chunks(place)

    def _answer(self, member: Deployment, place: Path) -> None:
        # Of an attempt that was cut.
        shutil.rmtree(place, ignore_errors=True)
        with BareProcess(member) as process:
            deployed(process, self.samples.inputs, place)

    def score(self, outputs: Chunks, reference: Chunks | None, target: str) -> Sequence[Measurement]:
        measured = quality.score(
            self.task, outputs, self.samples.targets, reference, self.job.directions, self.job.ratios
        )
        wanted = [item for item in measured if self.samples.targets is None or item.metric not in AGREEMENT]
        return [replace(item, metric=TEST + item.metric, target=target) for item in wanted]
