"""The engine on a Ray cluster of two nodes, which are real ones on this machine: each has a raylet of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from optlang.plan.model import Ray
from optlang.run.engine import MEASURE, WorkerDied
from optlang.run.ray_engine import RayEngine
from optlang.run.scratch import Scratch
from tests.run.engine_contract import LONG, NOTE, EngineContract, die, double, hang, own_pid

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

RESOURCES = {"optlang_target_board": 1}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # The nodes' Python finds the tests.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **_SMALL})
        made.add_node(num_cpus=1, resources=RESOURCES, **_SMALL)
        yield made
        made.shutdown()


_SMALL = {"object_store_memory": 80 * 1024**2}


class _Opened:
    """An engine for a study with a note in its folder."""

    def __init__(self, cluster: Any, folder: Path, **settings: Any) -> None:
        self.study, home = folder / "study", folder / "home"
        self.study.mkdir()
        (self.study / NOTE).write_text("of the study")
        home.mkdir()
        self.scratch = Scratch(home)
        targets = settings.pop("targets", ["here"])
        self.engine = RayEngine(
            self.study, home, self.scratch.session, Ray(address=cluster.address, **settings.pop("ray", {})), targets,
            **settings,
        )

    def close(self) -> None:
        self.engine.close()
        self.scratch.close()


@pytest.fixture(scope="module")
def opened(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Opened]:
    with closing(_Opened(cluster, tmp_path_factory.mktemp("ray"))) as made:
        yield made


class TestRayEngine(EngineContract):
    @pytest.fixture
    def engine(self, opened: _Opened) -> RayEngine:
        return opened.engine
