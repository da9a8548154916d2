"""The cells of one architecture: each technique applied as a worker does it, built for each runtime, run and compared.

    python benchmarks/coverage/cells.py NAME [SECONDS] < cells.json

It reads pairs of technique and runtime from its input, and writes what became of each as a line of JSON. A cell that
takes more seconds of processor time than that ends it.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import logging
import math
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from architectures import ARCHITECTURES
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from optlang.analysis.declarations import Declarations
from optlang.analysis.modules.library import library
from optlang.analysis.modules.names import Scope
from optlang.diagnostics.model import Diagnostics
from optlang.interfaces import Factory, ModelState, OptlangError, Refusal, TargetSpec
from optlang.plan.expressions import Environment, holds
from optlang.run import steps, worker
from optlang.run.cache import Clock
from optlang.run.job import Failure, PrepareJob, StepJob, Workload
from optlang.techniques.shared.parametrizations import without_parametrizations
from optlang.workload import imports
from optlang.workload.data import dataset
from optlang.workload.model.make import make

STUDY = Path(__file__).resolve().parent
RUNTIMES = ("onnxruntime", "torchscript", "openvino", "eager", "executorch", "inductor")
FLOAT, HALF = 1e-3, 5e-2
FURTHEST = 0.25
"""How far answers may be from the module's own, as a share of the largest; in float16 twice as far as the module's own
are from those in float32, and no further than this."""
INT8 = 0.9
"""What the cosine of int8 answers and the float module's own must be, both without the mean answer."""
NEAR = 2.5
"""How many times as much noise as rounding leaves in a net with random weights that answers to every breath: kernels
round sums and what stands between layers too."""
FEW = {"epochs": 1, "batch": 8, "lr": 1e-4, "samples": 16, "scored": 8, "held_out": 8, "levels": 2, "round_to": 1}
"""Settings, where a technique declares them: what a few samples allow."""

Answers = Mapping[str, Any]
Cell = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """What a row of the table does: techniques with the settings that differ from the declared ones, one by one.

    `same` says that the answers are those of the model before, `int8` that they are near to them, `needs` which layers
    there must be (see `has`). `runtimes` are those that it is tried for, None all that take the result.
    """

    steps: Sequence[tuple[str, Mapping[str, Any]]]
    same: bool = False
    int8: bool = False
    half: bool = False
    smaller: bool = False
    sparse: bool = False
    needs: str | None = None
    runtimes: Sequence[str] | None = None


def _one(name: str, settings: Mapping[str, Any] | None = None, **facts: Any) -> tuple[str, Row]:
    return name, Row(((name, settings or {}),), **facts)


ROWS: Mapping[str, Row] = dict((
    ("none", Row(())),
    _one("graph.fold", same=True, needs="norm"),
    _one("graph.clean", same=True, needs="idle"),
    _one("graph.untie", same=True, needs="shared"),
    _one("graph.channels_last", same=True, needs="convolution", runtimes=("eager",)),
    _one("graph.constants", same=True, needs="constants"),
    _one("cast.half", half=True),
    _one("training.train"),
    _one("training.finetune"),
    _one("training.distill", smaller=True),
    _one("prune.channels", smaller=True),
    _one("prune.channels_to_budget", smaller=True, settings={"share": 0.7}),
    _one("prune.widths", smaller=True, settings={"share": 0.7}),
    _one("prune.heads", smaller=True, needs="attention"),
    _one("prune.layers", smaller=True, needs="blocks"),
    _one("prune.units", smaller=True, needs="recurrent"),
    _one("prune.magnitude", sparse=True),
    _one("prune.two_four", sparse=True),
    ("prune.rewind", Row((("prune.magnitude", {}), ("training.finetune", {}), ("prune.rewind", {})), sparse=True)),
    _one("quant.equalize", same=True, needs="rectifier"),
    _one("quant.smooth", same=True, needs="layer_norm"),
    _one("quant.dynamic", int8=True),
    _one("quant.static", int8=True),
    _one("quant.mixed", int8=True),
    _one("quant.weight_only", int8=True),
    _one("quant.qat", int8=True, settings={"lr": 1e-6}),
    ("prune.channels + quant.static", Row((("prune.channels", {}), ("quant.static", {})), int8=True, smaller=True)),
))
SLOW: Mapping[str, Sequence[str]] = {
    "executorch": ("none", "prune.channels", "quant.dynamic", "quant.static", "prune.channels + quant.static"),
    "inductor": ("none", "prune.channels", "quant.dynamic", "quant.static", "prune.channels + quant.static"),
}
"""The rows that are tried with runtimes that compile or lower for seconds."""


