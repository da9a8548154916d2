"""A realistic study and its events, made from a seed: what a search over digits writes to its journal."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from optlang.plan.expressions import Binary, Const, MetricRef
from optlang.plan.model import (
    FactoryUse,
    FloatDomain,
    IntDomain,
    Knob,
    ListDomain,
    Measure,
    Metric,
    Objective,
    Plan,
    Rule,
    Sampler,
    Search,
    SetDomain,
    Target,
)
from optlang.plan.model import Fixed as FixedSetting

BEGIN = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)

METRICS = (
    Metric(name="accuracy", dimension="ratio", direction="maximize", task=True),
    Metric(name="loss", dimension="number", direction="minimize", task=True),
    Metric(name="size", dimension="bytes", direction="minimize", task=False),
    Metric(name="size.compressed", dimension="bytes", direction="minimize", task=False),
    Metric(name="latency.p50", dimension="time", direction="minimize", task=False),
    Metric(name="latency.p95", dimension="time", direction="minimize", task=False),
    Metric(name="throughput", dimension="number", direction="maximize", task=False),
    Metric(name="parameters", dimension="count", direction="minimize", task=False),
)

KNOBS = (
    Knob(
        path="laptop.runtime",
        column="runtime",
        role="runtime",
        dimension="name",
        domain=SetDomain(values=("eager", "onnxruntime", "openvino")),
    ),
    Knob(
        path="laptop.runtime.onnxruntime.graph",
        column="graph",
        role="value",
        dimension="name",
        domain=SetDomain(values=("basic", "all")),
    ),
    Knob(path="rounds", column="rounds", role="repeat", dimension="count", domain=IntDomain(low=0, high=3)),
    Knob(
        path="rounds.prune.ratio",
        column="ratio",
        role="value",
        dimension="ratio",
        domain=ListDomain(values=(0.1, 0.2, 0.3, 0.4, 0.5)),
    ),
    Knob(
        path="rounds.recover.lr",
        column="lr",
        role="value",
        dimension="number",
        domain=FloatDomain(low=1e-4, high=1e-2, log=True),
    ),
    Knob(
        path="precision",
        column="precision",
        role="choice",
        dimension="name",
        domain=SetDomain(values=("none", "dynamic", "static")),
    ),
    Knob(
        path="precision.static.calibrator",
        column="calibrator",
        role="value",
        dimension="name",
        domain=SetDomain(values=("minmax", "entropy", "percentile")),
    ),
    Knob(
        path="precision.static.samples",
        column="samples",
        role="value",
        dimension="count",
        domain=ListDomain(values=(64, 128, 256)),
    ),
)


def make_plan(
    study: str = "digits",
    *,
    knobs: Sequence[Knob] = KNOBS,
    objectives: Sequence[tuple[str, str]] = (
        ("latency.p50", "minimize"),
        ("size", "minimize"),
        ("accuracy", "maximize"),
    ),
    targets: Sequence[str] = ("laptop",),
    metrics: Sequence[Metric] = METRICS,
) -> Plan:
    """A plan whose knobs and goals are given, and whose steps nobody reads here."""
    kept = Rule(
        expression=Binary(
            operator=">=",
            left=MetricRef(metric="accuracy"),
            right=Binary(operator="-", left=MetricRef(metric="accuracy", baseline=True), right=Const(value=0.01)),
        ),
        text="accuracy >= baseline.accuracy - 1%",
    )
    return Plan(
        edition=1,
        study=study,
        title="Shrink a digit classifier",
        inputs=(),
        metrics=tuple(metrics),
        model=FactoryUse(name="zoo.digits_cnn", calls="optlang.zoo.digits:cnn"),
        data=FactoryUse(name="zoo.digits", calls="optlang.zoo.digits:digits"),
        baseline=(),
        targets=tuple(
            Target(
                name=name,
                device="cpu",
                threads=FixedSetting(value=1),
                batch=FixedSetting(value=1),
                runtimes=(),
                knob=None,
            )
            for name in targets
        ),
        steps=(),
        knobs=tuple(knobs),
        impossible=(),
        forbids=(),
        requires=(kept,) if any(m.name == "accuracy" for m in metrics) else (),
        objectives=tuple(Objective(metric=MetricRef(metric=name), direction=way) for name, way in objectives),  # type: ignore[arg-type]
        search=Search(sampler=Sampler(name="tpe"), trials=40, timeout=None, trial_timeout=60.0, seed=7),
        measure=Measure(rounds=5, processes=1, front_rounds=10, front_processes=3, round_seconds=0.05, round_calls=20),
        techniques=(),
        runtimes=(),
    )


def at(seconds: float) -> str:
    """A time so many seconds after the study began."""
    return (BEGIN + timedelta(seconds=seconds)).isoformat()


def session(run: str = "r1", number: int = 0, plan: Plan | None = None, **more: Any) -> dict[str, Any]:
    """A `session` event."""
    plan = plan or make_plan()
    return {
        "event": "session",
        "session": f"{run}-s{number}",
        "run": run,
        "study": plan.study,
        "title": plan.title,
        "plan": plan.model_dump(mode="json"),
        "meaning": plan.meaning,
        "text": "optlang 1\n",
        "file": f"studies/{plan.study}.opt",
        "inputs": {"epochs": 3},
        "seed": 7,
        "machine": {"system": "Linux", "processor": "x", "python": "3.11.7", "cores": 2, "memory": 8_000_000_000},
        "versions": {"torch": "2.13.0"},
        "git": None,
        "optlang": "0.1.0",
        "started": at(3600.0 * number),
        **more,
    }


def start(run: str, trial: int, point: dict[str, Any] | None = None, *, number: int = 0, **more: Any) -> dict[str, Any]:
    """A `start` event."""
    event = {
        "event": "start",
        "run": run,
        "session": f"{run}-s{number}",
        "trial": trial,
        "origin": "sampler" if trial else "baseline",
        "in_space": bool(trial),
        "point": point or {},
        "steps": [],
        "target": "laptop",
        "runtime": "eager",
        "alone": None,
        "started": at(3600.0 * number + 3.0 * trial),
    }
    return event | more


def measurement(
    metric: str, value: float, *, target: str = "laptop", ratio: float | None = None, baseline: float | None = None
) -> dict[str, Any]:
    """A measurement as it stands in the journal."""
    units = {"accuracy": "ratio", "size": "B", "size.compressed": "B", "parameters": "count", "loss": ""}
    unit = units.get(metric, "s" if metric.startswith("latency") else "")
    around = (0.97 * value, 1.03 * value)
    return {
        "metric": metric,
        "value": value,
        "unit": unit,
        "n": 450 if metric == "accuracy" else 5,
        "low": around[0],
        "high": around[1],
        "target": target,
        "ratio": ratio,
        "ratio_low": ratio and 0.96 * ratio,
        "ratio_high": ratio and 1.04 * ratio,
        "baseline": baseline,
    }


def end(
    run: str, trial: int, state: str = "complete", measurements: Sequence[dict[str, Any]] = (), **more: Any
) -> dict[str, Any]:
    """An `end` event."""
    return {
        "event": "end",
        "run": run,
        "trial": trial,
        "state": state,
        "reason": None,
        "error": None,
        "finished": at(3.0 * trial + 2.5),
        "seconds": 2.5,
        "steps": [],
        "measurements": list(measurements),
        "artifacts": [],
        "notes": {},
        "violations": [],
        "sampler_state": {},
        **more,
    }


def finish(run: str = "r1", number: int = 0, why: str = "complete") -> dict[str, Any]:
    """A `finish` event."""
    return {
        "event": "finish",
        "run": run,
        "session": f"{run}-s{number}",
        "finished": at(3600.0 * number + 900),
        "why": why,
    }


_LADDER = (
    ("none", "onnxruntime"),
    ("none", "openvino"),
    ("prune.channels", "eager"),
    ("prune.channels", "onnxruntime"),
    ("prune.channels", "openvino"),
    ("quant.dynamic", "onnxruntime"),
    ("quant.static", "onnxruntime"),
    ("quant.static", "openvino"),
)
_SPEED = {"eager": 1.0, "onnxruntime": 6.5, "openvino": 2.8}


def search_events(trials: int = 40, seed: int = 0, run: str = "r1") -> Iterator[dict[str, Any]]:
    """A whole run: the baseline, the ladder, and so many searched trials, some of them failed or infeasible."""
    draw = random.Random(seed)
    yield session(run)
    yield start(run, 0)
    yield end(
        run,
        0,
        measurements=_figures(0.993, 83_353, 188e-6, 1.0),
        steps=[_done("train", "training.train", 9.0, False)],
        artifacts=[_artifact(run, 0, "safetensors", 83_353)],
    )
    for trial, (alone, runtime) in enumerate(_LADDER, start=1):
        planned = [] if alone == "none" else [{"path": alone.split(".")[1], "technique": alone, "settings": {}}]
        yield start(
            run, trial, origin="ladder", in_space=alone != "quant.static", alone=alone, runtime=runtime, steps=planned
        )
        small = {"none": 1.0, "prune.channels": 3.6, "quant.dynamic": 1.1, "quant.static": 2.9}[alone]
        fast = _SPEED[runtime] * {"none": 1.0, "prune.channels": 1.4, "quant.dynamic": 0.8, "quant.static": 1.25}[alone]
        yield end(
            run,
            trial,
            measurements=_figures(0.993 - draw.random() * 0.01, 83_353 / small, 188e-6 / fast, fast * 1.02),
            steps=[_done(item["path"], item["technique"], 0.4, False) for item in planned],
            artifacts=[_artifact(run, trial, "onnx", int(83_353 / small))],
        )
    for trial in range(len(_LADDER) + 1, len(_LADDER) + 1 + trials):
        yield from _searched(run, trial, draw)
    yield finish(run)


PAUSED_STEPS = [{"path": "a", "technique": "t", "settings": {"epochs": 9}}]


def paused_events(run: str = "r1") -> Iterator[dict[str, Any]]:
    """Two trials that paused, one of which went on, and paused again."""
    for trial in (901, 902):
        yield start(run, trial, steps=PAUSED_STEPS)
        yield pause(trial, 1, 1, 2.0, run)
    yield resume(901, run)
    yield pause(901, 3, 3, 6.0, run)


def pause(trial: int, rung: int, epoch: int, seconds: float, run: str = "r1") -> dict[str, Any]:
    """A trial with `PAUSED_STEPS` pauses after so many epochs, and seconds in all."""
    curve = {
        "path": "a", "cached": None, "epochs": 9, "epoch": [*range(1, epoch + 1)], "loss": [0.5] * epoch,
        "value": [0.1 * number for number in range(1, epoch + 1)], "seconds": [1.0] * epoch, "metric": "accuracy",
    }
    steps = [{**PAUSED_STEPS[0], "key": None, "cached": None, "seconds": seconds, "started": None}]
    return {
        **end(run, trial, "paused", reason=f"after epoch {epoch} of 9", steps=steps, seconds=seconds, curves=[curve]),
        "event": "pause", "rung": rung, "epoch": epoch, "epochs": 9, "step": "a",
        "scores": {"laptop": {"accuracy": 0.1 * epoch}}, "measured": [],
    }


def resume(trial: int, run: str = "r1") -> dict[str, Any]:
    """A paused trial goes on."""
    return {"event": "resume", "run": run, "trial": trial, "session": "s1"}


def _searched(run: str, trial: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    runtime = draw.choice(["eager", "onnxruntime", "openvino"])
    point: dict[str, Any] = {"laptop.runtime": runtime, "rounds": draw.randint(0, 3)}
    if runtime == "onnxruntime":
        point["laptop.runtime.onnxruntime.graph"] = draw.choice(["basic", "all"])
    steps = []
    if point["rounds"]:
        point |= {
            "rounds.prune.ratio": draw.choice([0.1, 0.2, 0.3, 0.4, 0.5]),
            "rounds.recover.lr": 10 ** draw.uniform(-4, -2),
        }
    for turn in range(1, point["rounds"] + 1):
        steps.append(
            {
                "path": f"rounds[{turn}].prune",
                "technique": "prune.channels",
                "settings": {"ratio": point["rounds.prune.ratio"]},
            }
        )
        steps.append(
            {
                "path": f"rounds[{turn}].recover",
                "technique": "training.finetune",
                "settings": {"epochs": 3, "lr": point["rounds.recover.lr"]},
            }
        )
    point["precision"] = draw.choice(["none", "dynamic", "static"]) if runtime != "eager" else "none"
    if point["precision"] == "static":
        point |= {
            "precision.static.calibrator": draw.choice(["minmax", "entropy", "percentile"]),
            "precision.static.samples": draw.choice([64, 128, 256]),
        }
        steps.append(
            {
                "path": "precision.static",
                "technique": "quant.static",
                "settings": {
                    "calibrator": point["precision.static.calibrator"],
                    "samples": point["precision.static.samples"],
                },
            }
        )
    elif point["precision"] == "dynamic":
        steps.append({"path": "precision.dynamic", "technique": "quant.dynamic", "settings": {"operators": "linear"}})
    yield start(run, trial, point, runtime=runtime, steps=steps)
    if draw.random() < 0.06:
        yield end(
            run, trial, "failed", reason="the worker process died (signal 11)", error="Traceback …\nsegmentation fault"
        )
        return
    if trial == 17:
        reason = "size 83.4 kB is above the limit 80.0 kB by 3.4 kB, which was known before its training"
        early = {"early.size": 83_353.0, "early.saved_seconds": 2.5}
        yield end(run, trial, "infeasible", reason=reason, notes=early)
        return
    if trial == 48:
        reason = (
            "after epoch 2 of 3 of rounds[1].recover: accuracy 91.0 %, at best 94.1 % by this run's curves; even so "
            "accuracy 94.1 % is below the limit 98.3 % (baseline.accuracy - 1%) by 4.2 points"
        )
        inside = {"early.epoch": 2, "early.epochs": 3, "early.accuracy": 0.91, "early.saved_seconds": 1.5}
        yield end(run, trial, "stopped", reason=reason, notes=inside)
        return
    kept = (1 - point.get("rounds.prune.ratio", 0.0)) ** (1.7 * point["rounds"])
    small = 1 / kept * {"none": 1.0, "dynamic": 1.1, "static": 2.8}[point["precision"]]
    fast = (
        _SPEED[runtime]
        * kept**-0.6
        * {"none": 1.0, "dynamic": 0.8, "static": 1.25}[point["precision"]]
        * draw.uniform(0.97, 1.03)
    )
    accuracy = min(0.996, 0.994 - 0.03 * (1 - kept) ** 6 + draw.gauss(0, 0.0015))
    state = "complete" if accuracy >= 0.983 else "infeasible"
    short = 100 * (0.983 - accuracy)
    said = f"accuracy {accuracy:.1%} is below the limit 98.3 % (baseline.accuracy - 1%) by {short:.1f} points"
    yield end(
        run,
        trial,
        state,
        _figures(accuracy, 83_353 / small, 188e-6 / fast, fast * 1.01),
        reason=None if state == "complete" else said,
        violations=[] if state == "complete" else [
            {"text": "accuracy >= baseline.accuracy - 1%", "by": short / 98.3, "said": said, "missed": []}
        ],
        steps=[_done(item["path"], item["technique"], draw.uniform(0.1, 1.5), draw.random() < 0.3) for item in steps],
        artifacts=[_artifact(run, trial, "onnx", int(83_353 / small))],
        notes={"prune.removed": 1 - kept},
        curves=[_curve(item["path"], item["settings"]["lr"]) for item in steps if item["path"].endswith(".recover")],
        sampler_state={"generation": trial // 10},
    )


def _figures(accuracy: float, size: float, latency: float, ratio: float) -> list[dict[str, Any]]:
    return [
        measurement("accuracy", accuracy, ratio=accuracy / 0.993),
        measurement("loss", 1 - accuracy),
        measurement("size", float(int(size))),
        measurement("size.compressed", float(int(0.9 * size))),
        measurement("latency.p50", latency, ratio=ratio),
        measurement("latency.p95", 1.1 * latency, ratio=ratio),
        measurement("throughput", 1 / latency),
        measurement("parameters", float(int(size / 4))),
    ]


def _curve(path: str, lr: float) -> dict[str, Any]:
    return {
        "path": path, "cached": False, "epochs": 3, "metric": "loss", "epoch": [1, 2, 3],
        "loss": [0.5 - lr, 0.3 - lr, 0.2 - lr], "value": [0.6, 0.4, 0.35], "seconds": [0.4, 0.8, 1.2],
    }


def _done(path: str, technique: str, seconds: float, cached: bool) -> dict[str, Any]:
    return {
        "path": path,
        "technique": technique,
        "key": hashlib.sha256(f"{path}{seconds}".encode()).hexdigest(),
        "cached": cached,
        "seconds": 0.002 if cached else seconds,
        "started": at(1),
        "worker": "worker-1",
    }


def _artifact(run: str, trial: int, kind: str, size: int) -> dict[str, Any]:
    name = "model.onnx" if kind == "onnx" else "model.safetensors"
    return {
        "target": "laptop",
        "path": f".optlang/artifacts/{run}/{trial}",
        "format": kind,
        "bytes": size,
        "sha256": hashlib.sha256(f"{run}{trial}".encode()).hexdigest(),
        "files": [{"name": name, "bytes": size, "sha256": hashlib.sha256(f"{run}{trial}".encode()).hexdigest()}],
    }
