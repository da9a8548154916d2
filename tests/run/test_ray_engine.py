"""The engine on a Ray cluster of two nodes, which are real ones on this machine: each has a raylet of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from optlang.interfaces import OutsideError
from optlang.plan.model import Ray
from optlang.run.engine import MEASURE, Engine, WorkerDied
from optlang.run.ray_engine import RayEngine
from optlang.run.ray_node import Post
from optlang.run.scratch import Scratch
from optlang.store.reader import query
from tests.command_line import ROOT, command, environment, optlang
from tests.run.engine_contract import LONG, NOTE, EngineContract, die, hang
from tests.run.test_study import PARTS, PYTHON

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

SMALL = {"num_cpus": 1, "object_store_memory": 80 * 1024**2}
MEASURES = {"optlang_target_board": 1}

STUDY = """\
optlang 1

import parts
import python "parts.py" as own

study small "a small study" {
  model net = zoo.digits_cnn(width = 4)
  data seen = own.noise()
  target here { device = cpu; runtime = onnxruntime }
  steps { parts.nap { number in 1 .. 3; tenths = TENTHS }; finetune { epochs = 3; lr = 1e-2; batch = 16 } }
  maximize accuracy
  minimize size
  measure { rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 2ms; round_calls = 5 }
  search { trials = 3; seed = 1; sampler = grid; ladder = false; MORE }
}
"""


class Nodes:
    """The cluster: its head, where drivers are, and another node that measures `board`."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **SMALL})
        self.address: str = self.cluster.address
        self.other: Any = None
        self.have_other()

    def have_other(self) -> None:
        """Have the other node again, where a test has killed it."""
        if self.other is None:
            self.other = self.cluster.add_node(resources=MEASURES, **SMALL)
            self.cluster.wait_for_nodes()

    def kill_other(self) -> None:
        """It is gone at once, with all that runs there."""
        self.cluster.remove_node(self.other, allow_graceful=False)
        self.other = None


@pytest.fixture(scope="module")
def all_nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        # The nodes' Python finds the tests.
        patch.setenv("PYTHONPATH", str(ROOT))
        made = Nodes()
        yield made
        made.cluster.shutdown()


@pytest.fixture
def nodes(all_nodes: Nodes) -> Nodes:
    all_nodes.have_other()
    return all_nodes


class Opened:
    """An engine for a study with a note in its folder."""

    def __init__(self, nodes: Nodes, folder: Path, targets: tuple[str, ...] = ("here",)) -> None:
        study, home = folder / "study", folder / "home"
        study.mkdir()
        (study / NOTE).write_text("of the study")
        (study / ".gitignore").write_text(NOTE)
        home.mkdir()
        self.scratch = Scratch(home)
        self.engine = RayEngine(study, home, self.scratch.session, Ray(address=nodes.address), targets)

    def close(self) -> None:
        self.engine.close()
        self.scratch.close()


@pytest.fixture(scope="class")
def one_engine(all_nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayEngine]:
    with closing(Opened(all_nodes, tmp_path_factory.mktemp("ray"))) as opened:
        yield opened.engine


class TestRayEngine(EngineContract):
    @pytest.fixture
    def engine(self, one_engine: RayEngine) -> RayEngine:
        return one_engine


def raylet(_: None) -> int:
    """The process of the node that this one's actor is on."""
    return psutil.Process(os.getppid()).ppid()


def second_time(path: str) -> str:
    """Hangs when it is called for the first time."""
    with Path(path).open("a") as file:
        file.write("begun\n")
    if len(Path(path).read_text().splitlines()) == 1:
        hang(0)
    return "done"


def lane_on(engine: Engine, node: Any) -> int:
    return next(lane for lane in range(engine.lanes) if engine.submit(raylet, None, lane).result(LONG) == pid(node))


def pid(node: Any) -> int:
    (found,) = node.all_processes["raylet"]
    return int(found.process.pid)


def test_what_is_lost_with_a_node_is_tried_again_on_another(nodes: Nodes, tmp_path: Path) -> None:
    with closing(Opened(nodes, tmp_path)) as opened:
        engine = opened.engine
        lane = lane_on(engine, nodes.other)
        future = engine.submit(second_time, str(tmp_path / "begun"), lane)
        until(lambda: (tmp_path / "begun").exists())
        nodes.kill_other()
        assert future.result(LONG) == "done"
        assert any("tried again" in str(item.get("again")) for item in engine.activities(lane))
        assert engine.submit(raylet, None, lane).result(LONG) == pid(nodes.cluster.head_node)


def test_what_has_the_targets_resource_measures(nodes: Nodes, tmp_path: Path) -> None:
    with closing(Opened(nodes, tmp_path, ("board",))) as opened:
        assert opened.engine.submit(raylet, None, MEASURE).result(LONG) == pid(nodes.other)
        lost = opened.engine.submit(second_time, str(tmp_path / "begun"), MEASURE)
        until(lambda: (tmp_path / "begun").exists())
        nodes.kill_other()
        # No other node has the resource, and the driver's must not measure in its place.
        with pytest.raises(OutsideError, match="no machine of the Ray cluster is left that measures"):
            lost.result(LONG)