# ---- declarations


@functools.cache
def declared(sort: str) -> Mapping[str, Any]:
    """The standard library's techniques or runtimes by name."""
    modules, _ = library()
    facts = Declarations(Diagnostics(), lambda item: Scope(item.module, modules))
    read = facts.runtime if sort == "runtime" else facts.technique
    return {
        f"{module.name}.{name}": read(item) for module in modules.values() for name, item in module.declared.items()
        if item.sort == sort
    }


def settings_of(facts: Any, changed: Mapping[str, Any]) -> dict[str, Any]:
    """The declared defaults with what differs, without those whose condition does not hold."""
    values = {item.name: changed.get(item.name, item.default) for item in facts.params}
    environment = Environment(knob=values.get)
    return {
        item.name: tuple(values[item.name]) if isinstance(values[item.name], list) else values[item.name]
        for item in facts.params if item.when is None or holds(item.when, environment)
    }


def jobs(row: Row, runtime: str) -> tuple[StepJob, ...]:
    """The steps of a row for a runtime."""
    facts = declared("runtime")[f"runtime.{runtime}"]
    found = []
    for number, (name, changed) in enumerate(row.steps):
        technique = declared("technique")[name]
        settings = settings_of(technique, {**FEW, **changed})
        found.append(StepJob(
            f"steps.{number}", name, technique.calls, settings, technique.needs, 1, facts.carries_out(name)
        ))
    return tuple(found)


def cells() -> list[Cell]:
    """All pairs of a row and a runtime that the language allows, of which some rows are left out (see `SLOW`)."""
    found: list[Cell] = []
    for name, row in ROWS.items():
        for runtime in RUNTIMES:
            facts = declared("runtime")[f"runtime.{runtime}"]
            last = row.steps[-1][0] if row.steps else None
            gives = "module"
            if last is not None:
                gives = "graph" if facts.carries_out(last) else declared("technique")[last].gives[0]
            if row.runtimes is not None and runtime not in row.runtimes:
                continue
            if gives in facts.takes and name in SLOW.get(runtime, (name,)):
                found.append((name, runtime))
    return found


# ---- what an architecture has, asked independently of the techniques


def has(kind: str, module: nn.Module, name: str, inputs: Mapping[str, Any]) -> bool:
    """Whether there is a layer of the kind that a technique is for."""
    layers = list(module.modules())
    if kind == "attention":
        return ARCHITECTURES[name].attention
    if kind == "shared":
        calls: dict[int, int] = {}
        handles = [
            layer.register_forward_hook(lambda layer, *_: calls.__setitem__(id(layer), calls.get(id(layer), 0) + 1))
            for layer in layers if not list(layer.children()) and not list(layer.parameters())
        ]
        called(module, inputs)
        for handle in handles:
            handle.remove()
        return any(count > 1 for count in calls.values())
    if kind == "idle":
        return any(
            isinstance(part, nn.Identity | nn.Dropout)
            for layer in layers if isinstance(layer, nn.Sequential) for part in layer
        )
    if kind == "blocks":
        return any(
            _alike(part, other) for layer in layers if isinstance(layer, nn.Sequential | nn.ModuleList)
            for part, other in itertools.pairwise(layer)
        )
    if kind == "rectifier":
        with _Operators() as seen:
            called(module, inputs)
        return bool(seen.names & {"relu", "relu_", "leaky_relu", "leaky_relu_", "prelu", "_prelu_kernel"})
    kinds: Mapping[str, tuple[type, ...]] = {
        "norm": (nn.modules.batchnorm._BatchNorm,), "convolution": (nn.Conv2d,), "recurrent": (nn.RNNBase,),
        "layer_norm": (nn.LayerNorm,),
    }
    return any(isinstance(layer, kinds[kind]) for layer in layers)


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two layers are blocks of one kind and size, with several layers of weights each."""
    shapes = [[item.shape for item in layer.parameters() if item.ndim > 1] for layer in (one, other)]
    return type(one) is type(other) and shapes[0] == shapes[1] and len(shapes[0]) > 1


class _Operators(TorchDispatchMode):  # type: ignore[misc]
    """The names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(operator.overloadpacket.__name__)
        return operator(*args, **(kwargs or {}))


