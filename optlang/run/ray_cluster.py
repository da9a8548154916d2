"""A Ray cluster as a study meets it: how it is joined, which node measures, and how many trainers its nodes have room
for.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optlang.interfaces import OutsideError
from optlang.plan.model import Ray
from optlang.plan.quantities import quantity
from optlang.workload import process_state

RESOURCE = "optlang_target_"
"""What the names of the resources begin with that say what is measured on a node."""

LIMIT = 512 * 1024**2
"""The bytes that Ray sends of a folder to the nodes, unless the variable `LIMITED_BY` says otherwise."""

LIMITED_BY = "RAY_max_grpc_message_size"

LEFT_OUT = (".git", ".venv", "venv", "__pycache__")
"""What Ray leaves out of it."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster that is alive: its id, its address, and what it has, by Ray's names."""

    id: str
    address: str
    resources: Mapping[str, float]

    def room(self, settings: Ray) -> int:
        """How many trainers it has room for."""
        most = int(self.resources.get("CPU", 0.0) / settings.cpus)
        if settings.gpus:
            most = min(most, int(self.resources.get("GPU", 0.0) / settings.gpus))
        return most if settings.per_node is None else min(most, settings.per_node)


def installed() -> Any:
    """The module of Ray; OutsideError where it is not there."""
    try:
        import ray
    except ImportError as error:
        raise OutsideError("`workers = ray` needs Ray", help='pip install "optlang-dsl[ray]"') from error
    return ray


def join(address: str, folder: Path, own: Sequence[Path]) -> None:
    """Make this process one of the cluster, with the study's `folder` for all nodes; `own` are files of optlang's that
    may lie in it and stay here.

    Raises OutsideError where there is no such cluster, or where the folder is too large.
    """
    ray = installed()
    excludes = [f"/{path.relative_to(folder)}" for path in own if path.is_relative_to(folder)]
    _check_size(folder, excludes)
    logger = logging.getLogger("ray")
    level = logger.level
    # It warns of every file of more than 10 MB.
    logger.setLevel(logging.ERROR)
    try:
        # Data and weights are often left out of the repository, and not of the study.
        with _own_signals(), process_state.environment(RAY_RUNTIME_ENV_IGNORE_GITIGNORE="1"):
            ray.init(
                address=address, runtime_env={"working_dir": str(folder), "excludes": excludes}, log_to_driver=False,
                configure_logging=False,
            )
    except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, ConnectionError):
            raise OutsideError(
                f"there is no Ray cluster at `{address}`: {text}",
                help="start one with `ray start --head`, or remove `workers = ray` (--workers 1 does for one run)",
            ) from error
        raise OutsideError(f"Ray does not take the study: {text}") from error
    finally:
        logger.setLevel(level)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray has SIGTERM end the process at once: what a signal does stays the run's matter."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_size(folder: Path, excludes: Sequence[str]) -> None:
    """OutsideError where the folder is larger than what Ray sends. With a `.rayignore` Ray itself says so."""
    limit = int(os.environ.get(LIMITED_BY, LIMIT))
    if (folder / ".rayignore").exists():
        return
    left_out = {*LEFT_OUT, *(name.strip("/") for name in excludes)}
    sizes: dict[str, int] = {}
    for path, names, files in os.walk(folder):
        inside = Path(path).relative_to(folder)
        names[:] = [name for name in names if not _matches(inside / name, left_out)]
        for name in files:
            if _matches(inside / name, left_out):
                continue
            first = (inside / name).parts[0]
            sizes[first] = sizes.get(first, 0) + (Path(path) / name).lstat().st_size
    if sum(sizes.values()) > limit:
        largest = max(sizes, key=sizes.__getitem__)
        raise OutsideError(
            f"the study's folder {folder} has {quantity(sum(sizes.values()), 'B')}, and Ray sends "
            f"{quantity(limit, 'B')} to the nodes at most (most of it: {largest}, {quantity(sizes[largest], 'B')})",
            help="keep large data at a path that all machines have, or list what the study does not need in a file "
            ".rayignore in this folder",
        )


def _matches(path: Path, left_out: set[str]) -> bool:
    return path.name in LEFT_OUT or any(fnmatch.fnmatch(str(path), name) for name in left_out)


def nodes() -> list[Node]:
    """Those that are alive."""
    ray = installed()
    return [
        Node(item["NodeID"], item["NodeManagerAddress"], item["Resources"]) for item in ray.nodes() if item["Alive"]
    ]


def measuring(found: Sequence[Node], driver: str, targets: Sequence[str]) -> list[Node]:
    """The nodes that may measure all targets: those with their resources, or else the driver's.

    Raises OutsideError where no node has them all.
    """
    names = {target: f"{RESOURCE}{target}" for target in targets}
    having = {target: [node for node in found if node.resources.get(name)] for target, name in names.items()}
    if not any(having.values()):
        return [node for node in found if node.id == driver]
    all_of_them = [
        node for node in found
        if all(node in having[target] if having[target] else node.id == driver for target in targets)
    ]
    if not all_of_them:
        said = "; ".join(
            f"`{names[target]}`: {', '.join(node.address for node in having[target]) or 'none, so the driver alone'}"
            for target in targets
        )
        raise OutsideError(
            f"no node can measure all targets of the study ({said})",
            help="one node measures them all: start it with all of these resources, or make a study of each target",
        )
    return all_of_them


def placed(found: Sequence[Node], measures: Node, settings: Ray) -> list[Node]:
    """The node of each trainer, by lane: as evenly as there is room, those that do not measure first.

    Raises OutsideError where there is room for none.
    """
    ordered = sorted(found, key=lambda node: node.id == measures.id)
    rooms = {node.id: node.room(settings) for node in ordered}
    lanes = [node for turn in range(max(rooms.values(), default=0)) for node in ordered if rooms[node.id] > turn]
    if not lanes:
        has = "; ".join(
            f"{node.address}: {node.resources.get('CPU', 0):g} cores, {node.resources.get('GPU', 0):g} GPUs"
            for node in found
        )
        raise OutsideError(
            f"no node of the cluster has the {settings.cpus} cores and {settings.gpus:g} GPUs of a trainer ({has})",
            help="set smaller `cpus` and `gpus` in workers = ray { }",
        )
    return lanes[:settings.most]
