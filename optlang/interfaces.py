"""The values that pass between the rooms: model states, artifacts, sessions, measurements. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy

    from optlang.workload.data.dataset import Dataset

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Form = Literal["module", "graph", "onnx", "artifact"]

FORMS: Mapping[str, str] = {
    "module": "a PyTorch module",
    "graph": "a module that its runtime converts itself when it builds",
    "onnx": "an ONNX file",
    "artifact": "an artifact that only its runtime can run",
}
"""The forms that a model can have between two steps, as declarations name them, in words."""

NEEDS: Mapping[str, str] = {
    "training": "training data",
    "labels": "labels of the training data",
    "calibration": "calibration data",
    "runtime": "the runtime's int8 scheme",
    "baseline": "the trained baseline",
    "latency": "times on the runtime",
    "gpu": "a target with a GPU (`device = cuda`)",
    "browser": "a target that is a browser (`device = browser`)",
}
"""What a technique or runtime can ask for in its declaration, in words."""

WEIGHTS_SUFFIXES = (".safetensors", ".safetensors.index.json", ".pt", ".pth", ".bin", ".ckpt", ".tar")
WEIGHTS_FORMS = "a .safetensors file, or a .pt or .pth file of a state dict, by its path in the study's folder"
"""What `weights` may name: all but safetensors and an index is read as what `torch.save` writes."""

Array: TypeAlias = "numpy.ndarray[Any, Any]"
Arrays: TypeAlias = "Mapping[str, Array]"


class OptlangError(Exception):
    """A mistake of the user or a fault outside, reported without a traceback.

    `message` says what is wrong and why, `help` how to fix it, `details` the user's own frames or a process's last
    output, line by line; `exit_code` is the exit code of the command line (1 the study or its code is wrong, 2 the
    command was used wrongly, 3 something outside is wrong).
    """

    exit_code = 1

    def __init__(self, message: str, *, help: str | None = None, details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.help = help
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return (_remade, (type(self), self.message, self.help, self.__dict__))


def _remade(kind: type[OptlangError], message: str, advice: str | None, state: dict[str, Any]) -> OptlangError:
    error = kind.__new__(kind)
    OptlangError.__init__(error, message, help=advice)
    error.__dict__.update(state)
    return error


class OutsideError(OptlangError):
    """Something outside optlang and the study is wrong: a missing package, a full disk, a newer database."""

    exit_code = 3


class Refusal(OptlangError):  # noqa: N818 - a refusal is an answer, not an accident
    """A technique or runtime cannot do what was asked of it with this model; the message names the layer or operator.

    The same settings would be refused again, so the sampler treats the point as infeasible. `depends` is
    "model" where it would come with any settings, as long as nothing adds layers to the model: there is no layer of the
    kind that is asked for. `step` is the path of the step that refused and `target` the target that it was for, as far
    as they are known.
    """

    def __init__(
        self, message: str, *, help: str | None = None, depends: Literal["model", "settings"] = "settings"
    ) -> None:
        super().__init__(message, help=help)
        self.depends: Literal["model", "settings"] = depends
        self.step: str | None = None
        self.target: str | None = None


@dataclass(frozen=True, slots=True)
class Factory:
    """How a model or a data set is made: the object `calls` names ("package.module:object" or "file.py:object").

    `weights` is a file of a model's weights, `weights_key` the part of it that holds them (None: what fits the model),
    and without `weights_strict` the file may lack tensors or have others.
    """

    calls: str
    arguments: Mapping[str, JSON] = field(default_factory=dict)
    weights: str | None = None
    weights_key: str | None = None
    weights_strict: bool = True


@dataclass(frozen=True, slots=True)
class NamedMetric:
    """A metric of the study: its name, which direction is better, and the factory of the object that computes it."""

    name: str
    direction: Literal["minimize", "maximize"]
    factory: Factory


@dataclass(frozen=True, slots=True)
class Edit:
    """One structural change to a module, replayed on a fresh one by `calls`(module, arguments, example inputs)."""

    calls: str
    arguments: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Request:
    """A technique that the runtime carries out itself when it builds: the last word of its name, and its settings.

    The settings are those that the technique declares; one whose condition does not hold is absent.
    """

    technique: str
    settings: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model in one form, with what was done to it.

    `model` is a `torch.nn.Module` where `form` is "module" or "graph" and the path of a file where it is "onnx". A
    "graph" is a module with `requests`, in their order: what its runtime, whose declaration says that it `performs`
    them, has still to do to it when it builds. `edits` rebuild the module's structure from what `factory` gives.
    `notes` are what the techniques found out about it (say `{"prune.removed": 0.48}`): plain JSON, stored
    with the trial.
    """

    form: Form
    model: Any
    factory: Factory
    edits: tuple[Edit, ...] = ()
    notes: Mapping[str, JSON] = field(default_factory=dict)
    requests: tuple[Request, ...] = ()