# ---- answers


def called(module: nn.Module, inputs: Mapping[str, Any]) -> list[Any]:
    """The answers of the module itself in eager mode, in order."""
    tensors = {name: torch.as_tensor(item) for name, item in inputs.items()}
    with torch.no_grad():
        try:
            answer = module(**tensors)
        except TypeError:
            answer = module(*tensors.values())
    return [item.float().numpy() if item.is_floating_point() else item.numpy() for item in _flat(answer)]


def _flat(answer: Any) -> Iterator[torch.Tensor]:
    if isinstance(answer, torch.Tensor):
        yield answer
    elif isinstance(answer, Mapping | tuple | list):  # and no cache of attention
        for item in answer.values() if isinstance(answer, Mapping) else answer:
            yield from _flat(item)


def run(session: Any, inputs: Mapping[str, Any], batch: int) -> list[Any]:
    """A session's answers to all samples, `batch` a call."""
    total = len(next(iter(inputs.values())))
    pieces = []
    for start in range(0, total, batch):
        taken = numpy.arange(start, start + batch) % total
        found = session.collect(session.run(session.prepare({name: item[taken] for name, item in inputs.items()})))
        pieces.append([numpy.asarray(item)[: total - start] for item in found.values()])
    return [numpy.concatenate(column) for column in zip(*pieces, strict=True)]


