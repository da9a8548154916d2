"""torch.compile on the CPU: the module as it is, compiled by Inductor when it is loaded."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.forms import Artifact, OptlangError, Refusal, Session, Subject, TargetSpec
from optlang.runtimes.eager import Eager, Open

if TYPE_CHECKING:
    from optlang.workload.data import Data

# torch's "reduce-overhead" is left out: all it sets is CUDA graphs, and on the CPU it changes nothing.
_MODES = {"default": "default", "max_autotune": "max-autotune-no-cudagraphs"}


class Inductor(Eager):
    """The artifact is eager's, made anew from its factory; `open` compiles it (Ansel et al., 2024).

    `settings["mode"]` is torch.compile's ("max_autotune" times several kernels for each product of matrices);
    `settings["dynamic"]` compiles one program for any number of samples, otherwise it is for the target's batch alone
    and other numbers are cut into such. The whole of forward must compile: what torch would leave to Python in silence
    is refused. Compilation is measured apart, as `compile_time`: half a minute the first time on a machine and seconds
    later; what was compiled before is found again in torch's own folder of the system's temporary one
    (TORCHINDUCTOR_CACHE_DIR names another).
    """

    name: ClassVar[str] = "inductor"
    imports: ClassVar[tuple[str, ...]] = (*Eager.imports, "torch._dynamo", "torch._inductor.compile_fx")
    """What `open` needs in memory first, so that the load time is the model's and not the library's."""

    def available(self) -> str | None:
        """None where torch, a C++ compiler and Python's headers are installed."""
        import sysconfig

        from optlang.runtimes.compiler import missing

        header = Path(sysconfig.get_path("include")) / "Python.h"
        return missing() or (
            None if header.is_file() else f"Python's headers are not here ({header}): apt install python3-dev, or alike"
        )

    def build(
        self, subject: Subject, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Data, study: Path
    ) -> Artifact:
        """Write eager's file; what inputs look like goes into `about`, for `open` to compile for them."""
        artifact = super().build(subject, target, settings, folder, data, study)
        from optlang.workload.tensors import describe

        mode, dynamic = str(settings.get("mode", "default")), bool(settings.get("dynamic", False))
        if mode not in _MODES:
            raise OptlangError(f"inductor has no mode '{mode}'", help=f"one of {', '.join(_MODES)}")
        about = {
            **artifact.about, "mode": mode, "dynamic": dynamic, "example": describe(data.example(target.batch)),
            "batch": None if dynamic else target.batch,
        }
        return dataclasses.replace(artifact, about=about)

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """The module on `target.threads` threads, compiled for the target's batch. Raises `Refusal` where it cannot."""
        import torch

        from optlang.runtimes.compiler import quiet
        from optlang.workload import objects, tensors

        session = super().open(artifact, target, settings, study)
        assert isinstance(session, Open)
        about: Mapping[str, Any] = artifact.about
        given = {name: item.numpy() for name, item in tensors.imagined(about["example"]).items()}
        prepared = session.prepare(given)
        with objects.user_code("running the model", study):
            session.run(prepared)
        session.call = torch.compile(
            session.call, mode=_MODES[about["mode"]], dynamic=about["dynamic"], fullgraph=True
        )
        start = time.perf_counter()
        try:
            with quiet(), torch._inductor.config.patch(compile_threads=1):
                session.run(prepared)
        except Exception as error:
            session.close()
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise Refusal(
                f"torch.compile does not take the whole of forward: {lines[0] if lines else type(error).__name__}",
                help="write that part of forward with torch's own operators, or keep to the runtime eager",
            ) from error
        session.compiled = time.perf_counter() - start
        return session