@dataclass(frozen=True, slots=True)
class QuantWants:
    """What int8 must look like for a runtime to run it fast.

    `activations` and `weights` are "uint8" or "int8"; `symmetric_activations` and `symmetric_weights` fix the zero
    point; `per_channel` gives each output channel of a weight a scale of its own; `format` is "qdq" or "operator".
    `reduced` leaves a bit of signed weights unused (−64 to 64), where the kernels would overflow with all eight.
    `biases` are "int32", or stay "float". `operators` "all" quantizes what each operator takes and gives, wherever
    there are kernels; "weighted" only what convolutions and linear layers take, where what follows them is fused.
    `tables` says where the integers of an embedding table become floats: "behind" the rows that a call gathers, or
    "ahead" of gathering, for compilers that take constants in integers in no other place. `dynamic` says how a file has
    activations quantized as they come: by "operators" for it, or by "weights" in integers alone, which the runtime
    multiplies by as they are.
    """

    activations: Literal["uint8", "int8"]
    weights: Literal["uint8", "int8"]
    symmetric_activations: bool
    symmetric_weights: bool
    per_channel: bool
    format: Literal["qdq", "operator"] = "qdq"
    reduced: bool = False
    biases: Literal["int32", "float"] = "int32"
    operators: Literal["all", "weighted"] = "all"
    tables: Literal["behind", "ahead"] = "behind"
    dynamic: Literal["operators", "weights"] = "operators"