def apart(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The largest difference as a share of the largest value, of the worst answer; infinite where they do not fit."""
    if len(found) != len(wanted) or any(a.shape != b.shape for a, b in zip(found, wanted, strict=True)):
        return float("inf")
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        if other.dtype.kind != "f":
            worst = max(worst, float((one != other).any()))
        elif not (numpy.isfinite(one).all() and numpy.isfinite(other).all()):
            return float("inf")
        elif other.size:
            worst = max(worst, float(numpy.abs(one - other).max() / max(numpy.abs(other).max(), 1e-12)))
    return worst


def cosine(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The cosine of answers without the mean answer, of the worst one: what tells samples apart is compared."""
    if len(found) != len(wanted) or any(a.shape != b.shape for a, b in zip(found, wanted, strict=True)):
        return -1.0
    least = 1.0
    for one, other in zip(found, wanted, strict=True):
        if other.dtype.kind == "f" and numpy.isfinite(one).all():
            a, b = ((item - other.mean(0)).astype(numpy.float64).ravel() for item in (one, other))
            least = min(least, float(a @ b / max(numpy.linalg.norm(a) * numpy.linalg.norm(b), 1e-30)))
        elif other.dtype.kind == "f":
            return -1.0
    return least


def noise(cosine: float) -> float:
    """The noise in answers as a share of what they should be, by their cosine to that."""
    return math.inf if cosine <= 0 else math.sqrt(max(1 / cosine**2 - 1, 0.0))


def rounded(module: nn.Module, inputs: Mapping[str, Any], activations: bool) -> list[Any]:
    """The answers with weights rounded to 8 bits by row, and what layers take and give too: int8 in a few lines."""
    module = copy.deepcopy(module)

    def levels(item: Any) -> Any:
        if not isinstance(item, torch.Tensor) or not item.is_floating_point() or not item.numel():
            return item
        low, high = min(float(item.min()), 0.0), max(float(item.max()), 0.0)
        step = max(high - low, 1e-12) / 255
        return (item / step).round() * step

    with torch.no_grad():
        for item in module.parameters():
            if item.ndim > 1:
                step = item.abs().amax(dim=tuple(range(1, item.ndim)), keepdim=True).clamp(min=1e-12) / 127
                item.copy_((item / step).round() * step)
    for layer in module.modules() if activations else ():
        if not list(layer.children()):
            layer.register_forward_pre_hook(lambda _, given: tuple(map(levels, given)))
            layer.register_forward_hook(lambda _, __, answer: levels(answer))
    return called(module, inputs)


# ---- one cell


class Wrong(Exception):  # noqa: N818 - what a cell is
    """The artifact was made and is not what it should be."""


@dataclass(slots=True)
class Subject:
    """An architecture in a worker's own surroundings."""

    name: str
    home: Path
    workload: Workload = field(init=False)
    data: dataset.Dataset = field(init=False)
    module: nn.Module = field(init=False)
    inputs: Mapping[str, Any] = field(init=False)
    before: list[Any] = field(init=False)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    """By row, of steps that do not depend on the runtime."""
    there: dict[str, bool] = field(default_factory=dict)
    """Whether there are layers of a kind."""
    tell: Callable[..., None] = field(default=lambda **_: None)
    """Takes what is being done."""

    def __post_init__(self) -> None:
        self.workload = Workload(
            Factory("architectures.py:model", {"name": self.name}),
            Factory("architectures.py:data", {"name": self.name}), STUDY, self.home, "cpu",
        )
        self.module = make(self.workload.model, STUDY)
        self.data = dataset.load(self.workload.data, STUDY).bind(self.module)
        batches = [inputs for inputs, _ in self.data.batches("validation", 1)]
        self.inputs = {name: torch.cat([item[name] for item in batches]).numpy() for name in batches[0]}
        self.before = called(self.module, self.inputs)

    def answer(self, name: str, runtime_name: str) -> dict[str, Any]:
        """What became of a cell that did not raise: how near its answers are."""
        row, facts = ROWS[name], declared("runtime")[f"runtime.{runtime_name}"]
        runtime, settings = imports.find(facts.calls, STUDY)(), settings_of(facts, {})
        missing = runtime.available()
        if missing is not None:
            raise Wrong(f"the runtime is not here: {missing}")
        target = TargetSpec("here")
        with tempfile.TemporaryDirectory() as folder:
            clock = Clock({"runtime": runtime_name}, functools.partial(self._seconds, runtime, settings, target), 1)
            try:
                stepped = self._stepped(name, runtime_name, runtime, clock)
                try:
                    state = without_parametrizations(stepped.state, self.data, STUDY)
                except Refusal:
                    state = stepped.state
                artifact = runtime.build(state, target, settings, Path(folder), self.data, STUDY)
            finally:
                steps.clear_scratch(self.workload)
            session = runtime.open(artifact, target, settings, STUDY)
            try:
                found = run(session, self.inputs, artifact.fixed_batch or target.batch)
                several = None
                if artifact.fixed_batch is None and runtime_name != "inductor" and name == "none":
                    several = run(session, self.inputs, 4)
            finally:
                session.close()
        changed = stepped.module()
        return self._judged(row, state, changed, artifact, found, several)

    def _stepped(self, name: str, runtime_name: str, runtime: Any, clock: Clock) -> steps.Stepped:
        """The steps of a row, from the cache where another runtime had them; refused as they were there."""
        if name in self.refusals:
            raise self.refusals[name]
        todo = jobs(ROWS[name], runtime_name)
        alike = not any(job.performed or {"runtime", "latency"} & set(job.needs) for job in todo)
        try:
            self.tell(alike=alike)
            return steps.apply(
                todo, self.workload, self.data, runtime.wants, clock, lambda _: None, []
            )
        except Refusal as error:
            if alike:
                self.refusals[name] = error
            raise
        finally:
            self.tell(alike=False)

    def _judged(
        self, row: Row, state: ModelState, changed: ModelState | None, artifact: Any, found: list[Any],
        several: list[Any] | None,
    ) -> dict[str, Any]:
        assert changed is not None
        module = changed.model.eval()
        wanted = called(module, self.inputs)
        facts: dict[str, Any] = {"notes": {name: value for name, value in state.notes.items() if _plain(value)}}
        self._effect(row, module, artifact, facts)
        if row.same or not row.steps:
            facts["before"] = apart(wanted, self.before)
            if facts["before"] > FLOAT:
                raise Wrong(f"the module's answers are {facts['before']:.2g} from those before, and should be the same")
        if row.int8:
            facts["cosine"] = cosine(found, wanted)
            if facts["cosine"] < INT8:
                weights_only = row.steps[-1][0] == "quant.weight_only"
                facts["rounded"] = cosine(rounded(module, self.inputs, not weights_only), wanted)
                if noise(facts["cosine"]) > NEAR * noise(facts["rounded"]):
                    raise Wrong(
                        f"wrong answers: cosine {facts['cosine']:.3f} to the float module's, and rounding leaves "
                        f"{facts['rounded']:.3f}"
                    )
            return facts
        facts["apart"] = apart(found, wanted)
        limit = FLOAT
        if row.half:
            facts["own"] = apart(wanted, self.before)
            limit = max(HALF, min(2 * facts["own"], FURTHEST))
        if facts["apart"] > limit:
            raise Wrong(f"wrong answers: {facts['apart']:.2g} from the module's own, the limit is {limit:.2g}")
        if row.half:
            facts["cosine"] = cosine(found, self.before)
            if facts["cosine"] < INT8:
                raise Wrong(f"wrong answers: cosine {facts['cosine']:.3f} to the float32 module's")
        if several is not None:
            facts["batch"] = apart(several, wanted)
            if facts["batch"] > FLOAT:
                raise Wrong(f"wrong answers in calls of 4 samples: {facts['batch']:.2g} from the module's own")
        return facts

    def _effect(self, row: Row, module: nn.Module, artifact: Any, facts: dict[str, Any]) -> None:
        """Raise `Wrong` where the technique did nothing."""
        if row.smaller:
            facts["parameters"] = _count(module) / _count(self.module)
            if facts["parameters"] > 0.99:
                raise Wrong(f"nothing was removed: {facts['parameters']:.3f} of the parameters are left")
        if row.sparse:
            facts["zeros"] = _zeros(module)
            if facts["zeros"] < 0.2:
                raise Wrong(f"only {facts['zeros']:.2f} of the weights are zero")
        if row.int8:
            facts["stored"] = dict(artifact.about.get("stored", {}))
            # How many layers mixed leaves in float is for its budget to say.
            least = 0.0 if "quant.mixed" in (name for name, _ in row.steps) else 0.4
            if sum(facts["stored"].values()) <= least:
                raise Wrong(f"only {sum(facts['stored'].values()):.2f} of the weights are in few bits")
        if row.half and not any(item.dtype in (torch.float16, torch.bfloat16) for item in module.parameters()):
            raise Wrong("no weight has 16 bits")
        if row.steps and row.steps[-1][0].startswith("training"):
            before = dict(self.module.named_parameters())
            after = dict(module.named_parameters())
            same = all(
                name in after and after[name].shape == item.shape and torch.equal(after[name], item)
                for name, item in before.items()
            )
            if same:
                raise Wrong("no weight has changed")

    def _seconds(self, runtime: Any, settings: Mapping[str, Any], target: TargetSpec, state: ModelState) -> float:
        """The time of a call, the least of a few: the machine may be busy."""
        with tempfile.TemporaryDirectory() as folder:
            plain = without_parametrizations(state, self.data, STUDY)
            artifact = runtime.build(plain, target, settings, Path(folder), self.data, STUDY)
            session = runtime.open(artifact, target, settings, STUDY)
            prepared = session.prepare({name: item[:1] for name, item in self.inputs.items()})
            least = float("inf")
            for _ in range(20):
                begin = time.perf_counter()
                session.run(prepared)
                least = min(least, time.perf_counter() - begin)
            session.close()
        return least

    def _has(self, kind: str) -> bool:
        if kind not in self.there:
            self.there[kind] = self._constant() if kind == "constants" else has(
                kind, self.module, self.name, self.inputs
            )
        return self.there[kind]

    def _constant(self) -> bool:
        """Whether a node of the ONNX file depends on no input."""
        import onnx

        facts = declared("runtime")["runtime.onnxruntime"]
        runtime = imports.find(facts.calls, STUDY)()
        state = without_parametrizations(
            ModelState("module", self.module, self.workload.model), self.data, STUDY
        )
        with tempfile.TemporaryDirectory() as folder:
            runtime.build(state, TargetSpec("here"), settings_of(facts, {}), Path(folder), self.data, STUDY)
            graph = onnx.load(Path(folder) / "model.onnx").graph
        known = {"", *(item.name for item in graph.initializer)}
        return any(
            node.op_type != "Constant" and all(item in known for item in node.input) for node in graph.node
        )

    def cell(self, name: str, runtime: str) -> dict[str, Any]:
        """The state of a cell: works, refused, fails, or nothing where there is no layer that the technique is for."""
        row, begin = ROWS[name], time.process_time()
        there = row.needs is None or self._has(row.needs)
        told: dict[str, Any]
        try:
            told = {"state": "works", **self.answer(name, runtime)}
        except Wrong as wrong:
            told = {"state": "fails", "reason": str(wrong)}
        except OptlangError as error:
            told = {"state": "refused", "reason": error.message, "help": error.help, "kind": type(error).__name__}
            if not there:
                told["state"] = "nothing"
            elif error.help is None:
                told["state"] = "fails"
                told["reason"] = f"refused without a way out: {error.message}"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the cell shows
            told = {
                "state": "fails", "reason": f"{type(error).__name__}: {error}"[:1000],
                "traceback": traceback.format_exc()[-4000:],
            }
        return {**told, "seconds": round(time.process_time() - begin, 2)}


def _plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _count(module: nn.Module) -> int:
    return sum(item.numel() for item in module.parameters())


def _zeros(module: nn.Module) -> float:
    weights = [item for item in module.parameters() if item.ndim > 1]
    return sum(int((item == 0).sum()) for item in weights) / max(sum(item.numel() for item in weights), 1)


def prepared(name: str, home: Path) -> str | None:
    """Why a run would end before its first trial; None where it begins."""
    workload = Workload(
        Factory("architectures.py:model", {"name": name}), Factory("architectures.py:data", {"name": name}), STUDY,
        home, "cpu",
    )
    found = worker.prepare(PrepareJob(workload, ()))
    return f"{found.reason} — {found.text}" if isinstance(found, Failure) else None


def quiet() -> None:
    """Leave out what libraries remark on, which is not what is asked here."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)


def limit(seconds: float) -> None:
    """From now on, so much processor time: SIGXCPU ends the process then."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), hard))


def main() -> None:
    """Go through the cells on standard input; say before each which one it is."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    quiet()
    torch.set_num_threads(1)
    name, seconds, wanted = sys.argv[1], float([*sys.argv, "inf"][2]), json.load(sys.stdin)

    def tell(**told: Any) -> None:
        answers.write(json.dumps(told, default=str) + "\n")

    with tempfile.TemporaryDirectory(prefix=f"coverage-{name}-") as folder:
        home = Path(folder)
        tell(begin=["", ""])
        broken = prepared(name, home)
        subject = None if broken is not None else Subject(name, home, tell=tell)
        for technique, runtime in wanted:
            tell(begin=[technique, runtime])
            if math.isfinite(seconds):
                limit(seconds)
            found: dict[str, Any] = {"state": "fails", "reason": f"the run does not begin: {broken}", "seconds": 0.0}
            if subject is not None:
                found = subject.cell(technique, runtime)
            tell(cell=[technique, runtime], **found)


if __name__ == "__main__":
    main()
