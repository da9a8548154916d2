"""The session of a TensorRT engine: its memory on the GPU, its shapes and its clock.

`module` is `tensorrt` or `tensorrt_rtx`: the same calls, but for what is said where they differ.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optlang.interfaces import Array, Arrays, OptlangError, OutsideError, Refusal
from optlang.runtimes.tensorrt.cuda import Stream


def listener(module: Any, lines: list[str]) -> Any:
    """A logger of the library's own kind that keeps errors in `lines` and prints nothing."""
    severity = module.ILogger.Severity

    class Kept(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, level: Any, message: str) -> None:
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                lines.append(message)

    return Kept()


class TensorRTSession:
    """One engine on the GPU. A call is done when the GPU has finished it.

    Each number of samples has an execution context of its own, so that a captured graph stays true to its shapes. With
    `graph` what a call puts on the stream is captured at the second call on the same inputs and replayed from then on;
    TensorRT-RTX does that itself. More samples than the profile takes are answered in several calls.
    """

    def __init__(self, module: Any, file: Path, outputs: tuple[str, ...], most: int | None, *, graph: bool) -> None:
        self._lines: list[str] = []
        self._module, self._outputs, self._most = module, outputs, most
        self._logger = listener(module, self._lines)
        self._stream = Stream()
        self._runtime = module.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if engine is None:
            raise Refusal(
                f"{module.__name__} {module.__version__} does not load the engine: {self._last()}",
                help="an engine is for the version and the GPUs that it was built with: build it again here",
            )
        self._engine = engine
        inputs = module.TensorIOMode.INPUT
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._inputs = tuple(name for name in names if engine.get_tensor_mode(name) == inputs)
        self._types = {name: module.nptype(engine.get_tensor_dtype(name)) for name in names}
        self._config = self._configured(graph)
        self._capture = graph and self._config is None
        self._contexts: dict[tuple[tuple[int, ...], ...], _Context] = {}

    def _configured(self, graph: bool) -> Any:
        """What TensorRT-RTX does when it compiles an engine's kernels for the GPU; None for TensorRT."""
        module = self._module
        if not hasattr(module, "DynamicShapesKernelSpecializationStrategy"):
            return None
        config = self._engine.create_runtime_config()
        # Left to itself it compiles in the background, and the first calls run on slower kernels.
        config.dynamic_shapes_kernel_specialization_strategy = module.DynamicShapesKernelSpecializationStrategy.EAGER
        strategies = module.CudaGraphStrategy
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if graph else strategies.DISABLED
        return config

    def _last(self) -> str:
        return self._lines[-1].splitlines()[0] if self._lines else "it gives no reason"

    def _context(self, shapes: dict[str, tuple[int, ...]]) -> _Context:
        key = tuple(shapes[name] for name in self._inputs)
        if key not in self._contexts:
            engine = self._engine
            made = engine.create_execution_context() if self._config is None else engine.create_execution_context(
                self._config
            )
            if made is None:
                raise OutsideError(f"the GPU has too little memory to run the model: {self._last()}")
            for name, shape in shapes.items():
                if not made.set_input_shape(name, shape):
                    raise Refusal(f"the engine does not take the input {name} with the shape {shape}: {self._last()}")
            self._contexts[key] = _Context(made)
        return self._contexts[key]

    def prepare(self, batch: Arrays) -> tuple[_Part, ...]:
        """The inputs on the GPU, and room for the outputs there."""
        import numpy

        arrays = {name: numpy.ascontiguousarray(batch[name], dtype=self._types[name]) for name in self._inputs}
        count = len(next(iter(arrays.values())))
        step = self._most or count
        return tuple(
            self._part({name: item[start : start + step] for name, item in arrays.items()})
            for start in range(0, count, step)
        )

    def _part(self, arrays: dict[str, Array]) -> _Part:
        import numpy

        context = self._context({name: item.shape for name, item in arrays.items()})
        part = _Part(context)
        for name, item in arrays.items():
            part.addresses[name] = self._stream.allocate(item.nbytes, part)
            self._stream.upload(item, part.addresses[name])
        for name in self._outputs:
            shape = tuple(context.made.get_tensor_shape(name))
            if min(shape, default=0) < 0:
                raise Refusal(f"the shape of the output {name} depends on the values of the inputs: {shape}")
            part.answers[name] = numpy.empty(shape, dtype=self._types[name])
            part.addresses[name] = self._stream.allocate(part.answers[name].nbytes, part)
        return part

    def run(self, prepared: Sequence[_Part]) -> Sequence[_Part]:
        """One call, until the GPU has finished it."""
        for part in prepared:
            self._enqueue(part)
        self._stream.wait()
        return prepared

    def _enqueue(self, part: _Part) -> None:
        if part.graph is None and self._capture and part.called:
            # TensorRT wants one call before it is captured.
            try:
                part.graph = self._stream.captured(lambda: self._execute(part), part)
            except OutsideError as error:
                raise Refusal(
                    f"what the engine does cannot be captured as a CUDA graph: {error.message}",
                    help="cuda_graph = false calls it without",
                ) from error
        if part.graph is not None:
            self._stream.launch(part.graph)
        else:
            self._execute(part)
        part.called = True

    def _execute(self, part: _Part) -> None:
        context = part.context
        if context.bound is not part:
            for name, address in part.addresses.items():
                context.made.set_tensor_address(name, address)
            context.bound = part
        if not context.made.execute_async_v3(self._stream.number):
            raise OptlangError(f"the engine failed: {self._last()}")

    def durations(self, prepared: Sequence[_Part], seconds: float, calls: int, skip: int) -> list[int]:
        """Nanoseconds of each call by the GPU's clock: what it does itself, without the way there from Python."""
        for _ in range(skip):
            self.run(prepared)
        found: list[int] = []
        left = int(seconds * 1e9)
        while left > 0 or len(found) < calls:
            took = sum(self._stream.timed(functools.partial(self._enqueue, part)) for part in prepared)
            found.append(took)
            left -= took
        return found

    def collect(self, result: Sequence[_Part]) -> dict[str, Array]:
        """The answers, on the host."""
        import numpy

        for part in result:
            for name, array in part.answers.items():
                self._stream.download(part.addresses[name], array)
        return {name: numpy.concatenate([part.answers[name] for part in result]) for name in self._outputs}

    def close(self) -> None:
        """Let the engine and its memory go."""
        self._contexts.clear()
        del self._config, self._engine, self._runtime
        self._stream.close()


class _Context:
    """An execution context, and whose addresses it holds."""

    def __init__(self, made: Any) -> None:
        self.made = made
        self.bound: _Part | None = None


class _Part:
    """Inputs and outputs of one call on the GPU: their addresses, freed when this goes, and room for the answers."""

    def __init__(self, context: _Context) -> None:
        self.context = context
        self.addresses: dict[str, int] = {}
        self.answers: dict[str, Array] = {}
        self.graph: Any = None
        self.called = False