@dataclass(frozen=True, slots=True)
class RemoteDevice:
    """Another machine that artifacts are measured on: `address` is what the client `ssh` connects to ("pi@host", or a
    name of its configuration), or the serial number of a device for `adb`.

    `port` is the client's own where None. `python` is the interpreter over there, `folder` where optlang keeps its
    files there ("" is the usual one). `reconnect` are the seconds for which a lost connection is tried again.
    """

    kind: Literal["ssh", "adb"]
    address: str
    port: int | None = None
    python: str = "python3"
    folder: str = ""
    reconnect: float = 120.0

    def __str__(self) -> str:
        port = "" if self.port is None else f", port = {self.port}"
        return f'{self.kind}("{self.address}"{port})'

    def identity(self) -> dict[str, JSON]:
        """Which machine it is, and what runs there: without how long a connection is waited for."""
        return {name: value for name, value in asdict(self).items() if name != "reconnect"}


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """Where a trial is measured: the device, threads and batch size of one target, all knobs decided.

    `remote` is the other machine whose `device` it is, None for this one. `dynamic` are the axes that are open
    besides those whose sizes differ in the data, `shape` the sizes to time with, as studies write both (see
    plan/axes.py).
    """

    name: str
    device: str = "cpu"
    threads: int = 1
    batch: int = 1
    dynamic: tuple[str, ...] = ()
    shape: tuple[str, ...] = ()
    remote: RemoteDevice | None = None

    @property
    def place(self) -> str:
        """Where it is, as a study writes it: `cpu`, or `ssh("pi@raspberrypi.local")`."""
        return self.device if self.remote is None else str(self.remote)

    def facts(self) -> dict[str, JSON]:
        """The same as plain JSON, without what a study need not say and does not."""
        found = asdict(self)
        if self.remote is not None:
            found["remote"] = self.remote.identity()
        return {name: value for name, value in found.items() if value or name not in ("dynamic", "shape", "remote")}


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file of an artifact: its name inside the artifact's folder, its size in bytes and its SHA-256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a runtime loads: the files in `folder`, and what is needed to open them.

    `files` are all files that the runtime must load (they are what `size` counts); `format` names their kind
    ("onnx", "safetensors"). `inputs` and `outputs` are the names the session takes and gives, in order. `about` is
    plain JSON for the runtime's own `open` (for eager: the factory and the edits).
    """

    folder: Path
    format: str
    files: tuple[ArtifactFile, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    about: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def fixed_batch(self) -> int | None:
        """The number of samples that it takes in each call, by `about["batch"]`; None where it takes any."""
        batch = self.about.get("batch")
        return batch if isinstance(batch, int) and batch > 0 else None


class Session(Protocol):
    """An open artifact. Only `run` is timed: `prepare` and `collect` move data between numpy and the runtime.

    A session whose calls another clock times better than this process's own (a browser's, a GPU's) also has
    `durations(prepared, seconds, calls, skip) -> list[int]`: the nanoseconds of each call, as long as `seconds` in all
    and at least `calls` of them, after `skip` calls that do not count. One that runs in another process also has
    `memory() -> int | None`, the most bytes that process has held, and `loaded`, the seconds that the model took to
    load in it without the start of the process. One that compiles the model before its first call has `compiled`, the
    seconds that took, which are no part of the load time.
    """

    def prepare(self, batch: Arrays) -> Any:
        """Turn arrays by input name, first axis the batch, into what `run` takes."""

    def run(self, prepared: Any) -> Any:
        """Run the model once and wait until it has finished."""

    def collect(self, result: Any) -> dict[str, numpy.ndarray[Any, Any]]:
        """Turn what `run` gave into arrays by output name."""

    def close(self) -> None:
        """Release what the runtime holds."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number with its unit ("s", "B", "ratio", "count", ""), its 95 % interval and the number of samples behind it.

    `baseline` is the baseline's own value in this very measurement (its seconds in the rounds next to the trial's, its
    accuracy on the same samples at the same samples a call); None where nothing was measured of it. `ratio` compares
    with it: how many times better the trial is, `baseline / value` where less is better and `value / baseline` where
    more is, exactly; None where it has no meaning.
    """

    metric: str
    value: float
    unit: str
    n: int
    low: float
    high: float
    target: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    baseline: float | None = None


Report = Callable[[Mapping[str, JSON]], None]


Memo = Callable[[str, JSON, Callable[[], JSON]], JSON]

Resume: TypeAlias = "Callable[[Callable[[], Mapping[str, Any]]], Mapping[str, Any] | None]"


def _silent(_: Mapping[str, JSON]) -> None:
    return None


def _computed(_name: str, _about: JSON, compute: Callable[[], JSON]) -> JSON:
    return compute()


def _begins(_state: Callable[[], Mapping[str, Any]]) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Context:
    """What a technique may use besides the state and its settings.

    `wants` is given only to techniques that declare `needs runtime`; `performed` says that the trial's runtime finishes
    the technique when it builds: what is to be left for it is a state in the form "graph" with a request. `report`
    takes a mapping at each epoch's end (`{"epoch": 2, "epochs": 5, "loss": 0.31}`, with `metric` and `value` where
    'validation' was looked at, and `"last": True` where the training ends before its `epochs`), which is kept as the
    step's learning curve, and may raise to stop or pause the step: what it raises then is no `Exception`. `folder` is
    an empty folder for files of the result. `study` is the study's folder, where the user's own Python and files lie.

    `baseline` gives the reference model as a module, after the baseline's steps: only to techniques that declare
    `needs baseline`. `latency` gives the seconds (median) that a state takes for one call of the target's batch,
    built for the trial's runtime and measured in a process of its own, and `batch` is that batch: both only to those
    that declare `needs latency`.
    `score(module)` gives the metrics that the study judges trials by, on a part of 'validation', for a module in
    training: they are reported as `scores` at the epoch's end. None where nothing asks for them.
    `resume(state)` lets a training pause at an epoch's end, in `report`, and go on later, in another process: it is
    called before the first epoch, after the process's random numbers were seeded. `state()` is called where it pauses
    and returns all that the training needs to go on after that epoch, in tensors, numbers, texts, None, and lists,
    tuples and dictionaries of these; the random numbers of Python, numpy and torch are kept without it. `resume`
    returns what `state()` had returned, to go on with the next epoch, or None: begin. A training that does not call it
    is never paused.
    `memo(name, about, compute)` gives what `compute` returns, computed once for this state, these data, this seed
    and `about` (plain JSON), however often and with whatever other settings the step runs: for scores that another
    budget can use again.
    """

    data: Dataset
    seed: int
    folder: Path
    study: Path
    wants: QuantWants | None = None
    device: str = "cpu"
    report: Report = _silent
    baseline: Callable[[], ModelState] | None = None
    latency: Callable[[ModelState], float] | None = None
    batch: int | None = None
    memo: Memo = _computed
    performed: bool = False
    score: Callable[[Any], Mapping[str, float]] | None = None
    resume: Resume = _begins


class Technique(Protocol):
    """The object that a technique's `calls` names. It never changes `state`, and fails where it would do nothing."""

    def __call__(self, state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
        """Apply the technique; raise `Refusal` with the layer's name where that cannot be done."""


class Runtime(Protocol):
    """The object that a runtime's `calls` names; facts about it are in its declaration, which also checks its settings.

    A runtime that builds for hardware that may be missing here also has `runs() -> str | None`: None where its
    artifacts can be opened and run on this machine, else the reason. Of a trial on such a runtime its size is measured.
    One for several devices of targets has `missing(device, settings) -> str | None` too: None where what it builds for
    such a device runs on this machine, else what is missing; as cheap as `available`.
    `imports`, where a runtime has it, lists the modules that are imported before `open`: the load time is the model's.
    """

    def available(self) -> str | None:
        """None where it can build here, else what to install or which hardware is missing; cheap, imports nothing."""

    def wants(self) -> QuantWants:
        """What an int8 model must look like to be fast here."""

    def build(
        self, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset,
        study: Path,
    ) -> Artifact:
        """Write the artifact's files into the empty `folder`; raise `Refusal` where the model cannot be exported."""

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """Load the artifact with the target's threads, ready to run."""
