"""A CUDA stream, its memory, events and graphs, through cuda-bindings: a hundredth of what loading torch takes."""

from __future__ import annotations

import importlib.util
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optlang.interfaces import Array, OutsideError


def missing() -> str | None:
    """None where cuda-bindings is installed, else what to install. Imports nothing."""
    spec = importlib.util.find_spec("cuda")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    there = any(Path(place, "bindings", "__init__.py").is_file() for place in places)
    return None if there else 'pip install "cuda-bindings>=12.8,<14"'


class Stream:
    """A stream of the first GPU that this process sees. Every failure of CUDA's is an `OutsideError`."""

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._runtime = runtime
        self.call("cudaSetDevice", 0)
        self.handle = self.call("cudaStreamCreate")
        self._start, self._end = self.call("cudaEventCreate"), self.call("cudaEventCreate")

    def call(self, name: str, *arguments: Any) -> Any:
        """What CUDA's function of this name gives besides its status."""
        status, *values = getattr(self._runtime, name)(*arguments)
        if status != self._runtime.cudaError_t.cudaSuccess:
            text = self._runtime.cudaGetErrorString(status)[1]
            raise OutsideError(f"CUDA's {name} failed: {text.decode() if isinstance(text, bytes) else text}")
        return values[0] if values else None

    @property
    def number(self) -> int:
        """The stream as the number by which libraries take it."""
        return int(self.handle)

    def wait(self) -> None:
        """Until everything on the stream has been done."""
        self.call("cudaStreamSynchronize", self.handle)

    def compute(self) -> str:
        """The GPU's compute capability: "sm89"."""
        attributes = self._runtime.cudaDeviceAttr
        major, minor = (
            self.call("cudaDeviceGetAttribute", getattr(attributes, f"cudaDevAttrComputeCapability{part}"), 0)
            for part in ("Major", "Minor")
        )
        return f"sm{major}{minor}"

    def allocate(self, size: int, owner: Any) -> int:
        """The address of `size` bytes on the GPU, free again when `owner` goes."""
        address = int(self.call("cudaMalloc", max(1, size)))
        weakref.finalize(owner, self._runtime.cudaFree, address).atexit = False
        return address

    def upload(self, array: Array, address: int) -> None:
        """Copy a contiguous array to the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.handle)
        self.wait()

    def download(self, address: int, array: Array) -> None:
        """Fill a contiguous array from the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self.handle)
        self.wait()

    def captured(self, work: Callable[[], None], owner: Any) -> Any:
        """What `work` puts on the stream, as a graph to `launch`: nothing runs yet. It goes when `owner` goes."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", self.handle, mode)
        try:
            work()
        finally:
            # Always: a stream that is left capturing takes no other work.
            graph = self.call("cudaStreamEndCapture", self.handle)
        try:
            made = self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self.call("cudaGraphDestroy", graph)
        weakref.finalize(owner, self._runtime.cudaGraphExecDestroy, made).atexit = False
        return made

    def launch(self, graph: Any) -> None:
        """Put a captured graph on the stream."""
        self.call("cudaGraphLaunch", graph, self.handle)

    def timed(self, work: Callable[[], None]) -> int:
        """Nanoseconds from the GPU's own clock, between events before and after what `work` puts on the stream."""
        self.call("cudaEventRecord", self._start, self.handle)
        work()
        self.call("cudaEventRecord", self._end, self.handle)
        self.call("cudaEventSynchronize", self._end)
        milliseconds = float(self.call("cudaEventElapsedTime", self._start, self._end))
        return max(1, round(milliseconds * 1e6))

    def close(self) -> None:
        """Give the stream and its events back."""
        for event in (self._start, self._end):
            self.call("cudaEventDestroy", event)
        self.call("cudaStreamDestroy", self.handle)