def test_a_worker_that_dies_twice_is_named_twice(nodes: Nodes, tmp_path: Path) -> None:
    with closing(Opened(nodes, tmp_path)) as opened, pytest.raises(WorkerDied, match=r"SIGKILL.*before that.*SIGKILL"):
        opened.engine.submit(die, 9).result(LONG)


def test_a_driver_that_is_killed_leaves_nothing(nodes: Nodes, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from optlang.plan.model import Ray
        from optlang.run.ray_engine import RayEngine
        from tests.run.engine_contract import hang, own_pid

        study, home, address = sys.argv[1:]
        engine = RayEngine(Path(study), Path(home), "session", Ray(address=address), ["here"])
        print(engine.submit(own_pid, 0).result(), flush=True)
        engine.submit(hang, 0)
        time.sleep(60)
    """))
    (tmp_path / "study").mkdir()
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "study"), str(tmp_path / "home"), nodes.address],
        stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT,
    ) as driver:
        assert driver.stdout is not None
        worker = psutil.Process(int(driver.stdout.readline()))
        seat = worker.parent()
        driver.kill()
        driver.wait()
    until(lambda: not worker.is_running() and not (seat is not None and seat.is_running()))


def test_a_study_trains_on_two_nodes_as_on_one_and_survives_one(nodes: Nodes, tmp_path: Path) -> None:
    local, far = written(tmp_path / "local", "workers = 1"), written(tmp_path / "far", "workers = ray", tenths=15)
    with subprocess.Popen(
        command("run", "small.opt", "--progress", "plain"), cwd=far, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**environment(), "RAY_ADDRESS": nodes.address}, text=True,
    ) as run:
        until(lambda: begun(far) >= 3)
        nodes.kill_other()
        assert run.stderr is not None
        said = run.stderr.read()
    assert run.returncode == 0, said
    assert "is tried again on" in said
    assert trials(far) == [(number, "complete") for number in range(4)]
    done = optlang(local, "run", "small.opt", "--progress", "plain")
    assert done.returncode == 0, done.stderr
    found, expected = trained(far), trained(local)
    assert {number: accuracy for number, (accuracy, _) in found.items()} == {
        number: accuracy for number, (accuracy, _) in expected.items()
    }
    # The threads of a training differ, and with them the last digits of its sums.
    for number, (_, loss) in found.items():
        assert loss == pytest.approx(expected[number][1], rel=1e-5)


def test_where_machines_share_no_folder_results_travel(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optlang.analysis.load import load
    from optlang.run import study

    folder = written(tmp_path / "far", f'workers = ray {{ address = "{nodes.address}" }}')

    def engine_of(plan: Any, folder: Path, home: Path, scratch: Scratch, db: Path) -> Engine:
        return RayEngine(folder, home, scratch.session, plan.search.ray, ["board"], [db], shares=nowhere)

    class Quiet:
        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_: None

    monkeypatch.setattr(study, "engine_of", engine_of)
    path = folder / "small.opt"
    text = path.read_text()
    plan = load(path).plan
    assert plan is not None
    study.run(plan, text, path, folder / "optlang.duckdb", study.Options(), Quiet())  # type: ignore[arg-type]
    assert trials(folder) == [(number, "complete") for number in range(4)]
    computed = query("SELECT count(*) FROM steps WHERE NOT cached AND technique = 'training.finetune'", [
        folder / "optlang.duckdb"
    ])
    assert computed.rows[0][0] == 3
    for number in range(1, 4):
        assert list((folder / ".optlang" / "artifacts").rglob("*.onnx")), number


def nowhere(_: Post) -> bool:
    return False


def written(folder: Path, more: str, tenths: int = 0) -> Path:
    folder.mkdir()
    (folder / "parts.opt").write_text(PARTS)
    (folder / "parts.py").write_text(PYTHON)
    (folder / "small.opt").write_text(STUDY.replace("TENTHS", str(tenths)).replace("MORE", more))
    return folder


def begun(folder: Path) -> int:
    """How many trials have begun, the baseline among them."""
    journal = folder / "optlang.duckdb.journal"
    lines = journal.read_text().splitlines() if journal.exists() else []
    return sum(json.loads(line).get("event") == "start" for line in lines if line.endswith("}"))


def trials(folder: Path) -> list[tuple[object, ...]]:
    return [tuple(row) for row in query("SELECT trial, state FROM trials ORDER BY trial", [
        folder / "optlang.duckdb"
    ]).rows]


def trained(folder: Path) -> dict[int, tuple[float, float]]:
    """The accuracy and the loss by the point."""
    rows = query("SELECT number, accuracy, loss FROM results WHERE trial > 0", [folder / "optlang.duckdb"]).rows
    return {int(number): (float(accuracy), float(loss)) for number, accuracy, loss in rows}  # type: ignore[arg-type]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 3 * LONG
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
